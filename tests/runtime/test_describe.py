"""Where preprocessing and labels are found, and in which order."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from onnxplain import ModelError, OptionError
from onnxplain.runtime.describe import Description, describe

SHAPE = ("N", 3, 8, 8)
KEY, LABELS = "onnxplain.preprocessing", "onnxplain.labels"


def record(mean: float, **changes: Any) -> dict[str, Any]:
    """Told apart by its mean."""
    numbers = {"mean": [mean] * 3, "std": [1.0] * 3}
    return {"layout": "NCHW", "color": "RGB", "size": [8, 8], "resize": "stretch", **numbers, **changes}


def beside(folder: Path, mean: float = 3.0, labels: str | None = None) -> Path:
    """A model file, as far as its neighbours are concerned."""
    about = {"name": "n", "task": "classification", "licence": "MIT", "source": "here", "labels": labels}
    full = record(mean, resample="bilinear", multiple=1)
    (folder / "net.json").write_text(json.dumps(about | {"preprocessing": full}))
    return folder / "net.onnx"


def mean_of(found: Description) -> float:
    return found.preprocessing.mean[0]


def test_the_order_in_which_preprocessing_is_looked_for(tmp_path: Path) -> None:
    model, metadata = beside(tmp_path), {KEY: json.dumps(record(2))}
    (tmp_path / "given.json").write_text(json.dumps(record(1)))
    given = describe(model, SHAPE, metadata, preprocessing=tmp_path / "given.json")
    assert (mean_of(given), given.found) == (1, str(tmp_path / "given.json"))
    inside = describe(model, SHAPE, metadata)
    assert (mean_of(inside), inside.found) == (2, "the file's metadata")
    outside = describe(model, SHAPE, {})
    assert (mean_of(outside), outside.found) == (3, "the JSON file beside the model")
    assert not outside.guessed
    last = describe(tmp_path / "other.onnx", SHAPE, {})
    assert (mean_of(last), last.found, last.guessed) == (0, "the input's shape", True)
    assert last.preprocessing.std == (255.0,) * 3 and last.preprocessing.size == (8, 8)


def test_a_model_without_a_path_has_nothing_beside_it(tmp_path: Path) -> None:
    beside(tmp_path)
    assert describe(b"bytes", SHAPE, {}).guessed and describe(object(), SHAPE, {}).guessed
    assert not describe(str(tmp_path / "net.onnx"), SHAPE, {}).guessed


@pytest.mark.parametrize("form", ["record", "path", "text", "whole file"])
def test_forms_of_a_given_record(tmp_path: Path, form: str) -> None:
    path = tmp_path / "r.json"
    path.write_text(json.dumps({"preprocessing": record(1)} if form == "whole file" else record(1)))
    given: Any = {"record": record(1), "text": str(path)}.get(form, path)
    found = describe(b"", SHAPE, {}, preprocessing=given)
    assert mean_of(found) == 1
    assert found.found == ("the given record" if form == "record" else str(path))


def test_a_preset_takes_its_geometry_from_the_shape() -> None:
    found = describe(b"", ("N", 8, 9, 3), {}, preprocessing="caffe")
    assert found.found == "preset caffe" and not found.guessed
    assert found.preprocessing.layout == "NHWC" and found.preprocessing.size == (8, 9)
    assert found.preprocessing.mean == (123.68, 116.779, 103.939)


def test_a_preset_goes_before_a_file_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("raw").write_text("{}")
    assert describe(b"", SHAPE, {}, preprocessing="raw").found == "preset raw"


def test_what_is_no_picture() -> None:
    with pytest.raises(ModelError, match="not a batch of pictures"):
        describe(b"", ("N", 10), {})
    assert mean_of(describe(b"", ("N", 10), {}, preprocessing=record(1))) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not JSON"),
        ("{", "is not JSON"),
        ("\ufeff{}", "is not JSON"),
        ("3", "holds no JSON object"),
        ('"raw"', "holds no JSON object"),
        ('{"preprocessing": [1]}', "is list and no JSON object"),
        ('{"preprocessing": null}', "is NoneType and no JSON object"),
        (json.dumps(record(1, layout="CHWN")), "'layout' is 'CHWN'"),
        (json.dumps(record(1, std=[0, 1, 1])), "a division by 0"),
        (json.dumps(record(1, men=1)), "unknown key 'men'"),
        ("[" * 50_000, "is not JSON"),
    ],
)
def test_a_file_that_is_no_record(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "r.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(OptionError, match=message):
        describe(b"", SHAPE, {}, preprocessing=path)


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(OptionError, match="is not JSON"):
        describe(b"", SHAPE, {}, preprocessing=tmp_path / "r.json")
    with pytest.raises(OptionError, match="cannot read the labels"):
        describe(b"", SHAPE, {}, labels=tmp_path / "r.json")


def test_an_unknown_preset_names_the_known_ones() -> None:
    with pytest.raises(
        OptionError, match="no preset and no readable file 'imgnet'; presets: raw, unit, tf, lite"
    ):
        describe(b"", SHAPE, {}, preprocessing="imgnet")


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({KEY: "{"}, "metadata 'onnxplain.preprocessing' is not JSON"),
        ({KEY: "[" * 50_000}, "metadata 'onnxplain.preprocessing' is not JSON"),
        ({KEY: "[1]"}, "preprocessing in the file's metadata is list and no JSON object"),
        ({KEY: "{}"}, "the key 'layout' is missing"),
        ({LABELS: "{"}, "metadata 'onnxplain.labels' is not JSON"),
        ({LABELS: '{"a": 1}'}, "metadata 'onnxplain.labels' is no list of class names"),
        ({LABELS: "null"}, "is no list of class names"),
    ],
)
def test_damaged_metadata(metadata: Mapping[str, str], message: str) -> None:
    """A file that nobody vouches for: an error of ours, not one of the JSON reader."""
    with pytest.raises(OptionError, match=message):
        describe(b"", SHAPE, metadata)


def test_the_order_in_which_labels_are_looked_for(tmp_path: Path) -> None:
    model, metadata = beside(tmp_path, labels="names.txt"), {LABELS: '["inside"]'}
    (tmp_path / "names.txt").write_text("beside\nsecond\n")
    (tmp_path / "given.txt").write_text("given, one\nzwölf\n", encoding="utf-8")
    assert describe(model, SHAPE, metadata, labels=["a", "b"]).labels == ("a", "b")
    assert describe(model, SHAPE, metadata, labels=tmp_path / "given.txt").labels == ("given, one", "zwölf")
    assert describe(model, SHAPE, metadata, labels=str(tmp_path / "given.txt")).labels == (
        "given, one",
        "zwölf",
    )
    assert describe(model, SHAPE, metadata).labels == ("inside",)
    assert describe(model, SHAPE, {}).labels == ("beside", "second")
    assert describe(b"", SHAPE, {}).labels is None
    # given, but empty: not a reason to take others
    assert describe(model, SHAPE, metadata, labels=[]).labels == ()


def test_a_damaged_neighbour(tmp_path: Path) -> None:
    (tmp_path / "net.json").write_text("{")
    with pytest.raises(OptionError, match=r"net\.json: not a JSON text"):
        describe(tmp_path / "net.onnx", SHAPE, {})
    model = beside(tmp_path, labels="missing.txt")
    with pytest.raises(OptionError, match=r"missing\.txt: named as labels in net\.json"):
        describe(model, SHAPE, {})
