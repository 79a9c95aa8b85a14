"""Smooth activations as lines from the origin, or from h(0). docs/methods/linearscope.md."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from ...rewriter.emit import Emit
from ...rewriter.graph import Value
from ...rewriter.linear import Local, Scale
from ...rewriter.rules import Rule
from ...rewriter.site import Refuse, Site
from ..gradient.pointwise import SELU_ALPHA, SELU_GAMMA

NEAR = 1e-4
"""Below |x| an odd function's slope is h'(0): the two differ by less than x²."""
BENT = 1e-2
"""Below |x| the slope from 0 to x is h'(x/2), which differs from it by x² h'''/24: rounding of h(x) - h(0), divided by
x, would show more."""

ABOVE_ZERO = {
    "Sigmoid": 0.5,
    "Softplus": math.log(2.0),
    "Exp": 1.0,
    "Cos": 1.0,
    "Cosh": 1.0,
    "Acos": math.pi / 2,
}
"""h(0): y = ((h(x0) - h(0)) / x0) x + h(0)."""
ODD = {
    "Tanh": 1.0,
    "Erf": 2.0 / math.sqrt(math.pi),
    "Sin": 1.0,
    "Tan": 1.0,
    "Sinh": 1.0,
    "Asin": 1.0,
    "Atan": 1.0,
    "Asinh": 1.0,
    "Atanh": 1.0,
}
"""h'(0) of odd functions: y = (h(x0) / x0) x."""
GATED: dict[str, Callable[[Site, Emit, Value], Value]] = {
    "Swish": lambda site, g, x: g.Sigmoid(g.Mul(x, float(site.attr("alpha", 1.0)))),
    "HardSwish": lambda site, g, x: g.HardSigmoid(x, alpha=1 / 6, beta=0.5),
    "Mish": lambda site, g, x: g.Tanh(g.Softplus(x)),
    "Softsign": lambda site, g, x: g.Reciprocal(g.Add(g.Abs(x), 1.0)),
    "Gelu": lambda site, g, x: _gelu(site, g, x),
}
"""y = φ(x) x: the slope φ(x0)."""
RISES: dict[str, Callable[[Emit, Value, Value], Value]] = {
    "Sigmoid": lambda g, x, y: g.Mul(g.Tanh(g.Mul(x, 0.5)), 0.5),
    "Cos": lambda g, x, y: g.Mul(_squared(g, g.Sin(g.Mul(x, 0.5))), -2.0),
    "Cosh": lambda g, x, y: g.Mul(_squared(g, g.Sinh(g.Mul(x, 0.5))), 2.0),
    "Acos": lambda g, x, y: g.Neg(g.Asin(x)),
    "Softplus": lambda g, x, y: g.Sub(y, ABOVE_ZERO["Softplus"]),
    "Exp": lambda g, x, y: g.Sub(y, 1.0),
}
"""h(x) - h(0), without the difference where an identity saves it."""
MIDDLE: dict[str, Callable[[Emit, Value], Value]] = {
    "Softplus": lambda g, half: g.Sigmoid(half),
    "Exp": lambda g, half: g.Exp(half),
}
"""h'(x/2), for those that no identity saves."""
LIMITS = {"Sigmoid": 0.25, "Cos": 0.0, "Cosh": 0.0, "Acos": -1.0}
"""h'(0)."""
CURVED = (
    frozenset("Elu Celu Selu Sqrt HardSigmoid Pow".split())
    | frozenset(ABOVE_ZERO)
    | frozenset(ODD)
    | frozenset(GATED)
)


def secants(mask: bool) -> Rule:
    """The rule for all of them. mask: y = (h(x0) / x0) x whatever h(0) is, unbounded next to 0 (the paper's words)."""

    def secant(site: Site, g: Emit) -> Local:
        if any(site.active[1:]):
            raise Refuse("one of its parameters depends on the explained input")
        if site.op == "Pow" and not _positive_power(site):
            from .freeze import taylor  # it is built over this module

            return taylor(site, g)
        base = at_zero(site)
        if mask and base:
            return masked(site, g)
        return Local.elementwise(
            site, Scale(slope(site, g, base)), offset=g.number(base, site.y) if base else None
        )

    return secant


def _positive_power(site: Site) -> bool:
    power = site.constant(1)
    return power is not None and bool((power > 0).all())


def at_zero(site: Site) -> float:
    """h(0)."""
    if site.op == "HardSigmoid":
        return float(np.clip(float(site.attr("beta", 0.5)), 0.0, 1.0))
    return ABOVE_ZERO.get(site.op, 0.0)


def slope(site: Site, g: Emit, base: float) -> Value:
    """(h(x) - h(0)) / x, in closed form where there is one; its limit at 0."""
    x, y, op = site.data, site.y, site.op
    if op in GATED:
        return GATED[op](site, g, x)
    if op in ODD:
        return _quotient(g, y, x, ODD[op], NEAR)
    if op in ("Elu", "Celu", "Selu"):
        return _exponential(site, g)
    if op == "HardSigmoid":
        return _ramp(site, g, base)
    if op in ("Sqrt", "Pow"):
        return _power(site, g)
    rise = RISES[op](g, x, y)
    if op in MIDDLE:
        return _quotient(g, rise, x, MIDDLE[op](g, g.Mul(x, 0.5)), BENT)
    return _quotient(g, rise, x, LIMITS[op], 0.0)


def _gelu(site: Site, g: Emit, x: Value) -> Value:
    """Φ(x), or ½ (1 + tanh(√(2/π) (x + 0.044715 x³)))."""
    if site.attr("approximate", "none") == "none":
        gate = g.Erf(g.Mul(x, math.sqrt(0.5)))
    else:
        bend = g.Add(g.Mul(_squared(g, x), 0.044715), 1.0)
        gate = g.Tanh(g.Mul(g.Mul(x, math.sqrt(2 / math.pi)), bend))
    value: Value = g.Mul(g.Add(gate, 1.0), 0.5)
    return value


def _squared(g: Emit, v: Value) -> Value:
    value: Value = g.Mul(v, v)
    return value


def _exponential(site: Site, g: Emit) -> Value:
    """γ for x > 0; below γ α (e^(x/τ) - 1) / x, whose limit γ α / τ is another one. γ and τ are 1 but for Selu and
    Celu; Celu has α = τ."""
    x = site.data
    alpha = float(site.attr("alpha", SELU_ALPHA if site.op == "Selu" else 1.0))
    gamma = float(site.attr("gamma", SELU_GAMMA)) if site.op == "Selu" else 1.0
    tau = alpha if site.op == "Celu" else 1.0
    middle = g.Mul(g.Exp(g.Mul(x, 0.5 / tau)), gamma * alpha / tau)
    near = g.Where(g.Greater(x, 0.0), g.number(gamma, x), middle)
    return _quotient(g, site.y, x, near, BENT * min(1.0, abs(tau)))


def _ramp(site: Site, g: Emit, base: float) -> Value:
    """clip(α x + β, 0, 1) - clip(β, 0, 1) = clip(α x + β - h(0), -h(0), 1 - h(0))."""
    x, alpha, beta = site.data, float(site.attr("alpha", 0.2)), float(site.attr("beta", 0.5))
    line = g.Add(g.Mul(x, alpha), beta - base)
    rise = g.Clip(line, g.number(-base, x), g.number(1.0 - base, x))
    return _quotient(g, rise, x, alpha if 0.0 < beta < 1.0 else 0.0, 0.0)


def _power(site: Site, g: Emit) -> Value:
    """x^p / x, p > 0; at 0 the line is flat, but for p = 1."""
    x = site.data
    limit: Value | float = 0.0
    if site.op == "Pow":
        limit = g.constant(np.asarray(site.required(1, "the exponent") == 1, x.dtype))
    return _quotient(g, site.y, x, limit, 0.0)


def _quotient(g: Emit, top: Value, x: Value, limit: Value | float, near: float) -> Value:
    """top / x, the limit where |x| <= near."""
    close = g.LessOrEqual(g.Abs(x), near)
    value: Value = g.Where(close, g.number(limit, x), g.Div(top, g.Where(close, g.number(1.0, x), x)))
    return value


def masked(site: Site, g: Emit) -> Local:
    """y = (h(x0) / x0) x; the constant h(0) where x0 = 0."""
    x, y = site.data, site.y
    zero = g.Equal(x, 0.0)
    none = g.number(0.0, y)
    ratio = g.Where(zero, none, g.Div(y, g.Where(zero, g.number(1.0, x), x)))
    return Local(Scale(ratio), offset=g.Where(zero, y, none))


__all__ = ["CURVED", "secants"]
