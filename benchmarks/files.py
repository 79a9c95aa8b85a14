"""What an emitted file costs: compiling it, its size, opening it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import onnx

import onnxplain
from benchmarks.timing import fresh, seconds
from onnxplain.rewriter.errors import OptionError, UnsupportedError
from onnxplain.rewriter.passes.lower import TABLES
from onnxplain.runtime.providers import create_session


@dataclass(frozen=True)
class Opening:
    """Seconds are medians over fresh processes; imports are not counted."""

    nodes: int
    emitted_nodes: int
    bytes: int
    emitted_bytes: int
    session: float
    emitted_session: float

    @property
    def size_ratio(self) -> float:
        return self.emitted_bytes / self.bytes

    @property
    def session_ratio(self) -> float:
        return self.emitted_session / self.session


@dataclass(frozen=True)
class FileCost:
    """Compiling and writing the file, and reading and writing it with onnx; seconds as above."""

    opening: Opening
    roundtrip: float
    compile: float

    @property
    def compile_ratio(self) -> float:
        return self.compile / self.roundtrip


def lowerings() -> list[str]:
    """Names that `lowering=` takes; the first is that of the provider that is timed, where it has one of its own."""
    return sorted(TABLES, key=lambda name: name != "cpu")


def file_cost(model: Path, emitted: Path, method: str, threads: int, repeats: int, lowering: str) -> FileCost:
    """Compile `model` to `emitted`, and weigh it against reading and writing the same file with onnx."""
    copy = emitted.with_suffix(".copy")
    times = _in_turns(
        {
            "roundtrip": lambda: fresh(_roundtrip, model, copy),
            "compile": lambda: fresh(_compile, model, emitted, method, lowering),
        },
        repeats,
    )
    copy.unlink()
    return FileCost(opening(model, emitted, threads, repeats), times["roundtrip"], times["compile"])


def opening(model: Path, emitted: Path, threads: int, repeats: int) -> Opening:
    """A file and its explanation graph: their sizes, and how long their sessions take to be made."""
    times = _in_turns(
        {
            "session": lambda: fresh(_session, model, threads),
            "emitted_session": lambda: fresh(_session, emitted, threads),
        },
        repeats,
    )
    return Opening(
        _nodes(model),
        _nodes(emitted),
        model.stat().st_size,
        emitted.stat().st_size,
        times["session"],
        times["emitted_session"],
    )


def _in_turns(tasks: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(repeats):
        for name, task in tasks.items():
            times[name].append(task())
    return {name: median(values) for name, values in times.items()}


def compile_file(model: Path, emitted: Path, method: str, lowering: str, **options: Any) -> str | None:
    """Write the explanation graph. Returns why there is none, or None."""
    try:
        onnxplain.compile(model, method, lowering=lowering, **options).save(emitted)
    except (UnsupportedError, OptionError) as error:
        return str(error).split(";")[0].splitlines()[0]
    return None


def _compile(model: Path, emitted: Path, method: str, lowering: str) -> float:
    return seconds(lambda: onnxplain.compile(model, method, lowering=lowering).save(emitted))


def _roundtrip(model: Path, copy: Path) -> float:
    return seconds(lambda: onnx.save(onnx.load(model), copy, format="protobuf"))


def _session(model: Path, threads: int) -> float:
    return seconds(lambda: create_session(model, threads=threads))


def _nodes(model: Path) -> int:
    return len(onnx.load(model).graph.node)
