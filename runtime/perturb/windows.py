"""Where windows lie, and the mean of what they say."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from ...rules.checks import both
from .probing import Places
from .technique import Sides, vet_window

Doubles: TypeAlias = npt.NDArray[np.float64]


def corners(size: tuple[int, int], window: Sides, stride: Sides = 1) -> Places:
    """The windows of a picture, (P, 2), row by row. The last of a row or column is shifted inside where the stride does
    not meet the border, so that every pixel is covered. OptionError for a window larger than the picture."""
    vet_window(size, window)
    rows, columns = (
        np.unique([*range(0, n - k, step), n - k])
        for n, k, step in zip(size, both(window), both(stride), strict=True)
    )
    grid = np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1)
    return np.asarray(grid.reshape(-1, 2), np.int64)


def average(places: Places, window: Sides, values: Doubles, size: tuple[int, int]) -> Doubles:
    """WE / counts: the mean of values (P, classes) over the windows that cover a pixel, (classes, height, width); 0
    where none does."""
    total = np.zeros((values.shape[1], *size))
    counts = np.zeros(size)
    high, wide = both(window)
    for (r, c), value in zip(places, values, strict=True):
        total[:, r : r + high, c : c + wide] += value[:, None, None]
        counts[r : r + high, c : c + wide] += 1
    return np.asarray(total / np.maximum(counts, 1))


__all__ = ["average", "corners"]
