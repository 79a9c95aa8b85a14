"""What a call of the benchmarks explains: a network, a batch of pictures, an output element of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from benchmarks.networks import Floats
from onnxplain.runtime.providers import create_session

Run = Callable[[], Floats]
OVERLAP, LOPSIDED = "MaxPool, overlapping", "Conv, padded more at one end"
FEATURES = ("MaxPool", "GlobalAveragePool")


@dataclass(frozen=True)
class Case:
    """model: the source file. target: the explained element of each sample, in the flattened output. output: shape
    of one sample's output. layer: the value that Grad-CAM looks at."""

    model: Path
    x: Floats
    target: tuple[int, ...]
    output: tuple[int, ...]
    layer: str | None
    threads: int


def case(model: Path, x: Floats, threads: int) -> Case:
    """Explains the top element of every sample."""
    session = create_session(model, threads=threads)
    y = np.asarray(session.run(None, {session.get_inputs()[0].name: x})[0])
    target = tuple(int(i) for i in y.reshape(len(y), -1).argmax(1))
    return Case(
        model, x, target, y.shape[1:], last_features(onnx.load(model, load_external_data=False)), threads
    )


def last_features(model: onnx.ModelProto) -> str | None:
    """The last rectified activation in front of the last pool, which is what Grad-CAM is shown for; None without."""
    nodes = list(model.graph.node)
    pools = [i for i, node in enumerate(nodes) if node.op_type in FEATURES]
    for node in reversed(nodes[: pools[-1]] if pools else []):
        if node.op_type in ("Relu", "Clip"):
            return str(node.output[0])
    return None


def onnx_run(file: Path, case: Case) -> Run:
    """One call of a session; of an emitted file the last output is the map, of a model its output."""
    session = _session(file, case.threads)
    names = [value.name for value in session.get_inputs()]
    feeds: dict[str, NDArray[Any]] = {names[0]: case.x}
    if "target" in names:
        feeds["target"] = np.array(case.target, np.int64)[:, None]
    # The model's own outputs come for free; a caller gets them too.
    return lambda: np.asarray(session.run(None, feeds)[-1])


@cache
def _session(file: Path, threads: int) -> Any:
    return create_session(file, threads=threads)


def operators(model: Path) -> frozenset[str]:
    """The operators of a network; OVERLAP and LOPSIDED among them where one of its nodes is so."""
    found = set()
    for node in onnx.load(model, load_external_data=False).graph.node:
        found.add(node.op_type)
        given = {entry.name: list(entry.ints) for entry in node.attribute}
        kernel, pads = given.get("kernel_shape", []), given.get("pads", [])
        strides = given.get("strides", [1] * len(kernel))
        if node.op_type == "MaxPool" and any(k > s for k, s in zip(kernel, strides, strict=True)):
            found.add(OVERLAP)
        if node.op_type == "Conv" and pads[: len(pads) // 2] != pads[len(pads) // 2 :]:
            found.add(LOPSIDED)
    return frozenset(found)
