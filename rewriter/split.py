"""Cut a model in two at some of its inputs: one file for all that does not depend on them, which runs once, and one for
the rest, which runs for each of their values."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import onnx
from onnx import shape_inference

from .draft import captured
from .errors import OptionError


def split(model: onnx.ModelProto, late: Collection[str]) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """(before, after) of one model. late: the inputs that only `after` is fed.

    `before` gives the tensors that `after` needs of it, under their names. `after` takes these, the late inputs, and of
    the others what it reads itself; it gives the outputs that depend on the late ones. A linear interpreter's file is
    cut at its cotangent into the masks of a picture, and one backward pass a row.

    Raises OptionError for a late input that is not there, or that no output depends on.
    """
    graph = model.graph
    unknown = set(late) - {value.name for value in graph.input}
    if unknown:
        raise OptionError(f"the model has no input {min(unknown)!r} to cut it at")
    tainted = set(late)
    first, second = list[onnx.NodeProto](), list[onnx.NodeProto]()
    for node in graph.node:
        depends = not tainted.isdisjoint(reads(node))
        (second if depends else first).append(node)
        tainted.update(node.output if depends else ())
    outputs = [value for value in graph.output if value.name in tainted]
    if not outputs:
        raise OptionError(f"no output depends on {', '.join(sorted(late))}")
    made = {name for node in first for name in node.output}
    read = dict.fromkeys(name for node in second for name in sorted(reads(node)))
    kept = declared_in(model, [name for name in read if name in made])
    return subgraph(model, kept), subgraph(model, outputs, kept)


def subgraph(
    model: onnx.ModelProto,
    outputs: Sequence[onnx.ValueInfoProto],
    begin: Sequence[onnx.ValueInfoProto] = (),
) -> onnx.ModelProto:
    """What some outputs need of a model, and not one node or input more. begin: tensors that are fed, not computed."""
    graph, ends = model.graph, {value.name for value in outputs}
    nodes, needed = behind(graph.node, ends, {value.name for value in begin})
    part = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    part.functions.extend(model.functions)
    part.graph.name = graph.name
    part.graph.node.extend(nodes)
    part.graph.input.extend(value for value in graph.input if value.name in needed)
    part.graph.input.extend(begin)
    part.graph.output.extend(outputs)
    part.graph.initializer.extend(tensor for tensor in graph.initializer if tensor.name in needed)
    part.graph.sparse_initializer.extend(
        tensor for tensor in graph.sparse_initializer if tensor.values.name in needed
    )
    part.graph.value_info.extend(
        value for value in graph.value_info if value.name in needed and value.name not in ends
    )
    return part


def behind(
    nodes: Sequence[onnx.NodeProto], ends: Iterable[str], given: Collection[str] = frozenset()
) -> tuple[list[onnx.NodeProto], set[str]]:
    """The nodes that make some tensors, in order, and all tensors that these take. given: not looked behind."""
    needed, found = set(ends).difference(given), []
    for node in reversed(nodes):
        if not needed.isdisjoint(node.output):
            needed |= reads(node).difference(given)
            found.append(node)
    return found[::-1], needed


def reads(node: onnx.NodeProto) -> set[str]:
    """All tensors that a node and the graphs inside it read."""
    return {name for name in node.input if name} | captured(node)


def declared_in(model: onnx.ModelProto, names: Collection[str]) -> list[onnx.ValueInfoProto]:
    """Types and shapes of tensors inside a model."""
    known = {value.name: value for value in (*model.graph.value_info, *model.graph.output)}
    if not known.keys() >= set(names):
        found = shape_inference.infer_shapes(model, data_prop=True).graph
        known |= {value.name: value for value in (*found.value_info, *found.output)}
    return [known[name] for name in names]


__all__ = ["behind", "declared_in", "split", "subgraph"]
