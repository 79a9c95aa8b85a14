"""Bars drawn with Pillow: contributions by layer, and the entries of an eigen-output that has no picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

POSITIVE, NEGATIVE = (192, 57, 43), (52, 101, 164)
INK, FAINT, GRID = (33, 33, 33), (110, 110, 110), (225, 225, 225)
_MARGIN, _LABELS, _ROOM, _VALUES = 28, 300, 560, 90
_STEP, _BAR = 20, 14


@cache
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own."""
    return ImageFont.load_default(size=size)


@dataclass(frozen=True)
class Bar:
    label: str
    value: float


def bars(items: Sequence[Bar], title: str, notes: Sequence[str] = (), unit: str = "") -> Image.Image:
    """One horizontal bar an item, from a common zero; red above, blue below. The number stands at its end."""
    head = 40 + 22 * len(notes)
    width = 2 * _MARGIN + _LABELS + _ROOM + _VALUES
    figure = Image.new("RGB", (width, 2 * _MARGIN + head + _STEP * len(items) + 26), "white")
    draw = ImageDraw.Draw(figure)
    draw.text((_MARGIN, _MARGIN), title, fill=INK, font=font(22))
    for i, note in enumerate(notes):
        draw.text((_MARGIN, _MARGIN + 34 + 22 * i), note, fill=FAINT, font=font(15))
    left, top = _MARGIN + _LABELS, _MARGIN + head
    zero, scale = _axis([item.value for item in items], left)
    bottom = top + _STEP * len(items)
    draw.line((zero, top, zero, bottom), fill=FAINT)
    for i, item in enumerate(items):
        y = top + i * _STEP
        end = zero + item.value * scale
        draw.rectangle((min(zero, end), y + 3, max(zero, end), y + 3 + _BAR), fill=_colour(item.value))
        draw.text(
            (left - 12, y + 3), _fitting(item.label, _LABELS - 20), fill=INK, font=font(14), anchor="ra"
        )
        draw.text((max(zero, end) + 6, y + 3), f"{item.value:.3g}", fill=FAINT, font=font(13))
    draw.text((zero, bottom + 6), f"0{' ' + unit if unit else ''}", fill=FAINT, font=font(13), anchor="ma")
    return figure


def _axis(values: Sequence[float], left: int) -> tuple[float, float]:
    """Where 0 is, and pixels a unit: all of the values fit the room."""
    low, high = min(0.0, *values), max(0.0, *values)
    scale = _ROOM / (high - low) if high > low else 0.0
    return left - low * scale, scale


def _colour(value: float) -> tuple[int, int, int]:
    return POSITIVE if value >= 0 else NEGATIVE


def _fitting(text: str, width: int) -> str:
    """The end of a name that is too long, which tells more than its beginning."""
    if font(14).getlength(text) <= width:
        return text
    while font(14).getlength(f"…{text}") > width:
        text = text[1:]
    return f"…{text}"


def small(items: Sequence[Bar], side: int = 256) -> Image.Image:
    """The same in a square cell of a panel: names and numbers lie on pale bars."""
    figure = Image.new("RGB", (side, side), "white")
    draw = ImageDraw.Draw(figure)
    reach = max((abs(item.value) for item in items), default=0.0) or 1.0
    step, middle = side / max(len(items), 1), side / 2
    for i, item in enumerate(items):
        y, length = i * step, item.value / reach * (middle - 8)
        box = (min(middle, middle + length), y + 0.12 * step, max(middle, middle + length), y + 0.88 * step)
        tint = np.asarray(_colour(item.value)) * 0.35 + 255 * 0.65
        draw.rectangle(box, fill=(int(tint[0]), int(tint[1]), int(tint[2])))
        draw.text((8, y + step / 2), _fitting(item.label, side - 72), fill=INK, font=font(14), anchor="lm")
        draw.text((side - 8, y + step / 2), f"{item.value:+.2f}", fill=INK, font=font(14), anchor="rm")
    draw.line((middle, 0, middle, side), fill=FAINT)
    return figure


__all__ = ["Bar", "bars", "small"]
