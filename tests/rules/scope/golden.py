"""The stored nets as linear systems, by the emitted files."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

import onnxplain
from onnxplain.runtime.explainer import Explainer, Result

DATA = Path(__file__).parents[2] / "data" / "golden"
NETS = sorted(path.stem.removeprefix("scope_") for path in DATA.glob("scope_*.npz"))
Doubles = NDArray[np.float64]


@cache
def stored(name: str) -> dict[str, Any]:
    """Of one net: x, y, class, scope_F (outputs × inputs), scope_r, scope_contrib, with _stdonly for norm="std"."""
    with np.load(DATA / f"scope_{name}.npz") as found:
        return {key: found[key] for key in found.files}


def wanted(name: str, key: str, norm: str) -> Any:
    """None where the net has nothing of the kind. Without a normalisation both norms give the same."""
    found = stored(name)
    return found.get(f"{key}_stdonly", found.get(key)) if norm == "std" else found.get(key)


def image(name: str) -> NDArray[np.float32]:
    return np.asarray(stored(name)["x"], np.float32)


@cache
def model(name: str) -> onnx.ModelProto:
    return onnx.load(DATA / f"{name}.onnx")


def run(net: onnx.ModelProto, feeds: Mapping[str, Any], *, optimise: bool = True) -> dict[str, NDArray[Any]]:
    """Every output by name, as a plain onnxruntime gives it."""
    options = ort.SessionOptions()
    if not optimise:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(net.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, map(np.asarray, session.run(None, dict(feeds))), strict=True))


@cache
def compiled(name: str, what: str, norm: str = "stats", **options: Any) -> Explainer:
    if what in ("rows", "contributions"):
        options.setdefault("target", "cotangent")
    return onnxplain.compile(DATA / f"{name}.onnx", f"linearscope.{what}", norm=norm, threads=1, **options)


def units(like: NDArray[Any]) -> NDArray[np.float32]:
    """One row an element of the first sample of `like`."""
    return np.eye(like[0].size, dtype=np.float32).reshape(-1, *like.shape[1:])


@cache
def matrix(name: str, norm: str = "stats", by: str = "columns") -> Doubles:
    """F (outputs × inputs), all columns (rows) in one batch."""
    x, y = image(name), stored(name)["y"]
    found = compiled(name, by, norm)
    if by == "columns":
        columns = found(x, tangent=units(x)).results["response"]
        return np.asarray(columns.reshape(len(columns), -1).T, np.float64)
    rows = found(x, cotangent=units(y)).attribution
    return np.asarray(rows.reshape(len(rows), -1), np.float64)


def distance(mine: Any, other: Any) -> float:
    """max |a - b| / max |b|."""
    a, b = np.asarray(mine, np.float64), np.asarray(other, np.float64)
    assert a.shape == b.shape
    return float(np.abs(a - b).max(initial=0) / max(float(np.abs(b).max(initial=0)), 1e-30))


__all__ = [
    "NETS",
    "Result",
    "compiled",
    "distance",
    "image",
    "matrix",
    "model",
    "run",
    "stored",
    "units",
    "wanted",
]
