"""What versions of ONNX changed in the meaning or the spelling of an operator, undone one node at a time. Each step
turns a node of the opset before into one, or several, of its opset that compute the same to the bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from onnx import TensorProto, helper

from .spot import Spot

Step: TypeAlias = Callable[[Spot], None]


def same(spot: Spot) -> None:
    """More types, a new attribute or input whose default is what was, or better words: nothing to do."""


def forget(*names: str) -> Step:
    """Attributes that said nothing about the result, gone in this version."""

    def step(spot: Spot) -> None:
        for name in names:
            spot.pop(name)

    return step


def spell(**defaults: Any) -> Step:
    """Write a default out that the version changed."""

    def step(spot: Spot) -> None:
        for name, value in defaults.items():
            if spot.get(name) is None:
                spot.set(name, value)

    return step


def refuse(reason: str) -> Step:
    return lambda spot: spot.refuse(reason)


def both(*steps: Step) -> Step:
    def step(spot: Spot) -> None:
        for one in steps:
            one(spot)

    return step


def ints_to_input(name: str, index: int) -> Step:
    """A list of integers that became an input; an empty one, and one that is not there, stay left out."""

    def step(spot: Spot) -> None:
        values = spot.pop(name)
        if values:
            spot.put(index, spot.constant(values))

    return step


def broadcast(spot: Spot) -> None:
    """Until 6 the second operand is laid along the axes of the first from `axis` on, where broadcast=1; since 7 along
    the last ones, as numpy does."""
    wanted, axis = spot.pop("broadcast", 0), spot.pop("axis")
    if not wanted or axis is None:
        return
    a, b = spot.rank(spot.input(0)), spot.rank(spot.input(1))
    behind = a - (axis + a if axis < 0 else axis) - b
    if behind < 0:
        spot.refuse(f"axis {axis} leaves no room for the {b} axes of its second input")
    _ones_behind(spot, 1, b, behind)


def channels(spot: Spot) -> None:
    """PRelu until 6: one slope a channel (axis 1), in one axis."""
    if spot.rank(spot.input(1)) == 1:
        _ones_behind(spot, 1, 1, spot.rank(spot.input(0)) - 2)


def _ones_behind(spot: Spot, index: int, rank: int, count: int) -> None:
    if rank and count > 0:
        shape = spot.constant([0] * rank + [1] * count)
        spot.put(index, spot.add("Reshape", [spot.input(index), shape]))


def _number(spot: Spot, value: float) -> str:
    """A scalar of the type of the node's first input."""
    dtype = spot.dtype(spot.input(0))
    if dtype is None:
        return spot.add("CastLike", [spot.constant(value, np.float32), spot.input(0)])
    return spot.constant(value, dtype)


def clip(spot: Spot) -> None:
    """The bounds become inputs. A bound that was not given is the largest number of the type, then and now."""
    for index, name in ((1, "min"), (2, "max")):
        value = spot.pop(name)
        if value is not None:
            spot.put(index, _number(spot, value))


def pad(spot: Spot) -> None:
    value = spot.pop("value", 0.0)
    spot.put(1, spot.constant(spot.pop("pads", [])))
    if value:
        spot.put(2, _number(spot, value))


def rename(old: str, new: str) -> Step:
    def step(spot: Spot) -> None:
        value = spot.pop(old)
        if value is not None:
            spot.set(new, value)

    return step


def shape_to_input(spot: Spot) -> None:
    """Reshape 1: the shape is an attribute."""
    spot.pop("consumed_inputs")
    if spot.get("shape") is None:
        spot.refuse("it has no shape")
    spot.put(1, spot.constant(spot.pop("shape")))


def slice_to_inputs(spot: Spot) -> None:
    for index, name in ((1, "starts"), (2, "ends"), (3, "axes")):
        values = spot.pop(name)
        if values is not None:
            spot.put(index, spot.constant(values))


def k_to_input(spot: Spot) -> None:
    spot.put(1, spot.constant([spot.pop("k")]))


def count_outputs(spot: Spot) -> None:
    """Split 18: equal parts are asked for by their number."""
    if not spot.input(1):
        spot.set("num_outputs", len(spot.node.output))


def repeats(spot: Spot) -> None:
    """Tile 1: so many copies along one axis, both numbers tensors of the input's type."""
    count, axis = spot.array(spot.input(1)), spot.array(spot.input(2))
    if count is None or axis is None:
        spot.refuse("its tiles and axis are not constant")
    values = [1] * spot.rank(spot.input(0))
    values[int(axis.item())] = int(count.item())
    del spot.node.input[1:]
    spot.put(1, spot.constant(values))


def type_by_name(spot: Spot) -> None:
    """Cast 1: the type as a text."""
    name = str(spot.pop("to"))
    if name.upper() not in TensorProto.DataType.keys():
        spot.refuse(f"there is no type {name!r}")
    spot.set("to", TensorProto.DataType.Value(name.upper()))


def whole_p(spot: Spot) -> None:
    """The p of an Lp norm became an integer; the default stays 2."""
    p = spot.pop("p")
    if p is None:
        return
    if p != int(p):
        spot.refuse(f"p is {p}, and may only be a whole number there")
    spot.set("p", int(p))


def test_mode(spot: Spot) -> None:
    """Until 6 is_test says whether Dropout and BatchNormalization infer; by default they train."""
    if not spot.pop("is_test", 0):
        spot.refuse("it is in training mode (is_test=0), whose result is not the model's prediction")


def drop_ratio(spot: Spot) -> None:
    """Dropout since 12: inference unless training_mode is given, whatever the ratio. Its mask in inference, which the
    specification left open, is all zeros in onnxruntime before and all ones since."""
    spot.pop("ratio")
    if len(spot.node.output) > 1 and spot.node.output[1]:
        spot.behind("Not", output=1)


def mask_of_type(spot: Spot) -> None:
    """Until 9 the mask of Dropout has the type of its input."""
    if len(spot.node.output) > 1 and spot.node.output[1]:
        dtype = spot.dtype(spot.input(0))
        if dtype is None:
            spot.refuse("the type of its mask is not known")
        spot.behind("Cast", output=1, to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


def per_element(spot: Spot) -> None:
    """BatchNormalization until 8 with spatial=0: statistics of every element, (C, H, W). y = x s + (b - m s), where
    s = scale / sqrt(var + epsilon)."""
    if spot.pop("spatial", 1):
        return
    _no_statistics(spot)
    x, scale, bias, mean, variance = spot.node.input
    deviation = spot.add("Sqrt", [spot.add("Add", [variance, _number(spot, spot.get("epsilon", 1e-5))])])
    factor = spot.add("Div", [scale, deviation])
    offset = spot.add("Sub", [bias, spot.add("Mul", [mean, factor])])
    product = spot.add("Mul", [x, factor])
    spot.node.op_type = "Add"
    del spot.node.attribute[:]
    del spot.node.input[:]
    spot.node.input.extend([product, offset])


def inference(spot: Spot) -> None:
    """BatchNormalization until 13 trains where it gives statistics out."""
    _no_statistics(spot)


def _no_statistics(spot: Spot) -> None:
    if any(spot.node.output[1:]):
        spot.refuse(
            "it gives out the statistics of the batch, as in training; export the model for inference"
        )
    del spot.node.output[1:]


def flattened(spot: Spot) -> None:
    """Softmax, LogSoftmax and Hardmax until 12 see the axes from `axis` (1 by default) on as one. Since 13 they see
    one axis, by default the last."""
    axis, x = spot.pop("axis", 1), spot.input(0)
    known = spot.scope.types().get(x)
    if known is not None and known.shape is not None:
        rank = len(known.shape)
        if -rank <= axis < rank and all(size == 1 for size in known.shape[axis % rank + 1 :]):
            spot.set("axis", axis % rank - (rank if axis % rank == rank - 1 else 0))
            return
    spot.put(0, spot.add("Flatten", [x], axis=axis))
    spot.set("axis", -1)
    spot.behind("Reshape", spot.add("Shape", [x]))


def renamed(op: str) -> Step:
    def step(spot: Spot) -> None:
        spot.node.op_type = op

    return step


def axis_to_input(spot: Spot) -> None:
    """DFT 20: the axis is an input, by default the last but one; before it was 1."""
    spot.put(2, spot.constant(spot.pop("axis", 1)))


def grid_modes(spot: Spot) -> None:
    mode = spot.pop("mode", "bilinear")
    spot.set("mode", {"bilinear": "linear", "bicubic": "cubic"}.get(mode, mode))


def group_channels(spot: Spot) -> None:
    """GroupNormalization until 20: scale and bias of a group; since 21 of a channel."""
    known = spot.scope.types().get(spot.input(0))
    count = None if known is None or known.shape is None else known.shape[1]
    groups = int(spot.get("num_groups"))
    if not isinstance(count, int):
        spot.refuse("the number of its channels is not known")
    for index in (1, 2):
        rows = spot.add("Reshape", [spot.input(index), spot.constant([groups, 1])])
        rows = spot.add("Expand", [rows, spot.constant([groups, count // groups])])
        spot.put(index, spot.add("Reshape", [rows, spot.constant([count])]))


def ceil_average(spot: Spot) -> None:
    """AveragePool 19 counts the cells of a last window that lies over the edge in another way."""
    if spot.get("ceil_mode", 0) and spot.get("count_include_pad", 0):
        spot.refuse("19 averages the last window of ceil_mode over other cells")
