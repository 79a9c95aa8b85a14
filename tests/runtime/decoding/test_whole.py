"""Pictures that end early: whole or refused, whatever the file says at its end."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Mapping

import numpy as np
import pytest
from PIL import Image, ImageFile

from onnxplain.rewriter.errors import ImageError
from onnxplain.runtime.decoding import Bounds, decode
from onnxplain.runtime.decoding.png import vet_png

EOI = b"\xff\xd9"


def photo(height: int = 255, width: int = 241) -> Image.Image:
    """Smooth, so that JPEG keeps it small; sides that are no multiple of a block."""
    noise = np.random.default_rng(0).integers(0, 256, (height // 4, width // 4, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height))


def saved(kind: str, mode: str = "RGB", **options: object) -> bytes:
    buffer = io.BytesIO()
    photo().convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def read(body: bytes, bounds: Bounds | None = None) -> np.ndarray:
    return np.asarray(decode(io.BytesIO(body), "'it'", bounds or Bounds()))


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, raw: bytes, depth: int = 8, colour: int = 2, interlace: int = 0) -> bytes:
    """A PNG with these bytes as its rows."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(raw)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


JPEGS: Mapping[str, Mapping[str, object]] = {
    "baseline": {},
    "progressive": {"progressive": True},
    "444": {"subsampling": 0},
    "420": {"subsampling": 2},
    "coarse": {"quality": 5},
    "fine": {"quality": 100},
    "restarts": {"restart_marker_blocks": 3},
    "restarts by row, progressive": {"restart_marker_rows": 1, "progressive": True},
    "RGB": {"keep_rgb": True},
}


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("options", JPEGS.values(), ids=JPEGS)
def test_a_jpeg_that_is_cut_is_refused(mode: str, options: Mapping[str, object]) -> None:
    """Also with the end marker put back, where libjpeg fills the rest with grey; whole, it is what Pillow reads."""
    body = saved("JPEG", mode, **options)
    with Image.open(io.BytesIO(body)) as image:
        assert np.array_equal(read(body), np.asarray(image.convert("RGB")))
    for share in (0.3, 0.5, 0.7, 0.9, 0.95, 0.97, 0.99):
        for end in (b"", EOI):
            with pytest.raises(ImageError, match="cannot be read"):
                read(body[: int(len(body) * share)] + end)


def test_a_grey_jpeg_is_whole() -> None:
    """What a cut would leave is also a picture."""
    buffer = io.BytesIO()
    Image.new("L", (33, 40), 128).save(buffer, "JPEG")
    assert (read(buffer.getvalue()) == 128).all()


def test_a_progressive_jpeg_without_its_last_scans_is_refused() -> None:
    body = saved("JPEG", progressive=True)
    starts = [i for i in range(len(body)) if body.startswith(b"\xff\xda", i)]
    assert len(starts) > 3
    for start in starts[1:]:
        with pytest.raises(ImageError, match="scans are missing"):
            read(body[:start] + EOI)


@pytest.mark.parametrize("interlace", [0, 1])
@pytest.mark.parametrize(
    ("depth", "colour", "channels"), [(8, 2, 3), (1, 0, 1), (16, 0, 1), (8, 6, 4), (4, 0, 1)]
)
def test_a_png_without_its_last_byte_is_refused(
    depth: int, colour: int, channels: int, interlace: int
) -> None:
    """The chunks are whole and their sums are right; the rows end one byte early. How many bytes there should be is
    counted here pixel by pixel, by the order of Adam7."""
    width, height, bits = 13, 11, depth * channels
    order = np.array(
        [
            [1, 6, 4, 6, 2, 6, 4, 6], [7] * 8, [5, 6, 5, 6, 5, 6, 5, 6], [7] * 8,
            [3, 6, 4, 6, 3, 6, 4, 6], [7] * 8, [5, 6, 5, 6, 5, 6, 5, 6], [7] * 8,
        ]
    )  # fmt: skip
    size = 0
    for one in range(1, 8) if interlace else (0,):
        for y in range(height):
            here = sum(1 for x in range(width) if not one or order[y % 8, x % 8] == one)
            size += 1 + -(-here * bits // 8) if here else 0
    vet_png(io.BytesIO(png(width, height, bytes(size), depth, colour, interlace)))
    assert not read(png(width, height, bytes(size), depth, colour, interlace)).any() or colour == 6
    with pytest.raises(ImageError, match="rows are missing"):
        read(png(width, height, bytes(size - 1), depth, colour, interlace))


def test_a_png_that_is_cut_or_changed_is_refused() -> None:
    body = saved("PNG")
    for cut in (1, 4, 12, 13, 20, 200):
        with pytest.raises(ImageError, match="truncated"):
            read(body[:-cut])
    changed = bytearray(body)
    changed[-14] ^= 1  # the sum of the last rows
    with pytest.raises(ImageError, match="cannot be read"):
        read(bytes(changed))


def test_truncated_files_are_refused_where_the_program_lets_them_pass(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"):
        with pytest.raises(ImageError):
            read(saved(kind)[:-400])
        assert read(saved(kind)).shape == (255, 241, 3)
    assert ImageFile.LOAD_TRUNCATED_IMAGES
