"""RISE: its masks against torch's interpolation, its maps against the formula."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from onnxplain import OptionError
from onnxplain.rules.masks import enlarging
from onnxplain.runtime.perturb.rise import RISE, RiseSettings, rise_masks
from onnxplain.runtime.perturb.technique import perform
from tests.runtime.perturb.masking import (
    IMAGE,
    SIZE,
    WEIGHT,
    Array,
    close,
    constant,
    golden,
    heard,
    linear,
    weights,
)

HW = SIZE[1:]


@pytest.mark.parametrize(("cells", "length"), ((7, 224), (7, 28), (3, 10), (1, 5), (4, 4)))
def test_enlarging_is_bilinear(cells: int, length: int) -> None:
    torch = pytest.importorskip("torch")
    pixels = (cells + 1) * -(-length // cells)
    assert pixels >= length + -(-length // cells)  # room for every offset
    known = torch.nn.functional.interpolate(
        torch.eye(cells)[:, None], size=pixels, mode="linear", align_corners=False
    )
    np.testing.assert_allclose(enlarging(cells, length), known[:, 0].numpy().T, atol=1e-6)
    np.testing.assert_allclose(enlarging(cells, length).sum(1), 1, atol=1e-6)


def test_a_mask_is_a_shifted_enlargement() -> None:
    """Undo one mask: some cells and one of the offsets explain it."""
    s = RiseSettings(grid=3)
    rows, columns = enlarging(3, HW[0]), enlarging(3, HW[1])
    for mask in rise_masks(np.arange(5), HW, s):
        errors = []
        for r in range(3):
            for c in range(4):
                a, b = rows[r : r + HW[0]], columns[c : c + HW[1]]
                cells = np.linalg.pinv(a) @ mask @ np.linalg.pinv(b.T)
                on = np.abs(cells - cells.round()).max() < 1e-3 and set(cells.round().ravel()) <= {0.0, 1.0}
                errors.append(np.abs(a @ cells @ b.T - mask).max() if on else 1.0)
        assert min(errors) < 1e-5


def test_masks_depend_on_their_number_and_the_seed() -> None:
    s = RiseSettings(seed=3)
    many = rise_masks(np.arange(20), (28, 28), s)
    assert many.dtype == np.float32 and many.min() >= 0 and many.max() <= 1
    np.testing.assert_array_equal(rise_masks(np.array([17, 4, 17]), (28, 28), s), many[[17, 4, 17]])
    assert not np.array_equal(rise_masks(np.array([4]), (28, 28), RiseSettings(seed=4)), many[4:5])
    assert len(np.unique(many.reshape(20, -1), axis=0)) == 20


@pytest.mark.parametrize("p", (0.2, 0.5, 0.9))
def test_the_mean_of_a_pixel_is_p(p: float) -> None:
    n = 2000
    found = rise_masks(np.arange(n), HW, RiseSettings(p=p, grid=3)).mean(0)
    assert np.abs(found - p).max() < 5 * np.sqrt(p * (1 - p) / n)  # 5 σ of a pixel that is one cell


def test_the_formula_on_a_linear_model() -> None:
    s: dict[str, Any] = {"n": 50, "grid": 3, "p": 0.4, "seed": 5, "value": 0.2}
    masks = rise_masks(np.arange(50), HW, RiseSettings(**s)).astype(np.float64)
    found = perform(linear(), RISE, [0, 1], **s)
    for c in (0, 1):
        scores = np.array([(weights(c) * (IMAGE[0] * m + 0.2 * (1 - m))).sum() for m in masks])
        close(found.maps[c], np.tensordot(scores, masks, 1) / (0.4 * 50), 1e-5)


def _one_pixel(r: int, c: int) -> Array:
    weight = np.zeros((*SIZE, 2), np.float32)
    weight[0, r, c, 0] = 1 / IMAGE[0, 0, r, c]
    return weight.reshape(WEIGHT.shape)


def test_one_pixel_is_found() -> None:
    """f(x M) = M_i, so S_j -> E[M_i M_j] / p = p + (1 - p) E[sum over cells of their shares in i and j]."""
    p, n, (r, c) = 0.5, 4000, (4, 6)
    found = perform(linear(batch=500, weight=_one_pixel(r, c)), RISE, [0], n=n, grid=3, p=p).maps[0]
    rows, columns = enlarging(3, HW[0]), enlarging(3, HW[1])
    shared = np.zeros(HW)
    for i in range(3):
        for j in range(4):
            a, b = rows[i : i + HW[0]], columns[j : j + HW[1]]
            shared += np.outer(a @ a[r], b @ b[c]) / 12
    known = p + (1 - p) * shared
    assert np.abs(found - known).max() < 5 / np.sqrt(n)  # a product in [0, 1] over p: σ below 1
    assert found[r, c] > found[0, 0] + 0.1


def test_a_constant_classifier() -> None:
    """S = f mean(M) / p: no pixel stands out but by chance; and exactly the mean of the masks."""
    found = perform(constant(), RISE, n=64, grid=3).maps[0]
    close(found, 0.7 * rise_masks(np.arange(64), HW, RiseSettings(grid=3)).mean(0) / 0.5, 1e-5)


def test_the_batch_does_not_matter() -> None:
    maps = [perform(golden("cnn_bias", batch=n), RISE, [0, 2], n=40, grid=3).maps for n in (1, 7, 64)]
    close(maps[1], maps[0], 1e-5)
    close(maps[2], maps[0], 1e-5)


def test_forwards_are_known_and_told() -> None:
    calls, tell = heard()
    found = perform(linear(batch=8), RISE, None, tell, n=20, grid=3)
    assert calls == [(8, 20), (16, 20), (20, 20)]
    assert found.forwards == found.record["expected_forwards"] == 20


@pytest.mark.parametrize(
    ("settings", "words"),
    (
        ({"grid": 10}, "grid=10 is larger than the image, 9 x 10"),
        ({"p": 0}, "p=0"),
        ({"p": 1.0}, "p=1.0"),
        ({"p": float("nan")}, "p=nan"),
        ({"n": 0}, "n=0"),
        ({"seed": -1}, "seed=-1"),
        ({"value": "grey"}, "value='grey'"),
    ),
)
def test_bad_settings(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError) as error:
        perform(linear(), RISE, **settings)
    assert words in str(error.value)
