"""Secants and derivatives of one operand, of which DeepLIFT makes its chords."""

from __future__ import annotations

import numpy as np

from ..rewriter.emit import Emit
from ..rewriter.graph import Value
from ..rewriter.linear import Local, Scale
from ..rewriter.site import Refuse, Site
from .gradient import GRADIENT


def gradient(site: Site, g: Emit) -> Local:
    """What is linear is its own chord."""
    rule = GRADIENT.find(site)
    if rule is None:
        raise Refuse("no rule for this operator")
    return rule(site, g)


def near(g: Emit, x: Value, dx: Value, tau: float) -> Value:
    """|Δx| < tau max(1, |x|): nothing but rounding is left of the change of a large x."""
    return g.Less(g.Abs(dx), g.Mul(g.Max(g.Abs(x), 1.0), tau))


def secant(g: Emit, x: Value, dx: Value, dy: Value, slope: Value, tau: float) -> Value:
    """Δy / Δx, or the derivative where Δx is next to nothing."""
    small = near(g, x, dx, tau)
    return g.Where(small, slope, g.Div(dy, g.Where(small, 1.0, dx)))


def slope(site: Site, g: Emit, i: int = 0) -> Value:
    """The derivative by input i, 0 where it is not finite."""
    maps = gradient(site, g).maps
    part, x = maps[i] if i < len(maps) else None, site.node.inputs[i]
    if part is None:
        return g.number(0.0, x)
    d = g.number(part.d, x) if isinstance(part, Scale) else part.push(g, g.number(1.0, x))
    if site.op in ("Pow", "Asin", "Acos", "Acosh", "Atanh"):
        d = g.Where(g.LessOrEqual(g.Abs(d), float(np.finfo(x.dtype).max)), d, 0.0)
    return d


__all__ = ["gradient", "near", "secant", "slope"]
