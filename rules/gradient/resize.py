"""Resize: linear in x and separable, whatever the mode. Its matrices are what Resize does to an identity."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...rewriter.emit import Emit
from ...rewriter.graph import Value
from ...rewriter.linear import Along, Chain, Linear, Local
from ...rewriter.site import Refuse, Site, rank_of
from .base import GRADIENT

SHAPE_ATTRIBUTES = (
    "antialias",
    "coordinate_transformation_mode",
    "cubic_coeff_a",
    "exclude_outside",
    "mode",
    "nearest_mode",
)


@GRADIENT.on("Resize")
def resize(site: Site, g: Emit) -> Local:
    """y = A_1 x A_2 ... along the resized axes; nearest, linear and cubic, with roi, antialias and every
    coordinate mode, by scales or sizes."""
    rank = rank_of(site.data)
    rank_of(site.y)
    if any(site.active[1:]):
        raise Refuse("its scales or its region depend on the explained input")
    axes = [int(axis) % rank for axis in (site.attr("axes") or range(rank))]
    if site.attr("keep_aspect_ratio_policy", "stretch") != "stretch":
        if 0 in axes:
            raise Refuse("keep_aspect_ratio_policy over all axes; name the image's own with axes=")
        return Local(Chain(*(_jointly(site, g, i, axes) for i in range(len(axes)))))
    whole = _replicates(site, axes)
    if whole is not None:
        return Local(whole)
    maps = [_along(site, g, i, axis, len(axes)) for i, axis in enumerate(axes)]
    return Local(Chain(*(part for part in maps if part is not None)))


def _along(site: Site, g: Emit, i: int, axis: int, count: int) -> Linear | None:
    """The matrix of one axis, (in, out), or None where nothing changes."""
    x, y, rank = site.data, site.y, site.rank
    scales, sizes = site.constant(2), site.constant(3)
    scaled = site.input(2) is not None and (scales is None or scales.size > 0)
    crop = site.attr("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize"
    if not crop:
        if scaled and scales is not None and scales[i] == 1:
            return None
        size = x.shape[axis]
        if (
            not scaled
            and size is not None
            and (y.shape[axis] == size or (sizes is not None and sizes[i] == size))
        ):
            return None
    if axis == 0:
        if scales is not None or sizes is not None:
            raise Refuse("it resizes the batch axis")
        return None  # a size computed at run time: the batch's own
    n = g.size(x, axis)
    eye = g.Reshape(g.EyeLike(g.zeros(x, n, n)), g.join(g.ints(1, 1), n, n))
    attrs: dict[str, Any] = {key: site.attr(key) for key in SHAPE_ATTRIBUTES}
    roi = _roi(site, g, i, count) if crop else None
    if scaled:
        mine = g.Slice(site.input(2), g.ints(i), g.ints(i + 1))
        steps = g.join(g.constant(np.ones(3, np.float32)), mine)
        probe = g.Resize(eye, roi, steps, **attrs)
    else:
        mine = g.Slice(site.input(3), g.ints(i), g.ints(i + 1))
        probe = g.Resize(eye, roi, None, g.join(g.ints(1, 1), n, mine), **attrs)
    return Along(g.Reshape(probe, g.join(n, g.ints(-1))), axis, rank)


def _jointly(site: Site, g: Emit, i: int, axes: list[int]) -> Linear:
    """The matrix of one axis where the scale depends on all of them (keep_aspect_ratio_policy): Resize of
    n images that are constant along the other axes, the k-th one only in line k."""
    n, rest = g.size(site.data, axes[i]), [g.size(site.data, axis) for axis in axes]
    lines = g.join(*(n if k == i else g.ints(1) for k in range(len(axes))))
    images = g.Expand(
        g.Reshape(g.EyeLike(g.zeros(site.data, n, n)), g.join(g.ints(1), n, lines)), g.join(n, *rest)
    )
    attrs: dict[str, Any] = {key: site.attr(key) for key in (*SHAPE_ATTRIBUTES, "keep_aspect_ratio_policy")}
    probe = g.Resize(images, None, None, site.input(3), axes=[2 + k for k in range(len(axes))], **attrs)
    for k in range(len(axes)):
        if k != i:
            probe = g.Slice(probe, g.ints(0), g.ints(1), g.ints(2 + k))
    return Along(g.Reshape(probe, g.join(n, g.ints(-1))), axes[i], site.rank)


def _roi(site: Site, g: Emit, i: int, count: int) -> Value:
    roi = site.input(1)
    if roi is None:
        raise Refuse("tf_crop_and_resize without its region")
    low, high = (g.Slice(roi, g.ints(k), g.ints(k + 1)) for k in (i, i + count))
    dtype = roi.dtype or np.float32
    zeros, ones = g.constant(np.zeros(3, dtype)), g.constant(np.ones(3, dtype))
    return g.Concat(zeros, low, ones, high, axis=0)


def _replicates(site: Site, axes: list[int]) -> Linear | None:
    """Nearest by whole factors over the two last axes of an image: each pixel becomes a block."""
    scales = site.constant(2)
    if (
        scales is None
        or scales.size != len(axes)
        or site.attr("mode", "nearest") != "nearest"
        or site.rank != 4
    ):
        return None
    factors = dict(zip(axes, scales.tolist(), strict=True))
    whole = [factors.get(axis, 1.0) for axis in range(4)]
    if whole[0] != 1 or whole[1] != 1 or any(factor != int(factor) or factor < 1 for factor in whole):
        return None
    coordinates = site.attr("coordinate_transformation_mode", "half_pixel")
    rounding = site.attr("nearest_mode", "round_prefer_floor")
    plain = (coordinates == "asymmetric" and rounding == "floor") or (
        coordinates == "half_pixel" and rounding.startswith("round_prefer")
    )
    return Replicate(int(whole[2]), int(whole[3])) if plain else None


class Replicate:
    """Each pixel becomes a block of height x width equal ones; the transpose sums the block."""

    def __init__(self, height: int, width: int) -> None:
        self.height, self.width = height, width

    def push(self, g: Emit, t: Value) -> Value:
        scales = g.constant(np.asarray([1, 1, self.height, self.width], np.float32))
        value: Value = g.Resize(
            t, None, scales, mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"
        )
        return value

    def pull(self, g: Emit, ct: Value) -> Value:
        block = [self.height, self.width]
        mean = g.AveragePool(ct, kernel_shape=block, strides=block, pads=[0, 0, 0, 0])
        return g.Mul(mean, float(self.height * self.width))
