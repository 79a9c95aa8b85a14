"""WinnerPut and WinnerTake without MaxPool's second output: the windows are cut out of x cell by cell, and the first
cell that equals the window's maximum wins.

x and y must be the MaxPool's own input and output, so that the maximum is equal to its source to the bit. A NaN equals
nothing; its window goes to the last cell. Padding never wins: it is the lowest finite number.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..emit import Emit, tail_of
from ..graph import Node, Value


@dataclass(frozen=True)
class Window:
    """The geometry of a pool over the spatial axes of tensors whose first one is `first`: 2 with channels before
    space, 1 with channels last."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begins: tuple[int, ...]
    ends: tuple[int, ...]
    ceil: bool
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


def window_of(attrs: Mapping[str, Any], first: int = 2) -> Window:
    kernel, strides, pads = (tuple(attrs[key]) for key in ("kernel_shape", "strides", "pads"))
    rank = len(kernel)
    dilations = tuple(attrs.get("dilations") or [1] * rank)
    return Window(
        kernel, strides, dilations, pads[:rank], pads[rank:], bool(attrs.get("ceil_mode", 0)), first
    )


@dataclass(frozen=True)
class Sizes:
    """Spatial sizes of x and y, or None where they are not static."""

    x: tuple[int, ...] | None
    y: tuple[int, ...] | None


def sizes_of(x: Value, y: Value) -> Sizes:
    tails = [tail_of(v) for v in (x, y)]
    return Sizes(*(None if tail is None else tail[1:] for tail in tails))


def winner_put_plain(g: Emit, node: Node) -> Value:
    """WinnerPut(ct, x, y): cell by cell, the winner keeps ct and the rest passes it on; the parts go back by
    interleaving, and overlapping windows add up in a fixed order. Any rank, geometry and size."""
    ct, x, y = node.inputs
    w, sizes = window_of(node.attrs), sizes_of(x, y)
    return put_back(g, shares(g, ct, x, y, w, sizes), x, y, w, sizes)


def winner_take_plain(g: Emit, node: Node) -> Value:
    """WinnerTake(t, x, y): a chain of choices from the last cell to the first."""
    t, x, y = node.inputs
    w, sizes = window_of(node.attrs), sizes_of(x, y)
    xs, ts = cut_out(g, x, y, w, sizes), cut_out(g, t, y, w, sizes)
    taken = ts[-1]
    for cell, value in zip(xs[-2::-1], ts[-2::-1], strict=True):
        taken = g.Where(g.Equal(cell, y), value, taken)
    return taken


def shares(g: Emit, ct: Value, x: Value, y: Value, w: Window, sizes: Sizes) -> list[Value]:
    """What each cell of the windows receives: ct where it is the first that equals y. The last one has what is left,
    since one of them does."""
    *others, _ = cut_out(g, x, y, w, sizes)
    parts, rest = [], ct
    for cell in others:
        hit = g.Equal(cell, y)
        parts.append(g.Where(hit, rest, g.number(0.0, ct)))
        rest = g.Where(hit, g.number(0.0, ct), rest)
    return [*parts, rest]


def cut_out(g: Emit, v: Value, y: Value, w: Window, sizes: Sizes) -> list[Value]:
    """The cells of all windows, as tensors of the size of y."""
    padded = _padded(g, v, w, sizes)
    axes, steps = g.ints(*w.axes), g.ints(*w.strides)
    if sizes.y is not None:
        spans = [(size - 1) * s + 1 for size, s in zip(sizes.y, w.strides, strict=True)]
        ends = [g.ints(*map(sum, zip(spans, cell, strict=True))) for cell in w.cells]
    else:
        count = g.Shape(y, start=w.first, end=w.first + w.rank)
        span = g.Add(g.Mul(g.Sub(count, g.ints(1)), steps), g.ints(1))
        ends = [g.Add(span, g.ints(*cell)) for cell in w.cells]
    return [
        g.Slice(padded, g.ints(*cell), end, axes, steps) for cell, end in zip(w.cells, ends, strict=True)
    ]


def _padded(g: Emit, v: Value, w: Window, sizes: Sizes) -> Value:
    if sizes.x is None or sizes.y is None:
        ends = tuple(e + (s - 1) * w.ceil for e, s in zip(w.ends, w.strides, strict=True))
    else:
        ends = tuple(
            max(0, (out - 1) * s + reach + 1 - begin - size)
            for size, out, s, reach, begin in zip(
                sizes.x, sizes.y, w.strides, w.reach, w.begins, strict=True
            )
        )
    lowest = float(np.finfo(np.dtype(v.dtype or np.float32)).min)
    return _pad(g, v, w, w.begins, ends, lowest)


def _pad(
    g: Emit, v: Value, w: Window, begins: Sequence[int], ends: Sequence[int], value: float = 0.0
) -> Value:
    if not any(begins) and not any(ends):
        return v
    before, after = [0] * w.first, [0] * (2 - w.first)
    return g.Pad(
        v, g.ints(*before, *begins, *after, *before, *ends, *after), g.number(value, v), mode="constant"
    )


def put_back(g: Emit, parts: Sequence[Value], x: Value, y: Value, w: Window, sizes: Sizes) -> Value:
    """The transpose of cut_out: position p of x belongs to phase p mod stride, where the parts are added up side by
    side; the phases are then interleaved and cut to x."""
    extra = _extra(w, sizes)
    sums: dict[tuple[int, ...], Value] = {}
    for part, cell in zip(parts, w.cells, strict=True):
        phase = tuple(c % s for c, s in zip(cell, w.strides, strict=True))
        shift = [c // s for c, s in zip(cell, w.strides, strict=True)]
        moved = _pad(g, part, w, shift, [e - s for e, s in zip(extra, shift, strict=True)])
        sums[phase] = g.Add(sums[phase], moved) if phase in sums else moved
    nothing = next(iter(sums.values()))
    empty = g.Mul(nothing, g.number(0.0, nothing)) if len(sums) < len(w.phases) else nothing
    return _cut(g, interleave(g, [sums.get(phase, empty) for phase in w.phases], y, w, sizes, extra), x, w, sizes, extra)


def _extra(w: Window, sizes: Sizes) -> tuple[int, ...]:
    """How many positions a phase has more than y: for the cells behind the last corner, and for those of x that no
    window reaches."""
    shifts = tuple(reach // s for reach, s in zip(w.reach, w.strides, strict=True))
    if sizes.x is None or sizes.y is None:
        return tuple(shift + 1 for shift in shifts)
    return tuple(
        max(shift, -(-(begin + size) // s) - out)
        for shift, begin, size, s, out in zip(shifts, w.begins, sizes.x, w.strides, sizes.y, strict=True)
    )


def interleave(
    g: Emit, phases: Sequence[Value], y: Value, w: Window, sizes: Sizes, extra: Sequence[int]
) -> Value:
    """Position p of phase r at p * stride + r, one axis after the other, the innermost first."""
    values = list(phases)
    for i in reversed(range(w.rank)):
        stride, axis = w.strides[i], w.axes[i]
        if stride == 1:
            continue
        shape = _interleaved(g, y, w, sizes, extra, i)
        values = [
            g.Reshape(
                g.Concat(*(g.Unsqueeze(v, g.ints(axis + 1)) for v in values[j : j + stride]), axis=axis + 1),
                shape,
            )
            for j in range(0, len(values), stride)
        ]
    return values[0]


def _interleaved(g: Emit, y: Value, w: Window, sizes: Sizes, extra: Sequence[int], i: int) -> Value:
    """The shape once axis i and those behind it are interleaved."""
    space: list[Value] = []
    for j in range(w.rank):
        factor = w.strides[j] if j >= i else 1
        if sizes.y is not None:
            space.append(g.ints((sizes.y[j] + extra[j]) * factor))
        else:
            grown = g.Add(g.size(y, w.axes[j]), g.ints(extra[j]))
            space.append(g.Mul(grown, g.ints(factor)))
    channels = g.size(y, 1 if w.first == 2 else 1 + w.rank)
    order = [channels, *space] if w.first == 2 else [*space, channels]
    return g.join(g.ints(0), *order)


def _cut(g: Emit, v: Value, x: Value, w: Window, sizes: Sizes, extra: Sequence[int]) -> Value:
    axes, starts = g.ints(*w.axes), g.ints(*w.begins)
    if sizes.x is None or sizes.y is None:
        count = g.Shape(x, start=w.first, end=w.first + w.rank)
        return g.Slice(v, starts, g.Add(count, starts), axes)
    made = [(out + e) * s for out, e, s in zip(sizes.y, extra, w.strides, strict=True)]
    ends = [b + size for b, size in zip(w.begins, sizes.x, strict=True)]
    if not any(w.begins) and made == ends:
        return v
    return g.Slice(v, starts, g.ints(*ends), axes)
