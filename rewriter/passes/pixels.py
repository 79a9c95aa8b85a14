"""Integer pixels become floating-point numbers once, at the input."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import helper

from ..draft import Draft, attributes, captured, rename_inputs
from .shapes import tensor_type

MOVES = frozenset("Transpose Reshape Flatten Squeeze Unsqueeze Slice".split())
FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16)


def cast_first(draft: Draft) -> None:
    """Where an integer input is moved about before it is cast, or cast several times to the same type, it is cast right
    away: its numbers have then one floating-point tensor of the input's own shape, which can be explained. The values
    are the same. What also reads the integers goes on to do so. A model with floating-point inputs stays as it is."""
    types = {x.name: tensor_type(x).dtype for x in draft.graph.input}
    if any(dtype is None or dtype.kind == "f" for dtype in types.values()):
        return
    for name, dtype in types.items():
        if dtype is not None and dtype.kind in "iu":
            _cast(draft, name, dtype)


def _cast(draft: Draft, x: str, dtype: np.dtype) -> None:
    ends = _ends(draft.graph, x, dtype)
    kinds = {attributes(end)["to"] for end, _ in ends}
    if len(kinds) != 1 or (len(ends) == 1 and not ends[0][1]):
        return
    taken = {name for node in draft.graph.node for name in (*node.output, *node.input)}
    made = f"{x}/float"
    while made in taken:
        made += "_"
    first = helper.make_node("Cast", [x], [made], f"{made}/Cast", to=next(iter(kinds)))
    names, copies = {x: made}, {}
    outputs = {value.name for value in draft.graph.output}
    for end, path in ends:
        at = made
        for node in path:
            if node.output[0] not in names:
                names[node.output[0]] = f"{node.output[0]}/float"
                copy = onnx.NodeProto.FromString(node.SerializeToString())
                copy.input[0], copy.output[0], copy.name = at, names[node.output[0]], f"{node.name}/float"
                copies[id(node)] = copy
            at = names[node.output[0]]
        _replace(draft, end, at, outputs)
    nodes = [first]
    for node in draft.graph.node:
        nodes += [node, copies[id(node)]] if id(node) in copies else [node]
    old = {id(node) for end, path in ends for node in (end, *path)}
    read = outputs | {
        name for node in nodes if id(node) not in old for name in (*node.input, *captured(node))
    }
    kept = []
    for node in reversed(nodes):  # what was cast or moved as integers, and is read no more, goes
        if id(node) not in old or read & set(node.output):
            read.update(node.input)
            kept.append(onnx.NodeProto.FromString(node.SerializeToString()))
    draft.graph.ClearField("node")
    draft.graph.node.extend(kept[::-1])


def _replace(draft: Draft, end: onnx.NodeProto, by: str, outputs: set[str]) -> None:
    """Let the readers of a Cast read what was cast before."""
    if end.output[0] in outputs:
        end.op_type = "Identity"
        end.ClearField("attribute")
        end.input[0] = by
    else:
        rename_inputs(draft.graph, {end.output[0]: by})


def _ends(
    graph: onnx.GraphProto, x: str, dtype: np.dtype
) -> list[tuple[onnx.NodeProto, Sequence[onnx.NodeProto]]]:
    """The Casts to floating-point of x, each with the nodes that move it before."""
    paths: dict[str, list[onnx.NodeProto]] = {x: []}
    found: list[tuple[onnx.NodeProto, Sequence[onnx.NodeProto]]] = []
    for node in graph.node:
        if node.domain or not node.input or node.input[0] not in paths or len(node.output) != 1:
            continue
        path = paths[node.input[0]]
        if node.op_type in MOVES:
            paths[node.output[0]] = [*path, node]
        elif node.op_type == "Cast" and attributes(node)["to"] in FLOATS:
            found.append((node, path))
        elif node.op_type == "Cast" and _holds(attributes(node)["to"], dtype):
            paths[node.output[0]] = path  # of a wider type: the same numbers
    return found


def _holds(to: object, dtype: np.dtype) -> bool:
    wider = np.dtype(helper.tensor_dtype_to_np_dtype(int(to)))  # type: ignore[call-overload]
    return wider.kind in "iu" and bool(np.can_cast(dtype, wider, "safe"))


__all__ = ["cast_first"]
