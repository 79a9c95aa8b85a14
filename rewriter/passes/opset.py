"""Opset floor: the compiler knows the operators as opset 18 and later define them."""

from __future__ import annotations

from collections.abc import Iterable

import onnx
from onnx import helper, version_converter

from ..draft import Draft
from ..errors import ModelError

FLOOR = 18
IR_VERSION = 10


def lift(draft: Draft, floor: int = FLOOR) -> None:
    """Bring the default operator set to `floor` or later by onnx's version converter; names, metadata and doc
    strings of the source survive. Raises ModelError where the converter cannot, and for an opset that the
    installed onnx does not know."""
    newest = onnx.defs.onnx_opset_version()
    if draft.opset > newest:
        raise ModelError(
            f"the model has opset {draft.opset}; onnx {onnx.__version__} knows them up to {newest}: install a newer "
            "onnx, or export the model with a lower opset"
        )
    if draft.opset < floor:
        _convert(draft, floor)
    opsets = list(draft.model.opset_import)
    draft.model.ir_version = max(IR_VERSION, helper.find_min_ir_version_for(opsets, ignore_unknown=True))


def _convert(draft: Draft, floor: int) -> None:
    source, version = draft.model, draft.opset
    try:
        converted = version_converter.convert_version(draft.closed(), floor)
    except (
        Exception
    ) as error:  # the converter raises what its adapters happen to: onnx's, and others of no public name
        reason = str(error).strip().splitlines()[0]
        raise ModelError(
            f"cannot lift the model from opset {version} to {floor} ({reason}); export it with opset {floor}"
        ) from error
    kept = [value for value in converted.graph.input if value.name not in draft.weights]
    del converted.graph.input[:]
    converted.graph.input.extend(kept)
    _restore(source, converted)
    draft.model = converted


def _restore(source: onnx.ModelProto, converted: onnx.ModelProto) -> None:
    """Put back what the converter's own representation does not carry."""
    for name in ("doc_string", "producer_name", "producer_version", "domain", "model_version"):
        setattr(converted, name, getattr(source, name))
    converted.graph.doc_string = source.graph.doc_string
    converted.graph.name = source.graph.name
    _replace(converted.metadata_props, source.metadata_props)
    _replace(converted.graph.metadata_props, source.graph.metadata_props)
    imported = {entry.domain for entry in converted.opset_import}
    converted.opset_import.extend(entry for entry in source.opset_import if entry.domain not in imported)
    old = {node.output[0]: node for node in source.graph.node if node.output}
    for node in converted.graph.node:
        before = old.get(node.output[0]) if node.output else None
        if before is not None:
            node.name, node.doc_string = before.name, before.doc_string
            _replace(node.metadata_props, before.metadata_props)


def _replace(target: object, values: Iterable[object]) -> None:
    del target[:]  # type: ignore[attr-defined]
    target.extend(values)  # type: ignore[attr-defined]
