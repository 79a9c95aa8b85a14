"""What is shown in place of what is taken away."""

from __future__ import annotations

import numpy as np
import pytest

from onnxplain import OptionError
from onnxplain.runtime.perturb.backdrop import backdrop, blurred, check_backdrop, segment_means
from tests.runtime.perturb.masking import IMAGE, SIZE


@pytest.mark.parametrize("sigma", (0.7, 2.0, 5.0))
def test_the_blur_is_that_of_scipy(sigma: float) -> None:
    scipy = pytest.importorskip("scipy.ndimage")
    radius = max(1, int(np.ceil(3 * sigma)))
    known = IMAGE[0].astype(np.float64)
    for axis in (1, 2):
        known = scipy.gaussian_filter1d(known, sigma, axis, mode="nearest", radius=radius)
    np.testing.assert_allclose(blurred(IMAGE[0], sigma), known, atol=1e-6)  # rounded to float32


def test_spellings_of_the_blur() -> None:
    np.testing.assert_array_equal(backdrop(IMAGE[0], "blur:2"), blurred(IMAGE[0], 2.0))
    np.testing.assert_array_equal(backdrop(IMAGE[0], "blur"), blurred(IMAGE[0], 1.0))
    large = np.broadcast_to(IMAGE[0], SIZE).repeat(10, 1).repeat(10, 2)
    np.testing.assert_array_equal(backdrop(large, "blur"), blurred(large, 5.0))


def test_a_flat_picture_stays_flat() -> None:
    flat = np.full((2, 5, 6), 0.3, np.float32)
    for value in ("blur", "mean", "segment"):
        labels = np.arange(30).reshape(5, 6) // 7
        np.testing.assert_allclose(backdrop(flat, value, labels), flat, rtol=1e-6)


def test_segments_have_their_mean_colour() -> None:
    labels = np.arange(90).reshape(9, 10) // 13
    found = segment_means(IMAGE[0], labels)
    for label in range(labels.max() + 1):
        for plane, known in zip(found, IMAGE[0], strict=True):
            np.testing.assert_allclose(plane[labels == label], known[labels == label].mean(), rtol=1e-5)


@pytest.mark.parametrize(
    "value", ("segment", "blur:", "blur:-1", "blur:x", "gray", True, None, (), [[1.0]], np.inf)
)
def test_what_is_no_colour(value: object) -> None:
    with pytest.raises(OptionError, match="value="):
        check_backdrop(value)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", (0, 1.5, -2, (0.1, 0.2, 0.3), "mean", "blur", "blur:3.5", np.float32(2)))
def test_what_is_a_colour(value: object) -> None:
    check_backdrop(value)  # type: ignore[arg-type]
