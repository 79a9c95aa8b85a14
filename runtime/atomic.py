"""Files and folders appear whole or not at all: written beside their place under another name, then renamed."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..rewriter.errors import OptionError


@contextmanager
def atomic(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path in the folder of `path`; it takes the place of `path` when the block ends well.

    The temporary file exists (empty) on entry and keeps the suffix of `path`, for writers that go by it. An
    error in the block removes it and leaves an older file at `path` as it was. A symbolic link is followed:
    the file it points at is replaced, not the link.

    Raises OptionError, naming the path, when the folder is missing or not writable, or when `path` is
    something else than a regular file (a folder, a device).
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        raise OptionError(f"cannot write {os.fspath(path)!r}: it is not a regular file; give another name")
    temporary = target.with_name(f".{target.stem}.{secrets.token_hex(6)}{target.suffix}")
    try:
        # os.open and not tempfile: the result gets the permissions the user's umask asks for.
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        yield temporary
        try:
            os.replace(temporary, target)
        except OSError as error:
            raise _unwritable(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A new, empty folder beside `path` with a hidden name; it takes the place of `path` when the block ends well. An
    older folder there stays where the block or the renaming fails. Raises OSError."""
    place = Path(path).absolute()
    work = place.with_name(f".{place.name}.{secrets.token_hex(6)}")
    old = work.with_name(f"{work.name}.old")
    try:
        work.mkdir(parents=True)
        yield work
        if place.exists():
            os.replace(place, old)
        try:
            os.replace(work, place)
        except OSError:
            if old.exists():
                os.replace(old, place)
            raise
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write `data` to `path`, whole or not at all. Raises OptionError as `atomic`, and for a full disk."""
    with atomic(path) as temporary:
        try:
            temporary.write_bytes(data)
        except OSError as error:
            raise _unwritable(path, error) from error


def _unwritable(path: str | os.PathLike[str], error: OSError) -> OptionError:
    reason = error.strerror or str(error)
    return OptionError(f"cannot write {os.fspath(path)!r}: {reason}; choose an existing, writable folder")
