"""What an emitted file costs: compiling it, its size, opening it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import onnx

import onnxplain
from benchmarks.timing import fresh, seconds
from onnxplain.runtime.providers import create_session


@dataclass(frozen=True)
class FileCost:
    """Seconds are medians over fresh processes; imports are not counted."""

    nodes: int
    emitted_nodes: int
    bytes: int
    emitted_bytes: int
    roundtrip: float
    compile: float
    session: float
    emitted_session: float

    @property
    def compile_ratio(self) -> float:
        return self.compile / self.roundtrip

    @property
    def size_ratio(self) -> float:
        return self.emitted_bytes / self.bytes

    @property
    def session_ratio(self) -> float:
        return self.emitted_session / self.session


def file_cost(model: Path, emitted: Path, method: str, threads: int, repeats: int) -> FileCost:
    """Compile `model` to `emitted`, and weigh it against reading and writing the same file with onnx.

    The four tasks take turns, each in a process of its own.
    """
    copy = emitted.with_suffix(".copy")
    tasks: dict[str, Callable[[], float]] = {
        "roundtrip": lambda: fresh(_roundtrip, model, copy),
        "compile": lambda: fresh(_compile, model, emitted, method),
        "session": lambda: fresh(_session, model, threads),
        "emitted_session": lambda: fresh(_session, emitted, threads),
    }
    times: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(repeats):
        for name, task in tasks.items():
            times[name].append(task())
    copy.unlink()
    return FileCost(
        nodes=fresh(_nodes, model),
        emitted_nodes=fresh(_nodes, emitted),
        bytes=model.stat().st_size,
        emitted_bytes=emitted.stat().st_size,
        **{name: median(values) for name, values in times.items()},
    )


def compile_file(model: Path, emitted: Path, method: str) -> None:
    onnxplain.compile(model, method).save(emitted)


def _compile(model: Path, emitted: Path, method: str) -> float:
    return seconds(lambda: compile_file(model, emitted, method))


def _roundtrip(model: Path, copy: Path) -> float:
    return seconds(lambda: onnx.save(onnx.load(model), copy, format="protobuf"))


def _session(model: Path, threads: int) -> float:
    return seconds(lambda: create_session(model, threads=threads))


def _nodes(model: Path) -> int:
    return len(onnx.load(model).graph.node)
