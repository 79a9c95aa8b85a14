"""Which values are recomputed in a span around the window, and which as a whole."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ..arithmetic import work_of
from ..errors import OptionError
from ..graph import Node
from ..scores import Scored
from ..tape import touched
from .kinds import Axes, Kind, kind
from .span import Groups, Span, Window, grouped, input_span, through, union

SHARES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Shares of the cells of a value from which all of it is computed; the plan with the least cost is taken."""
MOVED = 60.0
"""Multiply-adds that take as long as to gather, scatter and turn one number."""


@dataclass(frozen=True, eq=False)
class Extent:
    """Rows and columns of a value that a window reaches."""

    rows: Span
    columns: Span

    @property
    def key(self) -> tuple[object, object]:
        return self.rows.key, self.columns.key

    def coverage(self) -> float:
        """Mean share of the cells over all places of the window."""
        return float(self.rows.coverage.mean() * self.columns.coverage.mean())


@dataclass(frozen=True)
class Step:
    """A node of the cone. canvas: what it reads of its local inputs; None: everything of everything."""

    node: Node
    kind: Kind | None = None
    canvas: Extent | None = None


@dataclass
class Plan:
    """local: extent and axes of the values that are kept as crops. macs, moved: multiply-adds of a window and numbers
    that are pasted, by the extents; macs_full: multiply-adds of a forward pass.
    weights: values that are kept as crops, and what they cost."""

    window: tuple[int, int]
    steps: list[Step]
    local: dict[str, tuple[Extent, Axes]]
    groups: tuple[Groups, Groups]
    macs: float = 0.0
    moved: float = 0.0
    macs_full: float = 0.0
    weights: list[tuple[Extent, float]] = field(default_factory=list)

    @property
    def gain(self) -> float:
        """What a count of multiplications allows."""
        return self.macs_full / self.macs if self.macs else 1.0

    @property
    def saving(self) -> float:
        """How much faster a window should be than a forward pass, what is moved counted."""
        return self.macs_full / self.cost if self.cost else 1.0

    @property
    def cost(self) -> float:
        return self.macs + MOVED * self.moved


def plan_cone(of: Scored, window: tuple[int, int], groups: tuple[int, int] = (1, 1)) -> Plan:
    """The plan for one size of the window. groups: at most so many groups of places along rows and columns.

    OptionError where the input is no picture of a fixed size.
    """
    axes, nodes = _axes(of), _counted(of)
    sizes = of.x.shape[axes.rows], of.x.shape[axes.columns]
    starts = [input_span(length, k) for length, k in zip(sizes, window, strict=True)]
    exact = Groups(np.arange(len(starts[0].start))), Groups(np.arange(len(starts[1].start)))
    first = min(
        (_laid(of, nodes, axes, window, starts, exact, share) for share in SHARES), key=lambda plan: plan.cost
    )
    rows, columns = (_grouped(first, side, n) for side, n in zip(("rows", "columns"), groups, strict=True))
    whole = {step.node.name for step in first.steps if step.kind is None}
    return _laid(of, nodes, axes, window, starts, (rows, columns), whole)


def _grouped(plan: Plan, side: str, count: int) -> Groups:
    """Places of the window along one axis whose spans are about as long."""
    spans = [getattr(extent, side) for extent, _ in plan.weights]
    if not spans:
        return Groups(np.zeros_like(plan.groups[side == "columns"].label))
    weights = np.array([weight / span.length for span, (_, weight) in zip(spans, plan.weights, strict=True)])
    return grouped(np.stack([span.size for span in spans], axis=1), weights, count)


def _axes(of: Scored) -> Axes:
    if len(of.x.shape) != 4 or any(not isinstance(n, int) for n in of.x.shape[1:]):
        raise OptionError(f"input {of.x.name!r} of shape {of.x.shape} is no picture of a fixed size")
    rows, columns = of.spatial_axes
    return Axes(rows, columns, of.channel_axis)


def _laid(
    of: Scored,
    nodes: Sequence[tuple[Node, int]],
    axes: Axes,
    window: tuple[int, int],
    starts: Sequence[Span],
    groups: tuple[Groups, Groups],
    whole: set[str] | float,
) -> Plan:
    """whole: the nodes that are computed as a whole, or the share of cells from which one is."""
    plan = Plan(window, [], {of.x.name: (Extent(starts[0], starts[1]), axes)}, groups)
    for node, macs in nodes:
        step = _step(node, of, plan, whole)
        plan.steps.append(step)
        plan.macs_full += macs
        plan.moved += _moved(step, plan)
        found = None if step.kind is None or step.kind.pooled else plan.local[node.outputs[0].name][0]
        plan.macs += macs * (1.0 if found is None else found.coverage())
        if found is not None:
            plan.weights.append(
                (found, (macs + MOVED * math.prod(node.outputs[0].shape[1:])) * found.coverage())
            )
    return plan


def _step(node: Node, of: Scored, plan: Plan, whole: set[str] | float) -> Step:
    """The node over spans where it can be; what it makes is then entered in plan.local."""
    axes = {name: axes for name, (_, axes) in plan.local.items()}
    reads = [x.name for x in node.inputs if x.name in axes]
    others = [x for x in node.inputs if x.name and x.name not in axes]
    changed = {y.name for step in plan.steps for y in step.node.outputs} - set(axes)
    if not reads or any(x.name in changed for x in others) or (isinstance(whole, set) and node.name in whole):
        return Step(node)
    what = kind(node, of.graph, axes)
    if what is None:
        return Step(node)
    extents = [plan.local[name][0] for name in reads]
    joined = extents[0]
    if len(reads) > 1:
        joined = Extent(
            *(
                union([getattr(e, side) for e in extents], g)
                for side, g in zip(("rows", "columns"), plan.groups, strict=True)
            )
        )
    if what.pooled:
        return Step(node, what, joined)
    canvas, made = _through(node, what, joined, axes[reads[0]], plan.groups)
    if isinstance(whole, float) and made.coverage() > whole:
        return Step(node)
    for y in node.outputs:
        if y.name:
            plan.local[y.name] = made, what.axes or axes[reads[0]]
    return Step(node, what, canvas)


def _through(
    node: Node, what: Kind, extent: Extent, axes: Axes, groups: tuple[Groups, Groups]
) -> tuple[Extent, Extent]:
    if what.windows == (Window(), Window()):
        return extent, extent
    shape = node.outputs[0].shape
    (above, rows), (beside, columns) = (
        through(span, window, shape[axis], group)
        for span, window, axis, group in zip(
            (extent.rows, extent.columns), what.windows, (axes.rows, axes.columns), groups, strict=True
        )
    )
    return Extent(above, beside), Extent(rows, columns)


def _moved(step: Step, plan: Plan) -> float:
    """Numbers of the canvases that are made for a node."""
    total = 0.0
    for x in step.node.inputs:
        if x.name in plan.local:
            extent, axes = plan.local[x.name]
            if step.canvas is None:
                total += math.prod(x.shape[1:])
            elif step.canvas.key != extent.key:
                cells = float(step.canvas.rows.size.mean() * step.canvas.columns.size.mean())
                total += cells * x.shape[axes.channels]
    return total


def _counted(of: Scored) -> list[tuple[Node, int]]:
    """The nodes from the input to the scores, and the multiply-adds of each for one sample; 0 where they are not
    known."""
    stored = {node.name: node for node in of.graph.draft.graph.node}

    def shape(name: str) -> tuple[int, ...] | None:
        if name in of.graph.draft.weights:
            return tuple(of.graph.draft.weights[name].dims)
        known = of.graph.values[name].shape
        if not known:
            return None
        one = [known[0] if isinstance(known[0], int) else 1, *known[1:]]
        return tuple(one) if all(isinstance(n, int) for n in one) else None

    nodes = touched(of.graph, [of.x], of.read)
    return [(node, work_of(stored[node.name], shape).macs) for node in nodes]


__all__ = ["Extent", "Plan", "Step", "plan_cone"]
