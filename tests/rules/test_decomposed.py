"""Softmax, normalisations and reductions against the same functions exported in parts."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import onnxplain
from tests.deeplift import EXACT, imbalance, multipliers, near, noise, run
from tests.rewriter.nets import floats, net
from tests.rules.forward import session

F = np.float32
CENTRED = (
    "m = ReduceMean (a, last) c = Sub (a, m) q = Mul (c, c) v = ReduceMean (q, last) "
    "e = Add (v, tenth) s = Sqrt (e) "
)
NORMS = {
    "Softmax": ("y = Softmax <axis = 2> (a)", "l = ReduceLogSumExp (a, last) w = Sub (a, l) y = Exp (w)"),
    "LogSoftmax": ("y = LogSoftmax <axis = 2> (a)", "l = ReduceLogSumExp (a, last) y = Sub (a, l)"),
    "ReduceLogSumExp": ("y = ReduceLogSumExp (a, last)", "e = Exp (a) s = ReduceSum (e, last) y = Log (s)"),
    "ReduceLogSum": (
        "e = Exp (a) y = ReduceLogSum (e, last)",
        "e = Exp (a) s = ReduceSum (e, last) y = Log (s)",
    ),
    "ReduceL1": ("y = ReduceL1 (a, last)", "e = Abs (a) y = ReduceSum (e, last)"),
    "ReduceL2": ("y = ReduceL2 (a, last)", "e = Mul (a, a) s = ReduceSum (e, last) y = Sqrt (s)"),
    "LpNormalization, 2": ("y = LpNormalization (a)", "n = ReduceL2 (a, last) y = Div (a, n)"),
    "LpNormalization, 1": ("y = LpNormalization <p = 1> (a)", "n = ReduceL1 (a, last) y = Div (a, n)"),
    "LayerNormalization": (
        "y = LayerNormalization <axis = 2, epsilon = 0.1> (a, rows)",
        CENTRED + "n = Div (c, s) y = Mul (n, rows)",
    ),
    "InstanceNormalization": (
        "y = InstanceNormalization <epsilon = 0.1> (a, ones, zeros)",
        CENTRED + "y = Div (c, s)",
    ),
    "GroupNormalization": (
        "y = GroupNormalization <epsilon = 0.1, num_groups = 4> (a, ones, zeros)",
        CENTRED + "y = Div (c, s)",
    ),
    "RMSNormalization": (
        "y = RMSNormalization <axis = 2, epsilon = 0.1> (a, rows)",
        "q = Mul (a, a) v = ReduceMean (q, last) e = Add (v, tenth) s = Sqrt (e) n = Div (a, s) y = Mul (n, rows)",
    ),
    "LRN": (
        "w = Unsqueeze (a, last) y = LRN <size = 3, alpha = 3.0, beta = 0.5, bias = 2.0> (w)",
        "w = Unsqueeze (a, last) q = Mul (w, w) t = Transpose <perm = [0, 2, 1, 3]> (q) "
        "p = AveragePool <kernel_shape = [3, 1], pads = [1, 0, 1, 0], count_include_pad = 1> (t) "
        "r = Transpose <perm = [0, 2, 1, 3]> (p) h = Mul (r, three) e = Add (h, two) "
        "s = Sqrt (e) i = Reciprocal (s) y = Mul (w, i)",
    ),
}


def norm_of(text: str, opset: int) -> onnx.ModelProto:
    rng = np.random.default_rng(11)
    u = ", ".join(map(str, rng.standard_normal(36).round(3)))
    rows = ", ".join(map(str, rng.standard_normal(6).round(3)))
    shape = "N,I,J,K" if "LRN" in text or "w = Unsq" in text else "N,I,J"
    return net(
        f"""g (float[N,4,6] x) => (float[{shape}] y) <float[6,6] u = {{{u}}}, float[6] rows = {{{rows}}}, float tenth =
        {{0.1}}, float two = {{2}}, float three = {{3}}, float[4] ones = {{1, 1, 1, 1}},
        float[4] zeros = {{0, 0, 0, 0}}, int64[1] last = {{2}}, int64[1] one = {{1}}> {{ a = MatMul (x, u) {text} }}""",
        opset,
        ir=11,
    )


def opset_of(name: str) -> int:
    return 23 if name.startswith("RMS") else 21


@pytest.mark.parametrize("name", NORMS)
def test_one_operator_is_its_parts(name: str) -> None:
    """The same function exported as one node, and as sums, products and elementwise functions."""
    whole, parts = (norm_of(text, opset_of(name)) for text in NORMS[name])
    x, x0 = noise(3, 4, 6, seed=1), noise(3, 4, 6, seed=2)
    y = run(whole, {"x": x})["y"]
    near(y, run(parts, {"x": x})["y"])
    ct = noise(*y.shape, seed=3)
    got = multipliers(whole, x, ct, x0)
    near(got, multipliers(parts, x, ct, x0), 1e-4)
    assert imbalance(whole, x, x0, ct, got, head="prob") < EXACT


@pytest.mark.parametrize("name", NORMS)
def test_zero_and_constant_references_of_normalisations(name: str) -> None:
    whole = norm_of(NORMS[name][0], opset_of(name))
    x = np.concatenate([noise(2, 4, 6, seed=1), np.zeros((1, 4, 6), F), np.ones((1, 4, 6), F)])
    ct = noise(*run(whole, {"x": x})["y"].shape, seed=3)
    for x0 in (np.zeros_like(x), np.ones_like(x), x.copy()):
        got = multipliers(whole, x, ct, x0)
        assert np.isfinite(got).all()
        if not np.array_equal(x, x0):
            assert imbalance(whole, x, x0, ct, got, head="prob") < 1e-4


@pytest.mark.parametrize("gap", [1.0, 30.0, 300.0])
def test_softmax_of_far_apart_logits(gap: float) -> None:
    """e^gap in a product with its inverse would leave nothing of a float32."""
    model = net("g (float[N,6] x) => (float[N,6] y) { y = Softmax (x) }")
    x, x0 = F(gap) * noise(3, 6, seed=1), noise(3, 6, seed=2)
    ct = noise(3, 6, seed=3)
    got = multipliers(model, x, ct, x0)
    # Terms of the size of the gap add up to a change of the size of 1.
    assert imbalance(model, x, x0, ct, got, head="prob") < 1e-6 * max(1.0, gap)


def test_masked_logits_are_no_change() -> None:
    """A mask adds -inf to the logits, at x and at the reference alike."""
    model = net(
        """g (float[N,6] x) => (float[N,6] y) <float[6] zeros = {0, 0, 0, 0, 0, 0},
        bool[6] hidden = {0, 1, 0, 0, 1, 0}, float never = {-inf}> {
        m = Where (hidden, never, zeros) z = Add (x, m) y = Softmax (z) }"""
    )
    x, x0, ct = noise(3, 6, seed=1), noise(3, 6, seed=2), noise(3, 6, seed=3)
    got = multipliers(model, x, ct, x0)
    assert np.isfinite(got).all() and not got[:, [1, 4]].any()
    assert imbalance(model, x, x0, ct, got, head="prob") < EXACT


SPELT = {
    "1 / s": "r = Sqrt(e) i = Div(one, r) n = Mul(c, i)",
    "reciprocal": "r = Sqrt(e) i = Reciprocal(r) n = Mul(i, c)",
    "power": "i = Pow(e, minus) n = Mul(c, i)",
    "folded": "r = Sqrt(e) i = Reciprocal(r) k = Mul(i, gain) n = Mul(c, k)",
    "quotient": "r = Sqrt(e) n = Div(c, r)",
}
NORMAL = """m = ReduceMean <keepdims = 1> (h, a) c = Sub(h, m) s = Mul(c, c) v = ReduceMean <keepdims = 1> (s, a)
    e = Add(v, eps)"""


def _renamed(names: Mapping[str, str]) -> Callable[[re.Match[str]], str]:
    return lambda found: names.get(found[0], found[0])


def stacked(spelling: str, depth: int) -> onnx.ModelProto:
    """depth times: a product, a normalisation spelt out, a rectifier."""
    one = f"h = MatMul(x, w) {NORMAL} {SPELT[spelling]} o = Relu(n)"
    body, before = "", "x"
    for k in range(depth):
        own = {name: f"{name}{k}" for name in "hmcsveriko"} | {"n": f"n{k}", "x": before, "w": "w"}
        body += re.sub(r"\w+", _renamed(own), one)
        before = f"o{k}"
    model = net(f"""g (float[N,8] x) => (float[N,8] y) <int64[1] a = {{1}}, float eps = {{0.00001}}, float one = {{1}},
        float minus = {{-0.5}}, float gain = {{1}}> {{ {body} y = MatMul({before}, w) }}""")
    model.graph.initializer.append(numpy_helper.from_array(floats(8, 8, seed=6), "w"))
    return model


@pytest.mark.parametrize("spelling", SPELT)
def test_normalisations_spelt_out_stay_in_range(spelling: str) -> None:
    """12 of them, at a constant reference, where 1/s⁰ = 1/√ε = 316: halves of a product would grow 158-fold at each.
    All spellings are the quotient's."""
    x = floats(2, 8, seed=5)
    maps = {}
    for depth in (1, 12):
        explainer = onnxplain.compile(stacked(spelling, depth), "deeplift.rescale", target=2)
        maps[depth] = explainer(x).attribution
        run_ = session(stacked(spelling, depth))
        y, y0 = (np.asarray(run_.run(["y"], {"x": at})[0], float)[:, 2] for at in (x, 0 * x))
        assert np.abs(maps[depth].sum(1) - (y - y0)).max() <= 1e-3 * np.abs(y - y0).max()
        assert np.abs(maps[depth]).max() <= 1e3 * np.abs(y - y0).max()
    want = onnxplain.compile(stacked("quotient", 1), "deeplift.rescale", target=2)(x).attribution
    assert np.abs(maps[1] - want).max() <= 1e-4 * np.abs(want).max()
