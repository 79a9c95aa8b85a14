"""Contributions of biases where the rows are not the first axis: tokens in one long axis, or in front of the batch.

Tolerance: 1e-5 of the sum of the sizes, float32 (measured: 2e-7)."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

import onnxplain
from tests.rules.scope.frozen import net, node, normal

W: dict[str, Any] = {
    "w": normal(3, 4, seed=1),
    "b": normal(4, seed=2),
    "v": normal(4, 2, seed=3),
    "c": normal(2, seed=4),
    "long": [-1, 3],
    "short": [-1, 5, 4],
    "a": [1],
    "first": [0],
}
LAST = [node("MatMul", "m", "v", y="z"), node("Add", "z", "c")]
LAYOUTS: dict[str, onnx.ModelProto] = {
    "tokens in one axis": net(
        [
            node("Reshape", "x", "long", y="l"),
            node("Gemm", "l", "w", "b", y="g"),
            node("Softplus", "g", y="t"),
            node("Reshape", "t", "short", y="h"),
            node("ReduceMean", "h", "a", y="m", keepdims=0),
            *LAST,
        ],
        [5, 3],
        W,
    ),
    "tokens in front": net(
        [
            node("Transpose", "x", y="l", perm=[1, 0, 2]),
            node("MatMul", "l", "w", y="p"),
            node("Add", "p", "b", y="g"),
            node("Softplus", "g", y="h"),
            node("ReduceMean", "h", "first", y="m", keepdims=0),
            *LAST,
        ],
        [5, 3],
        W,
    ),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_sample_has_its_own(name: str) -> None:
    x = normal(2, 5, 3)
    explainer = onnxplain.compile(LAYOUTS[name], "linearscope.contributions", target=1, threads=1)
    both = explainer(x)
    found = both.results["contributions"]
    assert found.shape == (2, len(explainer.card.options["terms"]))
    error = np.abs(found.sum(1) - both.outputs["y"][:, 1]) / np.abs(found).sum(1)
    assert error.max() <= 1e-5
    alone = [explainer(x[i : i + 1]).results["contributions"][0] for i in range(2)]
    assert np.abs(found - np.stack(alone)).max() <= 1e-5 * np.abs(found).sum(1).max()
    assert np.abs(found[0] - found[1]).max() > 1e-3
