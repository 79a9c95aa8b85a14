"""Bicubic interpolation as a network (docs/methods/linearscope.md): F is known without any model.

Navarrete et al. Fig. 11.

Tolerance: 1e-6. The weights of cubic interpolation are float32 numbers of size 1 (measured: 2.4e-7)."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray

import onnxplain
from onnxplain.models import superresolution
from onnxplain.runtime.explainer import Explainer

SIDE, SCALE = 10, 4
BOUND = 1e-6
X = np.random.default_rng(0).uniform(-3, 3, (2, 1, SIDE, SIDE)).astype(np.float32)


@cache
def compiled(what: str) -> Explainer:
    model = superresolution.bicubic(scale=SCALE, channels=1, size=SIDE)
    options = {"target": "cotangent"} if what == "rows" else {}
    return onnxplain.compile(model, f"linearscope.{what}", threads=1, **options)  # type: ignore[arg-type]


@cache
def columns(sample: int) -> NDArray[np.float32]:
    """Every column as a picture: (height, width of the pixel, 4 side, 4 side)."""
    units = np.eye(SIDE * SIDE, dtype=np.float32).reshape(-1, 1, SIDE, SIDE)
    found = compiled("columns")(X[sample : sample + 1], tangent=units).results["response"]
    return np.asarray(found.reshape(SIDE, SIDE, SCALE * SIDE, SCALE * SIDE))


def cubic(t: NDArray[np.float64], a: float = -0.5) -> NDArray[np.float64]:
    """Keys' kernel."""
    t = np.abs(t)
    near = (a + 2) * t**3 - (a + 3) * t**2 + 1
    far = a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a
    return np.asarray(np.where(t <= 1, near, np.where(t < 2, far, 0.0)))


def along() -> NDArray[np.float64]:
    """The matrix of one axis, (4 side, side), places outside the picture being those at its edge."""
    centre = (np.arange(SCALE * SIDE) + 0.5) / SCALE - 0.5
    matrix = np.zeros((SCALE * SIDE, SIDE))
    for shift in range(-1, 3):
        at = np.floor(centre).astype(int) + shift
        np.add.at(matrix, (np.arange(len(at)), np.clip(at, 0, SIDE - 1)), cubic(centre - at))
    return matrix


def test_f_is_the_kernel_of_keys() -> None:
    matrix = along()
    wanted = np.einsum("ih,jw->hwij", matrix, matrix)
    assert np.abs(columns(0) - wanted).max() <= BOUND


def test_f_does_not_depend_on_the_picture() -> None:
    assert np.abs(X[0] - X[1]).max() > 1
    assert np.array_equal(columns(0), columns(1))


def test_nothing_remains() -> None:
    assert not compiled("residual")(X).results["residual"].any()


def test_interior_columns_are_shifted_copies() -> None:
    """A pixel further down (right) moves its column by 4: the same kernel everywhere, 3 pixels from the edges on."""
    inner = range(3, SIDE - 3)
    first = columns(0)[3, 3]
    for i in inner:
        for j in inner:
            shifted = np.roll(first, (SCALE * (i - 3), SCALE * (j - 3)), (0, 1))
            assert np.abs(columns(0)[i, j] - shifted).max() <= BOUND
    assert np.abs(columns(0)[0, 0] - np.roll(first, (-12, -12), (0, 1))).max() > 0.1  # the edge is no copy


@pytest.mark.parametrize("by", ["columns", "rows"])
def test_each_row_sums_to_one(by: str) -> None:
    if by == "columns":
        sums = columns(0).sum((0, 1), dtype=np.float64)
    else:
        y = np.zeros((5, 1, SCALE * SIDE, SCALE * SIDE), np.float32)
        places = [(0, 0), (0, 21), (39, 39), (17, 18), (20, 3)]
        for k, (i, j) in enumerate(places):
            y[k, 0, i, j] = 1
        rows = compiled("rows")(X[:1], cotangent=y).attribution
        for k, (i, j) in enumerate(places):
            assert np.abs(rows[k, 0] - columns(0)[:, :, i, j]).max() <= BOUND
        sums = rows.sum((1, 2, 3), dtype=np.float64)
    assert np.abs(sums - 1).max() <= BOUND


def test_f_x_is_the_output() -> None:
    result = compiled("columns")(X, tangent=X)
    (y,) = result.outputs.values()
    assert np.abs(result.results["response"] - y).max() <= 4 * BOUND
