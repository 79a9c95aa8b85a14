"""`onnxplain verify`: the table, the certificate, exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxplain
from onnxplain import models
from onnxplain.rewriter.card import read_card
from tests.runtime.cli.conftest import Cli
from tests.runtime.tampering import compiled, net, times

LENET = models.path("mnist_lenet")


@pytest.fixture
def file(cli: Cli) -> Path:
    return onnxplain.compile(net("cnn_bias"), "saliency").save(cli.folder / "a.onnx")


def test_the_table_and_the_certificate(cli: Cli, file: Path) -> None:
    ran = cli.works("verify", file, "--model", net("cnn_bias"))
    for text in (
        "a.onnx: saliency",
        "forward unchanged, to the bit",
        "against the original",
        "not applicable",
    ):
        assert text in ran.out
    assert ran.out.splitlines()[-1].endswith(f"certificate stored in {file}")
    card = read_card(onnx.load(file))
    assert card.certificate is not None and card.certificate["passed"] and card.certificate["model"]
    assert "saliency" in cli.works("show", file).out
    assert json.loads(cli.works("show", file, "--json").out)["certificate"] == dict(card.certificate)


def test_twice_gives_the_same_bytes(cli: Cli, file: Path) -> None:
    cli.works("verify", file)
    first = file.read_bytes()
    cli.works("verify", file)
    assert file.read_bytes() == first


def test_no_write_leaves_the_file(cli: Cli, file: Path) -> None:
    before = file.read_bytes()
    assert "certificate" not in cli.works("verify", file, "--no-write").out
    assert file.read_bytes() == before


def test_json(cli: Cli, file: Path) -> None:
    record = json.loads(cli.works("verify", file, "--json", "--no-write", "--seed", 3).out)
    assert record["passed"] and record["seed"] == 3 and len(record["inputs"]) == 6


def test_photos_and_arrays(cli: Cli) -> None:
    file = onnxplain.compile(LENET, "lrp.epsilon-plus").save("a.onnx")
    np.save("x.npy", np.random.default_rng(0).uniform(size=(1, 28, 28)))
    cli.works("verify", file, "x.npy", models.photo("cat_chelsea"))
    certificate = read_card(onnx.load(file)).certificate
    assert certificate is not None
    names = [item["name"] for item in certificate["inputs"]]
    assert names == ["x.npy", models.photo("cat_chelsea").name, "zero", "constant", "extreme"]


def test_a_failure_is_exit_code_1_and_recorded(cli: Cli) -> None:
    onnx.save(times(compiled("cnn_bias", "saliency"), 1.5), "a.onnx")
    ran = cli("verify", "a.onnx")
    assert ran.code == 1 and not ran.err and "failed" in ran.out and not ran.made
    certificate = read_card(onnx.load("a.onnx")).certificate
    assert certificate is not None and certificate["passed"] is False


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("missing.onnx",), "no model file"),
        ((LENET,), "carries no explanation"),
        (("a.onnx", "missing.png"), "no such file"),
        (("a.onnx", "missing.npy"), "cannot be read as an array"),
        (("a.onnx", "--model", LENET), "explains a model with sha256"),
        (("a.onnx", "--model", "missing.onnx"), "no model file"),
        (("a.onnx", "--set", "epsilon=1"), "no option 'epsilon'"),
        (("a.onnx", "--shape", "z=1,2"), "no input 'z'"),
        (("a.onnx", "--provider", "cdua"), "unknown execution provider 'cdua'"),
    ],
)
def test_errors_are_one_line(cli: Cli, file: Path, words: tuple[object, ...], message: str) -> None:
    before = file.read_bytes()
    assert message in cli.refuses("verify", *words)
    assert file.read_bytes() == before


def test_a_folder_that_cannot_be_written(cli: Cli, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: object, data: bytes) -> None:
        raise onnxplain.OptionError(f"cannot write {str(path)!r}: No space left on device")

    monkeypatch.setattr("onnxplain.runtime.verify.certificate.write_bytes", full)
    assert "No space left" in cli("verify", file).err
