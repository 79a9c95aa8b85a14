"""The files of onnxruntime-web: from a folder, from an installed npm package, or fetched once by npm."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

from ...rewriter.errors import OptionError

PAGE = Path(__file__).resolve().parents[2] / "web"
"""The page's own files: beside the folders of Python, in a source tree and in an installed package alike."""
PACKAGE = "onnxruntime-web"
WASM = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
WEBGPU = (
    "ort.webgpu.min.mjs",
    "ort-wasm-simd-threaded.asyncify.mjs",
    "ort-wasm-simd-threaded.asyncify.wasm",
)
NOTICES = ("LICENSE", "ThirdPartyNotices.txt")
"""The npm package comes without its licence; the wheel of onnxruntime, of the same sources, has it."""
VARIABLE = "ONNXPLAIN_WEB_CACHE"
"""Environment variable with the folder that npm's download is kept in."""
TIMEOUT = 600
"""Seconds for npm."""


@dataclass(frozen=True)
class Runtime:
    """folder: with the `.mjs` and `.wasm` files. version: "" where the folder does not tell."""

    folder: Path
    version: str

    def copy(self, into: Path, webgpu: bool) -> None:
        """The files that the page loads, with onnxruntime's licence and notices."""
        into.mkdir(parents=True)
        for name in (*WASM, *(WEBGPU if webgpu else ())):
            shutil.copyfile(self.folder / name, into / name)
        for path in notices():
            shutil.copyfile(path, into / path.name)


def find_runtime(folder: str | os.PathLike[str] | None = None, webgpu: bool = False) -> Runtime:
    """The given folder, else the npm package beside the page, else the cache; where that is empty `npm ci` fills it
    from the page's lock file, which pins the version and its checksum.

    OptionError for a folder without the files, or where npm is needed and missing or fails."""
    wanted = (*WASM, *(WEBGPU if webgpu else ()))
    if folder is not None:
        return _checked(Path(folder), wanted)
    beside = PAGE / "node_modules" / PACKAGE
    if _version(beside) == locked_version() and (beside / "dist" / WASM[0]).is_file():
        return _checked(beside / "dist", wanted)
    return _checked(_cached() / "dist", wanted)


def locked_version() -> str:
    """Of onnxruntime-web, in the lock file."""
    lock = json.loads((PAGE / "package-lock.json").read_text(encoding="utf-8"))
    return str(lock["packages"][f"node_modules/{PACKAGE}"]["version"])


def notices() -> list[Path]:
    """Licence and third-party notices, from the installed wheel. OptionError where there is none."""
    for wheel in ("onnxruntime", "onnxruntime-gpu"):
        try:
            found = {path.name: path for path in files(wheel) or () if path.parent.name == "onnxruntime"}
        except PackageNotFoundError:
            continue
        paths = [Path(str(found[name].locate())) for name in NOTICES if name in found]
        if len(paths) == len(NOTICES) and all(path.is_file() for path in paths):
            return paths
    raise OptionError(
        "the page must carry onnxruntime's licence, which is read from its wheel: pip install 'onnxplain[cpu]'"
    )


def _checked(folder: Path, wanted: Sequence[str]) -> Runtime:
    missing = [name for name in wanted if not (folder / name).is_file()]
    if missing:
        raise OptionError(
            f"{str(folder)!r} has no {', '.join(missing)}; give the `dist` folder of the npm package {PACKAGE}"
        )
    return Runtime(folder, _version(folder.parent))


def _version(package: Path) -> str:
    try:
        return str(json.loads((package / "package.json").read_text(encoding="utf-8"))["version"])
    except (OSError, ValueError, KeyError):
        return ""


def cache_folder() -> Path:
    named = os.environ.get(VARIABLE, "")
    base = os.environ.get("XDG_CACHE_HOME", "") or "~/.cache"
    return (Path(named) if named else Path(base) / "onnxplain" / "web").expanduser()


def _cached() -> Path:
    """The package in the cache, downloaded where it is not there yet; published by one rename."""
    place = cache_folder() / f"{PACKAGE}-{locked_version()}"
    if place.is_dir():
        return place
    work = place.with_name(f".{place.name}.{secrets.token_hex(6)}")
    try:
        work.mkdir(parents=True)
        for name in ("package.json", "package-lock.json"):
            shutil.copyfile(PAGE / name, work / name)
        _npm_ci(work)
        package = work / "node_modules" / PACKAGE
        for file in (package / "dist").iterdir():  # the other builds and their maps are most of 139 MB
            if file.is_file() and file.name not in (*WASM, *WEBGPU):
                file.unlink()
        os.replace(package, place)
    except OSError as error:
        if not place.is_dir():  # else another process was faster
            raise OptionError(
                f"cannot keep {PACKAGE} in {str(place.parent)!r}: {error}; set {VARIABLE}, or give --runtime"
            ) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return place


def _npm_ci(folder: Path) -> None:
    npm = shutil.which("npm")
    remedy = f"or give --runtime FOLDER, the `dist` folder of {PACKAGE} {locked_version()}"
    if npm is None:
        raise OptionError(
            f"the page runs on {PACKAGE}, which npm fetches, and npm is missing: install Node.js, {remedy}"
        )
    command = [npm, "ci", "--omit=dev", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise OptionError(
            f"npm did not fetch {PACKAGE} within {TIMEOUT} seconds; try again, {remedy}"
        ) from error
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise OptionError(
            f"npm could not fetch {PACKAGE}: {last}; see that the registry can be reached, {remedy}"
        )


__all__ = ["PAGE", "Runtime", "cache_folder", "find_runtime", "locked_version", "notices"]
