"""Model-local functions become plain nodes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import onnx
from onnx import inliner

from ..draft import Draft
from ..errors import ModelError
from ..vetting import vet_nodes
from ..vetting.form import MAX_NODES


def inline(draft: Draft) -> None:
    """Inline every function the model defines, so that rules meet operators only. Raises ModelError where
    they would unfold into more than MAX_NODES nodes (a few that call each other twice double it at every level), or
    mean operators of another opset."""
    if not draft.model.functions:
        return
    for function in draft.model.functions:
        if any(a.HasField("g") or a.graphs for a in function.attribute_proto):
            raise ModelError(
                f"function {function.name!r} has a graph as the default of an attribute, which may call the function "
                "again; export the model without it"
            )
        _one_opset(function, draft.opset)
    sizes: dict[Key, int] = {}
    functions = {(f.domain, f.name, f.overload): f for f in draft.model.functions}
    count = _count(draft.graph.node, functions, sizes)
    if count > MAX_NODES:
        raise ModelError(f"the model's functions unfold into {count} nodes, over the cap of {MAX_NODES}")
    for nodes in (draft.graph.node, *(f.node for f in draft.model.functions)):
        _spell_defaults(nodes, functions)
    try:
        draft.model = inliner.inline_local_functions(draft.model)
    except Exception as error:  # of onnx's own C++, where the bodies do not fit the calls
        reason = " ".join(str(error).split())[:300]
        raise ModelError(
            f"the model's functions cannot be unfolded: {reason}; export it without them"
        ) from error
    vet_nodes(draft.model)  # an attribute of a call has taken the place of a name


def _one_opset(function: onnx.FunctionProto, version: int) -> None:
    """A function may import another version of ONNX's operators than the model, as long as its operators are the same
    in both (ONNX IR, "Functions"); then it imports the model's, else it is refused."""
    for entry in function.opset_import:
        if entry.domain in DEFAULT and entry.version != version:
            for node in _body(function.node):
                if _since(node, entry.version) != _since(node, version):
                    raise ModelError(
                        f"function {function.name!r} uses {node.op_type} of opset {entry.version}, which is another in "
                        f"the model's opset {version}; export both with the same opset"
                    )
            entry.version = version


def _body(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                yield from _body(graph.node)


def _since(node: onnx.NodeProto, version: int) -> int:
    """The version that defines an operator of ONNX; 0 for other domains, and where there is none."""
    if node.domain not in DEFAULT or not onnx.defs.has(node.op_type, version):
        return 0
    return int(onnx.defs.get_schema(node.op_type, version).since_version)


DEFAULT = ("", "ai.onnx")


def _spell_defaults(nodes: Iterable[onnx.NodeProto], functions: Mapping[Key, onnx.FunctionProto]) -> None:
    """Write the default attributes of a function at its calls: onnx's inliner forgets them."""
    for node in nodes:
        function = functions.get((node.domain, node.op_type, node.overload))
        if function is not None:
            given = {attribute.name for attribute in node.attribute}
            node.attribute.extend(a for a in function.attribute_proto if a.name not in given)
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                _spell_defaults(graph.node, functions)


Key = tuple[str, str, str]


def _count(
    nodes: Iterable[onnx.NodeProto], functions: Mapping[Key, onnx.FunctionProto], sizes: dict[Key, int]
) -> int:
    """Number of nodes after inlining; the checker has refused recursion before."""
    total = 0
    for node in nodes:
        key = (node.domain, node.op_type, node.overload)
        if key in functions and key not in sizes:
            sizes[key] = _count(functions[key].node, functions, sizes)
        total += sizes.get(key, 1)
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                total += _count(graph.node, functions, sizes)
    return total
