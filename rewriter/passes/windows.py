"""The cells of a pool's windows: cut out of a tensor, and put back into one.

Slices with steps, and their transpose by interleaving: no operator that a runtime lacks, any rank and geometry, static
or dynamic sizes, and sums in a fixed order.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..emit import Emit, tail_of
from ..graph import Value


@dataclass(frozen=True)
class Window:
    """The geometry of a pool over spatial axes; `first` is the first of them: 2 with channels before space, 1 with
    channels last. x, y: spatial sizes, or None where they are not static."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begins: tuple[int, ...]
    ends: tuple[int, ...]
    ceil: bool
    x: tuple[int, ...] | None
    y: tuple[int, ...] | None
    first: int = 2

    @property
    def rank(self) -> int:
        return len(self.kernel)

    @property
    def axes(self) -> tuple[int, ...]:
        return tuple(range(self.first, self.first + self.rank))

    @property
    def cells(self) -> list[tuple[int, ...]]:
        """Offsets of the cells from the window's corner, row-major."""
        steps = itertools.product(*map(range, self.kernel))
        return [tuple(k * d for k, d in zip(step, self.dilations, strict=True)) for step in steps]

    @property
    def reach(self) -> tuple[int, ...]:
        """Offset of the last cell."""
        return tuple((k - 1) * d for k, d in zip(self.kernel, self.dilations, strict=True))

    @property
    def phases(self) -> list[tuple[int, ...]]:
        """Positions between two steps of the window, row-major."""
        return list(itertools.product(*map(range, self.strides)))

    @property
    def tiles(self) -> bool:
        """Whether windows of several cells lie side by side and cover all of x."""
        if self.x is None or self.y is None or any((*self.begins, *self.ends)):
            return False
        whole = all(n * s == size for n, s, size in zip(self.y, self.strides, self.x, strict=True))
        side = self.kernel == self.strides and set(self.dilations) == {1}
        return side and whole and set(self.kernel) != {1}

    def along(self, axis: int) -> Window:
        """The same window along one axis, a single cell along the others; sizes not known."""

        def alone(values: Sequence[int], other: int) -> tuple[int, ...]:
            return tuple(value if i == axis else other for i, value in enumerate(values))

        return Window(
            alone(self.kernel, 1),
            alone(self.strides, 1),
            alone(self.dilations, 1),
            alone(self.begins, 0),
            alone(self.ends, 0),
            self.ceil,
            None,
            None,
            self.first,
        )

    @property
    def attributes(self) -> dict[str, Any]:
        """Of a MaxPool."""
        return {
            "kernel_shape": list(self.kernel),
            "strides": list(self.strides),
            "dilations": list(self.dilations),
            "pads": [*self.begins, *self.ends],
            "ceil_mode": int(self.ceil),
        }


def window_of(attrs: Mapping[str, Any], x: Value, y: Value) -> Window:
    kernel, strides, pads = (tuple(attrs[key]) for key in ("kernel_shape", "strides", "pads"))
    rank = len(kernel)
    dilations = tuple(attrs.get("dilations") or [1] * rank)
    ceil = bool(attrs.get("ceil_mode", 0))
    return Window(kernel, strides, dilations, pads[:rank], pads[rank:], ceil, space(x), space(y))


def space(v: Value) -> tuple[int, ...] | None:
    tail = tail_of(v)
    return None if tail is None else tail[1:]


def cut_out(g: Emit, v: Value, y: Value, w: Window) -> list[Value]:
    """The cells of all windows of v, as tensors of the size of y. Padding is the lowest finite number."""
    padded = _padded(g, v, w)
    axes, steps = g.ints(*w.axes), g.ints(*w.strides)
    if w.y is not None:
        spans = [(size - 1) * s + 1 for size, s in zip(w.y, w.strides, strict=True)]
        ends = [g.ints(*map(sum, zip(spans, cell, strict=True))) for cell in w.cells]
    else:
        count = g.Shape(y, start=w.first, end=w.first + w.rank)
        span = g.Add(g.Mul(g.Sub(count, g.ints(1)), steps), g.ints(1))
        ends = [g.Add(span, g.ints(*cell)) for cell in w.cells]
    return [g.Slice(padded, g.ints(*cell), end, axes, steps) for cell, end in zip(w.cells, ends, strict=True)]


def _padded(g: Emit, v: Value, w: Window) -> Value:
    if w.x is None or w.y is None:
        ends = tuple(e + (s - 1) * w.ceil for e, s in zip(w.ends, w.strides, strict=True))
    else:
        ends = tuple(
            max(0, (out - 1) * s + reach + 1 - begin - size)
            for size, out, s, reach, begin in zip(w.x, w.y, w.strides, w.reach, w.begins, strict=True)
        )
    lowest = float(np.finfo(np.dtype(v.dtype or np.float32)).min)
    return _pad(g, v, w, w.begins, ends, lowest)


def _pad(
    g: Emit, v: Value, w: Window, begins: Sequence[int], ends: Sequence[int], value: float = 0.0
) -> Value:
    if not any(begins) and not any(ends):
        return v
    before, after = [0] * w.first, [0] * (2 - w.first)
    widths = g.ints(*before, *begins, *after, *before, *ends, *after)
    return g.Pad(v, widths, g.number(value, v), mode="constant")


def put_back(g: Emit, parts: Sequence[Value], x: Value, y: Value, w: Window) -> Value:
    """The transpose of cut_out. Position p of padded x belongs to phase p mod stride; the parts of a phase are shifted
    and added up, the phases interleaved, the whole cut to x."""
    extra = _extra(w)
    sums: dict[tuple[int, ...], Value] = {}
    for part, cell in zip(parts, w.cells, strict=True):
        phase = tuple(c % s for c, s in zip(cell, w.strides, strict=True))
        shift = [c // s for c, s in zip(cell, w.strides, strict=True)]
        moved = _pad(g, part, w, shift, [e - s for e, s in zip(extra, shift, strict=True)])
        sums[phase] = g.Add(sums[phase], moved) if phase in sums else moved
    missing = [phase for phase in w.phases if phase not in sums]
    if missing:
        like = next(iter(sums.values()))
        nothing = g.zeros(like, g.Shape(like))
        sums.update((phase, nothing) for phase in missing)
    return _cut(g, _interleave(g, [sums[phase] for phase in w.phases], y, w, extra), x, w, extra)


def _extra(w: Window) -> tuple[int, ...]:
    """How many positions a phase has more than y: for the cells behind the last corner, and for those of x that no
    window reaches."""
    shifts = tuple(reach // s for reach, s in zip(w.reach, w.strides, strict=True))
    if w.x is None or w.y is None:
        return tuple(shift + 1 for shift in shifts)
    return tuple(
        max(shift, -(-(begin + size) // s) - out)
        for shift, begin, size, s, out in zip(shifts, w.begins, w.x, w.strides, w.y, strict=True)
    )


def _interleave(g: Emit, phases: Sequence[Value], y: Value, w: Window, extra: Sequence[int]) -> Value:
    """Position p of phase r at p * stride + r, one axis after the other, the innermost first."""
    values = list(phases)
    for i in reversed(range(w.rank)):
        stride, behind = w.strides[i], w.axes[i] + 1
        if stride == 1:
            continue
        shape = _interleaved(g, y, w, extra, i)
        groups = [values[j : j + stride] for j in range(0, len(values), stride)]
        stacks = [g.Concat(*(g.Unsqueeze(v, g.ints(behind)) for v in group), axis=behind) for group in groups]
        values = [g.Reshape(stack, shape) for stack in stacks]
    return values[0]


def _interleaved(g: Emit, y: Value, w: Window, extra: Sequence[int], i: int) -> Value:
    """The shape once axis i and those behind it are interleaved."""
    factors = [w.strides[j] if j >= i else 1 for j in range(w.rank)]
    axis = 1 if w.first == 2 else 1 + w.rank
    channels = None if y.shape is None else y.shape[axis]
    if w.y is not None and isinstance(channels, int):
        space = [(size + e) * f for size, e, f in zip(w.y, extra, factors, strict=True)]
        return g.ints(0, *((channels, *space) if w.first == 2 else (*space, channels)))
    grown = g.Mul(g.Add(g.Shape(y, start=w.first, end=w.first + w.rank), g.ints(*extra)), g.ints(*factors))
    return g.join(g.ints(0), *((g.size(y, axis), grown) if w.first == 2 else (grown, g.size(y, axis))))


def _cut(g: Emit, v: Value, x: Value, w: Window, extra: Sequence[int]) -> Value:
    axes, starts = g.ints(*w.axes), g.ints(*w.begins)
    if w.x is None or w.y is None:
        count = g.Shape(x, start=w.first, end=w.first + w.rank)
        return g.Slice(v, starts, g.Add(count, starts), axes)
    made = [(out + e) * s for out, e, s in zip(w.y, extra, w.strides, strict=True)]
    ends = [b + size for b, size in zip(w.begins, w.x, strict=True)]
    if not any(w.begins) and made == ends:
        return v
    return g.Slice(v, starts, g.ints(*ends), axes)
