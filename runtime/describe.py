"""What a picture must become before a model sees it, and what the model's classes are called."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .. import models
from ..rewriter.card import PREFIX
from ..rewriter.errors import OptionError
from .preprocess import PRESETS, Preprocessing, for_input, from_record


@dataclass(frozen=True)
class Description:
    """preprocessing and labels, each with where it was found, in words for people."""

    preprocessing: Preprocessing
    found: str
    labels: tuple[str, ...] | None

    @property
    def guessed(self) -> bool:
        return self.found == "the input's shape"


def describe(
    model: object,
    shape: Sequence[int | str | None],
    metadata: Mapping[str, str],
    *,
    preprocessing: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    labels: str | os.PathLike[str] | Sequence[str] | None = None,
) -> Description:
    """Find the preprocessing and labels of a model, in this order: what the caller gives (a preset's name, a
    JSON file, a record), what the model's metadata carries, the JSON file beside the model, and last the
    shape of its input (pixels in [0, 1], stretched): `found` says which.

    Raises OptionError for a record or file that cannot be used, ModelError when the input is no picture.
    """
    beside = _beside(model)
    record: object
    names = find_labels(model, metadata, labels)
    if isinstance(preprocessing, (str, os.PathLike)) and str(preprocessing) in PRESETS:
        return Description(for_input(shape).scaled(str(preprocessing)), f"preset {preprocessing}", names)
    if preprocessing is not None:
        record, where = _given(preprocessing)
    elif PREFIX + "preprocessing" in metadata:
        record, where = _metadata(metadata, "preprocessing"), "the file's metadata"
    elif beside is not None and "preprocessing" in beside:
        record, where = beside["preprocessing"], "the JSON file beside the model"
    else:
        return Description(for_input(shape), "the input's shape", names)
    if not isinstance(record, Mapping):
        raise OptionError(f"preprocessing in {where} is {type(record).__name__} and no JSON object")
    return Description(from_record(record), where, names)


def sized(about: Description, shape: Sequence[int | str | None]) -> Description:
    """The description for an input of this shape: photos are brought to its height and width where both are fixed, as
    they are for the size that the description knows. Raises OptionError where they cannot be."""
    p = about.preprocessing
    sides = shape[2:] if p.layout == "NCHW" else shape[1:3]
    fixed = tuple(side for side in sides if isinstance(side, int))
    if len(shape) != 4 or len(fixed) != 2 or fixed == p.size:
        return about
    shorter = p.shorter
    if shorter is not None and p.size is not None:
        shorter = max(round(shorter * max(fixed) / max(p.size)), *fixed)
    elif shorter is not None:
        shorter = max(shorter, *fixed)
    resize = "stretch" if p.resize == "none" else p.resize
    made = replace(p, size=(fixed[0], fixed[1]), shorter=shorter, resize=resize)
    return replace(about, preprocessing=made)


def find_labels(
    model: object,
    metadata: Mapping[str, str],
    labels: str | os.PathLike[str] | Sequence[str] | None = None,
) -> tuple[str, ...] | None:
    """The class names of a model: what the caller gives (a text file, or the names), its metadata, the file
    beside it. None without any. Raises OptionError for what cannot be read."""
    given = _labels(labels)
    return given if given is not None else _metadata_labels(metadata) or _beside_labels(model)


def _given(preprocessing: str | os.PathLike[str] | Mapping[str, Any]) -> tuple[object, str]:
    if isinstance(preprocessing, Mapping):
        return preprocessing, "the given record"
    path = Path(preprocessing)
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        presets = ", ".join(PRESETS)
        raise OptionError(f"no preset and no readable file {str(path)!r}; presets: {presets}") from error
    except (ValueError, RecursionError) as error:
        raise OptionError(f"{str(path)!r} is not JSON: {error}") from error
    if not isinstance(record, dict):
        raise OptionError(f"{str(path)!r} holds no JSON object")
    return record.get("preprocessing", record), str(path)


def _beside(model: object) -> dict[str, Any] | None:
    if not isinstance(model, (str, os.PathLike)):
        return None
    try:
        return models.record(Path(model))
    except ValueError as error:
        raise OptionError(str(error)) from error


def _beside_labels(model: object) -> tuple[str, ...] | None:
    if not isinstance(model, (str, os.PathLike)):
        return None
    try:
        found = models.labels(Path(model))
    except (ValueError, FileNotFoundError) as error:
        raise OptionError(str(error)) from error
    return None if found is None else tuple(found)


def _metadata(metadata: Mapping[str, str], key: str) -> object:
    try:
        return json.loads(metadata[PREFIX + key])
    except (ValueError, RecursionError) as error:
        raise OptionError(f"the model's metadata {PREFIX + key!r} is not JSON: {error}") from error


def _metadata_labels(metadata: Mapping[str, str]) -> tuple[str, ...] | None:
    if PREFIX + "labels" not in metadata:
        return None
    names = _metadata(metadata, "labels")
    if not isinstance(names, list):
        raise OptionError(f"the model's metadata {PREFIX + 'labels'!r} is no list of class names")
    return tuple(str(name) for name in names)


def _labels(labels: str | os.PathLike[str] | Sequence[str] | None) -> tuple[str, ...] | None:
    if labels is None:
        return None
    if isinstance(labels, (str, os.PathLike)):
        try:
            return tuple(Path(labels).read_text(encoding="utf-8").splitlines())
        except (OSError, UnicodeDecodeError) as error:
            raise OptionError(f"cannot read the labels {os.fspath(labels)!r}: {error}") from error
    return tuple(labels)
