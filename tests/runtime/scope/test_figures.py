"""Figures: colours stand where the numbers say."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from onnxplain import OptionError, TargetError
from onnxplain.runtime.preprocess import Preprocessing
from onnxplain.runtime.scope import Contributions, Votes, figures
from onnxplain.runtime.scope.bars import NEGATIVE, POSITIVE, Bar, bars, small
from onnxplain.runtime.scope.figures import PALETTE, View, mark, stacked, support
from onnxplain.runtime.scope.layout import Layout
from onnxplain.runtime.scope.photo import Place, probes

GREY = (128, 128, 128)
PLAIN = View(Image.new("RGB", (12, 8), "green"), Preprocessing(), None, ("red", "green"))
LAST = View(Image.new("RGB", (12, 8)), Preprocessing(layout="NHWC", color="BGR"))


def extent(picture: Image.Image, colour: tuple[int, int, int]) -> int:
    """Columns in which a colour stands."""
    return int((np.asarray(picture) == colour).all(axis=2).any(axis=0).sum())


def test_bars_have_the_length_of_their_values() -> None:
    picture = bars([Bar("a", 3.0), Bar("b", -1.0), Bar("none", 0.0)], "title", ["a note"])
    assert extent(picture, POSITIVE) == pytest.approx(3 * extent(picture, NEGATIVE), abs=4)
    assert extent(picture, POSITIVE) + extent(picture, NEGATIVE) == pytest.approx(560, abs=4)
    assert bars([Bar("zero", 0.0)], "").size[0] == picture.size[0]


def test_long_names_keep_their_end() -> None:
    one, other = (bars([Bar("very/" * 30 + end, 1.0)], "") for end in ("conv", "norm"))
    assert one.tobytes() != other.tobytes()


def test_bars_in_a_cell() -> None:
    picture = np.asarray(small([Bar("a", 1.0), Bar("b", -0.5)]))
    assert picture.shape == (256, 256, 3)
    assert picture[40, 240].tolist() != [255] * 3 and picture[168, 240].tolist() == [255] * 3


def test_what_is_a_picture() -> None:
    assert PLAIN.is_picture((3, 8, 12)) and PLAIN.is_picture((1, 8, 12)) and LAST.is_picture((8, 12, 3))
    assert not any(PLAIN.is_picture(shape) for shape in ((8, 12, 3), (2, 8, 12), (3, 1, 1), (3,), (8, 12)))


def test_zero_is_grey_and_red_is_red() -> None:
    for view, shape, red in ((PLAIN, (3, 8, 12), (0, 2, 3)), (LAST, (8, 12, 3), (2, 3, 2))):
        values = np.zeros(shape)
        values[red] = 5.0
        pixels = np.asarray(view.signed(values))
        assert pixels[2, 3].tolist() == [255, 128, 128] and pixels[0, 0].tolist() == list(GREY)


def test_output_pictures() -> None:
    values = np.zeros((3, 8, 12))
    values[0, 1, 1], values[1] = 1.0, 0.5
    assert np.asarray(View(PLAIN.shown, Preprocessing(), (0, 1)).output(values))[1, 1].tolist() == [
        255,
        128,
        0,
    ]
    assert np.asarray(PLAIN.output(values * 7 + 3))[1, 1].tolist() == [255, 128, 0]
    assert not np.asarray(PLAIN.output(np.ones((1, 8, 12)))).any()
    assert np.asarray(LAST.output(np.moveaxis(values, 0, 2)))[1, 1].tolist() == [0, 128, 255]


def test_the_ring_is_around_the_pixel() -> None:
    picture = np.asarray(mark(Image.new("RGB", (32, 32)), (8, 24)))
    ys, xs = np.nonzero((picture == (255, 235, 0)).all(axis=2))
    assert picture.shape == (256, 256, 3)
    assert ys.mean() == pytest.approx(8.5 * 8, abs=1) and xs.mean() == pytest.approx(24.5 * 8, abs=1)
    assert (picture[68, 196] == 0).all(), "the pixel itself stays visible"


def test_a_zoom_holds_the_support() -> None:
    values = np.zeros((3, 40, 60))
    values[1, 30:33, 50:55] = 1.0
    left, top, right, bottom = support(values, PLAIN)
    assert (
        left <= 50 and right >= 55 and top <= 30 and bottom >= 33 and right - left < 12 and bottom - top < 12
    )
    assert support(np.zeros((3, 4, 6)), PLAIN) == (0, 0, 6, 4)
    assert support(np.ones((3, 4, 6)), PLAIN) == (0, 0, 6, 4)


def test_popularity_images_show_the_photo_where_pixels_vote() -> None:
    votes = np.zeros((8, 12), np.int64)
    votes[:, 6:] = 1
    votes[0, 0] = 1
    found = Votes(np.array([0, 1]), votes, np.array([47, 49]), np.ones((8, 12)))
    picture = figures.votes(PLAIN, found, np.array([1.0, 2.0]), 2)
    assert extent(picture, PALETTE[0]) > 100 and extent(picture, PALETTE[1]) > 100
    pixels = np.asarray(figures._masked(PLAIN.shown, votes == 1))
    assert pixels[4, 8].tolist() == [0, 128, 0] and pixels[4, 2].tolist() == [255] * 3


def test_small_terms_are_added_up() -> None:
    values = np.r_[0.0, np.arange(1.0, 101.0)]
    found = Contributions(("input", *(f"t{i}" for i in range(100))), values, 0, 5050.0)
    few = Contributions(found.names[:61], values[:61], 0, float(values[:61].sum()))
    assert figures.contributions(found, "").height - figures.contributions(few, "").height == 20


def test_stacked() -> None:
    assert stacked([Image.new("RGB", (5, 6)), Image.new("RGB", (8, 2))]).size == (8, 8)


def test_places() -> None:
    photo = Image.fromarray(np.arange(600, dtype=np.uint8).reshape(10, 20, 3))
    assert Place().of(photo) is photo
    cut = Place((3, 4, 5, 6)).of(photo)
    assert cut.size == (5, 6) and cut.getpixel((0, 0)) == photo.getpixel((3, 4))
    assert Place((3, 4, 5, 6), (50, 60)).of(photo).size == (50, 60)
    with pytest.raises(OptionError, match="--crop 16,0,5,5 does not lie in the photo, 20 x 10"):
        Place((16, 0, 5, 5)).of(photo)


def test_probes_of_a_picture() -> None:
    side = Layout("output", (("y", (3, 8, 12)),))
    found, units = probes(["2,3", "1,2,3", "95"], side, PLAIN)
    assert [probe.place for probe in found] == [(2, 3), (2, 3), (7, 11)]
    assert [probe.name for probe in found] == [
        "output pixel (2, 3), all channels",
        "output entry (1, 2, 3)",
        "output entry (0, 7, 11)",
    ]
    assert [list(zip(*np.nonzero(unit), strict=True)) for unit in units] == [
        [(0, 2, 3), (1, 2, 3), (2, 2, 3)],
        [(1, 2, 3)],
        [(0, 7, 11)],
    ]
    ((middle,), _) = probes([], side, PLAIN)
    assert middle.place == (4, 6)
    for text, message in (
        ("8,0", "8 is out of range on axis 0"),
        ("x,y", "write it as"),
        ("288", "0 to 287"),
    ):
        with pytest.raises(OptionError, match=message):
            probes([text], side, PLAIN)


def test_probes_of_a_class() -> None:
    side = Layout("output", (("y", (2,)),))
    found, units = probes(["green", "0"], side, PLAIN)
    assert [probe.name for probe in found] == ["green", "red"] and units.tolist() == [[0, 1], [1, 0]]
    found, _ = probes([], side, PLAIN, np.array([0.0, 3.0]))
    assert found[0].name == "green"
    with pytest.raises(TargetError, match="no class is called 'blue'"):
        probes(["blue"], side, PLAIN)
    with pytest.raises(OptionError, match="output index 2 is out of range"):
        probes(["2"], side, PLAIN)
