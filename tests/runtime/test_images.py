"""Pictures in and out: decoding, geometry, channel order, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from onnxplain.rewriter.errors import ImageError, OptionError
from onnxplain.runtime.images import prepare, read_image, save_image, to_picture, to_rgb
from onnxplain.runtime.preprocess import Preprocessing

Turn = Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.uint8]]
RAW = Preprocessing(mean=(0.0,) * 3, std=(1.0,) * 3)
GREY = Preprocessing(color="GRAY", mean=(0.0,), std=(1.0,))


def noise(height: int, width: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def pixels(image: Image.Image) -> npt.NDArray[np.uint8]:
    return np.asarray(image)


def test_png_is_read_exactly(tmp_path: Path) -> None:
    image = noise(5, 7)
    image.save(tmp_path / "a.png")
    read = read_image(tmp_path / "a.png")
    assert read.mode == "RGB" and np.array_equal(pixels(read), pixels(image))


@pytest.mark.parametrize(
    ("orientation", "turn"),
    [
        (1, lambda p: p),
        (2, lambda p: p[:, ::-1]),
        (3, lambda p: p[::-1, ::-1]),
        (6, lambda p: np.rot90(p, -1)),
        (8, lambda p: np.rot90(p)),
    ],
)
def test_exif_orientation_is_applied(orientation: int, turn: Turn, tmp_path: Path) -> None:
    image = noise(4, 6)
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(pixels(read_image(tmp_path / "a.png")), turn(pixels(image)))


def test_transparency_is_laid_over_white(tmp_path: Path) -> None:
    image = Image.new("RGBA", (3, 1))
    image.putpixel((0, 0), (200, 0, 0, 0))
    image.putpixel((1, 0), (200, 0, 0, 255))
    image.putpixel((2, 0), (0, 0, 0, 51))  # 51 = 20 % of 255
    image.save(tmp_path / "a.png")
    assert pixels(read_image(tmp_path / "a.png"))[0].tolist() == [
        [255, 255, 255],
        [200, 0, 0],
        [204, 204, 204],
    ]


def test_palettes_keep_colour_and_transparency(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "a.png")
    image.save(tmp_path / "b.png", transparency=0)
    assert pixels(read_image(tmp_path / "a.png"))[0].tolist() == [[10, 20, 30], [200, 100, 50]]
    assert pixels(read_image(tmp_path / "b.png"))[0].tolist() == [[255, 255, 255], [200, 100, 50]]


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bit_grey_is_scaled_not_clipped(suffix: str, tmp_path: Path) -> None:
    values = np.array([[0, 257, 128 * 257, 65535, 300]], np.uint16)
    Image.fromarray(values).save(tmp_path / f"a{suffix}")
    assert pixels(read_image(tmp_path / f"a{suffix}"))[0, :, 0].tolist() == [0, 1, 128, 255, 1]


def test_other_modes_become_rgb(tmp_path: Path) -> None:
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=95)
    red = pixels(read_image(tmp_path / "a.jpg"))[4, 4]
    assert red[0] > 245 and red[1] < 10 and red[2] < 10  # JPEG is lossy
    assert pixels(to_rgb(Image.new("1", (1, 1), 1))).tolist() == [[[255, 255, 255]]]
    assert pixels(to_rgb(Image.new("LA", (1, 1), (0, 0)))).tolist() == [[[255, 255, 255]]]
    assert pixels(to_rgb(Image.new("I", (1, 1), 65535))).tolist() == [[[255, 255, 255]]]


def test_undefined_ranges_are_refused() -> None:
    with pytest.raises(ImageError, match="floating-point"):
        to_rgb(Image.new("F", (1, 1)))
    with pytest.raises(ImageError, match="16 bits"):
        to_rgb(Image.new("I", (1, 1), 70000))


def test_missing_folder_and_foreign_files(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("no picture")
    (tmp_path / "b.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    (tmp_path / "c.png").write_bytes(b"")
    for name, problem in [
        ("none.png", "no such file"),
        ("a.png", "cannot be read"),
        ("b.eps", "cannot be read"),
        ("c.png", "cannot be read"),
    ]:
        with pytest.raises(ImageError, match=problem) as caught:
            read_image(tmp_path / name)
        assert name in str(caught.value)
    with pytest.raises(ImageError, match="folder"):
        read_image(tmp_path)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".gif", ".bmp", ".tif", ".webp"])
def test_a_truncated_file_is_refused(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    noise(64, 64).save(path)
    whole = path.read_bytes()
    for share in (0.9, 0.5, 0.1):
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(ImageError, match="cannot be read"):
            read_image(path)


# Pillow warns about some damage and reads on; here only the type of an error matters.
@pytest.mark.filterwarnings("ignore")
def test_damaged_bytes_never_raise_anything_else(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = tmp_path / "a.bin"
    for suffix in ("PNG", "JPEG", "TIFF", "GIF", "BMP", "WEBP"):
        noise(16, 16).save(path, format=suffix)
        whole = np.frombuffer(path.read_bytes(), np.uint8)
        for _ in range(40):
            broken = whole.copy()
            broken[rng.integers(0, len(whole), 4)] = rng.integers(0, 256, 4)
            path.write_bytes(broken.tobytes())
            try:
                image = read_image(path, max_pixels=100_000)
            except ImageError:
                continue
            assert image.mode == "RGB"


def test_too_many_pixels_are_refused_before_decoding(tmp_path: Path) -> None:
    noise(10, 11).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png", max_pixels=110).size == (11, 10)
    with pytest.raises(ImageError, match="limit is 109 pixels"):
        read_image(tmp_path / "a.png", max_pixels=109)
    Image.new("1", (20_000, 20_000)).save(tmp_path / "bomb.png")  # a few kB for 400 million pixels
    with pytest.raises(ImageError, match="too large"):
        read_image(tmp_path / "bomb.png")


def test_layout_and_channel_order() -> None:
    image = noise(3, 5)
    expected = pixels(image).astype(np.float32)
    array, shown = prepare(image, RAW)
    assert array.shape == (1, 3, 3, 5) and array.dtype == np.float32 and array.flags.c_contiguous
    assert np.array_equal(array[0], expected.transpose(2, 0, 1)) and np.array_equal(pixels(shown), expected)
    array, _ = prepare(image, replace(RAW, layout="NHWC"))
    assert array.shape == (1, 3, 5, 3) and np.array_equal(array[0], expected)
    array, shown = prepare(image, replace(RAW, color="BGR"))
    assert np.array_equal(array[0], expected.transpose(2, 0, 1)[::-1]) and np.array_equal(
        pixels(shown), expected
    )


def test_mean_and_std_stand_in_the_order_of_the_tensor() -> None:
    image = Image.new("RGB", (1, 1), (10, 20, 30))
    record = Preprocessing(color="BGR", mean=(3.0, 2.0, 1.0), std=(1.0, 2.0, 4.0))
    assert prepare(image, record)[0].ravel().tolist() == [27.0, 9.0, 2.25]


def test_grey_is_itu_601_luma() -> None:
    image = noise(4, 4)
    array, shown = prepare(image, GREY)
    luma = pixels(image) @ np.array([0.299, 0.587, 0.114])
    assert array.shape == (1, 1, 4, 4)
    assert np.abs(array[0, 0] - luma).max() <= 0.51  # rounded to whole pixels
    assert shown.mode == "RGB" and np.array_equal(pixels(shown), np.repeat(array[0, 0, :, :, None], 3, 2))


@pytest.mark.parametrize(("height", "width"), [(20, 31), (31, 20), (20, 20)])
def test_shorter_scales_then_crops_the_centre(height: int, width: int) -> None:
    image = noise(height, width)
    record = Preprocessing(size=(8, 6), resize="shorter", shorter=10, mean=(0.0,) * 3, std=(1.0,) * 3)
    _, shown = prepare(image, record)
    # 10 * 31 / 20 = 15.5 pixels, rounded to 16; the crop's start rounds halves to even.
    scaled_height, scaled_width = {(20, 31): (10, 16), (31, 20): (16, 10), (20, 20): (10, 10)}[height, width]
    scaled = image.resize((scaled_width, scaled_height), Image.Resampling.BILINEAR)
    top, left = {(20, 31): (1, 5), (31, 20): (4, 2), (20, 20): (1, 2)}[height, width]
    assert np.array_equal(pixels(shown), pixels(scaled)[top : top + 8, left : left + 6])


def test_stretch_ignores_the_aspect() -> None:
    image = noise(9, 30)
    record = Preprocessing(size=(6, 5), resize="stretch", resample="nearest")
    _, shown = prepare(image, record)
    assert np.array_equal(pixels(shown), pixels(image.resize((5, 6), Image.Resampling.NEAREST)))


@pytest.mark.parametrize(
    ("height", "width", "inner"), [(10, 40, (4, 16)), (40, 10, (16, 4)), (5, 5, (16, 16))]
)
def test_letterbox_fills_the_rest_with_zeros(height: int, width: int, inner: tuple[int, int]) -> None:
    record = Preprocessing(size=(16, 16), resize="letterbox", mean=(10.0,) * 3, std=(2.0,) * 3)
    array, shown = prepare(Image.new("RGB", (width, height), (50, 60, 70)), record)
    expected = np.zeros((16, 16, 3))
    expected[: inner[0], : inner[1]] = (50, 60, 70)
    assert np.array_equal(pixels(shown), expected)
    assert np.array_equal(array[0], ((expected - 10.0) / 2.0).transpose(2, 0, 1))


def test_a_free_size_is_cut_down_to_a_multiple() -> None:
    image = noise(11, 14)
    array, shown = prepare(image, replace(RAW, multiple=4))
    assert array.shape == (1, 3, 8, 12)
    assert np.array_equal(pixels(shown), pixels(image)[2:10, 1:13])
    with pytest.raises(ImageError, match="multiples of 12"):
        prepare(image, replace(RAW, multiple=12))


def test_no_resizing_wants_the_exact_size() -> None:
    record = replace(RAW, size=(4, 6))
    assert prepare(noise(4, 6), record)[0].shape == (1, 3, 4, 6)
    with pytest.raises(ImageError, match="takes 4 x 6"):
        prepare(noise(6, 4), record)


def test_an_endless_strip_is_refused() -> None:
    record = Preprocessing(size=(224, 224), resize="shorter", shorter=256)
    with pytest.raises(ImageError, match="too much memory"):
        prepare(Image.new("RGB", (60_000, 1)), record)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("color", ["RGB", "BGR", "GRAY"])
@pytest.mark.parametrize("preset", ["raw", "unit", "tf", "lite", "imagenet", "caffe", "clip"])
def test_to_picture_is_the_inverse(layout: str, color: str, preset: str) -> None:
    channels = 1 if color == "GRAY" else 3
    blank = Preprocessing(layout=layout, color=color, mean=(0.0,) * channels, std=(1.0,) * channels)
    record = blank.scaled(preset)
    array, shown = prepare(noise(6, 4), record)
    assert np.array_equal(pixels(to_picture(array, record)), pixels(shown))
    assert np.array_equal(pixels(to_picture(array[0], record)), pixels(shown))


def test_to_picture_rounds_and_clips() -> None:
    unit = Preprocessing()
    values = np.array([-0.2, 0.5 / 255 + 1e-6, 1.3]).reshape(3, 1, 1)
    assert pixels(to_picture(values, unit)).tolist() == [[[0, 1, 255]]]


@pytest.mark.parametrize("shape", [(2, 3, 4, 4), (1, 1, 4, 4), (1, 4, 4, 3), (4, 4), (1, 3, 0, 4)])
def test_to_picture_refuses_other_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(ImageError, match="not one NCHW picture of 3 channels"):
        to_picture(np.zeros(shape), RAW)


def test_to_picture_refuses_nan() -> None:
    with pytest.raises(ImageError, match="NaN or infinity"):
        to_picture(np.full((3, 2, 2), np.nan), RAW)


def test_save_image(tmp_path: Path) -> None:
    image = noise(4, 4)
    save_image(image, tmp_path / "a.PNG")
    assert np.array_equal(pixels(read_image(tmp_path / "a.PNG")), pixels(image))
    assert [path.name for path in tmp_path.iterdir()] == ["a.PNG"]
    with pytest.raises(OptionError, match=r"did you mean '.png'"):
        save_image(image, tmp_path / "a.pngg")
    with pytest.raises(OptionError, match="nowhere"):
        save_image(image, tmp_path / "nowhere" / "a.png")
