"""What a picture may cost is known before it is decoded; what is no file is not opened."""

from __future__ import annotations

import io
import os
import socket
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from onnxplain.rewriter.errors import ImageError
from onnxplain.runtime.decoding import Bounds, decode
from onnxplain.runtime.decoding.bounds import work_of
from onnxplain.runtime.decoding.directories import Tags, orientation_of
from onnxplain.runtime.images import prepare, read_image
from onnxplain.runtime.preprocess import Preprocessing
from onnxplain.runtime.serve.picture import read_picture
from tests.runtime.decoding.test_whole import png, read, saved


@pytest.mark.parametrize(("width", "height"), [(1, 31_000_000), (31_000_000, 1), (3, 9_000_000)])
def test_a_thread_of_pixels_is_refused(width: int, height: int) -> None:
    """31 million pixels that would take a gigabyte; the file has none of them, so that decoding it would say so."""
    body = png(width, height, b"")
    with pytest.raises(ImageError, match=r"too large.* a side"):
        read(body)
    with pytest.raises(ImageError, match="picture is too large"):
        read_picture(body)


def test_the_bound_of_work_is_stated() -> None:
    with pytest.raises(ImageError, match=r"300 x 300 pixels, 727200 bytes of work.* limit is 600000 bytes"):
        read(png(300, 300, b""), Bounds(work=600_000))


def test_work_counts_rows_decoder_and_the_copy() -> None:
    assert work_of(100, 10, "RGB", "PNG") == 10 * (100 * 8 + 24)
    assert work_of(3, 10, "L", "PNG") == 10 * (4 + 3 * 4 + 24)
    assert work_of(100, 1, "RGB", "JPEG", scans=True) == 100 * 14 + 24
    assert work_of(100, 1, "RGB", "WEBP") == 100 * 16 + 24


def test_a_strip_is_reduced_along_itself_first() -> None:
    """1 x 600 000 to 224 x 224: across first would make 224 x 600 000 pixels. A step in the middle stays there."""
    pixels = np.zeros((600_000, 1, 3), np.uint8)
    pixels[300_000:] = 200
    record = Preprocessing(size=(224, 224), resize="stretch", mean=(0.0,) * 3, std=(1.0,) * 3)
    values, _ = prepare(Image.fromarray(pixels), record)
    assert (values[0, :, :111] == 0).all() and (values[0, :, 113:] == 200).all()


def test_only_the_result_of_preparing_is_as_large_as_it_is() -> None:
    """2 million pixels: 24 MB of values, and not their 8-byte copies beside them."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (1000, 2000, 3), dtype=np.uint8))
    record = Preprocessing(color="BGR", mean=(1.0, 2.0, 3.0), std=(4.0, 5.0, 6.0))
    tracemalloc.start()
    values, _ = prepare(image, record)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    dense = (np.asarray(image, np.float64)[:, :, ::-1] - [1, 2, 3]) / [4, 5, 6]
    assert np.array_equal(values[0], dense.astype(np.float32).transpose(2, 0, 1))
    assert peak < 2 * values.nbytes


def test_pictures_that_are_no_files_are_not_opened(tmp_path: Path) -> None:
    """Whoever opens a pipe waits for its writer: the test would hang."""
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    with socket.socket(socket.AF_UNIX) as line:
        line.bind(str(tmp_path / "s.jpg"))
    for name, kind in (("pipe.jpg", "a pipe"), ("folder.jpg", "a folder"), ("s.jpg", "a socket")):
        with pytest.raises(ImageError, match=f"{name}' is {kind}"):
            read_image(tmp_path / name)
    with pytest.raises(ImageError, match="a device"):
        read_image("/dev/zero")


def entries(count: int, size: int, tag: int = 1) -> bytes:
    """A directory of entries that all point to the same bytes."""
    body = b"".join(struct.pack("<HHII", tag + i, 7, size, 8) for i in range(count))
    return b"II*\0" + struct.pack("<IH", 8, count) + body + bytes(4)


def test_hundreds_of_exif_blocks_are_read_past() -> None:
    """58 MB of metadata; 4000 entries of the first block ask for 60 kB each."""
    body = saved("JPEG")

    def block(data: bytes) -> bytes:
        return b"\xff\xe1" + struct.pack(">H", len(data) + 8) + b"Exif\0\0" + data

    many = body[:2] + block(entries(4000, 60_000)) + 900 * block(bytes(65_000)) + body[2:]
    tracemalloc.start()
    found = read(many)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.array_equal(found, read(body)) and peak < 2 * len(many)
    with pytest.raises(ImageError, match="segments"):
        read(body[:2] + 10_001 * b"\xff\xe1\0\2" + body[2:])


def test_tags_claim_no_more_than_there_is() -> None:
    with pytest.raises(ImageError, match="claim more bytes"):
        read(entries(4000, 60_000) + bytes(1_000_000))
    with pytest.raises(ValueError, match="claim more bytes"):
        Tags(io.BytesIO(entries(2, 50_000)))
    Tags(io.BytesIO(entries(2, 50_000) + bytes(60_000)))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", [1, 2, 3, 4, 5, 6, 7, 8, 9])
def test_orientation(kind: str, orientation: int) -> None:
    """As EXIF 2.32 has it: where the first row and the first column of the stored pixels lie."""
    image = Image.fromarray(np.kron(np.array([[0, 90], [170, 255]], np.uint8), np.ones((24, 16), np.uint8)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, kind, exif=exif)
    stored = np.asarray(image)
    turned = {
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.T,
        6: stored.T[:, ::-1],
        7: stored.T[::-1, ::-1],
        8: stored.T[::-1],
    }.get(orientation, stored)
    found = read(buffer.getvalue())[:, :, 0].astype(int)
    assert found.shape == turned.shape and np.abs(found - turned).max() < 30


def test_orientation_by_xmp() -> None:
    assert orientation_of(b"", b'<x tiff:Orientation="6"/>') == 6
    assert orientation_of(b"", b"<tiff:Orientation>3</tiff:Orientation>") == 3
    assert orientation_of(b"Exif\0\0nonsense", b"") == 1


def test_damage_of_any_kind_is_an_image_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a reader raises: memory, recursion, or an error of its own."""

    class Own(Exception):
        pass

    for fault, words in (
        (MemoryError(), "more memory"),
        (RecursionError("deep"), "deep"),
        (Own("odd"), "odd"),
    ):

        def fail(*_: object, fault: BaseException = fault, **__: object) -> None:
            raise fault

        monkeypatch.setattr(Image, "open", fail)
        with pytest.raises(ImageError, match=words):
            decode(io.BytesIO(saved_bmp()), "'it'", Bounds())


def saved_bmp() -> bytes:
    return b"BM" + bytes(60)
