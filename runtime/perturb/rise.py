"""RISE: the mean of random soft masks, each weighted by the score of the image behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ...rewriter.errors import OptionError
from ...rules.checks import whole
from ...rules.masks import draw, enlarging
from ..lanes import Progress
from .backdrop import backdrop, check_backdrop
from .probing import Array, Prober
from .technique import Knob, Technique, setting


@dataclass(frozen=True)
class RiseSettings:
    n: int = setting(4000, "random masks")
    grid: int = setting(7, "cells of a mask along each side, before it is enlarged")
    p: float = setting(0.5, "chance of a cell to be kept, between 0 and 1")
    value: float | str | tuple[float, ...] = setting(
        0.0, "what shows through, as the model sees it: a number, mean, blur or blur:SIGMA"
    )
    seed: int = setting(0, "of the random masks")

    def __post_init__(self) -> None:
        whole(1, 1 << 30)("n", self.n)
        whole(1, 1 << 30)("grid", self.grid)
        whole(0, (1 << 63) - 1)("seed", self.seed)
        if isinstance(self.p, bool) or not isinstance(self.p, (int, float)) or not 0 < self.p < 1:
            raise OptionError(f"p={self.p!r} is not a number between 0 and 1, both excluded")
        check_backdrop(self.value)


def rise_masks(index: npt.NDArray[np.int64], size: tuple[int, int], s: RiseSettings) -> Array:
    """Masks (b, height, width) in [0, 1] of the given numbers; mask i depends on i and the seed alone.

    grid x grid cells, each 1 with chance p, are enlarged to grid + 1 times the size of a cell, ceil(side / grid), and
    cut at an offset of 0 to one cell (that excluded), so that cells do not always lie at the same place. The expected
    value of every pixel is p. [Petsiuk et al. 2018 section 3.2]
    """
    if s.grid > min(size):
        raise OptionError(f"grid={s.grid} is larger than the image, {size[0]} x {size[1]}")
    high, wide = (enlarging(s.grid, length) for length in size)
    found = np.empty((len(index), *size), np.float32)
    cells, offsets = draw(index, size, s.grid, s.p, s.seed)
    for mask, on, (r, c) in zip(found, cells.astype(np.float32), offsets, strict=True):
        np.matmul(high[r : r + size[0]] @ on, wide[c : c + size[1]].T, out=mask)
    return np.clip(found, 0, 1, out=found)


def _count(prober: Prober, s: RiseSettings) -> int:
    rise_masks(np.arange(0), prober.size, s)
    return s.n


def _run(prober: Prober, s: RiseSettings, classes: Sequence[int], tell: Progress | None = None) -> Array:
    """S = 1 / (p n) sum_i f(x M_i + value (1 - M_i)) M_i; masks are made a run at a time and not kept."""
    shown = backdrop(prober.planes, s.value)
    maps = np.zeros((len(classes), prober.size[0] * prober.size[1]))
    for start in range(0, s.n, prober.chunk):
        masks = rise_masks(np.arange(start, min(start + prober.chunk, s.n)), prober.size, s)
        scores = prober.masked(masks, len(masks), shown, classes)
        maps += scores.T @ masks.reshape(len(masks), -1)
        if tell is not None:
            tell(start + len(masks), s.n)
    return np.asarray(maps.reshape(-1, *prober.size) / (s.p * s.n), np.float32)


RISE = Technique(
    name="rise",
    title="RISE",
    source="Petsiuk et al. 2018",
    settings=RiseSettings,
    forwards=_count,
    run=_run,
    display="sum,minmax",  # all values lie above 0
    cost="n, one a mask",
    lighter=(Knob("n", lambda s: int(s.n), lambda s: min(s.n, 10 * s.grid**2)),),  # ten masks a cell
)

__all__ = ["RISE", "RiseSettings", "rise_masks"]
