"""The machine: what it is called, and how fast it multiplies and moves, as measured through onnxruntime itself."""

from __future__ import annotations

import platform
import re
import subprocess
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from ..cores import available_cores
from ..loading import load_onnxruntime
from ..opening import serialize
from ..providers import Provider, create_session, short_name
from .timing import seconds

PRODUCTS = ((256, 4), (512, 4), (1024, 4), (2048, 4), (4096, 4), (4096, 32))
"""Side of a square matrix, products in a row."""
LONG = 0.05
"""Seconds of products that are enough: larger ones are not tried."""
SUMS = tuple(2**power for power in range(16, 28, 2))
"""Bytes of a tensor: 64 KiB, in the cache of a core, to 64 MiB, in no cache of today."""
QUICK_PRODUCTS, QUICK_SUMS = ((128, 2),), (2**14, 2**18)
CHAIN = 16
"""Additions in a row."""
REPEATS, PATIENCE = 5, 0.25
"""Runs of a probe at least, and seconds that it goes on for: other programs slow most of them down."""


@dataclass(frozen=True)
class Machine:
    """processor: its name, and the graphics card where that computes. provider: what onnxruntime took. threads: None
    leaves them to onnxruntime. peak: FLOPs a second of the fastest matrix product. bandwidths: (bytes moved by an
    addition, bytes a second), smallest first."""

    processor: str
    provider: str
    threads: int | None
    cores: int
    system: str
    onnxruntime: str
    dtype: str
    peak: float
    bandwidths: tuple[tuple[int, float], ...]

    def bandwidth(self, size: float) -> float:
        """Bytes a second of a kernel that moves `size` bytes: of an addition that moves as much, or more if that is
        faster (a small one takes long to start, which is no matter of bandwidth)."""
        sizes = [moved for moved, _ in self.bandwidths]
        start = max(0, bisect_right(sizes, size) - 1)
        return max(rate for _, rate in self.bandwidths[start:])

    def slug(self) -> str:
        """A file name: amd-epyc-7763-cpu."""
        name = re.sub(r"\(r\)|\(tm\)|\b\d+-core\b|processor|nvidia|@.*", " ", self.processor.lower())
        return "-".join(re.findall(r"[a-z0-9.]+", f"{name} {self.provider}"))

    def record(self) -> dict[str, Any]:
        return {**vars(self), "bandwidths": [list(pair) for pair in self.bandwidths]}

    def __str__(self) -> str:
        threads = "threads as onnxruntime chooses" if self.threads is None else f"{self.threads} threads"
        small, large = self.bandwidths[0], self.bandwidths[-1]
        return (
            f"{self.processor}, {self.cores} cores, {threads}, {self.provider}; {self.system}, onnxruntime "
            f"{self.onnxruntime}. Fastest matrix product {self.peak / 1e9:.0f} GFLOP/s; additions move "
            f"{self.bandwidth(small[0]) / 1e9:.0f} GB/s in small tensors, {self.bandwidth(large[0]) / 1e9:.0f} GB/s "
            "in large ones."
        )


def probe(
    providers: str | Sequence[Provider] | None = None,
    threads: int | None = None,
    dtype: npt.DTypeLike = np.float32,
    quick: bool = False,
) -> Machine:
    """Measure the machine with the provider, the threads and the type of number that the models will run with.

    Chains of matrix products (sides from 256, until they take long) and of additions (tensors of 64 KiB to 64 MiB), all
    on the device: one number goes in, one comes out. The best of many runs. quick: tiny ones, for tests; their figures
    mean nothing. Raises ProviderError and OptionError as `create_session`.
    """
    kind = np.dtype(dtype)
    peak, taken = 0.0, ""
    for side, count in QUICK_PRODUCTS if quick else PRODUCTS:
        took, taken = _fastest(_products(side, count, kind), kind, providers, threads, quick)
        peak = max(peak, 2.0 * side**3 * count / took)
        if took > LONG:
            break
    rates = []
    for size in QUICK_SUMS if quick else SUMS:
        took, _ = _fastest(_sums(size // kind.itemsize, kind), kind, providers, threads, quick)
        # The chain, and one multiplication before it and one maximum behind.
        rates.append((3 * size, (3.0 * CHAIN + 3) * size / took))
    ort = str(load_onnxruntime().__version__)
    system = f"{platform.system()} {platform.machine()}"
    name = processor(taken)
    return Machine(name, taken, threads, available_cores(), system, ort, kind.name, peak, tuple(rates))


def warm_up(providers: str | Sequence[Provider] | None, threads: int | None) -> None:
    """Run something small: libraries and drivers are loaded then."""
    kind = np.dtype(np.float32)
    _fastest(_products(8, 1, kind), kind, providers, threads, True)


def _fastest(
    model: onnx.ModelProto,
    kind: np.dtype[Any],
    providers: str | Sequence[Provider] | None,
    threads: int | None,
    quick: bool,
) -> tuple[float, str]:
    """Seconds of a run, and the provider that was taken."""
    session = create_session(serialize(model), providers, threads=threads)
    feeds = {"one": np.ones((1, 1), kind)}
    session.run(None, feeds)
    run = partial(session.run, None, feeds)
    taken: list[float] = []
    while len(taken) < REPEATS or (sum(taken) < PATIENCE and not quick):
        taken.append(seconds(run))
    return min(taken), short_name(session.get_providers()[0])


def _products(side: int, count: int, kind: np.dtype[Any]) -> onnx.ModelProto:
    """one · B B B ..., its largest element; B of unit variance over its side, so that the products keep theirs."""
    b = np.random.default_rng(0).standard_normal((side, side), dtype=np.float32) / np.sqrt(side)
    nodes = [helper.make_node("Mul", ["one", "b"], ["t0"])]
    nodes += [helper.make_node("MatMul", [f"t{i}", "b"], [f"t{i + 1}"]) for i in range(count)]
    return _chain(nodes, f"t{count}", {"b": b.astype(kind)}, kind)


def _sums(elements: int, kind: np.dtype[Any]) -> onnx.ModelProto:
    """one · a + a + a + ..., its largest element."""
    nodes = [helper.make_node("Mul", ["one", "a"], ["t0"])]
    nodes += [helper.make_node("Add", [f"t{i}", "a"], [f"t{i + 1}"]) for i in range(CHAIN)]
    return _chain(nodes, f"t{CHAIN}", {"a": np.full((1, elements), 0.5, kind)}, kind)


def _chain(
    nodes: list[onnx.NodeProto], last: str, constants: Mapping[str, npt.NDArray[Any]], kind: np.dtype[Any]
) -> onnx.ModelProto:
    element = helper.np_dtype_to_tensor_dtype(kind)
    graph = helper.make_graph(
        [*nodes, helper.make_node("ReduceMax", [last], ["y"], keepdims=1)],
        "probe",
        [helper.make_tensor_value_info("one", element, [1, 1])],
        [helper.make_tensor_value_info("y", element, [1, 1])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def processor(provider: str) -> str:
    """What computes: the graphics card for cuda and tensorrt where the driver's tool names it, else the processor."""
    if provider in ("cuda", "tensorrt", "tensorrt-rtx"):
        try:
            query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
            found = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout
        except (OSError, subprocess.SubprocessError):
            found = ""
        if found.strip():
            return found.splitlines()[0].strip()
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
