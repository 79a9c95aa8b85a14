"""Bring every node to a later opset, version by version, by the table: those of subgraphs too."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache, partial

import onnx
from onnx import helper, numpy_helper, shape_inference

from ...draft import Draft
from ...errors import ModelError
from ..shapes import TensorType, tensor_type
from .spot import Scope, Spot
from .table import TABLE

FLOOR = 18
IR_VERSION = 10
STAGES = (5, 6, 12)
"""Where the lift stops to infer shapes again: axes of broadcasts, which 7 does away with, need to know the ranks. From
5 on the sizes of Reshape are an input, and from 6 on onnx infers through every operator."""

DEFAULT = ("", "ai.onnx")


def lift(draft: Draft, floor: int = FLOOR) -> None:
    """Bring the default operator set to `floor` or later; names, order, metadata and doc strings of the nodes stay.
    What a version changed is written in `table.py`; no node computes anything else than before.

    Raises ModelError for a node whose old meaning the later version cannot say, and for an opset that the installed
    onnx does not know.
    """
    newest = onnx.defs.onnx_opset_version()
    if max(draft.opset, floor) > newest:
        raise ModelError(
            f"the model has opset {max(draft.opset, floor)}; onnx {onnx.__version__} knows them up to {newest}: "
            "install a newer onnx, or export the model with a lower opset"
        )
    for stop in (*STAGES, floor):
        if draft.opset < stop <= floor:
            _Lift(draft.opset, stop, _taken(draft)).model(draft)
            _import(draft.model, stop)
    opsets = list(draft.model.opset_import)
    draft.model.ir_version = max(IR_VERSION, helper.find_min_ir_version_for(opsets, ignore_unknown=True))


def _import(model: onnx.ModelProto, version: int) -> None:
    for entry in model.opset_import:
        if entry.domain in DEFAULT:
            entry.version = version


class _Lift:
    """One stage, from one opset to another."""

    def __init__(self, start: int, stop: int, taken: set[str]) -> None:
        self.start, self.stop, self.taken = start, stop, taken

    def model(self, draft: Draft) -> None:
        inferred: list[onnx.GraphProto] = []

        def proven() -> onnx.GraphProto:
            if not inferred:
                inferred.append(_inferred(draft.closed()))
            return inferred[0]

        self._graph(draft.graph, None, proven)

    def _graph(
        self, graph: onnx.GraphProto, outer: Scope | None, proven: Callable[[], onnx.GraphProto]
    ) -> None:
        above = {} if outer is None else outer.constants
        constants = above | {t.name: t for t in graph.initializer} | _constants(graph.node)
        known: dict[str, TensorType] = {}

        def types() -> dict[str, TensorType]:
            if not known:
                known.update(({} if outer is None else outer.types()) | _types(proven()))
            return known

        scope, made = Scope(types, constants), []
        for i, node in enumerate(graph.node):
            for k, inner in enumerate(_subgraphs(node)):
                # The inferred graph is asked by position: names in two branches may be the same.
                self._graph(inner, scope, partial(_nested, proven, i, k))
            made += self._node(node, scope)
        if len(made) > len(graph.node):
            kept = [_copied(node) for node in made]
            del graph.node[:]
            graph.node.extend(kept)

    def _node(self, node: onnx.NodeProto, scope: Scope) -> list[onnx.NodeProto]:
        if node.domain not in DEFAULT or not node.output:
            return [node]
        spot = Spot(node, scope, self._fresh)
        for version in range(self.start + 1, self.stop + 1):
            step = TABLE.get((node.op_type, version))
            spot.version = version
            if step is not None:
                step(spot)
            elif version in versions(node.op_type):
                spot.refuse(f"what {node.op_type} changed in opset {version} is not known here")
        _vet(spot, self.stop)
        return [*spot.before, node, *spot.after]

    def _fresh(self, hint: str) -> str:
        name, i = hint, 1
        while name in self.taken:
            i += 1
            name = f"{hint}_{i}"
        self.taken.add(name)
        return name


def _nested(proven: Callable[[], onnx.GraphProto], node: int, graph: int) -> onnx.GraphProto:
    return _subgraphs(proven().node[node])[graph]


def _copied(node: onnx.NodeProto) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    return copy


@cache
def versions(op: str) -> frozenset[int]:
    """The opsets that changed an operator, the first one left out."""
    return _history().get(op, frozenset())


@cache
def _history() -> dict[str, frozenset[int]]:
    found: dict[str, set[int]] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain == "":
            found.setdefault(schema.name, set()).add(schema.since_version)
    return {op: frozenset(known - {min(known)}) for op, known in found.items()}


def _vet(spot: Spot, version: int) -> None:
    """An attribute that the later operator does not have would be forgotten without a word."""
    node = spot.node
    if not onnx.defs.has(node.op_type, version):
        return
    known = onnx.defs.get_schema(node.op_type, version).attributes
    for attribute in node.attribute:
        if attribute.name not in known:
            spot.refuse(f"it has no attribute {attribute.name!r} there")


def _subgraphs(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    found = []
    for attribute in node.attribute:
        found += [attribute.g] if attribute.HasField("g") else []
        found += attribute.graphs
    return found


def _constants(nodes: Iterable[onnx.NodeProto]) -> dict[str, onnx.TensorProto]:
    """What Constant nodes hold: tensors, and the numbers that later versions write without one."""
    found: dict[str, onnx.TensorProto] = {}
    for node in nodes:
        for attribute in node.attribute if node.op_type == "Constant" else ():
            if attribute.HasField("t"):
                found[node.output[0]] = attribute.t
            elif attribute.name in ("value_int", "value_ints", "value_float", "value_floats"):
                values = helper.get_attribute_value(attribute)
                kind = onnx.TensorProto.FLOAT if "float" in attribute.name else onnx.TensorProto.INT64
                dtype = helper.tensor_dtype_to_np_dtype(kind)
                found[node.output[0]] = numpy_helper.from_array(dtype.type(values))
    return found


def _inferred(model: onnx.ModelProto) -> onnx.GraphProto:
    try:
        return shape_inference.infer_shapes(model).graph
    except (shape_inference.InferenceError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelError(f"the model's shapes do not fit together: {reason}") from error


def _types(graph: onnx.GraphProto) -> dict[str, TensorType]:
    types = {value.name: tensor_type(value) for value in (*graph.value_info, *graph.output, *graph.input)}
    for tensor in graph.initializer:
        types[tensor.name] = TensorType(helper.tensor_dtype_to_np_dtype(tensor.data_type), tuple(tensor.dims))
    return types


def _taken(draft: Draft) -> set[str]:
    """Every name of the model, of tensors and of nodes."""
    taken = draft.constants() | {value.name for value in draft.graph.input}
    pending = [draft.graph]
    while pending:
        graph = pending.pop()
        taken |= {tensor.name for tensor in graph.initializer} | {value.name for value in graph.input}
        for node in graph.node:
            taken.update((node.name, *node.input, *node.output))
            pending += _subgraphs(node)
    return taken
