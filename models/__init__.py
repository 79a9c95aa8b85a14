"""Trained models and pictures that ship with the package, and seeded builders of reference nets.

Shipped files are found by `path`, `photo` and `names`; `digits` gives handwritten digits; `record` and `labels`
read what is written beside a model file, shipped or not. The builders live in the modules nie, vgg, resnet,
mobilenet, unet, vit, superresolution and cyclegan and return an onnx.ModelProto; randomize gives the onnx wheel's
weightless topologies usable weights. Licences: LICENSES.md.
"""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .sidecar import labels, record

__all__ = ["digits", "labels", "names", "path", "photo", "record"]

_HERE = Path(__file__).parent


def names() -> list[str]:
    """The shipped models, without `.onnx`, in alphabetical order."""
    return _stems(_HERE, ".onnx")


def path(name: str) -> Path:
    """File of the shipped model `name`, given with or without `.onnx`.

    Raises FileNotFoundError, naming the nearest shipped model, when there is none of that name.
    """
    return _find(_HERE, name, ".onnx", "model")


def photo(name: str) -> Path:
    """File of the shipped photo `name`, given with or without `.jpg`.

    Raises FileNotFoundError, naming the nearest shipped photo, when there is none of that name.
    """
    return _find(_HERE / "photos", name, ".jpg", "photo")


def digits() -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """2000 digits of MNIST, 200 of each kind in random order: (images (2000, 28, 28), labels (2000,)).

    Pixels 0..255, white on black. mnist_lenet was trained on most of them, so they measure no accuracy.
    """
    with np.load(_HERE / "digits.npz", allow_pickle=False) as stored:
        return stored["images"], stored["labels"]


def _stems(folder: Path, suffix: str) -> list[str]:
    return sorted(file.stem for file in folder.glob(f"*{suffix}"))


def _find(folder: Path, name: str, suffix: str, kind: str) -> Path:
    stem = name.removesuffix(suffix)
    known = _stems(folder, suffix)
    if stem in known:
        return folder / f"{stem}{suffix}"
    nearest = get_close_matches(stem, known, n=1, cutoff=0.4)
    hint = f"did you mean {nearest[0]!r}? " if nearest else ""
    raise FileNotFoundError(f"no shipped {kind} is called {name!r}; {hint}shipped: {', '.join(known)}")
