"""Cells of the cone: gathered from the tables of the image, and pasted over with what a window changes.

Cells are handled channel last: a cell is then one row of a table, gathered and scattered as one piece, and onnxruntime
merges the transpositions with the blocked layout of its convolutions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..emit import Emit
from ..graph import Value
from .kinds import Axes
from .plan import Extent, Plan
from .span import Span
from .tables import Key, Table, everything


@dataclass
class Crops:
    """made: value -> its new cells, in its own layout; done: values that are computed as a whole. row, column: int64
    (B,), where the windows are."""

    plan: Plan
    g: Emit
    tables: Mapping[Key, Table]
    cells: Mapping[Key, Value]
    row: Value
    column: Value
    made: dict[str, Value] = field(default_factory=dict)
    done: dict[str, Value] = field(default_factory=dict)
    _taken: dict[tuple[Any, ...], Value] = field(default_factory=dict)

    def take(self, name: str, canvas: Extent, outside: float = 0.0) -> Value:
        """The cells of a canvas, the old ones and the new ones over them, in the layout of the value."""
        extent, axes = self.plan.local[name]
        if canvas.key == extent.key:
            return self.made[name]
        key = (name, canvas.key, outside)
        if key not in self._taken:
            pasted = self._pasted(name, canvas, outside)
            self._taken[key] = self._turned(pasted, axes.back)
        return self._taken[key]

    def whole(self, name: str) -> Value:
        """All of a value, changed where the window changes it."""
        if name not in self.done:
            self.done[name] = self.take(name, everything(self.plan, name))
        return self.done[name]

    def in_layout(self, planes: Value, axes: Axes) -> Value:
        """(B, channels, rows, columns) in a layout."""
        perm = [0, 0, 0, 0]
        perm[axes.channels], perm[axes.rows], perm[axes.columns] = 1, 2, 3
        return self._turned(planes, perm)

    def change(self, name: str) -> Value:
        """New cells minus old ones, (B, rows, columns, channels)."""
        extent, axes = self.plan.local[name]
        value: Value = self.g.Sub(
            self._turned(self.made[name], axes.perm), self._old(self.tables[name, 0.0], extent)
        )
        return value

    def _old(self, table: Table, canvas: Extent) -> Value:
        """The cells of the image, (B, rows, columns, channels)."""
        g = self.g
        rows = g.Add(self._start(canvas.rows, self.row), g.scalar(table.before[0]))
        columns = g.Add(self._start(canvas.columns, self.column), g.scalar(table.before[1]))
        down = g.Mul(g.Add(rows, self._steps(canvas.rows, self.row)), g.scalar(table.width))
        across = g.Add(columns, self._steps(canvas.columns, self.column))
        index = g.Add(g.Unsqueeze(down, g.ints(2)), g.Unsqueeze(across, g.ints(1)))
        value: Value = g.Gather(self.cells[table.value, table.outside], index, axis=0)
        return value

    def _pasted(self, name: str, canvas: Extent, outside: float) -> Value:
        """The new cells scattered over the old ones, (B, rows, columns, channels)."""
        g = self.g
        extent, axes = self.plan.local[name]
        table = self.tables[name, outside]
        height, width = self._size(canvas.rows, self.row), self._size(canvas.columns, self.column)
        batch = g.Range(g.scalar(0), g.Squeeze(g.Shape(self.row), g.ints(0)), g.scalar(1))
        first = g.Mul(g.Unsqueeze(batch, g.ints(1)), height)
        down = g.Mul(g.Add(first, self._offset(extent.rows, canvas.rows, self.row)), width)
        across = self._offset(extent.columns, canvas.columns, self.column)
        index = g.Add(g.Unsqueeze(down, g.ints(2)), g.Unsqueeze(across, g.ints(1)))
        flat = g.Reshape(self._old(table, canvas), g.ints(-1, table.channels))
        new = self._turned(self.made[name], axes.perm)
        mixed = g.ScatterND(flat, g.Unsqueeze(index, g.ints(3)), new)
        value: Value = g.Reshape(mixed, g.join(g.ints(-1), height, width, g.ints(table.channels)))
        return value

    def _offset(self, inner: Span, outer: Span, at: Value) -> Value:
        """Cells of the inner span as the outer one counts them, (B, size of inner)."""
        shift = replace(inner, start=inner.start - outer.start)
        value: Value = self.g.Add(self._start(shift, at), self._steps(inner, at))
        return value

    def _start(self, span: Span, at: Value) -> Value:
        """(B, 1)."""
        value: Value = self.g.Unsqueeze(
            self.g.Gather(self.g.constant(span.start), at, axis=0), self.g.ints(1)
        )
        return value

    def _size(self, span: Span, at: Value) -> Value:
        """(1,); of the first window, for all of a batch have one size."""
        if (span.size == span.size[0]).all():
            return self.g.ints(int(span.size[0]))
        first = self.g.Slice(at, self.g.ints(0), self.g.ints(1))
        value: Value = self.g.Gather(self.g.constant(span.size), first, axis=0)
        return value

    def _steps(self, span: Span, at: Value) -> Value:
        """0, 1, ... of a span, (1, size)."""
        g = self.g
        if (span.size == span.size[0]).all():
            return g.constant(np.arange(int(span.size[0]))[None])
        value: Value = g.Unsqueeze(
            g.Range(g.scalar(0), g.Squeeze(self._size(span, at), g.ints(0)), g.scalar(1)), g.ints(0)
        )
        return value

    def _turned(self, value: Value, perm: list[int]) -> Value:
        if perm == [0, 1, 2, 3]:
            return value
        turned: Value = self.g.Transpose(value, perm=perm)
        return turned


__all__ = ["Crops"]
