"""Relevance through nodes without weights, against formulas in float64 on nets of a few nodes.

Everything runs lrp.epsilon from a given cotangent. Errors of float32 are below 1e-6 of the largest element; 1e-5 is
accepted.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from onnxplain.rewriter.compile import Request, compile_model
from onnxplain.rewriter.errors import UnsupportedError
from tests.rewriter.nets import net
from tests.rules.forward import session
from tests.rules.test_relevance_golden import METHODS

Doubles = NDArray[np.float64]
RNG = np.random.default_rng(11)


def draw(*shape: int) -> Doubles:
    return np.asarray(RNG.normal(size=shape).astype(np.float32), np.float64)


def relevance(body: str, x: Doubles, r: Doubles, opset: int = 18, **options: Any) -> Doubles:
    made, _ = compile_model(
        net(body, opset), METHODS["lrp.epsilon"], Request(target="cotangent", head="prob", options=options)
    )
    feeds = {"x": x.astype(np.float32), "cotangent": r.astype(np.float32)}
    return np.asarray(session(made).run(["attribution"], feeds)[0], np.float64)


def close(got: Doubles, want: Doubles) -> None:
    assert got.shape == want.shape
    assert np.abs(got - want).max() <= 1e-5 * max(np.abs(want).max(), 1e-3)


def stab(z: Doubles) -> Doubles:
    return np.asarray(z + 1e-6 * np.where(z >= 0, 1, -1))


def constants(**values: Any) -> str:
    """Initialisers in the text form of ONNX."""
    found = []
    for name, value in values.items():
        array = np.asarray(value, np.float32)
        numbers = ", ".join(f"{float(v):.9g}" for v in array.ravel())
        dims = f"[{','.join(map(str, array.shape))}]" if array.ndim else ""
        found.append(f"float{dims} {name} = {{{numbers}}}")
    return f"<{', '.join(found)}>"


TWO = "(float[N,8] x) => (float[N,4] y)"
SPLIT = "a, b = Split <axis = 1, num_outputs = 2> (x)"


def halves(body: str, **options: Any) -> tuple[Doubles, Doubles, Doubles, Doubles, Doubles]:
    """(a, b, R, R_a, R_b) of y = f(a, b), a and b the halves of x."""
    x, r = draw(2, 8), draw(2, 4)
    got = relevance(f"g {TWO} {{ {SPLIT} {body} }}", x, r, **options)
    return x[:, :4], x[:, 4:], r, got[:, :4], got[:, 4:]


@pytest.mark.parametrize(("op", "sign"), [("Add", 1), ("Sub", -1), ("Sum", 1), ("Mean", 1)])
def test_a_sum_shares_in_proportion_to_its_terms(op: str, sign: int) -> None:
    a, b, r, left, right = halves(f"y = {op}(a, b)")
    whole = (a + sign * b) / (2 if op == "Mean" else 1)
    share = r / stab(whole) / (2 if op == "Mean" else 1)
    close(left, a * share)
    close(right, sign * b * share)


@pytest.mark.parametrize("op", ["Add", "Sub", "Sum", "Mean"])
def test_or_equally(op: str) -> None:
    _, _, r, left, right = halves(f"y = {op}(a, b)", add="equal")
    close(left, r / 2)
    close(right, r / 2)


def test_a_repeated_term_gets_the_sum_of_its_shares() -> None:
    x, r, t = draw(2, 4), draw(2, 3, 4), draw(3, 1)
    body = (
        f"g (float[N,4] x) => (float[N,3,4] y) {constants(t=t)} "
        "{ one = Constant <value_ints = [1]> () u = Unsqueeze(x, one) w = Mul(u, t) y = Add(u, w) }"
    )
    z = x[:, None] * (1 + t)
    close(relevance(body, x, r), (z * r / stab(z)).sum(1))


@pytest.mark.parametrize("mode", ["denominator", "ignore", "distribute"])
def test_a_constant_term_is_a_bias(mode: str) -> None:
    c, x, r = draw(4), draw(2, 4), draw(2, 4)
    body = f"g (float[N,4] x) => (float[N,4] y) {constants(c=c)} {{ y = Add(c, x) }}"
    want = x * r / stab(x + c) if mode == "denominator" else x * r / stab(x)
    close(relevance(body, x, r, bias=mode), want)


def test_pools_share_in_proportion_inside_their_windows() -> None:
    x, r = draw(2, 3, 4, 4), draw(2, 3, 2, 2)
    body = "g (float[N,3,4,4] x) => (float[N,3,2,2] y) "
    body += "{ y = AveragePool <kernel_shape = [2, 2], strides = [2, 2]> (x) }"
    blocks = x.reshape(2, 3, 2, 2, 2, 2)
    share = r[:, :, :, None, :, None] / stab(blocks.mean((3, 5), keepdims=True)) / 4
    close(relevance(body, x, r), (blocks * share).reshape(x.shape))


@pytest.mark.parametrize(
    ("node", "count"),
    [
        ("GlobalAveragePool(x)", 16),
        ("ReduceMean <keepdims = 1> (x, axes)", 16),
        ("ReduceSum <keepdims = 1> (x, axes)", 1),
    ],
)
def test_means_and_sums_share_in_proportion(node: str, count: int) -> None:
    x, r = draw(2, 3, 4, 4), draw(2, 3, 1, 1)
    body = f"g (float[N,3,4,4] x) => (float[N,3,1,1] y) {{ axes = Constant <value_ints = [2, 3]> () y = {node} }}"
    close(relevance(body, x, r), x / count * r / stab(x.sum((2, 3), keepdims=True) / count))


def test_a_resize_shares_in_proportion() -> None:
    x, r = np.abs(draw(1, 1, 2, 3)), draw(1, 1, 4, 6)
    body = (
        "g (float[N,1,2,3] x) => (float[N,1,4,6] y) { s = Constant <value_floats = [1.0, 1.0, 2.0, 2.0]> () "
        'y = Resize <mode = "linear"> (x, , s) }'
    )
    made = session(net(body))
    eye = np.eye(6, dtype=np.float32).reshape(6, 1, 2, 3)
    a = np.asarray(made.run(None, {"x": eye})[0], np.float64).reshape(6, 24)
    want = x.reshape(1, 6) * ((r.reshape(1, 24) / stab(x.reshape(1, 6) @ a)) @ a.T)
    close(relevance(body, x, r), want.reshape(x.shape))


@pytest.mark.parametrize(
    "node",
    [
        "Relu(x)",
        "LeakyRelu(x)",
        "Clip(x, low, high)",
        "Tanh(x)",
        "Sigmoid(x)",
        "Elu(x)",
        "HardSwish(x)",
        "Exp(x)",
        "Abs(x)",
        "Neg(x)",
        "Mul(x, high)",
        "Mul(high, x)",
        "Div(x, high)",
        "Div(high, x)",
        "Pow(x, two)",
        "LpNormalization(x)",
    ],
)
def test_functions_of_one_element_pass_relevance_on(node: str) -> None:
    x, r = draw(2, 5), draw(2, 5)
    body = f"g (float[N,5] x) => (float[N,5] y) {constants(low=-0.5, high=0.5, two=2)} {{ y = {node} }}"
    close(relevance(body, x, r), r)


def test_lrn_passes_relevance_on() -> None:
    x, r = draw(1, 4, 2, 2), draw(1, 4, 2, 2)
    close(relevance("g (float[N,4,2,2] x) => (float[N,4,2,2] y) { y = LRN <size = 3> (x) }", x, r), r)


def test_the_winner_of_a_pool_takes_all_and_windows_add_up() -> None:
    x, r = draw(1, 1, 1, 5), draw(1, 1, 1, 3)
    x[0, 0, 0] = [1, 5, 2, 3, 3]
    body = "g (float[N,1,1,5] x) => (float[N,1,1,3] y) { y = MaxPool <kernel_shape = [1, 3]> (x) }"
    want = np.zeros((1, 1, 1, 5))
    want[..., 1], want[..., 3] = r[..., 0] + r[..., 1], r[..., 2]  # of equal ones the first
    close(relevance(body, x, r), want)


def test_two_factors_get_half_each() -> None:
    _, _, r, left, right = halves("y = Mul(a, b)")
    close(left, r / 2)
    close(right, r / 2)


@pytest.mark.parametrize(
    "gate",
    [
        "s = Sigmoid(b)",
        "s = HardSigmoid(b)",
        "s = Softmax(b)",
        "z = Constant <value_float = 0.0> () o = Constant <value_float = 1.0> () s = Clip(b, z, o)",
        "z = Constant <value_float = 0.0> () o = Constant <value_float = 6.0> () c = Clip(b, z, o) s = Div(c, o)",
        "t = Sigmoid(b) i = Identity(t) u = Transpose <perm = [1, 0]> (i) s = Transpose <perm = [1, 0]> (u)",
    ],
)
def test_a_gate_gets_nothing(gate: str) -> None:
    _, _, r, left, right = halves(f"{gate} y = Mul(s, a)")
    close(left, r)
    assert not right.any()


def test_relu6_is_no_gate() -> None:
    _, _, r, left, right = halves(
        "z = Constant <value_float = 0.0> () o = Constant <value_float = 6.0> () s = Clip(b, z, o) y = Mul(s, a)"
    )
    close(left, r / 2)
    close(right, r / 2)


def test_a_quotient_goes_to_the_numerator() -> None:
    _, _, r, left, right = halves("y = Div(a, b)")
    close(left, r)
    assert not right.any()


NORMS = {
    "layer": ("LayerNormalization <axis = -1> (x, gamma, beta)", (2, 3, 4), 4, (2,)),
    "instance": ("InstanceNormalization(x, gamma, beta)", (2, 3, 4), 3, (2,)),
    "group": ("GroupNormalization <num_groups = 2> (x, gamma, beta)", (2, 4, 3), 4, (2,)),
    "mean-variance": ("MeanVarianceNormalization <axes = [2]> (x)", (2, 3, 4), 3, (2,)),
}


def normed(kind: str, mode: str = "denominator", **options: Any) -> tuple[Doubles, Doubles, Doubles]:
    """(R_x, its formula, R): x ⊙ (g - mean g) with g = γ R / (σ stab(y))."""
    node, shape, size, axes = NORMS[kind]
    x, r, gamma, beta = draw(*shape), draw(*shape), draw(size), draw(size)
    dims = ",".join(map(str, shape[1:]))
    body = (
        f"g (float[N,{dims}] x) => (float[N,{dims}] y) {constants(gamma=gamma, beta=beta)} {{ y = {node} }}"
    )
    got = relevance(body, x, r, 21, bias=mode, **options)
    wide = x.reshape(shape[0], 2, -1) if kind == "group" else x
    c = wide - wide.mean(axes, keepdims=True)
    sigma = np.sqrt((c**2).mean(axes, keepdims=True) + (0 if kind == "mean-variance" else 1e-5))
    if kind == "mean-variance":
        gamma, beta = np.ones(size), np.zeros(size)
    if kind != "layer":
        gamma, beta = gamma[:, None], beta[:, None]
    normal = (c / sigma).reshape(shape)
    z = normal * gamma + (beta if mode == "denominator" else 0)
    back = (gamma * r / stab(z)).reshape(wide.shape) / sigma
    back = back - back.mean(axes, keepdims=True)
    return got, x * back.reshape(shape), r


@pytest.mark.parametrize("mode", ["denominator", "ignore"])
@pytest.mark.parametrize("kind", NORMS)
def test_norms_count_the_deviation_from_the_mean_at_a_fixed_spread(kind: str, mode: str) -> None:
    got, want, _ = normed(kind, mode)
    close(got, want)


@pytest.mark.parametrize("kind", NORMS)
def test_or_pass_relevance_on(kind: str) -> None:
    got, _, r = normed(kind, norm="pass")
    close(got, r)


def test_a_batch_normalisation_on_its_own_is_affine() -> None:
    x, r = draw(2, 3), draw(2, 3)
    gamma, beta, mean = draw(3), draw(3), draw(3)
    body = (
        f"g (float[N,3] x) => (float[N,3] y) {constants(s=gamma, b=beta, m=mean, v=[1.0, 4.0, 0.25])} "
        "{ y = BatchNormalization <epsilon = 0.0> (x, s, b, m, v) }"
    )
    scale = gamma / np.array([1.0, 2.0, 0.5])
    y = (x - mean) * scale + beta
    close(relevance(body, x, r), x * scale * r / stab(y))
    close(relevance(body, x, r, norm="pass"), r)


ATTENTION = (
    "g (float[N,3,12] x) => (float[N,3,4] y) { q, k, v = Split <axis = 2, num_outputs = 3> (x) "
    "t = Transpose <perm = [0, 2, 1]> (k) s = MatMul(q, t) p = Softmax(s) y = MatMul(p, v) }"
)


def parts(x: Doubles) -> tuple[Doubles, Doubles, Doubles, Doubles, Doubles]:
    q, k, v = np.split(x, 3, 2)
    s = q @ k.transpose(0, 2, 1)
    p = np.exp(s - s.max(-1, keepdims=True))
    return q, k, v, s, p / p.sum(-1, keepdims=True)


def test_attention_lets_relevance_through_the_values() -> None:
    x, r = draw(2, 3, 12), draw(2, 3, 4)
    _, _, v, _, p = parts(x)
    got = relevance(ATTENTION, x, r)
    close(got[..., 8:], v * (p.transpose(0, 2, 1) @ (r / stab(p @ v))))
    assert not got[..., :8].any()


def test_attnlrp_lets_half_of_it_through_the_scores() -> None:
    x, r = draw(2, 3, 12), draw(2, 3, 4)
    q, k, v, s, p = parts(x)
    half = r / stab(2 * (p @ v))
    at_p = p * (half @ v.transpose(0, 2, 1))
    at_s = s * (at_p - p * at_p.sum(-1, keepdims=True))
    back = at_s / stab(2 * s)
    want = np.concatenate(
        [q * (back @ k), k * (back.transpose(0, 2, 1) @ q), v * (p.transpose(0, 2, 1) @ half)], 2
    )
    close(relevance(ATTENTION, x, r, attention="attnlrp"), want)


@pytest.mark.parametrize("choice", ["value", "attnlrp"])
@pytest.mark.parametrize("fill", [-np.inf, -3.4e38, -1e9])
def test_masked_scores_make_no_nan(fill: float, choice: str) -> None:
    model = net(
        ATTENTION.replace("s = MatMul(q, t)", "u = MatMul(q, t) s = Add(u, m)").replace(
            "y) {", "y) <float[3,3] m = {0, -1, 0, 0, 0, 0, 0, 0, 0}> {"
        )
    )
    mask = np.array([[0, fill, 0], [0, 0, fill], [0, 0, 0]], np.float32)
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(mask, "m"))
    x, r = draw(1, 3, 12), draw(1, 3, 4)
    request = Request(target="cotangent", head="prob", options={"attention": choice})
    made, _ = compile_model(model, METHODS["lrp.epsilon"], request)
    feeds = {"x": x.astype(np.float32), "cotangent": r.astype(np.float32)}
    got = np.asarray(session(made).run(["attribution"], feeds)[0])
    assert np.isfinite(got).all() and np.abs(got).max() > 0


def test_without_a_softmax_the_factors_share() -> None:
    body = (
        "g (float[N,3,8] x) => (float[N,3,3] y) { a, b = Split <axis = 2, num_outputs = 2> (x) "
        "t = Transpose <perm = [0, 2, 1]> (b) y = MatMul(a, t) }"
    )
    x, r = draw(2, 3, 8), draw(2, 3, 3)
    a, b = np.split(x, 2, 2)
    back = r / stab(2 * (a @ b.transpose(0, 2, 1)))
    close(relevance(body, x, r), np.concatenate([a * (back @ b), b * (back.transpose(0, 2, 1) @ a)], 2))


def test_einsum_with_a_weight_shares_in_proportion() -> None:
    w, x, r = draw(4, 3), draw(2, 5, 4), draw(2, 5, 3)
    body = (
        f"g (float[N,5,4] x) => (float[N,5,3] y) {constants(w=w)} "
        '{ y = Einsum <equation = "nsk,km->nsm"> (x, w) }'
    )
    close(relevance(body, x, r), x * ((r / stab(x @ w)) @ w.T))


def test_a_product_with_an_active_bias_shares_with_it() -> None:
    w, x, r = draw(4, 4), draw(2, 8), draw(2, 4)
    body = f"g {TWO} {constants(w=w)} {{ {SPLIT} y = Gemm(a, w, b) }}"
    a, b = x[:, :4], x[:, 4:]
    share = r / stab(a @ w + b)
    close(relevance(body, x, r), np.concatenate([a * (share @ w.T), b * share], 1))


def test_a_softmax_at_the_head_has_its_derivative() -> None:
    x, r = draw(2, 4), draw(2, 4)
    p = np.exp(x) / np.exp(x).sum(1, keepdims=True)
    got = relevance("g (float[N,4] x) => (float[N,4] y) { y = Softmax(x) }", x, r)
    close(got, p * (r - (p * r).sum(1, keepdims=True)))


@pytest.mark.parametrize(
    ("op", "share"),
    [
        ("ReduceSumSquare", lambda x: x**2 / (x**2).sum(1, keepdims=True)),
        ("ReduceLogSum", lambda x: x / x.sum(1, keepdims=True)),
        ("ReduceLogSumExp", lambda x: np.exp(x) / np.exp(x).sum(1, keepdims=True)),
        ("ReduceL1", lambda x: np.abs(x) / np.abs(x).sum(1, keepdims=True)),
        ("ReduceL2", lambda x: x**2 / (x**2).sum(1, keepdims=True)),
    ],
)
@pytest.mark.parametrize("keepdims", [0, 1])
def test_sums_of_functions_share_in_proportion(op: str, share: Any, keepdims: int) -> None:
    x, r = np.abs(draw(2, 4, 3)) + 0.1, draw(2, *([1] * keepdims), 3)
    dims = "1,3" if keepdims else "3"
    body = (
        f"g (float[N,4,3] x) => (float[N,{dims}] y) "
        f"{{ axes = Constant <value_ints = [1]> () y = {op} <keepdims = {keepdims}> (x, axes) }}"
    )
    close(relevance(body, x, r), share(x) * r.reshape(2, 1, 3))


def test_what_has_no_rule_is_refused_by_name() -> None:
    body = (
        "g (float[N,4] x) => (float[N,1] y) { axes = Constant <value_ints = [1]> () y = ReduceProd(x, axes) }"
    )
    with pytest.raises(UnsupportedError, match=r"ReduceProd.*product of many"):
        relevance(body, draw(2, 4), draw(2, 1))
    body = f"g {TWO} {{ {SPLIT} y = PRelu(a, b) }}"
    with pytest.raises(UnsupportedError, match=r"PRelu.*depends on the explained input"):
        relevance(body, draw(2, 8), draw(2, 4))
