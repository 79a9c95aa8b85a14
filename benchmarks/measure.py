"""One network: its variants compiled, timed, compared and weighed."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from shutil import which

import numpy as np
import onnx

from benchmarks.case import Case, case, operators
from benchmarks.files import Opening, compile_file, opening
from benchmarks.floor import byte_floor
from benchmarks.networks import NETWORKS, pictures, write
from benchmarks.timing import Spread, fresh, fresh_within
from benchmarks.variants import FORWARD, GROUPS, OURS, PEERS, Group, difference, obstacle
from benchmarks.worker import Rounds, Timed, memory, run_once, time_group, told

COMPILED = "torch gradient, compiled"


@dataclass(frozen=True)
class Settings:
    """compiled: the networks for which torch.compile is run, compile_limit: the seconds it may take for one. heavy:
    integrated gradients of large networks too. quick: small networks."""

    batches: tuple[int, ...]
    threads: int
    rounds: Rounds
    lowering: str
    compiled: tuple[str, ...]
    compile_limit: float
    heavy: bool
    quick: bool


@dataclass
class Batch:
    """What the groups found at one batch."""

    groups: list[Timed] = field(default_factory=list)

    def ratio(self, variant: str, to: str = FORWARD) -> Spread | None:
        """Time over that of another variant in the same round; None where they did not run side by side."""
        for group in self.groups:
            if variant in group.times and to in group.times:
                return Spread.of(group.times[variant] / group.times[to])
        return None

    def forward(self) -> Spread:
        return Spread.of(np.concatenate([group.times[FORWARD] for group in self.groups]))

    def distance(self, variant: str) -> float | None:
        return next((g.distances[variant] for g in self.groups if variant in g.distances), None)

    def faults(self) -> dict[str, str]:
        return {name: why for group in self.groups for name, why in group.faults.items()}


@dataclass
class Measured:
    """All that was found out about one network. missing, unchecked, faults: why there is no figure, no comparison and
    no memory."""

    name: str
    floor: float
    batches: dict[int, Batch]
    opening: Opening
    memory: dict[str, float] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    unchecked: dict[str, str] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)

    @property
    def title(self) -> str:
        return NETWORKS[self.name].title


def network(name: str, folder: Path, settings: Settings) -> Measured:
    """Everything that is timed or weighed has a process of its own: nothing is warm, or fills the memory, because of
    what ran before."""
    model, emitted = write(name, folder / f"{name}.onnx", settings.quick), folder / "saliency.onnx"
    compile_file(model, emitted, "saliency", settings.lowering)
    opened = opening(model, emitted, settings.threads, 1 if settings.quick else 3)
    emitted.unlink()
    cases = {size: case(model, pictures(model, size), settings.threads) for size in settings.batches}
    made = Measured(name, byte_floor(onnx.load(model)), {size: Batch() for size in cases}, opened)
    for group in GROUPS:
        if group.heavy and NETWORKS[name].large and not (settings.heavy or settings.quick):
            why = "dozens of gradients of a large network take minutes (--heavy runs them)"
            made.missing |= dict.fromkeys((*group.ours, *group.peers), why)
            continue
        _group(group, made, cases, folder, settings)
    return made


def _group(group: Group, made: Measured, cases: Mapping[int, Case], folder: Path, settings: Settings) -> None:
    one = cases[settings.batches[0]]
    files = {FORWARD: one.model}
    for name in group.files:
        file, own = folder / f"{made.name} {name}.onnx", OURS[name]
        why = compile_file(one.model, file, own.method, settings.lowering, **own.options)
        if why is None:
            files[name] = file
        else:
            made.missing[name] = why
    peers = _peers(group, made, files, cases, settings)
    timed = [name for name in (FORWARD, *group.ours, *peers) if name in files or name in PEERS]
    checked = [name for name in peers if name not in made.unchecked]
    found = fresh(time_group, timed, checked, files, cases, settings.rounds)
    for size, about in found.items():
        made.batches[size].groups.append(about)
    for name in group.weighed:
        if name in files or (name in PEERS and PEERS[name].against in files and name not in made.missing):
            _weigh(name, made, files, one)
    for name in files.keys() - {FORWARD}:
        files[name].unlink()


def _weigh(name: str, made: Measured, files: Mapping[str, Path], one: Case) -> None:
    try:
        weight = fresh(memory, name, files, one)
    except Exception as error:  # noted, and told at the end, as those of the worker
        made.faults[name] = told(error)
        return
    if weight is not None:
        made.memory[name] = weight


def _peers(
    group: Group, made: Measured, files: Mapping[str, Path], cases: Mapping[int, Case], settings: Settings
) -> list[str]:
    """Those that can run; of the others the reason is noted."""
    known = operators(files[FORWARD])
    found = []
    for name in group.peers:
        why = obstacle(name, known) or _unavailable(name, files)
        if name == COMPILED and why is None:
            why = _uncompiled(made.name, cases, settings)
        if why is not None:
            made.missing[name] = why
            continue
        found.append(name)
        if (why := difference(name, known)) is not None:
            made.unchecked[name] = why
    return found


def _unavailable(name: str, files: Mapping[str, Path]) -> str | None:
    peer = PEERS[name]
    if not find_spec(peer.package):
        return f"{peer.package} is not installed"
    if peer.against not in files:
        return f"there is no {peer.against} to compare with"
    return None


def _uncompiled(network: str, cases: Mapping[int, Case], settings: Settings) -> str | None:
    """Why torch.compile is left out. The kernels it makes here, on probation, are found again when it is timed."""
    if network not in settings.compiled:
        return "compiling takes a minute or more; run for the networks named by --compile"
    if 1 not in cases:
        return "measured at batch 1 only"
    if not any(which(name) for name in ("g++", "clang++", "cl")):
        return "torch.compile needs a C++ compiler, and there is none"
    done = fresh_within(settings.compile_limit, run_once, COMPILED, {}, cases[1])
    if done is None:
        return f"torch.compile took more than {settings.compile_limit:.0f} s"
    return None if done else "torch.compile failed"


def cache_in(folder: Path) -> None:
    """Where torch.compile keeps its kernels; and no helpers of its own, which would outlive a time limit."""
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder)
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"


def faults(measured: Sequence[Measured]) -> list[str]:
    """What failed, or computes something else than it should."""
    found = []
    for m in measured:
        for size, batch in m.batches.items():
            found += [f"{m.title}, batch {size}: {name} {why}" for name, why in batch.faults().items()]
        found += [f"{m.title}, memory: {name} {why}" for name, why in m.faults.items()]
    return found
