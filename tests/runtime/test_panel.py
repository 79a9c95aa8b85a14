"""The figure: geometry, text that is never cut, and legends."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from onnxplain.rewriter.errors import OptionError
from onnxplain.runtime.panel import Cell, Row, panel

RED = Image.new("RGB", (224, 224), (255, 0, 0))
GREEN = Image.new("RGB", (28, 14), (0, 255, 0))


def figure(
    caption: str = "cat  0.9", names: tuple[str, ...] = ("saliency",), title: str | None = None
) -> Image.Image:
    return panel([Row(RED, caption, [Cell(name, GREEN, "signed") for name in names])], title)


def ink_box(image: Image.Image) -> tuple[int, int, int, int]:
    rows, columns = np.nonzero((np.asarray(image) != 255).any(2))
    return int(columns.min()), int(rows.min()), int(columns.max()), int(rows.max())


def test_pictures_keep_their_aspect_in_cells_of_256_pixels() -> None:
    array = np.asarray(figure())
    red = np.nonzero((array == (255, 0, 0)).all(2))
    green = np.nonzero((array == (0, 255, 0)).all(2))
    assert np.ptp(red[0]) + 1 >= 256 and len(np.unique(green[1])) == 256 and len(np.unique(green[0])) == 128
    assert green[1].min() - 28 == 256 + 20


@pytest.mark.parametrize(
    "text",
    [
        "x",
        "giant panda, panda, panda bear, coon bear, Ailuropoda melanoleuca  0.97",
        "W" * 200,
        "ü ß é  1",
        "",
    ],
)
def test_text_stays_inside_the_margins(text: str) -> None:
    image = figure(caption=text, names=("saliency", text or "b"), title=text)
    left, top, right, bottom = ink_box(image)
    # The margin is 28 pixels, minus one for the frame of a picture.
    assert left >= 27 and top >= 27 and right <= image.width - 28 and bottom <= image.height - 28


def test_long_text_makes_the_figure_higher_not_wider() -> None:
    plain, long = figure(), figure(caption="a long name of a class " * 6)
    assert long.width == plain.width and long.height > plain.height
    assert figure(names=("a long name of a method " * 4,)).height > plain.height
    assert figure(title="t").height > plain.height


def test_double_blanks_survive() -> None:
    assert np.asarray(figure("cat  0.9")).tobytes() != np.asarray(figure("cat 0.9")).tobytes()


def test_a_legend_runs_through_its_colours() -> None:
    cells = np.asarray(figure())[:, 304:560].astype(int)
    bars = [row for row in cells if row[0].tolist() == [0, 0, 255] and row[-1].tolist() == [255, 0, 0]]
    assert len(bars) == 8
    # Red rises up to white in the middle, blue falls from there on.
    assert (np.diff(bars[0][:128, 0]) >= 0).all() and (np.diff(bars[0][128:, 2]) <= 0).all()
    assert bars[0][127:129].min() >= 254


def test_rows_stack_and_must_agree() -> None:
    row = Row(RED, "a", [Cell("x", GREEN), Cell("y", GREEN)])
    assert panel([row, row]).height > panel([row]).height and panel([row, row]).width == panel([row]).width
    with pytest.raises(OptionError, match="row 1"):
        panel([row, Row(RED, "b", [Cell("y", GREEN), Cell("x", GREEN)])])
    with pytest.raises(OptionError, match="at least one row"):
        panel([])
    with pytest.raises(OptionError, match="unknown legend 'hot'"):
        panel([Row(RED, "a", [Cell("x", GREEN, "hot")])])
    assert panel([Row(RED, "only a photo", [])]).width == 256 + 2 * 28
