"""Every command does its job on the shipped models and photos."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

import onnxplain
from onnxplain import models
from onnxplain.runtime.perturb.registry import TECHNIQUES
from tests.runtime.cli.conftest import Cli

LENET, LITE = models.path("mnist_lenet"), models.path("efficientnet_lite0")


@pytest.mark.parametrize("method", ["saliency", "input-x-gradient", "deconvnet", "guided-backprop"])
def test_compile_writes_a_file_that_runs(cli: Cli, method: str) -> None:
    ran = cli.works("compile", LENET, "-m", method)
    assert ran.made == {f"mnist_lenet.{method}.onnx"}
    assert ran.out.startswith(f"mnist_lenet.{method}.onnx: {method} of mnist_lenet.onnx, ")
    onnx.checker.check_model(f"mnist_lenet.{method}.onnx", full_check=True)
    x = np.random.default_rng(0).uniform(0, 1, (1, 1, 28, 28))
    attribution = onnxplain.load(f"mnist_lenet.{method}.onnx")(x, target=3).attribution
    assert attribution.shape == (1, 1, 28, 28) and np.abs(attribution).max() > 0


def test_compile_passes_its_flags_on(cli: Cli) -> None:
    flags = [
        "--target",
        "1,2",
        "--reduce",
        "maxabs,minmax",
        "--set",
        "gate=relu",
        "--shape",
        "image=4,1,28,28",
    ]
    ran = cli.works("compile", LENET, "-m", "guided-backprop", "-o", "a.onnx", "--head", "prob", *flags)
    assert ran.made == {"a.onnx"}
    explainer = onnxplain.load("a.onnx")
    assert explainer.card.options == {"gate": "relu", "lrn": "gradient", "reduce": "maxabs,minmax"}
    assert explainer.card.target["target"] == [1, 2] and explainer.card.target["head"] == "logits"
    result = explainer(np.random.default_rng(0).uniform(0, 1, (4, 1, 28, 28)))
    assert result.attribution.shape == (8, 1, 28, 28)
    assert result.heatmap is not None and result.heatmap.shape == (8, 28, 28)


def test_compile_stores_preprocessing_and_labels(cli: Cli) -> None:
    Path("names.txt").write_text("\n".join("abcdefghij"))
    cli.works("compile", LENET, "-o", "a.onnx", "--preprocess", "raw", "--labels", "names.txt")
    card = onnxplain.load("a.onnx").card
    assert card.labels == tuple("abcdefghij")
    assert card.preprocessing is not None and card.preprocessing["std"] == [1.0]


def test_compile_replaces_an_older_explanation(cli: Cli) -> None:
    Path("a.onnx").write_bytes(b"old")
    assert cli.works("compile", LENET, "-o", "a.onnx").made == frozenset()
    assert onnxplain.load("a.onnx").card.method == "saliency"


def test_compile_twice_gives_the_same_bytes(cli: Cli) -> None:
    cli.works("compile", LENET, "-o", "a.onnx")
    cli.works("compile", LENET, "-o", "b.onnx")
    assert Path("a.onnx").read_bytes() == Path("b.onnx").read_bytes()


@pytest.mark.parametrize(
    ("photo", "classes"),
    [
        ("cat_chelsea", ("tabby", "tiger cat", "Egyptian cat", "a cat having a striped coat")),
        ("panda", ("giant panda",)),
        ("goldfish", ("goldfish",)),
        ("coffee", ("espresso", "coffee mug", "cup")),
    ],
)
def test_explain_names_the_class(cli: Cli, photo: str, classes: tuple[str, ...]) -> None:
    ran = cli.works("explain", LITE, models.photo(photo), "-o", "panel.png")
    assert ran.made == {"panel.png"}
    first, last = ran.out.splitlines()
    name, _, rest = first.partition(": ")
    label, _, score = rest.rpartition("  ")
    assert name == f"{photo}.jpg" and last == "panel.png"
    assert any(label.startswith(f"{known} (") for known in classes), label
    assert 0.2 < float(score) <= 1.0  # of 1000 classes
    with Image.open("panel.png") as panel:
        # photo and one column of 256 pixels, margins of 28, a gap of 20
        assert panel.width == 2 * 256 + 20 + 2 * 28 and panel.height > 256


def test_explain_draws_a_row_a_photo_and_a_column_a_method(cli: Cli) -> None:
    photos = [models.photo("panda"), models.photo("goldfish")]
    ran = cli.works(
        "explain", LITE, *photos, "-m", "saliency, guided-backprop", "-o", "panel.jpg", "--threads", 2
    )
    assert ran.out.splitlines()[0].startswith("panda.jpg: giant panda (388)")
    assert ran.out.splitlines()[1].startswith("goldfish.jpg: goldfish (1)")
    with Image.open("panel.jpg") as panel:
        assert panel.width == 3 * 256 + 2 * 20 + 2 * 28 and panel.height > 2 * 256


def test_explain_takes_a_class_by_name_or_index(cli: Cli) -> None:
    by_name = cli.works("explain", LITE, models.photo("panda"), "--target", "Goldfish", "-o", "a.png").out
    by_index = cli.works("explain", LITE, models.photo("panda"), "--target", 1, "-o", "b.png").out
    assert by_name.startswith("panda.jpg: goldfish (1)")
    assert by_name.splitlines()[0] == by_index.splitlines()[0]
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes()


def test_explain_with_an_emitted_file_uses_its_method(cli: Cli) -> None:
    cli.works("compile", LITE, "-m", "guided-backprop", "-o", "lite.onnx")
    direct = cli.works("explain", LITE, models.photo("panda"), "-m", "guided-backprop", "-o", "a.png")
    emitted = cli.works("explain", "lite.onnx", models.photo("panda"), "-o", "b.png", "--provider", "cpu")
    assert emitted.out.splitlines()[0] == direct.out.splitlines()[0]
    with Image.open("a.png") as a, Image.open("b.png") as b:
        assert np.array_equal(np.asarray(a), np.asarray(b))


def test_explain_says_when_the_preprocessing_is_guessed(cli: Cli) -> None:
    Path("bare.onnx").write_bytes(LENET.read_bytes())
    ran = cli("explain", "bare.onnx", models.photo("panda"), "-o", "a.png")
    assert ran.code == 0 and "nothing says how this model wants its photos" in ran.err
    assert ran.err.count("\n") == 1 and "panda.jpg: class " in ran.out
    cli.works("explain", "bare.onnx", models.photo("panda"), "-o", "a.png", "--preprocess", "unit")


def test_check_lists_operators_and_rules(cli: Cli) -> None:
    ran = cli.works("check", LITE, "-m", "guided-backprop")
    assert not ran.made
    assert "efficientnet_lite0.onnx under guided-backprop" in ran.out
    assert "Conv" in ran.out and "no rule" not in ran.out
    assert "nodes between input and target can be explained" in ran.out


@pytest.mark.parametrize("name", models.names())
def test_check_passes_every_shipped_model(cli: Cli, name: str) -> None:
    cli.works("check", models.path(name))


def test_check_exits_1_and_lists_every_node_without_a_rule(cli: Cli, determinants: Path) -> None:
    ran = cli("check", determinants)
    assert (ran.code, ran.err, ran.made) == (1, "", frozenset())
    assert "no: Det at 'first_det': " in ran.out and "no: Det at 'second_det': " in ran.out
    assert "can be explained" not in ran.out


def test_show_a_plain_model(cli: Cli) -> None:
    out = cli.works("show", LENET).out
    assert "image float32 [N, 1, 28, 28]" in out and "logits float32 [N, 10]" in out
    assert "none; make one with `onnxplain compile" in out


def test_show_an_explanation(cli: Cli) -> None:
    cli.works("compile", LENET, "-m", "guided-backprop", "-o", "a.onnx", "--reduce", "sum")
    out = cli.works("show", "a.onnx").out
    for text in ("target int64 [N, 1]", "attribution float32 [N, 1, 28, 28]", "heatmap float32 [N, 28, 28]"):
        assert text in out
    rows = {line[:14].strip(): line[16:] for line in out.splitlines()}
    assert rows["method"] == "guided-backprop" and rows["labels"] == "10"
    assert json.loads(rows["options"]) == {"gate": "rectifiers", "lrn": "gradient", "reduce": "sum"}
    assert "Springenberg" in rows["citation"] and " x" in rows["rules"]


def test_show_json_is_the_card(cli: Cli) -> None:
    cli.works("compile", LENET, "-m", "guided-backprop", "-o", "a.onnx")
    shown = json.loads(cli.works("show", "a.onnx", "--json").out)
    card = onnxplain.load("a.onnx").card
    assert shown["method"] == "guided-backprop" and shown["rules"] == dict(card.rules)
    assert shown["labels"] == list(card.labels or ()) and shown["source"]["sha256"] == card.source["sha256"]


def test_methods_names_are_never_cut(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    out = cli.works("methods").out
    assert all(name in out for name in (*onnxplain.methods(), *TECHNIQUES))


def test_one_method_with_its_options_and_source(cli: Cli) -> None:
    out = cli.works("methods", "guided-backprop").out
    assert "gate=rectifiers (relu, rectifiers, activations): which activations gate" in out
    assert "Nie et al. 2018" in out


def test_methods_json(cli: Cli) -> None:
    table = json.loads(cli.works("methods", "--json").out)
    assert list(table) == [*onnxplain.methods(), *TECHNIQUES]
    gate = table["guided-backprop"]["options"]["gate"]
    assert gate["default"] == "rectifiers" and gate["default"] in gate["choices"] and gate["help"]


def test_techniques_are_listed_with_their_cost_and_settings(cli: Cli) -> None:
    table = json.loads(cli.works("methods", "--json").out)
    for name, technique in TECHNIQUES.items():
        told = table[name]
        assert told["cost"] == f"forwards: {technique.cost}" and "onnxplain perturb" in told["family"]
        assert list(told["options"]) == technique.names
    assert "n=4000: random masks" in cli.works("methods", "rise").out
    assert "no method 'riise' (did you mean 'rise'?)" in cli.refuses("methods", "riise")


def test_demo_writes_the_panel_and_a_file(cli: Cli) -> None:
    ran = cli.works("demo", "-o", "deep/demo")
    made = {"deep", "deep/demo", "deep/demo/cat.png", "deep/demo/efficientnet_lite0.guided-backprop.onnx"}
    assert ran.made == {str(Path(name)) for name in made}
    assert ran.out.startswith("cat_chelsea.jpg: a cat having a striped coat (282)")
    with Image.open("deep/demo/cat.png") as panel:
        assert panel.width == 7 * 256 + 6 * 20 + 2 * 28
    assert onnxplain.load("deep/demo/efficientnet_lite0.guided-backprop.onnx").card.labels is not None


def run(*words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-m", "onnxplain", *map(str, words)]
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=60, check=False)


def test_as_a_process(tmp_path: Path) -> None:
    done = run("compile", LENET, "-o", "a.onnx", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("a.onnx: saliency of mnist_lenet.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["a.onnx"]


def test_as_a_process_that_fails(tmp_path: Path) -> None:
    done = run("compile", "missing.onnx", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "onnxplain: no model file at 'missing.onnx'; check the path\n"
    assert not list(tmp_path.iterdir())
