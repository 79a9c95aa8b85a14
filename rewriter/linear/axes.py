"""Maps that move, repeat, select or sum along axes."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from ..emit import Emit, tail_of
from ..graph import Value

END = 2**31 - 1


@dataclass(frozen=True)
class Shaped:
    """The same elements in another shape: x before, y after."""

    x: Value
    y: Value

    def push(self, g: Emit, t: Value) -> Value:
        return g.shaped(t, self.y)

    def pull(self, g: Emit, ct: Value) -> Value:
        return g.shaped(ct, self.x, rows=same_rows(self.x, self.y))


def same_rows(x: Value, y: Value) -> bool:
    """Whether a reshape between x and y leaves the first axis alone, as far as is known: a row stays a row."""
    tails = tail_of(x), tail_of(y)
    return None not in tails and prod(tails[0] or ()) == prod(tails[1] or ()) != 0


@dataclass(frozen=True)
class Permute:
    """Axis i of y is axis perm[i] of x."""

    perm: tuple[int, ...]

    def push(self, g: Emit, t: Value) -> Value:
        return g.Transpose(t, perm=list(self.perm))

    def pull(self, g: Emit, ct: Value) -> Value:
        back = sorted(range(len(self.perm)), key=lambda i: self.perm[i])
        return g.Transpose(ct, perm=back)


@dataclass(frozen=True)
class Reduced:
    """y = Σ x over axes."""

    x: Value
    axes: tuple[int, ...]
    keepdims: bool

    def push(self, g: Emit, t: Value) -> Value:
        return g.ReduceSum(t, g.ints(*self.axes), keepdims=int(self.keepdims)) if self.axes else t

    def pull(self, g: Emit, ct: Value) -> Value:
        if not self.axes:
            return ct
        kept = ct if self.keepdims else g.Unsqueeze(ct, g.ints(*self.axes))
        if 0 in self.axes:
            return g.Expand(kept, g.Shape(self.x))
        return g.primitive("Spread", kept, self.x, axes=list(self.axes))


@dataclass(frozen=True)
class Total:
    """Each element replaced by the sum over axes; left at size 1, so use it inside a Sum or before a Scale
    that fills the axes again."""

    axes: tuple[int, ...]

    def push(self, g: Emit, t: Value) -> Value:
        return g.ReduceSum(t, g.ints(*self.axes), keepdims=1)

    pull = push


@dataclass(frozen=True)
class Mean:
    """As Total, with the mean."""

    axes: tuple[int, ...]

    def push(self, g: Emit, t: Value) -> Value:
        return g.ReduceMean(t, g.ints(*self.axes), keepdims=1)

    pull = push


@dataclass(frozen=True)
class Repeated:
    """Tile: x repeated a whole number of times along each axis; the transpose sums the copies."""

    x: Value
    repeats: tuple[int, ...]

    def push(self, g: Emit, t: Value) -> Value:
        return g.Tile(t, g.ints(*self.repeats))

    def pull(self, g: Emit, ct: Value) -> Value:
        sizes: list[Value] = []
        for axis, times in enumerate(self.repeats):
            size = g.ints(-1) if axis == 0 else g.size(self.x, axis)
            sizes += [g.ints(times), size]
        parts = g.Reshape(ct, g.Concat(*sizes, axis=0))
        return g.ReduceSum(parts, g.ints(*range(0, 2 * len(self.repeats), 2)), keepdims=0)


@dataclass(frozen=True)
class Frame:
    """Constant padding by static widths (a negative width crops): pads = begins, then ends."""

    pads: tuple[int, ...]

    def push(self, g: Emit, t: Value) -> Value:
        return g.Pad(t, g.ints(*self.pads), 0.0)

    def pull(self, g: Emit, ct: Value) -> Value:
        if min(self.pads) < 0:
            return g.Pad(ct, g.ints(*(-pad for pad in self.pads)), 0.0)
        rank = len(self.pads) // 2
        axes = [i for i in range(rank) if self.pads[i] or self.pads[i + rank]]
        if not axes:
            return ct
        starts = g.ints(*(self.pads[i] for i in axes))
        ends = g.ints(*(-self.pads[i + rank] or END for i in axes))
        return g.Slice(ct, starts, ends, g.ints(*axes))


@dataclass(frozen=True)
class Segment:
    """x as a segment of y along one axis: `before` rows of zeros, x, `after` rows of zeros (1-D int64 values)."""

    x: Value
    axis: int
    rank: int
    before: Value
    after: Value

    def push(self, g: Emit, t: Value) -> Value:
        none = g.ints(0)
        begins = [self.before if i == self.axis else none for i in range(self.rank)]
        ends = [self.after if i == self.axis else none for i in range(self.rank)]
        return g.Pad(t, g.Concat(*begins, *ends, axis=0), 0.0)

    def pull(self, g: Emit, ct: Value) -> Value:
        end = g.Add(self.before, g.size(self.x, self.axis))
        return g.Slice(ct, self.before, end, g.ints(self.axis))


@dataclass(frozen=True)
class Take:
    """Gather along one axis by an index tensor of `depth` axes; the transpose adds up what was taken more
    than once. size: that of x along the axis, 1-D int64."""

    size: Value
    index: Value
    axis: int
    depth: int = 1

    def push(self, g: Emit, t: Value) -> Value:
        return g.Gather(t, self.index, axis=self.axis)

    def pull(self, g: Emit, ct: Value) -> Value:
        axis = self.axis
        flat = g.Reshape(self.index, g.ints(-1))
        flat = g.Where(g.Less(flat, g.scalar(0)), g.Add(flat, self.size), flat)
        before = [g.Shape(ct, start=0, end=axis)] if axis else []
        behind = [g.Shape(ct, start=axis + self.depth)]
        updates = g.Reshape(ct, g.join(*before, g.Shape(flat), *behind)) if self.depth != 1 else ct
        # The column of indices is aligned with `axis`: every axis behind it gets size 1.
        ones = g.Expand(g.scalar(1), g.Shape(behind[0]))
        column = g.Reshape(flat, g.join(g.ints(-1), ones))
        index = g.Expand(column, g.Shape(updates))
        return g.scattered("ScatterElements", updates, index, *before, self.size, *behind, axis=axis)


@dataclass(frozen=True)
class TakeElements:
    """y = x[index] along one axis, one index per output element (GatherElements)."""

    size: Value
    index: Value
    axis: int
    rank: int

    def push(self, g: Emit, t: Value) -> Value:
        return g.GatherElements(t, self._index(g, t), axis=self.axis)

    def pull(self, g: Emit, ct: Value) -> Value:
        """`size`: sizes of all axes of x but the first, 1-D int64."""
        return g.scattered("ScatterElements", ct, self._index(g, ct), g.rows(ct), self.size, axis=self.axis)

    def _index(self, g: Emit, rows: Value) -> Value:
        ones = [g.ints(*[1] * (self.rank - 1))] if self.rank > 1 else []
        return g.Expand(self.index, g.join(g.rows(rows), *ones))


@dataclass(frozen=True)
class TakeND:
    """GatherND; the transpose scatters and adds."""

    x: Value
    index: Value

    def push(self, g: Emit, t: Value) -> Value:
        return g.GatherND(t, self.index)

    def pull(self, g: Emit, ct: Value) -> Value:
        return g.scattered("ScatterND", ct, self.index, g.Shape(self.x))


@dataclass(frozen=True)
class Along:
    """y = x M along one axis, M (in, out): the separable linear operators, Resize above all."""

    matrix: Value
    axis: int
    rank: int

    def push(self, g: Emit, t: Value) -> Value:
        return self._apply(g, t, forward=True)

    def pull(self, g: Emit, ct: Value) -> Value:
        return self._apply(g, ct, forward=False)

    def _apply(self, g: Emit, v: Value, forward: bool) -> Value:
        turned = g.Transpose(self.matrix, perm=[1, 0])
        right, left = (self.matrix, turned) if forward else (turned, self.matrix)
        if self.axis == self.rank - 1:
            return g.MatMul(v, right)
        if self.axis == self.rank - 2:
            value = g.MatMul(left, v)
            return value
        perm = [i for i in range(self.rank) if i != self.axis] + [self.axis]
        back = sorted(range(self.rank), key=lambda i: perm[i])
        value = g.Transpose(g.MatMul(g.Transpose(v, perm=perm), right), perm=back)
        return value


@dataclass(frozen=True)
class Neighbours:
    """Sum over a window of channels, from `before` below to `after` above, cut at the ends. x has rank >= 3."""

    x: Value
    before: int
    after: int

    def push(self, g: Emit, t: Value) -> Value:
        return self._window(g, t, self.before, self.after)

    def pull(self, g: Emit, ct: Value) -> Value:
        return self._window(g, ct, self.after, self.before)

    def _window(self, g: Emit, v: Value, before: int, after: int) -> Value:
        size = before + after + 1
        plane = g.Reshape(v, g.Concat(g.ints(0, 1), g.size(self.x, 1), g.ints(-1), axis=0))
        mean = g.AveragePool(
            plane, kernel_shape=[size, 1], strides=[1, 1], pads=[before, 0, after, 0], count_include_pad=1
        )
        return g.shaped(g.Mul(mean, float(size)), self.x)
