"""`onnxplain perturb`: pictures, numbers, estimates and refusals."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from PIL import Image

import onnxplain
from onnxplain import ExplainWarning, models
from onnxplain.runtime.cli import perturb as command
from onnxplain.runtime.perturb import perturbing
from onnxplain.runtime.perturb.budget import Estimate
from tests.runtime.cli.conftest import Cli, Ran
from tests.runtime.small import model_of, picture

LENET, CAT = models.path("mnist_lenet"), models.photo("cat_chelsea")
COARSE = ("--set", "k=7", "--set", "stride=7", "--threads", 1)


@pytest.fixture
def digit(cli: Cli) -> Path:
    path = cli.folder / "digit.png"
    Image.fromarray(models.digits()[0][0]).save(path)
    return path


def numbers(cli: Cli, stem: str) -> tuple[dict[str, Any], dict[str, Any]]:
    with np.load(cli.folder / f"{stem}.npz", allow_pickle=False) as data:
        arrays = {key: data[key] for key in data.files}
    return arrays, json.loads((cli.folder / f"{stem}.json").read_text())


def works(cli: Cli, *words: object) -> Ran:
    """Exit code 0, and only estimates on stderr."""
    ran = cli("perturb", *words)
    assert ran.code == 0, ran
    lines = ran.err.splitlines()
    assert lines and all(line.startswith("onnxplain: ") and "about" in line for line in lines), ran.err
    return ran


def no_work(*_: object, **__: object) -> None:
    raise AssertionError("work before the words were read")


def test_a_picture_with_its_numbers_and_record(cli: Cli, digit: Path) -> None:
    ran = works(cli, LENET, digit, *COARSE, "--target", "top,0", "--target", "3", "-o", "o.png")
    assert ran.made == {"o.png", "o.npz", "o.json"}
    assert ran.err.startswith("onnxplain: occlusion: 16 forwards, ") and ran.err.count("\n") == 1
    assert (
        "occlusion: 16 forwards, " in ran.out and "  6 (6)  0.99" in ran.out and ran.out.endswith("o.png\n")
    )
    arrays, record = numbers(cli, "o")
    assert arrays["maps"].shape == (1, 3, 28, 28) and arrays["classes"].tolist() == [6, 0, 3]
    assert arrays["methods"].tolist() == ["occlusion"] and arrays["base"].shape == (10,)
    found = onnxplain.perturb(LENET, digit, k=7, stride=7, target=[6, 0, 3], threads=1)
    np.testing.assert_array_equal(arrays["maps"][0], found.maps)
    np.testing.assert_array_equal(arrays["base"], found.base)
    assert (
        record["names"] == ["6", "0", "3"]
        and record["model"] == LENET.name
        and record["image"] == "digit.png"
    )
    assert list(record["windows"]) in ([], ["7 x 7"]), "few windows are run whole, without a word"
    (done,) = record["methods"]
    assert done["settings"]["stride"] == 7 and done["forwards"] == 16 and done["estimated_seconds"] > 0
    with Image.open(cli.folder / "o.png") as figure:
        assert figure.height > 3 * 256 and figure.width > 3 * 256


def test_several_methods_stand_side_by_side(cli: Cli, digit: Path) -> None:
    words = ("-m", "occlusion,rise,lime", *COARSE, "--set", "rise.n=200", "--set", "lime.n=100", "--seed", 5)
    ran = works(cli, LENET, digit, *words, "-o", "s.jpg")
    assert ran.err.count("\n") == 4 and "onnxplain: together about " in ran.err
    arrays, record = numbers(cli, "s")
    assert arrays["maps"].shape == (3, 1, 28, 28) and arrays["methods"].tolist() == [
        "occlusion",
        "rise",
        "lime",
    ]
    settings = [done["settings"] for done in record["methods"]]
    assert [s.get("n") for s in settings] == [None, 200, 100]
    assert [s.get("seed") for s in settings] == [None, 5, 5]
    with Image.open(cli.folder / "s.jpg") as figure:
        assert figure.width > 7 * 256


def test_engines_agree_and_are_recorded(cli: Cli, digit: Path) -> None:
    """To rounding of float32 over a few layers: 1e-5 of scores up to 1."""
    words = (LENET, digit, "--set", "k=7", "--set", "stride=3", "--threads", 1)
    for engine in ("full", "incremental"):
        works(cli, *words, "--engine", engine, "-o", f"{engine}.png")
    (full, _), (fast, record) = numbers(cli, "full"), numbers(cli, "incremental")
    np.testing.assert_allclose(fast["maps"], full["maps"], atol=1e-5)
    assert (
        record["windows"]["7 x 7"].startswith("incremental")
        and record["methods"][0]["engine"] == "incremental"
    )


def test_the_seed_decides(cli: Cli, digit: Path) -> None:
    for seed, name in ((0, "a"), (0, "b"), (1, "c")):
        works(
            cli,
            LENET,
            digit,
            "-m",
            "rise",
            "--set",
            "n=64",
            "--seed",
            seed,
            "--threads",
            1,
            "-o",
            f"{name}.png",
        )
    a, b, c = (numbers(cli, name)[0]["maps"] for name in "abc")
    assert np.array_equal(a, b) and not np.allclose(a, c)


def test_pictures_of_other_digits_from_a_folder(cli: Cli, digit: Path) -> None:
    (cli.folder / "others").mkdir()
    for i in range(1, 5):
        Image.fromarray(models.digits()[0][i]).save(cli.folder / "others" / f"{i}.png")
    words = (
        "-m",
        "pda.mean",
        "--set",
        "variant=marginal",
        "--set",
        "k=4",
        "--set",
        "stride=4",
        "--threads",
        1,
    )
    works(cli, LENET, digit, *words, "--set", "images=others", "-o", "p.png")
    arrays, record = numbers(cli, "p")
    assert np.abs(arrays["maps"]).max() > 0 and record["methods"][0]["settings"]["images"]["shape"] == [
        4,
        1,
        28,
        28,
    ]


def test_an_element_of_a_tensor(cli: Cli, digit: Path) -> None:
    hidden = next(node.output[0] for node in onnx.load(LENET).graph.node if node.op_type == "Relu")
    # The element looks at a corner of the picture, where no digit is: covering it changes nothing.
    with pytest.warns(ExplainWarning, match="^occlusion: map is zero everywhere$"):
        ran = cli("perturb", LENET, digit, *COARSE, "--score", hidden, "--target", "5", "-o", "h.png")
    _, record = numbers(cli, "h")
    assert record["score"] == record["tensor"] == hidden and record["names"] == [f"{hidden}[5]"]
    assert ran.code == 0


def test_a_guess_is_said(cli: Cli) -> None:
    onnx.save(picture_model(), cli.folder / "m.onnx")
    ran = cli("perturb", "m.onnx", CAT, "--set", "k=2", "--score", "output", "-o", "g.png")
    assert ran.code == 0 and "nothing says how this model wants its photos" in ran.err


def picture_model() -> onnx.ModelProto:
    """Mean of every channel of an 8 x 8 photo."""
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["scores"]),
    ]
    return model_of(nodes, {"x": ["N", 3, 8, 8]}, {"scores": ["N", 3]})


def test_a_budget_refuses_names_what_fits_or_takes_it(cli: Cli, digit: Path) -> None:
    words = ("perturb", LENET, digit, "--set", "k=7", "--set", "stride=1", "--threads", 1, "-o", "b.png")
    line = cli.refuses(*words, "--budget", 100)
    assert "occlusion would take 484 forwards, over the budget of 100 forwards" in line
    assert "stride=3 would take " in line and "(64 forwards)" in line and "--fit-budget" in line
    ran = cli(*words, "--budget", 100, "--fit-budget")
    assert ran.code == 0 and "stride=3 instead of 1" in ran.err
    _, record = numbers(cli, "b")
    assert record["budget"] == "100"
    (done,) = record["methods"]
    assert done["changed"] == {"stride": {"asked": 1, "taken": 3}} and done["forwards"] == 64
    assert "no setting makes it fit" in cli.refuses(*words[:-1], "c.png", "--budget", 3)


def slow(job: Any, *_: object) -> Estimate:
    return Estimate(job.estimate.forwards, 60.0)


def test_a_long_run_wants_a_word(cli: Cli, digit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perturbing, "estimate", slow)
    ran = cli("perturb", LENET, digit, *COARSE, "-o", "l.png")
    assert ran.code == 2 and not ran.made and "agree with --yes, or give a --budget" in ran.err
    assert "16 forwards, 6e+04 ms each: about 16 min" in ran.err
    assert works(cli, LENET, digit, *COARSE, "-o", "l.png", "--yes").made
    assert works(cli, LENET, digit, *COARSE, "-o", "m.png", "--budget", "20m").made


@pytest.mark.parametrize(("answer", "code"), [("n\n", 130), ("y\n", 0)])
def test_a_person_is_asked(
    cli: Cli, digit: Path, monkeypatch: pytest.MonkeyPatch, answer: str, code: int
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(perturbing, "estimate", slow)
    monkeypatch.setattr(command, "attended", lambda: True)
    monkeypatch.setattr("sys.stdin", Terminal(answer))
    ran = cli("perturb", LENET, digit, *COARSE, "-o", "l.png")
    assert ran.code == code and bool(ran.made) == (code == 0), ran


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("{lenet}", "{digit}", "-m", "oclusion"), "did you mean 'occlusion'"),
        (("{lenet}", "{digit}", "-m", "saliency"), "onnxplain explain -m saliency"),
        (("{lenet}", "{digit}", "-m", ","), "no method given"),
        (("{lenet}", "{digit}", "-o", "out.txt"), "no picture format"),
        (("{lenet}", "{digit}", "-o", "nowhere/out.png"), "existing, writable folder"),
        (("{lenet}", "{digit}", "-o", "{digit}"), "would overwrite"),
        (("{lenet}", "{digit}", "--budget", "soon"), "write a time, 60s"),
        (("{lenet}", "{digit}", "--fit-budget"), "--fit-budget needs a --budget"),
        (("{lenet}", "{digit}", "--set", "stride"), "write it as key=value"),
        (("{lenet}", "{digit}", "--set", "k=3", "--set", "k=4"), "k is given twice"),
        (("{lenet}", "{digit}", "--set", "strid=3"), "no setting 'strid' (did you mean 'stride'?)"),
        (("{lenet}", "{digit}", "--set", "stride=x"), "stride='x' is no none or whole number"),
        (("{lenet}", "{digit}", "--set", "k=99"), "larger than the image, 28 x 28"),
        (("{lenet}", "{digit}", "--seed", "3"), "occlusion: no setting 'seed'"),
        (("{lenet}", "{digit}", "--target", "ten"), "no class is called 'ten'"),
        (("{lenet}", "{digit}", "--target", "10"), "class 10 is out of range: there are 10 scores"),
        (("{lenet}", "{digit}", "--score", "nothing"), "score: 'nothing' is none of"),
        (("{lenet}", "{digit}", "--engine", "fast"), "engine 'fast' is none of"),
        (("{lenet}", "{digit}", "--batch", "0"), "Invalid value for '--batch'"),
        (("{lenet}", "{digit}", "-m", "pda.mean"), "onnxplain fit gaussian"),
        (("{lenet}", "{digit}", "-m", "lime", "--set", "segments=none.npy"), "there is no such file"),
        (("{lenet}", "missing.png"), "missing.png"),
        (("missing.onnx", "{digit}"), "missing.onnx"),
        (("small.onnx", "{digit}"), "the model's input is not a picture"),
    ],
)
def test_one_line_and_no_file(cli: Cli, digit: Path, words: tuple[str, ...], text: str) -> None:
    onnx.save(picture(), cli.folder / "small.onnx")
    known = {"lenet": LENET, "digit": digit}
    assert text in cli.refuses("perturb", *(word.format(**known) for word in words))


def test_the_place_is_vetted_before_any_work(cli: Cli, digit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "open_probe", no_work)
    cli.refuses("perturb", LENET, digit, "-o", "nowhere/out.png")
    (cli.folder / "o.json").mkdir()
    assert "it is a folder" in cli.refuses("perturb", LENET, digit, "-o", "o.png")
    model = cli.folder / "m.json"
    model.write_bytes(LENET.read_bytes())
    assert "would overwrite" in cli.refuses("perturb", model, digit, "-o", "m.png")
    np.savez(cli.folder / "g.npz", mu=1)
    words = ("-m", "pda.mean", "--set", "gaussian=g.npz", "-o", "g.png")
    assert "would overwrite 'g.npz'" in cli.refuses("perturb", LENET, digit, *words)


def test_nothing_is_left_of_a_run_that_fails(cli: Cli, digit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise onnxplain.ModelError("the scores of a changed copy hold NaN or Inf")

    monkeypatch.setattr(perturbing, "perform", fail)
    ran = cli("perturb", LENET, digit, *COARSE, "-o", "f.png")
    assert ran.code == 2 and not ran.made and "NaN" in ran.err and "Traceback" not in ran.err


@pytest.mark.parametrize("name", ["occlusion", "rise"])
def test_explain_says_where_perturbation_methods_are_run(cli: Cli, digit: Path, name: str) -> None:
    line = cli.refuses("explain", LENET, digit, "-m", f"saliency,{name}")
    assert f"run `onnxplain perturb MODEL IMAGE -m {name}`" in line
