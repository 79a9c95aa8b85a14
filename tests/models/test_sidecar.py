"""Reading the record beside a model file, and what it says when the record is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from onnxplain.models import labels, record

PREPROCESSING: dict[str, Any] = {
    "layout": "NCHW",
    "color": "RGB",
    "size": [8, 8],
    "resize": "stretch",
    "multiple": 1,
    "resample": "bilinear",
    "mean": [0, 0, 0],
    "std": [1, 1, 1],
}
RECORD: dict[str, Any] = {
    "name": "net",
    "task": "classification",
    "licence": "MIT",
    "source": "here",
    "preprocessing": PREPROCESSING,
    "labels": "names.txt",
}


def written(folder: Path, entries: object) -> Path:
    (folder / "net.json").write_text(json.dumps(entries), encoding="utf-8")
    return folder / "net.onnx"


def test_no_record_is_none(tmp_path: Path) -> None:
    assert record(tmp_path / "net.onnx") is None
    assert labels(tmp_path / "net.onnx") is None


def test_record_is_what_the_file_says(tmp_path: Path) -> None:
    entries = RECORD | {"output": {"low": 0, "high": 255}}
    assert record(written(tmp_path, entries)) == entries
    assert record(str(tmp_path / "net.onnx")) == entries


def test_labels_are_the_lines_in_order(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("cat\nDöner kebab\n", encoding="utf-8")
    assert labels(written(tmp_path, RECORD)) == ["cat", "Döner kebab"]
    assert labels(written(tmp_path, RECORD | {"labels": None})) is None


def test_missing_label_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"names\.txt"):
        labels(written(tmp_path, RECORD))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"name": 3}, "name must be a text"),
        ({"task": "regression"}, "task must be one of"),
        ({"labels": "../names.txt"}, "labels must be"),
        ({"labels": ""}, "labels must be"),
        ({"preprocessing": None}, "preprocessing must be a JSON object"),
        ({"output": {"low": 0}}, "output must be"),
        ({"output": {"low": 1, "high": 1}}, "output must be"),
    ],
)
def test_malformed_entry_is_named(tmp_path: Path, change: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text) as caught:
        record(written(tmp_path, RECORD | change))
    assert "net.json" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"layout": "CHW"}, "layout must be one of NCHW, NHWC"),
        ({"color": ["RGB"]}, "color must be one of"),
        ({"resample": None}, "resample must be one of"),
        ({"size": None}, "size must be"),
        ({"size": [8, 0]}, "size must be"),
        ({"size": [8, True]}, "size must be"),
        ({"resize": "shorter"}, "shorter must be a positive integer"),
        ({"multiple": 0}, "multiple must be"),
        ({"mean": [0]}, "mean must be a list of 3"),
        ({"std": [1, 0, 1]}, "std must be"),
        ({"std": [1, float("nan"), 1]}, "std must be"),
        ({"color": "GRAY"}, "mean must be a list of 1"),
    ],
)
def test_malformed_preprocessing_is_named(tmp_path: Path, change: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        record(written(tmp_path, RECORD | {"preprocessing": PREPROCESSING | change}))


@pytest.mark.parametrize("content", [b"{", b"[1]", b"\xff\xfe"])
def test_a_file_that_is_no_json_object_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "net.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"net\.json"):
        record(tmp_path / "net.onnx")
