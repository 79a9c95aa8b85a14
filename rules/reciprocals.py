"""Products with a reciprocal: normalisations that are spelt out as x times 1/s."""

from __future__ import annotations

import numpy as np

from ..rewriter.emit import Emit
from ..rewriter.graph import Value
from ..rewriter.linear import Local, Scale
from ..rewriter.site import Site

SHAPES = frozenset("Identity Cast Reshape Flatten Squeeze Unsqueeze Transpose Expand Tile".split())


def is_reciprocal(x: Value) -> bool:
    """Whether x is 1/s, s^-1, v^-1/2, or that times a parameter, in whatever shape: the scale of a normalisation that
    is spelt out."""
    while x.inputs:
        node = x.inputs[0]
        if not node.inputs:  # random numbers
            return False
        first, *others = node.inputs
        if node.op == "Reciprocal" or (node.op == "Div" and not first.inputs):
            return True
        if node.op == "Pow":
            p = getattr(others[0], "values", None)
            return p is not None and bool(np.isin(p, (-0.5, -1.0)).all())
        if node.op == "Mul" and first.inputs and others[0].inputs:
            return False
        if node.op not in SHAPES | {"Mul"}:
            return False
        x = others[0] if node.op == "Mul" and not first.inputs else first
    return False


def by_reciprocal(site: Site, g: Emit, over: int) -> Local:
    """a b with b the reciprocal of a deviation, by `weighted`."""
    (a, a0), (b, b0) = ((site.node.inputs[i], site.reference.node.inputs[i]) for i in (1 - over, over))
    first, second = weighted(g, a, a0, b, b0)
    return Local.elementwise(site, *map(Scale, (first, second) if over else (second, first)))


def weighted(g: Emit, a: Value, a0: Value, b: Value, b0: Value) -> tuple[Value, Value]:
    """m_a = b b⁰ (b + b⁰) / (b² + b⁰²) and m_b = (b² a + b⁰² a⁰) / (b² + b⁰²) of a product a b: the weights of
    `quotient_chord`, for b = 1/s.

    Halves would send m (b + b⁰)/2 back, and where the reference is constant b⁰ = 1/√ε: the terms cancel in the end, but
    a few normalisations later they have left the range of a float32.
    """
    size = g.Max(g.Abs(b), g.Abs(b0))
    none = g.Equal(size, 0.0)
    unit = g.Where(none, 1.0, size)
    v, v0 = g.Div(b, unit), g.Div(b0, unit)  # of size 1: no square leaves the range
    square, square0 = g.Mul(v, v), g.Mul(v0, v0)
    norm = g.Where(none, 1.0, g.Add(square, square0))
    upper = g.Mul(g.Div(g.Mul(v, v0), norm), g.Add(b, b0))
    return upper, g.Div(g.Add(g.Mul(square, a), g.Mul(square0, a0)), norm)


__all__ = ["by_reciprocal", "is_reciprocal", "weighted"]
