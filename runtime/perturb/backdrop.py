"""What stands in place of the pixels that a perturbation takes away."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from ...rewriter.errors import OptionError, nearest
from ...rules.baselines import SHARE, gaussian
from .probing import Array

Labels: TypeAlias = npt.NDArray[np.int64]
Backdrop: TypeAlias = float | str | tuple[float, ...]
"""A number or one a channel (in the model's input space), "mean", "blur", "blur:SIGMA" or "segment"."""

NAMES = ("mean", "blur")
SEGMENT = "segment"


def check_backdrop(value: Backdrop, more: Sequence[str] = ()) -> None:
    """OptionError unless value is a `Backdrop`; more: names that are taken beside mean and blur."""
    if isinstance(value, str):
        head, colon, tail = value.partition(":")
        if value not in (*NAMES, *more) and not (head == "blur" and colon and _positive(tail)):
            known = (*NAMES, "blur:SIGMA", *more)
            raise OptionError(
                f"value={value!r} is no colour{nearest(value, known)}; give a number, one a channel, or one of "
                f"{', '.join(known)} (SIGMA above 0, in pixels)"
            )
        return
    if isinstance(value, bool) or np.ndim(value) > 1 or not _finite(value):
        raise OptionError(f"value={value!r} is neither a finite number nor one a channel")


def _positive(text: str) -> bool:
    try:
        return 0 < float(text) < math.inf
    except ValueError:
        return False


def _finite(value: float | tuple[float, ...]) -> bool:
    try:
        numbers = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        return False
    return bool(numbers.size and np.isfinite(numbers).all())


def backdrop(planes: Array, value: Backdrop, labels: Labels | None = None) -> Array:
    """The picture that shows where `planes` (C, H, W) are taken away, (C, H, W).

    A number (0 is the mean grey of models whose pictures are centred), one a channel, the image's "mean" colour, the
    image behind a Gaussian "blur" (borders repeated; σ in pixels behind a colon, by default a twentieth of the longest
    side), or the mean colour of each "segment" of `labels` (H, W). OptionError for as many numbers as there are no
    channels.
    """
    if value == SEGMENT and labels is not None:
        return segment_means(planes, labels)
    if isinstance(value, str) and value.startswith("blur"):
        return blurred(planes, float(value.partition(":")[2] or max(1.0, max(planes.shape[1:]) / SHARE)))
    if isinstance(value, str):
        colour = planes.mean(axis=(1, 2), dtype=np.float64)
    else:
        colour = np.atleast_1d(np.asarray(value, np.float64))
        if colour.size not in (1, len(planes)):
            raise OptionError(f"value: {colour.size} numbers for {len(planes)} channels")
    filled = np.empty_like(planes)
    filled[:] = colour[:, None, None]
    return filled


def segment_means(planes: Array, labels: Labels) -> Array:
    """Every pixel in the mean colour of its segment."""
    index = labels.ravel()
    sizes = np.bincount(index)
    means = np.stack([np.bincount(index, weights=plane.ravel()) / sizes for plane in planes])
    return np.asarray(means[:, labels], planes.dtype)


def blurred(planes: Array, sigma: float) -> Array:
    """Rows, then columns, behind the filter of `rules.baselines.gaussian`."""
    window = gaussian(sigma)
    reach = window.size // 2
    v = planes.astype(np.float64)
    for axis in (1, 2):
        ends = [(reach, reach) if i == axis else (0, 0) for i in range(3)]
        padded = np.pad(v, ends, mode="edge")
        size = planes.shape[axis]
        v = np.zeros(planes.shape)
        for i, weight in enumerate(window):
            v += weight * padded.take(range(i, i + size), axis=axis)
    return np.asarray(v, planes.dtype)


__all__ = ["SEGMENT", "Backdrop", "Labels", "backdrop", "blurred", "check_backdrop", "segment_means"]
