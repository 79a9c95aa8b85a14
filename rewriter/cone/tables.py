"""The activations of an image that its cone reads: one table (cells, channels) a value, with the cells around it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from ..scores import Scored
from .kinds import Axes
from .plan import Extent, Plan
from .span import whole

Key: TypeAlias = tuple[str, float]
"""(value, what lies outside of it)."""

CELLS = "cells"


@dataclass(frozen=True)
class Table:
    """A value, channel last, padded with `outside`: rows and columns before it and behind it."""

    name: str
    value: str
    outside: float
    axes: Axes
    size: tuple[int, int]
    channels: int
    before: tuple[int, int] = (0, 0)
    behind: tuple[int, int] = (0, 0)

    @property
    def width(self) -> int:
        return self.before[1] + self.size[1] + self.behind[1]

    @property
    def cells(self) -> int:
        return (self.before[0] + self.size[0] + self.behind[0]) * self.width


def everything(plan: Plan, name: str) -> Extent:
    """All cells of a value, wherever the window is."""
    rows, columns = plan.local[name][0].rows, plan.local[name][0].columns
    return Extent(whole(rows, rows.length), whole(columns, columns.length))


def reads(plan: Plan, read: str) -> Iterator[tuple[str, float, Extent]]:
    """(value, outside, canvas) wherever the cone reads cells of the image."""
    for step in plan.steps:
        for x in step.node.inputs:
            if x.name not in plan.local:
                continue
            if step.kind is None:
                yield x.name, 0.0, everything(plan, x.name)
            elif step.canvas is not None and (
                step.kind.pooled or step.canvas.key != plan.local[x.name][0].key
            ):
                yield x.name, step.kind.outside, step.canvas
    if read in plan.local:
        yield read, 0.0, everything(plan, read)


def tables(of: Scored, plan: Plan) -> dict[Key, Table]:
    """Every table, wide enough for all that is read of it."""
    found: dict[Key, Table] = {}
    for name, outside, canvas in reads(plan, of.read.name):
        key = (name, outside)
        axes, shape = plan.local[name][1], of.graph.values[name].shape
        old = found.get(key)
        spans = canvas.rows, canvas.columns
        before = [max(0, -int(span.start.min())) for span in spans]
        behind = [max(0, int(span.end.max()) - span.length) for span in spans]
        if old is not None:
            before = [max(pair) for pair in zip(before, old.before, strict=True)]
            behind = [max(pair) for pair in zip(behind, old.behind, strict=True)]
        found[key] = Table(
            f"{CELLS}/{len(found)}" if old is None else old.name,
            name,
            outside,
            axes,
            (shape[axes.rows], shape[axes.columns]),
            shape[axes.channels],
            (before[0], before[1]),
            (behind[0], behind[1]),
        )
    return found


__all__ = ["CELLS", "Key", "Table", "everything", "reads", "tables"]
