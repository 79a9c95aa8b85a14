"""Pooling: who won, or how many shared."""

from __future__ import annotations

from typing import Any

from ...rewriter.emit import Emit
from ...rewriter.linear import Average, Chain, Linear, Local, Reduced, Scale, Winner
from ...rewriter.site import Refuse, Site, rank_of
from .base import GRADIENT

WINDOW = ("kernel_shape", "strides", "pads", "dilations", "ceil_mode")


def window(site: Site, *more: str) -> dict[str, Any]:
    """The window as the node states it; the canonical form wrote its pads out."""
    if site.attr("auto_pad", "NOTSET") != "NOTSET":
        raise Refuse("its padding depends on a size that is not static; fix the input shape with shapes=")
    if site.attr("ceil_mode", 0):
        _vet_last_window(site)
    return {key: site.attr(key) for key in (*WINDOW, *more)}


def _vet_last_window(site: Site) -> None:
    """onnx's shape inference counts a last window that starts behind x, in the padding; onnxruntime does not."""
    if site.data.shape is None or site.y.shape is None:
        return
    sizes = zip(site.data.shape[2:], site.y.shape[2:], site.attr("strides"), site.attr("pads"), strict=False)
    for size, count, stride, pad in sizes:
        if isinstance(size, int) and isinstance(count, int) and (count - 1) * stride - pad >= size:
            raise Refuse("its last window lies in the padding (ceil_mode); export it without ceil_mode")


@GRADIENT.on("MaxPool")
def max_pool(site: Site, g: Emit) -> Local:
    """y = the largest x of each window; the first one on ties, never a padding cell."""
    rank_of(site.data)
    if site.port:
        raise Refuse("the indices of the winners are explained; there is no derivative")
    return Local(Winner(site.data, site.y, window(site)))


@GRADIENT.on("AveragePool")
def average_pool(site: Site, g: Emit) -> Local:
    """y = the mean of each window, over n cells: all of them with count_include_pad, else those inside x."""
    rank_of(site.data)
    return Local(Average(site.data, site.y, window(site, "count_include_pad")))


@GRADIENT.on("GlobalAveragePool")
def global_average_pool(site: Site, g: Emit) -> Local:
    """y = the mean over all spatial axes."""
    axes = tuple(range(2, rank_of(site.data)))
    return Local(Chain(Reduced(site.data, axes, keepdims=True), average(site, g, axes)))


def average(site: Site, g: Emit, axes: tuple[int, ...]) -> Linear:
    """Division by the number of elements along axes of the input."""
    sizes = [site.data.shape[axis] for axis in axes]
    if all(isinstance(size, int) for size in sizes):
        count = 1
        for size in sizes:
            count *= size
        return Scale(1.0 / max(1, count))
    number = g.ReduceProd(g.join(*(g.size(site.data, axis) for axis in axes)), keepdims=0)
    return Scale(g.Reciprocal(g.cast(number, site.data)))
