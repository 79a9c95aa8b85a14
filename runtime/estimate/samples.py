"""The pictures that patterns are fitted on: a folder, a list, or an array, one model input at a time."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from ...rewriter.errors import ImageError, ModelError, OptionError
from ..decoding import open_regular
from ..images import prepare, read_image
from ..preprocess import Preprocessing

Array = npt.NDArray[Any]
Images: TypeAlias = str | os.PathLike[str] | Array | Sequence[str | os.PathLike[str] | Image.Image]

PHOTOS = frozenset(".jpg .jpeg .png .webp .bmp .gif .tif .tiff .ppm .pgm .jp2 .avif".split())
ARRAYS = frozenset({".npy", ".npz"})


@dataclass(frozen=True)
class Samples:
    """Pictures in a fixed order. digest: sha256 of their names and sizes (files), or of their pixels."""

    items: Sequence[Any] | Array
    names: Sequence[str]
    digest: str
    preprocessing: Preprocessing | None
    dtype: np.dtype

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> Array:
        """Picture i as a model input (1, ...). Raises ImageError, naming it, where it cannot be read or is not
        finite."""
        item = self.items[i]
        if self.preprocessing is None:
            array = np.asarray(item)[None]
        else:
            if isinstance(item, Image.Image):
                picture = item
            else:
                picture = _picture(item, self.names[i]) if isinstance(item, np.ndarray) else read_image(item)
            try:
                array, _ = prepare(picture, self.preprocessing)
            except ImageError as error:
                raise ImageError(f"{self.names[i]}: {error}") from error
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ImageError(f"{self.names[i]} holds NaN or infinity; leave it out, or mend it")
        return np.ascontiguousarray(array, self.dtype)


def samples(images: Images, preprocessing: Preprocessing | None, raw_input: bool, dtype: np.dtype) -> Samples:
    """Read what pictures there are; files are opened when they are needed.

    images: a folder (its pictures and those in folders inside, by name), a text file with a path a line (from the
    file's own folder), a picture, an .npy or .npz file, an array, or a sequence of paths and Pillow images. Arrays
    are pictures, (N, H, W), (N, H, W, 1 or 3) or (N, 1 or 3, H, W), uint8 in 0..255 or floating point in 0..1, that
    go through the model's preprocessing; with raw_input they are model inputs as they are. An .npz file holds one
    array, or one that is named `images` or `x`.

    Raises OptionError where there are none, or preprocessing is unknown; ImageError for what is no picture.
    """
    if images is None:
        raise OptionError("images is None; give a folder, a list or an array of pictures")
    if isinstance(images, (str, os.PathLike)):
        path = Path(images)
        if path.suffix.lower() in ARRAYS:
            return _of_array(read_array(path), path.name, preprocessing, raw_input, dtype)
        images = _files(path)
    elif isinstance(images, np.ndarray):
        return _of_array(images, "image", preprocessing, raw_input, dtype)
    if raw_input:
        raise OptionError("raw_input is for arrays: photos always go through the model's preprocessing")
    if preprocessing is None:
        raise ModelError("the model's input is not a picture; give an array of model inputs with raw_input")
    items = list(images)
    if not items:
        raise OptionError("there are no pictures; give a folder, a list or an array that holds some")
    names = [
        f"image {i}" if isinstance(item, Image.Image) else repr(os.fspath(item))
        for i, item in enumerate(items)
    ]
    return Samples(items, names, _list_digest(items), preprocessing, dtype)


def read_array(path: Path) -> Array:
    """One array from an .npy or .npz file; pickles are never loaded. Raises ImageError."""
    try:
        with open_regular(path) as file:
            stored = np.load(file, allow_pickle=False)
            if isinstance(stored, np.ndarray):
                return stored
            keys = [key for key in ("images", "x") if key in stored.files] or list(stored.files)
            if keys and (len(stored.files) == 1 or keys[0] in ("images", "x")):
                return np.asarray(stored[keys[0]])
    except ImageError:
        raise
    except Exception as error:  # zipfile, zlib and numpy raise their own
        raise ImageError(f"{str(path)!r} cannot be read as an array: {error}") from error
    held = ", ".join(keys) or "nothing"
    raise ImageError(f"{str(path)!r} holds {held}; name the array of pictures `images` or `x`")


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        # A pipe of that name is not left out in silence: it is refused when its turn comes.
        found = [file for file in path.rglob("*") if file.suffix.lower() in PHOTOS and not file.is_dir()]
        if not found:
            raise OptionError(f"the folder {str(path)!r} holds no pictures ({', '.join(sorted(PHOTOS))})")
        return sorted(found, key=lambda file: file.relative_to(path).as_posix())
    if path.suffix.lower() in PHOTOS:
        return [path]
    if path.exists() and not path.is_file():
        raise OptionError(f"{str(path)!r} is no regular file and is not opened; give a folder or a text list")
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise OptionError(f"{str(path)!r}: there is no such folder or file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(
            f"{str(path)!r} is neither a folder, an array nor a text list of pictures: {error}"
        ) from error
    return [path.parent / line.strip() for line in lines if line.strip()]


def _of_array(
    array: Array, name: str, preprocessing: Preprocessing | None, raw_input: bool, dtype: np.dtype
) -> Samples:
    if array.ndim < 1 or not array.size:
        raise OptionError(f"{name}: an array of shape {array.shape} holds no pictures")
    if array.dtype.kind not in "fiu":
        raise ImageError(f"{name}: an array of {array.dtype} holds no pictures")
    names = [f"{name}[{i}]" for i in range(len(array))]
    digest = hashlib.sha256(f"{array.dtype}{array.shape}".encode())
    digest.update(np.ascontiguousarray(array).tobytes())
    if raw_input:
        return Samples(array, names, digest.hexdigest(), None, dtype)
    if preprocessing is None:
        raise ModelError("the model's input is not a picture; give an array of model inputs with raw_input")
    if array.dtype != np.uint8 and array.dtype.kind != "f":
        raise ImageError(f"{name}: pictures are uint8 or floating point in 0..1, not {array.dtype}")
    if array.ndim not in (3, 4) or (array.ndim == 4 and not {array.shape[1], array.shape[3]} & {1, 3}):
        raise ImageError(
            f"{name}: an array of shape {array.shape} is no batch of pictures, (N, H, W), (N, H, W, 3) or "
            "(N, 3, H, W); say so with raw_input if these are model inputs"
        )
    return Samples(array, names, digest.hexdigest(), preprocessing, dtype)


def _picture(array: Array, name: str) -> Image.Image:
    """(H, W), (H, W, 1 or 3) or (1 or 3, H, W)."""
    if array.dtype.kind == "f":
        if not np.isfinite(array).all():
            raise ImageError(f"{name} holds NaN or infinity; leave it out, or mend it")
        if array.min() < 0.0 or array.max() > 1.0:
            raise ImageError(
                f"{name}: values {array.min():g} to {array.max():g} are no picture (0..1); say so with raw_input if "
                "these are model inputs"
            )
        array = np.rint(array * 255.0).astype(np.uint8)
    if array.ndim == 3 and array.shape[2] not in (1, 3):
        array = array.transpose(1, 2, 0)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    return Image.fromarray(np.ascontiguousarray(array))


def _list_digest(items: Sequence[Any]) -> str:
    """Names as they are below the folder that all files share, and sizes: the same list elsewhere is the same."""
    whole = hashlib.sha256()
    files = [Path(item) for item in items if not isinstance(item, Image.Image)]
    common = Path(os.path.commonpath([str(file.absolute().parent) for file in files])) if files else Path()
    for item in items:
        if isinstance(item, Image.Image):
            whole.update(f"{item.mode}{item.size}".encode() + item.tobytes())
            continue
        file = Path(item)
        size = file.stat().st_size if file.is_file() else -1
        whole.update(f"{file.absolute().relative_to(common).as_posix()}\0{size}\0".encode())
    return whole.hexdigest()
