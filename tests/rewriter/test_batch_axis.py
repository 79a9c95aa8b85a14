"""Where the samples of a batch are: the digits of a reshape, a rule an operator, and what cannot be followed."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnxplain.rewriter.errors import TargetError
from onnxplain.rewriter.graph import Graph, prepare
from onnxplain.rewriter.passes.batch_axis import follow, locate
from onnxplain.rewriter.passes.batch_trial import RULES
from onnxplain.rewriter.rows import Along, Mixed, Place, digits

from .nets import floats, net


def graph_of(body: str, weights: Mapping[str, np.ndarray], more: str = "") -> Graph:
    """Prepared, with outputs of the types that onnx infers."""
    model = net(body, more=more)
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(v), k) for k, v in weights.items())
    return prepare(onnx.shape_inference.infer_shapes(model, data_prop=True))


def placed(body: str, **weights: np.ndarray) -> Place:
    """The place of the output y of a graph."""
    graph = graph_of(body, weights)
    return follow(graph, graph.inputs[:1], graph.inputs[0]).places["y"]


# ---- reshapes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(40))
def test_digits_find_every_sample_where_it_went(seed: int) -> None:
    """Every way to cut the same elements in two: the place that is found holds the numbers of the samples."""
    rng = np.random.default_rng(seed)
    ahead, behind = (rng.integers(1, 5, rng.integers(0, 4)).tolist() for _ in range(2))
    n = int(rng.integers(2, 6))
    source = [*ahead, n, *behind]
    samples = np.moveaxis(np.broadcast_to(np.arange(n), (*ahead, *behind, n)), -1, len(ahead)).ravel()
    total = samples.size
    for first in (d for d in range(1, total + 1) if total % d == 0):
        target = [first, total // first]
        place = digits(source, Along(len(ahead)), target, n)
        view = samples.reshape(target)
        if place is not None:
            rows = np.moveaxis(view, place.axis, 0).reshape(place.before, n, -1)
            assert (rows == np.arange(n)[None, :, None]).all()
        elif n not in (1, total):  # an axis on which every row is of one sample would have been one
            for axis in (0, 1):
                whole = np.moveaxis(view, axis, 0).reshape(target[axis], -1)
                assert (
                    target[axis] % n or not (whole == np.arange(n).repeat(target[axis] // n)[:, None]).all()
                )


def test_a_size_baked_in_for_one_number_of_samples() -> None:
    assert digits((2, 6), Along(0), (3, 4), 2) is None
    assert digits((0, 6), Along(0), (0, 2, 3), 2) is None
    lost = placed("g (float[N,1,7,7] x) => (float[64,49] y) { y = Reshape(x, s) }", s=np.array([64, 49]))
    assert isinstance(lost, Mixed) and not lost.single and "Reshape" in lost.node
    once = placed("g (float[N,2] x) => (float[1,2] y) { y = Reshape(x, s) }", s=np.array([1, 2]))
    assert isinstance(once, Mixed) and once.single


@pytest.mark.parametrize(
    ("nodes", "place"),
    [
        ("y = Reshape(x, a)", Along(0, 1, 5)),
        ("u = Reshape(x, a) y = Reshape(u, b)", Along(0)),
        ("t = Transpose <perm = [1, 0, 2]> (x) y = Reshape(t, a)", Along(0, 5, 1)),
        ("t = Transpose <perm = [1, 0, 2]> (x) y = Flatten <axis = 2> (t)", Along(0, 5, 1)),
        ("y = Reshape(x, c)", Along(1)),
        ("s = Shape <end = 1> (x) r = Concat <axis = 0> (s, m) y = Reshape(x, r)", Along(0)),
    ],
)
def test_reshapes(nodes: str, place: Along) -> None:
    a, b, c, m = ([-1, 6], [-1, 5, 6], [1, -1, 5, 6], [-1])
    weights = {key: np.array(value) for key, value in {"a": a, "b": b, "c": c, "m": m}.items()}
    assert placed(f"g (float[N,5,6] x) => (y) {{ {nodes} }}", **weights) == place


# ---- a rule an operator ---------------------------------------------------------------------------------------------

TURNED = "t = Transpose <perm = [1, 0, 2]> (x)"
KEPT = [
    (f"{TURNED} y = Relu(t)", Along(1)),
    (f"{TURNED} y = Add(t, v)", Along(1)),
    (f"{TURNED} y = MatMul(t, w)", Along(1)),
    (f"{TURNED} y = Softmax <axis = 0> (t)", Along(1)),
    (f"{TURNED} y = Softmax <axis = 2> (t)", Along(1)),
    (f"{TURNED} y = ReduceMean <keepdims = 0> (t, zero)", Along(0)),
    (f"{TURNED} y = ReduceMean <keepdims = 1> (t, zero)", Along(1)),
    (f"{TURNED} y = ArgMax <axis = 0, keepdims = 0> (t)", Along(0)),
    (f"{TURNED} y = Gather <axis = 0> (t, last)", Along(0)),
    (f"{TURNED} y = Gather <axis = 0> (t, some)", Along(1)),
    (f"{TURNED} y = Unsqueeze(t, zero)", Along(2)),
    (f"{TURNED} u = Unsqueeze(t, zero) y = Squeeze(u, zero)", Along(1)),
    (f"{TURNED} y = Concat <axis = 0> (t, t)", Along(1)),
    (f"{TURNED} y = Concat <axis = 1> (t, t)", Along(1, 2)),
    (f"{TURNED} u = Concat <axis = 1> (t, t) y, z = Split <axis = 1, num_outputs = 2> (u)", Along(1)),
    (f"{TURNED} y, z = Split <axis = 0> (t, parts)", Along(1)),
    (f"{TURNED} y = Slice(t, zero, one, zero)", Along(1)),
    (f"{TURNED} y = Slice(t, zero, end, one)", Along(1)),
    (f"{TURNED} y = Tile(t, twice)", Along(1, 2)),
    (f"{TURNED} y = CumSum(t, first)", Along(1)),
    (f"{TURNED} y = LayerNormalization <axis = -1> (t, v)", Along(1)),
    (f'{TURNED} y = Einsum <equation = "tnc,cd->ndt"> (t, w)', Along(0)),
    (f"{TURNED} y = MatMul(t, x2)", Along(1)),
    ("u = Transpose <perm = [0, 2, 1]> (x) y = MatMul(x, u)", Along(0)),
    ("y = Expand(x, wide)", Along(1)),
    ("y = Pad(x, frame)", Along(0)),
    ("y = Conv <kernel_shape = [1]> (x, k)", Along(0)),
    ("y = InstanceNormalization(x, five, five)", Along(0)),
]
LOST = [
    ("y = ReduceMean <keepdims = 1> (x, zero)", "works along axis 0"),
    ("y = ReduceSum <keepdims = 0> (x)", "works along axis 0"),
    ("y = Softmax <axis = 0> (x)", "works along axis 0"),
    ("y = Gather <axis = 0> (x, last)", "picks along axis 0"),
    ("y = Slice(x, zero, one, zero)", "cuts or lengthens axis 0"),
    (f"{TURNED} y = Add(t, t2)", "samples along another"),
    (f"{TURNED} y = Conv <kernel_shape = [1]> (t, k2)", "works along axis 1"),
    ("f = Flatten(x) t = Transpose(f) y = MatMul(f, t)", "every sample with every other one"),
    ("f = Flatten(x) t = Transpose(f) y = MatMul(t, f)", "multiplies and sums along axis"),
    ("f = Flatten(x) y = Gemm <transA = 1> (f, f)", "multiplies and sums along axis"),
    ('y = Einsum <equation = "ntc->tc"> (x)', "sums along 'n'"),
    ("y = Squeeze(x, zero)", "takes one sample alone"),
    ("p = NonZero(x) y = Cast <to = 1> (p)", "chooses from all samples"),
    ("y = Concat <axis = 0> (x, one5)", "with a tensor that has none"),
]


def _weights(nodes: str) -> dict[str, np.ndarray]:
    ints = dict(
        zero=[0], one=[1], parts=[2, 3], some=[0, 2], end=[2**31 - 1], twice=[1, 2, 1], wide=[2, 1, 5, 6]
    )
    known = {key: np.array(value) for key, value in ints.items()}
    known |= {"last": np.array(-1), "first": np.array(0), "frame": np.array([0, 1, 0, 0, 0, 0])}
    known |= {
        "v": floats(6),
        "w": floats(6, 6),
        "k": floats(3, 5, 1),
        "k2": floats(3, 2, 1),
        "five": floats(5),
    }
    known |= {"x2": floats(6, 2), "one5": floats(1, 5, 6)}
    return {key: value for key, value in known.items() if re.search(rf"\b{key}\b", nodes)}


@pytest.mark.parametrize(("nodes", "place"), KEPT)
def test_what_keeps_samples_apart(nodes: str, place: Along) -> None:
    assert placed(f"g (float[N,5,6] x) => (y) {{ {nodes} }}", **_weights(nodes)) == place


@pytest.mark.parametrize(("nodes", "why"), LOST)
def test_what_brings_samples_together(nodes: str, why: str) -> None:
    if "t2" in nodes:  # (5, N, 6) + (N, 1, 6)
        nodes = nodes.replace("t2", "h").replace("y =", "h = ReduceMean <keepdims = 1> (x, one) y =")
    found = placed(f"g (float[N,5,6] x) => (y) {{ {nodes} }}", **_weights(nodes))
    assert isinstance(found, Mixed) and why in found.why, found


def test_recurrent_nets_count_samples_along_axis_1() -> None:
    names = {"W": floats(1, 16, 6), "R": floats(1, 16, 4)}
    body = "g (float[N,5,6] x) => (y) { %s y, h = LSTM <hidden_size = 4> (%s, W, R) }"
    assert placed(body % (TURNED, "t"), **names) == Along(2)
    lost = placed(body % ("", "x"), **names)
    assert isinstance(lost, Mixed) and lost.window


def test_every_rule_is_for_an_operator_of_onnx() -> None:
    known = {schema.name for schema in onnx.defs.get_all_schemas_with_history() if schema.domain == ""}
    beyond = {"RMSNormalization", "SimplifiedLayerNormalization"}  # the one is newer, the other onnxruntime's
    assert set(RULES) - known <= beyond


def test_an_operator_nobody_knows_keeps_what_grows() -> None:
    graph = graph_of("g (float[N,5] x) => (float[N,5] y) { y = com.acme.Gate(x) }", {}, more='"com.acme" : 1')
    assert follow(graph, graph.inputs, graph.inputs[0]).places["y"] == Along(0)


def test_open_sizes_are_tried_with_an_example() -> None:
    back = "s = Shape <end = 2> (x) r = Concat <axis = 0> (s, m) y = Reshape(u, r)"
    body = f"g (float[N,T,6] x) => (y) {{ u = Reshape(x, a) {back} }}"
    assert placed(body, a=np.array([-1, 6]), m=np.array([6])) == Along(0)


# ---- the head -------------------------------------------------------------------------------------------------------


def _located(body: str, **weights: np.ndarray) -> tuple[int | None, bool, bool]:
    graph = graph_of(body, weights)
    rows = locate(graph, graph.inputs[:1], graph.outputs[0])
    return rows.axis("y"), rows.whole, rows.single


def test_one_sample_without_an_axis() -> None:
    assert _located("g (float[1,4] x) => (float[5,3] y) { h = MatMul(x, w) y = Reshape(h, s) }",
                    w=floats(4, 15), s=np.array([5, 3])) == (None, False, False)  # fmt: skip
    assert _located("g (float[3,5,5] x) => (float[4] y) { f = Reshape(x, s) y = MatMul(f, w) }",
                    w=floats(75, 4), s=np.array([75])) == (None, True, False)  # fmt: skip
    picture = "g (float[H,W,3] x) => (y) { u = Unsqueeze(x, z) t = Transpose <perm = [0,3,1,2]> (u) y = Conv(t, k) }"
    assert _located(picture, z=np.array([0]), k=floats(2, 3, 3, 3)) == (None, True, False)
    assert _located("g (float[N,4,2] x) => (y) { y = Squeeze(x, z) }", z=np.array([0])) == (None, False, True)


def test_mixed_samples_are_one_error_that_names_axis_and_node() -> None:
    with pytest.raises(
        TargetError, match=r"'y' has no batch axis: .* axis 0 \(N\) of 'x', and ReduceMean at .* axis 0"
    ):
        _located(
            "g (float[N,4] x) => (y) { m = ReduceMean <keepdims = 1> (x, z) y = Sub(x, m) }", z=np.array([0])
        )
