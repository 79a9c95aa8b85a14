"""Options as people give them, made into what a method wants: files are read here, methods never open any."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..rewriter.card import Card
from ..rewriter.errors import OptionError, StaleError, nearest
from ..rewriter.load import Source, load
from ..rewriter.method import Method
from ..rewriter.tape import WEIGHTED as OPERATORS

ARRAYS = frozenset({".npy"})


def resolved(options: Mapping[str, Any], source: Source) -> dict[str, Any]:
    """The options with the files that they name read: `patterns` (of `onnxplain fit patterns`), `gaussian` (of
    `onnxplain fit gaussian`), `baseline` and `references` (.npy files), `similar` and `adversarial` (models). Raises
    OptionError for a file that cannot be used, StaleError for patterns of another model, ModelError."""
    found = dict(options)
    patterns = found.get("patterns")
    if isinstance(patterns, (str, os.PathLike)):
        from .estimate import load_patterns  # needs the compiler, which needs this module

        fitted = load_patterns(patterns)
        theirs = fitted.provenance.get("sha256")
        if theirs is not None and theirs != source.sha256:
            raise StaleError(
                f"patterns={str(patterns)!r} were fitted on another model; run `onnxplain fit patterns` again"
            )
        found["patterns"] = fitted
    for name in ("baseline", "references"):
        value = found.get(name)
        if isinstance(value, os.PathLike) or (isinstance(value, str) and Path(value).suffix in ARRAYS):
            found[name] = _array(Path(value), name)
    if isinstance(found.get("gaussian"), (str, os.PathLike)):
        from .perturb.gaussian import load_gaussian  # needs the compiler, as above

        found["gaussian"] = load_gaussian(found["gaussian"])
    for name in ("similar", "adversarial"):
        if isinstance(found.get(name), (str, os.PathLike)):
            found[name] = load(found[name])
    return found


def _array(path: Path, name: str) -> npt.NDArray[Any]:
    try:
        return np.asarray(np.load(path, allow_pickle=False))
    except (OSError, ValueError, EOFError) as error:
        raise OptionError(f"{name}={str(path)!r} cannot be read as an array: {error}") from error


def vet_overrides(card: Card) -> None:
    """Raises OptionError for an entry of the option `rules` that no node with weights has the name of."""
    for where in card.options.get("rules") or {}:
        word = where in ("first", "last") or where in OPERATORS
        if not word and not any(fnmatch.fnmatchcase(name, where) for name in card.rules):
            raise OptionError(
                f"rules: no node between input and target is called {where!r}{nearest(where, card.rules)}; "
                "`onnxplain show` lists the rule of every node"
            )


def for_method(method: Method, options: Mapping[str, Any], others: Mapping[str, Method]) -> dict[str, Any]:
    """The options that concern a method, where several methods share one command. OptionError for an option that
    none of them has. A method around another one takes every option that no other method claims."""
    mine = {name: value for name, value in options.items() if name in method.options}
    for name, value in options.items():
        if name in mine:
            continue
        takers = [other for other in others.values() if name in other.options]
        if method.of is not None and not takers:
            mine[name] = value
        elif not takers and not any(other.of is not None for other in others.values()):
            known = sorted({key for other in others.values() for key in other.options})
            raise OptionError(
                f"no method here has an option {name!r}{nearest(name, known)}; they have {', '.join(known)}"
            )
    return mine
