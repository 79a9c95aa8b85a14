"""Every rule for nodes with weights against its formula in float64, on dense matrices of the layers.

The oracle knows no convolution: it sees A and b of y = x A + b. Inputs have both signs unless a Relu stands in front.
ε = 0.25 and relevance 0 where |y| < 0.05 keep quotients from amplifying float32 rounding; measured errors are below
3e-6 of the largest element, and 2e-5 is accepted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from onnxplain.rewriter.compile import Request, compile_model
from tests.rules.forward import session
from tests.rules.layers import CASES, Case, Doubles, dense
from tests.rules.test_relevance_golden import METHODS

TOLERANCE = 2e-5
EPS = 0.25
LOW, HIGH = -4.0, 3.5


@dataclass(frozen=True)
class Layer:
    """x (N, in), A (in, out), b (out,), R (N, out); and how the bias counts."""

    x: Doubles
    a: Doubles
    b: Doubles
    r: Doubles
    bias: str

    @property
    def up(self) -> Doubles:
        return np.maximum(self.a, 0)

    @property
    def down(self) -> Doubles:
        return np.minimum(self.a, 0)

    def shared(
        self, terms: list[tuple[Doubles, Doubles]], b: Doubles, r: Doubles, eps: float = EPS
    ) -> Doubles:
        """Σ v (r / z) Vᵀ, one term and one input at a time."""
        z = sum((v @ w for v, w in terms), np.zeros_like(r)) + (0 if self.bias == "ignore" else b)
        s = np.zeros_like(r)
        np.divide(r, z + eps * np.where(z >= 0, 1, -1), out=s, where=(z != 0) | (eps != 0))
        found = sum((v * (s @ w.T) for v, w in terms), np.zeros_like(self.x))
        if self.bias == "distribute":
            field = (self.a != 0).astype(np.float64)
            found = found + (s * b / np.maximum(field.sum(0), 1)) @ field.T
        return np.asarray(found)

    def signed(self, above: Doubles, below: Doubles) -> list[tuple[Doubles, Doubles]]:
        return [(np.maximum(self.x, 0), above), (np.minimum(self.x, 0), below)]


def zero(n: Layer) -> Doubles:
    return n.shared([(n.x, n.a)], n.b, n.r, 0.0)


def epsilon(n: Layer) -> Doubles:
    return n.shared([(n.x, n.a)], n.b, n.r)


def gamma(n: Layer) -> Doubles:
    c, y = 0.7, n.x @ n.a + n.b
    more, less = n.a + c * n.up, n.a + c * n.down
    above = n.shared(n.signed(more, less), n.b + c * np.maximum(n.b, 0), n.r * (y > 0))
    return above + n.shared(n.signed(less, more), n.b + c * np.minimum(n.b, 0), n.r * (y < 0))


def gamma_plain(n: Layer) -> Doubles:
    return n.shared([(n.x, n.a + 0.7 * n.up)], n.b + 0.7 * np.maximum(n.b, 0), n.r)


def alpha_beta(n: Layer) -> Doubles:
    above = n.shared(n.signed(n.up, n.down), np.maximum(n.b, 0), n.r)
    return 3.0 * above - 2.0 * n.shared(n.signed(n.down, n.up), np.minimum(n.b, 0), n.r)


def z_plus(n: Layer) -> Doubles:
    return n.shared(n.signed(n.up, n.down), np.maximum(n.b, 0), n.r)


def w_square(n: Layer) -> Doubles:
    return n.shared([(np.ones_like(n.x), n.a**2)], np.zeros_like(n.b), n.r)


def flat(n: Layer) -> Doubles:
    return n.shared([(np.ones_like(n.x), (n.a != 0).astype(np.float64))], np.zeros_like(n.b), n.r)


def z_box(n: Layer) -> Doubles:
    low, high = np.full_like(n.x, LOW), np.full_like(n.x, HIGH)
    return n.shared([(n.x, n.a), (-low, n.up), (-high, n.down)], np.zeros_like(n.b), n.r)


Oracle = Callable[[Layer], Doubles]
RULES: dict[str, tuple[str, dict[str, Any], Oracle]] = {
    "zero": ("lrp.zero", {}, zero),
    "epsilon": ("lrp.epsilon", {"epsilon": EPS}, epsilon),
    "gamma": ("lrp.gamma", {"epsilon": EPS, "gamma": 0.7}, gamma),
    "gamma-plain": ("lrp.gamma", {"epsilon": EPS, "gamma": 0.7, "variant": "plain"}, gamma_plain),
    "alpha-beta": ("lrp.alpha-beta", {"epsilon": EPS, "alpha": 3.0, "beta": 2.0}, alpha_beta),
    "z-plus": ("lrp.z-plus", {"epsilon": EPS}, z_plus),
    "w-square": ("lrp.w-square", {"epsilon": EPS}, w_square),
    "flat": ("lrp.flat", {"epsilon": EPS}, flat),
    "z-box": ("lrp.z-box", {"epsilon": EPS, "low": LOW, "high": HIGH}, z_box),
}
MODES = ("denominator", "ignore", "distribute")


def explain(case: Case, method: str, options: dict[str, Any], x: Doubles, r: Doubles, **how: bool) -> Doubles:
    made, _ = compile_model(case.model(**how), METHODS[method], Request(target="cotangent", options=options))
    run = session(made)
    shape = run.get_inputs()[1].shape[1:]
    feeds = {"x": x.reshape(-1, *case.x), "cotangent": r.reshape(-1, *shape)}
    feeds = {name: value.astype(np.float32) for name, value in feeds.items()}
    return np.asarray(run.run(["attribution"], feeds)[0], np.float64).reshape(len(x), -1)


def draw(case: Case, *, rectified: bool) -> tuple[NDArray[Any], Doubles, Doubles, Doubles]:
    """x of three samples, A, b, R. Never the same as float64 and float32, so x is float32 first."""
    rng = np.random.default_rng(7)
    a, b = dense(case)
    x = rng.normal(size=(3, a.shape[0])).astype(np.float32).astype(np.float64)
    y = (np.maximum(x, 0) if rectified else x) @ a + b
    r = rng.normal(size=y.shape) * (np.abs(y) > 0.05) * (np.abs(y - b) > 0.05)
    return x, a, b, r.astype(np.float32).astype(np.float64)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    ("name", "mode"), [(name, mode) for name, case in CASES.items() for mode in MODES[: 3 if case.b else 1]]
)
def test_a_rule_is_its_formula(name: str, rule: str, mode: str) -> None:
    case, (method, options, oracle) = CASES[name], RULES[rule]
    x, a, b, r = draw(case, rectified=False)
    got = explain(case, method, {**options, "bias": mode}, x, r, bias=True)
    want = oracle(Layer(x, a, b, r, mode))
    assert np.abs(got - want).max() <= TOLERANCE * np.abs(want).max()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", ["conv-groups", "gemm-alpha", "matmul-tokens"])
def test_an_input_known_to_be_positive_changes_nothing(name: str, rule: str) -> None:
    case, (method, options, oracle) = CASES[name], RULES[rule]
    x, a, b, r = draw(case, rectified=True)
    got = explain(case, method, options, x, r, bias=True, rectified=True)
    want = oracle(Layer(np.maximum(x, 0), a, b, r, "denominator"))
    assert np.abs(got - want).max() <= TOLERANCE * np.abs(want).max()


def test_relative_epsilon_is_measured_by_each_sample() -> None:
    case = CASES["conv"]
    x, a, b, r = draw(case, rectified=False)
    x = (x * np.array([[1.0], [10.0], [0.1]])).astype(np.float32).astype(np.float64)
    got = explain(case, "lrp.epsilon", {"epsilon": 0.5, "eps_mode": "relative"}, x, r, bias=True)
    z = x @ a + b
    eps = 0.5 * np.sqrt((z**2).mean(1, keepdims=True))
    want = x * ((r / (z + eps * np.where(z >= 0, 1, -1))) @ a.T)
    assert np.abs(got - want).max() <= TOLERANCE * np.abs(want).max()


def test_a_box_with_bounds_of_each_channel() -> None:
    case = CASES["conv-groups"]
    x, a, b, r = draw(case, rectified=False)
    low, high = [-4.0, -5.0, -6.0, -4.5], [4.0, 3.0, 5.0, 3.5]
    got = explain(case, "lrp.z-box", {"epsilon": EPS, "low": low, "high": high}, x, r, bias=True)
    n = Layer(x, a, b, r, "denominator")
    lows, highs = (np.broadcast_to(np.repeat(v, 25), x.shape) for v in (low, high))
    want = n.shared([(x, a), (-lows, n.up), (-highs, n.down)], np.zeros_like(b), r)
    assert np.abs(got - want).max() <= TOLERANCE * np.abs(want).max()
