"""Several pictures in one run: the maps of single runs to rounding, the same bytes whoever works on them, and a bad
picture that spoils nobody else's; and the execution provider of the workers."""

from __future__ import annotations

import csv
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper
from PIL import Image

import onnxplain
from onnxplain import models
from onnxplain.runtime import lanes
from onnxplain.runtime.batch import Report, run
from onnxplain.runtime.batch.job import Asked, Job, plan
from onnxplain.runtime.batch.shard import explain_files
from onnxplain.runtime.explainer import Result
from onnxplain.runtime.providers import compiled_in, short_name
from tests.runtime.batch.conftest import COUNT, contents
from tests.runtime.cli.conftest import Cli, cli

__all__ = ["cli"]
LENET = models.path("mnist_lenet")
ABSENT = next(name for name in ("tensorrt-rtx", "directml", "qnn") if name not in compiled_in())
TOLERANCE = 1e-4
"""Relative L2 of a map: the kernels may add the rows of a run in another order. A picture whose forward pass lies
within rounding of a kink may be farther off; of these none does."""


def here(*words: Any, **options: Any) -> Report:
    """A run in this process, one shard after the other; 4 pictures in a run, so 4, 4, 2 in a shard."""
    with ThreadPoolExecutor(1) as executor:
        return run(*words, executor=executor, **{"shard": 10, "rows": 4, "format": "npz", **options})


def rows_of(folder: Path) -> dict[int, tuple[int, float, Any]]:
    """Number of the picture -> top class, score, map."""
    found = {}
    for part in sorted(folder.glob("part-*.npz")):
        stored = np.load(part)
        columns = (stored[key] for key in ("id", "top", "score", "map"))
        found.update(
            {int(i): (int(top), float(score), heat) for i, top, score, heat in zip(*columns, strict=True)}
        )
    return found


def assert_near(mine: Path, theirs: Path, count: int) -> None:
    some, others = rows_of(mine), rows_of(theirs)
    assert some.keys() == others.keys() and len(some) == count
    for i, (top, score, heat) in some.items():
        assert top == others[i][0] and score == pytest.approx(others[i][1], rel=TOLERANCE)
        assert np.linalg.norm(heat - others[i][2]) <= TOLERANCE * np.linalg.norm(others[i][2])
        assert heat.any()


def job_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "manifest.json").read_text())["job"])


@pytest.fixture(scope="module")
def together(explanation: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("together") / "maps"
    here(explanation, photos, out)
    return out


def test_the_maps_of_single_runs(explanation: Path, photos: Path, together: Path, tmp_path: Path) -> None:
    here(explanation, photos, tmp_path / "maps", rows=1)
    assert_near(together, tmp_path / "maps", COUNT)
    assert (job_of(together)["rows"], job_of(tmp_path / "maps")["rows"]) == (4, 1)


def test_the_noise_is_that_of_single_runs(photos: Path, tmp_path: Path) -> None:
    """Drawn once a run, the same for every picture of it."""
    file = onnxplain.compile(LENET, "smoothgrad", samples=3, reduce="maxabs").save(tmp_path / "x.onnx")
    paths = sorted(photos.rglob("*.png"))[:8]
    for rows in (1, 3):
        here(file, paths, tmp_path / f"{rows}", rows=rows)
    assert_near(tmp_path / "3", tmp_path / "1", 8)


@pytest.mark.parametrize("workers", [1, 2])
def test_the_same_bytes_on_any_number_of_workers(
    workers: int, explanation: Path, photos: Path, together: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"shard": 10, "rows": 4, "format": "npz", "workers": workers}
    run(explanation, photos, tmp_path / "maps", **options)
    assert contents(tmp_path / "maps") == contents(together)


def test_free_memory_cuts_no_run(
    explanation: Path, photos: Path, together: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chunks, whole = list[int](), lanes.run_chunks

    def watched(run: lanes.Run, feeds: lanes.Arrays, split: lanes.Split, plan: lanes.Plan, *more: Any) -> Any:
        chunks.append(plan.chunk)
        return whole(run, feeds, split, plan, *more)

    monkeypatch.setattr("onnxplain.runtime.explainer.run_chunks", watched)
    monkeypatch.setattr(lanes, "available_memory", lambda: 1)
    here(explanation, photos, tmp_path / "maps")
    assert chunks == [4, 4, 2] * (COUNT // 10)
    assert contents(tmp_path / "maps") == contents(together)


def test_a_run_is_resumed_with_its_rows_and_provider(explanation: Path, photos: Path, tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    out = tmp_path / "maps"
    with pytest.raises(KeyboardInterrupt):
        here(explanation, photos, out, progress=stop)
    with pytest.raises(onnxplain.StaleError, match="begun with another rows"):
        here(explanation, photos, out, rows=5, resume=True)
    manifest = json.loads((out / "manifest.json").read_text())
    manifest["job"]["provider"] = ["cuda"]
    (out / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(onnxplain.StaleError, match="begun with another provider"):
        here(explanation, photos, out, resume=True)


def test_a_file_that_cannot_be_read_leaves_its_run(explanation: Path, photos: Path, tmp_path: Path) -> None:
    paths = sorted(photos.rglob("*.png"))[:9]
    (tmp_path / "text.png").write_text("no picture")
    # second of the first run; the whole of the last but one, which is then no run at all
    listed = [paths[0], tmp_path / "text.png", *paths[1:3], *[tmp_path / "none.png"] * 4, *paths[3:]]
    (tmp_path / "list.txt").write_text("\n".join(map(str, listed)))
    for rows in (1, 4):
        report = here(explanation, tmp_path / "list.txt", tmp_path / f"{rows}", rows=rows)
        assert [one.id for one in report.bad] == [1, 4, 5, 6, 7]
    assert (tmp_path / "1" / "bad.csv").read_bytes() == (tmp_path / "4" / "bad.csv").read_bytes()
    assert_near(tmp_path / "4", tmp_path / "1", 9)
    with pytest.raises(onnxplain.ImageError, match=r"picture 1 is bad.*text"):
        here(explanation, tmp_path / "list.txt", tmp_path / "stop", bad="stop")


def test_a_picture_that_is_not_finite_is_bad_by_itself(logarithm: Path, tmp_path: Path) -> None:
    (tmp_path / "some").mkdir()
    for name, grey in (("a", 50), ("b", 0), ("c", 100), ("d", 150)):
        Image.new("L", (28, 28), grey).save(tmp_path / "some" / f"{name}.png")
    report = here(logarithm, tmp_path / "some", tmp_path / "maps")
    with open(tmp_path / "maps" / "bad.csv", newline="", encoding="utf-8") as file:
        ((bad),) = csv.DictReader(file)
    assert report.explained == 3 and (bad["id"], bad["path"]) == ("1", "b.png")
    assert bad["reason"] == "'b.png': its explanation holds NaN or infinity"
    for i, grey in ((0, 50), (2, 100), (3, 150)):
        _, _, heat = rows_of(tmp_path / "maps")[i]
        np.testing.assert_allclose(heat, np.full((1, 28, 28), 255 / grey), rtol=1e-6)


@pytest.fixture
def job(explanation: Path, photos: Path, tmp_path: Path) -> Job:
    return plan(Asked(explanation, photos, tmp_path / "none", format="npz", rows=3))[0]


def test_a_run_that_fails_is_run_one_by_one(explanation: Path, photos: Path, job: Job) -> None:
    saliency, sizes = onnxplain.load(explanation, threads=1), list[int]()
    files = [str(path) for path in sorted(photos.rglob("*.png"))[:7]]
    spoilt = np.asarray(Image.open(files[4]), np.float32) / np.float32(255)

    def choosy(x: Any, target: int) -> Result:
        sizes.append(len(x))
        if any(np.array_equal(one[0], spoilt) for one in x):
            raise onnxplain.ImageError("not this one")
        return saliency(x, target)

    found = list(explain_files(job, choosy, files))
    assert [i for i, one in enumerate(found) if isinstance(one, onnxplain.ImageError)] == [4]
    assert sizes == [3, 3, 1, 1, 1, 1]


def test_an_output_without_a_row_a_picture_is_refused(explanation: Path, photos: Path, job: Job) -> None:
    """One number for the whole run can be nobody's score."""
    saliency = onnxplain.load(explanation, threads=1)
    files = [str(path) for path in sorted(photos.rglob("*.png"))[:2]]

    def summed(x: Any, target: int) -> Result:
        found = saliency(x, target)
        return Result({"logits": found.outputs["logits"].sum(0)}, found.attributions, found.heatmaps)

    with pytest.raises(onnxplain.ModelError, match=r"'logits' has shape \[10\].*take rows=1"):
        list(explain_files(job, summed, files))


@pytest.mark.parametrize("rows", [0, -1])
def test_fewer_rows_than_one(rows: int, explanation: Path, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(onnxplain.OptionError, match="at least 1 picture"):
        here(explanation, photos, tmp_path / "maps", rows=rows)
    assert not (tmp_path / "maps").exists()


def test_pictures_of_their_own_size_are_run_alone(photos: Path, tmp_path: Path) -> None:
    file = onnxplain.compile(models.path("esrgan_slim_x4"), "saliency").save(tmp_path / "sr.onnx")
    with pytest.raises(onnxplain.OptionError, match=r"rows=4 takes pictures of one size.*take rows=1"):
        here(file, photos, tmp_path / "maps")
    assert not (tmp_path / "maps").exists()


def test_a_fixed_batch_is_run_alone(photos: Path, tmp_path: Path) -> None:
    graph = helper.make_graph(
        [
            helper.make_node("Mul", ["x", "x"], ["squares"]),
            helper.make_node("ReduceSum", ["squares", "axes"], ["y"], keepdims=0),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 1, 28, 28])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 1])],
        [helper.make_tensor("axes", TensorProto.INT64, [2], [2, 3])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    file = onnxplain.compile(model, "saliency").save(tmp_path / "x.onnx")
    with pytest.raises(
        onnxplain.OptionError, match=r"rows=4: the first axis of the input 'x' is fixed at 2,.*take rows=1"
    ):
        here(file, photos, tmp_path / "maps")
    assert not (tmp_path / "maps").exists()


@pytest.mark.parametrize(
    ("providers", "error", "said"),
    [
        ("kuda", onnxplain.OptionError, "did you mean 'cuda'"),
        ([], onnxplain.OptionError, r"providers is \[\]; give the name"),
        (["auto", "cpu"], onnxplain.OptionError, '"auto" chooses the provider itself'),
        (["cpu", "CPUExecutionProvider"], onnxplain.OptionError, "'cpu' is listed twice"),
        (ABSENT, onnxplain.ProviderError, f"without {ABSENT}"),
        ([(ABSENT, {"device_id": 0}), "cpu"], onnxplain.ProviderError, f"without {ABSENT}"),
    ],
)
def test_a_provider_that_is_not_there(
    providers: Any, error: type[Exception], said: str, explanation: Path, photos: Path, tmp_path: Path
) -> None:
    with pytest.raises(error, match=said):
        here(explanation, photos, tmp_path / "maps", providers=providers)
    assert not (tmp_path / "maps").exists()


def test_a_provider_that_a_process_cannot_take(explanation: Path, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(onnxplain.ProviderError, match=f"without {ABSENT}"):
        run(explanation, photos, tmp_path / "maps", workers=1, format="npz", providers=ABSENT)
    assert not (tmp_path / "maps").exists()


def test_auto_is_looked_up_once_and_said(explanation: Path, photos: Path, tmp_path: Path) -> None:
    session = onnxplain.load(explanation, providers="auto").session
    here(explanation, photos, tmp_path / "maps", providers="auto", shard=COUNT)
    assert job_of(tmp_path / "maps")["provider"] == [short_name(session.get_providers()[0])]


@pytest.mark.parametrize(
    "providers", ["cpu", [("CPUExecutionProvider", {"arena_extend_strategy": "kSameAsRequested"})]]
)
def test_the_provider_stands_in_the_manifest(
    providers: Any, explanation: Path, photos: Path, together: Path, tmp_path: Path
) -> None:
    here(explanation, photos, tmp_path / "maps", providers=providers)
    mine, default = contents(tmp_path / "maps"), contents(together)
    said = job_of(tmp_path / "maps")["provider"]
    assert job_of(together)["provider"] == ["cpu"]
    if providers != "cpu":
        assert said == [["cpu", {"arena_extend_strategy": "kSameAsRequested"}]]
        assert mine.pop("manifest.json") != default.pop("manifest.json")
    assert mine == default


def test_the_command_passes_both_on(cli: Cli, explanation: Path, photos: Path) -> None:
    words = ("batch", explanation, photos, "--format", "npz", "--workers", 1, "--shard", 25)
    cli.works(*words, "-o", "maps", "--provider", "cpu", "--rows", 8)
    job = job_of(Path("maps"))
    assert (job["provider"], job["rows"]) == (["cpu"], 8)
    assert f"without {ABSENT}" in cli.refuses(*words, "-o", "other", "--provider", ABSENT)
    assert "--rows" in cli.refuses(*words, "-o", "other", "--rows", 0)


def test_maps_that_are_zero_everywhere_are_counted(cli: Cli, tmp_path: Path) -> None:
    """Input times gradient of a black picture. They have rows, and the record names them, resumed or not."""
    made = onnxplain.compile(models.path("mnist_lenet"), "input-x-gradient")
    file = made.save(tmp_path / "lenet.ixg.onnx")
    (tmp_path / "some").mkdir()
    for name, grey in (("a", 50), ("b", 0), ("c", 100), ("d", 0)):
        Image.new("L", (28, 28), grey).save(tmp_path / "some" / f"{name}.png")
    for resume in (False, True):
        report = here(file, tmp_path / "some", tmp_path / "maps", shard=3, resume=resume)
        assert (report.zero, report.explained, report.bad) == ((1, 3), 4, ())
    manifest = json.loads((tmp_path / "maps" / "manifest.json").read_text())
    assert manifest["counts"]["zero"] == 2
    assert [record["zero"] for record in manifest["shards"]] == [[1], [3]]
    ran = cli("batch", file, tmp_path / "some", "-o", "out", "--workers", 1)
    assert ran.code == 0 and ran.err.startswith("onnxplain: the map of 2 pictures is zero everywhere")
