"""Maps of perturbation methods, drawn: a row a class; the photo, then every method's map, alone and on the photo."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageChops

from ..colormaps import colorize
from ..panel import Cell, Row, panel
from ..render import heat, overlay, signed
from .budget import say_time
from .probing import Array
from .technique import Found

CLIP = 99.5
"""Percentile of |map| that is shown in full colour; see `render.heat`."""
OPAQUE = 0.8


def figure(
    photo: Image.Image, found: Sequence[Found], captions: Sequence[str], displays: Sequence[str]
) -> Image.Image:
    """photo: what the model sees, pixel by pixel of the maps. captions: of the rows, one a class. displays: of the
    methods: "sum,sym" is signed around 0, "max" goes from 0 to the largest value, all others from the smallest."""
    rows = []
    for i, caption in enumerate(captions):
        cells: list[Cell] = []
        for one, display in zip(found, displays, strict=True):
            cells += _cells(str(one.record["method"]), one.maps[i], photo, display)
        rows.append(Row(photo, caption, cells))
    return panel(rows, title(found))


def _cells(name: str, plane: Array, photo: Image.Image, display: str) -> list[Cell]:
    above = f"{name}, on the photo"
    if display.endswith("sym"):
        return [Cell(name, signed(plane, CLIP), "signed"), Cell(above, tinted(photo, plane), "signed")]
    # from 0, or from wherever the values begin, to the largest: these maps are smooth, with no outliers to clip
    low = 0.0 if display.endswith("max") and not display.endswith("minmax") else float(plane.min())
    share = np.clip((plane - low) / ((float(plane.max()) - low) or 1.0), 0.0, 1.0)
    return [
        Cell(name, heat(share, percentile=None), "jet"),
        Cell(above, overlay(photo, share, 0.5, percentile=None), "jet"),
    ]


def tinted(photo: Image.Image, plane: Array) -> Image.Image:
    """The photo in grey, under red where the map is positive and blue where it is negative: the further from 0, the
    less of the photo is seen."""
    colours = signed(plane, CLIP)
    strength = ImageChops.invert(colours.getchannel("G")).point(
        [round(OPAQUE * level) for level in range(256)]
    )
    pure = Image.fromarray(colorize(np.sign(plane), "signed"))
    return Image.composite(pure, photo.convert("L").convert("RGB"), strength)


def title(found: Sequence[Found]) -> str:
    """ "occlusion: 2116 forwards, 12 s; rise: ... (probability)"."""
    parts = [f"{one.record['method']}: {one.forwards} forwards, {say_time(one.seconds)}" for one in found]
    return f"{'; '.join(parts)} (score: {found[0].record['score']})"


__all__ = ["figure", "tinted", "title"]
