"""WinnerPut and WinnerTake without MaxPool's second output: the windows are cut out of x cell by cell, and the first
cell that equals the window's maximum wins.

x and y must be the MaxPool's own input and output, so that the maximum equals its source to the bit. Padding never
wins: it is the lowest finite number. Where a window has no cell that equals its maximum (NaN), its last cell wins.

`plain` forms are for accelerators, where Indices are missing (TensorRT, WebGPU) or ScatterElements adds in no fixed
order (CUDA). The `cpu` form computes with channels last: the CPU copies a tensor out of its blocked layout in that
order at no extra cost, and cells are then runs of memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np

from ..emit import Emit, tail_of
from ..graph import Node, Value
from .primitives import winner_put, winner_take
from .windows import Window, cut_out, put_back, space, window_of

MOST = 1024
"""Nodes that one pool may become, roughly: one a cell of its window, and one a position between two of its steps. A
larger pool has the portable form, by Indices."""

WIDE, BLOCK = 16, 8
"""The CPU's form with channels last pays from WIDE channels on, in whole blocks of BLOCK."""


@dataclass(frozen=True)
class Stage:
    """One pool: y = the largest x of each window."""

    x: Value
    y: Value
    window: Window


def stages(g: Emit, node: Node) -> list[Stage]:
    """The pool itself, or where fewer cells are compared in all, a chain of pools along one axis each, the last axis
    first. The first winner in row-major order lies in the first row whose own maximum is that of the window, and is the
    first one there: the chain finds the same cell."""
    _, x, y = node.inputs
    w = window_of(node.attrs, x, y)
    if _whole(w):
        return [Stage(x, y, w)]
    found: list[Stage] = []
    for axis in reversed(range(w.rank)):
        alone, before = w.along(axis), found[-1].y if found else x
        if axis:
            after = g.MaxPool(before, **alone.attributes)
            after.shape = [*x.shape[: 2 + axis], *y.shape[2 + axis :]]
        else:
            after = y
        found.append(Stage(before, after, replace(alone, x=space(before), y=space(after))))
    return found


def _whole(w: Window) -> bool:
    """Whether all axes are compared at once."""
    rows = [prod(w.strides[:i]) * w.kernel[i] for i in range(w.rank)]
    return sum(rows) >= prod(w.kernel)


def _too_many(node: Node) -> bool:
    w = window_of(node.attrs, *node.inputs[1:])
    many = prod if _whole(w) else sum
    return many(w.kernel) + many(w.strides) > MOST


def winner_put_plain(g: Emit, node: Node) -> Value:
    """WinnerPut(ct, x, y): cell by cell, the winner keeps ct and the rest passes it on; the parts go back by
    interleaving, and overlapping windows add up in a fixed order. Any rank and geometry, up to MOST cells."""
    if _too_many(node):
        return winner_put(g, node)
    value: Value = node.inputs[0]
    for stage in reversed(stages(g, node)):
        value = _back(g, _passed_on(g, value, stage), stage)
    return value


def winner_take_plain(g: Emit, node: Node) -> Value:
    """WinnerTake(t, x, y): a chain of choices from the last cell to the first. On the CPU too: other layouts and masks
    were no faster."""
    if _too_many(node):
        return winner_take(g, node)
    value: Value = node.inputs[0]
    for stage in stages(g, node):
        value = _chosen(g, value, stage)
    return value


def winner_put_cpu(g: Emit, node: Node) -> Value:
    """WinnerPut with channels last, back in blocks at the end. Masks are factors: an infinite ct gives NaN where it
    does not go. Anything but float32 of rank 4 with static sizes has the plain form."""
    if not _wide(node) or _too_many(node):
        return winner_put_plain(g, node)
    value = _last(g, node.inputs[0])
    for stage in reversed(_channels_last(g, stages(g, node))):
        value = (
            _into_tiles(g, value, stage) if stage.window.tiles else _back(g, _masked(g, value, stage), stage)
        )
    return _into_blocks(g, value)


def _wide(node: Node) -> bool:
    _, x, y = node.inputs
    tail, dtype = tail_of(x), np.dtype(x.dtype or np.float32)
    if tail is None or tail_of(y) is None or len(tail) != 3 or dtype != np.float32:
        return False
    return tail[0] >= WIDE and tail[0] % BLOCK == 0


def _last(g: Emit, v: Value) -> Value:
    turned = g.Transpose(v, perm=[0, 2, 3, 1])
    turned.shape = [v.shape[0], *v.shape[2:], v.shape[1]] if v.shape is not None else None
    return turned


def _channels_last(g: Emit, found: Sequence[Stage]) -> list[Stage]:
    return [Stage(_last(g, s.x), _last(g, s.y), replace(s.window, first=1)) for s in found]


def _into_blocks(g: Emit, v: Value) -> Value:
    """Channels first again. The pool of one cell, an identity, is an operator of the blocked layout: with it the copy
    into blocks takes the place of the transposition."""
    ones = [1, 1]
    return g.AveragePool(
        g.Transpose(v, perm=[0, 3, 1, 2]), kernel_shape=ones, strides=ones, pads=[0, 0, 0, 0]
    )


def _cells(g: Emit, v: Value, stage: Stage) -> list[Value]:
    return cut_out(g, v, stage.y, stage.window)


def _back(g: Emit, parts: Sequence[Value], stage: Stage) -> Value:
    return put_back(g, parts, stage.x, stage.y, stage.window)


def _passed_on(g: Emit, ct: Value, stage: Stage) -> list[Value]:
    """What each cell of the windows receives. The last one has what is left, since one of them wins."""
    *others, _ = _cells(g, stage.x, stage)
    nothing = g.number(0.0, ct)
    parts, rest = [], ct
    for cell in others:
        hit = g.Equal(cell, stage.y)
        parts.append(g.Where(hit, rest, nothing))
        rest = g.Where(hit, nothing, rest)
    return [*parts, rest]


def _masked(g: Emit, ct: Value, stage: Stage) -> list[Value]:
    """The same by products with masks, which the CPU computes faster."""
    *others, _ = _cells(g, stage.x, stage)
    if not others:
        return [ct]
    wins = _first(g, [g.Equal(cell, stage.y) for cell in others])
    return [g.Mul(ct, g.cast(win, ct)) for win in wins]


def _first(g: Emit, hits: Sequence[Value]) -> list[Value]:
    """hits of all cells but the last -> for every cell, whether it is the first hit."""
    wins, free = [hits[0]], g.Not(hits[0])
    for hit in hits[1:]:
        wins.append(g.And(hit, free))
        free = g.And(free, g.Not(hit))
    return [*wins, free]


def _chosen(g: Emit, t: Value, stage: Stage) -> Value:
    *xs, _ = _cells(g, stage.x, stage)
    *ts, taken = _cells(g, t, stage)
    for cell, value in zip(xs[::-1], ts[::-1], strict=True):
        taken = g.Where(g.Equal(cell, stage.y), value, taken)
    return taken


def _into_tiles(g: Emit, ct: Value, stage: Stage) -> Value:
    """Windows side by side, channels last: x as (rows, h, k, w, k, channels) is compared in place with y, and only the
    masks, a byte a cell, are taken apart."""
    _, h, w, channels = stage.y.shape
    down, right = stage.window.kernel
    beside = g.ints(0, h, 1, w, 1, channels)
    hits = g.Equal(g.Reshape(stage.x, g.ints(0, h, down, w, right, channels)), g.Reshape(stage.y, beside))
    *others, _ = [
        g.Slice(hits, g.ints(i, j), g.ints(i + 1, j + 1), g.ints(2, 4))
        for i in range(down)
        for j in range(right)
    ]
    wins = _first(g, others)
    rows = [g.Concat(*wins[i * right : (i + 1) * right], axis=4) for i in range(down)]
    mask = g.cast(g.Concat(*rows, axis=2), ct)
    put = g.Mul(g.Reshape(ct, beside), mask)
    return g.Reshape(put, g.ints(0, h * down, w * right, channels))
