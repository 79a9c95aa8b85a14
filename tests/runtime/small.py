"""Small models whose attributions are known in closed form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

RNG = np.random.default_rng(7)
WEIGHT = RNG.normal(size=(2 * 3 * 4, 5))
"""(C H W, classes) of `picture`."""


def model_of(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Sequence[int | str]],
    outputs: Mapping[str, Sequence[int | str]],
    parameters: Mapping[str, np.ndarray] | None = None,
    dtype: type = np.float32,
) -> onnx.ModelProto:
    """A model of opset 18; inputs and outputs are of the type dtype."""
    element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info(name, element, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, element, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(value, name) for name, value in (parameters or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def picture(dtype: type = np.float32, squash: str | None = None, batch: int | str = "N") -> onnx.ModelProto:
    """x (N, 2, 3, 4) -> scores = flatten(x) WEIGHT (N, 5), behind Softmax, ... if asked for. The gradient of
    class c is column c of WEIGHT, whatever x."""
    last = "scores" if squash is None else "logits"
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"], axis=1),
        helper.make_node("MatMul", ["flat", "weight"], [last]),
    ]
    if squash is not None:
        nodes.append(helper.make_node(squash, ["logits"], ["scores"], axis=-1))
    return model_of(
        nodes, {"x": [batch, 2, 3, 4]}, {"scores": [batch, 5]}, {"weight": WEIGHT.astype(dtype)}, dtype
    )


def gradient(c: int, dtype: type = np.float32) -> np.ndarray:
    """Of class c of `picture`, for one sample: (1, 2, 3, 4)."""
    return WEIGHT[:, c].astype(dtype).reshape(1, 2, 3, 4)


def product() -> onnx.ModelProto:
    """a, b (N, 2, 3, 4) -> product = flatten(a b) (N, 24), and total = a + b, called "heatmap"."""
    nodes = [
        helper.make_node("Mul", ["a", "b"], ["ab"]),
        helper.make_node("Flatten", ["ab"], ["product"], axis=1),
        helper.make_node("Add", ["a", "b"], ["heatmap"]),
    ]
    shape = ("N", 2, 3, 4)
    return model_of(nodes, {"a": shape, "b": shape}, {"product": ["N", 24], "heatmap": shape})
