"""Time and memory of calls: interleaved in one process, or each in a fresh one."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import ParamSpec, TypeVar

import numpy as np

P = ParamSpec("P")
T = TypeVar("T")

SAMPLE = 0.1
"""Seconds that one sample lasts at least: short calls are repeated and averaged."""
PAUSE = 0.03
"""Seconds before each sample in which idle threads of other libraries stop spinning."""


@dataclass(frozen=True)
class Spread:
    """Median, tenth and ninetieth percentile."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: np.ndarray) -> Spread:
        low, median, high = np.percentile(values, (10, 50, 90))
        return cls(float(median), float(low), float(high))


def interleave(
    runs: Mapping[str, Callable[[], object]], repeats: int, sample: float = SAMPLE
) -> dict[str, np.ndarray]:
    """Seconds a call, (repeats,) for each name.

    Every round visits all calls once, in an order drawn anew, so that a slow moment of the machine hits none of
    them alone. A call runs once untimed before each of its samples: caches and threads are as in steady use.
    """
    counts = {name: _count(run, sample) for name, run in runs.items()}
    times = {name: np.zeros(repeats) for name in runs}
    order = np.random.default_rng(0)
    names = list(runs)
    gc.collect()
    gc.disable()
    try:
        for i in range(repeats):
            for k in order.permutation(len(names)):
                name = names[k]
                time.sleep(PAUSE)
                runs[name]()
                start = time.perf_counter()
                for _ in range(counts[name]):
                    runs[name]()
                times[name][i] = (time.perf_counter() - start) / counts[name]
            gc.collect()
    finally:
        gc.enable()
    return times


def _count(run: Callable[[], object], sample: float) -> int:
    run()
    start = time.perf_counter()
    run()
    return max(1, round(sample / (time.perf_counter() - start)))


def fresh(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """The function's result, from a new process that runs nothing else."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *args, **kwargs).result()


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def peak_memory(make: Callable[[], Callable[[], object]]) -> float | None:
    """MiB that a call needs beyond what the process already had: weights and the largest moment of three runs.

    What making the call took in passing (parsing the file) does not count. None where the system does not tell
    (elsewhere than on Linux).
    """
    before = _status("VmRSS")
    reset = Path("/proc/self/clear_refs")
    if before is None or not reset.exists():
        return None
    run = make()
    gc.collect()
    run()
    reset.write_text("5")  # resets VmHWM, the largest resident size
    for _ in range(3):
        run()
    after = _status("VmHWM")
    return None if after is None else (after - before) / 1024


def _status(key: str) -> float | None:
    """An entry of the kernel's account of this process, in KiB. Not getrusage: across exec its maximum keeps
    the size of the parent."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    found = [line.split()[1] for line in status.read_text().splitlines() if line.startswith(f"{key}:")]
    return float(found[0]) if found else None
