"""Smooth activations frozen at x0, against float64: slope and offset at 0, next to it, and far away.

Tolerance: 2e-5 of each slope and offset, plus 1e-6. float32 forward passes differ by 1e-7, which a quotient enlarges:
onnxruntime's Elu is e^x - 1, 6e-6 off at |x| = 0.01 (measured: up to 1.2e-5).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from onnxplain.rules.scope.secants import ABOVE_ZERO, CURVED
from tests.rules.scope.frozen import Doubles, Frozen, net, node

RTOL, ATOL = 2e-5, 1e-6
Function = Callable[[Doubles], Doubles]

NEXT_TO_ZERO = [0.0, 1e-6, -1e-6, 5e-5, -5e-5, 2e-4, -2e-4, 9e-3, -9e-3, 0.011, -0.011, 0.3, -0.7]
WIDE = np.asarray([*NEXT_TO_ZERO, 2.4, -2.4, 30.0, -30.0], np.float32)
FAR = np.append(WIDE, np.asarray([1e3, -1e3], np.float32))
UNIT = np.asarray([*NEXT_TO_ZERO, 0.95, -0.95], np.float32)
POSITIVE = np.asarray([abs(x) for x in NEXT_TO_ZERO] + [2.5, 30.0, 1e4], np.float32)

erf = np.vectorize(math.erf, otypes=[float])
expm1 = np.expm1


def sigmoid(x: Doubles) -> Doubles:
    return np.asarray((1 + np.tanh(x / 2)) / 2)


def softplus(x: Doubles) -> Doubles:
    return np.asarray(np.logaddexp(0, x))


def elu(alpha: float, tau: float = 1.0, gamma: float = 1.0) -> Function:
    return lambda x: gamma * np.where(x > 0, x, alpha * expm1(np.minimum(x, 0) / tau))


def ramp(alpha: float, beta: float) -> Function:
    return lambda x: np.clip(alpha * x + beta, 0, 1)


SELU = 1.6732632423543772, 1.0507009873554805
CASES: list[tuple[str, dict[str, Any], Function, np.ndarray]] = [
    ("Tanh", {}, np.tanh, FAR),
    ("Swish", {}, lambda x: x * sigmoid(x), FAR),
    ("Swish", {"alpha": 1.7}, lambda x: x * sigmoid(1.7 * x), FAR),
    ("Gelu", {}, lambda x: x * (1 + erf(x / math.sqrt(2))) / 2, FAR),
    (
        "Gelu",
        {"approximate": "tanh"},
        lambda x: x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
        FAR,
    ),
    ("HardSwish", {}, lambda x: x * np.clip(x / 6 + 0.5, 0, 1), FAR),
    ("Elu", {}, elu(1.0), FAR),
    ("Elu", {"alpha": 2.0}, elu(2.0), FAR),
    ("Celu", {"alpha": 0.5}, elu(0.5, 0.5), FAR),
    ("Selu", {}, elu(SELU[0], 1.0, SELU[1]), FAR),
    ("Selu", {"alpha": 1.2, "gamma": 0.7}, elu(1.2, 1.0, 0.7), FAR),
    ("Softsign", {}, lambda x: x / (1 + np.abs(x)), FAR),
    ("Mish", {}, lambda x: x * np.tanh(softplus(x)), FAR),
    ("Erf", {}, erf, FAR),
    ("Sin", {}, np.sin, WIDE),
    ("Tan", {}, np.tan, UNIT),
    ("Sinh", {}, np.sinh, WIDE),
    ("Asin", {}, np.arcsin, UNIT),
    ("Atan", {}, np.arctan, FAR),
    ("Asinh", {}, np.arcsinh, FAR),
    ("Atanh", {}, np.arctanh, UNIT),
    ("Sqrt", {}, np.sqrt, POSITIVE),
    ("Sigmoid", {}, sigmoid, FAR),
    ("Softplus", {}, softplus, FAR),
    ("Exp", {}, np.exp, WIDE),
    ("Cos", {}, np.cos, WIDE),
    ("Cosh", {}, np.cosh, WIDE),
    ("Acos", {}, np.arccos, UNIT),
    ("HardSigmoid", {}, ramp(0.2, 0.5), FAR),
    ("HardSigmoid", {"alpha": 0.3, "beta": 1.2}, ramp(0.3, 1.2), FAR),
    ("HardSigmoid", {"alpha": 0.3, "beta": -0.2}, ramp(0.3, -0.2), FAR),
    ("HardSigmoid", {"alpha": 0.25, "beta": 0.0}, ramp(0.25, 0.0), FAR),
    ("Pow", {"power": 2.0}, lambda x: x**2, FAR),
    ("Pow", {"power": 3.0}, lambda x: x**3, WIDE),
    ("Pow", {"power": 1.0}, lambda x: x, FAR),
    ("Pow", {"power": 0.5}, np.sqrt, POSITIVE),
    ("Pow", {"power": 1.5}, lambda x: x**1.5, POSITIVE),
]


def frozen(op: str, attrs: dict[str, Any], x: np.ndarray, freeze: str) -> Frozen:
    attrs = dict(attrs)
    power = {"p": attrs.pop("power")} if op == "Pow" else {}
    opset = 24 if op == "Swish" else 20
    model = net([node(op, "x", *power, **attrs)], [len(x)], power, opset=opset)
    return Frozen(model, x[None], freeze=freeze)


def close(mine: Doubles, wanted: Doubles, what: str) -> None:
    off = np.abs(mine - wanted) - RTOL * np.abs(wanted) - ATOL
    assert (off <= 0).all(), f"{what}: {mine[off > 0]} is not {wanted[off > 0]}"


def diagonal(found: Frozen) -> Doubles:
    assert np.count_nonzero(found.F - np.diag(np.diag(found.F))) == 0
    return np.asarray(np.diag(found.F))


def derivative(h: Function, x: Doubles) -> Doubles:
    step = 1e-6
    return np.asarray((h(x + step) - h(x - step)) / (2 * step))


IDS = [f"{op} {attrs or ''}".strip() for op, attrs, _, _ in CASES]


def test_the_table_is_covered() -> None:
    assert {op for op, *_ in CASES} == set(CURVED)


@pytest.mark.parametrize(("op", "attrs", "h", "x"), CASES, ids=IDS)
def test_the_line_from_h_of_zero(op: str, attrs: dict[str, Any], h: Function, x: np.ndarray) -> None:
    """A = (h(x0) - h(0)) / x0, c = h(0); the slope at 0 is the one on the left of it."""
    found, at = frozen(op, attrs, x, "offset"), x.astype(np.float64)
    zero, base = at == 0, float(h(np.zeros(1))[0])
    near = np.where(zero, 1e-14 if op in ("Sqrt", "Pow") else -1e-7, at)
    slope = (h(near) - base) / near
    if op == "Sqrt" or attrs.get("power") == 0.5:  # infinitely steep there: the line is flat, y1 = y0 = 0
        slope = np.where(zero, 0.0, slope)
    close(diagonal(found), slope, "A")
    close(found.r, np.full(len(x), base), "c")


@pytest.mark.parametrize(("op", "attrs", "h", "x"), CASES, ids=IDS)
def test_the_line_from_the_origin(op: str, attrs: dict[str, Any], h: Function, x: np.ndarray) -> None:
    """mask: A = h(x0) / x0, c = 0; the constant h(0) where x0 = 0. Where h(0) = 0 it is the line above."""
    found, at = frozen(op, attrs, x, "mask"), x.astype(np.float64)
    base = float(h(np.zeros(1))[0])
    if base == 0.0:
        again = frozen(op, attrs, x, "offset")
        assert np.array_equal(again.F, found.F) and np.array_equal(again.r, found.r)
        return
    zero = at == 0
    close(diagonal(found), np.where(zero, 0.0, h(at) / np.where(zero, 1.0, at)), "A")
    close(found.r, np.where(zero, base, 0.0), "c")


@pytest.mark.parametrize(("op", "attrs", "h", "x"), CASES, ids=IDS)
def test_the_tangent(op: str, attrs: dict[str, Any], h: Function, x: np.ndarray) -> None:
    """taylor: A = h'(x0), c = h(x0) - A x0; A = 0 where the derivative is infinite. c is a difference of numbers of
    the size of h and A x0, so it is held to 2e-5 of them."""
    steep = op == "Sqrt" or attrs.get("power") in (0.5, 1.5)
    if steep:
        x = x[(x == 0) | (x > 1e-3)]
    found, at = frozen(op, attrs, x, "taylor"), x.astype(np.float64)
    smooth = np.abs(at) > 1e-5 if op in ("Elu", "Celu", "Selu", "HardSigmoid") else np.full(len(at), True)
    zero = at == 0
    slope = np.where(zero & steep, 0.0, derivative(h, np.where(zero & steep, 1.0, at)))
    mine = diagonal(found)
    assert np.isfinite(mine).all()
    bound = 5e-5 * np.abs(slope) + 1e-6
    assert (np.abs(mine - slope) <= bound)[smooth].all(), (at, mine, slope)
    size = np.abs(h(at)) + np.abs(mine * at)
    assert (np.abs(found.r - (h(at) - mine * at)) <= RTOL * size + ATOL).all()


@pytest.mark.parametrize("freeze", ["offset", "mask", "taylor"])
def test_powers_that_divide_are_constants(freeze: str) -> None:
    x = np.asarray([[0.5, 2.0, -3.0]], np.float32)
    for nodes, weights in (
        ([node("Pow", "x", "p", y="z")], {"p": -2.0}),
        ([node("Reciprocal", "x", y="z")], {}),
    ):
        found = Frozen(net([*nodes, node("Add", "x", "z")], [3], weights), x, freeze=freeze)
        at = x[0].astype(np.float64)
        found.agrees(np.eye(3), at**-2 if weights else 1 / at)


def test_an_exponent_for_every_element() -> None:
    """Powers 0 and below are no lines from the origin: with one of them all are tangents."""
    x = np.asarray([[2.0, 0.0, 3.0, 0.5]], np.float32)
    at, p = x[0].astype(np.float64), np.asarray([2.0, 1.0, 0.5, 3.0])
    found = Frozen(net([node("Pow", "x", "p")], [4], {"p": p}), x)
    found.agrees(np.diag([2.0, 1.0, 3.0**-0.5, 0.25]), 0.0)
    p = np.asarray([2.0, 0.0, 0.5, 3.0])
    found = Frozen(net([node("Pow", "x", "p")], [4], {"p": p}), x)
    slope = p * np.where(p == 0, 0.0, np.where(at == 0, 1, at) ** (p - 1))
    found.agrees(np.diag(slope), at**p - slope * at)


def test_a_power_that_broadcasts() -> None:
    """x (N, 3, 1) to the powers (1, 2): y (N, 3, 2)."""
    x = np.asarray([[[2.0], [0.0], [-3.0]]], np.float32)
    found = Frozen(net([node("Pow", "x", "p")], [3, 1], {"p": np.asarray([1.0, 2.0])}), x)
    wanted = np.zeros((3, 2, 3))
    for i, value in enumerate(x.ravel()):
        wanted[i, :, i] = 1.0, value
    found.agrees(wanted.reshape(6, 3), 0.0)


@pytest.mark.parametrize("op", sorted(ABOVE_ZERO))
def test_a_batch(op: str) -> None:
    """Every sample is frozen at itself: `Frozen` compares y1 = y0 sample by sample."""
    x = np.random.default_rng(1).uniform(-0.9, 0.9, (3, 4)).astype(np.float32)
    for freeze in ("offset", "mask", "taylor"):
        Frozen(net([node(op, "x")], [4]), x, freeze=freeze)
