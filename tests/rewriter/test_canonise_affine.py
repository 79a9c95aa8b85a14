"""Scalings of channels go into the weights next to them: which nodes remain, and that the function stays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from onnx import NodeProto, TensorProto
from onnx.helper import make_node

from .nets import floats, net
from .views import agrees, canonical, model_of

C = 6
"""Channels that a scaling works on."""


def batch_norm(x: str = "h", y: str = "y", name: str = "bn", **attributes: Any) -> NodeProto:
    return make_node("BatchNormalization", [x, "gamma", "beta", "mean", "var"], [y], name, **attributes)


def statistics(channels: int = C, seed: int = 7) -> dict[str, np.ndarray]:
    """Far from the identity; a gamma below zero and a tiny variance, next to which epsilon counts."""
    variance = np.abs(floats(channels, seed=seed + 3)) + 0.1
    variance[0] = 1e-5
    return {
        "gamma": floats(channels, seed=seed),
        "beta": floats(channels, seed=seed + 1),
        "mean": floats(channels, seed=seed + 2),
        "var": variance,
    }


CONVS: dict[str, tuple[str, tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "conv": ("Conv", (2, 4, 9, 8), (C, 4, 3, 3), {"pads": [1, 0, 1, 2], "strides": [2, 1]}),
    "conv 1d": ("Conv", (2, 4, 9), (C, 4, 3), {"dilations": [2]}),
    "conv 3d": ("Conv", (1, 2, 4, 5, 4), (C, 2, 2, 3, 1), {}),
    "grouped": ("Conv", (2, 4, 9, 8), (C, 2, 3, 3), {"group": 2, "pads": [1, 1, 1, 1]}),
    "depthwise": ("Conv", (2, C, 9, 8), (C, 1, 3, 3), {"group": C}),
    "depthwise x2": ("Conv", (2, 3, 9, 8), (C, 1, 3, 3), {"group": 3}),
    "same": ("Conv", (2, 4, 9, 8), (C, 4, 3, 3), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    "transposed": ("ConvTranspose", (2, 4, 5, 4), (4, C, 3, 3), {"strides": [2, 2], "output_padding": [1, 0]}),
    "transposed 2": ("ConvTranspose", (2, 4, 5, 4), (4, C // 2, 3, 2), {"group": 2, "strides": [2, 1]}),
    "transposed depthwise": ("ConvTranspose", (2, C, 5, 4), (C, 1, 3, 3), {"group": C, "strides": [2, 2]}),
}  # fmt: skip


def conv_of(case: str, bias: bool, x: str = "x", y: str = "h") -> tuple[NodeProto, dict[str, np.ndarray]]:
    op, _, shape, attributes = CONVS[case]
    weights = {"w": floats(*shape, seed=1)} | ({"b": floats(C, seed=2)} if bias else {})
    return make_node(op, [x, "w", *(["b"] if bias else [])], [y], "conv", **attributes), weights


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("case", CONVS)
def test_batch_norm_behind_a_convolution(case: str, bias: bool) -> None:
    conv, weights = conv_of(case, bias)
    size = CONVS[case][1]
    model = model_of([conv, batch_norm(epsilon=1e-3)], size, weights | statistics())
    seen = agrees(model, {"x": floats(*size)})
    assert seen.ops == [CONVS[case][0]]
    made = seen.node("conv")
    forward = next(node for node in seen.graph.nodes if node.name == "conv")
    assert made.attrs == forward.attrs and "pads" in made.attrs
    assert made.outputs[0].name == "y" and made.inputs[1].shape == list(CONVS[case][2])


@pytest.mark.parametrize("bias", [None, (), (1,), (C,), (1, C), (1, 1)])
@pytest.mark.parametrize("turned", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_batch_norm_behind_a_gemm(turned: tuple[int, int], bias: tuple[int, ...] | None) -> None:
    a, b = turned
    shape, w = ((5, 3) if a else (3, 5)), ((C, 5) if b else (5, C))
    weights = {"w": floats(*w, seed=1)} | ({} if bias is None else {"b": floats(*bias, seed=2)})
    inputs = ["x", "w", *([] if bias is None else ["b"])]
    gemm = make_node("Gemm", inputs, ["h"], "gemm", alpha=0.7, beta=-1.5, transA=a, transB=b)
    model = model_of([gemm, batch_norm()], shape, weights | statistics())
    seen = agrees(model, {"x": floats(*shape)})
    assert seen.ops == ["Gemm"]
    assert (seen.node("gemm").attrs["alpha"], seen.node("gemm").attrs["beta"]) == (pytest.approx(0.7), 1.0)


@pytest.mark.parametrize("bias", [(3, 1), (3, C)])
def test_a_gemm_whose_bias_differs_by_row_stays(bias: tuple[int, ...]) -> None:
    gemm = make_node("Gemm", ["x", "w", "b"], ["h"], "gemm")
    weights = {"w": floats(5, C, seed=1), "b": floats(*bias, seed=2)}
    model = model_of([gemm, batch_norm()], (3, 5), weights | statistics())
    assert agrees(model, {"x": floats(3, 5)}).ops == ["Gemm", "BatchNormalization"]


@pytest.mark.parametrize("size", [(3, 5), (2, 3, 5), (2, 1, 3, 5)])
@pytest.mark.parametrize("shape", [(C,), (1, C), (1,), ()])
@pytest.mark.parametrize("first", [False, True])
def test_a_product_gets_the_bias_behind_it(
    size: tuple[int, ...], shape: tuple[int, ...], first: bool
) -> None:
    add = make_node("Add", ["b", "h"] if first else ["h", "b"], ["y"], "add")
    weights = {"w": floats(5, C, seed=1), "b": floats(*shape, seed=2)}
    model = model_of([make_node("MatMul", ["x", "w"], ["h"], "product"), add], size, weights)
    seen = agrees(model, {"x": floats(*size)})
    assert seen.ops == ["MatMul"]
    made = seen.node("product")
    assert made.inputs[1].name == "w"  # the weight itself, not a copy
    assert made.inputs[2].shape in ([C], (C,))


def test_batch_norm_and_bias_behind_a_product() -> None:
    nodes = [make_node("MatMul", ["x", "w"], ["p"], "product"), make_node("Add", ["p", "b"], ["h"], "add")]
    weights = {"w": floats(5, C, seed=1), "b": floats(C, seed=2)}
    model = model_of([*nodes, batch_norm()], (3, 5), weights | statistics())
    assert agrees(model, {"x": floats(3, 5)}).ops == ["MatMul"]


def test_batch_norm_on_another_axis_than_the_products_channels_stays() -> None:
    model = model_of(
        [make_node("MatMul", ["x", "w"], ["h"], "product"), batch_norm()],
        (2, C, 5),
        {"w": floats(5, C, seed=1)} | statistics(),
    )
    assert agrees(model, {"x": floats(2, C, 5)}).ops == ["MatMul", "BatchNormalization"]


BEFORE = {
    case: (size, weight[1] * attributes.get("group", 1))
    for case, (op, size, weight, attributes) in CONVS.items()
    if op == "Conv"
}


def whole(case: str) -> bool:
    attributes = CONVS[case][3]
    return not any(attributes.get("pads", [0])) and "auto_pad" not in attributes


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("case", BEFORE)
def test_batch_norm_before_a_convolution(case: str, bias: bool) -> None:
    size, channels = BEFORE[case]
    conv, weights = conv_of(case, bias, "h", "y")
    model = model_of([batch_norm("x", "h"), conv], size, weights | statistics(channels))
    seen = agrees(model, {"x": floats(*size)})
    assert seen.ops == (["Conv"] if whole(case) else ["BatchNormalization", "Conv"])


@pytest.mark.parametrize("case", CONVS)
def test_a_factor_before_a_convolution_passes_its_padding(case: str) -> None:
    op, size, shape, attributes = CONVS[case]
    channels = shape[0] if op == "ConvTranspose" else shape[1] * attributes.get("group", 1)
    conv, weights = conv_of(case, True, "h", "y")
    weights["s"] = floats(channels, *[1] * (len(size) - 2), seed=3)
    seen = agrees(model_of([make_node("Mul", ["s", "x"], ["h"]), conv], size, weights), {"x": floats(*size)})
    assert seen.ops == [op]
    assert seen.node("conv").inputs[2].name == "b"


def test_a_shift_before_a_transposed_convolution_stays() -> None:
    """At the border fewer weights take part: the shift is not the same everywhere."""
    conv, weights = conv_of("transposed", False, "h", "y")
    size = CONVS["transposed"][1]
    model = model_of(
        [make_node("Add", ["x", "t"], ["h"]), conv], size, weights | {"t": np.asarray(2, np.float32)}
    )
    assert agrees(model, {"x": floats(*size)}).ops == ["Add", "ConvTranspose"]


@pytest.mark.parametrize("op", ["Gemm", "Gemm turned", "MatMul"])
def test_batch_norm_before_a_product(op: str) -> None:
    turned = int(op == "Gemm turned")
    w = floats(C, 5, seed=1) if turned else floats(5, C, seed=1)
    attributes = {} if op == "MatMul" else {"alpha": 0.5, "beta": 2.0, "transB": turned}
    inputs = ["h", "w"] if op == "MatMul" else ["h", "w", "b"]
    node = make_node(op.split()[0], inputs, ["y"], "product", **attributes)
    weights = {"w": w, "b": floats(C, seed=2)}
    if op == "MatMul":
        del weights["b"]
    model = model_of([batch_norm("x", "h"), node], (3, 5), weights | statistics(5))
    assert agrees(model, {"x": floats(3, 5)}).ops == [op.split()[0]]


def test_a_batch_norm_before_a_turned_first_factor_stays() -> None:
    gemm = make_node("Gemm", ["h", "w"], ["y"], "gemm", transA=1)
    model = model_of([batch_norm("x", "h"), gemm], (5, 3), {"w": floats(5, C, seed=1)} | statistics(3))
    assert agrees(model, {"x": floats(5, 3)}).ops == ["BatchNormalization", "Gemm"]


def chain(*steps: tuple[str, Sequence[str]]) -> list[NodeProto]:
    """Elementwise nodes from h to y; "@" stands for what comes in."""
    names = ["h", *(f"h{i}" for i in range(1, len(steps))), "y"]
    return [
        make_node(op, [names[i] if x == "@" else x for x in inputs], [names[i + 1]], f"step{i}")
        for i, (op, inputs) in enumerate(steps)
    ]


@pytest.mark.parametrize(
    "steps",
    [
        [("Mul", "@s"), ("Add", "@t")],
        [("Mul", "s@"), ("Add", "t@")],
        [("Sub", "@t"), ("Div", "@s")],
        [("Sub", "t@"), ("Mul", "@s")],
        [("Add", "@k"), ("Mul", "k@"), ("Sub", "k@"), ("Div", "@k")],
    ],
)
@pytest.mark.parametrize("case", ["conv", "grouped", "transposed 2"])
def test_scale_layers_collapse(case: str, steps: list[tuple[str, str]]) -> None:
    """Batch normalisation with its scale in nodes of their own, as Caffe writes it, and other arithmetic."""
    conv, weights = conv_of(case, True, y="g")
    weights |= statistics() | {"s": floats(C, 1, 1, seed=5), "t": floats(1, C, 1, 1, seed=6)}
    weights["k"] = np.asarray([1.5], np.float32)
    nodes = [conv, batch_norm("g", "h"), *chain(*steps)]
    seen = agrees(model_of(nodes, CONVS[case][1], weights), {"x": floats(*CONVS[case][1])})
    assert seen.ops == [CONVS[case][0]]
    assert seen.node("conv").outputs[0].name == "y"


def test_a_number_over_an_activation_is_no_scaling() -> None:
    conv, weights = conv_of("conv", False)
    model = model_of([conv, *chain(("Div", "k@"))], CONVS["conv"][1], weights | {"k": np.asarray([1.5], "f")})
    assert canonical(model).ops == ["Conv", "Div"]


@pytest.mark.parametrize("shape", [(1, 1, 5, 1), (8,), (2, 1, 1, 1), (1, 1, C, 1, 1), (C, 1)])
def test_constants_that_do_more_than_scale_channels_stay(shape: tuple[int, ...]) -> None:
    conv, weights = conv_of("conv", False)
    weights["t"] = floats(*shape, seed=3)
    size = (2, 4, 2 * shape[-2] - 1 if len(shape) > 1 and shape[-2] > 1 else 9, 8)
    seen = agrees(model_of([conv, *chain(("Add", "@t"))], size, weights), {"x": floats(*size)})
    assert seen.ops == ["Conv", "Add"]


def test_a_constant_that_multiplies_the_channels_stays() -> None:
    """(N, 1, ...) + (C, 1, 1) has C channels where the convolution has one."""
    weights = {"w": floats(1, 4, 3, 3, seed=1), "t": floats(C, 1, 1, seed=2)}
    nodes = [make_node("Conv", ["x", "w"], ["h"], "conv"), make_node("Add", ["h", "t"], ["y"])]
    assert agrees(model_of(nodes, (1, 4, 9, 8), weights), {"x": floats(1, 4, 9, 8)}).ops == ["Conv", "Add"]
    weights = {"w": floats(2, C, 1, 1, seed=1), "t": floats(C, 1, 1, seed=2)}
    nodes = [make_node("Add", ["x", "t"], ["h"]), make_node("Conv", ["h", "w"], ["y"], "conv")]
    assert agrees(model_of(nodes, (1, 1, 9, 8), weights), {"x": floats(1, 1, 9, 8)}).ops == ["Add", "Conv"]


def test_nothing_is_merged_across_a_fan_out() -> None:
    conv, weights = conv_of("conv", False)
    nodes = [conv, batch_norm(y="n"), make_node("Relu", ["h"], ["r"]), make_node("Add", ["n", "r"], ["y"])]
    seen = agrees(model_of(nodes, CONVS["conv"][1], weights | statistics()), {"x": floats(2, 4, 9, 8)})
    assert seen.ops == ["Conv", "BatchNormalization", "Relu", "Add"]


def test_nothing_is_merged_across_a_kept_tensor() -> None:
    conv, weights = conv_of("conv", False)
    model = model_of([conv, batch_norm()], CONVS["conv"][1], weights | statistics())
    assert agrees(model, {"x": floats(2, 4, 9, 8)}, keep=["h"]).ops == ["Conv", "BatchNormalization"]
    assert agrees(model, {"x": floats(2, 4, 9, 8)}, keep=["y", "x"]).ops == ["Conv"]


def test_a_batch_norm_between_two_affine_layers_goes_into_one() -> None:
    conv, weights = conv_of("conv", False)
    point = make_node("Conv", ["n", "v"], ["y"], "point")
    model = model_of(
        [conv, batch_norm(y="n"), point], (2, 4, 9, 8), weights | statistics() | {"v": floats(3, C, 1, 1)}
    )
    seen = agrees(model, {"x": floats(2, 4, 9, 8)})
    assert seen.ops == ["Conv", "Conv"] and seen.node("conv").outputs[0].name == "n"
    seen = agrees(model, {"x": floats(2, 4, 9, 8)}, keep=["h"])
    assert seen.ops == ["Conv", "Conv"] and seen.node("point").inputs[0].name == "h"


def test_a_graph_output_between_is_no_obstacle() -> None:
    """It is still computed by the forward graph; the rules need not see it."""
    conv, weights = conv_of("conv", False)
    model = model_of([conv, batch_norm()], (2, 4, 9, 8), weights | statistics(), outputs=("y", "h"))
    assert canonical(model).ops == ["Conv"]
    assert canonical(model, keep=["h"]).ops == ["Conv", "BatchNormalization"]


def test_a_subgraph_that_reads_the_tensor_is_an_obstacle() -> None:
    model = net(
        """g (float[1, 2, 4, 4] x, bool c) => (float[1, 2, 4, 4] y)
        <float[2, 2, 1, 1] w = {1, 2, 3, 4}, float[2, 1, 1] s = {2, 3}> {
            h = Conv (x, w)
            m = Mul (h, s)
            i = If (c) <then_branch = a () => (float[1, 2, 4, 4] p) { p = Neg (h) },
                        else_branch = b () => (float[1, 2, 4, 4] q) { q = Abs (h) }>
            y = Add (m, i)
        }"""
    )
    assert canonical(model).ops == ["Conv", "Mul", "If", "Add"]


def test_scalings_without_an_affine_neighbour_stay() -> None:
    nodes = [make_node("Relu", ["x"], ["h"]), batch_norm(y="n"), make_node("Mul", ["n", "s"], ["y"])]
    model = model_of(nodes, (2, C, 4, 4), statistics() | {"s": floats(C, 1, 1)})
    assert agrees(model, {"x": floats(2, C, 4, 4)}).ops == ["Relu", "BatchNormalization", "Mul"]


def test_a_scale_that_is_not_finite_stays() -> None:
    conv, weights = conv_of("conv", False)
    model = model_of(
        [conv, *chain(("Div", "@k"))], CONVS["conv"][1], weights | {"k": np.zeros(1, np.float32)}
    )
    assert canonical(model).ops == ["Conv", "Div"]


def test_parameters_computed_at_run_time() -> None:
    """Parameters behind arithmetic that the compiler does not fold: the merge is emitted."""
    conv, weights = conv_of("grouped", True)
    sums = [
        make_node("Add", [f"{key}0", "zero"], [key])
        for key in ("gamma", "beta", "mean", "var", "w", "b", "s")
    ]
    weights |= statistics() | {"s": floats(C, 1, 1, seed=4)}
    stored = {f"{key}0": array for key, array in weights.items()} | {"zero": np.zeros((), np.float32)}
    nodes = [*sums, conv, batch_norm(y="n"), make_node("Mul", ["n", "s"], ["y"], "mul")]
    seen = agrees(model_of(nodes, CONVS["grouped"][1], stored), {"x": floats(2, 4, 9, 8)})
    assert seen.ops == ["Add"] * 7 + ["Conv"]
    assert len(seen.node("conv").inputs) == 3


def test_run_time_parameters_before_a_convolution() -> None:
    conv, weights = conv_of("depthwise x2", False, "h", "y")
    sums = [make_node("Add", [f"{key}0", "zero"], [key]) for key in ("gamma", "beta", "mean", "var", "w")]
    stored = {f"{key}0": array for key, array in (weights | statistics(3)).items()} | {
        "zero": np.zeros((), np.float32)
    }
    seen = agrees(
        model_of([*sums, batch_norm("x", "h"), conv], (2, 3, 9, 8), stored), {"x": floats(2, 3, 9, 8)}
    )
    assert seen.ops == ["Add"] * 5 + ["Conv"]


def test_weights_that_depend_on_an_input_stay() -> None:
    model = net(
        """g (float[1, 2, 4, 4] x, float[2, 2, 1, 1] w, float[2, 1, 1] s) => (float[1, 2, 4, 4] y)
        <float[2, 2, 1, 1] v = {1, 2, 3, 4}, float[2, 1, 1] c = {2, 3}> {
            a = Conv (x, w)
            b = Mul (a, c)
            d = Relu (b)
            e = Conv (d, v)
            y = Mul (e, s)
        }"""
    )
    assert canonical(model).ops == ["Conv", "Mul", "Relu", "Conv", "Mul"]


def test_a_run_time_scale_of_unknown_shape_stays() -> None:
    model = net(
        """g (float[1, 2, 4, 4] x) => (float[1, 2, 4, 4] y)
        <float[2, 2, 1, 1] w = {1, 2, 3, 4}, float[3] s = {2, 3, 0}> {
            i = NonZero (s)
            t = Gather (s, i)
            a = Conv (x, w)
            y = Mul (a, t)
        }"""
    )
    assert canonical(model).ops[-2:] == ["Conv", "Mul"]


def test_half_precision_and_double_precision() -> None:
    weights = {"w": floats(5, C, seed=1).astype(np.float64), "s": floats(C, seed=2).astype(np.float64)}
    nodes = [make_node("MatMul", ["x", "w"], ["h"], "product"), make_node("Mul", ["h", "s"], ["y"])]
    model = model_of(nodes, (3, 5), weights, element=TensorProto.DOUBLE)
    assert agrees(model, {"x": floats(3, 5).astype(np.float64)}).ops == ["MatMul"]
    half = {key: array.astype(np.float16) for key, array in weights.items()}
    seen = canonical(model_of(nodes, (3, 5), half, element=TensorProto.FLOAT16))
    assert seen.ops == ["MatMul"]
    assert seen.node("product").inputs[1].dtype == np.float16


def test_large_weights_are_neither_read_nor_copied() -> None:
    weights = {"w": floats(64, 64, 3, 3), "s": floats(64, 1, 1, seed=2)}
    nodes = [make_node("Conv", ["x", "w"], ["h"], "conv"), make_node("Mul", ["h", "s"], ["y"])]
    seen = agrees(model_of(nodes, (1, 64, 5, 5), weights), {"x": floats(1, 64, 5, 5)})
    assert seen.ops == ["Conv"]
    product = next(node for node in seen.g.nodes if node.outputs[0] is seen.node("conv").inputs[1])
    assert product.op == "Mul" and product.name.startswith("bwd/conv/")
    assert sorted(np.prod(x.shape) for x in product.inputs) == [64, 64 * 64 * 9]


def test_training_mode_stays() -> None:
    conv, weights = conv_of("conv", False)
    node = batch_norm(training_mode=1)
    node.output.extend(["m", "v"])
    seen = canonical(model_of([conv, node], (2, 4, 9, 8), weights | statistics()))
    assert seen.ops == ["Conv", "BatchNormalization"]
