"""Patterns and statistics in files: .npz archives of plain arrays and one JSON text, no pickles."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...rewriter.errors import OptionError
from ...rules.patterns import Patterns
from ..atomic import atomic
from .layout import Layout
from .statistics import Moments, Statistics, Total

Arrays = dict[str, npt.NDArray[Any]]
PATTERNS, STATISTICS = "onnxplain patterns 1", "onnxplain statistics 1"
META = "meta"
COMMAND = "fit patterns"


def save_patterns(patterns: Patterns, path: str | os.PathLike[str]) -> Path:
    """Write patterns, whole or not at all: array `I/ESTIMATOR` of node I, and `meta`, a JSON text with the nodes'
    names and the provenance. The same patterns are the same bytes. Raises OptionError where it cannot be written."""
    names = list(patterns.arrays)
    arrays: Arrays = {
        f"{i}/{estimator}": np.asarray(array)
        for i, name in enumerate(names)
        for estimator, array in patterns.arrays[name].items()
    }
    return write_archive(
        path, arrays, {"kind": PATTERNS, "nodes": names, "provenance": dict(patterns.provenance)}
    )


def load_patterns(path: str | os.PathLike[str]) -> Patterns:
    """Read what `save_patterns` wrote. Raises OptionError for a file that is missing, damaged, or something else."""
    arrays, meta = read_archive(path, PATTERNS, "patterns")
    try:
        found: dict[str, dict[str, Any]] = {str(name): {} for name in meta["nodes"]}
        names, provenance = list(found), dict(meta["provenance"])
        for key, array in arrays.items():
            i, _, estimator = key.partition("/")
            if array.dtype.kind != "f" or not np.isfinite(array).all():
                raise ValueError(f"array {key!r} is {array.dtype}, or not finite")
            found[names[int(i)]][estimator] = array
    except (ValueError, TypeError, LookupError) as error:
        raise damaged(path, "patterns", error) from error
    return Patterns(found, provenance)


def save_statistics(statistics: Statistics, path: str | os.PathLike[str]) -> Path:
    """Write sums, whole or not at all."""
    arrays: Arrays = {"indices": statistics.indices}
    nodes = []
    for i, (name, moments) in enumerate(statistics.nodes.items()):
        nodes.append({"name": name, "layout": moments.layout.to_record()})
        arrays[f"{i}/weight"] = moments.weight
        for kind, total in (("sums", moments.sums), ("squares", moments.squares)):
            arrays[f"{i}/{kind}"], arrays[f"{i}/{kind}/low"] = total.high, total.low
    about = {"about": dict(statistics.about), "skipped": dict(statistics.skipped)}
    return write_archive(path, arrays, {"kind": STATISTICS, "nodes": nodes, **about})


def load_statistics(path: str | os.PathLike[str]) -> Statistics:
    """Read what `save_statistics` wrote. Raises OptionError for a file that is missing, damaged, or something
    else."""
    arrays, meta = read_archive(path, STATISTICS, "statistics")
    try:
        nodes = {}
        for i, entry in enumerate(meta["nodes"]):
            layout = Layout(**{**entry["layout"], "shape": tuple(entry["layout"]["shape"])})
            shapes = {"sums": layout.sums, "squares": (layout.group, layout.neurons)}
            totals = [
                Total(_double(arrays[f"{i}/{kind}"], shape), _double(arrays[f"{i}/{kind}/low"], shape))
                for kind, shape in shapes.items()
            ]
            nodes[str(entry["name"])] = Moments(layout, _double(arrays[f"{i}/weight"], layout.shape), *totals)
        indices = arrays["indices"]
        if indices.dtype != np.int64 or indices.ndim != 1:
            raise ValueError("its list of pictures is no list of numbers")
        return Statistics(dict(meta["about"]), nodes, dict(meta["skipped"]), indices)
    except (ValueError, TypeError, LookupError) as error:
        raise damaged(path, "statistics", error) from error


def _double(array: npt.NDArray[Any], shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
    if array.dtype != np.float64 or array.shape != shape:
        raise ValueError(f"an array is {array.dtype} {array.shape} instead of float64 {shape}")
    return array


def write_archive(path: str | os.PathLike[str], arrays: Arrays, meta: Mapping[str, Any]) -> Path:
    """Arrays and one JSON text, whole or not at all. Raises OptionError where they cannot be written."""
    text = json.dumps(meta, sort_keys=True, ensure_ascii=False)
    with atomic(path) as temporary:
        try:
            with open(temporary, "wb") as file:  # an open file: savez would add .npz to a name
                np.savez(file, allow_pickle=False, **{META: np.asarray(text)}, **arrays)
        except OSError as error:
            raise OptionError(f"cannot write {os.fspath(path)!r}: {error.strerror or error}") from error
    return Path(path)


def holds(path: str | os.PathLike[str], kind: str) -> bool:
    """Whether a file says that it is of this kind; False for one that cannot be read."""
    try:
        with open(path, "rb") as file:
            stored = np.load(file, allow_pickle=False)
            return not isinstance(stored, np.ndarray) and json.loads(str(stored[META]))["kind"] == kind
    except Exception:  # as below: whoever reads the file then says what is wrong with it
        return False


def read_archive(
    path: str | os.PathLike[str], kind: str, what: str, command: str = COMMAND
) -> tuple[Arrays, dict[str, Any]]:
    """What `write_archive` wrote. what, command: what the file is and which command writes it, for messages. Raises
    OptionError for a file that is missing, damaged, or of another kind."""
    try:
        with open(path, "rb") as file:
            stored = np.load(file, allow_pickle=False)
            if isinstance(stored, np.ndarray) or META not in stored.files:
                raise ValueError("it is another kind of file")
            arrays = {key: np.asarray(stored[key]) for key in stored.files}
        meta = json.loads(str(arrays.pop(META)))
        if not isinstance(meta, dict) or meta.get("kind") != kind:
            raise ValueError(
                f"it says it is {meta.get('kind') if isinstance(meta, dict) else meta!r}, not {kind!r}"
            )
    except FileNotFoundError as error:
        raise OptionError(f"{os.fspath(path)!r}: there is no such file of {what}") from error
    except OSError as error:
        raise OptionError(f"{os.fspath(path)!r} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # zipfile, zlib, numpy and json raise their own, MemoryError for a forged size
        raise damaged(path, what, error, command) from error
    return arrays, meta


def damaged(path: str | os.PathLike[str], what: str, error: Exception, command: str = COMMAND) -> OptionError:
    return OptionError(
        f"{os.fspath(path)!r} cannot be read as {what}: {error}; make it again with `onnxplain {command}`"
    )
