"""`onnxplain scope`: pictures with their numbers, and one line for whatever a user can mend."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import typer
from PIL import Image

import onnxplain
from onnxplain import models
from onnxplain.models.superresolution import pixel_shuffle
from onnxplain.runtime.cli.bench import bench_command
from onnxplain.runtime.cli.build import compile_command
from onnxplain.runtime.cli.fit import patterns_command
from onnxplain.runtime.cli.inspect import check_command
from onnxplain.runtime.cli.main import app
from onnxplain.runtime.cli.picture import explain_command
from onnxplain.runtime.cli.scope_options import Shared
from onnxplain.runtime.compiling import description
from onnxplain.runtime.images import prepare, read_image
from onnxplain.runtime.perturb.maximise import maximise
from onnxplain.runtime.perturb.two_generators import explain_by_generators
from onnxplain.runtime.scope.photo import open_photo
from tests.runtime.cli.conftest import Cli

LENET, LITE = models.path("mnist_lenet"), models.path("efficientnet_lite0")
CAT = models.photo("cat_chelsea")
COMMANDS = ("rows", "columns", "svd", "contributions", "votes")
GROUP = typer.main.get_command(app).commands["scope"]  # type: ignore[attr-defined]


@pytest.fixture
def digit(cli: Cli) -> Path:
    path = cli.folder / "digit.png"
    Image.fromarray(models.digits()[0][0]).save(path)
    return path


@pytest.fixture
def upscaler(cli: Cli) -> Path:
    path = cli.folder / "up.onnx"
    onnx.save(pixel_shuffle(scale=2, width=8, size=None), path)
    return path


def x0_of(image: Path) -> Any:
    about = description(LENET, onnx.load(LENET))
    assert about is not None
    return prepare(read_image(image), about.preprocessing)[0]


def numbers(cli: Cli, stem: str) -> tuple[dict[str, Any], dict[str, Any]]:
    with np.load(cli.folder / f"{stem}.npz", allow_pickle=False) as data:
        arrays = {key: data[key] for key in data.files}
    return arrays, json.loads((cli.folder / f"{stem}.json").read_text())


UNIT = ("--preprocess", "unit", "--threads", "1")


def test_rows(cli: Cli, upscaler: Path) -> None:
    words = ("--crop", "110,70,64,64", "--size", "16x12", "--at", "10,12", "--at", "2,0,0", "-o", "r.png")
    ran = cli.works("scope", "rows", upscaler, CAT, *words, *UNIT)
    assert ran.made == {"r.png", "r.npz", "r.json"} and ran.out == "r.png: 2 rows of F, 2304 x 576\n"
    arrays, record = numbers(cli, "r")
    assert arrays["rows"].shape == (2, 3, 12, 16) and arrays["value"].shape == (3, 24, 32)
    assert record["at"] == ["output pixel (10, 12), all channels", "output entry (2, 0, 0)"]
    assert (
        record["crop"] == "110,70,64,64" and record["explained"] == "logits" and len(record["sha256"]) == 64
    )
    with Image.open(cli.folder / "r.png") as picture:
        assert picture.width > 1000 and picture.height > 500
    x0 = np.asarray(Image.open(CAT).convert("RGB").crop((110, 70, 174, 134)).resize((16, 12), 1))
    a = onnxplain.Interpreter(upscaler, x0.transpose(2, 0, 1)[None] / np.float32(255))
    channels = a.rows([(c, 10, 12) for c in range(3)])
    np.testing.assert_allclose(arrays["rows"][0], channels.sum(axis=0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(arrays["rows"][1], a.rows((2, 0, 0))[0], rtol=1e-4, atol=1e-6)


def test_columns(cli: Cli, upscaler: Path) -> None:
    cli.works("scope", "columns", upscaler, CAT, "--size", "16x12", "-o", "c.png", *UNIT)
    arrays, record = numbers(cli, "c")
    assert arrays["columns"].shape == (1, 3, 24, 32) and record["at"] == ["input pixel (6, 8), all channels"]
    reached = np.abs(arrays["columns"][0]).max(axis=0)
    assert reached[12:14, 16:18].all() and not reached[:, 30].any(), "the filter is where the pixel is"


def test_svd(cli: Cli, upscaler: Path) -> None:
    ran = cli.works("scope", "svd", upscaler, CAT, "--size", "8x8", "-k", 2, "-o", "s.png", *UNIT)
    arrays, record = numbers(cli, "s")
    assert arrays["inputs"].shape == (2, 3, 8, 8) and arrays["outputs"].shape == (2, 3, 16, 16)
    assert record["converged"] == [True, True] and record["warnings"] == []
    np.testing.assert_allclose(record["values"], arrays["values"])
    assert "sigma 1" in ran.out and "not converged" not in ran.out


def test_a_momentum_that_is_too_large_is_said(cli: Cli, upscaler: Path) -> None:
    words = ("--size", "8x8", "-k", 1, "--momentum", "1e6", "--steps", 8, "-o", "s.png", *UNIT)
    ran = cli("scope", "svd", upscaler, CAT, *words)
    assert (
        ran.code == 0
        and "not converged" in ran.out
        and "note: triplet 0: momentum 1e+06 is not below" in ran.out
    )
    _, record = numbers(cli, "s")
    assert record["converged"] == [False] and len(record["warnings"]) == 1


def test_contributions(cli: Cli, digit: Path) -> None:
    ran = cli.works("scope", "contributions", LENET, digit, "-o", "c.png", "--threads", 1)
    arrays, record = numbers(cli, "c")
    assert next(iter(record["terms"])) == "input" and record["error"] < 1e-5
    assert sum(record["terms"].values()) == pytest.approx(record["score"], rel=1e-4)
    assert record["input"] + record["residual"] == pytest.approx(record["score"], rel=1e-4)
    assert arrays["names"].tolist() == list(record["terms"])
    assert f"score {record['score']:.4g}" in ran.out
    by_index = cli.works("scope", "contributions", LENET, digit, "-o", "d.png", "--target", record["target"])
    assert by_index.out.replace("d.png", "c.png") == ran.out


def test_rows_and_singular_values_of_a_classifier(cli: Cli, digit: Path) -> None:
    """Eigen-outputs that are no pictures are drawn as bars."""
    cli.works("scope", "rows", LENET, digit, "-o", "r.png", "--threads", 1)
    arrays, _ = numbers(cli, "r")
    a = onnxplain.Interpreter(LENET, x0_of(digit))
    np.testing.assert_allclose(arrays["rows"], a.rows(int(a.value.argmax())), rtol=1e-4, atol=1e-6)
    cli.works("scope", "svd", LENET, digit, "-k", 7, "-o", "s.png", "--threads", 1)
    arrays, _ = numbers(cli, "s")
    np.testing.assert_allclose(arrays["values"], np.linalg.svd(a.dense())[1][:7], rtol=1e-4)
    with Image.open(cli.folder / "s.png") as picture:
        assert picture.height > 1200, "eight columns do not fit one row"


def test_votes(cli: Cli, digit: Path) -> None:
    ran = cli.works("scope", "votes", LENET, digit, "--classes", "all", "-o", "v.png", "--threads", 1)
    arrays, record = numbers(cli, "v")
    assert arrays["votes"].shape == (28, 28) and arrays["counts"].sum() == 784
    assert record["classes"] == list(range(10)) and record["variant"] == "classwise"
    a = onnxplain.Interpreter(LENET, x0_of(digit))
    np.testing.assert_array_equal(arrays["votes"], a.votes(variant="classwise").votes)
    assert "votes of 784 pixels over 10 classes" in ran.out
    cli.works("scope", "votes", LENET, digit, "--classes", "top3", "-o", "t.png", "--threads", 1)
    assert set(numbers(cli, "t")[0]["classes"]) == set(np.argsort(-a.value)[:3])


@pytest.mark.parametrize(
    "words, text",
    [
        (("rows", "{up}", "{cat}", "--crop", "0,0,9999,5"), "does not lie in the photo"),
        (("rows", "{up}", "{cat}", "--crop", "0,0,5"), "write it as X,Y,W,H"),
        (("rows", "{up}", "{cat}", "--crop", "0,0,0,5"), "at least 1"),
        (("rows", "{up}", "{cat}", "--size", "16"), "write it as WIDTHxHEIGHT"),
        (("rows", "{up}", "{cat}", "--size", "16x0"), "--size '16x0'"),
        (("rows", "{up}", "{cat}", "--size", "8x8", "--at", "16,0"), "16 is out of range on axis 0"),
        (("columns", "{up}", "{cat}", "--size", "8x8", "--at", "middle"), "write it as Y,X"),
        (("rows", "{lenet}", "{digit}", "--at", "ten"), "no class is called 'ten'"),
        (("svd", "{up}", "{cat}", "--size", "8x8", "-k", "999"), "k is 999"),
        (("svd", "{up}", "{cat}", "--size", "8x8", "--momentum", "best"), "--momentum 'best'"),
        (("svd", "{up}", "{cat}", "--size", "8x8", "--method", "qr"), "method 'qr'"),
        (("contributions", "{lenet}", "{digit}", "--target", "10"), "out of range: 0 to 9"),
        (("contributions", "{lenet}", "{digit}", "--norm", "mean"), "norm='mean'"),
        (("votes", "{lenet}", "{digit}", "--classes", "some"), "--classes 'some'"),
        (("votes", "{lenet}", "{digit}", "--classes", "3,10"), "output index 10 is out of range"),
        (("votes", "{lenet}", "{digit}", "--variant", "old"), "variant='old'"),
        (("rows", "{lenet}", "{digit}", "-o", "out.txt"), "no picture format"),
        (("rows", "{lenet}", "{digit}", "-o", "nowhere/out.png"), "existing, writable folder"),
        (("rows", "{lenet}", "{digit}", "-o", "{digit}"), "would overwrite"),
        (("rows", "{lenet}", "missing.png"), "missing.png"),
        (("rows", "missing.onnx", "{digit}"), "missing.onnx"),
    ],
)
def test_one_line_and_no_file(
    cli: Cli, upscaler: Path, digit: Path, words: tuple[str, ...], text: str
) -> None:
    known = {"up": upscaler, "cat": CAT, "lenet": LENET, "digit": digit}
    assert text in cli.refuses("scope", *(word.format(**known) for word in words), "--preprocess", "unit")


def test_numbers_do_not_overwrite_the_model(cli: Cli, digit: Path) -> None:
    model = cli.folder / "m.json"
    model.write_bytes(LENET.read_bytes())
    assert "would overwrite" in cli.refuses(
        "scope", "rows", model, digit, "-o", "m.png", "--preprocess", "unit"
    )


def test_a_guess_is_said(cli: Cli, upscaler: Path) -> None:
    ran = cli("scope", "columns", upscaler, CAT, "--size", "8x8", "-o", "c.png")
    assert ran.code == 0 and "nothing says how this model wants its photos" in ran.err


@pytest.mark.parametrize("name", COMMANDS)
def test_every_parameter_is_explained(cli: Cli, name: str) -> None:
    out = cli.works("scope", name, "--help").out
    assert sorted(GROUP.commands) == sorted(COMMANDS)
    for parameter in GROUP.commands[name].params:
        assert parameter.name == "help" or (parameter.help and len(parameter.help) > 5), parameter.name
        assert all(flag in out for flag in parameter.opts if flag.startswith("-"))


@pytest.mark.slow
def test_a_real_classifier(cli: Cli) -> None:
    cli.works("scope", "contributions", LITE, CAT, "-o", "c.png", "--threads", 2)
    _, record = numbers(cli, "c")
    assert record["target"] == 282 and record["error"] < 1e-5 and len(record["terms"]) > 50
    cli.works("scope", "votes", LITE, CAT, "-o", "v.png", "--classes", "top2", "--threads", 2)
    assert numbers(cli, "v")[0]["votes"].shape == (224, 224)


def test_the_head_is_the_logits_wherever_nobody_says() -> None:
    """In Python and on the command line, so that both explain the same tensor."""
    entries: list[Callable[..., Any]] = [
        *(onnxplain.compile, onnxplain.Interpreter.__init__, open_photo, explain_by_generators, maximise),
        *(explain_command, compile_command, check_command, bench_command, patterns_command),
    ]
    found = {entry.__qualname__: inspect.signature(entry).parameters["head"].default for entry in entries}
    found["scope"] = Shared.__dataclass_fields__["head"].default
    assert set(found.values()) == {"logits"}, found
