"""Arguments that mean nothing, said by their name: an empty list, a number where a name is needed."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral
from types import MappingProxyType

from ..rewriter.errors import OptionError


def vet_arguments(**given: object) -> None:
    """Raises OptionError naming the first argument that cannot be what its name says; None is always a default."""
    for name, value in given.items():
        fits, wanted = _WANTED[name]
        if value is not None and not fits(value):
            raise OptionError(f"{name} is {_shown(value)}; give {wanted}")


def _text(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _path(value: object) -> bool:
    return _text(value) or isinstance(value, os.PathLike)


def _texts(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes)) and all(map(_text, value))


def _count(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) > 0


def _probes(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and 0 <= int(value) <= 64


def _shapes(value: object) -> bool:
    return isinstance(value, Mapping) and all(
        _text(key) and isinstance(one, Sequence) and not isinstance(one, (str, bytes))
        for key, one in value.items()
    )


def _providers(value: object) -> bool:
    return _text(value) or (
        isinstance(value, Sequence) and not isinstance(value, (str, bytes)) and bool(value)
    )


def _labels(value: object) -> bool:
    return _path(value) or (
        isinstance(value, Sequence)
        and not isinstance(value, (str, bytes))
        and all(isinstance(one, str) for one in value)
    )


def _class(value: object) -> bool:
    return isinstance(value, str) or (isinstance(value, Integral) and not isinstance(value, bool))


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) < 60 else f"{text[:60]}..."


_WANTED: Mapping[str, tuple[Callable[[object], bool], str]] = MappingProxyType(
    {
        "output": (_text, "the name of an output"),
        "head": (_text, "logits, prob, logprob or the name of a tensor"),
        "score": (_text, "probability, logit, output or the name of a tensor"),
        "inputs": (lambda value: _texts(value) and bool(value), "a list of names of inputs, one at least"),
        "reduce": (
            lambda value: isinstance(value, str),
            'a readout, such as "maxabs", or several joined by commas',
        ),
        "shapes": (_shapes, 'a dict from the name of an input to its sizes, {"x": ["N", 3, 224, 224]}'),
        "preprocessing": (
            lambda value: _path(value) or isinstance(value, Mapping),
            "a preset, a JSON file or a dict",
        ),
        "labels": (_labels, "a file of class names, one a line, or a list of them"),
        "providers": (_providers, "the name of an execution provider, or a list of them, one at least"),
        "threads": (_count, "a whole number of threads, at least 1"),
        "batch": (_count, "a whole number, at least 1"),
        "probes": (_probes, "a whole number from 0 (no unrolled file) to 64"),
        "cache": (_path, "a folder"),
        "target": (_class, '"top", the index of a class, or its name'),
    }
)


__all__ = ["vet_arguments"]
