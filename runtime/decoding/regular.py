"""Files that are opened are files: a pipe would wait for its writer, a device may do anything."""

from __future__ import annotations

import os
import stat
from typing import BinaryIO

from ...rewriter.errors import ImageError

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """The file, opened for reading. Raises ImageError for what is no regular file, without opening it, and for one that
    is not there or cannot be opened."""
    name = repr(os.fspath(path))
    try:
        kind = _kind(os.stat(path).st_mode)
        if kind:
            raise ImageError(f"{name} is {kind} and is not opened; give the name of a picture")
        # The name may have changed its meaning since: an open that cannot wait, and a second look.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        file = os.fdopen(handle, "rb")
    except FileNotFoundError as error:
        raise ImageError(f"{name}: there is no such file") from error
    except (OSError, ValueError) as error:
        raise ImageError(f"{name} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    kind = _kind(os.fstat(file.fileno()).st_mode)
    if kind:
        file.close()
        raise ImageError(f"{name} is {kind}; give the name of a picture")
    return file


def _kind(mode: int) -> str:
    """What it is instead of a regular file; "" for one."""
    return "" if stat.S_ISREG(mode) else next((name for test, name in _KINDS if test(mode)), "no file")
