"""Memory and session creation of one file, in a process that does nothing else.

python -m onnxplain.runtime.bench.weigh < request.json > weight.json
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt

from ...rewriter.errors import ModelError
from ..providers import Provider, create_session
from .machine import warm_up
from .timing import seconds

OPENINGS = 3
LIMIT = 3600
"""Seconds after which a file is given up."""


@dataclass(frozen=True)
class Weight:
    """memory: MiB on the host that the weights and the largest moment of a run take, None where the system does not
    tell (elsewhere than on Linux). session: seconds to open a session, the median of 3."""

    memory: float | None
    session: float


def weigh(
    file: Path,
    feeds: Mapping[str, npt.NDArray[Any]],
    providers: str | Sequence[Provider] | None,
    threads: int | None,
    memory_pattern: bool,
) -> Weight:
    """In a fresh process, without a cache of optimised graphs. Raises ModelError when that process fails, with what it
    said."""
    with tempfile.TemporaryDirectory(prefix="onnxplain-weigh-") as folder:
        stored = Path(folder) / "feeds.npz"
        np.savez(stored, *feeds.values())
        request = {
            "file": str(file),
            "names": list(feeds),
            "feeds": str(stored),
            "providers": providers,
            "threads": threads,
            "memory_pattern": memory_pattern,
        }
        return _asked(request, file.name)


def _asked(request: Mapping[str, Any], name: str) -> Weight:
    command = [sys.executable, "-P", "-m", "onnxplain.runtime.bench.weigh"]
    environment = {key: value for key, value in os.environ.items() if key != "ONNXPLAIN_CACHE"}
    try:
        done = subprocess.run(
            command, input=json.dumps(request), capture_output=True, text=True, timeout=LIMIT, env=environment
        )
    except subprocess.TimeoutExpired as error:
        raise ModelError(f"{name} took more than {LIMIT} s in a process of its own") from error
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["nothing said"])[-1]
        raise ModelError(f"{name} failed in a process of its own (exit code {done.returncode}): {last[:300]}")
    return Weight(**json.loads(done.stdout.splitlines()[-1]))


def _measure(request: Mapping[str, Any]) -> Weight:
    providers = request["providers"]
    if isinstance(providers, list):
        providers = [one if isinstance(one, str) else tuple(one) for one in providers]
    with np.load(request["feeds"], allow_pickle=False) as stored:
        feeds = {name: stored[f"arr_{i}"] for i, name in enumerate(request["names"])}

    def opened() -> Any:
        return create_session(
            request["file"], providers, threads=request["threads"], memory_pattern=request["memory_pattern"]
        )

    warm_up(providers, request["threads"])  # libraries and the driver are no part of what a call needs
    gc.collect()
    before = _status("VmRSS")
    session = opened()
    gc.collect()
    marked = _forget_peak()  # what opening took in passing does not count
    run = partial(session.run, None, feeds)
    for _ in range(2 if seconds(run) < 1 else 0):
        run()
    after = _status("VmHWM")
    del session, run
    times = [seconds(opened) for _ in range(OPENINGS)]
    known = marked and before is not None and after is not None
    return Weight((after - before) / 1024 if known and after and before else None, median(times))


def _forget_peak() -> bool:
    """Let the kernel's largest resident size start anew."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _status(key: str) -> float | None:
    """An entry of the kernel's account of this process, in KiB."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((float(line.split()[1]) for line in lines if line.startswith(f"{key}:")), None)


def main() -> None:
    try:
        found = _measure(json.load(sys.stdin))
    except Exception as error:  # the parent wants one line, whoever failed
        sys.exit(" ".join(str(error).split()))
    print(json.dumps(vars(found)))


if __name__ == "__main__":
    main()
