"""The same map with other weights: relevance and pattern rules both need it."""

from __future__ import annotations

import math
from dataclasses import replace

from ..rewriter.emit import Emit
from ..rewriter.graph import Value
from ..rewriter.linear import Chain, Convolve, Deconvolve, Dense, LeftTimes, Linear, RightTimes, Scale
from ..rewriter.linear.weighted import Reweigh
from ..rewriter.site import Refuse

WEIGHTED = (Convolve, Deconvolve, Dense, LeftTimes, RightTimes)


def reweighed(part: Linear, f: Reweigh, g: Emit) -> Linear:
    """The map with f(W) in place of its weight W.

    W is the effective weight: a constant factor of the map (Gemm's alpha) is multiplied into it first, and the
    factor of the result is 1. In a Chain the one part with a weight is changed, the others (turned or dropped axes)
    stay. A result of f without a shape gets that of W.

    Raises Refuse where the map has no weight.
    """
    if not weighted(part):
        raise Refuse("its map has no weight that could be replaced")
    if isinstance(part, Chain):
        gain = math.prod(number for inner in part.maps if (number := _number(inner)) is not None)

        def whole(w: Value) -> Value:
            return f(_times(w, gain, g))

        rest = [inner for inner in part.maps if _number(inner) is None]
        return Chain(*(reweighed(inner, whole, g) if weighted(inner) else inner for inner in rest))
    if isinstance(part, Dense):
        alpha = part.alpha
        return replace(part, alpha=1.0).reweigh(lambda w: _like(f(_times(w, alpha, g)), w))
    assert isinstance(part, WEIGHTED)
    return part.reweigh(lambda w: _like(f(w), w))


def weighted(part: Linear) -> bool:
    """Whether the map, or a part of the chain, has a weight."""
    return any(map(weighted, part.maps)) if isinstance(part, Chain) else isinstance(part, WEIGHTED)


def _number(part: Linear) -> float | None:
    """The factor of a map that only multiplies with a number."""
    return float(part.d) if isinstance(part, Scale) and isinstance(part.d, (int, float)) else None


def _times(w: Value, factor: float, g: Emit) -> Value:
    return w if factor == 1.0 else _like(g.Mul(w, factor), w)


def _like(made: Value, w: Value) -> Value:
    """Emitted values have no shape of their own."""
    if made.shape is None:
        made.shape = None if w.shape is None else list(w.shape)
    return made
