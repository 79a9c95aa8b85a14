"""What runs in a process of its own: timing a group of variants, and weighing one."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.case import Case, Run, onnx_run
from benchmarks.networks import Floats
from benchmarks.timing import interleave, peak_memory
from benchmarks.variants import FORWARD, OURS, OUTPUTS, PEERS


@dataclass(frozen=True)
class Rounds:
    """How long to measure. repeats: rounds at most; budget: seconds for all rounds of a group; sample: seconds that one
    sample lasts at least."""

    repeats: int
    budget: float
    sample: float


@dataclass
class Timed:
    """A group at one batch. times: seconds of every round. distances: to the partner's result. faults: what failed, or
    computes something else than its partner; it is not timed."""

    times: dict[str, np.ndarray] = field(default_factory=dict)
    distances: dict[str, float] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)


def time_group(
    variants: Sequence[str],
    checked: Sequence[str],
    files: Mapping[str, Path],
    cases: Mapping[int, Case],
    rounds: Rounds,
) -> dict[int, Timed]:
    """By batch; above 1 only the batched variants. checked: the peers whose results must be those of their partners."""
    found = {}
    for size, one in cases.items():
        names = [name for name in variants if size == 1 or _batched(name)]
        if names != [FORWARD]:
            found[size] = _time(names, checked, files, one, rounds)
    return found


def _time(
    names: Sequence[str], checked: Sequence[str], files: Mapping[str, Path], one: Case, rounds: Rounds
) -> Timed:
    found = Timed()
    runs: dict[str, Run] = {}
    results: dict[str, Floats] = {}
    before: dict[str, float] = {}
    for name in names:
        try:
            runs[name] = make(name, files, one)
            start = time.perf_counter()
            results[name] = runs[name]()
            before[name] = time.perf_counter() - start
        except Exception as error:  # one that fails must not cost the figures of the others; the page tells
            found.faults[name] = told(error)
    compare(results, checked, found)
    for name in found.faults:
        runs.pop(name, None)
    found.times |= interleave(runs, rounds.repeats, rounds.sample, rounds.budget, before)
    return found


def told(error: Exception) -> str:
    """In one line."""
    return f"fails: {type(error).__name__}: {str(error).strip().partition(chr(10))[0][:300]}"


def _batched(variant: str) -> bool:
    return variant == FORWARD or (OURS[variant] if variant in OURS else PEERS[variant]).batched


def make(variant: str, files: Mapping[str, Path], one: Case) -> Run:
    return PEERS[variant].call(one) if variant in PEERS else onnx_run(files[variant], one)


def run_once(variant: str, files: Mapping[str, Path], one: Case) -> None:
    make(variant, files, one)()


def compare(results: Mapping[str, Floats], checked: Sequence[str], found: Timed) -> None:
    """Note the distance of every peer's result to its partner's, and a fault where a checked one is too large."""
    for variant, result in results.items():
        if variant not in PEERS or PEERS[variant].against not in results:
            continue
        partner, limit = PEERS[variant].against, PEERS[variant].limit
        gap = found.distances[variant] = distance(result, results[partner], limit == OUTPUTS)
        if variant in checked and not gap <= limit:
            found.faults[variant] = f"is {gap:.1e} away from {partner}, more than {limit:g}"


def distance(a: Floats, b: Floats, largest: bool) -> float:
    """Of a to b: the largest difference over the largest element, or the relative L2 distance; infinite for another
    shape."""
    if a.shape != b.shape:
        return float("inf")
    gap = (a - b).astype(np.float64)
    if largest:
        return float(np.abs(gap).max() / np.abs(b).max())
    return float(np.linalg.norm(gap) / np.linalg.norm(b.astype(np.float64)))


def memory(variant: str, files: Mapping[str, Path], one: Case) -> float | None:
    """MiB; see `peak_memory`."""
    if variant in PEERS:  # libraries are no part of what a call needs
        import captum.attr  # noqa: F401

        from benchmarks import torch_peers

        if PEERS[variant].package == "zennit":
            torch_peers.zennit_composites()
    return peak_memory(partial(make, variant, files, one))
