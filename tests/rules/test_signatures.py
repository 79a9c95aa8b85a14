"""Inputs and outputs of every method's file: rows first and at least one more axis, as servers want them to batch."""

from __future__ import annotations

import onnx
import pytest
from onnx import helper

from onnxplain import compile, models
from onnxplain.rules import registry

SAME = helper.make_model(
    helper.make_graph(
        [helper.make_node("Identity", ["picture"], ["similar"])],
        "same",
        [helper.make_tensor_value_info("picture", onnx.TensorProto.FLOAT, ["N", 1, 28, 28])],
        [helper.make_tensor_value_info("similar", onnx.TensorProto.FLOAT, ["N", 1, 28, 28])],
    ),
    opset_imports=[helper.make_opsetid("", 18)],
    ir_version=10,
)
NEEDED = {
    "pattern-net": {"estimator": "weights"},
    "pattern-attribution": {"estimator": "weights"},
    "adversarial": {"similar": SAME, "adversarial": SAME},
}
OTHERS = {
    **{name: {"noise": "samples"} for name in ("smoothgrad", "smoothgrad-squared", "vargrad")},
    "linearscope.columns": {"tangent": "K", "response": "K"},
    "linearscope.votes": {"classes": "K", "discussion": "K", "votes": 1},
    "linearscope.svd": dict.fromkeys(("singular_values", "eigen_inputs", "eigen_outputs", "residuals"), 1),
}
"""First axes that are not the batch: samples of noise for each picture, several questions about one."""


@pytest.mark.parametrize("name", [*registry.methods()])
def test_rows_first_and_at_least_two_axes(name: str) -> None:
    net = "efficientnet_lite0" if name == "cam" else "mnist_lenet"
    made = compile(models.path(net), name, **NEEDED.get(name, {})).model
    shapes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*made.graph.input, *made.graph.output)
    }
    assert all(len(shape) >= 2 for shape in shapes.values()), shapes
    assert {key: shape[0] for key, shape in shapes.items() if shape[0] != "N"} == OTHERS.get(name, {})
