"""The page's modules give the numbers of Python: prepared pixels to the bit, readouts and colours to a level."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
from PIL import Image

from onnxplain.runtime.images import prepare
from onnxplain.runtime.preprocess import Preprocessing
from onnxplain.runtime.render import back_projection, heat, readout, signed
from tests.web.browsing import call

RNG = np.random.default_rng(3)
RESAMPLES = ("nearest", "bilinear", "bicubic", "lanczos")


def picture(height: int, width: int) -> Image.Image:
    """Noise with flat parts and hard edges: filters overshoot there, and clipping shows."""
    pixels = RNG.integers(0, 256, (height, width, 3), np.uint8)
    pixels[: height // 3] = 255
    pixels[:, : width // 4] = 0
    return Image.fromarray(pixels)


def typed(kind: str, values: Any) -> dict[str, Any]:
    return {"$": kind, "data": np.asarray(values).ravel().tolist()}


def given(image: Image.Image) -> dict[str, Any]:
    return {
        "width": image.width,
        "height": image.height,
        "data": typed("Uint8ClampedArray", np.asarray(image)),
    }


def tensor(values: np.ndarray) -> dict[str, Any]:
    return {"values": typed("Float32Array", values), "dims": list(values.shape)}


IMAGENET: dict[str, Any] = {"mean": (123.675, 116.28, 103.53), "std": (58.395, 57.12, 57.375)}
RECORDS = [
    *(Preprocessing(size=(23, 31), resize="stretch", resample=name, **IMAGENET) for name in RESAMPLES),
    *(Preprocessing(size=(24, 24), resize="shorter", shorter=27, resample=name) for name in RESAMPLES),
    *(Preprocessing(size=(40, 33), resize="letterbox", resample=name) for name in RESAMPLES),
    Preprocessing(size=None, multiple=8),
    Preprocessing(size=None, resize="shorter", shorter=25, multiple=4, resample="bicubic"),
    Preprocessing(layout="NHWC", color="BGR", size=(20, 20), resize="stretch", **IMAGENET),
    Preprocessing(color="GRAY", size=(28, 28), resize="stretch", mean=(33.3,), std=(78.6,)),
]


def test_pictures_are_prepared_as_in_python(tmp_path: Path) -> None:
    """Bit for bit: down, up, wide and high pictures, every rule, resampling, layout and colour order."""
    cases = [
        (image, record)
        for image in (picture(61, 47), picture(19, 90), picture(12, 9), picture(33, 33))
        for record in RECORDS
    ]
    found = call(
        tmp_path,
        [
            ("preprocess.js", "prepare", (given(image), record.to_record(), PIL.__version__))
            for image, record in cases
        ],
    )
    for (image, record), made in zip(cases, found, strict=True):
        try:
            values, shown = prepare(image, record)
        except Exception as error:
            assert "too small" in str(error) and "too small" in made["error"]
            continue
        where = f"{image.size} {record}"
        assert made["value"]["dims"] == list(values.shape), where
        mine = np.asarray(made["value"]["values"], np.float32).reshape(values.shape)
        np.testing.assert_array_equal(mine, values, where)
        data = np.asarray(made["value"]["shown"]["data"]).reshape(np.asarray(shown).shape)
        np.testing.assert_array_equal(data, np.asarray(shown), where)


def test_resizing_is_that_of_pillow(tmp_path: Path) -> None:
    """Bit for bit, whichever of the two passes Pillow takes first: that depends on the sizes and on its version."""
    sizes = RNG.integers(8, 70, (60, 4)).tolist()
    sizes += [(47, 61, 31, 23), (60, 60, 59, 57), (60, 60, 59, 58), (30, 30, 60, 15), (30, 30, 30, 10)]
    cases = [
        (picture(high, wide), (to_wide, to_high), RESAMPLES[i % 4])
        for i, (wide, high, to_wide, to_high) in enumerate([*sizes, *sizes])
    ]
    version = int(PIL.__version__.split(".")[0])
    found = call(
        tmp_path,
        [("pillow.js", "resize", (given(image), *size, name, version)) for image, size, name in cases],
    )
    for (image, size, name), made in zip(cases, found, strict=True):
        wanted = np.asarray(image.resize(size, Image.Resampling[name.upper()]))
        mine = np.asarray(made["value"]["data"]).reshape(wanted.shape)
        np.testing.assert_array_equal(mine, wanted, f"{image.size} -> {size} {name}")


def test_a_picture_of_the_wrong_size_is_refused(tmp_path: Path) -> None:
    (made,) = call(
        tmp_path,
        [("preprocess.js", "prepare", (given(picture(10, 12)), Preprocessing(size=(9, 9)).to_record()))],
    )
    assert "12 × 10" in made["error"] and "9 × 9" in made["error"]


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_maps_have_the_colours_of_python(tmp_path: Path, layout: str) -> None:
    """Levels may differ by one: sums run in another order."""
    m = (RNG.normal(size=(1, 3, 17, 13)) ** 3).astype(np.float32)
    axis, record = 1, {"layout": layout, "color": "BGR"}
    if layout == "NHWC":
        m, axis = np.ascontiguousarray(m.transpose(0, 2, 3, 1)), 3
    wanted = {
        ("maxabs", "absolute"): heat(readout("maxabs", m, layout)[0]),
        ("maxabs", "signed"): signed(readout("sum", m, layout)[0]),
        ("sum,sym", "method"): signed(readout("sum", m, layout)[0]),
        ("sym", "method"): signed(m[0].mean(axis=axis - 1)),
        ("max", "method"): heat(readout("maxabs", m, layout)[0], percentile=100.0),
        ("maxabs", "method"): heat(readout("maxabs", m, layout)[0]),
        ("centre", "method"): back_projection(m, layout, "BGR"),
    }
    found = call(tmp_path, [("readout.js", "picture", (tensor(m), record, *key)) for key in wanted])
    for (key, image), made in zip(wanted.items(), found, strict=True):
        pixels = made["value"]["pixels"]
        data = np.asarray(pixels["data"]).reshape(pixels["height"], pixels["width"], 4)
        difference = np.abs(data[..., :3].astype(int) - np.asarray(image).astype(int))
        # A value on the border of two entries of jet may fall to either: few pixels, one entry (5 levels).
        assert difference.max() <= 5 and (difference > 1).mean() <= 0.01, key


def test_a_map_of_zeros_has_the_colour_of_zero(tmp_path: Path) -> None:
    zeros = np.zeros((1, 3, 4, 4), np.float32)
    record = {"layout": "NCHW", "color": "RGB"}
    found = call(
        tmp_path,
        [("readout.js", "picture", (tensor(zeros), record, "maxabs", mode)) for mode in ("method", "signed")],
    )
    colours = [made["value"]["pixels"]["data"][:3] for made in found]
    assert colours == [[0, 0, 128], [255, 255, 255]]


def test_saved_numbers_are_read_by_numpy(tmp_path: Path) -> None:
    arrays = [RNG.normal(size=shape).astype(np.float32) for shape in ((1, 3, 5, 7), (4,), (1, 1000))]
    found = call(tmp_path, [("npy.js", "npy", (tensor(array),)) for array in arrays])
    for array, made in zip(arrays, found, strict=True):
        read = np.load(io.BytesIO(bytes(made["value"])), allow_pickle=False)
        np.testing.assert_array_equal(read, array)
        assert read.shape == array.shape


def test_probabilities(tmp_path: Path) -> None:
    logits = np.array([1.0, 3.0, -2.0, 700.0, 699.0], np.float32)
    found = call(
        tmp_path,
        [
            ("readout.js", "probabilities", (typed("Float32Array", logits), None)),
            ("readout.js", "probabilities", (typed("Float32Array", [0.25, 0.75]), None)),
            ("readout.js", "probabilities", (typed("Float32Array", np.log([0.25, 0.75])), "LogSoftmax")),
            ("readout.js", "probabilities", (typed("Float32Array", [-2.5]), None)),
            ("readout.js", "probabilities", (typed("Float32Array", [0.25]), "Sigmoid")),
            ("readout.js", "lone", (typed("Float32Array", [-2.5]), None)),
            ("readout.js", "lone", (typed("Float32Array", [0.25]), "Sigmoid")),
        ],
    )
    assert [list(one["value"]) for one in found[3:5]] == [[-2.5], [0.25]]  # one number is no class of several
    assert [one["value"] for one in found[5:]] == [True, False]
    np.testing.assert_allclose(found[0]["value"][3:], [1 / (1 + np.exp(-1)), 1 / (1 + np.exp(1))], rtol=1e-6)
    np.testing.assert_allclose(found[1]["value"], [0.25, 0.75])
    np.testing.assert_allclose(found[2]["value"], [0.25, 0.75], rtol=1e-6)


def test_noise_is_unit_normal_and_repeats(tmp_path: Path) -> None:
    found = [
        made["value"]
        for made in call(tmp_path, [("engine.js", "normal", (4000, seed)) for seed in (0, 0, 1)])
    ]
    assert found[0] == found[1] != found[2]
    # Four standard errors of the mean and of the deviation of 4000 draws.
    assert abs(np.mean(found[0])) < 4 / np.sqrt(4000) and abs(np.std(found[0]) - 1) < 4 / np.sqrt(8000)
