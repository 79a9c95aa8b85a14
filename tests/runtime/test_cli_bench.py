"""`onnxplain bench`: the table, the files, and one line for whatever is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

import onnxplain
from onnxplain import models
from onnxplain.runtime.bench import machine, plot
from tests.runtime.cli.conftest import Cli, cli
from tests.runtime.small import picture

LENET = models.path("mnist_lenet")

__all__ = ["cli"]  # the fixture


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A probe that takes no time."""
    monkeypatch.setattr(machine, "PRODUCTS", machine.QUICK_PRODUCTS)
    monkeypatch.setattr(machine, "SUMS", machine.QUICK_SUMS)
    monkeypatch.setattr(machine, "PATIENCE", 0.0)


def test_the_table_and_the_files(cli: Cli) -> None:
    ran = cli.works(
        "bench",
        LENET,
        "--methods",
        "saliency,grad-cam,pattern-net",
        "--repeats",
        1,
        "--threads",
        1,
        "--batch",
        2,
        "-o",
        "a.md",
        "-o",
        "a.json",
    )
    for text in ("what explanations of mnist_lenet.onnx cost", "saliency", "grad-cam", "× floor", "GFLOP/s"):
        assert text in ran.out
    assert "left out: pattern-net: estimator='plus' needs patterns=" in ran.out
    assert ran.out.splitlines()[-2:] == ["a.md", "a.json"] and ran.made == {"a.md", "a.json"}
    known = json.loads(Path("a.json").read_text(encoding="utf-8"))
    assert known["shapes"] == {"image": [2, 1, 28, 28]} and known["machine"]["threads"] == 1
    page = Path("a.md").read_text(encoding="utf-8")
    assert page.startswith("# What explanations of mnist_lenet.onnx cost") and "| `grad-cam` |" in page


def test_photos_options_and_a_picture(cli: Cli) -> None:
    pytest.importorskip("matplotlib")
    words = ["-m", "smoothgrad", "--set", "samples=2", "--repeats", 1, "--provider", "auto", "-o", "bars.png"]
    photos = ["--image", models.photo("panda"), "--image", models.photo("rocket")]
    ran = cli.works("bench", LENET, *words, *photos)
    assert "image [2, 1, 28, 28] (panda.jpg, rocket.jpg)" in ran.out and ran.made == {"bars.png"}
    assert Path("bars.png").read_bytes().startswith(b"\x89PNG")


def test_a_model_that_is_no_picture(cli: Cli) -> None:
    onnx.save(picture(), "m.onnx")
    ran = cli.works("bench", "m.onnx", "-m", "lrp.epsilon", "--repeats", 1, "--seed", 4)
    assert "x [1, 2, 3, 4] (random numbers, seed 4)" in ran.out


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["-m", "salency"], "no method 'salency' (did you mean 'saliency'?)"),
        (["-m", ","], "give at least one method"),
        (["-o", "table.txt"], "it must end in .md, .json, .png, .svg, .pdf"),
        (["-o", "nowhere/table.md"], "choose a file in an existing, writable folder"),
        (["--repeats", "0"], "--repeats"),
        (["--batch", "0"], "--batch"),
        (["--threads", "0"], "--threads"),
        (["-m", "saliency", "--set", "steps=3"], "no method here has an option 'steps'"),
        (["-m", "saliency", "--set", "steps"], "write it as key=value"),
        (["-m", "saliency", "--image", "nowhere.jpg"], "nowhere.jpg"),
        (["-m", "saliency", "--provider", "cupid"], "unknown execution provider 'cupid'"),
        (["-m", "saliency", "--shape", "picture=1,1,28,28"], "the model has no input 'picture'"),
        (["-m", "saliency", "--head", "nothing"], "nothing"),
        (["-m", "saliency", "--preprocess", "nothing"], "nothing"),
    ],
)
def test_wrong_words(cli: Cli, words: list[str], text: str) -> None:
    assert text in cli.refuses("bench", LENET, *words)


def test_no_model(cli: Cli) -> None:
    assert "no model file at 'nowhere.onnx'" in cli.refuses("bench", "nowhere.onnx")


def test_an_emitted_file(cli: Cli) -> None:
    onnxplain.compile(picture(), "saliency").save("e.onnx")
    assert "an explanation already" in cli.refuses("bench", "e.onnx")


def test_a_picture_without_matplotlib(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said before anything is measured."""
    monkeypatch.setattr(plot, "find_spec", lambda name: None)
    assert "pip install matplotlib" in cli.refuses("bench", LENET, "-o", "bars.png")


@pytest.mark.parametrize(("width", "there", "gone"), [(200, "session", ""), (80, "× floor", "bytes ×")])
def test_a_narrow_terminal(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, width: int, there: str, gone: str
) -> None:
    """Whole columns are left out, and said; no cell is cut."""
    monkeypatch.setenv("COLUMNS", str(width))
    onnx.save(picture(), "m.onnx")
    lines = cli.works(
        "bench", "m.onnx", "-m", "lrp.epsilon-alpha2-beta1-flat", "--repeats", 1
    ).out.splitlines()
    head = next(line for line in lines if line.startswith("┃"))
    assert there in head and len(head) <= width and not any("…" in line for line in lines)
    assert (gone in head) == (not gone)
    said = [line for line in lines if line.startswith("the terminal is too narrow for: ")]
    assert bool(said) == bool(gone) and all(gone in line for line in said)
