"""One way from bytes to pixels, for files, requests and bulk runs."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import BinaryIO

from PIL import Image, ImageFile

from ...rewriter.errors import ImageError
from .bounds import Bounds
from .directories import Tags, orientation_of
from .jpeg import Plain, read_jpeg
from .modes import to_rgb
from .png import vet_png

# Raster formats only: Pillow's EPS reader would start another program on the file.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF")
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode(file: BinaryIO, name: str, bounds: Bounds, formats: Sequence[str] = FORMATS) -> Image.Image:
    """The first frame as 8-bit RGB, upright, transparency laid over white.

    file: can seek. name: for messages. Raises ImageError for what is no picture of these formats, is damaged,
    truncated or incomplete, has no defined pixel range, or is over the bounds; those are looked at before a pixel is
    decoded, also whatever would need more memory than there is.
    """
    try:
        with _whole_files():
            return _decode(file, name, bounds, formats)
    except ImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"{name} is too large ({error}); the limit is {bounds.pixels} pixels") from error
    except MemoryError as error:
        raise ImageError(f"{name} takes more memory than there is; scale it down first") from error
    except Exception as error:  # every reader of Pillow, and every library below, raises its own
        raise ImageError(f"{name} cannot be read as a picture: {error}") from error


def _decode(file: BinaryIO, name: str, bounds: Bounds, formats: Sequence[str]) -> Image.Image:
    Image.init()
    known = [kind for kind in formats if kind in Image.OPEN]
    start = file.read(12)
    file.seek(0)
    if start[:2] == b"\xff\xd8" and "JPEG" in known:
        return _jpeg(read_jpeg(_all(file, name, bounds)), name, bounds)
    _vet_tags(file, start, name, bounds)
    with Image.open(file, formats=known) as image:
        bounds.vet(name, image.width, image.height, image.mode, image.format or "")
        if image.format == "PNG":
            place = file.tell()
            file.seek(0)
            vet_png(file)
            file.seek(place)
        image.load()
        exif, xmp = image.info.get("exif", b""), image.info.get("XML:com.adobe.xmp") or image.info.get("xmp")
        # Pillow turns a TIFF itself; its entries are all looked at before.
        turn = 1 if image.format == "TIFF" else orientation_of(_bytes(exif), _bytes(xmp))
        rgb = to_rgb(image)
    del image  # its pixels are not needed any more
    return _turned(rgb, turn)


def _jpeg(plain: Plain, name: str, bounds: Bounds) -> Image.Image:
    """Where the last scan may have ended early, the picture must be the same with noise behind that scan."""
    with Image.open(io.BytesIO(plain.body), formats=["JPEG"]) as image:
        bounds.vet(name, image.width, image.height, image.mode, "JPEG", plain.several)
        image.load()
        if plain.several or _grey_corner(image):
            with Image.open(io.BytesIO(plain.noisy), formats=["JPEG"]) as again:
                again.load()
                if not _same(image, again):
                    raise ImageError(f"{name} cannot be read as a picture: image file is truncated")
        rgb = to_rgb(image)
    del image  # its pixels are not needed any more
    return _turned(rgb, orientation_of(plain.exif, plain.xmp))


def _grey_corner(image: Image.Image) -> bool:
    """What is missing at the end of a JPEG of one scan comes out as grey, 128."""
    corner = image.crop((image.width - 1, image.height - 1, image.width, image.height))
    grey = corner.convert("L").getpixel((0, 0))
    return image.mode not in ("L", "RGB") or not isinstance(grey, int) or abs(grey - 128) <= 4


def _same(image: Image.Image, other: Image.Image) -> bool:
    """Strip by strip: what comes after the noise may be the same grey again."""
    boxes = ((0, top, image.width, min(top + 64, image.height)) for top in range(0, image.height, 64))
    return all(image.crop(box).tobytes() == other.crop(box).tobytes() for box in boxes)


def _turned(image: Image.Image, orientation: int) -> Image.Image:
    return image.transpose(_TURNS[orientation]) if orientation in _TURNS else image


def _vet_tags(file: BinaryIO, start: bytes, name: str, bounds: Bounds) -> None:
    """Formats that Pillow reads whole, or whose tags it reads, as soon as it opens them."""
    try:
        if start[:4] == b"RIFF" or start[4:6] == b"jP":
            _vet_size(file.seek(0, io.SEEK_END), name, bounds)
        elif start[:4] in _TIFF:
            Tags(file)
        elif start[4:8] == b"ftyp":
            data, place = _all(file, name, bounds), 0
            for mark in (b"II*\0", b"MM\0*"):
                while (place := data.find(mark, place)) >= 0:
                    Tags(file, place)
                    place += 1
                place = 0
    finally:
        file.seek(0)


def _all(file: BinaryIO, name: str, bounds: Bounds) -> bytes:
    data = file.read(bounds.work // 2 + 1)
    _vet_size(len(data), name, bounds)
    return data


def _vet_size(size: int, name: str, bounds: Bounds) -> None:
    if size > bounds.work // 2:
        raise ImageError(f"{name} is too large; the limit is {bounds.work // 2} bytes: scale it down first")


def _bytes(text: object) -> bytes:
    if isinstance(text, str):
        return text.encode("utf-8", "replace")
    return text if isinstance(text, bytes) else b""


_STRICT = threading.Lock()
_inside = 0
_before = False


@contextmanager
def _whole_files() -> Iterator[None]:
    """Pillow's global switch that lets truncated files pass is off while any of our threads reads, and then as the
    program had it."""
    global _inside, _before
    with _STRICT:
        if not _inside:
            _before = ImageFile.LOAD_TRUNCATED_IMAGES
        _inside += 1
        ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        yield
    finally:
        with _STRICT:
            _inside -= 1
            if not _inside:
                ImageFile.LOAD_TRUNCATED_IMAGES = _before
