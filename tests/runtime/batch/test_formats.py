"""Other formats and maps, what is refused before any work is done, and the command."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

import onnxplain
from onnxplain import models
from onnxplain.runtime.batch import Report, rows, run
from onnxplain.runtime.batch.shard import Bad, Record
from tests.runtime.batch.conftest import COUNT, contents
from tests.runtime.cli.conftest import Cli, cli

__all__ = ["cli"]
LENET = models.path("mnist_lenet")


def here(*words: Any, **options: Any) -> Report:
    """A run in this process, one shard after the other."""
    with ThreadPoolExecutor(1) as executor:
        return run(*words, executor=executor, **{"shard": 25, **options})


@pytest.fixture
def some(photos: Path, tmp_path: Path) -> Path:
    """A folder with a bad picture: number 2 of 5."""
    folder = tmp_path / "some"
    folder.mkdir()
    for i, path in enumerate(sorted(photos.rglob("*.png"))[:5]):
        shutil.copy(path, folder / f"{i}.png")
    (folder / "2.png").write_text("none")
    return folder


def test_npz_and_attribution(explanation: Path, some: Path, tmp_path: Path) -> None:
    here(explanation, some, tmp_path / "maps", format="npz", map="attribution", target=7, shard=3)
    explainer = onnxplain.load(explanation, threads=1)
    names = []
    for part in sorted((tmp_path / "maps").glob("part-*.npz")):
        stored = np.load(part)
        for i, name in enumerate(stored["path"]):
            x = np.asarray(Image.open(some / str(name)), np.float32)[None, None] / np.float32(255)
            np.testing.assert_array_equal(stored["map"][i], explainer(x, target=7).attribution[0])
            names.append(str(name))
    assert names == ["0.png", "1.png", "3.png", "4.png"]


def test_zarr_has_a_row_a_picture(explanation: Path, some: Path, tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr")
    out = tmp_path / "maps"
    here(explanation, some, out, format="zarr", shard=2)
    here(explanation, some, tmp_path / "npz", format="npz", shard=2)
    group = zarr.open_group(out / "maps.zarr", mode="r")
    assert group["map"].shape == (5, 28, 28) and group["map"].chunks == (2, 28, 28)
    maps = {i: one for part in (tmp_path / "npz").glob("*.npz") for i, one in zip(*of(part), strict=True)}
    for i, one in enumerate(group["map"][:]):
        assert np.array_equal(one, maps[i]) if i != 2 else np.isnan(one).all()
    assert group["top"][2] == -1 and np.isnan(group["score"][2]) and (group["top"][:2] >= 0).all()
    assert json.loads((out / "paths.json").read_text()) == [f"{i}.png" for i in range(5)]
    before = contents(out)
    (out / "maps.zarr" / "map" / "c" / "1" / "0" / "0").unlink()
    assert here(explanation, some, out, format="zarr", shard=2, resume=True).resumed == 2
    assert contents(out) == before


def of(part: Path) -> tuple[list[int], Any]:
    stored = np.load(part)
    return stored["id"].tolist(), stored["map"]


@pytest.mark.parametrize("format", ["parquet", "npz"])
def test_pictures_of_their_own_size(format: str, tmp_path: Path) -> None:
    """A model of any size: every map has that of its picture."""
    if format == "parquet":
        pytest.importorskip("pyarrow")
    explainer = onnxplain.compile(models.path("esrgan_slim_x4"), "saliency", reduce="sum")
    file = explainer.save(tmp_path / "sr.onnx")
    (tmp_path / "some").mkdir()
    sizes = {"a.png": (12, 8), "b.png": (8, 10)}
    for name, (width, height) in sizes.items():
        pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "some" / name)
    here(file, tmp_path / "some", tmp_path / "maps", format=format)
    (part,) = (tmp_path / "maps").glob("part-*")
    if format == "npz":
        shapes = [np.load(part)[f"map/{i}"].shape for i in range(2)]
    else:
        table = import_module("pyarrow.parquet").read_table(part).to_pylist()
        shapes = [tuple(row["shape"]) for row in table]
        assert [len(row["map"]) for row in table] == [96, 80]
    assert shapes == [(8, 12), (10, 8)]
    with pytest.raises(onnxplain.OptionError, match="maps of one size"):
        pytest.importorskip("zarr")
        here(file, tmp_path / "some", tmp_path / "other", format="zarr")


def test_a_shard_of_bad_pictures(explanation: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    (tmp_path / "list.txt").write_text("a.png\nb.png\n")
    report = here(explanation, tmp_path / "list.txt", tmp_path / "maps")
    assert report.explained == 0 and [one.path for one in report.bad] == ["a.png", "b.png"]
    assert parquet.read_table(tmp_path / "maps" / "part-00000.parquet").num_rows == 0


def test_an_explanation_that_is_not_finite(logarithm: Path, tmp_path: Path) -> None:
    """log(0) in the model: the picture is bad, not the run."""
    (tmp_path / "some").mkdir()
    for name, grey in (("black", 0), ("grey", 128)):
        Image.new("L", (28, 28), grey).save(tmp_path / "some" / f"{name}.png")
    report = here(logarithm, tmp_path / "some", tmp_path / "maps", format="npz")
    assert [(one.path, "NaN or infinity" in one.reason) for one in report.bad] == [("black.png", True)]


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"format": "parkett"}, onnxplain.OptionError, "did you mean 'parquet'"),
        ({"bad": "ignore"}, onnxplain.OptionError, "choose from skip, stop"),
        ({"map": "saliency"}, onnxplain.OptionError, "choose from heatmap, attribution"),
        ({"shard": 0}, onnxplain.OptionError, "at least 1 picture"),
        ({"target": 10}, onnxplain.TargetError, "0 to 9"),
        ({"dask": "tcp://127.0.0.1:1"}, onnxplain.OptionError, "give one of"),
    ],
)
def test_refused(
    options: dict[str, Any],
    error: type[Exception],
    said: str,
    explanation: Path,
    photos: Path,
    tmp_path: Path,
) -> None:
    with pytest.raises(error, match=said):
        here(explanation, photos, tmp_path / "maps", **{"format": "npz", **options})
    assert not (tmp_path / "maps").exists()


@pytest.mark.parametrize(
    ("target", "options", "error"),
    [
        ("cotangent", {}, onnxplain.TargetError),
        ([1, 2], {}, onnxplain.TargetError),
        ("top", {"target": 3}, onnxplain.TargetError),
        ("top", {"map": "heatmap"}, onnxplain.OptionError),
    ],
)
def test_files_that_do_not_fit(
    target: Any, options: dict[str, Any], error: type[Exception], photos: Path, tmp_path: Path
) -> None:
    file = onnxplain.compile(LENET, "saliency", target=target).save(tmp_path / "x.onnx")
    with pytest.raises(error):
        here(file, photos, tmp_path / "maps", format="npz", **options)
    assert not (tmp_path / "maps").exists()


def test_another_file_under_the_same_name(explanation: Path, photos: Path, tmp_path: Path) -> None:
    """What changes while the run lasts is noticed by the next worker."""
    file = tmp_path / "x.onnx"
    shutil.copy(explanation, file)

    def change(done: int, total: int) -> None:
        onnxplain.compile(LENET, "input-x-gradient", reduce="sum").save(file)

    with pytest.raises(onnxplain.StaleError, match="not the file this run was started with"):
        here(file, photos, tmp_path / "maps", format="npz", progress=change)


def test_a_folder_with_something_else(explanation: Path, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(onnxplain.OptionError, match="holds something else"):
        here(explanation, photos, tmp_path / "mine", format="npz", resume=True)
    (tmp_path / "mine" / "manifest.json").write_text("{}")
    with pytest.raises(onnxplain.OptionError, match="cannot be read"):
        here(explanation, photos, tmp_path / "mine", format="npz", resume=True)


def test_records_come_back() -> None:
    record = Record(1, 10, 20, 9, (Bad(12, "x.png", "no picture"),), {"a": "b"})
    assert Record.from_record(json.loads(json.dumps(record.to_record()))) == record


@pytest.mark.parametrize(
    ("module", "format", "extra"), [("pyarrow", "parquet", "batch"), ("zarr", "zarr", "zarr")]
)
def test_a_missing_package_is_named(
    module: str, format: str, extra: str, explanation: Path, photos: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    def without(name: str) -> ModuleType:
        if name.partition(".")[0] == module:
            raise ImportError(f"No module named {module!r}")
        return import_module(name)

    monkeypatch.setattr(rows, "import_module", without)
    with pytest.raises(onnxplain.OptionError, match=rf"pip install 'onnxplain\[{extra}\]'"):
        here(explanation, photos, tmp_path / "maps", format=format)
    assert not (tmp_path / "maps").exists()


def test_the_command(cli: Cli, explanation: Path, photos: Path) -> None:
    words = ("batch", explanation, photos, "-o", "maps", "--format", "npz", "--workers", 1, "--shard", 25)
    ran = cli.works(*words)
    assert ran.out == f"maps: {COUNT} of {COUNT} pictures explained in 3 shards\n"
    assert "go on with resume (--resume)" in cli.refuses(*words)
    assert cli.works(*words, "--resume").out.endswith("3 shards, 3 of them kept\n")
    assert "--target 'cat'" in cli.refuses(*words[:4], "other", "--target", "cat")
    Path("list.txt").write_text("none.png")
    ran = cli("batch", explanation, "list.txt", "-o", "other", "--format", "npz", "--workers", 1)
    assert (ran.code, ran.err) == (0, "onnxplain: 1 bad pictures, see other/bad.csv\n")


def test_export_command(cli: Cli, explanation: Path) -> None:
    assert cli.works("export", "triton", explanation, "-o", "repo", "--name", "digits").out == "repo/digits\n"
    assert "already" in cli.refuses("export", "triton", explanation, "-o", "repo", "--name", "digits")


def test_nothing_heavy_is_imported_before_it_is_needed() -> None:
    code = "import sys, onnxplain, onnxplain.runtime.batch, onnxplain.runtime.cli; "
    code += "print([m for m in ('pyarrow', 'zarr', 'dask', 'distributed') if m in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert ran.stdout.strip() == "[]"
