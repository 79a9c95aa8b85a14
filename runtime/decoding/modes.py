"""Pillow's modes, as 8-bit RGB. Where a conversion needs more than one copy, it goes strip by strip."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image

from ...rewriter.errors import ImageError

_STRIP = 1 << 20
"""Pixels converted at a time."""


def to_rgb(image: Image.Image) -> Image.Image:
    """Any Pillow image as 8-bit RGB; transparent pixels are laid over white.

    16-bit grey is divided by 257, so that 65535 becomes 255. Raises ImageError for floating-point pixels and
    for integers outside 16 bits: their range is not defined.
    """
    if image.mode == "F":
        raise ImageError("floating-point pixels have no defined range; convert the picture to 8 or 16 bits")
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _by_strips(image, _from_16_bits)
    if image.has_transparency_data:
        return _by_strips(image, _over_white)
    return image if image.mode == "RGB" else image.convert("RGB")


def _by_strips(image: Image.Image, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    width, height = image.size
    rows = max(1, _STRIP // max(1, width))
    if rows >= height:
        return convert(image)
    whole = Image.new("RGB", image.size)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        whole.paste(convert(image.crop((0, top, width, bottom))), (0, top))
    return whole


def _over_white(image: Image.Image) -> Image.Image:
    layer = image.convert("RGBA")
    white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, layer).convert("RGB")


def _from_16_bits(image: Image.Image) -> Image.Image:
    pixels = np.asarray(image).astype(np.int64)
    if pixels.size and (pixels.min() < 0 or pixels.max() > 65535):
        raise ImageError(f"grey values {pixels.min()}..{pixels.max()} exceed 16 bits; convert it to 8 bits")
    return Image.fromarray(((pixels + 128) // 257).astype(np.uint8)).convert("RGB")
