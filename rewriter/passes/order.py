"""Files as exporters write them, put in order: nodes in topological order, names of sizes that are names."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import onnx
import onnx.shape_inference

from ..draft import Draft, captured
from ..errors import ModelError
from ..order import ordered

UNKNOWN = frozenset({"none", "null", "nan", "unk", "unknown"})
"""What exporters write for a size that they do not know, besides signs and numbers such as "?" and "-1"."""


def is_name(text: str) -> bool:
    """Whether the `dim_param` of a size names it, so that sizes of one name are equal. PaddleOCR writes "?" for every
    size that it does not know, and two of them need not be equal. "unk__12" and "s0 + 1" are names."""
    return any(c.isalpha() or c == "_" for c in text) and text.strip().lower() not in UNKNOWN


def forget_unknown(draft: Draft) -> None:
    """A size without a name is unknown: every one for itself. The batch of a model's only input is then called N, so
    that rows can be told from other sizes."""
    leads = [x.type.tensor_type.shape.dim[:1] for x in draft.graph.input]
    nameless = [dim for lead in leads for dim in lead if dim.dim_param and not is_name(dim.dim_param)]
    for graph in _graphs(draft.graph):
        for value in (*graph.input, *graph.output, *graph.value_info):
            if not value.type.HasField("tensor_type"):
                continue
            for dim in value.type.tensor_type.shape.dim:
                if dim.HasField("dim_param") and not is_name(dim.dim_param):
                    dim.ClearField("dim_param")
    if len(leads) == 1 and nameless and not _uses(draft.graph, "N"):
        nameless[0].dim_param = "N"


def _uses(graph: onnx.GraphProto, name: str) -> bool:
    """Whether a size has this name."""
    values = (*graph.input, *graph.output, *graph.value_info)
    return any(dim.dim_param == name for value in values for dim in value.type.tensor_type.shape.dim)


def type_outputs(draft: Draft) -> None:
    """Outputs that the file declares without a type or a shape get what shape inference finds, as onnxruntime does it;
    onnx's checker refuses them. Raises ModelError for one whose type is found nowhere."""
    bare = [value for value in draft.graph.output if not _declares(value)]
    if not bare:
        return
    known = {value.name: value for value in _inferred(draft, {value.name for value in bare})}
    for value in bare:
        found = known.get(value.name)
        kind = value.type.tensor_type.elem_type or (
            found.type.tensor_type.elem_type if found is not None else 0
        )
        if not kind:
            raise ModelError(
                f"output {value.name!r} has no type, and none can be inferred for it; export the model again"
            )
        if found is not None and found.type.tensor_type.HasField("shape"):
            value.type.CopyFrom(found.type)
        else:  # of unknown rank: the checker wants a shape, and gets it while it looks
            value.type.tensor_type.elem_type = kind


def _declares(value: onnx.ValueInfoProto) -> bool:
    kind = value.type.WhichOneof("value")
    tensor = value.type.tensor_type
    return kind is not None and (
        kind != "tensor_type" or (tensor.elem_type != 0 and tensor.HasField("shape"))
    )


def _inferred(draft: Draft, names: set[str]) -> Iterable[onnx.ValueInfoProto]:
    model = draft.closed()
    kept = [value for value in model.graph.output if value.name not in names]
    del model.graph.output[:]
    model.graph.output.extend(kept)
    try:
        graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    except (onnx.shape_inference.InferenceError, RuntimeError):
        return ()  # said where all shapes are inferred
    return (*graph.value_info, *graph.input, *graph.output)


def sort_nodes(draft: Draft) -> None:
    """The nodes of the graph, of its subgraphs and of functions in topological order, otherwise as they stand:
    onnxruntime takes them in any order, onnx does not. Raises ModelError for a cycle."""
    _sort(draft.graph.node)
    for function in draft.model.functions:
        _sort(function.node)


def _sort(nodes: Collection[onnx.NodeProto]) -> None:
    for node in nodes:
        for inner in _inner(node):
            _sort(inner.node)
    reads = [{*node.input, *captured(node)} for node in nodes]
    order = ordered(reads, [set(node.output) for node in nodes])
    if order is None:
        node = _caught(list(nodes), reads)
        raise ModelError(
            f"the model is malformed: {node.op_type} at {node.name or node.output[0]!r} reads what is made of its own "
            "output, a cycle; export it again"
        )
    if order != list(range(len(nodes))):
        kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
        for node, i in zip(nodes, order, strict=True):
            node.CopyFrom(kept[i])


def _caught(nodes: list[onnx.NodeProto], reads: list[set[str]]) -> onnx.NodeProto:
    """A node of a cycle: whoever walks against the arrows from a node that waits for another comes to one twice."""
    waiting = dict(enumerate(zip(nodes, reads, strict=True)))
    made = {name for node in nodes for name in node.output if name}
    while True:  # what waits for nothing goes first, as in `ordered`
        free = [i for i, (_, names) in waiting.items() if not names & made]
        if not free:
            break
        for i in free:
            made -= set(waiting.pop(i)[0].output)
    maker = {name: i for i, (node, _) in waiting.items() for name in node.output if name}
    seen: set[int] = set()
    at = next(iter(waiting))
    while at not in seen:
        seen.add(at)
        at = next(maker[name] for name in sorted(waiting[at][1]) if name in maker)
    return nodes[at]


def _graphs(graph: onnx.GraphProto) -> Iterable[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for inner in _inner(node):
            yield from _graphs(inner)


def _inner(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    return [
        graph
        for attribute in node.attribute
        for graph in (*((attribute.g,) if attribute.HasField("g") else ()), *attribute.graphs)
    ]


__all__ = ["forget_unknown", "is_name", "sort_nodes", "type_outputs"]
