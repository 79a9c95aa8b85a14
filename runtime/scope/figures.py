"""What an interpreter says, drawn: filters, eigen-inputs over eigen-outputs, contributions, votes.

As the figures of Navarrete et al.: signed values are colours around grey (Figs. 5 and 11 to 14), contributions a bar a
layer (Figs. 4 and 8), popularity images the photo where pixels vote for a class (Figs. 3, 9 and 10).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from ...rewriter.errors import ImageError
from ..panel import Cell, Row, panel
from ..preprocess import Preprocessing
from ..render import back_projection
from .bars import Bar, bars, small
from .contributions import Contributions
from .interpreter import Interpreter
from .layout import Array
from .svd import Svd
from .votes import Votes

COLUMNS = 6
"""Pictures of one row of a figure, beside the photo."""
MOST = 60
"""Bars of a chart; the smallest terms beyond are added up."""
TOP = 6
"""Entries that are named of an output that is no picture."""
CLIP = 99.9
"""Percentile of magnitude that is shown in full colour: filters are mostly 0."""
PALETTE = (
    (220, 50, 47), (38, 139, 210), (133, 153, 0), (203, 136, 22), (108, 113, 196), (42, 161, 152),
    (211, 54, 130), (120, 85, 60), (70, 70, 70), (255, 160, 140), (130, 200, 255), (190, 220, 90),
)  # fmt: skip
"""Of the classes with most votes, in that order."""
ZOOM = 0.02
"""Of the largest magnitude: a zoom shows every pixel above."""


@dataclass(frozen=True)
class View:
    """How tensors of a model are shown. shown: the photo, as the model sees it. scale: the output values that are
    black and white; None stretches each picture. labels: names of the classes."""

    shown: Image.Image
    preprocessing: Preprocessing
    scale: tuple[float, float] | None = None
    labels: Sequence[str] | None = None

    def is_picture(self, shape: Sequence[int]) -> bool:
        """Whether tensors of this shape (of one sample) can be shown as a picture."""
        if len(shape) != 3:
            return False
        return shape[self.channel_axis] in (1, 3) and all(side > 1 for side in self.sides(shape))

    @property
    def channel_axis(self) -> int:
        """Of one sample."""
        return 2 if self.preprocessing.layout == "NHWC" else 0

    def sides(self, shape: Sequence[int]) -> tuple[int, int]:
        """Height and width of one sample."""
        axes = [axis for axis in range(3) if axis != self.channel_axis]
        return shape[axes[0]], shape[axes[1]]

    def signed(self, values: Array) -> Image.Image:
        """Colours around grey; 0 is grey."""
        p = self.preprocessing
        return back_projection(values, layout=p.layout, color=p.color, percentile=CLIP)

    def output(self, values: Array) -> Image.Image:
        """The output as a picture."""
        low, high = self.scale or (float(values.min()), float(values.max()))
        pixels = np.moveaxis(np.asarray(values, np.float64), self.channel_axis, 2)
        if self.preprocessing.color == "BGR":
            pixels = pixels[:, :, ::-1]
        levels = np.clip(np.rint((pixels - low) / ((high - low) or 1.0) * 255.0), 0, 255).astype(np.uint8)
        return Image.fromarray(np.ascontiguousarray(np.broadcast_to(levels, (*levels.shape[:2], 3))))

    def name(self, index: int) -> str:
        known = self.labels is not None and index < len(self.labels)
        return self.labels[index] if known and self.labels is not None else f"output {index}"

    def vector(self, values: Array) -> Image.Image:
        """The entries of largest magnitude, as bars."""
        flat = values.ravel()
        order = np.argsort(-np.abs(flat), kind="stable")[:TOP]
        return small([Bar(self.name(int(i)), float(flat[i])) for i in order])

    def shape_of(self, values: Array) -> Image.Image:
        """A signed tensor, as far as it can be shown."""
        return self.signed(values) if self.is_picture(values.shape) else self.vector(values)


@dataclass(frozen=True)
class Probe:
    """One row or column that was asked for. place: (y, x) of a picture, or None. name: for the caption."""

    name: str
    place: tuple[int, int] | None


def filters(view: View, a: Interpreter, probes: Sequence[Probe], found: Array, kind: str) -> Image.Image:
    """A row a probe: input, output, the filter and, if that is local, its surroundings enlarged. kind:
    "rows" (filters over the input) or "columns" (over the output). The probe is marked where it is."""
    rows, local = [], any(_is_local(values, view) for values in found)
    for probe, values in zip(probes, found, strict=True):
        photo, output = view.shown, _output(view, a)
        here = output if kind == "rows" else photo
        if probe.place is not None and here is not None:
            marked = mark(here, probe.place)
            photo, output = (photo, marked) if kind == "rows" else (marked, output)
        picture = view.shape_of(values)
        title = "receptive filter, row of F" if kind == "rows" else "projective filter, column of F"
        cells = [] if output is None else [Cell("output", output)]
        cells.append(Cell(title, picture))
        if local:
            cells.append(Cell("its support, enlarged", picture.crop(support(values, view))))
        rows.append(Row(photo, probe.name, cells))
    return panel(rows)


def _is_local(values: Array, view: View) -> bool:
    """Whether enlarging the support of a filter shows more of it."""
    if not view.is_picture(values.shape):
        return False
    left, top, right, bottom = support(values, view)
    return max(right - left, bottom - top) <= 0.75 * max(view.sides(values.shape))


def _output(view: View, a: Interpreter) -> Image.Image | None:
    return view.output(a.value) if view.is_picture(a.value.shape) else None


def mark(picture: Image.Image, place: tuple[int, int]) -> Image.Image:
    """A ring around a pixel. The picture is enlarged first where the ring would hide it."""
    times = max(1, -(-256 // max(picture.size)))
    large = picture.convert("RGB").resize(
        (picture.width * times, picture.height * times), Image.Resampling.NEAREST
    )
    y, x = ((p + 0.5) * times for p in place)
    radius = max(5.0, 0.02 * max(large.size) + times / 2)
    draw = ImageDraw.Draw(large)
    for more, colour in ((2.0, (0, 0, 0)), (0.0, (255, 235, 0))):
        r = radius + more / 2
        draw.ellipse((x - r, y - r, x + r, y + r), outline=colour, width=2 + int(more))
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), outline=(255, 235, 0), width=2)
    return large


def support(values: Array, view: View) -> tuple[int, int, int, int]:
    """The square around everything above 2 % of the largest magnitude: (left, top, right, bottom)."""
    size = np.abs(values).max(axis=view.channel_axis)
    height, width = size.shape
    ys, xs = np.nonzero(size >= ZOOM * size.max()) if size.any() else (np.arange(height), np.arange(width))
    side = max(int(np.ptp(ys)), int(np.ptp(xs)), 4) + 3
    y, x = (int(ys.min()) + int(ys.max())) // 2, (int(xs.min()) + int(xs.max())) // 2
    side = min(side, max(height, width))
    top = min(max(0, y - side // 2), max(0, height - side))
    left = min(max(0, x - side // 2), max(0, width - side))
    return left, top, min(width, left + side), min(height, top + side)


def decomposition(view: View, a: Interpreter, found: Svd) -> Image.Image:
    """Eigen-inputs over eigen-outputs, with their singular values; first what F x0 and r make of the output."""
    if not isinstance(found.inputs, np.ndarray):
        raise ImageError("eigen-inputs of several inputs cannot be drawn; use the Python API")
    output = _output(view, a)
    linear = a.value - a.residual
    first = ("F x0 (above), residual r (below)", view.shape_of(linear), view.shape_of(a.residual))
    if output is not None:
        first = (first[0], view.output(linear), first[2])
    columns = [first] + [
        (
            f"sigma {i + 1} = {sigma:.4g}" + ("" if done else " (not converged)"),
            view.shape_of(v),
            view.shape_of(u),
        )
        for i, (sigma, v, u, done) in enumerate(
            zip(found.values, found.inputs, found.outputs, found.converged, strict=True)
        )
    ]
    blocks = []
    for start in range(0, len(columns), COLUMNS):
        part = columns[start : start + COLUMNS]
        below = view.vector(a.value) if output is None else output
        blocks.append(
            panel(
                [
                    Row(view.shown, "input; eigen-inputs", [Cell(name, v) for name, v, _ in part]),
                    Row(below, "output; eigen-outputs", [Cell(name, u) for name, _, u in part]),
                ]
            )
        )
    return stacked(blocks)


def contributions(found: Contributions, title: str) -> Image.Image:
    """A bar a term in graph order, as shares of the score; with many terms the smallest are added up at the end."""
    values = np.asarray(found.values, np.float64)
    keep = np.sort(np.argsort(-np.abs(values), kind="stable")[:MOST])
    kept = sorted({0, *keep.tolist()})
    items = [Bar(found.names[i], values[i]) for i in kept]
    if len(kept) < len(values):
        items.append(Bar(f"{len(values) - len(kept)} others", float(values.sum() - values[kept].sum())))
    notes = [
        f"score {found.score:.4g} = F x0 {found.input:.4g} + residual {found.residual:.4g}",
        f"residual / score = {found.ratio:.1%};  |r| / (|F x0| + |r|) = {found.share:.1%}",
    ]
    return bars(items, title, notes)


def votes(view: View, found: Votes, scores: Array, count: int) -> Image.Image:
    """The photo, the votes in colours, and the popularity image of each of the classes with most votes: the photo where
    pixels vote for it."""
    popular = found.popular(count)
    tints = {c: PALETTE[i % len(PALETTE)] for i, c in enumerate(popular)}
    painted = np.full((*found.votes.shape, 3), 225, np.uint8)
    cells = []
    for c in popular:
        mask = found.votes == c
        painted[mask] = tints[c]
        cells.append(Cell(_told(view, found, scores, c), _framed(_masked(view.shown, mask), tints[c])))
    top = view.name(int(scores.argmax()))
    cells.insert(0, Cell("votes, a colour a class; grey: the others", Image.fromarray(painted)))
    return stacked(
        [
            panel([Row(view.shown, f"top class: {top}", cells[i : i + COLUMNS])])
            for i in range(0, len(cells), COLUMNS)
        ]
    )


def _told(view: View, found: Votes, scores: Array, c: int) -> str:
    share = found.shares[list(found.classes).index(c)]
    return f"{view.name(c)}  {share:.1%} of the votes, score {scores.ravel()[c]:.3g}"


def _masked(photo: Image.Image, mask: Array) -> Image.Image:
    """The photo where the mask is, white elsewhere."""
    large = Image.fromarray(mask.astype(np.uint8) * 255).resize(photo.size, Image.Resampling.NEAREST)
    return Image.composite(photo.convert("RGB"), Image.new("RGB", photo.size, "white"), large)


def _framed(picture: Image.Image, colour: tuple[int, int, int]) -> Image.Image:
    """A border of 3 % in the colour of the class."""
    edge = max(2, round(0.03 * max(picture.size)))
    framed = Image.new("RGB", (picture.width + 2 * edge, picture.height + 2 * edge), colour)
    framed.paste(picture, (edge, edge))
    return framed


def stacked(pictures: Sequence[Image.Image]) -> Image.Image:
    """One below the other, on white."""
    if len(pictures) == 1:
        return pictures[0]
    width, height = max(p.width for p in pictures), sum(p.height for p in pictures)
    whole = Image.new("RGB", (width, height), "white")
    top = 0
    for picture in pictures:
        whole.paste(picture, (0, top))
        top += picture.height
    return whole


__all__ = ["Probe", "View", "contributions", "decomposition", "filters", "stacked", "votes"]
