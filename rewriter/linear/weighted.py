"""Maps with weights or windows: convolutions, products, pools."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..emit import Emit
from ..graph import Value
from .algebra import reduce_to

Reweigh = Callable[[Value], Value]


@dataclass(frozen=True)
class Convolve:
    """y = W * x. W (M, C/group, k...); geometry: kernel_shape, strides, pads, dilations, group."""

    w: Value
    geometry: Mapping[str, Any]
    x: Value

    def push(self, g: Emit, t: Value) -> Value:
        return g.Conv(t, self.w, **self.geometry)

    def pull(self, g: Emit, ct: Value) -> Value:
        return g.primitive("DataGradient", ct, self.w, self.x, **self.geometry)

    def reweigh(self, f: Reweigh) -> Convolve:
        return replace(self, w=f(self.w))


@dataclass(frozen=True)
class Deconvolve:
    """ConvTranspose. W (C, M/group, k...) is the weight of the Conv that is its transpose."""

    w: Value
    geometry: Mapping[str, Any]
    output_padding: tuple[int, ...]

    def push(self, g: Emit, t: Value) -> Value:
        return g.ConvTranspose(t, self.w, output_padding=list(self.output_padding), **self.geometry)

    def pull(self, g: Emit, ct: Value) -> Value:
        return g.Conv(ct, self.w, **self.geometry)

    def reweigh(self, f: Reweigh) -> Deconvolve:
        return replace(self, w=f(self.w))


@dataclass(frozen=True)
class Dense:
    """y = alpha x W, W (in, out), or (out, in) when `turned`; x of rank 2."""

    w: Value
    turned: bool = False
    alpha: float = 1.0

    def push(self, g: Emit, t: Value) -> Value:
        return g.Gemm(t, self.w, alpha=self.alpha, transB=int(self.turned))

    def pull(self, g: Emit, ct: Value) -> Value:
        return g.Gemm(ct, self.w, alpha=self.alpha, transB=int(not self.turned))

    def reweigh(self, f: Reweigh) -> Dense:
        return replace(self, w=f(self.w))


def turn(g: Emit, v: Value) -> Value:
    """v with its last two axes exchanged."""
    rank = len(v.shape)
    return g.Transpose(v, perm=[*range(rank - 2), rank - 1, rank - 2])


def looked_at(g: Emit, v: Value, ct: Value, axis: int) -> Value:
    """A factor of a product that may be infinite: 0 in the rows (columns) whose cotangents are all 0. axis: that of ct
    along which they lie, -1 for rows and -2 for columns."""
    if not g.guarded:
        return v
    used = g.ReduceMax(g.Abs(ct), g.ints(axis), keepdims=1)
    value: Value = g.Where(g.Equal(used, 0.0), g.number(0.0, v), v)
    value.shape = [None] * max(len(v.shape), len(ct.shape or v.shape))
    return value


@dataclass(frozen=True)
class RightTimes:
    """y = x b (MatMul, batch axes broadcast)."""

    b: Value
    x: Value
    y: Value

    def push(self, g: Emit, t: Value) -> Value:
        return g.MatMul(t, self.b)

    def pull(self, g: Emit, ct: Value) -> Value:
        product = g.MatMul(ct, turn(g, looked_at(g, self.b, ct, -2)))
        return reduce_to(g, product, [*self.y.shape[:-2], *self.x.shape[-2:]], self.x, g.axis(self.y))

    def reweigh(self, f: Reweigh) -> RightTimes:
        return replace(self, b=f(self.b))


@dataclass(frozen=True)
class LeftTimes:
    """y = a x (MatMul, batch axes broadcast)."""

    a: Value
    x: Value
    y: Value

    def push(self, g: Emit, t: Value) -> Value:
        return g.MatMul(self.a, t)

    def pull(self, g: Emit, ct: Value) -> Value:
        product = g.MatMul(turn(g, looked_at(g, self.a, ct, -1)), ct)
        return reduce_to(g, product, [*self.y.shape[:-2], *self.x.shape[-2:]], self.x, g.axis(self.y))

    def reweigh(self, f: Reweigh) -> LeftTimes:
        return replace(self, a=f(self.a))


@dataclass(frozen=True)
class Winner:
    """Each output of a MaxPool takes the input that won its window, the first one on ties; overlapping
    windows add up on the way back."""

    x: Value
    y: Value
    window: Mapping[str, Any]

    def push(self, g: Emit, t: Value) -> Value:
        return g.primitive("WinnerTake", t, self.x, self.y, **self.window)

    def pull(self, g: Emit, ct: Value) -> Value:
        return g.primitive("WinnerPut", ct, self.x, self.y, **self.window)


@dataclass(frozen=True)
class Average:
    """AveragePool: the transpose spreads ct / n over each window, n its number of counted cells."""

    x: Value
    y: Value
    window: Mapping[str, Any]

    def push(self, g: Emit, t: Value) -> Value:
        return g.AveragePool(t, **self.window)

    def pull(self, g: Emit, ct: Value) -> Value:
        return g.primitive("WindowSpread", ct, self.x, self.y, **self.window)


@dataclass(frozen=True)
class Blocks:
    """DepthToSpace with its block size and mode (DCR or CRD)."""

    x: Value
    size: int
    mode: str

    def push(self, g: Emit, t: Value) -> Value:
        return g.DepthToSpace(t, blocksize=self.size, mode=self.mode)

    def pull(self, g: Emit, ct: Value) -> Value:
        if self.mode == "DCR":
            return g.SpaceToDepth(ct, blocksize=self.size)
        # SpaceToDepth inverts DCR only: (N, c, h, b, w, b) -> (N, c, b, b, h, w) by hand.
        b, height, width = g.ints(self.size), g.size(self.x, 2), g.size(self.x, 3)
        cells = g.Reshape(ct, g.Concat(g.ints(0), g.ints(-1), height, b, width, b, axis=0))
        return g.shaped(g.Transpose(cells, perm=[0, 1, 3, 5, 2, 4]), self.x)


@dataclass(frozen=True)
class Running:
    """CumSum along an axis; the transpose runs the other way."""

    axis: Value
    exclusive: int
    reverse: int

    def push(self, g: Emit, t: Value) -> Value:
        return g.CumSum(t, self.axis, exclusive=self.exclusive, reverse=self.reverse)

    def pull(self, g: Emit, ct: Value) -> Value:
        return g.CumSum(ct, self.axis, exclusive=self.exclusive, reverse=1 - self.reverse)
