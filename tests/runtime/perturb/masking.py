"""Golden nets with stored perturbations, and models whose perturbed scores are known in closed form."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from onnxplain.runtime.perturb.probing import Asked, Prober
from tests.runtime.small import model_of

GOLDEN = Path(__file__).parents[2] / "data" / "golden"
CONVOLUTIONAL = ("cnn_bias", "cnn_nobias", "cnn_odd", "resnet", "concat", "overlap_pool")
SIZE = (3, 9, 10)
"""(C, H, W) of the images below."""
RNG = np.random.default_rng(11)
IMAGE = RNG.normal(size=(1, *SIZE)).astype(np.float32)
WEIGHT = RNG.normal(size=(int(np.prod(SIZE)), 2)).astype(np.float32)

Array = npt.NDArray[Any]


def stored(name: str) -> dict[str, Array]:
    with np.load(GOLDEN / f"perturb_{name}.npz") as data:
        return {key: data[key] for key in data.files}


def golden(name: str, score: str = "logit", batch: int = 32) -> Prober:
    return Prober(
        GOLDEN / f"{name}.onnx", stored(name)["x"], Asked(score=score, batch=batch, engine="full", threads=1)
    )


def linear_model(weight: Array = WEIGHT) -> onnx.ModelProto:
    """out = flatten(x) weight, x (N, C, H, W) of `SIZE`."""
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"], axis=1),
        helper.make_node("MatMul", ["flat", "weight"], ["out"]),
    ]
    return model_of(nodes, {"x": ["N", *SIZE]}, {"out": ["N", weight.shape[1]]}, {"weight": weight})


def linear(batch: int = 32, weight: Array = WEIGHT, **asked: Any) -> Prober:
    return Prober(
        linear_model(weight), IMAGE, Asked(score="output", batch=batch, engine="full", threads=1, **asked)
    )


def weights(c: int) -> Array:
    """(C, H, W) of class c of `linear`, in float64."""
    return WEIGHT[:, c].astype(np.float64).reshape(SIZE)


def constant() -> Prober:
    """Both scores are 0.7, whatever the image."""
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"], axis=1),
        helper.make_node("MatMul", ["flat", "zeros"], ["none"]),
        helper.make_node("Add", ["none", "seven"], ["out"]),
    ]
    parameters = {"zeros": np.zeros_like(WEIGHT), "seven": np.array([0.7, 0.7], np.float32)}
    model = model_of(nodes, {"x": ["N", *SIZE]}, {"out": ["N", 2]}, parameters)
    return Prober(model, IMAGE, Asked(score="output", engine="full", threads=1))


def close(found: npt.ArrayLike, known: npt.ArrayLike, portion: float = 1e-4) -> None:
    """Within a portion of the largest known value: scores are float32, and differences of them are compared."""
    right = np.asarray(known, np.float64)
    np.testing.assert_allclose(
        np.asarray(found, np.float64), right, rtol=0, atol=portion * np.abs(right).max()
    )


def heard() -> tuple[list[tuple[int, int]], Any]:
    """A list, and a progress function that fills it."""
    calls: list[tuple[int, int]] = []
    return calls, lambda done, total: calls.append((done, total))


def torch_forward(prober: Prober, classes: Sequence[int] = ()) -> Any:
    """The scores as a function of a torch tensor, for Captum."""
    import torch

    def forward(x: Any) -> Any:
        found = prober.scores(np.ascontiguousarray(x.numpy(), np.float32))
        return torch.from_numpy(found[:, list(classes)] if classes else found)

    return forward
