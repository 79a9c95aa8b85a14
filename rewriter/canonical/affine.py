"""Scalings of channels go into the weights and biases of the convolution or product next to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..emit import Emit
from ..graph import Node, Value
from .scaling import NOTHING, Channels, scaled_input, scaling
from .vectors import ZERO, Numbers, Vector, number, same, sound, vector
from .view import View


@dataclass(frozen=True)
class Affine:
    """An affine node with parameters as weights, and where channels lie in them.

    w_out, w_in: axes of the weight for output and input channels; of the two, axis 1 counts within a group.
    y, x: channels of output and input. gain: what the products are multiplied with (Gemm's alpha).
    bias: (C,) or (), with Gemm's beta in it.
    """

    node: Node
    do: Numbers
    w_out: int
    w_in: int
    y: Channels
    x: Channels | None
    bias: Vector
    group: int = 1
    gain: float = 1.0

    @property
    def weight(self) -> Value:
        return self.node.inputs[1]


def affine(view: View, node: Node, g: Emit) -> Affine | None:
    """Read a node; None where it is no affine node with parameters of static shape as weight and bias."""
    if node.domain or node.op not in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
        return None
    w, y = node.inputs[1], node.outputs[0]
    if not view.parameter(w) or w.dtype is None or w.shape is None or y.shape is None:
        return None
    if not all(isinstance(dim, int) and dim > 0 for dim in w.shape):
        return None
    group = int(node.attrs.get("group", 1))
    transposed = node.op == "ConvTranspose" or (
        node.op in ("Gemm", "MatMul") and not node.attrs.get("transB", 0)
    )
    w_out, w_in = (1, 0) if transposed else (0, 1)
    rank, axis = len(y.shape), 1 if node.op != "MatMul" else len(y.shape) - 1
    if len(w.shape) != (2 if node.op in ("Gemm", "MatMul") else rank) or rank < 2 or w.shape[0] % group:
        return None
    outs, ins = (w.shape[i] * (group if i == 1 else 1) for i in (w_out, w_in))
    do, at = Numbers(g, w), Channels(rank, axis, outs)
    bias = _bias(view, node, at, do)
    if bias is None:
        return None
    gain = float(node.attrs.get("alpha", 1.0)) if node.op == "Gemm" else 1.0
    return Affine(node, do, w_out, w_in, at, _input(node, axis, ins), bias, group, gain)


def _input(node: Node, axis: int, size: int) -> Channels | None:
    """The channels of the input, where they are known to be as many as the weight says."""
    shape = node.inputs[0].shape
    if shape is None or node.attrs.get("transA", 0) or axis >= len(shape) or shape[axis] != size:
        return None
    return Channels(len(shape), axis, size)


def _bias(view: View, node: Node, at: Channels, do: Numbers) -> Vector | None:
    c = node.inputs[2] if len(node.inputs) > 2 else None
    if c is None or not c.name:
        return ZERO
    if node.op == "Gemm" or node.op == "MatMul":
        found = vector(view, do.g, c, at.rank, at.axis, at.size)
    else:
        found = vector(view, do.g, c, 1, 0, at.size)
    beta = float(node.attrs.get("beta", 1.0)) if node.op == "Gemm" else 1.0
    return None if found is None else do.mul(found, number(beta))


def absorb_after(view: View, node: Node, g: Emit) -> Node | None:
    """y = s (W x + b) + t is (s W) x + (s b + t). Takes in as many scalings as follow one another; returns
    the node in their place, or None where there are none."""
    with g.at(node.name):
        own = affine(view, node, g)
        if own is None:
            return None
        taken, whole, y = [node], NOTHING, node.outputs[0]
        while (reader := view.only_reader(y)) is not None and scaled_input(view, reader) is not None:
            step = scaling(view, reader, own.y, own.do)
            if step is None:
                break
            merged = step.after(whole, own.do)
            if not (sound(merged.scale, own.weight) and sound(merged.shift, own.weight)):
                break
            taken, whole, y = [*taken, reader], merged, reader.outputs[0]
        if len(taken) == 1:
            return None
        w = own.weight
        if not same(whole.scale, 1.0):
            w = _scaled(own, whole.scale, own.w_out)
        bias = own.do.add(own.do.mul(whole.scale, own.bias), whole.shift)
        return _rebuilt(view, own, taken, node.inputs[0], w, bias, y)


def absorb_before(view: View, node: Node, g: Emit) -> Node | None:
    """y = W (s x + t) + b is (W s) x + (W t + b). A shift would also have to be in the padding, which is zero:
    it goes in only where every output has the whole window inside."""
    with g.at(node.name):
        own = affine(view, node, g)
        if own is None or own.x is None:
            return None
        taken, whole, x = [node], NOTHING, node.inputs[0]
        while (maker := view.maker(x)) is not None and view.only_reader(x) is taken[-1]:
            source = scaled_input(view, maker)
            if source is None or not _same_shape(source, x):
                break
            step = scaling(view, maker, own.x, own.do)
            merged = None if step is None else whole.after(step, own.do)
            if merged is None or not (same(merged.shift, 0.0) or _whole_windows(node)):
                break
            if not (sound(merged.scale, own.weight) and sound(merged.shift, own.weight)):
                break
            taken, whole, x = [*taken, maker], merged, source
        if len(taken) == 1:
            return None
        w, bias = own.weight, own.bias
        if not same(whole.shift, 0.0):
            bias = own.do.add(bias, _through(own, whole.shift))
        if not same(whole.scale, 1.0):
            w = _scaled(own, whole.scale, own.w_in)
        return _rebuilt(view, own, taken, x, w, bias, node.outputs[0])


def _same_shape(source: Value, x: Value) -> bool:
    return source.shape is not None and x.shape is not None and list(source.shape) == list(x.shape)


def _whole_windows(node: Node) -> bool:
    """Whether every output sums over all weights: no padding, and no transposed convolution."""
    if node.op == "ConvTranspose" or str(node.attrs.get("auto_pad", "NOTSET")) not in ("NOTSET", "VALID"):
        return False
    return not any(node.attrs.get("pads") or [])


def _factors(own: Affine, s: Vector, axis: int) -> tuple[list[int] | None, Value]:
    """(shape to see the weight in, s as it broadcasts there); no shape where the weight can stay as it is."""
    shape = list(own.weight.shape)
    if axis == 0 or own.group == 1:
        return None, own.do.value(s, [-1 if i == axis else 1 for i in range(len(shape))])
    channels, ones = own.group * shape[1], [1] * (len(shape) - 2)
    full = np.broadcast_to(s, (channels,)) if isinstance(s, np.ndarray) else own.do.full(s, channels)
    return [own.group, shape[0] // own.group, *shape[1:]], own.do.value(full, [own.group, 1, shape[1], *ones])


def _scaled(own: Affine, s: Vector, axis: int) -> Value:
    """The weight times s along its channels."""
    g, w = own.do.g, own.weight
    shape, factors = _factors(own, s, axis)
    if shape is None:
        made: Value = g.Mul(w, factors)
    else:
        made = g.Reshape(g.Mul(g.Reshape(w, g.ints(*shape)), factors), g.ints(*w.shape))
    made.dtype, made.shape = w.dtype, list(w.shape)
    return made


def _through(own: Affine, t: Vector) -> Vector:
    """W t for a t that is the same everywhere: the sum over input channels and window."""
    g, w = own.do.g, own.weight
    shape, factors = _factors(own, t, own.w_in)
    rank = len(w.shape)
    if shape is None:
        axes = [i for i in range(rank) if i != own.w_out]
        total: Value = g.ReduceSum(g.Mul(w, factors), g.ints(*axes), keepdims=0)
    else:
        grouped = g.ReduceSum(
            g.Mul(g.Reshape(w, g.ints(*shape)), factors), g.ints(*range(2, rank + 1)), keepdims=0
        )
        total = g.Reshape(grouped, g.ints(-1))
    return own.do.mul(total, number(own.gain))


def _rebuilt(
    view: View, own: Affine, old: Sequence[Node], x: Value, w: Value, bias: Vector, y: Value
) -> Node:
    """The affine node with another weight, bias, input or output, in place of the old nodes."""
    node, inputs, attrs = own.node, [x, w], dict(own.node.attrs)
    if bias is own.bias and len(node.inputs) > 2:
        inputs.append(node.inputs[2])
    elif not same(bias, 0.0):
        inputs.append(own.do.full(bias, own.y.size))
        if node.op == "Gemm":
            attrs["beta"] = 1.0
    return view.replace(old, node.op, node.name, attrs, inputs, y)
