"""What an emitted file says about itself: metadata_props `onnxplain.*`, each value one JSON text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import onnx

from .errors import ModelError

PREFIX = "onnxplain."


@dataclass(frozen=True)
class Card:
    """version: of onnxplain. target: what is explained and how it is chosen. rules: node -> rule. lanes: what
    the batch axis carries. source: sha256, opset and producer of the model. approximations: choices that a
    paper does not settle, nodes where a method falls back on the plain derivative, a batch that stays fixed.
    inputs, outputs: what the explanation adds to those of the model. proof: what the file's forward pass was compared
    with when it was compiled, on which input, and the largest error; or why it was not."""

    version: str
    method: str
    options: Mapping[str, Any]
    target: Mapping[str, Any]
    rules: Mapping[str, str]
    lanes: tuple[str, ...]
    source: Mapping[str, Any]
    approximations: tuple[str, ...] = ()
    citation: str = ""
    preprocessing: Mapping[str, Any] | None = None
    labels: tuple[str, ...] | None = None
    certificate: Mapping[str, Any] | None = None
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    proof: Mapping[str, Any] | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def stamp(self, model: onnx.ModelProto) -> None:
        """Write the card into the model; the source's own metadata stays, an older card goes."""
        kept = [entry for entry in model.metadata_props if not entry.key.startswith(PREFIX)]
        del model.metadata_props[:]
        model.metadata_props.extend(kept)
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name != "extra" and value is not None:
                entry = model.metadata_props.add()
                entry.key = PREFIX + item.name
                entry.value = json.dumps(value, sort_keys=True, ensure_ascii=False)


def add_proof(model: onnx.ModelProto, card: Card, proof: Mapping[str, Any]) -> Card:
    """The card with its proof, which is written into the model too."""
    entry = model.metadata_props.add()
    entry.key = PREFIX + "proof"
    entry.value = json.dumps(proof, sort_keys=True, ensure_ascii=False)
    return replace(card, proof=proof)


def is_explanation(model: onnx.ModelProto) -> bool:
    """Whether the file was emitted by this compiler."""
    return any(entry.key == PREFIX + "method" for entry in model.metadata_props)


def read_card(model: onnx.ModelProto) -> Card:
    """The card of an emitted file. ModelError when the file has none or it cannot be read."""
    raw = {
        entry.key.removeprefix(PREFIX): entry.value
        for entry in model.metadata_props
        if entry.key.startswith(PREFIX)
    }
    return card_from(raw)


def card_from(raw: Mapping[str, str]) -> Card:
    """A card from its JSON texts (keys without the prefix)."""
    if "method" not in raw:
        raise ModelError("this file carries no explanation; make one with `onnxplain compile`")
    values = {key: _value(key, text) for key, text in raw.items() if key in _TEXTS | _RECORDS | _LISTS}
    try:
        return Card(**values)
    except TypeError as error:
        raise ModelError(f"the explanation's metadata is damaged: {error}; compile it again") from error


_TEXTS = frozenset({"version", "method", "citation"})
_RECORDS = frozenset({"options", "target", "rules", "source", "preprocessing", "certificate", "proof"})
_LISTS = frozenset({"lanes", "approximations", "labels", "inputs", "outputs"})


def _value(key: str, text: str) -> Any:
    """The value of one entry. ModelError when it is no JSON, or not of the entry's kind."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelError(
            f"the explanation's metadata is damaged: {key!r} is no JSON; compile it again"
        ) from error
    kind = str if key in _TEXTS else dict if key in _RECORDS else list
    inner = (
        value
        if isinstance(value, list)
        else value.values()
        if isinstance(value, dict) and key == "rules"
        else ()
    )
    if not isinstance(value, kind) or not all(isinstance(part, str) for part in inner):
        raise ModelError(
            f"the explanation's metadata is damaged: {key!r} holds {text[:60]}; compile it again"
        )
    return tuple(value) if isinstance(value, list) else value
