"""The CPU's forms: onnxruntime computes convolutions in a blocked layout (NCHWc), and only few operators keep a tensor
in it. Every other one makes it copy the tensor out, and the next convolution copy it in again.

Conv, Relu, HardSigmoid, Add, Mul of equal shapes, Concat, pools without Indices and Resize (nearest, constant scales)
keep the layout; Greater, Where, Cast, Sub, Div, Slice, Expand and ConvTranspose do not. Float32 of rank 4 takes this
path; anything else has the portable form.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np

from ..emit import Emit, tail_of
from ..graph import Node, Value
from .primitives import data_gradient, extents, flip, spread, static_shape, step_mask, window_spread

POWER = 2.0**100
"""Slope of the steps: a power of two, so that the product is exact. A positive input below 2^-100 opens its step in
part; onnxruntime's own flush of subnormal numbers begins at 2^-126."""
EXACT = 2.0**27
"""Bounds of a step above this, or below its inverse, are left to the comparison: POWER times them is not exact."""


def blocked(v: Value) -> bool:
    """Whether v is a tensor that convolutions of the CPU hold in blocks: float32, rank 4, sizes known."""
    tail = tail_of(v)
    return tail is not None and len(tail) == 3 and v.dtype is not None and np.dtype(v.dtype) == np.float32


def step(g: Emit, node: Node) -> Value:
    """StepMask as clip(2^100 (x - low), 0, 1) clip(2^100 (high - x), 0, 1)."""
    x, *bounds = node.inputs
    values = [_number(bound) if bound.name else None for bound in bounds]
    known = all(value is not None for value, bound in zip(values, bounds, strict=True) if bound.name)
    if not blocked(x) or not known or not all(_exact(value) for value in values):
        return step_mask(g, node)
    steps = [
        g.HardSigmoid(x, alpha=sign * POWER, beta=-sign * POWER * value)
        for sign, value in zip((1.0, -1.0), values, strict=True)
        if value is not None
    ]
    return steps[0] if len(steps) == 1 else g.Mul(*steps)


def _number(v: Value) -> float | None:
    values = getattr(v, "values", None)
    return float(np.ravel(values)[0]) if values is not None and np.size(values) == 1 else None


def _exact(value: float | None) -> bool:
    return value is None or value == 0 or 1 / EXACT < abs(value) < EXACT


def enter(g: Emit, v: Value, channels: int, factor: float = 1.0) -> Value:
    """v times a number, by a convolution with one weight a channel: from there on the tensor is in blocks."""
    weight = g.filled(factor, (channels, 1, 1, 1), v)
    ones, none = [1, 1], [0, 0, 0, 0]
    return g.Conv(v, weight, kernel_shape=ones, strides=ones, pads=none, dilations=ones, group=channels)


def gradient(g: Emit, node: Node) -> Value:
    """DataGradient; what a transposed convolution makes enters the blocks, unless it is the explanation itself."""
    x = node.inputs[2]
    if (stuffed := _stuffed(g, node)) is not None:
        return stuffed
    value = data_gradient(g, node)
    if value.inputs[0].op == "Conv" or not blocked(x) or not x.inputs:
        return value
    return enter(g, value, x.shape[1])


def _stuffed(g: Emit, node: Node) -> Value | None:
    """The gradient of a strided convolution with one filter a channel, or with filters of one cell: cells of ct with
    zeros between them, and the flipped filters at stride 1 behind or before that. A transposed convolution runs on one
    core where its channels are apart, and out of the blocks. None for any other: the zeros would cost more than they
    save; and where ct does not fit."""
    ct, w, x = node.inputs
    geometry, shape = node.attrs, static_shape(w)
    strides, extent = list(geometry["strides"]), extents(geometry)
    if shape is None or set(strides) == {1} or not blocked(x):
        return None
    cells = [_outputs(geometry, extent, x, i) for i in range(2)]
    begins = [extent[i] - 1 - geometry["pads"][i] for i in range(2)]
    ends = [x.shape[2 + i] - strides[i] * cells[i] - begins[i] + extent[i] - 1 for i in range(2)]
    flat = {**geometry, "strides": [1, 1], "pads": begins + ends}
    if min(begins + ends) < 0 or not g.affords(4 * prod(s * n for s, n in zip(strides, cells, strict=True))):
        return None
    if geometry["group"] == 1 and extent == [1, 1] and not any(flat["pads"]):
        return _apart(g, g.Conv(ct, flip(g, w, 1), **flat), shape[1], cells, strides)
    if shape[:2] != [geometry["group"], 1] or x.shape[1] != shape[0]:
        return None
    return g.Conv(_apart(g, ct, shape[0], cells, strides), flip(g, w, shape[0]), **flat)


def _apart(g: Emit, v: Value, channels: int, cells: Sequence[int], strides: Sequence[int]) -> Value:
    """v with zeros between its cells, strides[i] - 1 of them along spatial axis i, and as many at the end."""
    grid = np.zeros((1, 1, *(s * n for s, n in zip(strides, cells, strict=True))), np.float32)
    grid[:, :, :: strides[0], :: strides[1]] = 1
    rows = g.Expand(g.constant(grid), g.join(g.rows(v), g.ints(1, 1, 1)))
    g.state(rows, grid.shape[1:])
    ones, plain = g.filled(1.0, (channels, 1, 1, 1), v), [1, 1]
    point = {"kernel_shape": plain, "strides": plain, "pads": [0, 0, 0, 0], "dilations": plain, "group": 1}
    everywhere = g.Conv(rows, ones, **point)
    return g.Mul(enlarged(g, v, (channels, *grid.shape[2:]), strides), everywhere)


def _outputs(geometry: Mapping[str, Any], extent: Sequence[int], x: Value, i: int) -> int:
    """Cells of the convolution's output along spatial axis i."""
    pads, stride = geometry["pads"], geometry["strides"][i]
    return int((x.shape[2 + i] + pads[i] + pads[i + 2] - extent[i]) // stride + 1)


def repeated(g: Emit, node: Node) -> Value:
    """Spread over the cells of a plane, by repeating neighbours."""
    ct, x = node.inputs
    if not blocked(x) or list(node.attrs["axes"]) != [2, 3]:
        return spread(g, node)
    return enlarged(g, enter(g, ct, x.shape[1]), x.shape[1:], x.shape[2:])


def enlarged(g: Emit, v: Value, tail: Sequence[int], scales: Sequence[int]) -> Value:
    """Every cell repeated scales[i] times along spatial axis i. tail: the sizes behind the rows that this makes."""
    sizes = g.constant(np.asarray([1, 1, *scales], np.float32))
    floor = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return g.state(g.Resize(v, None, sizes, mode="nearest", **floor), tail)


def window(g: Emit, node: Node) -> Value:
    """WindowSpread over windows side by side, by repeating neighbours."""
    ct, x, y = node.inputs
    kernel, rank = list(node.attrs["kernel_shape"]), len(node.attrs["kernel_shape"])
    beside = list(node.attrs["strides"]) == kernel and not any(node.attrs["pads"])
    whole = blocked(x) and blocked(y) and rank == 2
    if not (whole and beside and all(y.shape[2 + i] * kernel[i] == x.shape[2 + i] for i in range(2))):
        return window_spread(g, node)
    return enlarged(g, enter(g, ct, x.shape[1], 1.0 / float(np.prod(kernel))), x.shape[1:], kernel)
