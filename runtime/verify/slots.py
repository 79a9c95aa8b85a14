"""The model's own inputs, among those of its explanation."""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from ...rewriter.errors import ModelError
from ...rewriter.passes.shapes import tensor_type
from ...rewriter.results import ATTRIBUTION
from ...rules.scope.results import TANGENT
from ..explainer import Explainer
from .cases import Slot
from .subject import PAIRED


def slots_of(explainer: Explainer) -> tuple[Slot, ...]:
    """The model's own inputs: without what the target and the method add. The card does not name the explained ones:
    they are those that the attributions or tangents are named after, or fit in shape; of a file with neither those that
    the compiler takes, unless the card says more."""
    graph, aim = explainer.model.graph, explainer.card.target.get("target")
    added = {"input": "target", "cotangent": "cotangent"}.get(str(aim))
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [
        v
        for v in graph.input
        if v.name != added and v.name not in weights and not explainer._of_method(v.name)
    ]
    maps = [value for value in graph.output if value.name.split("/")[0] == ATTRIBUTION]
    maps = maps or [value for value in graph.input if value.name.split("/")[0] == TANGENT]
    names = {value.name.partition("/")[2] for value in maps} - {""}
    if not names and (maps or explainer.card.outputs or explainer.card.method == PAIRED):
        recalled = explainer.card.options.get("explained")
        names = set(recalled or [_explained(inputs, maps[0] if maps else None)])
    slots = []
    for value in inputs:
        kind = tensor_type(value)
        if kind.dtype is None or kind.shape is None:
            raise ModelError(f"input {value.name!r} has no type or rank; the file cannot be checked")
        slots.append(Slot(value.name, kind.dtype, kind.shape, value.name in names))
    if not any(slot.explained for slot in slots):
        raise ModelError("the file has no input that its attribution belongs to; compile it again")
    return tuple(slots)


def _explained(inputs: Sequence[onnx.ValueInfoProto], attribution: onnx.ValueInfoProto | None) -> str:
    """The float input whose shape the attribution has; of several, or none, the first of the highest rank."""
    floats = [v for v in inputs if (kind := tensor_type(v)).dtype is not None and kind.dtype.kind == "f"]
    mine = () if attribution is None else tensor_type(attribution).shape or ()
    fits = [v for v in floats if (tensor_type(v).shape or ())[1:] == mine[1:]]
    ranked = sorted(fits or floats, key=lambda v: -min(len(tensor_type(v).shape or ()), 4))
    return ranked[0].name if ranked else ""
