"""Sixty small pictures and a file that explains them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import onnxplain
from onnxplain import models

COUNT = 60


@pytest.fixture(scope="session")
def explanation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Saliency of LeNet, with a heat map."""
    explainer = onnxplain.compile(models.path("mnist_lenet"), "saliency", reduce="maxabs")
    return explainer.save(tmp_path_factory.mktemp("batch") / "lenet.saliency.onnx")


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits and noise, in two folders, so that names and order are those of a tree."""
    folder = tmp_path_factory.mktemp("photos")
    digits, random = models.digits()[0], np.random.default_rng(0)
    for i in range(COUNT):
        place = folder / ("a" if i % 2 else "b")
        place.mkdir(exist_ok=True)
        pixels = digits[i] if i < len(digits) else random.integers(0, 256, (28, 28), np.uint8)
        Image.fromarray(pixels).save(place / f"{i:03}.png")
    return folder


def contents(folder: Path) -> dict[str, str]:
    """Every file below a folder, with the sha256 of its bytes."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
