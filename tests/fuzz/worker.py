"""Cases one after another in a process of its own, which may die of one: python -m tests.fuzz.worker KIND START STOP.

A line a case, before and after it: the number, then what came of it. A case may take SECONDS of processor time and
MEMORY bytes more than the process had before the first one.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import sys
import time
import traceback

SECONDS = 20
MEMORY = 2**30


def main(kind: str, start: int, stop: int) -> None:
    # The cases import the package, and with it onnxruntime: before the memory is bounded.
    cases = importlib.import_module("tests.fuzz.cases")
    act = cases.KINDS[kind]
    act(0)
    _bound_memory()
    report = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what native code prints is no report
    for number in range(start, stop):
        print(json.dumps({"case": number}), file=report)
        used = time.process_time()
        resource.setrlimit(resource.RLIMIT_CPU, (int(used) + SECONDS + 1, resource.RLIM_INFINITY))
        try:
            what = act(number)
        except Exception as error:
            what = f"find {type(error).__name__}: {' '.join(str(error).split())[:120]} in {_place(error)}"
        seconds = round(time.process_time() - used, 3)
        print(json.dumps({"case": number, "what": what, "seconds": seconds}), file=report)


def _bound_memory() -> None:
    pages = int(open("/proc/self/statm").read().split()[0])
    most = pages * os.sysconf("SC_PAGE_SIZE") + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _place(error: BaseException) -> str:
    """The last frames of ours, the innermost last."""
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if "site-packages" not in frame.filename
    ]
    return " < ".join(f"{os.path.basename(f.filename)}:{f.lineno} {f.name}" for f in reversed(frames[-3:]))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
