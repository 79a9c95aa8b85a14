"""DeepLIFT's chords where a value is not finite. Such values occur in the branch that a Where does not take, and at
the reference: log 0, 1/0.

DeepLIFT needs the change of every value. An infinite value counts as a large number (2^64 in float32), NaN as 0
(`Emit.finite`). Every node that reads the value counts it alike, so the contributions still sum to the change.
Only nodes that `rewriter.singular` finds are written in this form.
"""

from __future__ import annotations

from ..rewriter.emit import Emit, large
from ..rewriter.graph import Value
from ..rewriter.linear import Local, Scale
from ..rewriter.rules import Rule
from ..rewriter.site import Site
from .slopes import secant, slope

COUNTED = (
    "{op} at {name}: an infinite value, at the picture or at the reference, counts as a large one, NaN as 0"
)


def counted(site: Site, g: Emit, tau: float, i: int = 0) -> Value:
    """The chord where a value may not be finite; x and y as `Emit.finite` has them."""
    g.note(COUNTED.format(op=site.op, name=site.name))
    x, x0 = (g.finite(end.node.inputs[i]) for end in (site, site.reference))
    return secant(
        g,
        x,
        g.Sub(x, x0),
        g.Sub(g.finite(site.y), g.finite(site.reference.y)),
        g.finite(slope(site, g, i)),
        tau,
    )


def finite_ends(rule: Rule, tau: float) -> Rule:
    """The rule of an elementwise operator, where all of its values are in range; else `counted`."""

    def sound(site: Site, g: Emit) -> Local:
        local = rule(site, g)
        if not g.guarded:
            return local
        part = local.map
        assert isinstance(part, Scale) and not isinstance(part.d, (int, float))
        ends = (site.data, site.y, site.reference.data, site.reference.y)
        size = g.total([g.Abs(v) for v in ends])
        inside = g.Less(size, large(site.y.dtype))
        return Local(Scale(g.Where(inside, part.d, counted(site, g, tau))), offset=local.offset)

    sound.__name__ = getattr(rule, "__name__", "rule")
    return sound


def counted_quotient(site: Site, g: Emit, upper: Value, lower: Value) -> tuple[Value, Value]:
    """m_a and m_b where a value may not be finite (see `counted`): there m_a is 1/b of the side that has one, and m_b
    takes what is left of the change."""
    g.note(COUNTED.format(op=site.op, name=site.name))
    here, there = ((*end.node.inputs, end.y) for end in (site, site.reference))
    ends = [(g.finite(v), g.finite(v0)) for v, v0 in zip(here, there, strict=True)]
    da, db, dy = (g.Sub(v, v0) for v, v0 in ends)
    b, b0 = ends[1]
    wide = g.Where(g.Equal(b, 0.0), b0, b)
    alone = g.Equal(wide, 0.0)
    share = g.Where(alone, 0.0, g.Reciprocal(g.Where(alone, 1.0, wide)))
    still = g.Equal(db, 0.0)
    rest = g.Where(still, 0.0, g.Div(g.Sub(dy, g.Mul(share, da)), g.Where(still, 1.0, db)))
    inside = g.And(_whole(g, site), _whole(g, site.reference))
    return g.Where(inside, upper, share), g.Where(inside, lower, rest)


def _whole(g: Emit, site: Site) -> Value:
    """Whether the operands of a Div and the quotient are in range."""
    size = g.total([g.Abs(v) for v in (*site.node.inputs, site.y)])
    return g.Less(size, large(site.y.dtype))


def taken(g: Emit, x: Value) -> Value:
    """An operand of Where, which the condition may keep out because it is not finite."""
    return g.finite(x) if x.inputs else x


__all__ = ["counted", "counted_quotient", "finite_ends", "taken"]
