"""Golden nets with F, r and singular values that were computed densely in float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import onnxplain

GOLDEN = Path(__file__).parents[2] / "data" / "golden"
NETS = (
    "mlp_bias",
    "cnn_nobias",
    "cnn_bias",
    "cnn_odd",
    "overlap_pool",
    "concat",
    "resnet",
    "smooth_acts",
    "attention",
)
PICTURES = ("sr", "i2i")

Array = npt.NDArray[Any]


def stored(name: str) -> dict[str, Array]:
    with np.load(GOLDEN / f"scope_{name}.npz") as data:
        return {key: data[key] for key in data.files}


def opened(name: str, **options: Any) -> onnxplain.Interpreter:
    return onnxplain.Interpreter(GOLDEN / f"{name}.onnx", stored(name)["x"], **options)
