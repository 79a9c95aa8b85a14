"""What a server has done: the protocol's statistics of a model, and metrics in Prometheus' text format."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Upper bounds of the histograms, in seconds."""


@dataclass
class Spent:
    """Where the time of one request went, in nanoseconds: waiting for a worker, reading the request, the run,
    writing the answer. Filled in by the worker."""

    rows: int = 0
    queue: int = 0
    compute_input: int = 0
    compute_infer: int = 0
    compute_output: int = 0


class Stopwatch:
    """Nanoseconds since the last time it was asked."""

    def __init__(self) -> None:
        self._last = time.perf_counter_ns()

    def lap(self) -> int:
        last, self._last = self._last, time.perf_counter_ns()
        return self._last - last


@dataclass
class Histogram:
    counts: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS) + 1))
    total: float = 0.0

    def add(self, seconds: float) -> None:
        place = next((i for i, bound in enumerate(BUCKETS) if seconds <= bound), len(BUCKETS))
        self.counts[place] += 1
        self.total += seconds

    def lines(self, name: str, labels: str) -> Iterator[str]:
        seen = 0
        for bound, count in zip((*map(str, BUCKETS), "+Inf"), self.counts, strict=True):
            seen += count
            yield f'{name}_bucket{{{labels},le="{bound}"}} {seen}'
        yield f"{name}_sum{{{labels}}} {self.total:.9g}"
        yield f"{name}_count{{{labels}}} {seen}"


PARTS = ("queue", "compute_input", "compute_infer", "compute_output")


class Record:
    """One model since the server started. Touched by the event loop only."""

    def __init__(self) -> None:
        self.good = self.bad = self.rows = self.last = 0
        self.good_ns = self.bad_ns = 0
        self.parts: Counter[str] = Counter()
        self.runs = Histogram()

    def succeed(self, spent: Spent, total: int) -> None:
        self.good += 1
        self.good_ns += total
        self.rows += spent.rows
        self.last = int(time.time() * 1000)
        for part in PARTS:
            self.parts[part] += getattr(spent, part)
        self.runs.add(spent.compute_infer / 1e9)

    def fail(self, total: int) -> None:
        self.bad += 1
        self.bad_ns += total

    def statistics(self, name: str) -> dict[str, object]:
        """The entry of the statistics extension; inference_count counts rows."""
        parts = {part: {"count": self.good, "ns": self.parts[part]} for part in PARTS}
        totals = {
            "success": {"count": self.good, "ns": self.good_ns},
            "fail": {"count": self.bad, "ns": self.bad_ns},
        }
        return {
            "name": name,
            "version": "1",
            "last_inference": self.last,
            "inference_count": self.rows,
            "execution_count": self.good,
            "inference_stats": {**totals, **parts},
            "batch_stats": [],
        }


class Metrics:
    """Requests by operation, model and status, and how long they took."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, str, int]] = Counter()
        self.seconds: dict[tuple[str, str], Histogram] = {}
        self.started = time.time()

    def count(self, operation: str, model: str, status: int, seconds: float) -> None:
        self.requests[operation, model, status] += 1
        self.seconds.setdefault((operation, model), Histogram()).add(seconds)

    def text(self, records: Mapping[str, Record], gauges: Mapping[str, float]) -> str:
        """The exposition. Names of models are of A-Z a-z 0-9 . _ - and need no escapes."""
        return "\n".join([*self._requests(), *_models(records), *self._gauges(gauges)]) + "\n"

    def _requests(self) -> Iterator[str]:
        yield "# HELP onnxplain_requests_total Requests answered, by status."
        yield "# TYPE onnxplain_requests_total counter"
        for (operation, model, status), count in sorted(self.requests.items()):
            labels = f'operation="{operation}",model="{model}",status="{status}"'
            yield f"onnxplain_requests_total{{{labels}}} {count}"
        yield "# HELP onnxplain_request_seconds From the head of a request to the end of its answer."
        yield "# TYPE onnxplain_request_seconds histogram"
        for (operation, model), histogram in sorted(self.seconds.items()):
            labels = f'operation="{operation}",model="{model}"'
            yield from histogram.lines("onnxplain_request_seconds", labels)

    def _gauges(self, gauges: Mapping[str, float]) -> Iterator[str]:
        more = {"process_start_time_seconds": self.started, "process_resident_memory_bytes": resident()}
        for name, value in {**gauges, **more}.items():
            yield f"# TYPE {name} gauge"
            yield f"{name} {value:.15g}"


def _models(records: Mapping[str, Record]) -> Iterator[str]:
    yield "# HELP onnxplain_run_seconds Time of the model's runs."
    yield "# TYPE onnxplain_run_seconds histogram"
    for name, record in records.items():
        yield from record.runs.lines("onnxplain_run_seconds", f'model="{name}"')
    yield "# HELP onnxplain_rows_total Rows computed."
    yield "# TYPE onnxplain_rows_total counter"
    for name, record in records.items():
        yield f'onnxplain_rows_total{{model="{name}"}} {record.rows}'


def resident() -> int:
    """Bytes of memory this process has; 0 where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError, AttributeError):
        return 0
