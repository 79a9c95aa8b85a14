"""Smooth activations as lines from the origin, or from h(0). METHODS 1.24; errors 37 and 38 of the paper."""

from __future__ import annotations

import math

import numpy as np

from ...rewriter.emit import Emit
from ...rewriter.graph import Value
from ...rewriter.linear import Linear, Local, Scale
from ...rewriter.rules import Rule
from ...rewriter.site import Refuse, Site
from ..gates import tangent
from ..gradient.pointwise import SELU_GAMMA

NEAR = 1e-4
"""Below |x| a quotient is the derivative: rounding of h(x) - h(0) would show."""

THROUGH_ZERO = frozenset(
    "Tanh Swish Gelu HardSwish Elu Celu Selu Softsign Mish Erf Sin Tan Sinh Asin Atan Asinh Atanh Sqrt".split()
)
"""h(0) = 0: y = (h(x0) / x0) x."""
ABOVE_ZERO = {
    "Sigmoid": 0.5,
    "Softplus": math.log(2.0),
    "Exp": 1.0,
    "Cos": 1.0,
    "Cosh": 1.0,
    "Acos": math.pi / 2,
}
"""h(0): y = ((h(x0) - h(0)) / x0) x + h(0)."""
CURVED = THROUGH_ZERO | frozenset(ABOVE_ZERO) | {"HardSigmoid", "Pow"}


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
        return Local(Scale(slope(site, g, base)), offset=g.number(base, site.y) if base else None)

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
    """(h(x) - h(0)) / x, in closed form where there is one."""
    x, y = site.data, site.y
    if site.op == "Swish":
        return g.Sigmoid(g.Mul(x, float(site.attr("alpha", 1.0))))
    if site.op == "HardSwish":
        return g.HardSigmoid(x, alpha=1 / 6, beta=0.5)
    if site.op == "Mish":
        return g.Tanh(g.Softplus(x))
    if site.op == "Softsign":
        return g.Reciprocal(g.Add(g.Abs(x), 1.0))
    if site.op == "Gelu" and site.attr("approximate", "none") == "none":
        return g.Mul(g.Add(g.Erf(g.Mul(x, math.sqrt(0.5))), 1.0), 0.5)
    if site.op == "Sqrt":
        return _quotient(g, y, x, g.number(0.0, y))
    if site.op == "Sigmoid":  # (σ(x) - ½) / x without the difference
        return _quotient(g, g.Mul(g.Tanh(g.Mul(x, 0.5)), 0.5), x, g.number(0.25, y))
    if site.op in ("Elu", "Celu", "Selu"):
        return _quotient(g, y, x, g.number(_right_of_zero(site), y))
    rise = g.Sub(y, base) if base else y
    (part,) = (part for part in tangent(site, g).maps[:1] if part is not None)
    return _quotient(g, rise, x, _factor(part))


def _right_of_zero(site: Site) -> float:
    """h'(0), which these have from the right."""
    return SELU_GAMMA if site.op == "Selu" else 1.0


def _factor(part: Linear) -> Value:
    if not isinstance(part, Scale) or isinstance(part.d, float):
        raise Refuse("its derivative is no factor")
    return part.d


def _quotient(g: Emit, top: Value, x: Value, limit: Value) -> Value:
    """top / x, the limit next to 0."""
    near = g.Less(g.Abs(x), NEAR)
    value: Value = g.Where(near, limit, g.Div(top, g.Where(near, g.number(1.0, x), x)))
    return value


def masked(site: Site, g: Emit) -> Local:
    """y = (h(x0) / x0) x; the constant h(0) where x0 = 0."""
    x, y = site.data, site.y
    zero = g.Equal(x, 0.0)
    none = g.number(0.0, y)
    ratio = g.Where(zero, none, g.Div(y, g.Where(zero, g.number(1.0, x), x)))
    return Local(Scale(ratio), offset=g.Where(zero, y, none))


__all__ = ["CURVED", "secants"]
