"""What the page shows: emitted files, and models that are compiled for it; each in the web's form, with its facts."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import onnx

from ... import models
from ...rewriter.card import Card, is_explanation, read_card
from ...rewriter.errors import ModelError, OptionError
from ...rewriter.load import Source, load
from ...rewriter.method import Method
from ...rewriter.passes.accelerators import Effect, vet_ops
from ...rewriter.passes.shapes import TensorType, tensor_type
from ...rewriter.respell import respell
from ...rewriter.results import ATTRIBUTION
from ...rules.registry import find
from ...rules.scope.discussion import CLASSES, DISCUSSION
from ...rules.scope.results import RESPONSE, TANGENT
from ..compiling import compile, description
from ..describe import Description

LOWERING = "web"
CLASSIFIER = ("saliency",)
FILTERS = ("linearscope.rows", "linearscope.columns")
"""Default methods of a source model: for one that gives scores, for one that gives pictures."""
USUAL = MappingProxyType({"linearscope.votes": {"variant": "classwise"}})
"""Options where nobody gave them: as printed in the paper, votes say little of the classes (see `scope votes`)."""
PROBES = MappingProxyType({"cotangent": "rows", TANGENT: "columns"})
KINDS = MappingProxyType({**PROBES, CLASSES: "votes"})
"""Input that a file asks for -> what the page does with it; a map otherwise."""


@dataclass(frozen=True)
class Part:
    """One explanation. name: of its file, without the suffix. kind: "map", "rows", "columns" or "votes". key: of the
    model it belongs to. range: the output values that are black and white, where the output is a picture.
    shipped: with onnxplain, under a licence that travels along."""

    name: str
    title: str
    model: onnx.ModelProto
    card: Card
    about: Description
    kind: str
    key: str
    range: tuple[float, float] | None
    shipped: bool

    @property
    def picture(self) -> onnx.ValueInfoProto:
        """The model's own input."""
        return next(value for value in self.model.graph.input if value.name not in self.card.inputs)


def open_parts(
    paths: Sequence[Path],
    chosen: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
    **reading: Any,
) -> list[Part]:
    """The parts of all files. chosen: methods for source models; without any, saliency for a model that gives scores,
    rows and columns of LinearScope for one that gives pictures. options: of the methods. reading: `preprocessing`,
    `labels`, `external_data`.

    Raises ModelError for what is no model or takes no single picture; OptionError for methods or options where only
    emitted files are given, and for files that ask for what the page cannot give; and what `compile` raises.
    """
    found: list[Part] = []
    compiled = False
    for path in paths:
        source = load(path, external_data=bool(reading.get("external_data")))
        if is_explanation(source.model):
            found.append(
                _part(path, path.stem, respell(source.model, LOWERING), _described(path, source, reading))
            )
            continue
        about = _described(path, source, reading)
        for method in chosen or _usual_methods(source):
            model = _compiled(source, method, about, dict(options or {}))
            found.append(_part(path, f"{path.stem}.{method}", model, about))
            compiled = True
    if chosen and not compiled:
        raise OptionError("--method is for models; the files given are explanations already: leave it out")
    return found


def _described(path: Path, source: Source, reading: Mapping[str, Any]) -> Description:
    about = description(path, source.model, reading.get("preprocessing"), reading.get("labels"))
    if about is None:
        raise ModelError(f"{str(path)!r}: its input is not a picture; the page shows maps over pictures")
    return about


def _usual_methods(source: Source) -> tuple[str, ...]:
    return FILTERS if _gives_pictures(source.model) else CLASSIFIER


def _gives_pictures(model: onnx.ModelProto) -> bool:
    return len(tensor_type(model.graph.output[0]).shape or ()) == 4


def _compiled(source: Source, name: str, about: Description, options: dict[str, Any]) -> onnx.ModelProto:
    method = find(name)
    given = {**USUAL.get(name, {}), **options}
    own = {key: value for key, value in given.items() if key in _options_of(method)}
    if _gives_pictures(source.model):
        own["head"] = "prob"  # the picture as it is, not a tensor before a last activation
    target = "cotangent" if name == "linearscope.rows" else "input"
    record = None if about.guessed else about.preprocessing.to_record()
    return compile(
        source, name, target=target, preprocessing=record, labels=about.labels, lowering=LOWERING, **own
    ).model


def _options_of(method: Method) -> set[str]:
    return set(method.options) | {"rules", "head", "output"}


def _part(path: Path, name: str, model: onnx.ModelProto, about: Description) -> Part:
    card = read_card(model)
    kind = _kind(name, model, card)
    own = [value for value in model.graph.input if value.name not in card.inputs]
    if len(own) != 1:
        raise ModelError(f"{name}: the model takes {len(own)} inputs; the page feeds one picture")
    _vet_picture(name, tensor_type(own[0]))
    digest = hashlib.sha256(
        json.dumps(
            [card.source.get("sha256"), about.preprocessing.to_record(), card.target.get("output")],
            sort_keys=True,
        ).encode()
    ).hexdigest()
    record = _record(path)
    title = str(record.get("name") or path.stem.removesuffix(f".{card.method}"))
    return Part(name, title, model, card, about, kind, digest[:12], _range(record), _ships(path))


def _vet_picture(name: str, declared: TensorType) -> None:
    if declared.dtype is None or str(declared.dtype) != "float32":
        raise ModelError(
            f"{name}: its input is {declared.dtype}; the page feeds float32: compile it in float32"
        )
    if len(declared.shape or ()) != 4:
        raise ModelError(
            f"{name}: its input has shape {list(declared.shape or ())}; the page feeds one picture"
        )


def _kind(name: str, model: onnx.ModelProto, card: Card) -> str:
    asked = [entry for entry in card.inputs if entry not in ("target", "noise")]
    outputs = {value.name for value in model.graph.output} & set(card.outputs)
    if len(asked) == 1 and asked[0] in KINDS:
        kind = KINDS[asked[0]]
        given = {"rows": ATTRIBUTION, "columns": RESPONSE, "votes": DISCUSSION}[kind]
        if given in outputs:
            return kind
    if asked or isinstance(card.target.get("target"), list):
        raise OptionError(
            f"{name}: the file takes {', '.join(asked) or 'several classes at once'}; the page gives pictures and one "
            "class at a time: compile it without (target='input', a fixed baseline)"
        )
    if ATTRIBUTION not in outputs:
        raise OptionError(f"{name}: {card.method} gives no map that the page can draw; see `onnxplain show`")
    return "map"


def _record(path: Path) -> Mapping[str, object]:
    """What lies beside a model file; nothing where there is none."""
    try:
        return models.record(path) or {}
    except ValueError as error:
        raise OptionError(str(error)) from error


def _ships(path: Path) -> bool:
    return path.resolve().parent == Path(models.__file__).resolve().parent


def _range(record: Mapping[str, object]) -> tuple[float, float] | None:
    bounds = record.get("output")
    if not isinstance(bounds, Mapping) or not {"low", "high"} <= set(bounds):
        return None
    return float(bounds["low"]), float(bounds["high"])


def runs_on_webgpu(model: onnx.ModelProto) -> list[str]:
    """What WebGPU is known to fail at or to get wrong; empty where nothing is known against it."""
    known = [
        problem for problem in vet_ops(model, LOWERING) if problem.effect in (Effect.FAILS, Effect.WRONG)
    ]
    return sorted({str(problem) for problem in known})


def paths_of(files: Sequence[str | os.PathLike[str]]) -> list[Path]:
    if not files:
        raise OptionError("nothing to show: give at least one model or explanation file")
    return [Path(os.fspath(file)) for file in files]


__all__ = ["PROBES", "Part", "open_parts", "paths_of", "runs_on_webgpu"]
