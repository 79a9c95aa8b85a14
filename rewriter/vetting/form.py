"""Whether the parts of a model are there, named once, and not too many."""

from __future__ import annotations

from collections.abc import Iterable

import onnx

from ..errors import ModelError
from .walk import all_graphs, all_nodes, where

MAX_NODES = 50_000
"""Compiling takes 0.6 to 1.3 ms a node (measured up to 16,000 of them), so at most about a minute."""


def vet_form(model: onnx.ModelProto) -> None:
    """ModelError for a file that is no model, for too many nodes, and for names that are missing or stand twice."""
    if not model.ir_version or not model.graph.node:
        raise ModelError("this is not an ONNX model: it has no IR version or no nodes; export it again")
    if not any(entry.domain in ("", "ai.onnx") for entry in model.opset_import):
        raise ModelError("the model does not import the default operator set; export it again")
    count = sum(1 for _ in all_nodes(model))
    if count > MAX_NODES:
        raise ModelError(f"the model has {count} nodes, over the cap of {MAX_NODES}")
    if not model.graph.output or not model.graph.input:
        raise ModelError("the model has no inputs or no outputs; there is nothing to explain")
    for graph in all_graphs(model):
        _vet_names("input", [value.name for value in graph.input])
        _vet_names("output", [value.name for value in graph.output], once=False)
        stored = [tensor.name for tensor in graph.initializer]
        _vet_names("initializer", stored + [sparse.values.name for sparse in graph.sparse_initializer])
    _vet_functions(model)


def _vet_names(kind: str, names: Iterable[str], *, once: bool = True) -> None:
    seen: set[str] = set()
    for name in names:
        if not name:
            raise ModelError(f"an {kind} of the model has no name: the file is damaged; export it again")
        if once and name in seen:
            raise ModelError(f"{kind} {name!r} stands twice: the file is damaged; export it again")
        seen.add(name)


def _vet_functions(model: onnx.ModelProto) -> None:
    functions: dict[tuple[str, str, str], onnx.FunctionProto] = {}
    for function in model.functions:
        key = (function.domain, function.name, function.overload)
        if key in functions:
            raise ModelError(f"function {function.name!r} is defined twice; export the model again")
        functions[key] = function
    for node in all_nodes(model) if functions else ():
        called = functions.get((node.domain, node.op_type, node.overload))
        if called is not None and (
            len(node.input) > len(called.input) or len(node.output) > len(called.output)
        ):
            raise ModelError(
                f"{where(node)} has {len(node.input)} inputs and {len(node.output)} outputs, more than its function "
                f"defines ({len(called.input)} and {len(called.output)}); export the model again"
            )


def vet_domains(model: onnx.ModelProto, known: frozenset[str] | set[str]) -> None:
    """ModelError naming every operator of a domain that is not known, and is no function of the model."""
    own = {(function.domain, function.name) for function in model.functions}
    unknown = sorted(
        {
            f"{node.domain}.{node.op_type}"
            for node in all_nodes(model)
            if node.domain not in known and (node.domain, node.op_type) not in own
        }
    )
    if unknown:
        raise ModelError(
            f"operators of unknown domains: {', '.join(unknown)}; name the domains you trust with domains="
        )
