"""Shipped models: the very files that were checked, with records that prepare a photo the way they need."""

from __future__ import annotations

import hashlib
import re
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from onnxplain import models

Array = NDArray[np.float32]

SHA256 = {
    "efficientnet_lite0": "e9ab22cccec544477bb4fc3e58e4b9e3be27a4f0fa5068935a9a6ba5322f6cfc",
    "esrgan_slim_x4": "d96cee0391560dbcd0c4e6d624421447f86387bbc48f14a30257421ccc607655",
    "mnist_lenet": "3075f4ba56ac0db892df24c7aa390a62267c52e3854bade92e94ae7e9276d08e",
    "selfie_segmentation": "4dac231c55e0ba65c37e75b91ace04101944b310184ec885eee8e9a77106b9c7",
    "style07_instancenorm": "ce805b55a28bd76340b909f06d9f7a9cc2407dad6c19e16e42d388b054114976",
    "tiny_yolov2_face": "bcb0504b7d1abdca4df8436e12f0e923e17624d0fbb7354f338f004555a6bb1a",
}
PHOTOS = {
    "astronaut",
    "cat_chelsea",
    "china_palace",
    "coffee",
    "frying_pan",
    "goldfish",
    "grace_hopper",
    "panda",
    "rocket",
    "volleyball",
}


def preprocessing(name: str) -> dict[str, Any]:
    entries = models.record(models.path(name))
    assert entries is not None
    found = entries["preprocessing"]
    assert isinstance(found, dict)
    return found


def prepare(name: str, picture: Image.Image) -> Array:
    """The record's steps, written out a second time with Pillow: [1, C, H, W]."""
    steps = preprocessing(name)
    picture = picture.convert({"RGB": "RGB", "GRAY": "L"}[steps["color"]])
    height, width = steps["size"] or (picture.height, picture.width)
    if steps["resize"] == "stretch":
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    elif steps["resize"] == "shorter":
        scale = steps["shorter"] / min(picture.size)
        picture = picture.resize(
            (round(picture.width * scale), round(picture.height * scale)), Image.Resampling.BILINEAR
        )
        left, top = (picture.width - width) // 2, (picture.height - height) // 2
        picture = picture.crop((left, top, left + width, top + height))
    elif steps["resize"] == "letterbox":
        scale = min(width / picture.width, height / picture.height)
        fitted = picture.resize(
            (round(picture.width * scale), round(picture.height * scale)), Image.Resampling.BILINEAR
        )
        picture = Image.new("RGB", (width, height))
        picture.paste(fitted, (0, 0))
    else:
        step = steps["multiple"]
        picture = picture.crop((0, 0, picture.width // step * step, picture.height // step * step))
    pixels = np.asarray(picture, np.float32).reshape(picture.height, picture.width, -1)
    x = (pixels - np.array(steps["mean"], np.float32)) / np.array(steps["std"], np.float32)
    return np.ascontiguousarray(x.transpose(2, 0, 1)[None], np.float32)


def run(name: str, x: Array) -> Array:
    session = ort.InferenceSession(str(models.path(name)), providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {"image": x})
    return np.asarray(y, np.float32)


def shot(name: str) -> Image.Image:
    with Image.open(models.photo(name)) as picture:
        return picture.convert("RGB")


def test_the_list_is_complete() -> None:
    assert models.names() == sorted(SHA256)
    folder = models.photo("panda").parent
    assert {file.stem for file in folder.iterdir()} == PHOTOS


@pytest.mark.parametrize("name", SHA256)
def test_file_is_the_one_that_was_checked(name: str) -> None:
    assert hashlib.sha256(models.path(name).read_bytes()).hexdigest() == SHA256[name]


@pytest.mark.parametrize("name", SHA256)
def test_model_is_valid_and_its_record_fits_its_input(name: str) -> None:
    model = onnx.load(models.path(name))
    onnx.checker.check_model(model, full_check=True)
    steps = preprocessing(name)
    _, channels, *sides = (dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim)
    assert channels == len(steps["mean"]) == len(steps["std"])
    assert (steps["size"] or [0, 0]) == sides  # a free side is 0


@pytest.mark.parametrize("name", SHA256)
def test_every_file_is_in_the_licence_table(name: str) -> None:
    table = (models.path(name).parent / "LICENSES.md").read_text(encoding="utf-8")
    rows = set(re.findall(r"^\| `([^`]+)`", table, re.MULTILINE))
    assert f"{name}.onnx" in rows
    assert {f"photos/{photo}.jpg" for photo in PHOTOS} | {"labels_imagenet1k.txt"} <= rows


@pytest.mark.parametrize(
    ("photo", "label"),
    [
        ("goldfish", "goldfish"),
        ("panda", "giant panda"),
        ("coffee", "espresso"),
        ("volleyball", "volleyball ball"),
    ],
)
def test_efficientnet_names_the_photo(photo: str, label: str) -> None:
    names = models.labels(models.path("efficientnet_lite0"))
    assert names is not None and len(names) == 1000
    logits = run("efficientnet_lite0", prepare("efficientnet_lite0", shot(photo)))
    assert names[int(logits.argmax())] == label


def test_lenet_reads_drawn_strokes() -> None:
    names = models.labels(models.path("mnist_lenet"))
    assert names == list("0123456789")
    one, zero = Image.new("L", (112, 112)), Image.new("L", (112, 112))
    ImageDraw.Draw(one).line([(56, 20), (56, 92)], fill=255, width=10)
    ImageDraw.Draw(zero).ellipse([36, 20, 76, 92], outline=255, width=10)
    logits = np.concatenate([run("mnist_lenet", prepare("mnist_lenet", digit)) for digit in (one, zero)])
    assert logits.argmax(axis=1).tolist() == [1, 0]


def test_esrgan_restores_a_shrunk_photo_in_pixel_units() -> None:
    sharp = shot("cat_chelsea").crop((100, 60, 292, 252))
    x = prepare("esrgan_slim_x4", sharp.resize((48, 48), Image.Resampling.BOX))
    y = run("esrgan_slim_x4", x)[0].transpose(1, 2, 0)
    error = np.sqrt(np.mean((y - np.asarray(sharp, np.float32)) ** 2))
    # Measured 10.5 grey levels, as bicubic enlargement (10.2); input taken as -1..1 gives 19.7.
    assert error < 13


def test_face_detector_finds_the_face_and_not_the_cat() -> None:
    scores = {}
    for photo in ("grace_hopper", "cat_chelsea"):
        grid = run("tiny_yolov2_face", prepare("tiny_yolov2_face", shot(photo)))
        scores[photo] = 1 / (1 + np.exp(-grid.reshape(5, 5, 13, 13)[:, 4].max()))
    assert scores["grace_hopper"] > 0.9
    assert scores["cat_chelsea"] < 0.1


def test_selfie_mask_covers_the_person_and_not_the_corner() -> None:
    mask = run("selfie_segmentation", prepare("selfie_segmentation", shot("grace_hopper")))[0, 0]
    assert mask[100:160, 100:156].mean() > 0.9
    assert mask[:40, :40].mean() < 0.1


def test_style_net_keeps_the_size_cut_to_a_multiple_of_four() -> None:
    small = shot("coffee").resize((98, 66))
    y = run("style07_instancenorm", prepare("style07_instancenorm", small))
    assert y.shape == (1, 3, 64, 96)
    assert y.min() >= 0 and y.max() <= 1 and y.std() > 0.05


def test_names_may_carry_the_suffix() -> None:
    assert models.path("mnist_lenet.onnx") == models.path("mnist_lenet")
    assert models.photo("panda.jpg") == models.photo("panda")


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(FileNotFoundError, match="did you mean 'efficientnet_lite0'"):
        models.path("efficient_net")
    with pytest.raises(FileNotFoundError, match="did you mean 'panda'"):
        models.photo("pandas")
    with pytest.raises(FileNotFoundError, match="no shipped model"):
        models.path("../models/mnist_lenet")
