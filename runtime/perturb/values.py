"""Settings as people give them, made into what a technique wants: words are read by the type of the field, files are
opened here, techniques never open any."""

from __future__ import annotations

import os
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np

from ...rewriter.errors import ImageError, OptionError, nearest
from ..estimate.samples import ARRAYS, read_array, samples
from ..preprocess import Preprocessing
from .gaussian import Gaussian, load_gaussian
from .probing import Array, Prober
from .technique import Technique

_BOOLS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_NONES = ("none", "null")


def settled(
    technique: Technique,
    given: Mapping[str, Any],
    prober: Prober,
    preprocessing: Preprocessing | None = None,
) -> Any:
    """The settings of a technique, with text read by the types of the fields and files opened.

    A field that takes a Gaussian may be given the file of `onnxplain fit gaussian`, one that takes an array an .npy
    file, `images` also a folder or a list of photos, which go through the model's preprocessing. Raises OptionError
    for an unknown name or a value that does not fit, ImageError for a file that cannot be read.
    """
    hints = get_type_hints(technique.settings)
    made = dict(given)
    for name, value in given.items():
        if name in hints and isinstance(value, (str, os.PathLike)):
            made[name] = _read(technique, name, os.fspath(value), hints[name], prober, preprocessing)
    return technique.settle(made)


def shared_out(techniques: Sequence[Technique], given: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The settings of each, where several share one command: "n" is for all that have it, "rise.n" for one. OptionError
    for a name that none of them has."""
    known = {name for t in techniques for name in (*t.names, *(f"{t.name}.{own}" for own in t.names))}
    for name in given:
        if name not in known:
            plain = sorted(key for key in known if "." not in key)
            raise OptionError(
                f"{', '.join(t.name for t in techniques)}: no setting {name!r}{nearest(name, plain)}; "
                f"known: {', '.join(plain)}"
            )
    return [
        {name: given[name] for name in given if name in t.names}
        | {name: given[f"{t.name}.{name}"] for name in t.names if f"{t.name}.{name}" in given}
        for t in techniques
    ]


def _read(
    technique: Technique, name: str, text: str, hint: Any, prober: Prober, preprocessing: Preprocessing | None
) -> Any:
    kinds = _kinds(hint)
    if Gaussian in kinds and text.lower() not in _NONES:
        return load_gaussian(text)
    if np.ndarray in kinds and Path(text).suffix in ARRAYS:
        return read_array(Path(text))
    if name == "images":
        return _photos(text, prober, preprocessing)
    for kind in kinds:
        fits, value = _word(text, kind)
        if fits:
            return value
    raise OptionError(f"{technique.name}: {name}={text!r} is no {' or '.join(map(_said, kinds))}")


def _photos(text: str, prober: Prober, preprocessing: Preprocessing | None) -> Array:
    """(N, channels, height, width), as the model sees them."""
    read = samples(text, preprocessing, False, prober.of.x.dtype)
    found = []
    for i in range(len(read)):
        planes = np.moveaxis(read[i], prober.of.channel_axis, 1)
        if planes.shape[1:] != prober.planes.shape:
            raise ImageError(
                f"{read.names[i]} becomes {list(planes.shape[1:])}, the image is {list(prober.planes.shape)}"
            )
        found.append(planes)
    return np.concatenate(found)


def _kinds(hint: Any) -> list[Any]:
    """The types that a field takes, the narrower ones first, text last."""
    parts = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    whole = (Literal, tuple, Sequence)
    bare = [part if get_origin(part) in whole else (get_origin(part) or part) for part in parts]
    order: list[Any] = [type(None), bool, int, float]
    return sorted(bare, key=lambda kind: order.index(kind) if kind in order else 5 if kind is str else 4)


def _word(text: str, kind: Any) -> tuple[bool, Any]:
    """Whether a word is of a type, and its value."""
    if kind is type(None):
        return text.lower() in _NONES, None
    if kind is bool:
        return text.lower() in _BOOLS, _BOOLS.get(text.lower())
    if kind is str:
        return True, text
    if get_origin(kind) is Literal:
        return text in get_args(kind), text
    if get_origin(kind) in (tuple, Sequence):
        return _several(text, kind)
    if kind in (int, float):
        try:
            return True, kind(text)
        except ValueError:
            pass
    return False, None


def _several(text: str, kind: Any) -> tuple[bool, Any]:
    """ "10,20" as tuple[int, int], tuple[int, ...] or Sequence[int]."""
    words, of = [word.strip() for word in text.split(",")], list(get_args(kind))
    if get_origin(kind) is Sequence or of[1:] == [Ellipsis]:
        of = of[:1] * len(words)
    if len(words) != len(of):
        return False, None
    read = [_word(word, one) for word, one in zip(words, of, strict=True)]
    return all(fits for fits, _ in read), tuple(value for _, value in read)


def _said(kind: Any) -> str:
    known = {
        bool: "true or false",
        int: "whole number",
        float: "number",
        str: "word",
        np.ndarray: ".npy file",
        type(None): "none",
    }
    if get_origin(kind) is Literal:
        return "/".join(map(str, get_args(kind)))
    if get_origin(kind) in (tuple, Sequence):
        return "numbers joined by commas"
    return known.get(kind, getattr(kind, "__name__", str(kind)))


__all__ = ["settled", "shared_out"]
