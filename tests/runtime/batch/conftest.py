"""Sixty small pictures and a file that explains them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
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


@pytest.fixture
def logarithm(tmp_path: Path) -> Path:
    """Saliency of y = sum of log(x): not finite for a picture with black in it."""
    graph = helper.make_graph(
        [
            helper.make_node("Log", ["x"], ["logs"]),
            helper.make_node("ReduceSum", ["logs", "axes"], ["y"], keepdims=0),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 1, 28, 28])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 1])],
        [helper.make_tensor("axes", TensorProto.INT64, [2], [2, 3])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, tmp_path / "log.onnx")
    return onnxplain.compile(tmp_path / "log.onnx", "saliency").save(tmp_path / "log.saliency.onnx")


def contents(folder: Path) -> dict[str, str]:
    """Every file below a folder, with the sha256 of its bytes."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
