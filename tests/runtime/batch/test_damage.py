"""A result that is damaged is refused or made again: a resumed run never ends with less than it says."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

import onnxplain
from onnxplain.runtime.batch import Report, run
from onnxplain.runtime.batch import shard as shards
from tests.runtime.batch.conftest import COUNT, contents

SHARD = 20


def here(explanation: Path, photos: Path, out: Path, **more: Any) -> Report:
    with ThreadPoolExecutor(1) as executor:
        return run(explanation, photos, out, executor=executor, **{"shard": SHARD, "format": "npz", **more})


@pytest.fixture(scope="module")
def whole(explanation: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "maps"
    here(explanation, photos, out)
    return out


def change(path: Path, by: Callable[[Any], object]) -> None:
    value = json.loads(path.read_text())
    path.write_text(json.dumps(by(value) or value))


def set_in(key: str, value: object) -> Callable[[Any], object]:
    return lambda record: record.__setitem__(key, value)


BAD = {"id": 3, "path": "b/006.png", "reason": "no"}
RECORDS: dict[str, Callable[[Any], object]] = {
    "no files": set_in("files", {}),
    "another file": set_in("files", {"../../elsewhere": "0"}),
    "a list of files": set_in("files", []),
    "a number for a sum": set_in("files", {"part-00001.npz": 5}),
    "an index that is a text": set_in("index", "1"),
    "an index that is true": set_in("index", True),
    "an index of no shard": set_in("index", 7),
    "other bounds": set_in("last", 41),
    "rows of nobody": set_in("rows", 19),
    "a bad picture too many": set_in("bad", [BAD]),
    "a bad picture of elsewhere": lambda r: r.update(rows=19, bad=[BAD]),
    "a bad picture twice": lambda r: r.update(rows=18, bad=[{**BAD, "id": 21}] * 2),
    "a bad picture of another name": lambda r: r.update(rows=19, bad=[{**BAD, "id": 21}]),
    "a bad picture without a reason": lambda r: r.update(rows=19, bad=[{"id": 21, "path": "x"}]),
    "a key that is missing": lambda r: r.pop("first") and None,
    "a key too many": set_in("more", 1),
    "a list": lambda r: [1, 2],
    "a number": lambda r: 5,
}


@pytest.mark.parametrize("what", RECORDS)
@pytest.mark.parametrize("place", ["manifest", "record"])
def test_a_damaged_record(
    place: str, what: str, explanation: Path, photos: Path, whole: Path, tmp_path: Path
) -> None:
    """In the manifest of a run that is done, or among the records of one that was stopped."""
    out, damage = tmp_path / "maps", RECORDS[what]
    shutil.copytree(whole, out)
    manifest = out / "manifest.json"
    known = json.loads(manifest.read_text())
    if place == "record":
        (out / ".shards").mkdir()
        (out / ".shards" / "1.json").write_text(json.dumps(known["shards"].pop(1)))
        manifest.write_text(json.dumps({**known, "complete": False, "shards": []}))
        change(out / ".shards" / "1.json", damage)
    else:
        record = known["shards"][1]
        known["shards"][1] = damage(record) or record
        manifest.write_text(json.dumps(known))
    before = contents(out)
    with pytest.raises(onnxplain.OptionError, match="damaged"):
        here(explanation, photos, out, resume=True)
    assert contents(out) == before


TEXTS: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda text: text[: len(text) // 2],
    "empty": lambda text: b"",
    "no UTF-8": lambda text: b"\xff\xfe" + text,
    "deep": lambda text: b"[" * 200_000,
    "of another kind": lambda text: text.replace(b"onnxplain batch 1", b"onnxplain batch 9"),
    "a list": lambda text: b"[]",
    "without a job": lambda text: text.replace(b'"job"', b'"task"'),
}


@pytest.mark.parametrize("what", TEXTS)
def test_a_damaged_manifest(what: str, explanation: Path, photos: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "maps"
    shutil.copytree(whole, out)
    manifest = out / "manifest.json"
    manifest.write_bytes(TEXTS[what](manifest.read_bytes()))
    before = contents(out)
    with pytest.raises(onnxplain.OptionError, match=r"manifest.json' cannot be read"):
        here(explanation, photos, out, resume=True)
    assert contents(out) == before


@pytest.mark.parametrize("what", ["cut", "empty", "no UTF-8", "deep"])
def test_a_record_that_is_no_json(
    what: str, explanation: Path, photos: Path, whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "maps"
    shutil.copytree(whole, out)
    (out / ".shards").mkdir()
    record = json.loads((out / "manifest.json").read_text())["shards"][1]
    (out / ".shards" / "1.json").write_bytes(TEXTS[what](json.dumps(record).encode()))
    with pytest.raises(onnxplain.OptionError, match=r"1.json' cannot be read.*delete it"):
        here(explanation, photos, out, resume=True)


def test_other_damage_of_the_manifest(explanation: Path, photos: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "maps"
    shutil.copytree(whole, out)
    change(out / "manifest.json", set_in("shards", {"0": 1}))
    with pytest.raises(onnxplain.OptionError, match="shards is no list"):
        here(explanation, photos, out, resume=True)
    shutil.copy(whole / "manifest.json", out)
    change(out / "manifest.json", lambda m: m["job"].pop("bad") and None)
    with pytest.raises(onnxplain.StaleError, match="another bad"):
        here(explanation, photos, out, resume=True)
    shutil.copy(whole / "manifest.json", out)
    change(out / "manifest.json", lambda m: m["job"].update(more=1))
    with pytest.raises(onnxplain.StaleError, match="another more"):
        here(explanation, photos, out, resume=True)
    shutil.copy(whole / "manifest.json", out)
    change(
        out / "manifest.json",
        lambda m: m["shards"].append({**m["shards"][0], "files": {"part-00000.npz": "0"}}),
    )
    with pytest.raises(onnxplain.OptionError, match="two records that differ"):
        here(explanation, photos, out, resume=True)


@pytest.mark.parametrize("format", ["npz", "parquet", "zarr"])
def test_damaged_shards_are_made_again(format: str, explanation: Path, photos: Path, tmp_path: Path) -> None:
    """Cut, changed or lost. A pipe in the place of one is not opened."""
    pytest.importorskip({"npz": "numpy", "parquet": "pyarrow.parquet", "zarr": "zarr"}[format])
    once, out = tmp_path / "once", tmp_path / "maps"
    here(explanation, photos, once, format=format, shard=10)
    shutil.copytree(once, out)
    files = [next(iter(one["files"])) for one in json.loads((out / "manifest.json").read_text())["shards"]]
    first, second, third, fourth = (out / name for name in files[:4])
    first.write_bytes(first.read_bytes()[:-7])
    second.write_bytes(second.read_bytes()[:-1] + b"?")
    third.unlink()
    report = here(explanation, photos, out, format=format, shard=10, resume=True)
    assert report.resumed == COUNT // 10 - 3
    assert contents(out) == contents(once)
    fourth.unlink()
    os.mkfifo(fourth)
    with pytest.raises(onnxplain.OptionError, match="no regular file"):
        here(explanation, photos, out, format=format, shard=10, resume=True)


@pytest.mark.parametrize("damage", ["cut", "shape", "fill"])
def test_damaged_arrays_of_zarr(damage: str, explanation: Path, photos: Path, tmp_path: Path) -> None:
    pytest.importorskip("zarr")
    out = tmp_path / "maps"
    here(explanation, photos, out, format="zarr")
    about = out / "maps.zarr" / "map" / "zarr.json"
    if damage == "cut":
        about.write_bytes(about.read_bytes()[:50])
    else:
        value: Any = [COUNT + 1, 28, 28] if damage == "shape" else 0.0
        change(about, set_in({"shape": "shape", "fill": "fill_value"}[damage], value))
    with pytest.raises(onnxplain.OptionError, match=r"maps.zarr' are damaged"):
        here(explanation, photos, out, format="zarr", resume=True)


def test_pictures_that_are_too_much_are_bad(explanation: Path, photos: Path, tmp_path: Path) -> None:
    """A pipe, a socket's neighbour the device, a bomb, a JPEG that is cut: the run goes on."""
    place = tmp_path / "photos"
    shutil.copytree(photos / "a", place)
    os.mkfifo(place / "pipe.png")
    Image.new("1", (20_000, 20_000)).save(place / "bomb.png")
    Image.new("1", (1, 1_500_000)).save(place / "thread.png")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)).save(place / "cut.jpg")
    (place / "cut.jpg").write_bytes((place / "cut.jpg").read_bytes()[:-500] + b"\xff\xd9")
    report = here(explanation, place, tmp_path / "maps")
    reasons = {one.path: one.reason for one in report.bad}
    assert (
        set(reasons) == {"pipe.png", "bomb.png", "thread.png", "cut.jpg"} and report.explained == COUNT // 2
    )
    assert "pipe" in reasons["pipe.png"] and "too large" in reasons["bomb.png"]
    assert "too large" in reasons["thread.png"] and "truncated" in reasons["cut.jpg"]


def test_memory_that_is_not_there_makes_a_picture_bad(
    explanation: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it is read, and while it is explained, whoever says so."""
    faults = {1: MemoryError(), 2: onnxplain.ModelError("Failed to allocate memory for requested buffer")}
    explain, calls = shards._run, iter(range(COUNT))

    def run_once(*args: Any) -> Any:
        fault = faults.get(next(calls))
        if fault is not None:
            raise fault
        return explain(*args)

    monkeypatch.setattr(shards, "_run", run_once)
    report = here(explanation, photos, tmp_path / "maps")
    assert [one.id for one in report.bad] == [1, 2] and report.explained == COUNT - 2
    assert all("more memory" in one.reason for one in report.bad)


def test_a_size_that_the_model_does_not_take_is_bad(tmp_path: Path) -> None:
    """A model of pictures of any size that cuts its input to halves fails on odd sizes, and on nothing else."""
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["pairs"]),
        helper.make_node("ReduceSum", ["pairs", "axes"], ["y"], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 1, "H", "W"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 1])],
        [
            helper.make_tensor("shape", TensorProto.INT64, [4], [0, 1, -1, 2]),
            helper.make_tensor("axes", TensorProto.INT64, [2], [2, 3]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, tmp_path / "m.onnx")
    file = onnxplain.compile(tmp_path / "m.onnx", "saliency").save(tmp_path / "m.saliency.onnx")
    (tmp_path / "photos").mkdir()
    for i, size in enumerate([(4, 4), (3, 5), (6, 2)]):
        Image.new("L", size, 90).save(tmp_path / "photos" / f"{i}.png")
    report = here(file, tmp_path / "photos", tmp_path / "maps")
    assert [one.id for one in report.bad] == [1] and report.explained == 2
