"""A weighted node as neurons over samples: which numbers meet which weights."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from ...rewriter.emit import Emit
from ...rewriter.graph import Node, Value
from ...rewriter.site import Refuse, Site, rank_of
from ...rules.gradient.conv import geometry

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Layout:
    """`group` groups of O = `neurons` neurons that read D = `inputs` numbers each; op and shape: the node's and its
    weight's. turned: the weight of a product is (O, D), else (D, O).

    Samples are all positions of the output in all pictures. A convolution's sample is its window, with the zeros of
    the padding; a transposed convolution's is the window over the input with zeros between its pixels.
    """

    op: str
    shape: tuple[int, ...]
    group: int
    neurons: int
    inputs: int
    turned: bool = False

    @property
    def sums(self) -> tuple[int, int, int]:
        """Shape of the node's sums."""
        return self.group, 3 * self.neurons + 1, self.inputs + 1

    def to_record(self) -> dict[str, Any]:
        return asdict(self) | {"shape": list(self.shape)}

    def neurons_of(self, weight: Array) -> Array:
        """(group, O, D) from an array in the shape of the weight."""
        if self.op == "Conv" or self.turned:
            return weight.reshape(self.group, self.neurons, self.inputs)
        if self.op == "ConvTranspose":
            split = weight.reshape(self.group, -1, *self.shape[1:])
            return np.moveaxis(split, 2, 1).reshape(self.group, self.neurons, self.inputs)
        return np.ascontiguousarray(weight.T).reshape(self.group, self.neurons, self.inputs)

    def weight_of(self, neurons: Array) -> Array:
        """The inverse of `neurons_of`."""
        if self.op == "Conv" or self.turned:
            return neurons.reshape(self.shape)
        if self.op == "ConvTranspose":
            split = neurons.reshape(self.group, self.neurons, -1, *self.shape[2:])
            return np.ascontiguousarray(np.moveaxis(split, 2, 1)).reshape(self.shape)
        return np.ascontiguousarray(neurons[0].T)


def layout_of(site: Site) -> Layout:
    """Raises Refuse for a product whose weight stands first or has more than two axes, and for sizes that are not
    known at compile time: the rules of the pattern methods refuse the same."""
    if site.active[1]:
        raise Refuse("its weight stands first")
    rank, w = rank_of(site.data), site.node.inputs[1]
    rank_of(site.y)
    if w.shape is None or not all(isinstance(dim, int) for dim in w.shape):
        raise Refuse("the shape of its weight is unknown")
    shape = tuple(int(dim) for dim in w.shape)
    if site.op in ("Conv", "ConvTranspose"):
        group = int(geometry(site)["group"])
        per = (shape[0] // group, math.prod(shape[1:]))
        if site.op == "ConvTranspose":
            per = (shape[1], shape[0] // group * math.prod(shape[2:]))
        return Layout(site.op, shape, group, *per)
    if len(shape) != 2 or rank < 2:
        raise Refuse("its weight or its input has not the axes of a matrix product with two axes of weights")
    turned = site.op == "Gemm" and bool(site.attr("transB", 0))
    outs, ins = shape if turned else shape[::-1]
    return Layout(site.op, shape, 1, outs, ins, turned)


def samples_of(g: Emit, node: Node, layout: Layout) -> tuple[Value, Value]:
    """(U, y), float64: the P samples of all neurons, U (group, D + 1, P) with a last row of ones, y (group, O, P)."""
    x, y = node.inputs[0], node.outputs[0]
    if layout.op in ("Conv", "ConvTranspose"):
        rank = len(x.shape)
        u = _windows(g, node)
        y = g.Transpose(y, perm=[1, 0, *range(2, rank)])
    else:
        if layout.op == "Gemm" and node.attrs.get("transA", 0):
            x = g.Transpose(x, perm=[1, 0])
        u = g.Transpose(g.Reshape(x, g.ints(-1, layout.inputs)), perm=[1, 0])
        y = g.Transpose(g.Reshape(y, g.ints(-1, layout.neurons)), perm=[1, 0])
    u = g.Cast(g.Reshape(u, g.ints(layout.group, layout.inputs, -1)), to=TensorProto.DOUBLE)
    y = g.Cast(g.Reshape(y, g.ints(layout.group, layout.neurons, -1)), to=TensorProto.DOUBLE)
    sizes = g.join(g.ints(layout.group, 1), g.Shape(y, start=2, end=3))
    ones = g.Expand(g.constant(np.ones((1, 1, 1))), sizes)
    return g.Concat(u, ones, axis=1), y


def _windows(g: Emit, node: Node) -> Value:
    """(C, K..., N, positions...): along each axis, input i(k, o) for window cell k and output position o. Cells that
    read padding, or a gap of a transposed convolution, read a zero appended to the axis."""
    x, y, attrs = node.inputs[0], node.outputs[0], node.attrs
    v, count = x, len(x.shape) - 2
    for axis in range(count):
        k = np.arange(attrs["kernel_shape"][axis]) * attrs["dilations"][axis]
        size, stride, pad = g.size(x, axis + 2), attrs["strides"][axis], attrs["pads"][axis]
        o = g.Unsqueeze(
            g.Range(g.scalar(0), g.Squeeze(g.size(y, axis + 2), g.ints(0)), g.scalar(1)), g.ints(0)
        )
        at = 2 + 2 * axis  # the axes before it have become two each
        ends = [int(i == at) for i in range(2 + count + axis)]
        padded = g.Pad(v, g.ints(*[0] * len(ends), *ends))
        v = g.Gather(padded, _reads(g, node.op, k[:, None], o, int(stride), int(pad), size), axis=at)
    cells, places = range(2, 2 + 2 * count, 2), range(3, 3 + 2 * count, 2)
    value: Value = g.Transpose(v, perm=[1, *cells, 0, *places])
    return value


def _reads(g: Emit, op: str, k: npt.NDArray[np.int64], o: Value, stride: int, pad: int, size: Value) -> Value:
    """Index of the input cell, or `size` where there is none. Conv: o s + k d - p. ConvTranspose: (o + p - k d) / s
    where that is whole."""
    if op == "Conv":
        i = g.Add(g.Mul(o, g.scalar(stride)), g.constant(k - pad))
        there = g.GreaterOrEqual(i, g.scalar(0))
    else:
        t = g.Sub(o, g.constant(k - pad))
        i = g.Div(t, g.scalar(stride))
        there = g.And(g.GreaterOrEqual(t, g.scalar(0)), g.Equal(g.Mul(i, g.scalar(stride)), t))
    value: Value = g.Where(g.And(there, g.Less(i, size)), i, size)
    return value
