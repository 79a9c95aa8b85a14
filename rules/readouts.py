"""From the attribution to a heat map, inside the graph. docs/methods/README.md, "Post-processing"."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from ..rewriter.emit import Emit
from ..rewriter.errors import OptionError, nearest
from ..rewriter.graph import Value
from ..rewriter.method import Reduce
from ..rewriter.scene import Scene

Step = Callable[[Emit, Value, int], Value]


def keep(scene: Scene) -> Value:
    """The cotangent itself."""
    return scene.cotangent


def times_input(scene: Scene) -> Value:
    """x times its cotangent; x is the model's input, not the picture shown."""
    return scene.g.Mul(scene.cotangent, scene.x)


def times_change(scene: Scene) -> Value:
    """The cotangent times the change of the input against its reference."""
    return scene.g.Mul(scene.cotangent, scene.g.Sub(scene.x, scene.reference))


def _per_sample(g: Emit, m: Value, reduce: str) -> Value:
    """ReduceMax, ReduceMin, ... over everything but the batch, kept at size 1."""
    return g.op(reduce, m, g.ints(*range(1, len(m.shape))), keepdims=1)


def _varies(g: Emit, m: Value) -> Value:
    """Per sample: is the map anything but constant?"""
    return g.Greater(_per_sample(g, m, "ReduceMax"), _per_sample(g, m, "ReduceMin"))


def _divide(g: Emit, top: Value, bottom: Value, varies: Value) -> Value:
    """top / bottom where the sample varies and bottom > 0, else 0: never NaN."""
    usable = g.And(varies, g.Greater(bottom, 0.0))
    value = g.Where(usable, g.Div(top, g.Where(usable, bottom, 1.0)), 0.0)
    value.shape = top.shape
    return value


def maxabs(g: Emit, m: Value, axis: int) -> Value:
    """max over channels of |m| (Ayyar 2021 Eq. 6)."""
    return g.ReduceMax(g.Abs(m), g.ints(axis), keepdims=0)


def channel_sum(g: Emit, m: Value, axis: int) -> Value:
    """Σ over channels of m."""
    return g.ReduceSum(m, g.ints(axis), keepdims=0)


def abssum_p99(g: Emit, m: Value, axis: int) -> Value:
    """a = Σ over channels of |m|, from the minimum to the 99th percentile to [0, 1]; where the two are equal
    (less than 1 % of the pixels stand out) the maximum takes the place of the percentile."""
    total = g.ReduceSum(g.Abs(m), g.ints(axis), keepdims=0)
    total.shape = _rest(m.shape, axis)
    low, p99 = _per_sample(g, total, "ReduceMin"), _percentile(g, total, 99)
    high = g.Where(g.Greater(p99, low), p99, _per_sample(g, total, "ReduceMax"))
    above = g.Sub(total, low)
    above.shape = total.shape
    value = _divide(g, above, g.Sub(high, low), _varies(g, total))
    return g.Clip(value, g.number(0.0, m), g.number(1.0, m))


def _percentile(g: Emit, m: Value, percent: int) -> Value:
    """The percentile of each sample, kept at size 1: numpy's "linear", between the values at floor and ceil of
    percent / 100 (count - 1). The place is computed in whole numbers: float32 cannot count a large picture."""
    flat = g.Reshape(m, g.ints(0, -1))
    last = g.Sub(g.Squeeze(g.Shape(flat, start=1, end=2)), g.scalar(1))
    ordered, _ = g.ops("TopK", flat, g.Shape(flat, start=1, end=2), outputs=2, axis=1, largest=0)
    place = g.Mul(last, g.scalar(percent))
    below = g.Div(place, g.scalar(100))
    above = g.Min(g.Add(below, g.scalar(1)), last)
    weight = g.Div(g.cast(g.Sub(place, g.Mul(below, g.scalar(100))), m), 100.0)
    a, b = g.Gather(ordered, below, axis=1), g.Gather(ordered, above, axis=1)
    return g.Reshape(g.Add(a, g.Mul(weight, g.Sub(b, a))), g.ints(-1, *[1] * (len(m.shape) - 1)))


def minmax(g: Emit, m: Value, axis: int) -> Value:
    """(m - min) / (max - min) over the whole map, all channels together (Nie 2018)."""
    low, high = _per_sample(g, m, "ReduceMin"), _per_sample(g, m, "ReduceMax")
    return _divide(g, g.Sub(m, low), g.Sub(high, low), _varies(g, m))


def peak(g: Emit, m: Value, axis: int) -> Value:
    """m / max m, for maps that are not negative."""
    return _divide(g, m, _per_sample(g, m, "ReduceMax"), _varies(g, m))


def symmetric(g: Emit, m: Value, axis: int) -> Value:
    """m / max |m|, in [-1, 1]."""
    return _divide(g, m, _reach(g, m), _varies(g, m))


def _reach(g: Emit, m: Value) -> Value:
    """max |m| of each sample."""
    size = g.Abs(m)
    size.shape = m.shape
    return _per_sample(g, size, "ReduceMax")


def centre(g: Emit, m: Value, axis: int) -> Value:
    """m / (2 max |m|) + 1/2, colours kept (Kindermans 2017 Fig. 5); a constant map gives zeros."""
    varies = _varies(g, m)
    half = _divide(g, m, g.Mul(_reach(g, m), 2.0), varies)
    return g.Where(varies, g.Add(half, 0.5), 0.0)


def unit(g: Emit, m: Value, axis: int) -> Value:
    """m / ‖m‖₂."""
    # The largest value is divided out first: squares of tiny or huge values leave the range of a float32.
    scaled = symmetric(g, m, axis)
    return _divide(g, scaled, _per_sample(g, scaled, "ReduceL2"), _varies(g, m))


def jet(g: Emit, m: Value, axis: int) -> Value:
    """A map in [0, 1] in jet colours: (N, H, W) -> (N, H, W, 3), index min(255, floor(256 m))."""
    index = g.Cast(g.Clip(g.Floor(g.Mul(m, 256.0)), g.number(0.0, m), g.number(255.0, m)), to=7)
    return g.Gather(g.constant(jet_table()), index, axis=0)


def jet_table() -> np.ndarray:
    """`jet_colours` as float32."""
    return jet_colours().astype(np.float32)


def jet_colours() -> npt.NDArray[np.float64]:
    """The 256 colours of jet, (256, 3) in [0, 1]: matplotlib's piecewise linear segments at i/255."""
    segments = (
        ((0, 0.35, 0.66, 0.89, 1), (0, 0, 1, 1, 0.5)),
        ((0, 0.125, 0.375, 0.64, 0.91, 1), (0, 0, 1, 1, 0, 0)),
        ((0, 0.11, 0.34, 0.65, 1), (0.5, 1, 1, 0, 0)),
    )
    steps = np.arange(256) / 255.0
    return np.stack([np.interp(steps, x, y) for x, y in segments], axis=1)


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


def readout(spec: str, channels_last: bool = False) -> Reduce:
    """A readout by name, or several joined by commas: "maxabs,minmax,jet".

    maxabs, sum and abssum_p99 turn (N, C, H, W) into (N, H, W); the others keep the shape, jet adds colours,
    (N, H, W, 3). A constant map gives zeros in all but maxabs and sum. channels_last: (N, H, W, C), whatever
    axis the compiler names. The rank of the attribution must be known.
    Raises OptionError for an unknown name, channels reduced twice, jet over a map that still has channels or
    before another readout; and when it is applied to an attribution without a channel axis, such as (N, F).
    """
    names = [name.strip() for name in spec.split(",") if name.strip()]
    for name in names:
        if name not in STEPS:
            raise OptionError(f"no readout {name!r}{nearest(name, STEPS)}; there are {', '.join(STEPS)}")
    reducing = [name for name in names if name in REDUCING]
    if not names or ("jet" in names and (names[0] not in REDUCING or names[-1] != "jet")):
        raise OptionError(f"reduce={spec!r}: start with one of {', '.join(sorted(REDUCING))}; jet comes last")
    if len(reducing) > 1 or names.count("jet") > 1:
        raise OptionError(f"reduce={spec!r}: only one of {', '.join(sorted(REDUCING))}, and jet only once")

    def apply(g: Emit, m: Value, axis: int) -> Value:
        shape, axis = list(m.shape), -1 if channels_last else axis
        if reducing and len(shape) < 3:
            others = ", ".join(name for name in STEPS if name not in REDUCING and name != "jet")
            raise OptionError(
                f"reduce={spec!r}: an attribution of {len(shape)} axes has no channels to reduce; use {others}"
            )
        for name in names:
            m = STEPS[name](g, m, axis)
            shape = _rest(shape, axis) if name in REDUCING else [*shape, 3] if name == "jet" else shape
            m.shape = shape
        m.shape = shape[1:]  # the compiler knows the batch axis
        return m

    return apply


def _rest(shape: Sequence[int | str | None], axis: int) -> list[int | str | None]:
    """The shape without one axis."""
    rest = list(shape)
    del rest[axis]
    return rest
