"""Occlusion: how much the score drops when a window of the image is covered."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from ...rewriter.errors import OptionError
from ...rules.checks import both, say_sides, sides
from ...rules.masks import BORDERS, REDUCES, spans
from ..lanes import Progress
from .backdrop import backdrop, check_backdrop
from .probing import Array, Places, Prober
from .technique import Technique, coarser, setting, vet_window


@dataclass(frozen=True)
class OcclusionSettings:
    """stride None becomes half the window: a pixel then lies in about four windows, and a picture of 224 x 224 takes
    961 copies where stride 1 takes 44100."""

    k: int | tuple[int, int] = setting(15, "side of the square window, in pixels; or rows,columns")
    stride: int | tuple[int, int] | None = setting(
        None, "pixels from one window to the next; by default half of k; or rows,columns"
    )
    value: float | str | tuple[float, ...] = setting(
        0.0, "what covers the window, as the model sees it: a number, mean, blur or blur:SIGMA"
    )
    border: Literal["shift", "truncate"] = setting(
        "shift", "the last window of a row: shift it inside, or truncate it at the edge as Captum does"
    )
    reduce: Literal["mean", "sum"] = setting("mean", "of the windows over a pixel: mean or sum")

    def __post_init__(self) -> None:
        side = sides(1, 1 << 30)
        object.__setattr__(self, "k", side("k", self.k))
        if self.stride is None:
            high, wide = (max(1, n // 2) for n in both(self.k))
            object.__setattr__(self, "stride", high if isinstance(self.k, int) else (high, wide))
        object.__setattr__(self, "stride", side("stride", self.stride))
        if any(step > k for step, k in zip(self.step, both(self.k), strict=True)):
            raise OptionError(
                f"stride={say_sides(self.step)} is larger than k={say_sides(self.k)}: pixels between windows stay "
                "uncovered"
            )
        check_backdrop(self.value)
        for name, value, known in (("border", self.border, BORDERS), ("reduce", self.reduce, REDUCES)):
            if value not in known:
                raise OptionError(f"{name}={value!r} is none of {', '.join(known)}")

    @property
    def step(self) -> tuple[int, int]:
        """Along rows and columns."""
        return both(self.stride or 1)


@dataclass(frozen=True)
class Windows:
    """Windows of one size: (P, 2) top left corners, and (height, width)."""

    places: Places
    size: tuple[int, int]


def _spans(length: int, s: OcclusionSettings, axis: int) -> list[tuple[Places, int]]:
    """(starts, length) of the windows along an axis; a truncated one stands by itself."""
    found = spans(length, both(s.k)[axis], s.step[axis], s.border)
    sizes = found[:, 1] - found[:, 0]
    return [(found[sizes == size, 0], int(size)) for size in np.unique(sizes)[::-1]]


def tiling(size: tuple[int, int], s: OcclusionSettings) -> list[Windows]:
    """All windows of an image of (height, width), one entry a window size. Every pixel is covered.

    border="shift": the last window of a row or column moves inside, so all are of one size. "truncate": it is cut at
    the edge, as Captum's are. OptionError for a window larger than the image.
    """
    vet_window(size, s.k)
    found = []
    for rows, height in _spans(size[0], s, 0):
        for columns, width in _spans(size[1], s, 1):
            grid = np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1)
            found.append(Windows(grid.reshape(-1, 2).astype(np.int64), (height, width)))
    return found


def _count(prober: Prober, s: OcclusionSettings) -> int:
    return sum(len(part.places) for part in tiling(prober.size, s))


def drops(
    prober: Prober, s: OcclusionSettings, classes: Sequence[int], tell: Progress | None = None
) -> Iterator[tuple[Windows, npt.NDArray[np.float64]]]:
    """f(x) - f(x with the window covered), (P, classes), for the windows of each size."""
    cover = backdrop(prober.planes, s.value)
    parts, done = tiling(prober.size, s), 0
    total = sum(len(part.places) for part in parts)
    base = prober.base[list(classes)].astype(np.float64)
    for part in parts:

        def fills(index: npt.NDArray[np.int64], part: Windows = part) -> Array:
            h, w = part.size
            return np.stack([cover[:, r : r + h, c : c + w] for r, c in part.places[index]])

        def told(made: int, _: int, done: int = done) -> None:
            if tell is not None:
                tell(done + made, total)

        scores = prober.windows(part.places, part.size, fills, classes, told)
        done += len(part.places)
        yield part, base - scores


def _run(prober: Prober, s: OcclusionSettings, classes: Sequence[int], tell: Progress | None = None) -> Array:
    """The drop of a pixel is the mean, or the sum, of those of the windows over it."""
    maps = np.zeros((len(classes), *prober.size))
    covers = np.zeros(prober.size)
    for part, drop in drops(prober, s, classes, tell):
        h, w = part.size
        for (r, c), value in zip(part.places, drop, strict=True):
            maps[:, r : r + h, c : c + w] += value[:, None, None]
            covers[r : r + h, c : c + w] += 1
    return np.asarray(maps / covers if s.reduce == "mean" else maps, np.float32)


OCCLUSION = Technique(
    name="occlusion",
    title="Occlusion",
    source="Zeiler & Fergus 2014 section 4.2; Ayyar et al. 2021 section 2.1",
    settings=OcclusionSettings,
    forwards=_count,
    run=_run,
    cost="one a window: (⌈(H - k) / stride⌉ + 1)(⌈(W - k) / stride⌉ + 1)",
    lighter=(coarser(lambda s: s.stride),),
)

__all__ = ["OCCLUSION", "OcclusionSettings", "Windows", "drops", "tiling"]
