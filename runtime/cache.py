"""Optimised graphs of onnxruntime kept on disk, so that a session opens without optimising again. Off by default.

An entry is a folder named by its key, a sha256 over everything that decides the optimised graph: the bytes of the
file, the version of onnxruntime, the providers and their options, the level of optimisation, and the features of the
processor, for onnxruntime lays out weights for the vector width of this machine: entries do not travel. It holds the
graph (`graph.onnx`), its weights beside it (`weights.bin`, which onnxruntime maps into memory and does not copy) and
their checksums (`entry.json`). Weights are stored as they are used, once for the forward and once for the backward
pass: about twice the size of the file for a network of convolutions (ResNet-50: 196 MB), a little more than the file
where fully-connected layers weigh most (VGG-16: 612 MB for 553). Nothing is pickled. The graphs are run as they are
found: the folder must be one that nobody else can write to.

Measured (process time, one thread): opening the saliency of EfficientNet-Lite0 takes 0.15 s without and 0.06 s with an
entry, of ResNet-50 0.60 and 0.13 s, of VGG-16 3.2 and 1.0 s; the checksums add 0.3 s a GB.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import secrets
import shutil
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeVar

from ..rewriter.errors import OptionError

T = TypeVar("T")
_LOG = logging.getLogger(__name__)

VARIABLE = "ONNXPLAIN_CACHE"
"""Environment variable with the folder, for sessions that are not given one."""
GRAPH, WEIGHTS, ABOUT = "graph.onnx", "weights.bin", "entry.json"
LIMIT = 4 * 2**30
"""Bytes that a cache may hold; the entries that were not used for longest go first."""
_CHUNK = 2**22


@dataclass(frozen=True)
class Cache:
    """A folder of entries, made when it is first written to."""

    folder: Path
    limit: int = LIMIT

    def find(self, key: str) -> Path | None:
        """The graph of an entry, whole and with the right checksums; a damaged entry is dropped and logged."""
        entry = self.folder / key
        if not entry.is_dir():
            return None
        try:
            sums: Mapping[str, int] = json.loads((entry / ABOUT).read_text())["crc32"]
            intact = GRAPH in sums and all(_crc(entry / name) == value for name, value in sums.items())
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            self.drop(key, str(error))
            return None
        if not intact:
            self.drop(key, "its checksums do not match")
            return None
        os.utime(entry)  # used last: now
        return entry / GRAPH

    def drop(self, key: str, reason: str) -> None:
        _LOG.warning("cache entry %s is dropped and made again: %s", key[:12], reason)
        shutil.rmtree(self.folder / key, ignore_errors=True)

    def build(self, key: str, make: Callable[[Path], T]) -> T:
        """Let `make` write the files of an entry into a fresh folder, and publish it under its key by one rename.

        An entry that another process published meanwhile stays. What `make` raises goes through, and leaves nothing
        behind; a folder that cannot be published (a full disk, a lock) costs the entry and a line in the log.
        """
        self._prepare()
        work = self.folder / f".{key[:12]}.{secrets.token_hex(6)}"
        work.mkdir(mode=0o700)
        try:
            made = make(work)
            self._publish(key, work)
            return made
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def _prepare(self) -> None:
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise OptionError(f"cache: cannot make the folder {str(self.folder)!r}: {error}") from error
        if not os.access(self.folder, os.W_OK):
            raise OptionError(f"cache: the folder {str(self.folder)!r} cannot be written to; choose another")

    def _publish(self, key: str, work: Path) -> None:
        files = [path for path in (work / GRAPH, work / WEIGHTS) if path.exists()]
        size = sum(path.stat().st_size for path in files)
        if size > self.limit:
            _LOG.info("cache: an entry of %d bytes is over the limit of %d, and not kept", size, self.limit)
            return
        try:
            record = {"crc32": {path.name: _crc(path) for path in files}}
            (work / ABOUT).write_text(json.dumps(record))
            work.rename(self.folder / key)
        except OSError as error:
            _LOG.warning("cache entry %s was not kept: %s", key[:12], error)
            return
        self._evict(key)

    def _evict(self, newest: str) -> None:
        entries = []
        for path in self.folder.iterdir():
            if path.is_dir() and (path / ABOUT).exists():  # other files of the folder are not ours
                size = sum(file.stat().st_size for file in path.iterdir())
                entries.append((path.name != newest, path.stat().st_mtime, size, path))
        used = sum(size for _, _, size, _ in entries)
        for older, _, size, path in sorted(entries, key=lambda entry: entry[1]):
            if used > self.limit and older:
                shutil.rmtree(path, ignore_errors=True)
                used -= size
                _LOG.info("cache: %s made room", path.name[:12])


def find_cache(folder: str | os.PathLike[str] | None) -> Cache | None:
    """The cache in that folder, else in the one that `ONNXPLAIN_CACHE` names, else none."""
    named = os.fspath(folder) if folder is not None else os.environ.get(VARIABLE, "")
    return Cache(Path(named).expanduser()) if named else None


def key_of(source: bytes | str | os.PathLike[str], parts: Mapping[str, object]) -> str:
    """sha256 over the file's own sha256, the processor and `parts` (which JSON must be able to write)."""
    whole = {**parts, "file": digest(source), "processor": processor()}
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()


def digest(source: bytes | str | os.PathLike[str]) -> str:
    """sha256 of a file's bytes. Raises OptionError when it cannot be read."""
    if isinstance(source, bytes):
        return hashlib.sha256(source).hexdigest()
    try:
        with open(source, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise OptionError(f"cannot read {os.fspath(source)!r}: {error.strerror}") from error


@cache
def processor() -> str:
    """The machine and the features of its processor, as the system tells them."""
    told = [platform.system(), platform.machine(), platform.processor()]
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        told += sorted({line for line in lines if line.split(":")[0].strip() in ("flags", "Features")})
    except OSError:
        pass
    return hashlib.sha256("\n".join(told).encode()).hexdigest()


def _crc(path: Path) -> int:
    """Against damage, not against malice: four times faster than sha256, on files of hundreds of MB."""
    total = 0
    with path.open("rb") as file:
        while block := file.read(_CHUNK):
            total = zlib.crc32(block, total)
    return total


__all__ = ["Cache", "find_cache", "key_of"]
