"""A figure: one row a picture, the photo first, then one column a method."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..rewriter.errors import OptionError
from .colormaps import colorize

_CELL = 256
_GAP = 20
_MARGIN = 28
_BAR = 8
_INK = (33, 33, 33)
_FAINT = (110, 110, 110)
_FRAME = (205, 205, 205)
_SCALES = {"jet": (0.0, 1.0), "grey": (0.0, 1.0), "signed": (-1.0, 1.0)}
_MARKS = {"jet": ("low", "", "high"), "grey": ("low", "", "high"), "signed": ("negative", "0", "positive")}

Font = ImageFont.FreeTypeFont


@dataclass(frozen=True)
class Cell:
    """A picture of one method. `legend`: the colour map whose bar stands under it, or None for no bar. note: what is
    to be told of it, below."""

    name: str
    picture: Image.Image
    legend: str | None = None
    note: str = ""


@dataclass(frozen=True)
class Row:
    """A photo, the line under it ("tiger cat  0.83"), and the pictures of every method, in order."""

    photo: Image.Image
    caption: str
    cells: Sequence[Cell]


def panel(rows: Sequence[Row], title: str | None = None) -> Image.Image:
    """The figure, RGB on white; pictures are scaled into cells of 256 pixels, keeping their aspect.

    Pictures enlarged more than twice keep hard pixel edges. Text is broken into lines where it is wider than
    its column, never cut. Columns are named once, at the top.

    Raises OptionError when there is no row, the rows differ in their methods, or a legend is unknown.
    """
    names = _columns(rows)
    width = 2 * _MARGIN + (len(names) + 1) * _CELL + len(names) * _GAP
    blocks = [_heading(title, width)] if title else []
    blocks.append(_captions(["input", *names], width))
    blocks += [_row(row, width) for row in rows]
    figure = Image.new("RGB", (width, 2 * _MARGIN + sum(block.height for block in blocks)), "white")
    top = _MARGIN
    for block in blocks:
        figure.paste(block, (0, top))
        top += block.height
    return figure


def _columns(rows: Sequence[Row]) -> list[str]:
    if not rows:
        raise OptionError("a figure needs at least one row")
    names = [cell.name for cell in rows[0].cells]
    for number, row in enumerate(rows):
        if [cell.name for cell in row.cells] != names:
            raise OptionError(f"row {number} does not show the methods of row 0: {', '.join(names)}")
        for cell in row.cells:
            if cell.legend is not None and cell.legend not in _SCALES:
                raise OptionError(f"unknown legend {cell.legend!r}; known: {', '.join(_SCALES)}")
    return names


@cache
def _font(size: int) -> Font:
    font = ImageFont.load_default(size=size)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise OptionError("Pillow was built without FreeType and cannot write text; install a wheel of it")
    return font


def _line_height(font: Font) -> int:
    ascent, descent = font.getmetrics()
    return ascent + descent + 2


def _lines(text: str, font: Font, width: int) -> list[str]:
    """Break at blanks, and inside a word only where it alone is wider than a line."""
    lines = [""]
    for blanks, word in re.findall(r"(\s*)(\S+)", text):
        joined = f"{lines[-1]}{blanks}{word}" if lines[-1] else word
        if font.getlength(joined) <= width:
            lines[-1] = joined
            continue
        if lines[-1]:
            lines.append("")
        for letter in word:
            if lines[-1] and font.getlength(lines[-1] + letter) > width:
                lines.append("")
            lines[-1] += letter
    return lines


def _heading(title: str, width: int) -> Image.Image:
    font = _font(24)
    lines = _lines(title, font, width - 2 * _MARGIN)
    block = Image.new("RGB", (width, len(lines) * _line_height(font) + 16), "white")
    draw = ImageDraw.Draw(block)
    for number, line in enumerate(lines):
        draw.text((_MARGIN, number * _line_height(font)), line, fill=_INK, font=font)
    return block


def _captions(names: Sequence[str], width: int) -> Image.Image:
    font = _font(17)
    texts = [_lines(name, font, _CELL) for name in names]
    count = max(len(lines) for lines in texts)
    block = Image.new("RGB", (width, count * _line_height(font) + 8), "white")
    draw = ImageDraw.Draw(block)
    for column, lines in enumerate(texts):
        # Short names stand at the bottom, next to their pictures.
        _centred(draw, lines, font, column, (count - len(lines)) * _line_height(font))
    return block


def _centred(draw: ImageDraw.ImageDraw, lines: Sequence[str], font: Font, column: int, top: int) -> None:
    for number, line in enumerate(lines):
        centre = _left(column) + _CELL / 2
        draw.text((centre, top + number * _line_height(font)), line, fill=_INK, font=font, anchor="ma")


def _left(column: int) -> int:
    return _MARGIN + column * (_CELL + _GAP)


def _row(row: Row, width: int) -> Image.Image:
    pictures = [_scaled(picture) for picture in (row.photo, *(cell.picture for cell in row.cells))]
    tallest = max(picture.height for picture in pictures)
    font = _font(16)
    lines = _lines(row.caption, font, _CELL)
    bar = _BAR + _line_height(_font(13)) + 2
    notes = [_lines(cell.note, _font(13), _CELL) if cell.note else [] for cell in row.cells]
    tall = max((len(note) for note in notes), default=0) * _line_height(_font(13))
    below = max(len(lines) * _line_height(font), bar + tall)
    block = Image.new("RGB", (width, tallest + 8 + below + _GAP), "white")
    draw = ImageDraw.Draw(block)
    for column, picture in enumerate(pictures):
        left, top = _left(column) + (_CELL - picture.width) // 2, (tallest - picture.height) // 2
        block.paste(picture, (left, top))
        # Without a frame a signed map, white where nothing happens, has no visible edge.
        box = (left - 1, top - 1, left + picture.width, top + picture.height)
        draw.rectangle(box, outline=_FRAME)
    _centred(draw, lines, font, 0, tallest + 8)
    for column, (cell, note) in enumerate(zip(row.cells, notes, strict=True), start=1):
        if cell.legend is not None:
            _legend(block, cell.legend, column, tallest + 8)
        _centred(draw, note, _font(13), column, tallest + 8 + bar)
    return block


def _scaled(picture: Image.Image) -> Image.Image:
    scale = _CELL / max(picture.size)
    width, height = (max(1, round(side * scale)) for side in picture.size)
    sharp = scale > 2.0
    method = Image.Resampling.NEAREST if sharp else Image.Resampling.LANCZOS
    return picture.convert("RGB").resize((width, height), method)


def _legend(block: Image.Image, cmap: str, column: int, top: int) -> None:
    low, high = _SCALES[cmap]
    colours = colorize(np.linspace(low, high, _CELL), cmap)
    bar = Image.fromarray(np.repeat(colours[None], _BAR, axis=0))
    left = _left(column)
    block.paste(bar, (left, top))
    draw = ImageDraw.Draw(block)
    draw.rectangle((left - 1, top - 1, left + _CELL, top + _BAR), outline=_FRAME)
    places = ((left, "la"), (left + _CELL / 2, "ma"), (left + _CELL, "ra"))
    for (x, anchor), mark in zip(places, _MARKS[cmap], strict=True):
        draw.text((x, top + _BAR + 2), mark, fill=_FAINT, font=_font(13), anchor=anchor)
