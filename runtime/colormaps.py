"""Numbers to colours: jet, grey, and a signed map that is white at 0."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from ..rewriter.errors import OptionError, nearest
from ..rules.readouts import jet_colours

Floats = npt.NDArray[np.float64]

jet_table = jet_colours
"""The table that an emitted file carries, in full precision."""


def jet(values: Floats) -> Floats:
    """[0, 1] -> jet, (..., 3): entry min(255, floor(256 v)); dark blue at 0, dark red at 1."""
    index = np.floor(256.0 * np.clip(values, 0.0, 1.0)).astype(np.int64)
    return jet_table()[np.minimum(index, 255)]


def grey(values: Floats) -> Floats:
    """[0, 1] -> black to white, (..., 3)."""
    return np.repeat(np.clip(values, 0.0, 1.0)[..., None], 3, axis=-1)


def signed(values: Floats) -> Floats:
    """[-1, 1] -> blue over white (at 0) to red, (..., 3): (1, 1-v, 1-v) for v >= 0, (1+v, 1+v, 1) below."""
    v = np.clip(values, -1.0, 1.0)
    return np.stack([1.0 + np.minimum(v, 0.0), 1.0 - np.abs(v), 1.0 - np.maximum(v, 0.0)], axis=-1)


Colormap = Callable[[Floats], Floats]
COLORMAPS: Mapping[str, Colormap] = MappingProxyType({"jet": jet, "grey": grey, "signed": signed})


def colorize(values: npt.ArrayLike, cmap: str) -> npt.NDArray[np.uint8]:
    """(...) -> (..., 3) in 0..255, rounded; values outside the range of the map are clipped to it.

    jet and grey take [0, 1], signed takes [-1, 1]. Raises OptionError for an unknown map.
    """
    if cmap not in COLORMAPS:
        hint = nearest(cmap, COLORMAPS)
        raise OptionError(f"unknown colour map {cmap!r}{hint}; known: {', '.join(COLORMAPS)}")
    colours = COLORMAPS[cmap](np.asarray(values, np.float64))
    return np.rint(colours * 255.0).astype(np.uint8)
