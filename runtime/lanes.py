"""Rows of a batch in chunks that fit a memory budget: chosen before anything runs, and said."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import onnx

from ..rewriter.errors import OptionError
from ..rewriter.memory import MANY, Memory, dimensions

_LOG = logging.getLogger(__name__)

Progress: TypeAlias = Callable[[int, int], None]
"""(rows done, rows in all), called after every chunk."""
Arrays: TypeAlias = Mapping[str, npt.NDArray[np.generic]]
Run: TypeAlias = Callable[[Arrays], dict[str, npt.NDArray[np.generic]]]

SHARE = 0.5
"""Of the available memory, when nobody says how much may be used."""
MARGIN = 1.3
"""The working memory of a run is taken times this. Measured with the session open, saliency of VGG-16, ResNet-50 and
EfficientNet-Lite0 took 0.9 to 1.15 times the estimate. The weights are there whatever the chunk."""


def needed(memory: Memory, rows: int) -> int:
    """Bytes that a run of so many rows is expected to take: the weights, and MARGIN times the rest."""
    return memory.weights + int((memory.at(rows) - memory.weights) * MARGIN)


_UNITS = {"": 1, "b": 1} | {
    f"{prefix}{ending}": base**power
    for power, prefix in enumerate("kmgt", 1)
    for ending, base in (("", 1000), ("b", 1000), ("ib", 1024))
}


@dataclass(frozen=True)
class Plan:
    """rows in all, rows of a chunk, the bytes expected at the largest moment, and the budget that they had to fit; None
    where nothing had to be split or estimated."""

    rows: int
    chunk: int
    expected: int | None = None
    budget: int | None = None

    @property
    def chunks(self) -> int:
        return -(-self.rows // self.chunk) if self.chunk else 0

    def __str__(self) -> str:
        work = f"{self.rows} row{'s' * (self.rows != 1)} in one run"
        if self.chunks > 1:
            work = f"{self.rows} rows in {self.chunks} chunks of up to {self.chunk}"
        if self.expected is None:
            return work
        bound = "" if self.budget is None else f", of {say_bytes(self.budget)} allowed"
        return f"{work}: about {say_bytes(self.expected)}{bound}"


def parse_bytes(memory: int | str) -> int:
    """Bytes from a number, or from text: "512MB" (10^6), "2 GiB" (2^30), "800k". Raises OptionError."""
    if isinstance(memory, bool) or not isinstance(memory, (int, str)):
        raise OptionError(f"memory={memory!r} is no number of bytes; write it as 512MB or 2GiB")
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", str(memory).lower())
    if match is None or match[2] not in _UNITS:
        raise OptionError(f"memory={memory!r} is no number of bytes; write it as 512MB or 2GiB")
    size = int(float(match[1]) * _UNITS[match[2]]) if match[2] or "." in match[1] else int(match[1])
    if size < 1:
        raise OptionError(f"memory={memory!r}: give at least one byte")
    return size


def say_bytes(size: int) -> str:
    """1234567 -> "1.2 MB"."""
    value, unit = float(size), "bytes"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return (
        f"{size} bytes"
        if unit == "bytes"
        else f"{value:.3g} {unit}"
        if value < 100
        else f"{value:.0f} {unit}"
    )


def available_memory() -> int | None:
    """Bytes that this process may still take: what the system has free without swapping, and no more than a control
    group (a container) leaves. None where the system does not tell."""
    found = [size for size in (_system_memory(), *_group_memory()) if size is not None]
    return min(found) if found else None


def _system_memory() -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:  # elsewhere than on Linux: all of it, for want of better
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


_GROUP = Path("/sys/fs/cgroup")


def _group_memory() -> Iterator[int | None]:
    """What the control group leaves, in its second and first version, as a container sees them."""
    for limit, usage in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            cap, used = ((_GROUP / name).read_text().strip() for name in (limit, usage))
            yield max(0, int(cap) - int(used))
        except (OSError, ValueError):  # not there, or "max"
            yield None


def choose(
    memory: Memory,
    rows: int,
    budget: int | None = None,
    *,
    opened: bool = False,
    available: int | None = None,
    whole: str = "",
) -> Plan:
    """The largest chunk whose expected memory (`needed`) fits the budget.

    budget: bytes for the weights and the chunk; None is `SHARE` of what is available (looked up unless given), on top
    of the weights where the session is open already. The chunks are then made about equal. whole: why the rows must be
    run together, if they must. Raises OptionError when a budget that was given does not hold the least that can be
    run; where only the default one does not, that is run all the same and a warning logged, for it is an estimate.
    """
    strict = budget is not None
    if budget is None:
        free = available_memory() if available is None else available
        if free is None:
            return _said(Plan(rows, rows, needed(memory, rows)))
        budget = int(free * SHARE) + (memory.weights if opened else 0)
    least = rows if whole else 1
    chunk = min(rows, memory.rows(memory.weights + int((budget - memory.weights) / MARGIN)))
    if chunk < min(least, rows):
        need = f"{least} row{'s' * (least != 1)} take about {say_bytes(needed(memory, least))}"
        reason = f" and cannot be run apart: {whole}" if whole else ""
        if strict:
            weights = say_bytes(memory.weights)
            raise OptionError(
                f"memory={budget}: {need}, {weights} of them for the weights{reason}; give more"
            )
        _LOG.warning(
            "%s, over the %s that are free to use%s; it may not fit", need, say_bytes(budget), reason
        )
        chunk = least
    if chunk and chunk < rows:
        chunk = -(-rows // -(-rows // chunk))
    return _said(Plan(rows, chunk, needed(memory, chunk), budget))


def _said(plan: Plan) -> Plan:
    _LOG.info("%s", plan)
    return plan


@dataclass(frozen=True)
class Split:
    """Which inputs and outputs hold the rows, and along which axis; other outputs are taken from the first chunk.
    obstacle: why the rows cannot be run apart, or ""."""

    inputs: Mapping[str, int]
    outputs: Mapping[str, int]
    obstacle: str = ""


def run_chunks(
    run: Run, feeds: Arrays, split: Split, plan: Plan, progress: Progress | None = None
) -> dict[str, npt.NDArray[np.generic]]:
    """Run chunk after chunk and join the results.

    The rows must not depend on each other (no statistics over the batch), or a chunk gives another result than the
    whole; each row then equals that of one run to the rounding of the kernels, which may add in another order.
    """
    if plan.chunks <= 1:
        found = run(feeds)
        if progress is not None:
            progress(plan.rows, plan.rows)
        return found
    parts: list[dict[str, npt.NDArray[np.generic]]] = []
    first: dict[str, npt.NDArray[np.generic]] = {}
    for start in range(0, plan.rows, plan.chunk):
        end = min(start + plan.chunk, plan.rows)
        part = {
            name: x[(*[slice(None)] * split.inputs[name], slice(start, end))] if name in split.inputs else x
            for name, x in feeds.items()
        }
        found = run(part)
        first = first or found
        parts.append({name: value for name, value in found.items() if name in split.outputs})
        if progress is not None:
            progress(end, plan.rows)
    joined = {
        name: np.concatenate([part[name] for part in parts], axis) for name, axis in split.outputs.items()
    }
    return {name: joined.get(name, value) for name, value in first.items()}


Shapes: TypeAlias = Mapping[str, Sequence[int | str | None]]
EACH = "rows"
"""What an emitted file calls the first axis of a result that has several rows a sample, sample by sample."""
SHARED = frozenset({"noise", "references"})
"""Inputs of methods that hold samples: every row of the batch takes all of them."""
PAIRED = frozenset({"baseline"})
"""Inputs of methods that have one row for all samples, or one each."""


def find_split(
    inputs: Shapes, outputs: Shapes, own: Collection[str], feeds: Arrays, samples: int, each: int | None = 1
) -> tuple[int, Split]:
    """The rows of a run, and how it can be cut along them: where the file names an axis after them.

    own: the inputs that are not the method's (the cotangent and the target among them). An input that a method adds is
    cut if it declares the name of the batch. Rows are the cotangents where there are several of one sample (the sample,
    and its outputs, are then in every chunk), else the samples. They cannot be run apart where the first axis has no
    name of its own, or an output has no row for each of them: it may be about the whole batch. each: rows of the
    explained tensor that make up one sample.
    """
    lead = {name: shape[0] if shape else None for name, shape in {**inputs, **outputs}.items()}
    at = _axis(inputs.get("cotangent", ()), {MANY}) if "cotangent" in own else None
    many = 0 if at is None else feeds["cotangent"].shape[at]
    folded = "" if each == 1 or at is None else "a sample has several rows of the explained tensor"
    if samples == 1 and many > 1 and at is not None:
        along = {name: 0 for name in outputs if lead[name] == MANY}
        return many, Split({"cotangent": at}, along, folded)
    batch = {lead[name] for name in own if lead[name] != MANY and not isinstance(lead[name], int)} - {None}
    nameless = any(lead[name] is None for name in own if name != "cotangent")
    cut = {name: 0 for name in own if lead[name] in batch and name in feeds}
    cut |= {} if at is None else {"cotangent": at}
    for name, x in feeds.items():
        told = lead[name] in {*batch, MANY} or name.split("/")[0] in PAIRED
        if name not in own and told and x.ndim and x.shape[0] == samples:
            cut[name] = 0
    found = {name: _axis(shape, {*batch, MANY, EACH}) for name, shape in outputs.items()}
    lost = [name for name, axis in found.items() if axis is None]
    obstacle = folded
    if samples > 1 and (len(batch) != 1 or nameless):
        obstacle = "the first axes of its inputs do not share one name"
    elif lost:
        obstacle = f"output {min(lost)!r} has no row for each of them"
    return samples, Split(cut, {name: axis for name, axis in found.items() if axis is not None}, obstacle)


def _axis(shape: Sequence[int | str | None], names: Collection[int | str | None]) -> int | None:
    """The first axis if one of the names is its, else the only one of which that is true."""
    known = [axis for axis, dim in enumerate(shape) if isinstance(dim, str) and dim in names]
    return known[0] if len(known) == 1 or 0 in known else None


def sizes_of(model: onnx.ModelProto, feeds: Arrays, cut: Mapping[str, int]) -> dict[str, int]:
    """The free sizes of a model, as feeds have them, but for the rows that are cut."""
    return {
        dim: feeds[name].shape[axis]
        for name, shape in dimensions(model).items()
        if name in feeds and feeds[name].ndim == len(shape)
        for axis, dim in enumerate(shape)
        if isinstance(dim, str) and cut.get(name) != axis
    }


@contextmanager
def progress_bar(title: str) -> Iterator[Progress]:
    """A bar on the terminal that fills with the rows; nothing where stderr is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bar(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=None)

        def advance(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield advance


__all__ = [
    "Plan",
    "Progress",
    "Split",
    "available_memory",
    "choose",
    "find_split",
    "parse_bytes",
    "progress_bar",
    "run_chunks",
    "say_bytes",
    "sizes_of",
]
