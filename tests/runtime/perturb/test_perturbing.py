"""Techniques by name, for arrays and photos."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from PIL import Image

import onnxplain
from onnxplain import models
from onnxplain.rewriter.errors import ImageError, ModelError, OptionError, TargetError
from onnxplain.runtime.perturb import budget
from onnxplain.runtime.perturb.figure import tinted, title
from onnxplain.runtime.perturb.perturbing import open_probe
from onnxplain.runtime.perturb.probing import Asked
from onnxplain.runtime.perturb.technique import Found
from tests.runtime.perturb.slabs import SLABS, Settings
from tests.runtime.small import gradient, model_of, picture

X = np.random.default_rng(3).normal(size=(1, 2, 3, 4)).astype(np.float32)
LENET = models.path("mnist_lenet")


@pytest.fixture
def digit(tmp_path: Path) -> Path:
    path = tmp_path / "digit.png"
    Image.fromarray(models.digits()[0][0]).save(path)
    return path


def drops(c: int, value: float = 0.0) -> np.ndarray:
    """What a pixel that becomes `value` takes from score c of a linear model."""
    return np.asarray((gradient(c) * (X - value)).sum(axis=(0, 1)))


def slabs(**given: Any) -> Found:
    return onnxplain.perturb(picture(), X, SLABS, **{"score": "output", **given})


def test_maps_of_an_array() -> None:
    """Scores are linear: 1e-5 for float32."""
    found = slabs(target=[3, 1], value=0.5)
    assert found.classes == (3, 1) and found.maps.shape == (2, 3, 4) and found.maps.dtype == np.float32
    np.testing.assert_allclose(found.maps, [drops(3, 0.5), drops(1, 0.5)], rtol=1e-5, atol=1e-5)
    assert found.forwards == 48 and found.seconds > 0
    top = int(found.base.argmax())
    assert slabs().classes == slabs(target=-1).classes == (top,)
    assert slabs(target=["top", top, 0]).classes == tuple(dict.fromkeys([top, 0])), "each once"
    assert slabs(target=2).classes == slabs(target="2").classes == (2,)


def test_a_name_of_the_registry() -> None:
    found = onnxplain.perturb(picture(), X, "occlusion", score="output", k=1, stride=1, target=2)
    np.testing.assert_allclose(found.maps[0], drops(2), rtol=1e-5, atol=1e-5)
    assert found.record["method"] == "occlusion"


def test_the_record_says_what_was_done() -> None:
    found = slabs(value=0.5, target=1, engine="full")
    record = found.record
    assert record["settings"]["value"] == 0.5 and record["classes"] == [1] and record["score"] == "output"
    assert (
        record["engine"] == "full"
        and record["windows"] == {}
        and record["batch"] == 32
        and record["changed"] == {}
    )
    assert len(record["sha256"]) == 64 and record["seconds"] == found.seconds
    assert record["estimated_seconds"] is None and record["forwards"] == record["expected_forwards"] == 48


def test_a_budget() -> None:
    with pytest.raises(OptionError, match=r"samples=3 would take 36 forwards or stride=2 would"):
        slabs(budget=40)
    found = slabs(budget=40, fit_budget=True, target=1)
    assert found.forwards == 36 and found.record["changed"] == {"samples": {"asked": 4, "taken": 3}}
    assert found.record["settings"]["samples"] == 3
    np.testing.assert_allclose(found.maps[0], drops(1), rtol=1e-5, atol=1e-5)
    roomy = slabs(budget="1h")
    assert roomy.forwards == 48 and roomy.record["estimated_seconds"] > 0, "a trial is not counted"


def test_no_trial_without_a_budget_of_time(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a trial")

    monkeypatch.setattr("onnxplain.runtime.perturb.perturbing.estimate", refuse)
    assert slabs(budget=100).forwards == slabs().forwards == 48


def test_progress_is_told() -> None:
    told: list[tuple[int, int]] = []
    slabs(progress=lambda done, total: told.append((done, total)), batch=20)
    assert told == [(20, 48), (40, 48), (48, 48)]


def test_photos_are_prepared_and_named(digit: Path) -> None:
    found = onnxplain.perturb(LENET, digit, "occlusion", k=7, stride=7, threads=1)
    opened = open_probe(LENET, Image.open(digit), Asked(threads=1))
    again = onnxplain.perturb(LENET, opened.prober.image, "occlusion", k=7, stride=7, threads=1)
    np.testing.assert_array_equal(found.maps, again.maps)
    assert opened.name(found.classes[0]) == "6" and found.base[found.classes[0]] > 0.9
    assert opened.classes(["6", "top", "0"]) == (6, 0)
    words = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    named = open_probe(LENET, digit, Asked(threads=1), labels=words)
    assert named.classes(["Six", "three"]) == (6, 3) and named.name(3) == "three"
    few = open_probe(LENET, digit, Asked(threads=1), labels=words[:3])
    assert few.name(1) == "class 1", "labels of another number of classes are none"
    with pytest.raises(TargetError, match="no class is called 'one'"):
        few.classes(["one"])


def test_elements_of_a_tensor_are_no_classes(digit: Path) -> None:
    opened = open_probe(LENET, digit, Asked(threads=1, score="logit"))
    assert opened.name(3) == "3"
    hidden = next(n.output[0] for n in onnx.load(LENET).graph.node if n.op_type == "Relu")
    inner = open_probe(LENET, digit, Asked(threads=1, score=hidden))
    assert inner.name(3) == f"{hidden}[3]"
    with pytest.raises(TargetError, match="no class is called 'six'"):
        inner.classes(["six"])


def test_the_figure_has_a_row_a_class_and_two_columns_a_method(digit: Path) -> None:
    opened = open_probe(LENET, digit, Asked(threads=1))
    found = onnxplain.perturb(LENET, digit, "occlusion", target=[6, 0], k=7, stride=7, threads=1)
    one = opened.figure([found], ["sum,sym"])
    two = opened.figure([found, found], ["sum,sym", "max"])
    assert two.width > one.width > 3 * 256 and two.height >= one.height > 2 * 256
    assert title([found]).startswith("occlusion: 16 forwards, ") and "(score: probability)" in title([found])
    with pytest.raises(ModelError, match="not a picture"):
        open_probe(picture(), X, Asked()).figure([found], ["sum,sym"])


def test_tints_are_as_strong_as_the_map() -> None:
    """Red for, blue against, the photo in grey where the map is 0."""
    photo = Image.new("RGB", (3, 1), (90, 90, 90))
    got = np.asarray(tinted(photo, np.array([[1.0, 0.0, -1.0]], np.float32))).astype(int)
    assert got[0, 1].tolist() == [90, 90, 90]
    assert got[0, 0, 0] > 200 and got[0, 0, 1] == got[0, 0, 2] < 40
    assert got[0, 2, 2] > 200 and got[0, 2, 0] == got[0, 2, 1] < 40
    flat = np.asarray(tinted(photo, np.zeros((1, 3), np.float32)))
    assert (flat == 90).all()


def two_inputs() -> onnx.ModelProto:
    shape: dict[str, list[int | str]] = {"a": ["N", 2, 3, 4], "b": ["N", 2, 3, 4]}
    nodes = [helper.make_node("Add", ["a", "b"], ["c"]), helper.make_node("Flatten", ["c"], ["y"])]
    return model_of(nodes, shape, {"y": ["N", 24]})


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        ({"target": 5}, TargetError, "class 5 is out of range: there are 5 scores"),
        ({"target": "cat"}, TargetError, "no class is called 'cat'"),
        ({"method": "occlude"}, OptionError, "did you mean 'occlusion'"),
        ({"method": "saliency"}, OptionError, "onnxplain explain -m saliency"),
        ({"sample": 3}, OptionError, "did you mean 'samples'"),
        ({"samples": 0}, OptionError, "samples is 0"),
        ({"samples": "many"}, OptionError, "samples='many' is no whole number"),
        ({"budget": "soon"}, OptionError, "write a time"),
        ({"engine": "fast"}, OptionError, "engine 'fast' is none of"),
        ({"batch": 0}, OptionError, "batch is 0"),
        ({"score": "nothing"}, TargetError, "'nothing' is none of"),
        ({"image": np.ones((2, 2, 3, 4))}, ImageError, "one image with a batch axis of 1"),
        ({"image": np.full((1, 2, 3, 4), np.nan)}, ImageError, "NaN"),
        ({"image": "cat.jpg"}, ModelError, "not a picture"),
        ({"model": "none.onnx"}, ModelError, "none.onnx"),
        ({"model": two_inputs()}, OptionError, "models with one input"),
    ],
)
def test_what_cannot_be_done_is_said(given: dict[str, Any], error: type[Exception], text: str) -> None:
    call = {"model": picture(), "image": X, "method": SLABS, **given}
    with pytest.raises(error) as caught:
        onnxplain.perturb(call.pop("model"), call.pop("image"), call.pop("method"), **call)
    assert text in str(caught.value)


def test_settings_that_are_no_numbers_reach_the_record() -> None:
    found = slabs(table=np.zeros((2, 2), np.float32), pair="3,4", target=0)
    assert found.record["settings"]["table"] == {"shape": [2, 2], "dtype": "float32"}
    assert found.record["settings"]["flag"] is False and Settings().pair is None
    assert budget.parse_budget("5s").seconds == 5.0
