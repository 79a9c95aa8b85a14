"""A layer normalisation spelled out in means, squares and roots becomes one LayerNormalization."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from ..emit import Emit
from ..graph import Node, Value
from .gates import scalar
from .view import View


@dataclass(frozen=True)
class Deviation:
    """The root of a variance over the last axes: σ = √(mean (x - mean x)² + ε), or 1/σ when `inverse`.

    axis: the first axis normalised, counted from the end. nodes: everything from x up to here.
    """

    x: Value
    axis: int
    epsilon: float
    y: Value
    inverse: bool
    nodes: tuple[Node, ...]


@dataclass(frozen=True)
class Normal:
    """γ (x - mean x) / σ + β, so far."""

    y: Value
    nodes: tuple[Node, ...]
    scale: Value | None = None
    bias: Value | None = None


def recognise_layer_norm(view: View, node: Node, g: Emit) -> Node | None:
    """From the root of the variance (Sqrt, or Pow with ±1/2): (x - mean x) / √(var x + ε) over the last axes, then
    γ and β where there are any, in this order or with γ/σ multiplied out. Returns the new node, or None; None too
    where γ is missing and the size of the axes is not static."""
    found = _deviation(view, node)
    if found is None:
        return None
    for normal in (*_centred_first(view, found), *_multiplied_out(view, found)):
        last = normal.nodes[-1]
        if not view.closed(normal.nodes, last):
            continue
        with g.at(last.name):
            inputs = _parameters(found, normal, g)
        if inputs is not None:
            attrs = {"axis": found.axis, "epsilon": found.epsilon}
            return view.replace(normal.nodes, "LayerNormalization", last.name, attrs, inputs, normal.y)
    return None


def _deviation(view: View, node: Node) -> Deviation | None:
    if node.domain or node.op not in ("Sqrt", "Pow"):
        return None
    power = 0.5 if node.op == "Sqrt" else scalar(view, node.inputs[1], node.inputs[0])
    if power not in (0.5, -0.5):
        return None
    variance, epsilon = node.inputs[0], 0.0
    nodes: tuple[Node, ...] = (node,)
    add = view.maker(variance)
    if add is not None and _is(add, "Add"):
        for value, other in (add.inputs, add.inputs[::-1]):
            number = scalar(view, other, value)
            if number is not None and not view.parameter(value):
                variance, epsilon, nodes = value, number, (add, *nodes)
    mean = view.maker(variance)
    square = None if mean is None else view.maker(mean.inputs[0])
    if mean is None or square is None:
        return None
    sides = _squared(view, square)
    first = view.maker(sides[0]) if sides else None
    if first is None or not _is(first, "Sub"):
        return None
    x = first.inputs[0]
    axis = _mean_axis(view, mean, x)
    for side in sides if axis is not None else ():
        part = _difference(view, side, x, axis)
        if part is None:
            return None
        nodes = (*part, *nodes)
    if axis is None:
        return None
    return Deviation(x, axis, epsilon, node.outputs[0], power == -0.5, _once((*nodes, square, mean)))


def _is(node: Node | None, *ops: str) -> bool:
    return node is not None and not node.domain and node.op in ops


def _once(nodes: tuple[Node, ...]) -> tuple[Node, ...]:
    return tuple({id(node): node for node in nodes}.values())


def _squared(view: View, node: Node) -> tuple[Value, ...]:
    """The two factors of a square, or nothing."""
    if _is(node, "Mul"):
        return (node.inputs[0], node.inputs[1])
    if _is(node, "Pow") and scalar(view, node.inputs[1], node.inputs[0]) == 2.0:
        return (node.inputs[0],)
    return ()


def _mean_axis(view: View, node: Node, like: Value) -> int | None:
    """The first of the last axes that a mean is taken over, counted from the end; None for other axes."""
    if not _is(node, "ReduceMean") or not node.attrs.get("keepdims", 1) or like.shape is None:
        return None
    given = node.inputs[1] if len(node.inputs) > 1 and node.inputs[1].name else None
    axes = node.attrs.get("axes") if given is None else view.constant(given)
    if axes is None:
        return None
    rank = len(like.shape)
    found = sorted({int(axis) % rank for axis in np.ravel(axes)}) if rank else []
    return -len(found) if found and found == list(range(rank - len(found), rank)) else None


def _difference(view: View, value: Value, x: Value, axis: int | None) -> tuple[Node, ...] | None:
    """The nodes of x - mean x over these axes."""
    node = view.maker(value)
    if node is None or not _is(node, "Sub") or node.inputs[0].name != x.name:
        return None
    mean = view.maker(node.inputs[1])
    return (mean, node) if mean is not None and _is_mean(view, mean, x, axis) else None


def _is_mean(view: View, node: Node, x: Value, axis: int | None) -> bool:
    return (
        axis is not None
        and bool(node.inputs)
        and node.inputs[0].name == x.name
        and _mean_axis(view, node, x) == axis
    )


def _centred_first(view: View, root: Deviation) -> Iterator[Normal]:
    """(x - mean x) / σ, or times 1/σ, or times γ/σ; the longest form first."""
    for factor in _inverses(view, root):
        for node in view.readers(factor.y):
            other = _partner(node, factor.y, root.inverse or factor.y is not root.y)
            parts = None if other is None else _difference(view, other, root.x, root.axis)
            if parts is not None:
                normal = replace(factor, y=node.outputs[0], nodes=_once((*factor.nodes, *parts, node)))
                yield from _scaled(view, root, normal)


def _inverses(view: View, root: Deviation) -> Iterator[Normal]:
    """σ itself; 1/σ; γ/σ."""
    inverses = [Normal(root.y, root.nodes)]
    if not root.inverse:
        for node in view.readers(root.y):
            one = scalar(view, node.inputs[0], root.x) if _is(node, "Div") else None
            if _is(node, "Reciprocal") or (one == 1.0 and node.inputs[1].name == root.y.name):
                inverses.append(Normal(node.outputs[0], (*root.nodes, node)))
    yield from inverses
    for inverse in inverses[0 if root.inverse else 1 :]:
        for node in view.readers(inverse.y):
            gamma = _partner(node, inverse.y, True)
            if gamma is not None and view.parameter(gamma):
                yield Normal(node.outputs[0], (*inverse.nodes, node), scale=gamma)


def _partner(node: Node, value: Value, inverse: bool) -> Value | None:
    """What a node multiplies with an inverse, or divides by a deviation."""
    if inverse and _is(node, "Mul"):
        return node.inputs[1] if node.inputs[0].name == value.name else node.inputs[0]
    if not inverse and _is(node, "Div") and node.inputs[1].name == value.name:
        return node.inputs[0]
    return None


def _scaled(view: View, root: Deviation, normal: Normal) -> Iterator[Normal]:
    """With the γ and β that follow, then without."""
    for node in view.readers(normal.y):
        for value, parameter in (node.inputs, node.inputs[::-1]) if len(node.inputs) == 2 else ():
            if value.name != normal.y.name or not view.parameter(parameter):
                continue
            more = replace(normal, y=node.outputs[0], nodes=(*normal.nodes, node))
            if _is(node, "Mul") and normal.scale is None:
                yield from _scaled(view, root, replace(more, scale=parameter))
            elif _is(node, "Add"):
                yield replace(more, bias=parameter)
    yield normal


def _multiplied_out(view: View, root: Deviation) -> Iterator[Normal]:
    """x f + (β - mean x f) with f = γ/σ or 1/σ."""
    for factor in _inverses(view, root):
        if factor.y is root.y and not root.inverse:
            continue
        products = [node for node in view.readers(factor.y) if _is(node, "Mul")]
        for straight in products:
            if (other := _partner(straight, factor.y, True)) is None or other.name != root.x.name:
                continue
            for shift in products:
                mean = view.maker(_partner(shift, factor.y, True) or root.x)
                if shift is not straight and mean is not None and _is_mean(view, mean, root.x, root.axis):
                    yield from _joined(view, factor, straight, shift, mean)


def _joined(view: View, factor: Normal, straight: Node, shift: Node, mean: Node) -> Iterator[Normal]:
    """x f + (β - m f), and x f - m f."""
    nodes = (*factor.nodes, mean, straight, shift)
    for node in view.readers(shift.outputs[0]):
        if not _is(node, "Sub") or node.inputs[1].name != shift.outputs[0].name:
            continue
        if node.inputs[0].name == straight.outputs[0].name:
            yield replace(factor, y=node.outputs[0], nodes=_once((*nodes, node)))
        elif view.parameter(node.inputs[0]):
            for last in view.readers(node.outputs[0]):
                if _is(last, "Add") and straight.outputs[0].name in {x.name for x in last.inputs}:
                    more = _once((*nodes, node, last))
                    yield replace(factor, y=last.outputs[0], nodes=more, bias=node.inputs[0])


def _parameters(root: Deviation, normal: Normal, g: Emit) -> list[Value] | None:
    """x, γ, β, of the shape of the axes; ones for a γ that is missing."""
    sizes = list(root.x.shape[root.axis :])
    if not all(isinstance(size, int) for size in sizes):
        return None
    scale = normal.scale
    if scale is None:
        scale = g.filled(1.0, sizes, root.x)
    found = [root.x]
    for given in (scale, normal.bias) if normal.bias is not None else (scale,):
        made = _of_axes(g, given, sizes, len(root.x.shape))
        if made is None:
            return None
        found.append(made)
    return found


def _of_axes(g: Emit, value: Value, sizes: list[int], rank: int) -> Value | None:
    """A parameter of these sizes, perhaps with axes of one in front; without them."""
    shape = None if value.shape is None else list(value.shape)
    if shape is None or len(shape) > rank or shape[-len(sizes) :] != sizes:
        return None
    lead = shape[: -len(sizes)]
    if any(size != 1 for size in lead):
        return None
    if not lead:
        return value
    made: Value = g.Reshape(value, g.ints(*sizes))
    made.shape = sizes
    return made
