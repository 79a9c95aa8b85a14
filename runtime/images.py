"""Pictures from files to model tensors and back."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from ..rewriter.errors import ImageError, OptionError, nearest
from .atomic import atomic
from .decoding import FORMATS, MAX_PIXELS, MAX_SIDE, MAX_WORK, Bounds, decode, open_regular, to_rgb
from .preprocess import Preprocessing

_STRIP = 1 << 16
"""Pixels that become values at a time."""
_SUFFIXES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".bmp": "BMP", ".gif": "GIF"}
_RESAMPLE = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def read_image(path: str | os.PathLike[str], max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Read a picture as 8-bit RGB, upright (EXIF orientation applied), transparency laid over white.

    Palettes, grey, CMYK, YCbCr and 16 bits per channel are converted; colour profiles are ignored, as the
    usual training pipelines do. Of an animation the first frame is read. Formats: `FORMATS`.

    Raises ImageError for a file that is missing, no regular file (pipes and devices are not opened), no picture,
    damaged, truncated, without a defined pixel range (floating point), or over a bound that its header is held
    against before it is decoded: `max_pixels`, `MAX_SIDE` pixels a side, `MAX_WORK` bytes of working memory.
    """
    with open_regular(path) as file:
        return decode(file, repr(os.fspath(path)), Bounds(max_pixels))


Picture: TypeAlias = "str | os.PathLike[str] | Image.Image | npt.NDArray[Any]"
"""A file, a Pillow image, or its pixels."""


def opened(picture: Picture) -> Image.Image:
    """A picture from a file, a Pillow image or an array of pixels: (H, W), (H, W, 1), RGB (H, W, 3) or RGBA (H, W, 4),
    integers from 0 to 255. Raises ImageError for anything else: fractions have no defined range."""
    if isinstance(picture, Image.Image):
        return picture
    return _of_pixels(picture) if isinstance(picture, np.ndarray) else read_image(picture)


def opened_all(pictures: Picture | Sequence[Picture]) -> list[Picture]:
    """One picture, or several, as a list; an array (N, H, W, C) holds N."""
    if isinstance(pictures, np.ndarray):
        return list(pictures) if pictures.ndim == 4 else [pictures]
    return [pictures] if isinstance(pictures, (str, os.PathLike, Image.Image)) else list(pictures)


def _of_pixels(array: npt.NDArray[Any]) -> Image.Image:
    said = f"an array of {array.dtype} and shape {list(array.shape)}"
    if array.dtype.kind not in "iu":
        raise ImageError(
            f"{said} is no picture: pixels are integers from 0 to 255. Of a prepared model input the explanation is "
            "onnxplain.compile(...)(array)"
        )
    if array.ndim not in (2, 3) or array.shape[2:] not in ((), (1,), (3,), (4,)) or 0 in array.shape:
        raise ImageError(f"{said} is no picture; give (H, W), (H, W, 3) or (H, W, 4)")
    if array.shape[0] * array.shape[1] > MAX_PIXELS:
        raise ImageError(
            f"the array has {array.shape[1]} x {array.shape[0]} pixels; the limit is {MAX_PIXELS}: scale it down first"
        )
    if array.min() < 0 or array.max() > 255:
        raise ImageError(f"{said} holds {array.min()} to {array.max()}; pixels are integers from 0 to 255")
    pixels = np.ascontiguousarray(array, np.uint8)
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2:] == (1,) else pixels)


def vet_pixels(array: npt.NDArray[Any], record: Mapping[str, Any] | None, name: str) -> None:
    """Raises ImageError for integers in the place of a prepared picture: pixels from 0 to 255 that nobody has brought
    to what the model was trained on. record: the preprocessing as a file holds it, None where nobody knows."""
    if record is None or array.dtype.kind not in "iu" or array.ndim not in (3, 4):
        return
    numbers = [*record.get("mean", ()), *(value - 1 for value in record.get("std", ()))]
    if array.ndim == 4 and not any(numbers):
        return  # the model takes pixels as they are
    raise ImageError(
        f"{name} is a picture of {array.dtype}, and the model takes prepared ones (mean {record.get('mean')}, std "
        f"{record.get('std')}): give the photo to onnxplain.explain, or, if it is prepared, cast it to float32"
    )


def prepare(image: Image.Image, preprocessing: Preprocessing) -> tuple[npt.NDArray[np.float32], Image.Image]:
    """The picture as a model input, and what of it the model sees.

    Returns (array, shown): array is float32, a batch of one in the layout of the record, value = (pixel -
    mean) / std; shown is the same pixels as an RGB image of the input's height and width (for GRAY the grey
    picture, for "letterbox" with its black border), so that a heat map lies on it pixel by pixel.

    "shorter": the long side is rounded, round(shorter * long / short), so that the aspect is kept as well as
    pixels allow (torchvision cuts the fraction off, which can be one pixel less); the crop starts at
    round((long - size) / 2), halves to even.

    Raises ImageError when the picture does not fit the record (see `Preprocessing`), when scaling would make more
    than 100 million pixels (a very long, thin picture), or when the input would have more than `MAX_WORK` bytes.
    """
    try:
        shown = _fit(to_rgb(image), preprocessing)
        if preprocessing.color != "GRAY":
            return _values(shown, preprocessing), shown
        grey = shown.convert("L")
        return _values(grey, preprocessing), grey.convert("RGB")
    except MemoryError as error:
        raise ImageError(
            f"a picture of {image.width} x {image.height} pixels takes more memory than there is; scale it down first"
        ) from error


def _values(image: Image.Image, p: Preprocessing) -> npt.NDArray[np.float32]:
    """(pixel - mean) / std in float64, rounded once; strip by strip, so that only the result is as large as it is."""
    width, height = image.size
    size = 4 * p.channels * width * height
    if size > MAX_WORK:
        raise ImageError(
            f"a picture of {width} x {height} pixels becomes an input of {size} bytes; the limit is {MAX_WORK}: "
            "scale it down first"
        )
    first = p.layout == "NCHW"
    values = np.empty((1, p.channels, height, width) if first else (1, height, width, p.channels), np.float32)
    rows, mean, std = max(1, _STRIP // width), np.asarray(p.mean), np.asarray(p.std)
    for top in range(0, height, rows):
        strip = np.asarray(image.crop((0, top, width, min(top + rows, height))), np.float64)
        strip = strip.reshape(strip.shape[0], width, p.channels)
        if p.color == "BGR":
            strip = strip[:, :, ::-1]
        scaled = (strip - mean) / std
        here = slice(top, top + rows)
        if first:
            values[0, :, here] = scaled.transpose(2, 0, 1)
        else:
            values[0, here] = scaled
    return values


def to_picture(array: npt.ArrayLike, preprocessing: Preprocessing) -> Image.Image:
    """A model tensor, (C, H, W) or (1, C, H, W) in the layout of the record, as an RGB picture.

    pixel = value * std + mean, rounded and clipped to 0..255: the inverse of `prepare` without its resizing,
    and the picture of an image-to-image model whose output has the range of its input.
    Raises ImageError for another rank, a batch of several, another number of channels, or NaN and infinity.
    """
    values = np.asarray(array, np.float64)
    if values.ndim == 4 and values.shape[0] == 1:
        values = values[0]
    if values.ndim == 3 and preprocessing.layout == "NCHW":
        values = values.transpose(1, 2, 0)
    if values.ndim != 3 or values.shape[2] != preprocessing.channels or 0 in values.shape:
        wanted = f"one {preprocessing.layout} picture of {preprocessing.channels} channels"
        raise ImageError(f"an array of shape {list(np.shape(array))} is not {wanted}")
    if not np.isfinite(values).all():
        raise ImageError("the array holds NaN or infinity and is no picture; check the model's output")
    pixels = values * np.asarray(preprocessing.std) + np.asarray(preprocessing.mean)
    pixels = np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
    if preprocessing.color == "BGR":
        pixels = pixels[:, :, ::-1]
    return Image.fromarray(np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3))))


def save_image(image: Image.Image, path: str | os.PathLike[str]) -> None:
    """Write a picture in the format its suffix names (.png .jpg .jpeg .webp .bmp .gif), whole or not at all.

    Raises OptionError for another suffix, or a place that cannot be written.
    """
    kind = _kind(path)
    with atomic(path) as temporary:
        try:
            image.save(temporary, format=kind)
        except OSError as error:
            raise OptionError(f"cannot write {os.fspath(path)!r}: {error}") from error


def writable(path: str | os.PathLike[str]) -> None:
    """Raise what `save_image` would raise for this path, before any work is done for it."""
    _kind(path)
    folder = Path(path).absolute().parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise OptionError(f"cannot write {os.fspath(path)!r}: choose an existing, writable folder")
    if Path(path).is_dir():
        raise OptionError(f"cannot write {os.fspath(path)!r}: it is a folder; give another name")


def _kind(path: str | os.PathLike[str]) -> str:
    suffix = Path(path).suffix.lower()
    if suffix not in _SUFFIXES:
        hint = nearest(suffix, _SUFFIXES)
        raise OptionError(f"{os.fspath(path)!r}: no picture format{hint}; known: {', '.join(_SUFFIXES)}")
    return _SUFFIXES[suffix]


def _fit(image: Image.Image, p: Preprocessing) -> Image.Image:
    if image.width < 1 or image.height < 1:
        raise ImageError(f"a picture of {image.width} x {image.height} pixels is empty")
    if p.resize == "stretch" and p.size is not None:
        return _resize(image, p.size, p.resample)
    if p.resize == "letterbox" and p.size is not None:
        return _letterbox(image, p.size, p.resample)
    if p.shorter is not None:
        short, long = sorted(image.size)
        long = round(p.shorter * long / short)
        scaled = (p.shorter, long) if image.height <= image.width else (long, p.shorter)
        image = _resize(image, scaled, p.resample)
    if p.size is None:
        height, width = (side - side % p.multiple for side in (image.height, image.width))
        if height == 0 or width == 0:
            raise ImageError(
                f"the picture, {image.width} x {image.height} pixels, is too small; "
                f"the model takes multiples of {p.multiple}"
            )
        return _crop(image, (height, width))
    if p.resize == "none" and (image.height, image.width) != p.size:
        height, width = p.size
        raise ImageError(
            f"the picture is {image.height} high and {image.width} wide, the model takes {height} x {width}; "
            'scale it, or choose a resize other than "none"'
        )
    return _crop(image, p.size)


def _resize(image: Image.Image, size: tuple[int, int], resample: str) -> Image.Image:
    height, width = size
    if height * width > MAX_PIXELS:
        raise ImageError(
            f"scaling {image.width} x {image.height} pixels to {width} x {height} takes too much memory; "
            "crop the picture first"
        )
    if image.size == (width, height):
        return image
    method = _RESAMPLE[resample]
    # Pillow scales across first and keeps all rows of that; of a long, thin picture the rows are reduced first.
    if width * image.height > max(MAX_PIXELS, image.width * height):
        image = image.resize((image.width, height), method)
    return image.resize((width, height), method)


def _letterbox(image: Image.Image, size: tuple[int, int], resample: str) -> Image.Image:
    height, width = size
    scale = min(height / image.height, width / image.width)
    inner = (max(1, round(image.height * scale)), max(1, round(image.width * scale)))
    canvas = Image.new("RGB", (width, height))
    canvas.paste(_resize(image, inner, resample), (0, 0))
    return canvas


def _crop(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    height, width = size
    top, left = round((image.height - height) / 2), round((image.width - width) / 2)
    return image.crop((left, top, left + width, top + height))


__all__ = [
    "FORMATS",
    "MAX_PIXELS",
    "MAX_SIDE",
    "MAX_WORK",
    "prepare",
    "read_image",
    "save_image",
    "to_picture",
    "to_rgb",
    "writable",
]
