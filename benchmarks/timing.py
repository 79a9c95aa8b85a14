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

from onnxplain.runtime.bench.timing import LEAST, Spread, seconds

P = ParamSpec("P")
T = TypeVar("T")

SAMPLE = 0.1
"""Seconds that one sample lasts at least: short calls are repeated and averaged."""
LONG = 0.25
"""Seconds of a call from which a cold cache and sleeping threads are lost in it."""
PAUSE = 0.03
"""Seconds before each sample in which idle threads of other libraries stop spinning."""


def interleave(
    runs: Mapping[str, Callable[[], object]],
    repeats: int,
    sample: float = SAMPLE,
    budget: float | None = None,
    before: Mapping[str, float] | None = None,
) -> dict[str, np.ndarray]:
    """Seconds a call, (rounds,) for each name.

    Every round visits all calls once, in an order drawn anew, so that a slow moment of the machine hits none of
    them alone. A call shorter than LONG runs once untimed before each of its samples: caches and threads are as in
    steady use. `repeats` rounds, or as many as `budget` seconds allow, at least LEAST of them. before: seconds of
    calls made already; of long ones they are taken as the pace, without another.
    """
    paces = {name: _pace(run, sample, (before or {}).get(name, 0.0)) for name, run in runs.items()}
    if budget is not None:
        cost = sum(pace.cost for pace in paces.values())
        repeats = min(repeats, max(LEAST, int(budget / cost)))
    times = {name: np.zeros(repeats) for name in runs}
    order = np.random.default_rng(0)
    names = list(runs)
    gc.collect()
    gc.disable()
    try:
        for i in range(repeats):
            for k in order.permutation(len(names)):
                times[names[k]][i] = _sample(runs[names[k]], paces[names[k]])
            gc.collect()
    finally:
        gc.enable()
    return times


@dataclass(frozen=True)
class _Pace:
    """How a call is sampled: calls averaged, calls before; and seconds that this takes."""

    count: int
    warm: bool
    cost: float


def _pace(run: Callable[[], object], sample: float, took: float) -> _Pace:
    if took < 4 * LONG:  # the first may have been slow for its own reasons
        took = seconds(run)
    if took < LONG:
        took = seconds(run)
    count, warm = max(1, round(sample / took)), took < LONG
    return _Pace(count, warm, PAUSE + took * (count + warm))


def _sample(run: Callable[[], object], pace: _Pace) -> float:
    time.sleep(PAUSE)
    if pace.warm:
        run()
    start = time.perf_counter()
    for _ in range(pace.count):
        run()
    return (time.perf_counter() - start) / pace.count


def fresh(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """The function's result, from a new process that runs nothing else."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *args, **kwargs).result()


def fresh_within(
    limit: float, function: Callable[P, object], *args: P.args, **kwargs: P.kwargs
) -> bool | None:
    """Run it in a new process for its effects. True: done; False: it failed; None: stopped after `limit` seconds."""
    process = get_context("spawn").Process(target=function, args=args, kwargs=kwargs)
    process.start()
    process.join(limit)
    if process.is_alive():
        process.kill()
        process.join()
        return None
    return process.exitcode == 0


def peak_memory(make: Callable[[], Callable[[], object]]) -> float | None:
    """MiB that a call needs beyond what the process already had: weights and the largest moment of three runs, or of
    one where a run is longer than a second.

    What making the call took in passing (parsing the file) does not count. None where the system does not tell
    (elsewhere than on Linux).
    """
    before = _status("VmRSS")
    reset = Path("/proc/self/clear_refs")
    if before is None or not reset.exists():
        return None
    run = make()
    gc.collect()
    reset.write_text("5")  # resets VmHWM, the largest resident size
    if seconds(run) < 1:
        reset.write_text("5")
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


__all__ = ["LEAST", "Spread", "fresh", "fresh_within", "interleave", "peak_memory", "seconds"]
