"""Maps are finite where the model is: branches not taken, masked rows, poles and kinks that nobody looks at.

Oracles: differences of onnxruntime's own forward pass; summation to delta; the whole net without the part that is not
looked at.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import onnxplain
from onnxplain.rewriter.graph import prepare
from onnxplain.rewriter.singular import singular
from tests.rewriter.nets import floats, net
from tests.rules.forward import session

pytestmark = pytest.mark.filterwarnings("default::onnxplain.ExplainWarning")
"""Some of these maps are zero, and rightly so."""

BRANCHES = {
    "divide no nan": "d = ReduceSum <keepdims = 1> (h, last) c = Equal(d, zero) r = Div(h, d) q = Where(c, zero, r)",
    "log": "c = Greater(h, zero) r = Log(h) q = Where(c, r, zero)",
    "sqrt": "c = Greater(h, zero) r = Sqrt(h) q = Where(c, r, zero)",
    "power": "c = Greater(h, zero) r = Pow(h, half) q = Where(c, r, zero)",
    "reciprocal": "c = Equal(h, zero) r = Reciprocal(h) q = Where(c, zero, r)",
    "overflow": "l = Mul(h, forty) c = Greater(l, one) r = Exp(l) q = Where(c, zero, r)",
    "maximum": "a = Abs(h) r = Log(a) q = Max(minus, r)",
    "clip": "r = Div(one, h) q = Clip(r, minus, one)",
    "relu": "a = Abs(h) r = Log(a) q = Relu(r)",
    "saturated": "l = Mul(h, forty) n = Neg(l) e = Exp(n) d = Add(e, one) q = Div(one, d)",
    "pole in a sigmoid": "r = Reciprocal(h) q = Sigmoid(r)",
    "length": """s = Mul(h, h) t = ReduceSum <keepdims = 1> (s, last) n = Sqrt(t) c = Equal(n, zero) r = Div(h, n)
        q = Where(c, zero, r)""",
}
POINTS = {
    "zeros": [[0, 0, 0, 0, 0, 0]],
    "some zeros": [[1.1, -2, 0, 3, 0, -5]],
    "none": [[0.5, 2, -1.5, 3, 0.25, 0.75]],
}
METHODS = (
    "saliency",
    "input-x-gradient",
    "integrated-gradients",
    "guided-backprop",
    "lrp.zero",
    "lrp.epsilon",
    "lrp.epsilon-plus",
    "lrp.gamma",
    "deep-taylor",
    "deeplift.rescale",
    "deeplift.reveal-cancel",
    "linearscope.rows",
    "linearscope.residual",
    "linearscope.contributions",
    "linearscope.columns",
)
WHOLE = ("linearscope.residual", "linearscope.columns")


def branch(name: str) -> onnx.ModelProto:
    """y = q v, h = x but for the sign of 0."""
    model = net(f"""g (float[N,6] x) => (float[N,3] y) <float zero = {{0}}, float one = {{1}}, float minus = {{-1}},
        float half = {{0.5}}, float forty = {{40}}, int64[1] last = {{1}}> {{
        h = Add(x, zero) {BRANCHES[name]} y = MatMul(q, v) }}""")
    model.graph.initializer.append(numpy_helper.from_array(floats(6, 3, seed=3), "v"))
    return model


def forward(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    return np.asarray(session(model).run(["y"], {"x": x})[0], float)


@pytest.mark.parametrize("name", BRANCHES)
def test_every_family_is_finite(name: str) -> None:
    model = branch(name)
    for method in METHODS:
        aim: dict[str, Any] = {} if method in WHOLE else {"target": 1}
        try:
            explainer = onnxplain.compile(model, method, **aim)
        except onnxplain.TargetError:
            assert method.startswith("linearscope")  # a frozen denominator cuts the input off
            continue
        for point in POINTS.values():
            x = np.asarray(point, np.float32)
            assert np.isfinite(forward(model, x)).all()
            more = {"tangent": floats(2, 6)} if method == "linearscope.columns" else {}
            found = explainer(x, **more)
            values = [*found.attributions.values(), *found.results.values()]
            assert values and all(np.isfinite(value).all() for value in values), (method, point)


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("name", BRANCHES)
def test_gradients_are_right_where_there_is_one(name: str, point: str) -> None:
    """Differences along the elements that are not at 0, where every branch here has its pole or kink."""
    model, x = branch(name), np.asarray(POINTS[point], np.float32)
    step = 1e-3 * floats(1, 6, seed=1) * (x != 0)
    found = onnxplain.compile(model, "saliency", target=1)(x).attribution
    want = float((forward(model, x + step) - forward(model, x - step))[0, 1]) / 2
    assert abs(float((found * step).sum()) - want) <= 2e-2 * abs(want) + 1e-5


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("name", BRANCHES)
def test_deeplift_still_sums_to_delta(name: str, point: str) -> None:
    """At the reference 0, where most of these quotients and logarithms are infinite."""
    model, x = branch(name), np.asarray(POINTS[point], np.float32)
    explainer = onnxplain.compile(model, "deeplift.rescale", target=1)
    want = float((forward(model, x) - forward(model, 0 * x))[0, 1])
    assert abs(float(explainer(x).attribution.sum()) - want) <= 1e-3 * max(1, abs(want))
    assert any("counts as" in note or "least squares" in note for note in explainer.card.approximations)


ROWS = """g (float[N,5,4] x) => (float[N,4] y) <int64[1] b = {4}, int64[1] e = {5}, int64[1] a = {1}> {
    k = MatMul(x, w) t = Transpose <perm = [0, 2, 1]> (x) s = MatMul(k, t) z = SCORES p = Softmax <axis = -1> (z)
    o = MatMul(p, x) l = Slice(o, b, e, a) y = Squeeze(l, a) }"""


@pytest.mark.parametrize("masked", ["Add(s, mask)", "Where(seen, s, m)"])
@pytest.mark.parametrize(
    "method", ["saliency", "integrated-gradients", "lrp.epsilon", "deeplift.rescale", "linearscope.rows"]
)
def test_a_masked_row_of_attention(method: str, masked: str) -> None:
    """Row 0 sees nothing and is NaN; the explained row 4 sees rows 1 to 4, and is what it is without row 0."""
    mask = np.triu(np.full((5, 5), -np.inf, np.float32), 1)
    mask[:, 0] = mask[0] = -np.inf
    weights = {"w": floats(4, 4, seed=2), "mask": mask, "seen": np.isfinite(mask), "m": np.float32(-np.inf)}
    model = net(ROWS.replace("SCORES", masked))
    read = {name for node in model.graph.node for name in node.input}
    model.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(v), k) for k, v in weights.items() if k in read
    )
    x = floats(1, 5, 4)
    found = onnxplain.compile(model, method, target=1)(x).attribution
    assert np.isfinite(forward(model, x)).all() and np.isfinite(found).all()
    if method == "saliency":
        step = 1e-3 * floats(1, 5, 4, seed=1)
        want = float((forward(model, x + step) - forward(model, x - step))[0, 1]) / 2
        assert abs(float((found * step).sum()) - want) <= 1e-2 * abs(want)
        assert not found[0, 0].any()
    if method == "deeplift.rescale":
        want = float((forward(model, x) - forward(model, 0 * x))[0, 1])
        assert abs(float(found.sum()) - want) <= 1e-4 * max(1, abs(want))


def test_what_is_not_gathered_does_not_count() -> None:
    """√ of 0 in the rows that nobody takes; infinite, and told, where it is taken."""
    model = net("""g (float[N,4] x) => (float[N,2] y) <int64[2] i = {1, 3}> {
        s = Sqrt(x) y = Gather <axis = 1> (s, i) }""")
    x = np.array([[0, 4, 0, 9]], np.float32)
    found = onnxplain.compile(model, "saliency", target=0)(x).attribution
    np.testing.assert_allclose(found, [[0, 0.25, 0, 0]])


@pytest.mark.parametrize(
    "body",
    [
        "m = ReduceMean <keepdims = 1> (x, a) c = Sub(x, m) s = Mul(c, c) v = ReduceMean <keepdims = 1> (s, a) "
        "e = Add(v, eps) r = Sqrt(e) y = Div(c, r)",
        "m = ReduceMax <keepdims = 1> (x, a) c = Sub(x, m) e = Relu(c) y = Softmax <axis = 1> (e)",
        "s = Sigmoid(x) y = Mul(x, s)",
        "s = Shape(x) f = Cast <to = 1> (s) r = Sqrt(f) l = Slice(r, a, b) y = Div(x, l)",
    ],
)
def test_ordinary_nets_are_left_alone(body: str) -> None:
    """Normalisations with an epsilon, softmax, gates, scales made of sizes: no node is singular."""
    found = singular(
        prepare(
            net(f"""g (float[N,4] x) => (float[N,4] y) <int64[1] a = {{1}}, int64[1] b = {{2}}, float eps = {{0.00001}}>
            {{ {body} }}""")
        )
    )
    assert not found.pulls and not found.pushes
