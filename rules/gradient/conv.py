"""Convolutions of any rank, with groups, dilations, asymmetric pads and strides."""

from __future__ import annotations

from typing import Any

from ...rewriter.emit import Emit
from ...rewriter.graph import Value
from ...rewriter.linear import Convolve, Deconvolve, Local
from ...rewriter.site import Refuse, Site, rank_of
from .base import GRADIENT

GEOMETRY = ("kernel_shape", "strides", "pads", "dilations", "group")


def geometry(site: Site) -> dict[str, Any]:
    """The window as the node states it; the canonical form wrote every attribute out."""
    if site.attr("auto_pad", "NOTSET") != "NOTSET" or site.attr("output_shape") is not None:
        raise Refuse("its padding depends on a size that is not static; fix the input shape with shapes=")
    if site.attr("kernel_shape") is None:
        raise Refuse("the shape of its weight is unknown")
    return {key: site.attr(key) for key in GEOMETRY}


def channels(site: Site, g: Emit) -> Value | None:
    """The bias as an offset of the output's shape, (1, M, 1...)."""
    b = site.input(2)
    return None if b is None else g.Reshape(b, g.ints(1, -1, *[1] * (rank_of(site.data) - 2)))


@GRADIENT.on("Conv")
def conv(site: Site, g: Emit) -> Local:
    """y = W * x + b. W (M, C/group, k...) and b must be parameters."""
    rank_of(site.data)
    if site.input(2) is not None:
        site.fixed(2, "the bias")
    return Local(Convolve(site.fixed(1, "the weight"), geometry(site), site.data), offset=channels(site, g))


@GRADIENT.on("ConvTranspose")
def conv_transpose(site: Site, g: Emit) -> Local:
    """The transpose of a Conv with the same W (C, M/group, k...); its pull is that Conv, whose floor absorbs
    output_padding."""
    rank_of(site.data)
    if site.input(2) is not None:
        site.fixed(2, "the bias")
    window = geometry(site)
    extra = tuple(site.attr("output_padding") or [0] * len(window["strides"]))
    return Local(Deconvolve(site.fixed(1, "the weight"), window, extra), offset=channels(site, g))
