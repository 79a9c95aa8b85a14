"""Seconds a call: many calls side by side, so that a slow moment of the machine hits none of them alone."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

SAMPLE = 0.05
"""Seconds that one sample lasts at least: short calls are repeated and averaged."""
PAUSE = 0.03
"""Seconds before each sample, in which the idle threads of other sessions stop spinning."""
LEAST = 3
"""Rounds that a median needs."""


@dataclass(frozen=True)
class Spread:
    """Median, tenth and ninetieth percentile."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Floats) -> Spread:
        low, median, high = np.percentile(values, (10, 50, 90))
        return cls(float(median), float(low), float(high))


def interleave(
    runs: Mapping[str, Callable[[], object]], repeats: int, budget: float, sample: float = SAMPLE
) -> dict[str, Floats]:
    """Seconds a call, (rounds,) for each name.

    Every round visits all calls once, in an order drawn anew. Calls shorter than `sample` run once untimed before each
    of their samples and are averaged. `repeats` rounds, or as many as fit `budget` seconds, but LEAST where `repeats`
    allows.
    """
    lengths = {name: min(seconds(run), seconds(run)) for name, run in runs.items()}
    counts = {name: max(1, round(sample / max(took, 1e-6))) for name, took in lengths.items()}
    cost = sum(PAUSE + lengths[name] * (counts[name] + 1) for name in runs)
    rounds = max(1, min(repeats, max(LEAST, int(budget / cost))))
    times = {name: np.zeros(rounds) for name in runs}
    order, names = np.random.default_rng(0), list(runs)
    collecting = gc.isenabled()
    gc.disable()
    try:
        for i in range(rounds):
            for k in order.permutation(len(names)):
                run, count = runs[names[k]], counts[names[k]]
                time.sleep(PAUSE if sample else 0.0)
                if count > 1:
                    run()
                times[names[k]][i] = seconds(partial(_repeat, run, count)) / count
    finally:
        if collecting:
            gc.enable()
    return times


def _repeat(run: Callable[[], object], count: int) -> None:
    for _ in range(count):
        run()


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
