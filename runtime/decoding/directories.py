"""Directories of tags, as TIFF and EXIF have them: how much they claim, and which way up the picture is.

A directory is a count and entries of (tag, type, count, value or place); TIFF 6.0, section 2, and BigTIFF. Readers copy
what every entry points to, so that thousands of entries which point to the same megabyte need gigabytes: what the
entries claim together may not be more than the file has.
"""

from __future__ import annotations

import io
import re
import struct
from typing import BinaryIO

_SIZES = {
    1: 1,
    2: 1,
    3: 2,
    4: 4,
    5: 8,
    6: 1,
    7: 1,
    8: 2,
    9: 4,
    10: 8,
    11: 4,
    12: 8,
    13: 4,
    16: 8,
    17: 8,
    18: 8,
}
_POINTERS = frozenset({330, 34665, 34853, 40965})
"""Tags that point to further directories: sub-images, EXIF, GPS, interoperability."""
_SLACK = 1 << 16
"""Bytes that entries may share: some writers point twice to one number."""
_ORIENTATION = 274
_XMP = re.compile(rb'tiff:Orientation(?:="|>)([1-8])')


class Tags:
    """Reads directories of one file that begins at `start`. Raises ValueError for what is no such file, or claims more
    than it has; the tags of the first directory that hold one number are in `numbers`."""

    def __init__(self, file: BinaryIO, start: int = 0) -> None:
        self._file, self._start = file, start
        self._left = file.seek(0, io.SEEK_END) - start + _SLACK
        head = self._read(0, 8)
        order = {b"II": "<", b"MM": ">"}.get(head[:2])
        if order is None or len(head) < 8:
            raise ValueError("there is no directory of tags")
        self._order, self.numbers = order, dict[int, int]()
        (version,) = struct.unpack(order + "H", head[2:4])
        self._big = version == 43
        (first,) = (
            struct.unpack(order + "Q", self._read(8, 8))
            if self._big
            else struct.unpack(order + "I", head[4:8])
        )
        self._visit(first, self.numbers, 4)

    def _read(self, place: int, count: int) -> bytes:
        self._file.seek(self._start + place)
        return self._file.read(count)

    def _visit(self, place: int, numbers: dict[int, int], depth: int) -> None:
        if self._big:
            count_form, form, inline = "Q", "HHQ8s", 8
        else:
            count_form, form, inline = "H", "HHI4s", 4
        width, size = struct.calcsize("<" + count_form), struct.calcsize("<" + form)
        head = self._read(place, width)
        if len(head) < width:
            return
        (count,) = struct.unpack(self._order + count_form, head)
        self._claim(count * size)
        body = self._read(place + width, count * size)
        for entry in struct.iter_unpack(self._order + form, body[: len(body) // size * size]):
            tag, kind, values, value = entry
            claimed = values * _SIZES.get(kind, 1)
            if claimed > inline:
                self._claim(claimed)
            elif values == 1 and kind in (3, 4, 13, 16, 18):
                short = {3: "H", 16: "Q", 18: "Q"}.get(kind, "I")
                number: int = struct.unpack_from(self._order + short, value)[0]
                numbers.setdefault(tag, number)
                if tag in _POINTERS and depth:
                    self._visit(number, {}, depth - 1)

    def _claim(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise ValueError("its tags claim more bytes than the file has")


def orientation_of(exif: bytes, xmp: bytes = b"") -> int:
    """1..8, by EXIF, else by XMP; 1 where neither says. What cannot be read says nothing."""
    exif = re.sub(b"^(Exif\x00\x00){1,2}", b"", exif[: 1 << 20])
    try:
        found = Tags(io.BytesIO(exif)).numbers.get(_ORIENTATION)
    except (ValueError, struct.error):
        found = None
    if found is None:
        match = _XMP.search(xmp[: 1 << 20])
        found = int(match[1]) if match else 1
    return found if 1 <= found <= 8 else 1
