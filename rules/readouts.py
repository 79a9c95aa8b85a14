"""From the attribution to a heat map, inside the graph. METHODS 0.7."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..rewriter.emit import Emit
from ..rewriter.errors import OptionError, nearest
from ..rewriter.graph import Value
from ..rewriter.method import Reduce

Step = Callable[[Emit, Value, int], Value]


def keep(g: Emit, cotangent: Value, x: Value) -> Value:
    """The gradient itself."""
    return cotangent


def times_input(g: Emit, cotangent: Value, x: Value) -> Value:
    """x times its cotangent; x is the model's input, not the picture shown."""
    return g.Mul(cotangent, x)


def _per_sample(g: Emit, m: Value, reduce: str) -> Value:
    """ReduceMax, ReduceMin, ... over everything but the batch, kept at size 1."""
    value: Value = getattr(g, reduce)(
        m, g.Range(g.scalar(1), g.Squeeze(g.Shape(g.Shape(m))), g.scalar(1)), keepdims=1
    )
    return value


def _ratio(g: Emit, top: Value, bottom: Value) -> Value:
    """top / bottom, and 0 where bottom is 0: a constant map gives zeros, never NaN."""
    zero = g.Equal(bottom, 0.0)
    return g.Where(zero, 0.0, g.Div(top, g.Where(zero, 1.0, bottom)))


def maxabs(g: Emit, m: Value, axis: int) -> Value:
    """max over channels of |m| (Ayyar 2021 Eq. 6)."""
    return g.ReduceMax(g.Abs(m), g.ints(axis), keepdims=0)


def channel_sum(g: Emit, m: Value, axis: int) -> Value:
    """Σ over channels of m."""
    return g.ReduceSum(m, g.ints(axis), keepdims=0)


def abssum_p99(g: Emit, m: Value, axis: int) -> Value:
    """Σ over channels of |m|, from the minimum to the 99th percentile (linear interpolation) to [0, 1]."""
    total = g.ReduceSum(g.Abs(m), g.ints(axis), keepdims=0)
    low, high = _per_sample(g, total, "ReduceMin"), _quantile(g, total, 0.99)
    return g.Clip(_ratio(g, g.Sub(total, low), g.Sub(high, low)), g.number(0.0, m), g.number(1.0, m))


def _quantile(g: Emit, m: Value, q: float) -> Value:
    """The q-quantile of each sample of a (N, H, W) map, kept at size 1."""
    flat = g.Reshape(m, g.ints(0, -1))
    count = g.Squeeze(g.Shape(flat, start=1, end=2))
    sorted_, _ = g.ops("TopK", flat, g.Shape(flat, start=1, end=2), outputs=2, axis=1, largest=0)
    place = g.Mul(g.Cast(g.Sub(count, g.scalar(1)), to=1), g.constant(np.asarray(q, np.float32)))
    below = g.Cast(g.Floor(place), to=7)
    above = g.Min(g.Add(below, g.scalar(1)), g.Sub(count, g.scalar(1)))
    weight = g.cast(g.Sub(place, g.Floor(place)), m)
    a, b = g.Gather(sorted_, below, axis=1), g.Gather(sorted_, above, axis=1)
    return g.Reshape(g.Add(a, g.Mul(weight, g.Sub(b, a))), g.ints(-1, 1, 1))


def minmax(g: Emit, m: Value, axis: int) -> Value:
    """(m - min) / (max - min) over the whole map, all channels together (Nie 2018)."""
    low, high = _per_sample(g, m, "ReduceMin"), _per_sample(g, m, "ReduceMax")
    return _ratio(g, g.Sub(m, low), g.Sub(high, low))


def peak(g: Emit, m: Value, axis: int) -> Value:
    """m / max m, for maps that are not negative."""
    return _ratio(g, m, _per_sample(g, m, "ReduceMax"))


def symmetric(g: Emit, m: Value, axis: int) -> Value:
    """m / max |m|, in [-1, 1]."""
    return _ratio(g, m, _per_sample(g, g.Abs(m), "ReduceMax"))


def centre(g: Emit, m: Value, axis: int) -> Value:
    """m / (2 max |m|) + 1/2, colours kept (Kindermans 2017 Fig. 5); a zero map is grey."""
    return g.Add(g.Mul(symmetric(g, m, axis), 0.5), 0.5)


def unit(g: Emit, m: Value, axis: int) -> Value:
    """m / ‖m‖₂."""
    return _ratio(g, m, _per_sample(g, m, "ReduceL2"))


def jet(g: Emit, m: Value, axis: int) -> Value:
    """A map in [0, 1] in jet colours: (N, H, W) -> (N, H, W, 3), index min(255, floor(256 m))."""
    index = g.Cast(g.Clip(g.Floor(g.Mul(m, 256.0)), g.number(0.0, m), g.number(255.0, m)), to=7)
    return g.Gather(g.constant(jet_table()), index, axis=0)


def jet_table() -> np.ndarray:
    """256 x 3 float32, from the piecewise-linear segments of the jet colour map."""
    segments = (
        ((0, 0.35, 0.66, 0.89, 1), (0, 0, 1, 1, 0.5)),
        ((0, 0.125, 0.375, 0.64, 0.91, 1), (0, 0, 1, 1, 0, 0)),
        ((0, 0.11, 0.34, 0.65, 1), (0.5, 1, 1, 0, 0)),
    )
    at = np.linspace(0, 1, 256)
    return np.stack([np.interp(at, x, y) for x, y in segments], axis=1).astype(np.float32)


STEPS: dict[str, Step] = {
    "maxabs": maxabs,
    "sum": channel_sum,
    "abssum_p99": abssum_p99,
    "minmax": minmax,
    "max": peak,
    "sym": symmetric,
    "centre": centre,
    "unit": unit,
    "jet": jet,
}
REDUCING = frozenset({"maxabs", "sum", "abssum_p99"})


def readout(spec: str) -> Reduce:
    """A readout by name, or several joined by commas: "maxabs,minmax,jet".

    maxabs, sum and abssum_p99 turn (N, C, H, W) into (N, H, W); the others keep the shape, jet adds colours.
    Raises OptionError for an unknown name, or jet over a map that still has channels.
    """
    names = [name.strip() for name in spec.split(",") if name.strip()]
    for name in names:
        if name not in STEPS:
            raise OptionError(f"no readout {name!r}{nearest(name, STEPS)}; there are {', '.join(STEPS)}")
    if not names or ("jet" in names and (names[0] not in REDUCING or names[-1] != "jet")):
        raise OptionError(f"reduce={spec!r}: start with one of {', '.join(sorted(REDUCING))}; jet comes last")

    def apply(g: Emit, m: Value, axis: int) -> Value:
        rank = list(m.shape) if m.shape is not None else None
        for name in names:
            m = STEPS[name](g, m, axis)
        m.shape = _shape(rank, names, axis)
        return m

    return apply


def _shape(
    shape: list[int | str | None] | None, names: list[str], axis: int
) -> list[int | str | None] | None:
    """All axes but the first, as far as known."""
    if shape is None:
        return None
    rest = list(shape)
    if set(names) & REDUCING:
        del rest[axis]
    return [*rest[1:], 3] if names[-1] == "jet" else rest[1:]
