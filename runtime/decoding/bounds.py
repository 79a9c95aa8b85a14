"""How much a picture may cost, from its header alone."""

from __future__ import annotations

from dataclasses import dataclass

from ...rewriter.errors import ImageError

MAX_PIXELS = 100_000_000
MAX_SIDE = 1_000_000
MAX_WORK = 1_000_000_000

_STORED = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2, "I;16N": 2}
"""Bytes that Pillow keeps of one pixel; 4 in every other mode."""
_DECODER = {"WEBP": 8, "AVIF": 12, "JPEG2000": 32}
"""Bytes a pixel that a format's own library needs beside the picture: these decode it whole, not row by row."""
PROGRESSIVE = 6
"""The same for a JPEG of several scans: all coefficients, 16 bits each."""
_ROW = 24
"""Bytes a row beside its pixels: Pillow keeps a pointer to each, of every copy."""


@dataclass(frozen=True)
class Bounds:
    """Of one picture. pixels; side: pixels of its longer side; work: bytes of memory while it is read, the decoder's
    own and one copy as RGB among them."""

    pixels: int = MAX_PIXELS
    side: int = MAX_SIDE
    work: int = MAX_WORK

    def vet(self, name: str, width: int, height: int, mode: str, kind: str, scans: bool = False) -> None:
        """Raises ImageError for a picture over a bound; `scans`: a JPEG of several."""
        size = f"{width} x {height} pixels"
        if width * height > self.pixels:
            raise _too_large(name, size, f"{self.pixels} pixels")
        if max(width, height) > self.side:
            raise _too_large(name, size, f"{self.side} pixels a side")
        work = work_of(width, height, mode, kind, scans)
        if work > self.work:
            raise _too_large(name, f"{size}, {work} bytes of work", f"{self.work} bytes")


def work_of(width: int, height: int, mode: str, kind: str, scans: bool = False) -> int:
    """Bytes of memory that reading such a picture takes at its peak: stored + decoder + RGB."""
    stored = _STORED.get(mode, 4)
    row = -(-width * stored // 4) * 4 + width * (_DECODER.get(kind, PROGRESSIVE * scans) + 4)
    return height * (row + _ROW)


def _too_large(name: str, size: str, limit: str) -> ImageError:
    return ImageError(f"{name} is too large ({size}); the limit is {limit}: scale it down first")
