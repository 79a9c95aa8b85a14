"""The preprocessing record: reading, writing, guessing, and what it refuses."""

from __future__ import annotations

import json

import pytest

from onnxplain.rewriter.errors import ModelError, OptionError
from onnxplain.runtime.preprocess import PRESETS, Preprocessing, for_input, from_record

IMAGENET: dict[str, object] = {
    "layout": "NCHW",
    "color": "RGB",
    "size": [224, 224],
    "resize": "shorter",
    "shorter": 256,
    "multiple": 1,
    "resample": "bilinear",
    "mean": [127.0, 127.0, 127.0],
    "std": [128.0, 128.0, 128.0],
}


def test_a_record_survives_json_both_ways() -> None:
    read = from_record(json.loads(json.dumps(IMAGENET)))
    assert read == Preprocessing(
        size=(224, 224), resize="shorter", shorter=256, mean=(127.0,) * 3, std=(128.0,) * 3
    )
    assert json.loads(json.dumps(read.to_record())) == IMAGENET


def test_a_free_size_is_null_and_shorter_is_left_out() -> None:
    record = Preprocessing(multiple=4).to_record()
    assert record["size"] is None and record["multiple"] == 4 and "shorter" not in record
    assert from_record(record) == Preprocessing(multiple=4)


def test_what_has_a_default_may_be_left_out() -> None:
    short = {key: IMAGENET[key] for key in ("layout", "color", "size", "mean", "std")} | {"resize": "stretch"}
    assert from_record(short) == Preprocessing(
        size=(224, 224), resize="stretch", mean=(127.0,) * 3, std=(128.0,) * 3
    )


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"layout": "NCWH"}, "layout"),
        ({"layout": 3}, "layout"),
        ({"color": "rgb"}, "color"),
        ({"size": [224]}, "size"),
        ({"size": [224, 0]}, "size"),
        ({"size": [224, 224.0]}, "size"),
        ({"size": 224}, "size"),
        ({"resize": "squash"}, "resize"),
        ({"shorter": 200}, "shorter"),
        ({"shorter": None}, "shorter"),
        ({"shorter": True}, "shorter"),
        ({"resize": "stretch"}, "shorter"),
        ({"multiple": 0}, "multiple"),
        ({"multiple": 3}, "multiple"),
        ({"resample": "bilinaer"}, "resample"),
        ({"mean": 127}, "mean"),
        ({"mean": [1.0, 2.0]}, "mean"),
        ({"mean": [1.0, 2.0, "3"]}, "mean"),
        ({"mean": [1.0, 2.0, float("nan")]}, "mean"),
        ({"std": [1.0, 0.0, 1.0]}, "std"),
        ({"std": [1.0, float("inf"), 1.0]}, "std"),
        ({"size": None, "resize": "letterbox", "shorter": None}, "size"),
        ({"colour": "RGB"}, "colour"),
    ],
)
def test_a_bad_value_is_refused_by_its_key(change: dict[str, object], key: str) -> None:
    with pytest.raises(OptionError, match=f"'{key}'"):
        from_record(IMAGENET | change)


@pytest.mark.parametrize("key", ["layout", "color", "size", "resize", "mean", "std"])
def test_a_missing_key_is_named(key: str) -> None:
    with pytest.raises(OptionError, match=f"'{key}' is missing"):
        from_record({name: value for name, value in IMAGENET.items() if name != key})


def test_a_misspelt_value_gets_a_suggestion() -> None:
    with pytest.raises(OptionError, match="did you mean 'letterbox'"):
        from_record(IMAGENET | {"resize": "leterbox"})


@pytest.mark.parametrize(
    ("shape", "layout", "color", "size"),
    [
        (["N", 3, 224, 192], "NCHW", "RGB", (224, 192)),
        ([None, 224, 192, 3], "NHWC", "RGB", (224, 192)),
        ([1, 1, 28, 28], "NCHW", "GRAY", (28, 28)),
        ([None, 28, 28, 1], "NHWC", "GRAY", (28, 28)),
        (["N", 3, "H", "W"], "NCHW", "RGB", None),
        ([-1, 3, -1, -1], "NCHW", "RGB", None),
        ([1, None, None, 3], "NHWC", "RGB", None),
        (["N", 3, 8, 3], "NCHW", "RGB", (8, 3)),
    ],
)
def test_the_guess_for_an_input(
    shape: list[int | str | None], layout: str, color: str, size: tuple[int, int] | None
) -> None:
    guess = for_input(shape)
    channels = 1 if color == "GRAY" else 3
    assert (guess.layout, guess.color, guess.size) == (layout, color, size)
    assert guess.resize == ("none" if size is None else "stretch")
    assert guess.mean == (0.0,) * channels and guess.std == (255.0,) * channels


@pytest.mark.parametrize(
    "shape", [["N", 10], [3, 224, 224], ["N", 4, 224, 224], ["N", "C", "H", "W"], ["N", 3, 48, "W"], []]
)
def test_no_guess_for_what_is_no_picture(shape: list[int | str | None]) -> None:
    with pytest.raises(ModelError, match="not a batch of pictures"):
        for_input(shape)


def test_the_presets_in_numbers() -> None:
    # torchvision states ImageNet's statistics for [0, 1]: .485 .456 .406 and .229 .224 .225.
    mean, std = PRESETS["imagenet"]
    assert mean == pytest.approx([0.485 * 255, 0.456 * 255, 0.406 * 255], rel=1e-12)
    assert std == pytest.approx([0.229 * 255, 0.224 * 255, 0.225 * 255], rel=1e-12)
    ends = {
        name: [(pixel - PRESETS[name][0][0]) / PRESETS[name][1][0] for pixel in (0, 255)]
        for name in ("raw", "unit", "tf", "lite")
    }
    assert ends == {"raw": [0, 255], "unit": [0, 1], "tf": [-1, 1], "lite": [-127 / 128, 1]}


def test_a_preset_follows_the_order_of_the_channels() -> None:
    plain = Preprocessing(size=(8, 8), resize="stretch")
    assert plain.scaled("caffe").mean == (123.68, 116.779, 103.939)
    bgr = Preprocessing(color="BGR").scaled("caffe")
    assert bgr.mean == (103.939, 116.779, 123.68) and bgr.color == "BGR"
    grey = Preprocessing(color="GRAY", mean=(0.0,), std=(1.0,)).scaled("imagenet")
    assert grey.mean == pytest.approx([(123.675 + 116.28 + 103.53) / 3])
    assert plain.scaled("tf").size == (8, 8)


def test_an_unknown_preset_gets_a_suggestion() -> None:
    with pytest.raises(OptionError, match="did you mean 'imagenet'"):
        Preprocessing().scaled("imagnet")
