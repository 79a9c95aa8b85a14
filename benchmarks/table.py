"""Measured figures as markdown."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks.files import FileCost, Opening
from benchmarks.timing import Spread
from onnxplain.runtime.cores import available_cores


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def spread(value: Spread | None) -> str:
    if value is None:
        return "-"
    return f"**{value.median:.2f}** ({value.low:.2f}-{value.high:.2f})"


def number(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def reasons(gaps: Sequence[tuple[str, Mapping[str, str]]]) -> str:
    """One line a reason. gaps: (title of a network, variant → why)."""
    grouped: dict[str, dict[str, dict[str, None]]] = {}
    for of, missing in gaps:
        for variant, why in missing.items():
            grouped.setdefault(why, {}).setdefault(variant, {})[of] = None
    lines = []
    for why, variants in grouped.items():
        titles = {title: None for of in variants.values() for title in of}
        lines.append(f"- {', '.join(variants)}; {', '.join(titles)}: {why}.")
    return "\n".join([*lines, ""])


def costs(rows: Sequence[tuple[str, FileCost]]) -> str:
    head = ["", "compile / load+save", "load+save", *OPENING]
    return table(
        head,
        [
            [title, f"**{c.compile_ratio:.1f}**", f"{c.roundtrip * 1e3:.0f} ms", *_opened(c.opening)]
            for title, c in rows
        ],
    )


def openings(rows: Sequence[tuple[str, Opening]]) -> str:
    return table(["", *OPENING], [[title, *_opened(c)] for title, c in rows])


OPENING = ("file size", "session creation", "nodes")


def _opened(c: Opening) -> list[str]:
    return [
        f"{c.size_ratio:.3f} of {c.bytes / 1e6:.1f} MB",
        f"{c.session_ratio:.2f} of {c.session * 1e3:.0f} ms",
        f"{c.emitted_nodes} from {c.nodes}",
    ]


def machine(threads: int, packages: Sequence[str], load: float | None = None) -> str:
    """The line that says where this was measured. load: average of the minute before."""
    versions = ", ".join(f"{package} {_version(package)}" for package in packages)
    return (
        f"{_processor()}, {available_cores()} cores, {threads} threads; {platform.system()} {platform.machine()}, "
        f"Python {platform.python_version()}; {versions}."
        + (f" Load of the machine before the start: {load:.1f}.\n" if load is not None else "\n")
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "(not installed)"


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
