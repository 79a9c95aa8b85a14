"""Segments of a grid, of an array and of scikit-image."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from onnx import helper
from PIL import Image

from onnxplain import OptionError, models
from onnxplain.runtime.perturb.probing import Asked, Prober
from onnxplain.runtime.perturb.segments import SegmentSettings, grid_labels, painted, partition, switched
from tests.runtime.perturb.masking import (
    CONVOLUTIONAL,
    IMAGE,
    SIZE,
    close,
    linear,
    linear_model,
    stored,
    weights,
)
from tests.runtime.small import model_of


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_the_grid_is_that_of_the_golden_copies(name: str) -> None:
    known = stored(name)["lime_segments"]
    np.testing.assert_array_equal(grid_labels(known.shape, round(np.sqrt(known.max() + 1))), known)


@pytest.mark.parametrize(("size", "grid"), (((9, 10), 4), ((7, 7), 7), ((224, 224), 8), ((5, 31), 1)))
def test_rectangles_of_nearly_one_size(size: tuple[int, int], grid: int) -> None:
    labels = grid_labels(size, grid)
    np.testing.assert_array_equal(np.unique(labels), np.arange(grid**2))
    for sides in (np.bincount(labels[:, 0] // grid), np.bincount(labels[0])):
        assert sides.max() - sides.min() <= 1


def test_labels_are_numbered_in_order() -> None:
    given = np.full(SIZE[1:], 7)
    given[0], given[3:, 4] = -2, 100
    found = partition(linear(), SegmentSettings(segments=given))
    assert (
        found.dtype == np.int64 and (found[0] == 0).all() and (found[3:, 4] == 2).all() and found[1, 1] == 1
    )


@pytest.mark.parametrize(
    ("given", "words"),
    (
        ({"segments": np.zeros((10, 9), int)}, "labels of shape [10, 9] for an image of 9 x 10"),
        ({"segments": np.zeros(SIZE, int)}, "labels of shape [3, 9, 10]"),
        ({"segments": np.zeros(SIZE[1:])}, "labels are integers, not float64"),
        ({"segments": "slik"}, "did you mean 'slic'"),
        ({"grid": 10}, "grid=10 is larger than the image, 9 x 10"),
        ({"grid": 0}, "grid=0"),
        ({"value": "grey"}, "value='grey'"),
    ),
)
def test_bad_segments(given: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError) as error:
        partition(linear(), SegmentSettings(**given))
    assert words in str(error.value)


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skimage.segmentation", None)
    for name in ("slic", "quickshift"):
        with pytest.raises(OptionError, match="needs scikit-image, which is not installed"):
            partition(linear(), SegmentSettings(segments=name))


def test_the_library_sees_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mean and std are undone, BGR is turned, the range is [0, 1]; without them the input is stretched to it."""
    pixels = np.random.default_rng(2).integers(0, 256, (*SIZE[1:], 3)).astype(np.float64)
    mean, std = np.array([10.0, 20.0, 30.0]), np.array([50.0, 60.0, 70.0])
    array = ((pixels[:, :, ::-1] - mean) / std).astype(np.float32).transpose(2, 0, 1)[None]
    seen: list[Any] = []

    def slic(picture: Any, **_: Any) -> Any:
        seen.append(picture)
        return np.ones(picture.shape[:2], int)

    monkeypatch.setitem(sys.modules, "skimage.segmentation", SimpleNamespace(slic=slic))
    about = {"mean": mean.tolist(), "std": std.tolist(), "color": "BGR"}
    for preprocessing in (about, None):
        prober = Prober(linear_model(), array, Asked(score="output", preprocessing=preprocessing))
        assert not partition(prober, SegmentSettings(segments="slic")).any()
    np.testing.assert_allclose(seen[0], pixels / 255, atol=1e-5)
    assert seen[1].shape == (*SIZE[1:], 3) and seen[1].min() == 0 and seen[1].max() == 1


@pytest.mark.parametrize("name", ("slic", "quickshift"))
def test_scikit_image_on_a_photo(name: str) -> None:
    """The same as the library gives for the pixels in [0, 1]."""
    kit = pytest.importorskip("skimage.segmentation")
    pixels = np.asarray(Image.open(models.photo("cat_chelsea")).convert("RGB").resize((60, 50)), np.float64)
    about = {"mean": [127.0] * 3, "std": [128.0] * 3, "layout": "NHWC"}
    nodes = [helper.make_node("ReduceMean", ["x", "axes"], ["means"], keepdims=0)]
    mean_colour = model_of(nodes, {"x": ["N", 50, 60, 3]}, {"means": ["N", 3]}, {"axes": np.array([1, 2])})
    array = ((pixels[None] - 127) / 128).astype(np.float32)
    prober = Prober(mean_colour, array, Asked(score="output", preprocessing=about))
    labels = partition(prober, SegmentSettings(segments=name))
    known = (
        kit.slic(pixels / 255)
        if name == "slic"
        else kit.quickshift(pixels / 255, kernel_size=4, max_dist=200, ratio=0.2)
    )
    np.testing.assert_array_equal(np.unique(labels), np.arange(labels.max() + 1))
    assert labels.max() >= 2
    # float32 inputs: a pixel may go to the other side of a border
    assert np.mean(labels == np.unique(known, return_inverse=True)[1].reshape(50, 60)) > 0.99


def test_segments_are_switched_off() -> None:
    labels = grid_labels(SIZE[1:], 2)
    on = np.array([[1, 1, 1, 1], [0, 1, 1, 0], [0, 0, 0, 0]], bool)
    found = switched(linear(batch=2), on, labels, -0.5, [1])
    known = [(weights(1) * np.where(row[labels], IMAGE[0], -0.5)).sum() for row in on]
    close(found[:, 0], known, 1e-5)


def test_painting() -> None:
    labels = grid_labels((4, 6), 2)
    values = np.array([[1.0, 2.0, 3.0, 4.0]])
    np.testing.assert_array_equal(painted(values, labels)[0], np.kron([[1, 2], [3, 4]], np.ones((2, 3))))


def test_how_many_are_expected() -> None:
    assert SegmentSettings(grid=5).expected() == 25
    assert SegmentSettings(segments=np.array([[3, 3], [9, 1]])).expected() == 3
