"""`python -m benchmarks.batch OUT [--count 2000] [--dask]`: many pictures, and whether every run wrote the same bytes.

Generated digits under noise through LeNet's saliency, in shards of 250: one process, two processes, two processes of
which one is killed, a run that is stopped and resumed, and (--dask) a local cluster. Prints a line a run: how long it
took and the sha256 over all its files. Ends with an error where one differs, or a picture is missing or twice there.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import onnxplain
from onnxplain import models
from onnxplain.runtime.batch import run

SHARD = 250
BAD = (7, 1234)
"""Pictures that hold no picture."""


def make(folder: Path, count: int) -> Path:
    """`count` pictures of 28 x 28, some of them bad; the same ones every time."""
    folder.mkdir(parents=True, exist_ok=True)
    digits, random = models.digits()[0], np.random.default_rng(0)
    for i in range(count):
        noise = random.integers(-40, 41, (28, 28))
        pixels = np.clip(digits[i % len(digits)] + noise, 0, 255).astype(np.uint8)
        path = folder / f"{i:06}.png"
        if i in BAD:
            path.write_bytes(b"no picture")
        else:
            Image.fromarray(pixels).save(path)
    return folder


def digest(folder: Path) -> str:
    """sha256 over the names and bytes of all files."""
    whole = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            whole.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return whole.hexdigest()


def kill_one() -> Callable[[int, int], None]:
    """Kills a worker after the first shard."""
    killed: list[int] = []

    def tell(done: int, total: int) -> None:
        pid = multiprocessing.active_children()[0].pid if done and not killed else None
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)

    return tell


def stop(done: int, total: int) -> None:
    if done > total // 3:
        raise KeyboardInterrupt


def check_rows(folder: Path, count: int) -> None:
    """Every picture once: a row, or a line in the list of bad ones."""
    parquet = import_module("pyarrow.parquet")
    ids = [i for part in sorted(folder.glob("part-*")) for i in parquet.read_table(part)["id"].to_pylist()]
    bad = [
        one["id"]
        for shard in json.loads((folder / "manifest.json").read_text())["shards"]
        for one in shard["bad"]
    ]
    assert sorted(ids + bad) == list(range(count)) and ids == sorted(ids), "a picture is lost, or there twice"
    assert bad == [i for i in BAD if i < count]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--dask", action="store_true")
    asked = parser.parse_args()
    photos = make(asked.out / "photos", asked.count)
    explainer = onnxplain.compile(models.path("mnist_lenet"), "saliency", reduce="maxabs")
    file = explainer.save(asked.out / "lenet.saliency.onnx")
    digests = {}

    def one(name: str, **options: Any) -> None:
        start, out = time.perf_counter(), asked.out / name
        report = run(file, photos, out, shard=SHARD, **options)
        digests[name] = digest(out)
        seconds = time.perf_counter() - start
        print(
            f"{name:12} {seconds:6.1f} s  {report.explained} explained, {len(report.bad)} bad, {digests[name][:16]}"
        )
        check_rows(out, asked.count)

    one("one", workers=1)
    one("two", workers=2)
    one("killed", workers=2, progress=kill_one())
    try:
        run(file, photos, asked.out / "resumed", shard=SHARD, workers=2, progress=stop)
    except KeyboardInterrupt:
        print("stopped after", len(list((asked.out / "resumed").glob("part-*"))), "shards")
    one("resumed", workers=2, resume=True)
    with _cluster(asked.dask) as cluster:
        if cluster is not None:
            one("dask", dask=cluster.scheduler_address)
    assert len(set(digests.values())) == 1, f"the runs differ: {digests}"
    print("all the same bytes")


def _cluster(wanted: bool) -> AbstractContextManager[Any]:
    if not wanted:
        return nullcontext(None)
    start: Callable[..., AbstractContextManager[Any]] = import_module("distributed").LocalCluster
    return start(n_workers=2, threads_per_worker=1, dashboard_address=None)


if __name__ == "__main__":
    main()
