"""Elementwise operators of several inputs. ONNX broadcasts; `Local.elementwise` sums back."""

from __future__ import annotations

from ...rewriter.emit import Emit
from ...rewriter.graph import Value
from ...rewriter.linear import Keep, Linear, Local, Scale
from ...rewriter.site import Site
from .base import GRADIENT


def _each(site: Site) -> list[Value]:
    return [x for x in site.x if x is not None]


@GRADIENT.on("Add", "Sum")
def add(site: Site, g: Emit) -> Local:
    """dy = Σ dx_i."""
    return Local.elementwise(site, *(Keep() for _ in site.x))


@GRADIENT.on("Sub")
def sub(site: Site, g: Emit) -> Local:
    """dy = da - db."""
    return Local.elementwise(site, Keep(), Scale(-1.0))


@GRADIENT.on("Mean")
def mean(site: Site, g: Emit) -> Local:
    """dy = Σ dx_i / n."""
    return Local.elementwise(site, *(Scale(1.0 / len(site.x)) for _ in site.x))


@GRADIENT.on("Mul")
def mul(site: Site, g: Emit) -> Local:
    """dy = b da + a db."""
    a, b = _each(site)
    return Local.elementwise(site, Scale(b), Scale(a))


@GRADIENT.on("Div")
def div(site: Site, g: Emit) -> Local:
    """dy = da / b - y / b db."""
    _, b = _each(site)
    share = g.Reciprocal(b)
    lower = Scale(g.Neg(g.Mul(site.y, share))) if site.active[1] else None
    return Local.elementwise(site, Scale(share), lower)


@GRADIENT.on("Pow")
def power(site: Site, g: Emit) -> Local:
    """y = a^p: p a^(p-1) for the base (0 where p = 0), y log a for the exponent (0 where y = 0)."""
    a, p = _each(site)
    base: Linear | None = None
    exponent: Linear | None = None
    p = p if p.dtype == a.dtype else g.cast(p, a)
    if site.active[0]:
        slope = g.Mul(p, g.Pow(a, g.Sub(p, 1.0)))
        base = Scale(g.Where(g.Equal(p, 0.0), 0.0, slope))
    if site.active[1]:
        zero = g.Equal(site.y, 0.0)
        exponent = Scale(g.Where(zero, 0.0, g.Mul(site.y, g.Log(g.Where(zero, 1.0, a)))))
    return Local.elementwise(site, base, exponent)


@GRADIENT.on("Max", "Min")
def extreme(site: Site, g: Emit) -> Local:
    """The winner takes all; the first of equal operands wins."""
    maps: list[Linear | None] = []
    free: Value | None = None
    for x in _each(site):
        wins = g.Equal(x, site.y)
        mine = wins if free is None else g.And(wins, free)
        lost = g.Not(wins)
        free = lost if free is None else g.And(free, lost)
        maps.append(Scale(g.cast(mine, site.y)))
    return Local.elementwise(site, *maps)


@GRADIENT.on("Where")
def where(site: Site, g: Emit) -> Local:
    """y = c ? a : b."""
    chosen = g.cast(site.data, site.y)
    return Local.elementwise(site, None, Scale(chosen), Scale(g.Sub(1.0, chosen)))


@GRADIENT.on("Mod")
def mod(site: Site, g: Emit) -> Local:
    """y = a - b q with q piecewise constant: dy = da - q db, q = (a - y) / b."""
    a, b = _each(site)
    quotient = g.Div(g.Sub(site.y, a), b) if site.active[1] else None
    return Local.elementwise(site, Keep(), None if quotient is None else Scale(quotient))
