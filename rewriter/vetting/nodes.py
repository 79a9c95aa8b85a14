"""Nodes against the schemas of their operators: attributes and their types, numbers of operands, stated ranges."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import onnx
from onnx import AttributeProto, defs, helper

from ..errors import ModelError
from .ranges import fault
from .walk import subgraphs, where


@dataclass(frozen=True)
class Form:
    """What the schema of one operator says. inputs, outputs: fewest and most. op: its name where it is of the default
    domain, whose ranges are known."""

    op: str
    types: Mapping[str, int]
    required: frozenset[str]
    inputs: tuple[int, int]
    outputs: tuple[int, int]


@cache
def _kind_of(kind: Any) -> int:
    return int(AttributeProto.AttributeType.Value(kind.name))


def _form(op: str, version: int, domain: str) -> Form | None:
    """None for an operator that the installed onnx does not know."""
    try:
        schema = defs.get_schema(op, version, domain)
    except defs.SchemaError:
        return None
    return Form(
        "" if domain else op,
        {name: _kind_of(a.type) for name, a in schema.attributes.items()},
        frozenset(name for name, attribute in schema.attributes.items() if attribute.required),
        (schema.min_input, schema.max_input),
        (schema.min_output, schema.max_output),
    )


def vet_nodes(model: onnx.ModelProto) -> None:
    """ModelError naming the first node, and what of it does not fit. Operators without a schema (com.microsoft, the
    model's functions) may have any attributes, each of the type that it states."""
    own = {(function.domain, function.name) for function in model.functions}
    _vet(model.graph.node, _versions(model.opset_import), own, None)
    for function in model.functions:
        declared = {*function.attribute, *(attribute.name for attribute in function.attribute_proto)}
        for attribute in function.attribute_proto:
            _vet_attribute(attribute, f"function {function.name!r}", None)
        _vet(function.node, _versions(function.opset_import or model.opset_import), own, declared)


def _versions(imports: Iterable[onnx.OperatorSetIdProto]) -> dict[str, int]:
    newest = defs.onnx_opset_version()
    found = {"" if entry.domain == "ai.onnx" else entry.domain: entry.version for entry in imports}
    return {domain: min(version, newest) if domain == "" else version for domain, version in found.items()}


def _vet(
    nodes: Iterable[onnx.NodeProto],
    versions: Mapping[str, int],
    own: set[tuple[str, str]],
    parameters: set[str] | None,
) -> None:
    """parameters: attributes of the function around the nodes; None outside of one."""
    for node in nodes:
        domain = "" if node.domain == "ai.onnx" else node.domain
        known = (node.domain, node.op_type) not in own and 0 < versions.get(domain, 0) < 2**31
        form = _form(node.op_type, versions[domain], domain) if known else None
        _vet_node(node, form, parameters)
        for graph in subgraphs(node):
            _vet(graph.node, versions, own, parameters)


def _vet_node(node: onnx.NodeProto, form: Form | None, parameters: set[str] | None) -> None:
    names = [attribute.name for attribute in node.attribute]
    if len(set(names)) < len(names):
        raise _damaged(where(node), f"an attribute stands twice ({', '.join(names)})")
    for attribute in node.attribute:
        if attribute.ref_attr_name:
            _vet_reference(node, attribute, parameters)
        else:
            _vet_attribute(attribute, where(node), form)
        if form is not None and attribute.name not in form.types:
            raise _damaged(where(node), f"{node.op_type} has no attribute {attribute.name!r}")
    if form is None:
        return
    missing = sorted(form.required.difference(names))
    if missing:
        raise _damaged(where(node), f"its attribute {', '.join(missing)} is missing")
    for kind, values, (fewest, most) in (
        ("inputs", node.input, form.inputs),
        ("outputs", node.output, form.outputs),
    ):
        if not fewest <= len(values) <= most:
            raise _damaged(where(node), f"it has {len(values)} {kind}, but takes {fewest} to {most}")


def _vet_reference(node: onnx.NodeProto, attribute: AttributeProto, parameters: set[str] | None) -> None:
    if parameters is None or attribute.ref_attr_name not in parameters:
        raise _damaged(
            where(node),
            f"{attribute.name} refers to the attribute {attribute.ref_attr_name!r} of a function that has none such",
        )


_SINGLE = {
    AttributeProto.TENSOR: "t",
    AttributeProto.GRAPH: "g",
    AttributeProto.SPARSE_TENSOR: "sparse_tensor",
    AttributeProto.TYPE_PROTO: "tp",
}


def _vet_attribute(attribute: AttributeProto, place: str, form: Form | None) -> None:
    """Its type is known, the schema's, and has a value of that type within the stated range."""
    wanted = None if form is None else form.types.get(attribute.name)
    stated = AttributeProto.AttributeType.Name(attribute.type)
    if attribute.type == AttributeProto.UNDEFINED or wanted not in (None, attribute.type):
        kind = "a known one" if wanted is None else AttributeProto.AttributeType.Name(wanted)
        raise _damaged(place, f"{attribute.name} is of the type {stated}, not {kind}")
    field = _SINGLE.get(attribute.type)
    if field is not None and not attribute.HasField(field):
        raise _damaged(place, f"{attribute.name} has no value")
    # TENSOR and GRAPH are looked at as what they are.
    if form is not None and form.op and field is None:
        problem = fault(form.op, attribute.name, helper.get_attribute_value(attribute))
        if problem:
            raise _damaged(place, problem)


def _damaged(place: str, problem: str) -> ModelError:
    return ModelError(f"{place}: {problem}; the file is damaged: export it again")
