"""Measured figures as markdown."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

from benchmarks.files import FileCost
from benchmarks.timing import Spread
from benchmarks.variants import FORWARD, METHODS, VARIANTS

TORCH_BEST = ("torch gradient", "torch gradient, channels last")


@dataclass(frozen=True)
class Measured:
    """All that was found out about one network. times: seconds of every round; missing: why there are none."""

    title: str
    times: Mapping[str, np.ndarray]
    missing: Mapping[str, str]
    agreement: Mapping[str, float]
    memory: Mapping[str, float | None]
    cost: FileCost

    def ratio(self, variant: str, to: str = FORWARD) -> Spread:
        """Time over that of another variant in the same round."""
        return Spread.of(self.times[variant] / self.times[to])

    def torch_best(self) -> str:
        return min(TORCH_BEST, key=lambda name: float(np.median(self.times[name])))


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def ratios(measured: Sequence[Measured]) -> str:
    """One line a variant, one column a network."""
    rows = []
    for variant in VARIANTS[1:]:
        cells = [spread(m.ratio(variant)) if variant in m.times else "-" for m in measured]
        rows.append([variant, *cells])
    forward = [f"{np.median(m.times[FORWARD]) * 1e3:.1f} ms" for m in measured]
    rows.insert(0, [f"{FORWARD} (= 1)", *forward])
    return table(["", *(m.title for m in measured)], rows)


def spread(value: Spread) -> str:
    return f"**{value.median:.2f}** ({value.low:.2f}-{value.high:.2f})"


def speedups(measured: Sequence[Measured]) -> str:
    """Time of the others over onnxplain's, method by method."""
    rows = [
        [
            "saliency: torch, better of both layouts",
            *(spread(m.ratio(m.torch_best(), "onnxplain saliency")) for m in measured),
        ]
    ]
    for method in METHODS:
        mine, other = f"onnxplain {method}", f"captum {method}"
        cells = [spread(m.ratio(other, mine)) if other in m.times else "-" for m in measured]
        rows.append([f"{method}: captum", *cells])
    return table(["", *(m.title for m in measured)], rows)


def agreement(measured: Sequence[Measured]) -> str:
    names = [name for name in VARIANTS if any(name in m.agreement for m in measured)]
    return per_variant(measured, names, lambda m, name: number(m.agreement.get(name), "{:.1e}"))


def memory(measured: Sequence[Measured]) -> str:
    names = [name for name in VARIANTS if any(m.memory.get(name) is not None for m in measured)]
    return per_variant(measured, names, lambda m, name: number(m.memory.get(name), "{:.0f}"))


def per_variant(
    measured: Sequence[Measured], names: Sequence[str], cell: Callable[[Measured, str], str]
) -> str:
    rows = [[name, *(cell(m, name) for m in measured)] for name in names]
    return table(["", *(m.title for m in measured)], rows)


def number(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def reasons(measured: Sequence[Measured]) -> str:
    """One line a reason for a gap."""
    gaps: dict[str, tuple[dict[str, None], dict[str, None]]] = {}
    for m in measured:
        for variant, why in m.missing.items():
            titles, variants = gaps.setdefault(why, ({}, {}))
            titles[m.title], variants[variant] = None, None
    lines = [
        f"Not run: {' and '.join(names)} of {', '.join(of)}: {why}." for why, (of, names) in gaps.items()
    ]
    return "\n".join([*lines, ""]) if lines else ""


def costs(rows: Sequence[tuple[str, FileCost]]) -> str:
    head = ["", "compile / load+save", "load+save", "file size", "session creation", "nodes"]
    return table(
        head,
        [
            [
                title,
                f"**{c.compile_ratio:.1f}**",
                f"{c.roundtrip * 1e3:.0f} ms",
                f"{c.size_ratio:.3f} of {c.bytes / 1e6:.1f} MB",
                f"{c.session_ratio:.2f} of {c.session * 1e3:.0f} ms",
                f"{c.emitted_nodes} from {c.nodes}",
            ]
            for title, c in rows
        ],
    )


def machine(threads: int, packages: Sequence[str], load: float | None = None) -> str:
    """The line that says where this was measured. load: average of the minute before."""
    versions = ", ".join(f"{package} {version(package)}" for package in packages)
    return (
        f"{_processor()}, {_cores()} cores, {threads} threads; {platform.system()} {platform.machine()}, "
        f"Python {platform.python_version()}; {versions}."
        + (f" Load of the machine before the start: {load:.1f}.\n" if load is not None else "\n")
    )


def load() -> float | None:
    """Processes that wanted the processor in the last minute, on average; None where the system does not tell."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    entries = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in entries if line.startswith("model name")]
    flags = next((line.split() for line in entries if line.startswith("flags")), [])
    vector = next((name for name in ("avx512f", "avx2", "avx") if name in flags), "")
    return " ".join(part for part in (names[0] if names else platform.processor(), vector.upper()) if part)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
