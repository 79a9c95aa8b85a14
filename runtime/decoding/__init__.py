"""Untrusted picture files become 8-bit RGB: whole or refused, in memory that is known before anything is decoded."""

from .bounds import MAX_PIXELS, MAX_SIDE, MAX_WORK, Bounds
from .decode import FORMATS, decode
from .modes import to_rgb
from .regular import open_regular

__all__ = [
    "FORMATS",
    "MAX_PIXELS",
    "MAX_SIDE",
    "MAX_WORK",
    "Bounds",
    "decode",
    "open_regular",
    "to_rgb",
]
