"""Rescale and products, operator by operator against their formulas, and summation to delta on whole networks."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper

from onnxplain.rewriter.compile import Request, compile_model
from onnxplain.rewriter.errors import OptionError, UnsupportedError
from onnxplain.rewriter.graph import prepare
from onnxplain.rewriter.site import Site
from onnxplain.rules.chord import BILINEAR, ELEMENTWISE, LINEAR, POOLS, STEPS, rescale
from onnxplain.rules.decomposed import DECOMPOSED
from onnxplain.rules.gradient import GRADIENT
from onnxplain.rules.gradient.inert import INERT
from onnxplain.rules.methods_deeplift import DEEPLIFT_RESCALE
from tests.deeplift import EXACT, Array, explained, imbalance, multipliers, near, noise, run
from tests.rewriter.nets import net
from tests.rules.build import one_node

F = np.float32


def plain(op: str, rank: int = 2, opset: int = 18, **attributes: Any) -> onnx.ModelProto:
    return one_node(op, {"x": (["N", 6], F)}, rank=rank, opset=opset, **attributes)


ANYWHERE = (
    "Relu LeakyRelu ThresholdedRelu Shrink Sigmoid Tanh Softplus Softsign Elu Celu Selu HardSigmoid HardSwish Mish Erf "
    "Abs Sin Cos Sinh Cosh Atan Asinh Exp Sign Floor Ceil Round"
).split()
POSITIVE = ["Log", "Sqrt", "Reciprocal"]
INSIDE = ["Asin", "Acos", "Atanh", "Tan"]


@pytest.mark.parametrize("op", [*ANYWHERE, *POSITIVE, *INSIDE, "Acosh"])
def test_elementwise_is_the_quotient_of_changes(op: str) -> None:
    x, x0 = 2 * noise(3, 6, seed=1), 2 * noise(3, 6, seed=2)
    if op in POSITIVE or op == "Acosh":
        x, x0 = np.abs(x) + F(1.1), np.abs(x0) + F(1.1)
    elif op in INSIDE:
        x, x0 = np.tanh(x), np.tanh(x0)
    model, ct = plain(op), noise(3, 6, seed=3)
    got = multipliers(model, x, ct, x0)
    near(got, ct * (run(model, {"x": x})["y"] - run(model, {"x": x0})["y"]))


def test_every_elementwise_operator_is_tried() -> None:
    tried = {*ANYWHERE, *POSITIVE, *INSIDE, "Acosh"}
    elsewhere = {"Clip", "PRelu", "Mod", "Swish", "Gelu"}
    assert tried | elsewhere == ELEMENTWISE | STEPS | {"Exp", "Log", "Sqrt", "Reciprocal"}


OTHERS = {
    "Clip": ("y = Clip (x, low, high)", 18),
    "PRelu": ("y = PRelu (x, slope)", 18),
    "Mod": ("y = Mod <fmod = 1> (x, high)", 18),
    "Gelu": ("y = Gelu (x)", 20),
    "Gelu, tanh": ('y = Gelu <approximate = "tanh"> (x)', 20),
    "Pow 2": ("y = Pow (x, two)", 18),
    "Pow 3": ("y = Pow (x, three)", 18),
    "Mul": ("y = Mul (slope, x)", 18),
    "Max": ("y = Max (low, x)", 18),
    "Min": ("y = Min (x, high)", 18),
    "Sub": ("y = Sub (high, x)", 18),
}


@pytest.mark.parametrize("name", OTHERS)
def test_elementwise_with_parameters(name: str) -> None:
    text, opset = OTHERS[name]
    model = net(
        f"""g (float[N,6] x) => (float[N,6] y) <float low = {{-0.5}}, float high = {{0.75}}, float two = {{2}},
        float three = {{3}}, float[6] slope = {{0.1, 0.2, 0.3, 0.4, 0.5, -0.6}}> {{ {text} }}""",
        opset,
        ir=9,
    )
    x, x0, ct = noise(3, 6, seed=1), noise(3, 6, seed=2), noise(3, 6, seed=3)
    near(multipliers(model, x, ct, x0), ct * (run(model, {"x": x})["y"] - run(model, {"x": x0})["y"]))


SLOPES: dict[str, Callable[[Array], Array]] = {
    "Relu": lambda x: (x > 0).astype(F),
    "Sigmoid": lambda x: 1 / (1 + np.exp(-x)) / (1 + np.exp(x)),
    "Exp": np.exp,
    "Tanh": lambda x: 1 - np.tanh(x) ** 2,
    "Abs": np.sign,
    "Floor": np.zeros_like,
}


def slopes_seen(model: onnx.ModelProto, x: Array, x0: Array) -> Array:
    """The multipliers themselves: the first factor of their product with Δx, which is 0 at the reference."""
    emitted, _ = compile_model(
        model, DEEPLIFT_RESCALE, Request(target="cotangent", head="prob", options={"baseline": "input"})
    )
    made = {node.output[0]: node for node in emitted.graph.node}
    whole = made[made["attribution"].input[0]]
    guard = made.get(whole.input[0])
    if (
        guard is not None and guard.op_type == "Where"
    ):  # a singular node: 0 where a factor is, else ct times m
        name = made[guard.input[2]].input[1]
    else:
        name = made[whole.input[1]].input[0]
    emitted.graph.output.append(helper.make_tensor_value_info(name, 1, None))
    feeds = {"x": x, "baseline": x0, "cotangent": np.ones_like(x)}
    return run(emitted, feeds)[name]


@pytest.mark.parametrize("op", SLOPES)
def test_at_the_reference_it_is_the_derivative_at_x(op: str) -> None:
    x = np.asarray([[-2, -0.5, 0, 0.25, 1, 3]], F)
    near(slopes_seen(plain(op), x, x.copy()), SLOPES[op](x).astype(F))


@pytest.mark.parametrize("op", ["Softplus", "Relu", "HardSwish", "Gelu"])
def test_one_rounding_step_of_a_large_input_is_no_change(op: str) -> None:
    """x = 12345, x⁰ the next float32: the quotient of two rounded outputs could be 0 or 2, the derivative is 1."""
    x = np.full((1, 6), 12345.0, F)
    x0 = np.nextafter(x, F(0))
    near(slopes_seen(plain(op, opset=20 if op == "Gelu" else 18), x, x0), np.ones_like(x))


def test_tau_decides_where_the_derivative_begins() -> None:
    x, x0 = np.full((1, 6), 1.0, F), np.full((1, 6), 0.5, F)
    model = net("g (float[N,6] x) => (float[N,6] y) { y = Atan (x) }")
    ct = np.ones_like(x)
    near(multipliers(model, x, ct, x0, tau=0.9), 0.5 / (1 + x**2))
    near(multipliers(model, x, ct, x0, tau=0.4), np.arctan(x) - np.arctan(x0))
    for bad in (0, -1, 2, "small", float("nan")):
        with pytest.raises(OptionError, match="tau"):
            explained(model, x, tau=bad)


PRODUCTS = {
    "Mul": "y = Mul (a, b)",
    "Mul of one": "y = Mul (a, a)",
    "MatMul": "t = Transpose <perm = [0, 2, 1]> (b) y = MatMul (a, t)",
    "Einsum": 'y = Einsum <equation = "nij,nkj->nik"> (a, b)',
    "ReduceSumSquare": "y = ReduceSumSquare <keepdims = 1> (a, last)",
    "Div": "p = Exp (b) y = Div (a, p)",
    "Div, sign": "y = Div (a, b)",
    "Div below": "y = Div (rows, b)",
    "Max": "y = Max (a, b)",
    "Max of three": "y = Max (a, b, c)",
    "Min of three": "y = Min (a, b, c)",
    "Mean": "y = Mean (a, b, c)",
    "broadcast": "m = ReduceMean <keepdims = 1> (b, last) y = Mul (a, m)",
    "broadcast Max": "m = ReduceMean <keepdims = 1> (b, last) y = Max (m, a)",
    "ReduceMax": "y = ReduceMax <keepdims = 1> (a, last)",
    "ReduceMin": "y = ReduceMin <keepdims = 1> (a, last)",
    "Where": "p = Greater (a, b) y = Where (p, a, c)",
    "gate": "p = Greater (a, zero) q = Cast <to = 1> (p) y = Mul (a, q)",
    "gate added": "p = Greater (a, zero) q = Cast <to = 1> (p) y = Add (a, q)",
}


def of_parts(text: str, opset: int = 18) -> onnx.ModelProto:
    """a, b, c: three linear functions of x (N, 4, 6)."""
    rng = np.random.default_rng(11)
    w = [", ".join(map(str, rng.standard_normal(36).round(3))) for _ in range(3)]
    rows = ", ".join(map(str, rng.standard_normal(6).round(3)))
    return net(
        f"""g (float[N,4,6] x) => (float[N,I,J] y) <float[6,6] u = {{{w[0]}}}, float[6,6] v = {{{w[1]}}},
        float[6,6] w = {{{w[2]}}}, float[6] rows = {{{rows}}}, int64[1] last = {{2}}, float zero = {{0}}>
        {{ a = MatMul (x, u) b = MatMul (x, v) c = MatMul (x, w) {text} }}""",
        opset,
        ir=10,
    )


@pytest.mark.parametrize("name", PRODUCTS)
def test_products_and_choices_sum_to_delta(name: str) -> None:
    model = of_parts(PRODUCTS[name])
    x, x0 = noise(3, 4, 6, seed=1), noise(3, 4, 6, seed=2)
    ct = noise(*run(model, {"x": x})["y"].shape, seed=3)
    assert imbalance(model, x, x0, ct, multipliers(model, x, ct, x0), head="prob") < EXACT


PAIRS: dict[str, tuple[Callable[..., Array], Callable[..., tuple[Array, Array]]]] = {
    "Mul": (lambda a, b: a * b, lambda a, b, a0, b0: ((b + b0) / 2, (a + a0) / 2)),
    "Div": (
        lambda a, b: a / b,
        lambda a, b, a0, b0: ((b + b0) / (b**2 + b0**2), -(b0 * a / b + b * a0 / b0) / (b**2 + b0**2)),
    ),
    "Max": (
        np.maximum,
        lambda a, b, a0, b0: (
            1 - (np.maximum(b - a, 0) - np.maximum(b0 - a0, 0)) / (b - a - b0 + a0),
            (np.maximum(b - a, 0) - np.maximum(b0 - a0, 0)) / (b - a - b0 + a0),
        ),
    ),
    "Min": (
        np.minimum,
        lambda a, b, a0, b0: (
            1 + (np.minimum(b - a, 0) - np.minimum(b0 - a0, 0)) / (a - b - a0 + b0),
            -(np.minimum(b - a, 0) - np.minimum(b0 - a0, 0)) / (a - b - a0 + b0),
        ),
    ),
}


@pytest.mark.parametrize("op", PAIRS)
def test_two_operands_get_what_the_formula_gives_them(op: str) -> None:
    """x holds a and b side by side."""
    model = net(
        f"g (float[N,12] x) => (float[N,6] y) {{ a, b = Split <axis = 1, num_outputs = 2> (x) y = {op} (a, b) }}"
    )
    x, x0, ct = noise(3, 12, seed=1), noise(3, 12, seed=2), noise(3, 6, seed=3)
    a, b, a0, b0 = x[:, :6], x[:, 6:], x0[:, :6], x0[:, 6:]
    near(run(model, {"x": x})["y"], PAIRS[op][0](a, b))
    upper, lower = PAIRS[op][1](a, b, a0, b0)
    want = np.concatenate([ct * upper * (a - a0), ct * lower * (b - b0)], axis=1)
    near(multipliers(model, x, ct, x0), want, 1e-4)  # Max and Min divide by differences


def max_pool(x: Array, x0: Array, ct: Array, kernel: int, stride: int, pad: int) -> Array:
    """The two-sided rule by loops, in float64, times Δx."""
    out = np.zeros(x.shape)
    sizes = ct.shape[2:]
    for n, c, i, j in itertools.product(range(x.shape[0]), range(x.shape[1]), *map(range, sizes)):
        rows = range(max(0, i * stride - pad), min(x.shape[2], i * stride - pad + kernel))
        columns = range(max(0, j * stride - pad), min(x.shape[3], j * stride - pad + kernel))
        cells = list(itertools.product(rows, columns))
        first = max(cells, key=lambda at: x[n, c, at[0], at[1]])
        first0 = max(cells, key=lambda at: x0[n, c, at[0], at[1]])
        y, y0 = float(x[n, c][first]), float(x0[n, c][first0])
        top = max(y, y0)
        out[n, c][first] += ct[n, c, i, j] * (top - y0)
        out[n, c][first0] += ct[n, c, i, j] * (y - top)
    out[x == x0] = 0
    return out


@pytest.mark.parametrize("kernel, stride, pad", [(2, 2, 0), (3, 2, 1), (3, 1, 0), (3, 1, 1)])
def test_max_pool_is_two_sided(kernel: int, stride: int, pad: int) -> None:
    model = one_node(
        "MaxPool",
        {"x": (["N", 2, 7, 7], F)},
        kernel_shape=[kernel, kernel],
        strides=[stride, stride],
        pads=[pad] * 4,
    )
    x, x0 = noise(2, 2, 7, 7, seed=1), noise(2, 2, 7, 7, seed=2)
    x0[0, :, 2:4] = x[0, :, 2:4]
    ct = noise(*run(model, {"x": x})["y"].shape, seed=3)
    got = multipliers(model, x, ct, x0)
    near(got, max_pool(x, x0, ct, kernel, stride, pad))
    assert imbalance(model, x, x0, ct, got, head="prob") < EXACT


def test_tiny_pooled_values_keep_their_change() -> None:
    model = one_node("GlobalMaxPool", {"x": (["N", 2, 3, 3], F)})
    x, x0, ct = (
        F(1e-20) * noise(1, 2, 3, 3, seed=1),
        F(1e-20) * noise(1, 2, 3, 3, seed=2),
        np.ones((1, 2, 1, 1), F),
    )
    assert imbalance(model, x, x0, ct, multipliers(model, x, ct, x0), head="prob") < EXACT


def test_every_operator_of_the_gradient_is_placed() -> None:
    """Once, and only once; what is not placed is refused."""
    places = [LINEAR, BILINEAR, POOLS, ELEMENTWISE | STEPS, set(DECOMPOSED), set(INERT) - STEPS]
    places.append({"Div", "Exp", "Log", "Sqrt", "Reciprocal", "Pow", "Max", "Min", "Where"})
    assert sum(map(len, places)) == len(set().union(*places))
    assert set(GRADIENT.ops()) == set().union(*places)


def test_an_operator_that_only_the_gradient_knows_is_refused() -> None:
    graph = prepare(net("g (float[N,6] x) => (float[N,6] y) { y = Relu (x) }"))
    site = Site(graph.nodes[0], graph, 0, (True,))
    rules = rescale(1e-7)
    assert getattr(rules.find(site), "__name__", "") == "rescaled"
    site.node.op = "Frobnicate"
    assert getattr(rules.find(site), "__name__", "") == "no_chord"


REFUSED = {
    "TopK": "two = Constant <value_ints = [2]> () y, places = TopK <axis = 2> (a, two)",
    "ReduceProd": "y = ReduceProd <keepdims = 1> (a, last)",
    "Einsum": 'y = Einsum <equation = "nij,nij,nij->nij"> (a, b, c)',
    "Mod": "y = Mod <fmod = 1> (a, b)",
    "Concat": "p = Greater (a, zero) q = Cast <to = 1> (p) y = Concat <axis = 2> (a, q)",
    "GatherElements": "i = ArgMax <axis = 2, keepdims = 1> (a) y = GatherElements <axis = 2> (b, i)",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_sum_to_delta_is_refused_by_name(name: str) -> None:
    with pytest.raises(UnsupportedError) as caught:
        compile_model(of_parts(REFUSED[name]), DEEPLIFT_RESCALE, Request(target="cotangent"))
    assert [site.op for site in caught.value.sites] == [name]


@pytest.mark.parametrize("name", ["Where", "gate", "gate added"])
def test_a_choice_of_ours_is_recorded(name: str) -> None:
    _, card = compile_model(of_parts(PRODUCTS[name]), DEEPLIFT_RESCALE, Request(target="cotangent"))
    assert len(card.approximations) == 1


def test_indices_from_shapes_alone_are_no_step() -> None:
    """x[:, :, : size // 2]: the size is no value of the picture."""
    model = net(
        """g (float[N,4,S] x) => (float[N,4,T] y) <int64[1] two = {2}, int64[1] zero = {0}> {
        size = Shape <start = 2, end = 3> (x) half = Div (size, two)
        left = Slice (x, zero, half, two) y = Relu (left) }"""
    )
    x, x0 = noise(2, 4, 6, seed=1), noise(2, 4, 6, seed=2)
    ct = noise(2, 4, 3, seed=3)
    assert imbalance(model, x, x0, ct, multipliers(model, x, ct, x0), head="prob") < EXACT


def test_rows_of_cotangents_over_one_sample() -> None:
    model = of_parts(PRODUCTS["Mul"] + " z = MatMul (y, u)")
    x, x0, eye = noise(1, 4, 6, seed=1), noise(1, 4, 6, seed=2), noise(5, 4, 6, seed=3)
    rows = multipliers(model, x, eye, x0)
    for i in range(5):
        near(rows[i : i + 1], multipliers(model, x, eye[i : i + 1], x0))


def test_double_models() -> None:
    model = net("g (double[N,6] x) => (double[N,6] y) { z = Tanh (x) y = Softmax (z) }")
    x, x0, ct = (noise(2, 6, seed=i).astype(np.float64) for i in (1, 2, 3))
    got: NDArray[np.float64] = multipliers(model, x, ct, x0)
    assert got.dtype == np.float64
    assert imbalance(model, x, x0, ct, got, head="prob") < 1e-11


@pytest.mark.parametrize(
    "front", ("c = Cast <to = 1> (x)", "c = Identity (z)", "c = Transpose <perm = [0, 1]> (z)")
)
def test_a_product_with_what_an_input_becomes(front: str) -> None:
    """Neither factor is the reciprocal of anything: there is an input, and nothing in front of it."""
    text = f"g (int32[N,3] x, float[N,3] z) => (float[N,3] y) {{ {front} d = Tanh (c) y = Mul (d, c) }}"
    made, _ = compile_model(net(text), DEEPLIFT_RESCALE, Request(inputs=("c" if "(x)" in front else "z",)))
    assert any(value.name.startswith("attribution") for value in made.graph.output)
