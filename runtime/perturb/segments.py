"""Segments: the parts of an image that LIME and KernelSHAP switch on and off as wholes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt

from ...rewriter.errors import ImageError, OptionError, nearest
from ...rules.checks import whole
from ..lanes import Progress
from .backdrop import SEGMENT, Backdrop, Labels, backdrop, check_backdrop
from .probing import Array, Prober
from .technique import setting

NAMES = ("grid", "slic", "quickshift")
Floats = npt.NDArray[np.float64]
Bits = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class SegmentSettings:
    """What LIME and KernelSHAP share: the segments, and what is seen where one is off."""

    segments: str | npt.NDArray[np.int64] = field(
        default="grid",
        metadata={
            "help": "grid, slic or quickshift (these need scikit-image), or an array (height, width) of labels"
        },
    )
    grid: int = setting(8, "rows and columns of the grid of segments")
    value: float | str | tuple[float, ...] = setting(
        SEGMENT,
        "what a segment that is off shows: segment (its own mean colour), mean (the image's), blur, blur:SIGMA, or a "
        "number, as the model sees it",
    )
    seed: int = setting(0, "of the random choice of segments")

    def __post_init__(self) -> None:
        if isinstance(self.segments, str) and self.segments not in NAMES:
            raise OptionError(
                f"segments={self.segments!r} is unknown{nearest(self.segments, NAMES)}; give {', '.join(NAMES)} or an "
                "array of labels"
            )
        whole(1, 1 << 15)("grid", self.grid)
        whole(0, (1 << 63) - 1)("seed", self.seed)
        check_backdrop(self.value, (SEGMENT,))

    def expected(self) -> int:
        """How many segments there will be; an estimate where the image decides."""
        if isinstance(self.segments, str):
            return self.grid**2 if self.segments == "grid" else 100
        return len(np.unique(self.segments))


def partition(prober: Prober, s: SegmentSettings) -> Labels:
    """Labels (height, width), 0 to D - 1.

    grid: rectangles that differ by one pixel at most. slic: `skimage.segmentation.slic` with its defaults, about 100
    segments. quickshift: kernel_size 4, max_dist 200, ratio 0.2, as the reference implementation of LIME has it. Both
    see the picture in [0, 1]. An array may hold any integers: its labels are numbered in ascending order.

    Raises OptionError for an array of another shape or of no integers, a grid larger than the image, and where
    scikit-image is wanted and missing.
    """
    if not isinstance(s.segments, str):
        return _relabelled(np.asarray(s.segments), prober.size)
    if s.segments == "grid":
        return grid_labels(prober.size, s.grid)
    kit = _segmentation(s.segments)
    picture = _picture(prober)
    if s.segments == "slic":
        found = kit.slic(picture, channel_axis=-1)
    else:
        colour = picture.shape[-1] == 3
        found = kit.quickshift(picture, kernel_size=4, max_dist=200, ratio=0.2, convert2lab=colour)
    return _relabelled(np.asarray(found), prober.size)


def grid_labels(size: tuple[int, int], grid: int) -> Labels:
    """Row r lies in band floor(r grid / height), columns alike; label = band of rows grid + band of columns."""
    if grid > min(size):
        raise OptionError(
            f"grid={grid} is larger than the image, {size[0]} x {size[1]}; give up to {min(size)}"
        )
    rows, columns = (np.arange(length, dtype=np.int64) * grid // length for length in size)
    return rows[:, None] * grid + columns


def _relabelled(given: npt.NDArray[Any], size: tuple[int, int]) -> Labels:
    if given.dtype.kind not in "iub":
        raise OptionError(f"segments: labels are integers, not {given.dtype}")
    if given.shape != size:
        raise OptionError(
            f"segments: labels of shape {list(given.shape)} for an image of {size[0]} x {size[1]}"
        )
    _, found = np.unique(given, return_inverse=True)
    return np.asarray(found, np.int64).reshape(size)


def _segmentation(name: str) -> Any:
    try:
        return import_module("skimage.segmentation")
    except ImportError as error:
        raise OptionError(
            f"segments={name!r} needs scikit-image, which is not installed; run `pip install scikit-image`, or use "
            "the grid"
        ) from error


def _picture(prober: Prober) -> Floats:
    """(height, width, channels) in [0, 1]: the pixels, where mean and std of the preprocessing are known, else the
    input between its extremes. BGR becomes RGB."""
    planes, about = prober.planes.astype(np.float64), prober.asked.preprocessing or {}
    if "mean" in about and "std" in about:
        mean, std = (np.asarray(about[key], np.float64).reshape(-1, 1, 1) for key in ("mean", "std"))
        if mean.size not in (1, len(planes)):
            raise ImageError(f"preprocessing describes {mean.size} channels, the input has {len(planes)}")
        planes = np.clip((planes * std + mean) / 255, 0, 1)
    else:
        low, high = planes.min(), planes.max()
        planes = (planes - low) / (high - low or 1.0)
    if about.get("color") == "BGR":
        planes = planes[::-1]
    return np.ascontiguousarray(np.moveaxis(planes, 0, -1))


def switched(
    prober: Prober,
    on: Bits,
    labels: Labels,
    value: Backdrop,
    classes: Sequence[int],
    tell: Progress | None = None,
) -> Floats:
    """Scores (n, classes) with the segments that are on in each row of (n, D); the others show `backdrop`."""
    rows = on.astype(np.float32)
    fill = backdrop(prober.planes, value, labels)
    return prober.masked(lambda i: rows[i][:, labels], len(rows), fill, classes, tell).astype(np.float64)


def painted(values: Floats, labels: Labels) -> Array:
    """(classes, D) over the segments: (classes, height, width)."""
    return np.asarray(values[:, labels], np.float32)


__all__ = ["NAMES", "Bits", "Floats", "SegmentSettings", "grid_labels", "painted", "partition", "switched"]
