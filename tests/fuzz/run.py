"""Run many cases: python -m tests.fuzz.run KIND START STOP [WORKERS]. Prints the counts, and every find once a place.

Exit status 1 while there is a find. A worker that dies is started again behind the case that it died of.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


@dataclass
class Tally:
    """What came of the cases: outcome -> count, and the finds as (case, what)."""

    counts: Counter[str] = field(default_factory=Counter)
    finds: list[tuple[int, str]] = field(default_factory=list)
    slowest: tuple[float, int] = (0.0, -1)

    def add(self, case: int, what: str, seconds: float) -> None:
        self.counts[what.split()[0]] += 1
        self.slowest = max(self.slowest, (seconds, case))
        if what.startswith("find"):
            self.finds.append((case, what))


def run(kind: str, start: int, stop: int, workers: int = 1) -> Tally:
    """All cases from start to stop."""
    tally = Tally()
    edges = [start + (stop - start) * i // workers for i in range(workers + 1)]
    with ThreadPoolExecutor(workers) as pool:
        for part in pool.map(lambda pair: list(_results(kind, *pair)), pairwise(edges)):
            for case, what, seconds in part:
                tally.add(case, what, seconds)
    return tally


def _results(kind: str, start: int, stop: int) -> Iterator[tuple[int, str, float]]:
    while start < stop:
        command = [sys.executable, "-m", "tests.fuzz.worker", kind, str(start), str(stop)]
        worker = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        pending: int | None = None
        assert worker.stdout is not None
        with worker.stdout:
            for line in worker.stdout:
                told = json.loads(line)
                pending = None if "what" in told else int(told["case"])
                if "what" in told:
                    yield int(told["case"]), str(told["what"]), float(told["seconds"])
        status = worker.wait()
        if pending is None and status == 0:
            return
        if pending is None:
            raise RuntimeError(f"the worker for {kind} ended with status {status} outside of a case")
        yield pending, f"find death: the process ended with status {status}", 0.0
        start = pending + 1


def main(kind: str, start: int, stop: int, workers: int = 2) -> int:
    tally = run(kind, start, stop, workers)
    print(
        f"{kind} {start}..{stop}: {dict(tally.counts)}; slowest {tally.slowest[0]} s of CPU, case {tally.slowest[1]}"
    )
    places = Counter(what.split(" in ")[-1] if " in " in what else what for _, what in tally.finds)
    for place, count in places.most_common():
        case, what = next((c, w) for c, w in tally.finds if w.endswith(place))
        print(f"{count:5} x case {case}: {what}")
    return bool(tally.finds)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], *map(int, sys.argv[2:])))
