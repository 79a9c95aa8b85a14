"""Dense numpy formulas of vector-Jacobian products, in float64, written from the ONNX specification.

Loops where loops are clear; small sizes only. Each takes the cotangent `ct` of y and returns that of x.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Ints = Sequence[int]


@dataclass(frozen=True)
class Window:
    """Geometry of a convolution or a pool; pads: begins, then ends."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[int, ...]
    dilations: tuple[int, ...]

    def cells(self, at: Ints) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
        """(position in the kernel, position in x, which may be padding) of the window of output `at`."""
        for k in itertools.product(*map(range, self.kernel)):
            yield (
                k,
                tuple(
                    a * s - p + j * d
                    for a, s, p, j, d in zip(at, self.strides, self.pads, k, self.dilations, strict=False)
                ),
            )


def _inside(at: Ints, sizes: Ints) -> bool:
    return all(0 <= a < size for a, size in zip(at, sizes, strict=True))


def _at(*parts: Any) -> Any:
    """An index of slices and numbers, whose type numpy's stubs cannot follow."""
    return parts


def conv(x: Array, w: Array, window: Window, group: int, sizes: Ints) -> Array:
    """y[n, m, o] = Σ w[m, c, k] x[n, c, o s - p + k d]; sizes: spatial sizes of y."""
    outs, ins = w.shape[0] // group, w.shape[1]
    y = np.zeros((x.shape[0], w.shape[0], *sizes))
    for at in itertools.product(*map(range, sizes)):
        for k, place in window.cells(at):
            if _inside(place, x.shape[2:]):
                for b in range(group):
                    part = x[_at(slice(None), slice(b * ins, (b + 1) * ins), *place)]
                    mine = slice(b * outs, (b + 1) * outs)
                    y[_at(slice(None), mine, *at)] += part @ w[_at(mine, slice(None), *k)].T
    return y


def conv_vjp(ct: Array, w: Array, window: Window, group: int, sizes: Ints) -> Array:
    """The transpose of `conv`; sizes: spatial sizes of x."""
    outs, ins = w.shape[0] // group, w.shape[1]
    dx = np.zeros((ct.shape[0], ins * group, *sizes))
    for at in itertools.product(*map(range, ct.shape[2:])):
        for k, place in window.cells(at):
            if _inside(place, sizes):
                for b in range(group):
                    mine = slice(b * outs, (b + 1) * outs)
                    part = ct[_at(slice(None), mine, *at)] @ w[_at(mine, slice(None), *k)]
                    dx[_at(slice(None), slice(b * ins, (b + 1) * ins), *place)] += part
    return dx


def max_pool_vjp(ct: Array, x: Array, window: Window) -> Array:
    """ct to the first largest cell of each window, in row-major order; a padding cell never wins."""
    dx = np.zeros_like(x)
    for n, c in np.ndindex(x.shape[:2]):
        for at in itertools.product(*map(range, ct.shape[2:])):
            places = [place for _, place in window.cells(at) if _inside(place, x.shape[2:])]
            winner = max(places, key=lambda place: float(x[(n, c, *place)]))
            dx[(n, c, *winner)] += ct[(n, c, *at)]
    return dx


def average_pool_vjp(ct: Array, x: Array, window: Window, include_pad: bool) -> Array:
    """ct / n to each cell of the window; n counts the cells inside x, or with include_pad inside the padded x."""
    dx, sizes, rank = np.zeros_like(x), x.shape[2:], x.ndim - 2
    low = [-pad if include_pad else 0 for pad in window.pads[:rank]]
    high = [size + (pad if include_pad else 0) for size, pad in zip(sizes, window.pads[rank:], strict=True)]
    for at in itertools.product(*map(range, ct.shape[2:])):
        places = [place for _, place in window.cells(at)]
        counted = [p for p in places if all(a <= q < b for a, q, b in zip(low, p, high, strict=True))]
        for place in places:
            if _inside(place, sizes):
                dx[_at(..., *place)] += ct[_at(..., *at)] / len(counted)
    return dx


def moved_vjp(ct: Array, sizes: Ints, move: Callable[[Array], Array]) -> Array:
    """For operators that copy elements: `move` applied to the numbers 1, 2, ... tells where each element of y
    comes from (0: from nowhere); cotangents of copies add up."""
    count = int(np.prod(sizes))
    source = move(np.arange(1.0, count + 1).reshape(tuple(sizes))).astype(int)
    dx = np.zeros(count + 1)
    np.add.at(dx, source.ravel(), ct.ravel())
    return dx[1:].reshape(tuple(sizes))


def resize_matrix(size: int, out: int, scale: float, mode: str, rounding: str, coordinates: str) -> Array:
    """Interpolation along one axis, (size, out): nearest, linear, cubic (a = -0.75), borders clamped."""
    matrix = np.zeros((size, out))
    for j in range(out):
        match coordinates:
            case "half_pixel":
                at = (j + 0.5) / scale - 0.5
            case "pytorch_half_pixel":
                at = (j + 0.5) / scale - 0.5 if out > 1 else 0.0
            case "asymmetric":
                at = j / scale
            case _:  # align_corners
                at = j * (size - 1) / (out - 1) if out > 1 else 0.0
        for i, weight in _taps(at, mode, rounding):
            matrix[min(max(i, 0), size - 1), j] += weight
    return matrix


def _taps(at: float, mode: str, rounding: str) -> list[tuple[int, float]]:
    base = int(np.floor(at))
    r = at - base
    if mode == "nearest":
        up = {"floor": False, "ceil": r > 0, "round_prefer_floor": r > 0.5, "round_prefer_ceil": r >= 0.5}[
            rounding
        ]
        return [(base + int(up), 1.0)]
    if mode == "linear":
        return [(base, 1 - r), (base + 1, r)]
    a = -0.75
    near = [((a + 2) * d - (a + 3)) * d * d + 1 for d in (r, 1 - r)]
    far = [((a * d - 5 * a) * d + 8 * a) * d - 4 * a for d in (1 + r, 2 - r)]
    return [(base - 1, far[0]), (base, near[0]), (base + 1, near[1]), (base + 2, far[1])]


def unbroadcast(ct: Array, sizes: Ints) -> Array:
    """Σ over the axes along which ONNX's broadcasting repeated a tensor of these sizes."""
    lead = ct.ndim - len(sizes)
    axes = [
        *range(lead),
        *(lead + i for i, size in enumerate(sizes) if size == 1 and ct.shape[lead + i] != 1),
    ]
    summed: Array = ct.sum(axis=tuple(axes), keepdims=True).reshape(tuple(sizes))
    return summed
