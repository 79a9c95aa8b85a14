"""The model while passes work on it: a light graph, with the heavy weights set aside untouched."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

HEAVY = 1024
"""Initializers of more elements than this are weights: no pass reads them, so none of them is ever copied or parsed."""

Dim = int | str | None


@dataclass
class Draft:
    """`model` holds everything but the heavy initializers, which wait in `weights` by name."""

    model: onnx.ModelProto
    weights: dict[str, TensorProto]
    notes: list[str] = field(default_factory=list)

    @property
    def graph(self) -> onnx.GraphProto:
        return self.model.graph

    @property
    def opset(self) -> int:
        return int(next(entry.version for entry in self.model.opset_import if entry.domain == ""))

    def closed(self) -> onnx.ModelProto:
        """A copy that is a valid model by itself: each heavy weight is a graph input of its type and shape."""
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        for name, tensor in self.weights.items():
            model.graph.input.append(helper.make_tensor_value_info(name, tensor.data_type, tensor.dims))
        return model

    def light(self) -> dict[str, TensorProto]:
        return {tensor.name: tensor for tensor in self.graph.initializer}

    def constants(self) -> set[str]:
        return set(self.weights) | {tensor.name for tensor in self.graph.initializer}

    def add_constant(self, name: str, values: np.ndarray) -> str:
        """Add an initializer; the name is made unique."""
        taken = self.constants()
        while name in taken:
            name += "_"
        self.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name


Pass = Callable[[Draft], None]


def draft(source: onnx.ModelProto) -> Draft:
    """Split a model into its light part and its weights. Initializers that are graph inputs too (IR 3) stop
    being inputs: for an explanation they are parameters."""
    model = onnx.ModelProto()
    for descriptor, value in source.ListFields():
        if descriptor.name != "graph":
            _copy(model, descriptor.name, value)
    for descriptor, value in source.graph.ListFields():
        if descriptor.name not in ("initializer", "input"):
            _copy(model.graph, descriptor.name, value)
    weights = {t.name: t for t in source.graph.initializer if heavy(t)}
    model.graph.initializer.extend(t for t in source.graph.initializer if t.name not in weights)
    parameters = {t.name for t in source.graph.initializer} | {
        t.values.name for t in source.graph.sparse_initializer
    }
    model.graph.input.extend(value for value in source.graph.input if value.name not in parameters)
    model.ir_version = max(model.ir_version, 4)  # before, every initializer had to be an input too
    _one_default_domain(model)
    return Draft(model, weights)


def _copy(target: object, name: str, value: object) -> None:
    mine = getattr(target, name)
    if hasattr(mine, "extend"):
        mine.extend(value)
    elif hasattr(mine, "CopyFrom"):
        mine.CopyFrom(value)
    else:
        setattr(target, name, value)


def heavy(tensor: TensorProto) -> bool:
    """Counted by its dims: asking protobuf for the size of a message serialises it."""
    # Integer tensors carry shapes, axes and indices, which passes do read.
    return tensor.data_type not in (TensorProto.INT64, TensorProto.INT32) and math.prod(tensor.dims) > HEAVY


def _one_default_domain(model: onnx.ModelProto) -> None:
    """'ai.onnx' and '' name the same operator set; keep ''."""
    versions: dict[str, int] = {}
    for entry in model.opset_import:
        domain = "" if entry.domain == "ai.onnx" else entry.domain
        versions[domain] = max(entry.version, versions.get(domain, 0))
    del model.opset_import[:]
    model.opset_import.extend(helper.make_opsetid(domain, version) for domain, version in versions.items())
    for node in model.graph.node:
        if node.domain == "ai.onnx":
            node.domain = ""


def attributes(node: onnx.NodeProto) -> dict[str, object]:
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def set_attribute(node: onnx.NodeProto, name: str, value: object) -> None:
    kept = [attribute for attribute in node.attribute if attribute.name != name]
    del node.attribute[:]
    node.attribute.extend(kept)
    if value is not None:
        node.attribute.append(make_attribute(name, value))


def make_attribute(name: str, value: object) -> onnx.AttributeProto:
    """As onnx's own, which cannot tell the type of an empty list: here it is one of integers."""
    if isinstance(value, (list, tuple)) and not value:
        return helper.make_attribute(name, value, attr_type=onnx.AttributeProto.INTS)
    return helper.make_attribute(name, value)


def rename_inputs(graph: onnx.GraphProto, names: dict[str, str]) -> None:
    """Let every reader of a key, in the graph or a subgraph, read its value instead."""
    for node in graph.node:
        for i, name in enumerate(node.input):
            if name in names:
                node.input[i] = names[name]
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                rename_inputs(inner, names)
                _rename_outputs(inner, names)


def _rename_outputs(graph: onnx.GraphProto, names: dict[str, str]) -> None:
    for value in graph.output:
        if value.name in names:
            value.name = names[value.name]


def reachable(graph: onnx.GraphProto, start: Iterable[str]) -> set[str]:
    """Names of all tensors that depend on `start` (itself included)."""
    live = set(start)
    for node in graph.node:
        if any(name in live for name in (*node.input, *captured(node))):
            live.update(name for name in node.output if name)
    return live


def captured(node: onnx.NodeProto) -> set[str]:
    """Outer tensors that the subgraphs of an If, Loop or Scan read."""
    names: set[str] = set()
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            local = {v.name for v in graph.input} | {t.name for t in graph.initializer}
            for inner in graph.node:
                names |= {name for name in (*inner.input, *captured(inner)) if name} - local
                local |= set(inner.output)
            names |= {value.name for value in graph.output} - local
    return names
