"""Is a PNG whole? Pillow reads one whose rows end early, and leaves black where they are missing."""

from __future__ import annotations

import struct
import zlib
from typing import BinaryIO

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""Adam7: first column, first row, step across, step down."""
_PIECE = 1 << 16
_CHUNKS = 1_000_000


def vet_png(file: BinaryIO) -> None:
    """Walk the chunks, check their sums, and count the bytes that the rows unpack to; nothing of them is kept.

    Raises ValueError for a file that ends before IEND, a chunk that is damaged, or rows that are missing.
    """
    if file.read(8) != _SIGNATURE:
        raise ValueError("it has no PNG signature")
    unpack, found, wanted = zlib.decompressobj(), 0, -1
    for number in range(_CHUNKS):
        head = file.read(8)
        if len(head) < 8:
            raise ValueError("image file is truncated")
        size, kind = struct.unpack(">I4s", head)
        check, data = zlib.crc32(kind), b""
        while size:
            data = file.read(min(size, _PIECE))
            if not data:
                raise ValueError("image file is truncated")
            size, check = size - len(data), zlib.crc32(data, check)
            if kind == b"IDAT" and wanted >= 0:
                found += _unpacked(unpack, data, wanted - found)
        if file.read(4) != struct.pack(">I", check):
            raise ValueError(f"image file is truncated or damaged in chunk {number}")
        if kind == b"IHDR" and not number:
            wanted = _bytes_of(data)
        if kind == b"IEND":
            break
    else:
        raise ValueError(f"it has more than {_CHUNKS} chunks")
    if found < wanted:
        raise ValueError(f"rows are missing: {found} of {wanted} bytes are there")


def _unpacked(unpack: zlib._Decompress, data: bytes, most: int) -> int:
    """How many bytes this piece gives, `most` at most: what is behind the last row is read by nobody."""
    found = 0
    while data and found < most:
        piece = len(unpack.decompress(data, _PIECE))
        found, data = found + piece, unpack.unconsumed_tail
        if not piece:
            break
    while found < most and (piece := len(unpack.decompress(data, _PIECE))):
        found, data = found + piece, unpack.unconsumed_tail
    return found


def _bytes_of(header: bytes) -> int:
    """Bytes of all rows with the filter byte of each, before compression."""
    width, height, depth, colour, _, _, interlace = struct.unpack(">IIBBBBB", header)
    if colour not in _CHANNELS:
        raise ValueError(f"colour type {colour} is unknown")
    bits = depth * _CHANNELS[colour]
    passes = _PASSES if interlace else ((0, 0, 1, 1),)
    total = 0
    for left, top, across, down in passes:
        columns, rows = -(-(width - left) // across), -(-(height - top) // down)
        if columns > 0 and rows > 0:
            total += rows * (1 + -(-columns * bits // 8))
    return total
