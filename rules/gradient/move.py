"""Operators that move, repeat or select elements: their own inverse, or a scatter that adds."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np
import onnx

from ...rewriter.emit import Emit
from ...rewriter.graph import Node, Value
from ...rewriter.linear import (
    Adjoint,
    Blocks,
    Broadcast,
    Chain,
    Frame,
    Keep,
    Linear,
    Local,
    Permute,
    Repeated,
    Running,
    Segment,
    Shaped,
    Take,
    TakeElements,
    TakeND,
)
from ...rewriter.rows import Along
from ...rewriter.site import Refuse, Site, rank_of
from .base import GRADIENT

WHOLE = 2**31 - 1


@GRADIENT.on("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def reshape(site: Site, g: Emit) -> Local:
    """The same elements under another shape."""
    rank_of(site.data)
    rank_of(site.y)
    if 0 in site.data.shape[1:] or 0 in site.y.shape[1:]:
        raise Refuse("it reshapes an empty tensor")
    return Local(Shaped(site.data, site.y))


@GRADIENT.on("Transpose")
def transpose(site: Site, g: Emit) -> Local:
    """Axis i of y is axis perm[i] of x; reversed by default."""
    return Local(Permute(tuple(site.attr("perm") or range(rank_of(site.data))[::-1])))


@GRADIENT.on("Expand")
def expand(site: Site, g: Emit) -> Local:
    """y repeats x along axes of size 1."""
    rank_of(site.data)
    rank_of(site.y)
    return Local(Broadcast(site.data, site.y))


@GRADIENT.on("Tile")
def tile(site: Site, g: Emit) -> Local:
    """y repeats x a constant number of times along each axis."""
    repeats = tuple(int(times) for times in site.required(1, "the number of repeats"))
    if repeats and repeats[0] != 1:
        raise Refuse("it repeats the batch")
    return Local(Repeated(site.data, repeats))


def segments(g: Emit, node: Node, parts: list[Value], axis: int, rank: int) -> list[Segment]:
    """Each part as a piece of the tensor that the node joins from them, or cuts into them. Worked out once for a node:
    one may have thousands of outputs, and a rule is asked for each."""
    found: list[Segment] | None = g.memo.get((id(node), axis))
    if found is None:
        found = g.memo[(id(node), axis)] = _segments(g, parts, axis, rank)
    return found


def _segments(g: Emit, parts: list[Value], axis: int, rank: int) -> list[Segment]:
    sizes = [part.shape[axis] for part in parts if part.shape is not None]
    if len(sizes) == len(parts) and all(isinstance(size, int) for size in sizes):
        starts = [0, *accumulate(sizes)]
        edges = [(g.ints(start), g.ints(starts[-1] - end)) for start, end in pairwise(starts)]
    else:
        ends = list(accumulate((g.size(part, axis) for part in parts), g.Add))
        edges = [
            (ends[i - 1] if i else g.ints(0), g.Sub(ends[-1], end) if i + 1 < len(ends) else g.ints(0))
            for i, end in enumerate(ends)
        ]
    return [Segment(part, axis, rank, *edge) for part, edge in zip(parts, edges, strict=True)]


@dataclass(frozen=True)
class Part:
    """x as part i of `count` equal parts of y along one axis, whatever its size."""

    axis: int
    rank: int
    i: int
    count: int

    def push(self, g: Emit, t: Value) -> Value:
        size = g.Shape(t, start=self.axis, end=self.axis + 1)
        ends = [
            g.Mul(size, g.ints(times)) if axis == self.axis else g.ints(0)
            for times in (self.i, self.count - 1 - self.i)
            for axis in range(self.rank)
        ]
        return g.Pad(t, g.Concat(*ends, axis=0), 0.0)

    def pull(self, g: Emit, ct: Value) -> Value:
        size = g.Div(g.Shape(ct, start=self.axis, end=self.axis + 1), g.ints(self.count))
        start, end = (g.Mul(size, g.ints(times)) for times in (self.i, self.i + 1))
        return g.Slice(ct, start, end, g.ints(self.axis))


@GRADIENT.on("Concat")
def concat(site: Site, g: Emit) -> Local:
    """Each input is a segment of y: along the axis of the samples one of equal parts, however many rows there are."""
    rank = rank_of(site.data)
    axis, parts = int(site.attr("axis")) % rank, list(site.node.inputs)
    if axis == g.axis(site.y):
        places = {g.graph.rows.places.get(x.name) for x in parts}
        if len(places) == 1 and isinstance(places.pop(), Along):
            return Local(
                *(Part(axis, rank, i, len(parts)) if live else None for i, live in enumerate(site.active))
            )
        if axis == 0 and g.lead == "K":
            raise Refuse("it joins along the batch axis")
    pieces = segments(g, site.node, parts, axis, rank)
    return Local(*(piece if active else None for piece, active in zip(pieces, site.active, strict=True)))


@GRADIENT.on("Split")
def split(site: Site, g: Emit) -> Local:
    """Output `port` is a segment of x."""
    axis = site.axis("axis", 0)
    pieces = segments(g, site.node, list(site.node.outputs), axis, site.rank)
    return Local(Adjoint(pieces[site.port]))


@GRADIENT.on("Slice")
def slice_(site: Site, g: Emit) -> Local:
    """Any start, end and step, along any axes, known at compile time or not."""
    rank, starts, ends = site.rank, site.input(1), site.input(2)
    given = site.constant(3)
    count = None if starts is None or starts.shape is None else starts.shape[0]
    if starts is None or ends is None or not isinstance(count, int):
        raise Refuse("the number of sliced axes is unknown")
    if site.input(3) is not None and given is None:
        raise Refuse("the sliced axes are computed at run time")
    axes = [int(axis) % rank for axis in given] if given is not None else list(range(count))
    return Local(Chain(*(_cut(site, g, i, axis) for i, axis in enumerate(axes))))


def _cut(site: Site, g: Emit, i: int, axis: int) -> Linear:
    """Slice along one axis: a frame of zeros on the way back when its place is static and dense, else a take."""
    size = site.data.shape[axis]
    start, end, steps = (site.constant(k) for k in (1, 2, 4))
    known = start is not None and end is not None and (steps is not None or site.input(4) is None)
    if known and start is not None and end is not None:
        step = int(steps[i]) if steps is not None else 1
        first, last = int(start[i]), int(end[i])
        if step == 1 and first == 0 and last >= WHOLE:
            return Keep()
        if isinstance(size, int):
            low, high, stride = slice(first, max(last, -size - 1) if last < 0 else last, step).indices(size)
            if stride < 0 and last < -size:
                high = -1
            count = len(range(low, high, stride))
            if stride == 1 and count:
                pads = [0] * 2 * site.rank
                pads[axis], pads[site.rank + axis] = low, size - high
                return Adjoint(Frame(tuple(pads)))
            if g.affords(8 * count):
                return Take(g.ints(size), g.constant(np.arange(low, high, stride, dtype=np.int64)), axis)
    length = g.size(site.data, axis)
    everything = g.Range(g.scalar(0), g.Squeeze(length), g.scalar(1))
    piece = [g.Slice(v, g.ints(i), g.ints(i + 1)) if v is not None else g.ints(1) for v in _edges(site)]
    return Take(length, g.Slice(everything, piece[0], piece[1], g.ints(0), piece[2]), axis)


def _edges(site: Site) -> list[Value | None]:
    return [site.input(1), site.input(2), site.input(4)]


@GRADIENT.on("Gather")
def gather(site: Site, g: Emit) -> Local:
    """y takes slices of x along an axis, repeats allowed."""
    index = site.fixed(1, "the index")
    axis = site.axis("axis", 0)
    wide = index if index.dtype == np.int64 else g.Cast(index, to=onnx.TensorProto.INT64)
    return Local(Take(g.size(site.data, axis), wide, axis, rank_of(index)))


@GRADIENT.on("GatherElements")
def gather_elements(site: Site, g: Emit) -> Local:
    """y takes single elements along an axis."""
    axis = site.axis("axis", 0)
    if axis == 0:
        raise Refuse("it picks across the samples of the batch")
    return Local(TakeElements(g.rest(site.data), site.fixed(1, "the index"), axis, site.rank))


@GRADIENT.on("GatherND")
def gather_nd(site: Site, g: Emit) -> Local:
    """y takes slices addressed by index tuples."""
    if int(site.attr("batch_dims", 0)):
        raise Refuse("GatherND with batch_dims")
    return Local(TakeND(site.data, site.fixed(1, "the index")))


@GRADIENT.on("TopK")
def top_k(site: Site, g: Emit) -> Local:
    """The k largest (smallest) values along an axis, taken where they stand."""
    axis = site.axis("axis", -1)
    if axis == 0 or site.port:
        raise Refuse("it ranks the samples of the batch, or its indices are explained")
    attrs = {key: site.attr(key) for key in ("axis", "largest", "sorted")}
    _, index = g.ops("TopK", site.data, site.input(1), outputs=2, **attrs)
    return Local(TakeElements(g.rest(site.data), index, axis, site.rank))


@GRADIENT.on("Pad")
def pad(site: Site, g: Emit) -> Local:
    """constant: a frame (negative widths crop). reflect, edge, wrap: a take by the padded positions. Widths
    may come at run time."""
    rank, mode = site.rank, site.attr("mode", "constant")
    if any(site.active[2:]):
        raise Refuse("the padding value depends on the explained input")
    if site.constant(1) is None:
        return Local(_pad_live(site, g, mode))
    widths = [int(width) for width in site.required(1, "the pad widths").ravel()]
    axes = list(range(rank))
    if site.input(3) is not None:
        axes = [int(axis) % rank for axis in site.required(3, "the padded axes")]
    pads = [0] * 2 * rank
    for i, axis in enumerate(axes):
        pads[axis], pads[rank + axis] = widths[i], widths[i + len(axes)]
    if mode == "constant":
        return Local(Frame(tuple(pads)))
    takes = (_repad(site, g, axis, pads[axis], pads[rank + axis], mode) for axis in axes)
    return Local(Chain(*(take for take in takes if take is not None)))


def _repad(site: Site, g: Emit, axis: int, before: int, after: int, mode: str) -> Linear | None:
    if before == 0 and after == 0:
        return None
    size = site.data.shape[axis]
    if isinstance(size, int) and g.affords(8 * (max(0, before) + size + max(0, after))):
        index = np.pad(np.arange(size), (max(0, before), max(0, after)), mode=mode)  # type: ignore[call-overload]
        index = index[max(0, -before) : index.size - max(0, -after)]
        return Take(g.ints(size), g.constant(index.astype(np.int64)), axis)
    length = g.size(site.data, axis)
    positions = g.Range(g.scalar(0), g.Squeeze(length), g.scalar(1))
    return Take(length, g.Pad(positions, g.ints(before, after), mode=mode), axis)


def _pad_live(site: Site, g: Emit, mode: str) -> Linear:
    """The widths are a run-time tensor, begins then ends of every padded axis."""
    widths, axes = site.node.inputs[1], list(range(site.rank))
    if site.input(3) is not None:
        axes = [int(axis) % site.rank for axis in site.required(3, "the padded axes")]
    if mode == "constant":
        return LiveFrame(widths, g.ints(*axes))
    takes: list[Linear] = []
    for i, axis in enumerate(axes):
        if axis:
            pair, length = g.Gather(widths, g.ints(i, i + len(axes)), axis=0), g.size(site.data, axis)
            positions = g.Range(g.scalar(0), g.Squeeze(length), g.scalar(1))
            takes.append(Take(length, g.Pad(positions, pair, mode=mode), axis))
    return Chain(*takes)


class LiveFrame:
    """Constant padding by run-time widths; the transpose pads by the negative widths."""

    def __init__(self, widths: Value, axes: Value) -> None:
        self.widths, self.axes = widths, axes

    def push(self, g: Emit, t: Value) -> Value:
        return g.Pad(t, self.widths, 0.0, self.axes)

    def pull(self, g: Emit, ct: Value) -> Value:
        return g.Pad(ct, g.Neg(self.widths), 0.0, self.axes)


@GRADIENT.on("DepthToSpace")
def depth_to_space(site: Site, g: Emit) -> Local:
    """Channels become blocks of pixels, in DCR or CRD order."""
    return Local(Blocks(site.data, int(site.attr("blocksize")), site.attr("mode", "DCR")))


@GRADIENT.on("SpaceToDepth")
def space_to_depth(site: Site, g: Emit) -> Local:
    """Blocks of pixels become channels: the inverse, and so the transpose, of DepthToSpace of the same mode."""
    return Local(Adjoint(Blocks(site.y, int(site.attr("blocksize")), site.attr("mode", "DCR"))))


@GRADIENT.on("CumSum")
def cum_sum(site: Site, g: Emit) -> Local:
    """Running sum along an axis."""
    axis = site.fixed(1, "the axis")
    return Local(Running(axis, int(site.attr("exclusive", 0)), int(site.attr("reverse", 0))))


class Triangle:
    """Trilu keeps what it keeps, both ways."""

    def __init__(self, upper: int, k: Value | None) -> None:
        self.upper, self.k = upper, k

    def push(self, g: Emit, t: Value) -> Value:
        value: Value = (
            g.Trilu(t, self.k, upper=self.upper) if self.k is not None else g.Trilu(t, upper=self.upper)
        )
        return value

    pull = push


@GRADIENT.on("Trilu")
def trilu(site: Site, g: Emit) -> Local:
    """The upper or lower triangle of each matrix."""
    return Local(Triangle(int(site.attr("upper", 1)), site.input(1)))
