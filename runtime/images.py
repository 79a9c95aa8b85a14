"""Pictures from files to model tensors and back."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from ..rewriter.errors import ImageError, OptionError, nearest
from .atomic import atomic
from .preprocess import Preprocessing

# Raster formats only: Pillow's EPS reader would start another program on the file.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF")
MAX_PIXELS = 100_000_000
# What Pillow's readers raise on a damaged file.
_DAMAGE = (OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, struct.error, zlib.error)
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

    Raises ImageError for a file that is missing, no picture, damaged, truncated, without a defined pixel
    range (floating point), or of more than `max_pixels` pixels (checked before they are decoded).
    """
    name = os.fspath(path)
    try:
        Image.init()
        with Image.open(path, formats=[known for known in FORMATS if known in Image.OPEN]) as image:
            if image.width * image.height > max_pixels:
                raise _too_large(name, f"{image.width} x {image.height} pixels", max_pixels)
            image.load()
            return to_rgb(ImageOps.exif_transpose(image))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large(name, str(error), max_pixels) from error
    except FileNotFoundError as error:
        raise ImageError(f"{name!r}: there is no such file") from error
    except IsADirectoryError as error:
        raise ImageError(f"{name!r} is a folder; give the name of a picture") from error
    except _DAMAGE as error:
        raise ImageError(f"{name!r} cannot be read as a picture: {error}") from error


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
        raise _too_large("the array", f"{array.shape[1]} x {array.shape[0]} pixels", MAX_PIXELS)
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


def to_rgb(image: Image.Image) -> Image.Image:
    """Any Pillow image as 8-bit RGB; transparent pixels are laid over white.

    16-bit grey is divided by 257, so that 65535 becomes 255. Raises ImageError for floating-point pixels and
    for integers outside 16 bits: their range is not defined.
    """
    if image.mode == "F":
        raise ImageError("floating-point pixels have no defined range; convert the picture to 8 or 16 bits")
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _from_16_bits(image).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layer).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def prepare(image: Image.Image, preprocessing: Preprocessing) -> tuple[npt.NDArray[np.float32], Image.Image]:
    """The picture as a model input, and what of it the model sees.

    Returns (array, shown): array is float32, a batch of one in the layout of the record, value = (pixel -
    mean) / std; shown is the same pixels as an RGB image of the input's height and width (for GRAY the grey
    picture, for "letterbox" with its black border), so that a heat map lies on it pixel by pixel.

    "shorter": the long side is rounded, round(shorter * long / short), so that the aspect is kept as well as
    pixels allow (torchvision cuts the fraction off, which can be one pixel less); the crop starts at
    round((long - size) / 2), halves to even.

    Raises ImageError when the picture does not fit the record (see `Preprocessing`), or when scaling would
    make more than 100 million pixels (a very long, thin picture).
    """
    shown = _fit(to_rgb(image), preprocessing)
    if preprocessing.color == "GRAY":
        grey = shown.convert("L")
        pixels, shown = np.asarray(grey, np.float64)[:, :, None], grey.convert("RGB")
    else:
        pixels = np.asarray(shown, np.float64)
    if preprocessing.color == "BGR":
        pixels = pixels[:, :, ::-1]
    values = ((pixels - np.asarray(preprocessing.mean)) / np.asarray(preprocessing.std)).astype(np.float32)
    if preprocessing.layout == "NCHW":
        values = values.transpose(2, 0, 1)
    return np.ascontiguousarray(values[None]), shown


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


def _too_large(name: str, size: str, limit: int) -> ImageError:
    return ImageError(f"{name!r} is too large ({size}); the limit is {limit} pixels: scale it down first")


def _from_16_bits(image: Image.Image) -> Image.Image:
    pixels = np.asarray(image).astype(np.int64)
    if pixels.size and (pixels.min() < 0 or pixels.max() > 65535):
        raise ImageError(f"grey values {pixels.min()}..{pixels.max()} exceed 16 bits; convert it to 8 bits")
    return Image.fromarray(((pixels + 128) // 257).astype(np.uint8))


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
    return image if image.size == (width, height) else image.resize((width, height), _RESAMPLE[resample])


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
