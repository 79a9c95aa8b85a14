"""The portable form of each semantic primitive: standard operators with kernels in every onnxruntime build."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np

from ..emit import Emit, tail_of
from ..graph import Node, Value

FEW_CHANNELS = 8
"""Below this many channels of x a transposed convolution beats the flipped one."""


def step_mask(g: Emit, node: Node) -> Value:
    """StepMask(x, low?, high?): 1 where low < x < high, strictly; else 0. In the type of x."""
    x, low, high = node.inputs
    bounds = [g.Greater(x, low)] if low.name else []
    bounds += [g.Less(x, high)] if high.name else []
    inside = bounds[0] if len(bounds) == 1 else g.And(*bounds)
    return g.cast(inside, x)


def data_gradient(g: Emit, node: Node) -> Value:
    """DataGradient(ct, w, x): gradient of a convolution with respect to its input.

    Stride 1: a convolution with the flipped weight, whose channels change places. Otherwise ConvTranspose
    with the forward weight, where output_padding = (x + pads - extent) mod stride gives back the cells that
    the stride never reached; with a dynamic size it over-produces by stride - 1 and cuts.
    """
    ct, w, x = node.inputs
    geometry = dict(node.attrs)
    strides, pads = list(geometry["strides"]), list(geometry["pads"])
    rank, extent = len(strides), extents(geometry)
    flipped = [extent[i % rank] - 1 - pads[i] for i in range(2 * rank)]
    shape: list[int] | None = static_shape(w)
    few = shape is not None and shape[1] * geometry["group"] < FEW_CHANNELS
    if shape is not None and not few and set(strides) == {1} and min(flipped) >= 0:
        return g.Conv(ct, flip(g, w, geometry["group"]), **{**geometry, "pads": flipped})
    sizes = x.shape[2:] if x.shape is not None else [None] * rank
    if all(isinstance(size, int) for size in sizes):
        extra = [(size + pads[i] + pads[i + rank] - extent[i]) % strides[i] for i, size in enumerate(sizes)]
        return g.ConvTranspose(ct, w, output_padding=extra, **geometry)
    full = g.ConvTranspose(ct, w, output_padding=[stride - 1 for stride in strides], **geometry)
    return _cut(g, full, x, rank)


def extents(geometry: Mapping[str, Any]) -> list[int]:
    """Cells from the first to the last one that a filter reads, along each axis."""
    return [d * (k - 1) + 1 for d, k in zip(geometry["dilations"], geometry["kernel_shape"], strict=True)]


def static_shape(v: Value) -> list[int] | None:
    return list(v.shape) if v.shape is not None and all(isinstance(dim, int) for dim in v.shape) else None


def flip(g: Emit, w: Value, group: int) -> Value:
    """(M, C/group, k...) -> (C, M/group, k...), kernels reversed. On an initializer: folded when loaded, so
    the file keeps one copy of the weight."""
    outs, ins, *kernel = w.shape
    rank = len(kernel)
    axes = list(range(2, 2 + rank))
    if (outs, ins) == (group, 1):
        turned = w  # one filter a channel
    elif group == 1:
        turned = g.Transpose(w, perm=[1, 0, *axes])
    else:
        split = g.Reshape(w, g.ints(group, outs // group, ins, *kernel))
        turned = g.Transpose(split, perm=[0, 2, 1, *(axis + 1 for axis in axes)])
        turned = g.Reshape(turned, g.ints(group * ins, outs // group, *kernel))
    if set(kernel) == {1}:
        return turned
    last = -(2**31) + 1
    return g.Slice(turned, g.ints(*[-1] * rank), g.ints(*[last] * rank), g.ints(*axes), g.ints(*[-1] * rank))


def _cut(g: Emit, v: Value, x: Value, rank: int) -> Value:
    axes = g.ints(*range(2, 2 + rank))
    return g.Slice(v, g.ints(*[0] * rank), g.Shape(x, start=2), axes)


def spread(g: Emit, node: Node) -> Value:
    """Spread(ct, x; axes): ct, of size 1 along axes, repeated to the sizes of x there."""
    ct, x = node.inputs
    return g.spread(ct, x)


def winner_take(g: Emit, node: Node) -> Value:
    """WinnerTake(t, x, y): t at the positions whose x won each MaxPool window."""
    t, x, y = node.inputs
    index, size = _winners(g, x, y, node.attrs)
    flat = g.Reshape(t, g.join(g.ints(-1), size))
    taken = g.GatherElements(flat, g.Expand(index, g.join(g.rows(t), g.ints(1))), axis=1)
    return g.shaped(taken, y)


def winner_put(g: Emit, node: Node) -> Value:
    """WinnerPut(ct, x, y): ct added up at those positions. Not MaxUnpool, which overwrites where windows
    overlap."""
    ct, x, y = node.inputs
    index, size = _winners(g, x, y, node.attrs)
    flat = g.Reshape(ct, g.join(g.ints(-1), _size(g, y)))
    rows = g.Expand(index, g.join(g.rows(ct), g.ints(1)))
    return g.shaped(g.scattered("ScatterElements", flat, rows, g.rows(ct), size, axis=1), x)


def _winners(g: Emit, x: Value, y: Value, window: dict[str, Any]) -> tuple[Value, Value]:
    """(N, outputs) positions within one sample, and the size of a sample. Indices of MaxPool count through
    the whole batch, row-major; the first of equal values wins."""
    size = _size(g, x)
    _, indices = g.ops("MaxPool", x, outputs=2, **window)
    return g.Mod(g.Reshape(indices, g.join(g.ints(-1), _size(g, y))), size), size


def _size(g: Emit, x: Value) -> Value:
    tail = tail_of(x)
    if tail is not None:
        return g.ints(prod(tail))
    return g.ReduceProd(g.Shape(x, start=1), keepdims=1)


def window_spread(g: Emit, node: Node) -> Value:
    """WindowSpread(ct, x, y): ct / n over the cells of each AveragePool window, n its count of cells."""
    ct, x, y = node.inputs
    window = dict(node.attrs)
    strides, kernel, pads = (list(window[key]) for key in ("strides", "kernel_shape", "pads"))
    rank = len(strides)
    dilations = list(window.get("dilations") or [1] * rank)
    share = g.Div(ct, counts(g, x, y, window, dilations))
    planes = g.Reshape(share, g.join(g.ints(-1, 1), *(g.size(y, 2 + i) for i in range(rank))))
    ones = g.filled(1.0, (1, 1, *kernel), ct)
    common = {"strides": strides, "dilations": dilations, "kernel_shape": kernel, "group": 1}
    tail, outs = tail_of(x), tail_of(y)
    if tail is None or outs is None:
        begin = pads[:rank] + [0] * rank
        full = g.ConvTranspose(planes, ones, pads=begin, output_padding=[s - 1 for s in strides], **common)
        return g.shaped(_cut(g, full, x, rank), x)
    reach = [
        strides[i] * (outs[1 + i] - 1) + dilations[i] * (kernel[i] - 1) + 1 - pads[i] - tail[1 + i]
        for i in range(rank)
    ]
    ends = [max(0, over) for over in reach]
    extra = [max(0, -over) for over in reach]
    full = g.ConvTranspose(planes, ones, pads=pads[:rank] + ends, output_padding=extra, **common)
    return g.shaped(full, x)


def counts(g: Emit, x: Value, y: Value, window: dict[str, Any], dilations: list[int]) -> Value:
    """Number of counted cells of every window: a scalar where it is the same for all, else (1, 1, out...)."""
    rank, padded = len(dilations), bool(window.get("count_include_pad", 0))
    kernel, pads = list(window["kernel_shape"]), list(window["pads"])
    dtype = x.dtype or np.dtype(np.float32)
    if not any(pads) and not window.get("ceil_mode", 0):
        return g.constant(np.asarray(float(prod(kernel)), dtype))
    tail, outs = tail_of(x), tail_of(y)
    if tail is None or outs is None or not g.affords(dtype.itemsize * prod(max(1, n) for n in outs[1:])):
        return _dynamic_counts(g, x, y, window, dilations)
    axes = []
    for i in range(rank):
        low, high = (-pads[i], tail[1 + i] + pads[i + rank]) if padded else (0, tail[1 + i])
        # Cell k of a window lies at corner + k d: how many of them lie before `low`, how many before `high`.
        corners = np.arange(outs[1 + i]) * window["strides"][i] - pads[i]
        before, until = (np.clip(-((corners - end) // dilations[i]), 0, kernel[i]) for end in (low, high))
        axes.append(np.maximum(until - before, 0))
    counts = np.ones((), dtype)
    for axis in axes:
        counts = np.multiply.outer(counts, axis)
    counts = counts.astype(dtype)
    if (counts == counts.flat[0]).all():
        return g.constant(np.asarray(counts.flat[0], dtype))
    return g.constant(np.ascontiguousarray(counts[None, None]))


def _dynamic_counts(g: Emit, x: Value, y: Value, window: dict[str, Any], dilations: list[int]) -> Value:
    rank, pads = len(dilations), list(window["pads"])
    strides, kernel = list(window["strides"]), list(window["kernel_shape"])
    one = np.asarray(1.0, x.dtype)
    ones = g.Expand(g.constant(one), g.join(g.ints(1, 1), g.Shape(x, start=2)))
    if any(pads):
        wide = g.ints(0, 0, *pads[:rank], 0, 0, *pads[rank:])
        ones = g.Pad(
            ones, wide, g.constant(one if window.get("count_include_pad", 0) else np.zeros_like(one))
        )
    if window.get("ceil_mode", 0):
        ones = g.Pad(
            ones, g.ints(*[0] * (rank + 4), *(s - 1 for s in strides)), g.constant(np.zeros_like(one))
        )
    weight = g.filled(1.0, (1, 1, *kernel), x)
    counts = g.Conv(
        ones, weight, strides=strides, dilations=dilations, kernel_shape=kernel, pads=[0] * 2 * rank, group=1
    )
    return _cut(g, counts, y, rank)
