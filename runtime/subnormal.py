"""Numbers below 1e-38: 0 while onnxruntime runs, and what they are for everybody else.

Gradients that fade away become subnormal, and a processor is up to a hundred times slower on those. onnxruntime can
treat them as 0 (`session.set_denormal_as_zero`): it sets the flags of its own threads, and those of the thread that
opens the process's first session, for good. So sessions are opened in a thread of its own, and a run sets the flags of
the thread that calls it only for as long as it takes.
"""

from __future__ import annotations

import ctypes
import functools
import platform
import struct
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")

_SIZE, _MXCSR, _FLUSH = 32, 28, 0x8040
"""glibc's fenv_t on x86-64: its bytes, where MXCSR stands in it, and the bits flush-to-zero and denormals-are-zero."""


def apart(make: Callable[[], T]) -> T:
    """Call it in a thread of its own, with subnormal numbers as 0. Raises what it raises."""

    def flushing() -> T:
        with flushed():
            return make()

    with ThreadPoolExecutor(1, thread_name_prefix="onnxplain-open") as one:
        return one.submit(flushing).result()


@contextmanager
def flushed() -> Iterator[None]:
    """In this thread subnormal numbers are 0 until the block ends. Elsewhere than on Linux on x86-64 nothing changes: a
    run is then slower on them."""
    library = _library()
    if library is None:
        yield
        return
    before, now = ctypes.create_string_buffer(_SIZE), ctypes.create_string_buffer(_SIZE)
    library.fegetenv(before)
    ctypes.memmove(now, before, _SIZE)
    (flags,) = struct.unpack_from("<I", now, _MXCSR)
    struct.pack_into("<I", now, _MXCSR, flags | _FLUSH)
    library.fesetenv(now)
    try:
        yield
    finally:
        library.fesetenv(before)


@functools.cache
def _library() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux") or platform.machine() != "x86_64":
        return None
    if platform.libc_ver()[0] != "glibc":
        return None
    try:
        library = ctypes.CDLL("libm.so.6")
        for function in (library.fegetenv, library.fesetenv):
            function.argtypes, function.restype = [ctypes.c_void_p], ctypes.c_int
    except (OSError, AttributeError):
        return None
    return library


__all__ = ["apart", "flushed"]
