"""A JPEG, read as far as it takes to say that it is whole, and without what is no picture.

Metadata segments (EXIF, XMP, colour profiles, previews) do not reach the decoder: Pillow joins hundreds of EXIF blocks
and copies whatever their entries point to. libjpeg fills scans that end early with grey and says nothing; so scans,
coefficients and restart markers are counted here (ITU-T T.81, annexes B and G).
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, field

_SEGMENTS = 10_000
_MARKER = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]")
_SOI, _EOI, _SOS, _DRI, _APP0, _APP1, _APP14, _COM = 0xD8, 0xD9, 0xDA, 0xDD, 0xE0, 0xE1, 0xEE, 0xFE
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_ALONE = frozenset({0x01, _SOI, *range(0xD0, 0xD8)})
NOISE = bytes(range(1, 251)) * 2
"""Put where the last scan ends: a scan that is whole never reads it."""


@dataclass
class Frame:
    """SOF: size and, by component, its sampling (across, down)."""

    width: int
    height: int
    progressive: bool
    sampling: dict[int, tuple[int, int]]
    missing: dict[int, list[int]] = field(default_factory=dict)
    """Component -> the lowest bits of its 64 coefficients that have not come yet; 99: nothing has."""

    def units(self, components: list[int]) -> int:
        """MCUs of a scan."""
        wide, high = (max(sides) for sides in zip(*self.sampling.values(), strict=True))
        if len(components) > 1:
            columns, rows = -(-self.width // wide), -(-self.height // high)
        else:
            across, down = self.sampling[components[0]]
            columns, rows = -(-self.width * across // wide), -(-self.height * down // high)
        return int(-(-columns // 8) * -(-rows // 8))


@dataclass(frozen=True)
class Plain:
    """head + scans: the JPEG without metadata. exif, xmp: the first segment of each. end: where the last scan ends in
    `scans`. several: it has more than one."""

    head: bytes
    scans: bytes
    end: int
    exif: bytes
    xmp: bytes
    several: bool

    @property
    def body(self) -> bytes:
        return self.head + self.scans

    @property
    def noisy(self) -> bytes:
        """The same picture if the last scan is whole, and another one if it is not."""
        return b"".join([self.head, memoryview(self.scans)[: self.end], NOISE, b"\xff\xd9"])


class _Reader:
    def __init__(self, body: bytes) -> None:
        self.body, self.place = body, 2
        self.frame: Frame | None = None
        self.kept: list[bytes] = [body[:2]]
        self.exif = self.xmp = b""
        self.interval = self.count = self.end = 0

    def marker(self) -> int:
        """The next one; bytes before it belong to nothing and are skipped. Raises ValueError where there is none."""
        match = _MARKER.search(self.body, self.place)
        if match is None:
            raise ValueError("image file is truncated")
        self.place = match.end()
        return self.body[match.end() - 1]

    def segment(self) -> bytes:
        size = int.from_bytes(self.body[self.place : self.place + 2])
        data = self.body[self.place + 2 : self.place + size]
        if size < 2 or len(data) != size - 2:
            raise ValueError("image file is truncated")
        self.place += size
        self.count += 1
        if self.count > _SEGMENTS:
            raise ValueError(f"it has more than {_SEGMENTS} segments")
        return data


def read_jpeg(body: bytes) -> Plain:
    """Raises ValueError for a file that is truncated, lacks scans or restart intervals, or has too many segments."""
    if body[:2] != b"\xff\xd8":
        raise ValueError("it has no JPEG signature")
    reader, scans, first = _Reader(body), 0, 0
    while (kind := reader.marker()) != _EOI:
        if kind in _ALONE:
            continue
        data = reader.segment()
        if kind == _SOS:
            scans += 1
            first = first or reader.place - len(data) - 4
            _scan(reader, data)
        else:
            _other(reader, kind, data, before=not scans)
    if reader.frame is None or not scans:
        raise ValueError("it has no scan")
    if any(any(bits) for bits in reader.frame.missing.values()):
        raise ValueError("image file is truncated: scans are missing")
    head, rest, end = b"".join(reader.kept), body[first : reader.place], reader.end - first
    return Plain(head, rest, end, reader.exif, reader.xmp, scans > 1)


def _other(reader: _Reader, kind: int, data: bytes, before: bool) -> None:
    if kind in _FRAMES and reader.frame is None:
        reader.frame = _frame(kind, data)
    elif kind == _DRI:
        reader.interval = int.from_bytes(data[:2])
    elif kind == _APP1:
        if data.startswith(b"Exif\0"):
            reader.exif = reader.exif or data
        elif data.startswith(b"http://ns.adobe.com/xap/1.0/\0"):
            reader.xmp = reader.xmp or data
    metadata = kind == _COM or (_APP0 <= kind <= 0xEF and kind not in (_APP0, _APP14))
    if before and not metadata:
        reader.kept.append(struct.pack(">BBH", 0xFF, kind, len(data) + 2) + data)


def _frame(kind: int, data: bytes) -> Frame:
    if len(data) < 6 or len(data) < 6 + 3 * data[5]:
        raise ValueError("its frame header is too short")
    _, height, width, count = struct.unpack(">BHHB", data[:6])
    parts = [data[6 + 3 * i : 9 + 3 * i] for i in range(count)]
    sampling = {part[0]: (part[1] >> 4, part[1] & 15) for part in parts}
    if not width or not height or not parts or any(0 in sides for sides in sampling.values()):
        raise ValueError("its frame header has a size of 0")
    progressive = kind in (0xC2, 0xCA)
    missing = {name: [99] * (64 if progressive else 1) for name in sampling}
    return Frame(width, height, progressive, sampling, missing)


def _scan(reader: _Reader, data: bytes) -> None:
    """Note what a scan brings, and step over its bytes."""
    frame, count = reader.frame, data[0] if data else 0
    if frame is None or len(data) < 4 + 2 * count or not count:
        raise ValueError("a scan has no frame, or is damaged")
    names = [data[1 + 2 * i] for i in range(count)]
    if not set(names) <= set(frame.sampling):
        raise ValueError("a scan names a component that is not there")
    first, last, bits = data[1 + 2 * count], data[2 + 2 * count], data[3 + 2 * count] & 15
    for name in names:
        for k in range(first, min(last, 63) + 1) if frame.progressive else (0,):
            frame.missing[name][k] = bits if frame.progressive else 0
    begin = reader.place
    match = _MARKER.search(reader.body, begin)
    if match is None:
        raise ValueError("image file is truncated")
    reader.place = reader.end = match.start()
    if reader.interval:
        wanted = -(-frame.units(names) // reader.interval) - 1
        found = sum(reader.body.count(bytes((0xFF, 0xD0 + i)), begin, reader.place) for i in range(8))
        if found < wanted:
            raise ValueError(f"image file is truncated: {found} of {wanted} restart markers are there")
