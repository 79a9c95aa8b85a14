"""Attributions to maps (readouts), maps to pictures, pictures to a figure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
from PIL import Image

from ..rewriter.errors import ImageError, OptionError, nearest
from .colormaps import colorize

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


def _per_item(values: Floats, statistic: Callable[..., Floats]) -> Floats:
    return statistic(values, axis=tuple(range(1, values.ndim)), keepdims=True)


def _divide(values: Floats, scale: Floats, varies: Mask) -> Floats:
    """values / scale where the item varies and the scale is not 0, else 0."""
    usable = varies & (scale > 0.0)
    return np.where(usable, values / np.where(usable, scale, 1.0), 0.0)


def _varies(values: Floats) -> Mask:
    return np.asarray(_per_item(values, np.max) > _per_item(values, np.min))


def _maxabs(m: Floats, axis: int) -> Floats:
    return np.asarray(np.abs(m).max(axis=axis))


def _sum(m: Floats, axis: int) -> Floats:
    return np.asarray(m.sum(axis=axis))


def _abssum_p99(m: Floats, axis: int) -> Floats:
    return _stretch(np.abs(m).sum(axis=axis), 99.0)


def _minmax(m: Floats, axis: int) -> Floats:
    low = _per_item(m, np.min)
    return _divide(m - low, _per_item(m, np.max) - low, _varies(m))


def _max(m: Floats, axis: int) -> Floats:
    if m.min() < 0.0:
        raise OptionError('readout "max" is for maps without negative values; choose "minmax" or "sym"')
    return _divide(m, _per_item(m, np.max), _varies(m))


def _centre(m: Floats, axis: int) -> Floats:
    varies = _varies(m)
    half = _divide(m, 2.0 * _per_item(np.abs(m), np.max), varies)
    return np.where(varies, half + 0.5, 0.0)


def _sym(m: Floats, axis: int) -> Floats:
    return _divide(m, _per_item(np.abs(m), np.max), _varies(m))


def _unit(m: Floats, axis: int) -> Floats:
    # The largest value is divided out first: squares of tiny or huge values leave the range of a float.
    scaled = _sym(m, axis)
    return _divide(scaled, np.sqrt(_per_item(scaled**2, np.sum)), _varies(m))


READOUTS: Mapping[str, Callable[[Floats, int], Floats]] = MappingProxyType(
    {
        "maxabs": _maxabs,
        "sum": _sum,
        "abssum_p99": _abssum_p99,
        "minmax": _minmax,
        "max": _max,
        "centre": _centre,
        "sym": _sym,
        "unit": _unit,
    }
)


def readout(name: str, attribution: npt.ArrayLike, layout: str = "NCHW") -> npt.NDArray[np.float32]:
    """Reduce or normalise a raw attribution (N, C, H, W), or (N, H, W, C) with layout "NHWC".

    Over the channels, to (N, H, W):
      maxabs      max_c |m|  (Simonyan et al. 2014)
      sum         Σ_c m
      abssum_p99  a = Σ_c |m|; (a - min a) / (p99 a - min a), clipped to [0, 1], p99 = 99th percentile
    Per batch entry, shape kept:
      minmax      (m - min m) / (max m - min m), all channels together
      max         m / max m, for maps without negative values
      centre      m / (2 max |m|) + 1/2
      sym         m / max |m|
      unit        m / ‖m‖₂
    An entry that is constant (max m = min m) gives zeros in all but maxabs and sum. Where p99 a = min a (less
    than 1 % of the pixels stand out) max a takes the place of p99 a. Computed in float64, never NaN.

    Raises OptionError for an unknown name or layout, or negative values under "max"; ImageError for another
    rank, an empty array, or an attribution that holds NaN or infinity.
    """
    if name not in READOUTS:
        raise OptionError(f"unknown readout {name!r}{nearest(name, READOUTS)}; known: {', '.join(READOUTS)}")
    values = _finite(attribution, "attribution")
    if values.ndim != 4:
        raise ImageError(f"an attribution of shape {list(values.shape)} has {values.ndim} axes instead of 4")
    return READOUTS[name](values, _channel_axis(layout)).astype(np.float32)


def heat(heatmap: npt.ArrayLike, cmap: str = "jet", percentile: float | None = 99.0) -> Image.Image:
    """A map (H, W) in colour, one pixel a value.

    Shown is the range from the minimum to the given percentile, clipped: in a gradient map a few single
    pixels are many times larger than the rest, and scaled to the maximum the picture would be black. 100
    shows up to the maximum; None takes the values as they are, in [0, 1]. A constant map has the colour of
    0. For cmap "signed" see `signed`, which this calls.

    Raises ImageError for another rank or NaN, OptionError for an unknown colour map or percentile.
    """
    if cmap == "signed":
        return signed(heatmap, percentile)
    values = _plane(heatmap)
    if percentile is not None:
        values = _stretch(values[None], percentile)[0]
    return Image.fromarray(colorize(values, cmap))


def signed(heatmap: npt.ArrayLike, percentile: float | None = 99.0) -> Image.Image:
    """A signed map (H, W): white at 0, red above, blue below, full colour from the percentile of |m| on.

    The clip at the 99th percentile keeps a few single pixels from bleaching the rest; 100 shows up to
    max |m|; None takes the values as they are, in [-1, 1]. Raises as `heat`.
    """
    values = _plane(heatmap)
    if percentile is not None:
        values = values / _reach(values, percentile)
    return Image.fromarray(colorize(values, "signed"))


def overlay(
    image: Image.Image,
    heatmap: npt.ArrayLike,
    alpha: float = 0.5,
    cmap: str = "jet",
    percentile: float | None = 99.0,
) -> Image.Image:
    """alpha * colour + (1 - alpha) * picture; the map is first brought to the size of the picture.

    Enlarged bilinearly with half-pixel centres, before the values are scaled for display as in `heat`.
    Raises as `heat`, and OptionError for an alpha outside [0, 1].
    """
    if not 0.0 <= alpha <= 1.0:
        raise OptionError(f"alpha is {alpha}; it must lie in [0, 1]")
    plane = Image.fromarray(_plane(heatmap).astype(np.float32))
    if plane.size != image.size:
        plane = plane.resize(image.size, Image.Resampling.BILINEAR)
    return Image.blend(image.convert("RGB"), heat(np.asarray(plane), cmap, percentile), alpha)


def back_projection(
    attribution: npt.ArrayLike, layout: str = "NCHW", color: str = "RGB", percentile: float = 99.0
) -> Image.Image:
    """The attribution of one picture, (C, H, W) or (1, C, H, W) in `layout`, as a colour picture.

    `centre` with a clip: value = m / (2 p) + 1/2 in [0, 1], p the percentile of |m| over all channels (see
    `heat` for why; 100 gives `centre` itself); no attribution is mid-grey, also when all of it is 0.
    1 or 3 channels; color "BGR" turns them round.

    Raises ImageError for another shape or NaN, OptionError for an unknown layout or percentile.
    """
    values = _finite(attribution, "attribution")
    if values.ndim == 4 and values.shape[0] == 1:
        values = values[0]
    if values.ndim == 3 and _channel_axis(layout) == 1:
        values = values.transpose(1, 2, 0)
    if values.ndim != 3 or values.shape[2] not in (1, 3):
        shape = list(np.shape(attribution))
        raise ImageError(f"an attribution of shape {shape} is not one {layout} picture of 1 or 3 channels")
    if color == "BGR":
        values = values[:, :, ::-1]
    pixels = np.clip(values / (2.0 * _reach(values, percentile)) + 0.5, 0.0, 1.0)
    levels = np.rint(pixels * 255.0).astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(np.broadcast_to(levels, (*levels.shape[:2], 3))))


def _channel_axis(layout: str) -> int:
    axes = {"NCHW": 1, "NHWC": 3}
    if layout not in axes:
        raise OptionError(f"unknown layout {layout!r}{nearest(layout, axes)}; known: {', '.join(axes)}")
    return axes[layout]


def _finite(array: npt.ArrayLike, what: str) -> Floats:
    values = np.asarray(array, np.float64)
    if values.size == 0:
        raise ImageError(f"the {what} of shape {list(values.shape)} is empty")
    bad = int(np.count_nonzero(~np.isfinite(values)))
    if bad:
        raise ImageError(f"the {what} holds {bad} values that are NaN or infinite; check model and input")
    return values


def _plane(heatmap: npt.ArrayLike) -> Floats:
    values = _finite(heatmap, "map")
    if values.ndim != 2:
        raise ImageError(f"a map of shape {list(values.shape)} is not (H, W); reduce the channels first")
    return values


def _check_percentile(percentile: float) -> None:
    if not 0.0 < percentile <= 100.0:
        raise OptionError(f"percentile is {percentile}; it must lie in (0, 100]")


def _stretch(m: Floats, percentile: float) -> Floats:
    """(N, H, W) -> [0, 1] per entry, from the minimum to the percentile (the maximum if they are equal)."""
    _check_percentile(percentile)
    low, high = _per_item(m, np.min), np.percentile(m, percentile, axis=(1, 2), keepdims=True)
    high = np.where(high > low, high, _per_item(m, np.max))
    return np.clip(_divide(m - low, high - low, _varies(m)), 0.0, 1.0)


def _reach(values: Floats, percentile: float) -> float:
    """The percentile of |values|; the maximum where that is 0; 1 where all values are 0."""
    _check_percentile(percentile)
    magnitude = np.abs(values)
    return float(np.percentile(magnitude, percentile)) or float(magnitude.max()) or 1.0
