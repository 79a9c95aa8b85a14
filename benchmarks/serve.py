"""A server under load: are all answers right, how much does serving cost, and does memory stay where it is?

python -m benchmarks.serve [--seconds 60] [--clients 8] [--workers 2] [--batching 2ms] [--out FILE.md]

Saliency of EfficientNet-Lite0 (224 x 224, tensors as bytes) is served by `onnxplain serve` in a process of its own.
Clients send one picture at a time, each from several of its own with the explained class, and compare every answer
with that of the Python API: bit for bit, or to 1e-2 of the largest value (L2) with --batching, where sums have another
order and a mask may flip. Before and after, the same number of threads run the bare session for a quarter of the time;
the clients share the cores with the server, so the throughput over that of the bare session also holds their work.
Memory is the server's resident set, as /metrics gives it, once a second from the end of the warm-up on.
"""

from __future__ import annotations

import argparse
import http.client
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

import onnxplain
from benchmarks.table import load, machine, table
from onnxplain import models

NAME = "lite.saliency"
PICTURES = 3
"""Of each client."""
PACKAGES = ("onnxplain", "onnxruntime", "starlette", "uvicorn")
WARM_UP = 2
"""Requests of each client before anything is counted."""


@dataclass(frozen=True)
class Case:
    """A request and what must come back."""

    body: bytes
    length: int
    expected: np.ndarray


@dataclass
class Tally:
    """What one client has seen."""

    right: int = 0
    wrong: int = 0
    refused: int = 0
    broken: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Outcome:
    """sent = right + wrong + refused + lost. rate: right answers a second. memory in bytes."""

    sent: int
    right: int
    wrong: int
    refused: int
    lost: int
    rate: float
    bare: float
    p50: float
    p99: float
    memory: tuple[int, ...]

    @property
    def good(self) -> bool:
        return self.right == self.sent > 0

    def __str__(self) -> str:
        first, last, most = self.memory[0], self.memory[-1], max(self.memory)
        return "\n".join(
            [
                f"answers     {self.right} right, {self.wrong} wrong or mixed up",
                f"            {self.refused} refused, {self.lost} lost",
                f"throughput  {self.rate:.2f}/s; bare session {self.bare:.2f}/s; ratio {self.rate / self.bare:.2f}",
                f"latency     median {self.p50 * 1e3:.0f} ms, 99 % {self.p99 * 1e3:.0f} ms",
                f"memory      start {first / 1e6:.0f} MB, end {last / 1e6:.0f} MB, most {most / 1e6:.0f} MB",
            ]
        )


def cases(explainer: onnxplain.Explainer, client: int) -> list[Case]:
    made = []
    for i in range(PICTURES):
        draw = np.random.default_rng([client, i])
        x = draw.standard_normal((1, 3, 224, 224), dtype=np.float32)
        target = np.array([[int(draw.integers(1000))]])
        [name] = [node.name for node in explainer.session.get_inputs() if node.name != "target"]
        inputs = [
            {
                "name": key,
                "datatype": kind,
                "shape": list(a.shape),
                "parameters": {"binary_data_size": a.nbytes},
            }
            for key, kind, a in ((name, "FP32", x), ("target", "INT64", target))
        ]
        wanted = [{"name": "attribution", "parameters": {"binary_data": True}}]
        head = json.dumps({"id": f"{client}-{i}", "inputs": inputs, "outputs": wanted}).encode()
        expected = explainer(x, target).attribution
        made.append(Case(head + x.tobytes() + target.tobytes(), len(head), expected))
    return made


@contextmanager
def served(folder: Path, workers: int, batching: str | None) -> Iterator[int]:
    """The port of a server in a process of its own."""
    command = [sys.executable, "-m", "onnxplain", "serve", str(folder), "--port", "0", "--log", "json"]
    command += ["--workers", str(workers), *(["--batching", batching] if batching else [])]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            told = json.loads(line)
            if told["event"] == "listening":
                break
        else:
            raise RuntimeError("the server did not start")
        stream = process.stderr
        reader = threading.Thread(target=lambda: [None for _ in stream])  # else the pipe fills up
        reader.start()
        try:
            yield int(told["url"].rpartition(":")[2])
        finally:
            process.terminate()
            process.wait(60)
            reader.join()


def ask(port: int, mine: Sequence[Case], go_on: Callable[[int], bool], same: Callable[..., bool]) -> Tally:
    """One client, one connection, one request after the other."""
    tally = Tally()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    turn = 0
    while go_on(turn):
        case = mine[turn % len(mine)]
        turn += 1
        start = time.perf_counter()
        try:
            headers = {"Inference-Header-Content-Length": str(case.length)}
            connection.request("POST", f"/v2/models/{NAME}/infer", case.body, headers)
            answer = connection.getresponse()
            body = answer.read()
        except OSError as error:
            tally.broken.append(str(error))
            connection.close()
            continue
        tally.seconds.append(time.perf_counter() - start)
        if answer.status != 200:
            tally.refused += 1
            continue
        length = int(answer.headers["Inference-Header-Content-Length"])
        name = json.loads(body[:length])["id"]
        sent = json.loads(case.body[: case.length])["id"]
        found = np.frombuffer(body[length:], "<f4").reshape(case.expected.shape)
        right = name == sent and same(found, case.expected)
        tally.right, tally.wrong = tally.right + right, tally.wrong + (not right)
    connection.close()
    return tally


def resident(port: int) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    found = re.search(r"^process_resident_memory_bytes (\d+)", text, re.MULTILINE)
    assert found is not None
    return int(found[1])


def bare(explainer: onnxplain.Explainer, case: Case, workers: int, seconds: float) -> float:
    """Runs a second of the session itself, with as many threads as the server has."""
    [name] = [node.name for node in explainer.session.get_inputs() if node.name != "target"]
    x = np.frombuffer(case.body[case.length : -8], np.float32).reshape(1, 3, 224, 224)
    feeds = {name: x, "target": np.array([[7]])}
    explainer.session.run(None, feeds)
    end = time.perf_counter() + seconds

    def loop(_: int) -> int:
        runs = 0
        while time.perf_counter() < end:
            explainer.session.run(None, feeds)
            runs += 1
        return runs

    start = time.perf_counter()
    with ThreadPoolExecutor(workers) as pool:
        runs = sum(pool.map(loop, range(workers)))
    return runs / (time.perf_counter() - start)


def measure(seconds: float, clients: int, workers: int, batching: str | None) -> Outcome:
    def same(found: np.ndarray, expected: np.ndarray) -> bool:
        if not batching:
            return bool(np.array_equal(found, expected))
        return bool(np.linalg.norm(found - expected) <= 1e-2 * np.linalg.norm(expected))

    with TemporaryDirectory() as temporary, ThreadPoolExecutor(clients) as pool:
        path = Path(temporary) / f"{NAME}.onnx"
        onnxplain.compile(models.path("efficientnet_lite0"), "saliency").save(path)
        explainer = onnxplain.load(path, threads=1)
        everybody = [cases(explainer, client) for client in range(clients)]
        rates = [bare(explainer, everybody[0][0], workers, seconds / 4)]
        with served(Path(temporary), workers, batching) as port:
            list(pool.map(lambda mine: ask(port, mine, lambda turn: turn < WARM_UP, same), everybody))
            memory = [resident(port)]
            start = time.perf_counter()
            end = start + seconds
            asked = [
                pool.submit(ask, port, mine, lambda turn: time.perf_counter() < end, same)
                for mine in everybody
            ]
            while not all(one.done() for one in asked):
                time.sleep(min(1.0, seconds / 5))
                memory.append(resident(port))
            tallies = [one.result() for one in asked]
            took = time.perf_counter() - start
            memory.append(resident(port))
        rates.append(bare(explainer, everybody[0][0], workers, seconds / 4))
    right, wrong = sum(tally.right for tally in tallies), sum(tally.wrong for tally in tallies)
    refused, lost = sum(tally.refused for tally in tallies), sum(len(tally.broken) for tally in tallies)
    p50, p99 = np.percentile([value for tally in tallies for value in tally.seconds] or [0.0], (50, 99))
    sent = right + wrong + refused + lost
    rate = right / took
    return Outcome(
        sent, right, wrong, refused, lost, rate, float(np.mean(rates)), float(p50), float(p99), tuple(memory)
    )


def report(found: Outcome, given: argparse.Namespace, busy: float | None) -> str:
    """The page."""
    memory = [f"{found.memory[int(i)] / 1e6:.1f}" for i in np.linspace(0, len(found.memory) - 1, 7)]
    rows = [
        ["answers, all compared with Python's", f"{found.right} right, {found.wrong} wrong"],
        ["refused, lost", f"{found.refused}, {found.lost}"],
        ["answers a second", f"{found.rate:.1f}"],
        ["runs a second of the bare session", f"{found.bare:.1f}"],
        ["throughput over the bare session's", f"{found.rate / found.bare:.2f}"],
        ["latency, median and 99 %", f"{found.p50 * 1e3:.0f}, {found.p99 * 1e3:.0f} ms"],
        ["resident memory at seven moments, MB", ", ".join(memory)],
    ]
    batching = f", batching {given.batching}" if given.batching else ""
    return f"""# The server under load

{machine(given.workers, PACKAGES, busy)}
Saliency of EfficientNet-Lite0 by `onnxplain serve`, {given.clients} clients on the same machine for
{given.seconds:.0f} s, one picture a request as bytes{batching}. The clients share the cores with the server.

{table(["", ""], rows)}"""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--batching", default=None)
    parser.add_argument("--out", type=Path, default=None)
    given = parser.parse_args()
    busy = load()
    found = measure(given.seconds, given.clients, given.workers, given.batching)
    print(found)
    if given.out is not None:
        given.out.write_text(report(found, given, busy), encoding="utf-8")
    return 0 if found.good else 1


if __name__ == "__main__":
    raise SystemExit(main())
