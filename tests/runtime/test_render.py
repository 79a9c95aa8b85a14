"""Readouts against their formulas, colour maps against numbers, pictures against pixels."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from onnxplain.rewriter.errors import ImageError, OptionError
from onnxplain.runtime.colormaps import COLORMAPS, colorize, jet, jet_table, signed
from onnxplain.runtime.render import READOUTS, back_projection, heat, overlay, readout
from onnxplain.runtime.render import signed as signed_picture

RNG = np.random.default_rng(0)
M = RNG.normal(size=(2, 3, 4, 5))
# Results are float32 of float64 arithmetic: half a unit in the last place, 2^-24.
REL = 1e-7


def pixels(image: Image.Image) -> npt.NDArray[np.uint8]:
    return np.asarray(image)


def test_jet_in_numbers() -> None:
    # Entries of matplotlib's `jet` with 256 colours.
    table = {
        0: (0.0, 0.0, 0.5),
        28: (0.0, 0.0, 0.999109),
        64: (0.0, 0.503922, 1.0),
        100: (0.13599, 1.0, 0.831752),
        128: (0.490196, 1.0, 0.477546),
        160: (0.895003, 1.0, 0.072739),
        192: (1.0, 0.581699, 0.0),
        228: (0.981283, 0.058824, 0.0),
        255: (0.5, 0.0, 0.0),
    }
    assert jet_table().shape == (256, 3)
    for index, colour in table.items():
        assert jet_table()[index] == pytest.approx(colour, abs=1e-6)  # printed with 6 digits


def test_jet_takes_the_entry_floor_256_v() -> None:
    values = np.array([0.0, 1 / 256 - 1e-9, 1 / 256, 0.5, 255 / 256, 1.0, -3.0, 7.0])
    assert np.array_equal(jet(values), jet_table()[[0, 0, 1, 128, 255, 255, 0, 255]])


def test_signed_is_white_at_zero_red_above_blue_below() -> None:
    values = np.array([0.0, 1.0, -1.0, 0.25, -0.25, 9.0, -9.0])
    assert signed(values).tolist() == [
        [1.0, 1.0, 1.0],
        [1.0, 0.0, 0.0],
        [0.0, 0.0, 1.0],
        [1.0, 0.75, 0.75],
        [0.75, 0.75, 1.0],
        [1.0, 0.0, 0.0],
        [0.0, 0.0, 1.0],
    ]


def test_colorize_gives_bytes_and_names_unknown_maps() -> None:
    assert colorize([[0.0, 0.5, 1.0]], "grey").tolist() == [[[0] * 3, [128] * 3, [255] * 3]]
    for name in COLORMAPS:
        assert colorize(np.linspace(-2, 2, 9), name).shape == (9, 3)
    with pytest.raises(OptionError, match="did you mean 'signed'"):
        colorize([0.0], "singed")


def test_channel_readouts() -> None:
    assert readout("maxabs", M) == pytest.approx(np.abs(M).max(1), rel=REL)
    assert readout("sum", M) == pytest.approx(M.sum(1), rel=REL)
    for entry, given in zip(readout("abssum_p99", M), M, strict=True):
        total = np.abs(given).sum(0)
        low, high = total.min(), np.percentile(total, 99)
        assert entry == pytest.approx(np.clip((total - low) / (high - low), 0, 1), rel=REL, abs=1e-9)


def test_normalising_readouts_per_entry() -> None:
    for index, m in enumerate(M):
        big = np.abs(m).max()
        assert readout("minmax", M)[index] == pytest.approx((m - m.min()) / (m.max() - m.min()), rel=REL)
        assert readout("centre", M)[index] == pytest.approx(m / (2 * big) + 0.5, rel=REL, abs=1e-8)
        assert readout("sym", M)[index] == pytest.approx(m / big, rel=REL)
        assert readout("unit", M)[index] == pytest.approx(m / np.linalg.norm(m), rel=REL)
        assert readout("max", np.abs(M))[index] == pytest.approx(np.abs(m) / big, rel=REL)


@pytest.mark.parametrize("name", sorted(READOUTS))
def test_entries_do_not_touch_each_other(name: str) -> None:
    m = np.abs(M)
    together = readout(name, m)
    assert together.dtype == np.float32
    for index in range(2):
        assert np.array_equal(together[index], readout(name, m[index : index + 1])[0])


@pytest.mark.parametrize("name", sorted(READOUTS))
def test_nhwc_is_nchw_turned(name: str) -> None:
    m = np.abs(M)
    result, turned = readout(name, m), readout(name, m.transpose(0, 2, 3, 1), layout="NHWC")
    # Summed in another order, so not bit by bit.
    assert turned == pytest.approx(result if result.ndim == 3 else result.transpose(0, 2, 3, 1), rel=1e-6)


@pytest.mark.parametrize("name", ["minmax", "max", "centre", "sym", "unit", "abssum_p99"])
@pytest.mark.parametrize("constant", [0.0, 3.0, 1e-40])
def test_a_constant_map_gives_zeros(name: str, constant: float) -> None:
    m = np.full((1, 3, 4, 4), constant, np.float32)
    assert not readout(name, m).any()
    assert not readout(name, np.concatenate([m, np.abs(M[:1, :, :, :4]).astype(np.float32)]))[0].any()


# Not below 1e-36: onnxruntime may have set this thread to treat subnormal numbers as 0.
@pytest.mark.parametrize("scale", [1e-36, 1e-30, 1e37])
@pytest.mark.parametrize("name", sorted(set(READOUTS) - {"sum", "maxabs"}))
def test_extreme_values_stay_finite(name: str, scale: float) -> None:
    m = (np.abs(M) * scale).astype(np.float32)
    result = readout(name, m)
    assert np.isfinite(result).all() and result.any()


def test_a_single_hot_pixel_still_shows() -> None:
    m = np.zeros((1, 1, 20, 20))
    m[0, 0, 3, 4] = 7.0  # 1 of 400: the 99th percentile is 0
    assert readout("abssum_p99", m)[0].sum() == 1.0 and readout("abssum_p99", m)[0, 3, 4] == 1.0
    assert pixels(heat(m[0, 0], "grey"))[3, 4].tolist() == [255] * 3
    assert pixels(signed_picture(-m[0, 0]))[3, 4].tolist() == [0, 0, 255]


def test_readout_refuses() -> None:
    with pytest.raises(OptionError, match="did you mean 'maxabs'"):
        readout("maxab", M)
    with pytest.raises(OptionError, match="known: NCHW, NHWC"):
        readout("sum", M, layout="CHWN")
    with pytest.raises(OptionError, match="without negative values"):
        readout("max", M)
    with pytest.raises(ImageError, match="3 axes"):
        readout("sum", M[0])
    with pytest.raises(ImageError, match="empty"):
        readout("sum", np.zeros((0, 3, 4, 4)))
    bad = M.copy()
    bad[0, 0, 0, :2] = np.nan, np.inf
    with pytest.raises(ImageError, match="2 values that are NaN"):
        readout("sum", bad)


def test_heat_clips_at_the_percentile() -> None:
    m = np.arange(101.0).reshape(1, 101)  # the 99th percentile is 99
    expected = np.rint(np.clip(m / 99.0, 0, 1) * 255)
    assert np.array_equal(pixels(heat(m, "grey"))[:, :, 0], expected)
    assert np.array_equal(pixels(heat(m, "grey", 100.0))[:, :, 0], np.rint(m / 100.0 * 255))
    assert np.array_equal(pixels(heat(m / 200, "grey", None))[:, :, 0], np.rint(m / 200 * 255))


def test_heat_of_a_constant_map_is_the_colour_of_zero() -> None:
    assert np.unique(pixels(heat(np.full((3, 4), 5.0))).reshape(-1, 3), axis=0).tolist() == [[0, 0, 128]]
    assert (pixels(signed_picture(np.zeros((3, 4)))) == 255).all()


def test_signed_picture_keeps_the_sign() -> None:
    m = np.array([[1.0, -1.0, 0.0, 0.5]])
    assert pixels(signed_picture(m, 100.0)).tolist() == [
        [[255, 0, 0], [0, 0, 255], [255] * 3, [255, 128, 128]]
    ]
    assert np.array_equal(pixels(heat(m, "signed", 100.0)), pixels(signed_picture(m, 100.0)))
    assert pixels(signed_picture(m / 2, None))[0, 0].tolist() == [255, 128, 128]


def test_overlay_blends_and_enlarges_with_half_pixel_centres() -> None:
    m = np.array([[0.0, 1.0]])
    black = Image.new("RGB", (4, 1))
    # Centres of 4 pixels over 2 lie at -1/4, 1/4, 3/4, 5/4: values 0, 1/4, 3/4, 1.
    expected = np.rint(np.array([0.0, 0.25, 0.75, 1.0]) * 255)
    assert pixels(overlay(black, m, 1.0, "grey", 100.0))[0, :, 0].tolist() == expected.tolist()
    photo = Image.new("RGB", (2, 1), (100, 100, 100))
    assert pixels(overlay(photo, m, 0.5, "jet", 100.0)).tolist() == [[[50, 50, 114], [114, 50, 50]]]
    assert np.array_equal(pixels(overlay(photo, m, 0.0)), pixels(photo))
    with pytest.raises(OptionError, match=r"alpha is 1\.5"):
        overlay(photo, m, 1.5)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_back_projection_is_the_centred_colour_picture(layout: str) -> None:
    m = M[:1]
    given = m if layout == "NCHW" else m.transpose(0, 2, 3, 1)
    centred = m[0].transpose(1, 2, 0) / (2 * np.abs(m).max()) + 0.5
    expected = np.rint(centred * 255)
    assert np.array_equal(pixels(back_projection(given, layout, percentile=100.0)), expected)
    assert np.array_equal(pixels(back_projection(given[0], layout, percentile=100.0)), expected)
    turned = back_projection(given, layout, color="BGR", percentile=100.0)
    assert np.array_equal(pixels(turned), expected[:, :, ::-1])


def test_back_projection_of_nothing_is_mid_grey() -> None:
    assert (pixels(back_projection(np.zeros((1, 1, 3, 4)))) == 128).all()
    assert back_projection(np.zeros((1, 3, 4))).size == (4, 3)


def test_pictures_refuse() -> None:
    with pytest.raises(ImageError, match=r"not \(H, W\)"):
        heat(M)
    with pytest.raises(ImageError, match="NaN"):
        signed_picture(np.full((2, 2), np.nan))
    with pytest.raises(OptionError, match="percentile is 0"):
        heat(M[0, 0], percentile=0)
    with pytest.raises(OptionError, match="percentile is 101"):
        back_projection(M[0], percentile=101)
    with pytest.raises(ImageError, match="1 or 3 channels"):
        back_projection(np.zeros((2, 4, 4)))
