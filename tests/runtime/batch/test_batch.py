"""Many pictures: the same bytes whoever works on them, nothing lost, nothing doubled."""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import onnxplain
from onnxplain.runtime.batch import run
from onnxplain.runtime.batch.pool import local_workers, spread
from onnxplain.runtime.images import prepare, read_image
from onnxplain.runtime.preprocess import from_record
from tests.runtime.batch.conftest import COUNT, contents

SHARD = 10


@pytest.fixture(scope="module")
def once(explanation: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The result that every other run is compared with: in this process, one shard after the other."""
    out = tmp_path_factory.mktemp("once") / "maps"
    pytest.importorskip("pyarrow")
    with ThreadPoolExecutor(1) as executor:
        report = run(explanation, photos, out, executor=executor, shard=SHARD)
    assert (report.pictures, report.explained, report.bad, report.shards) == (
        COUNT,
        COUNT,
        (),
        COUNT // SHARD,
    )
    return out


@pytest.mark.parametrize("workers", [1, 2])
def test_any_number_of_processes(
    workers: int, explanation: Path, photos: Path, once: Path, tmp_path: Path
) -> None:
    told: list[tuple[int, int]] = []
    run(
        explanation,
        photos,
        tmp_path / "maps",
        workers=workers,
        shard=SHARD,
        progress=lambda done, total: told.append((done, total)),
    )
    assert contents(tmp_path / "maps") == contents(once)
    assert told == [(done, COUNT) for done in range(0, COUNT + 1, SHARD)]


def test_dask(explanation: Path, photos: Path, once: Path, tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            dashboard_address=None,
            local_directory=str(tmp_path / "dask"),
            memory_limit=None,
        ) as cluster,
    ):
        run(explanation, photos, tmp_path / "maps", dask=cluster.scheduler_address, shard=SHARD)
    assert contents(tmp_path / "maps") == contents(once)


def test_no_dask_scheduler(explanation: Path, photos: Path, tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    with pytest.raises(onnxplain.OptionError, match="no dask scheduler"):
        run(explanation, photos, tmp_path / "maps", dask="nowhere", shard=SHARD)
    assert not (tmp_path / "maps").exists()


def test_the_rows_are_what_the_explainer_gives(explanation: Path, photos: Path, once: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    explainer = onnxplain.load(explanation, threads=1)
    assert explainer.card.preprocessing is not None
    preprocessing = from_record(explainer.card.preprocessing)
    names = sorted(path.relative_to(photos).as_posix() for path in photos.rglob("*.png"))
    seen = []
    for part in sorted(once.glob("part-*.parquet")):
        table = parquet.read_table(part)
        field = table.schema.field("map")
        shape = json.loads(field.metadata[b"shape"])
        assert str(field.type) == "fixed_size_list<element: float>[784]" and shape == [28, 28]
        for row in table.to_pylist():
            x, _ = prepare(read_image(photos / row["path"]), preprocessing)
            found = explainer(x)
            assert found.heatmap is not None
            assert np.array_equal(np.reshape(np.float32(row["map"]), shape), found.heatmap[0])
            logits = found.outputs["logits"][0]
            assert (row["top"], row["score"]) == (int(logits.argmax()), float(logits.max()))
            seen.append((row["id"], row["path"]))
    assert seen == list(enumerate(names))


def test_a_killed_worker_costs_nothing(explanation: Path, photos: Path, once: Path, tmp_path: Path) -> None:
    killed: list[int] = []

    def kill(done: int, total: int) -> None:
        if done and not killed:
            process = multiprocessing.active_children()[0]
            assert process.pid is not None
            os.kill(process.pid, signal.SIGKILL)
            process.join(20)
            killed.append(process.pid)

    run(explanation, photos, tmp_path / "maps", workers=2, shard=SHARD, progress=kill)
    assert killed and contents(tmp_path / "maps") == contents(once)


def die(task: Path) -> None:
    with open(task, "a") as file:
        file.write("x")
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_task_that_always_kills_ends_the_run(tmp_path: Path) -> None:
    with local_workers(1) as crew, pytest.raises(onnxplain.ExplainError, match="died 3 times"):
        list(spread(crew, die, [tmp_path / "log"]))
    assert (tmp_path / "log").read_text() == "xxx"


def test_an_interrupted_run_goes_on(explanation: Path, photos: Path, once: Path, tmp_path: Path) -> None:
    out = tmp_path / "maps"

    def interrupt(done: int, total: int) -> None:
        if done >= 2 * SHARD:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(explanation, photos, out, workers=1, shard=SHARD, progress=interrupt)
    parts = {path.name: path.stat().st_mtime_ns for path in out.glob("part-*")}
    assert 2 <= len(parts) < COUNT // SHARD
    assert not json.loads((out / "manifest.json").read_text())["complete"]
    with pytest.raises(onnxplain.OptionError, match="go on with resume"):
        run(explanation, photos, out, workers=1, shard=SHARD)
    with pytest.raises(onnxplain.StaleError, match="begun with another shard"):
        run(explanation, photos, out, workers=1, shard=SHARD + 1, resume=True)
    report = run(explanation, photos, out, workers=1, shard=SHARD, resume=True)
    assert report.resumed == len(parts) and report.explained == COUNT
    assert contents(out) == contents(once)
    assert all((out / name).stat().st_mtime_ns == time for name, time in parts.items())


SCRIPT = """
import os, signal, sys
from onnxplain.runtime.batch import run
if __name__ == "__main__":
    def kill(done, total):
        if done:
            os.kill(os.getpid(), signal.SIGKILL)
    run(*sys.argv[1:4], workers=2, shard=10, progress=kill)
"""


def test_a_run_that_is_killed_goes_on(explanation: Path, photos: Path, once: Path, tmp_path: Path) -> None:
    """SIGKILL of the process that hands out: its workers end with it, and nothing half-written is taken for whole."""
    out, script = tmp_path / "maps", tmp_path / "killed.py"
    script.write_text(SCRIPT)
    ended = subprocess.run(
        [sys.executable, script, explanation, photos, out], timeout=120, capture_output=True
    )
    assert ended.returncode == -signal.SIGKILL
    (out / ".part-00004.abc.parquet").write_bytes(b"half")
    with ThreadPoolExecutor(1) as executor:
        assert run(explanation, photos, out, executor=executor, shard=SHARD, resume=True).resumed
    assert contents(out) == contents(once)


@pytest.mark.parametrize("damage", ["lost", "changed"])
def test_what_was_lost_or_changed_is_made_again(
    damage: str, explanation: Path, photos: Path, once: Path, tmp_path: Path
) -> None:
    out = tmp_path / "maps"
    shutil.copytree(once, out)
    part = out / "part-00002.parquet"
    part.unlink() if damage == "lost" else part.write_bytes(part.read_bytes()[:-1])
    with ThreadPoolExecutor(1) as executor:
        report = run(explanation, photos, out, executor=executor, shard=SHARD, resume=True)
    assert report.resumed == COUNT // SHARD - 1 and contents(out) == contents(once)


@pytest.fixture
def spoilt(photos: Path, tmp_path: Path) -> Path:
    """The pictures as a list, three of them bad."""
    (tmp_path / "text.png").write_text("no picture")
    whole = next(photos.rglob("*.png")).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    good = [str(path) for path in sorted(photos.rglob("*.png"))]
    lines = [*good[:3], "text.png", *good[3:15], "missing.png", "cut.png", *good[15:]]
    (tmp_path / "list.txt").write_text("\n".join(lines))
    return tmp_path / "list.txt"


def test_bad_pictures_are_left_out_and_listed(explanation: Path, spoilt: Path, tmp_path: Path) -> None:
    parquet, out = pytest.importorskip("pyarrow.parquet"), tmp_path / "maps"
    with ThreadPoolExecutor(1) as executor:
        report = run(explanation, spoilt, out, executor=executor, shard=SHARD)
    assert (report.pictures, report.explained) == (COUNT + 3, COUNT)
    with open(out / "bad.csv", newline="", encoding="utf-8") as file:
        listed = list(csv.DictReader(file))
    assert [(row["id"], row["path"]) for row in listed] == [
        ("3", "text.png"),
        ("16", "missing.png"),
        ("17", "cut.png"),
    ]
    assert "no such file" in listed[1]["reason"] and "cannot be read" in listed[2]["reason"]
    ids = [i for part in sorted(out.glob("part-*")) for i in parquet.read_table(part)["id"].to_pylist()]
    assert ids == [i for i in range(COUNT + 3) if i not in (3, 16, 17)]
    counts = json.loads((out / "manifest.json").read_text())["counts"]
    assert counts == {"pictures": COUNT + 3, "explained": COUNT, "bad": 3, "shards": 7, "zero": 0}


def test_stop_at_a_bad_picture(explanation: Path, spoilt: Path, tmp_path: Path) -> None:
    with (
        ThreadPoolExecutor(1) as executor,
        pytest.raises(onnxplain.ImageError, match=r"picture 3 is bad.*text"),
    ):
        run(explanation, spoilt, tmp_path / "maps", executor=executor, shard=SHARD, bad="stop")
