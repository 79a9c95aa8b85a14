"""Every node, graph and tensor of a model, wherever it is nested."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import onnx
from onnx import TensorProto


def all_nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Every node of the model: the graph, its subgraphs and its functions."""
    yield from walk(model.graph.node)
    for function in model.functions:
        yield from walk(function.node)


def walk(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """The nodes, each followed by those of its subgraphs."""
    for node in nodes:
        yield node
        for graph in subgraphs(node):
            yield from walk(graph.node)


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def all_graphs(model: onnx.ModelProto) -> Iterator[onnx.GraphProto]:
    """The model's graph, and those of its nodes."""
    yield model.graph
    for node in all_nodes(model):
        yield from subgraphs(node)


def all_tensors(model: onnx.ModelProto) -> Iterator[TensorProto]:
    """Initializers and attributes, the parts of sparse tensors too."""
    for node in all_nodes(model):
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
    for graph in all_graphs(model):
        yield from graph.initializer
    for sparse in all_sparse(model):
        yield from (sparse.values, sparse.indices)


def all_sparse(model: onnx.ModelProto) -> Iterator[onnx.SparseTensorProto]:
    for node in all_nodes(model):
        for attribute in node.attribute:
            if attribute.HasField("sparse_tensor"):
                yield attribute.sparse_tensor
            yield from attribute.sparse_tensors
    for graph in all_graphs(model):
        yield from graph.sparse_initializer


def where(node: onnx.NodeProto) -> str:
    """The node as a message names it."""
    name = node.name or next((output for output in node.output if output), "")
    return f"{node.op_type} at {name!r}"
