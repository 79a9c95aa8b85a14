"""Parts of an emitted file: its forward pass alone, a copy with one more output, a loop cut to its first trip."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
from onnx import TensorProto, helper

from ...rewriter.errors import ModelError
from ...rewriter.graph import LOOP
from ...rewriter.respell import forget_spelling
from ...rewriter.split import behind, subgraph
from ...rewriter.vetting import all_nodes

STANDARD = frozenset({"", "ai.onnx"})
HEAD = "verify/head"


def loop_of(model: onnx.ModelProto) -> onnx.NodeProto | None:
    """The node whose body is the explanation graph, where the method averages over samples."""
    return next((node for node in model.graph.node if node.name == LOOP), None)


def forward_part(model: onnx.ModelProto, outputs: Sequence[str]) -> onnx.ModelProto:
    """The part of the graph that ends at these tensors: what they need, and not one node more. Tensors that are no
    outputs of the file become untyped outputs, which onnxruntime takes.

    Raises ModelError for a tensor that nothing makes.
    """
    graph = model.graph
    made = {name for node in graph.node for name in node.output}
    declared = {value.name: value for value in (*graph.output, *graph.input)}
    for name in outputs:
        if name not in made and name not in declared:
            raise ModelError(f"the file has no tensor {name!r}, which its card names; compile it again")
    return subgraph(model, [declared.get(name) or onnx.ValueInfoProto(name=name) for name in outputs])


def exposed(model: onnx.ModelProto, tensor: str, own: int, x: str) -> tuple[onnx.ModelProto, str]:
    """A copy that also gives out a tensor, behind the model's `own` outputs; and the name of that output. In a loop it
    is the tensor of every trip's first rows, as many as the input x has: (trips, N, ...)."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    outputs = list(copy.graph.output)
    if any(value.name == tensor for value in outputs):
        return copy, tensor
    name = tensor
    loop = loop_of(copy)
    if loop is not None:
        name = HEAD
        body = loop.attribute[0].g
        body.initializer.append(helper.make_tensor(f"{HEAD}/zero", TensorProto.INT64, [1], [0]))
        body.node.extend(
            [
                helper.make_node("Shape", [x], [f"{HEAD}/rows"], start=0, end=1),
                helper.make_node(
                    "Slice", [tensor, f"{HEAD}/zero", f"{HEAD}/rows", f"{HEAD}/zero"], [f"{HEAD}/trip"]
                ),
            ]
        )
        body.output.append(onnx.ValueInfoProto(name=f"{HEAD}/trip"))
        loop.output.append(HEAD)
    del copy.graph.output[:]
    copy.graph.output.extend([*outputs[:own], onnx.ValueInfoProto(name=name), *outputs[own:]])
    return copy, name


def first_trip(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose loop ends after trip 0, which runs the input itself; any other file as it is."""
    if loop_of(model) is None:
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    loop = loop_of(copy)
    assert loop is not None
    copy.graph.initializer.append(helper.make_tensor("verify/one", TensorProto.INT64, [], [1]))
    loop.input[0] = "verify/one"
    forget_spelling(copy)  # it is another file than the one that its primitives are told of
    return copy


def foreign(model: onnx.ModelProto, outputs: Sequence[str]) -> list[str]:
    """Operators of the explanation (not of the model's forward pass) that are not ONNX's own."""
    graphs = [(model.graph, list(outputs))]
    loop = loop_of(model)
    if loop is not None:
        graphs = [(loop.attribute[0].g, [f"lane/out/{name}" for name in outputs])]
    forward: set[str] = set()
    for graph, ends in graphs:
        forward |= {node.name for node in behind(graph.node, ends)[0]}
    return sorted(
        {
            f"{node.domain}.{node.op_type}"
            for node in all_nodes(model)
            if node.domain not in STANDARD and node.name not in forward
        }
    )
