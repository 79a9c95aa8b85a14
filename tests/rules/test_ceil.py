"""ceil_mode: what onnxruntime runs decides, also where shape inference of the file's opset counts a window more.

The oracle is onnxruntime's own forward pass of the single pool: its derivatives by differences. A pool's output is
linear between two kinks, and the inputs are whole numbers with a step of 1/4: differences are exact but for rounding.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import onnxplain
from onnxplain import UnsupportedError
from tests.rules.forward import session

STEP = 0.25


def pool(op: str, opset: int, sizes: list[Any], **attributes: Any) -> onnx.ModelProto:
    """y = op(x), flattened."""
    nodes = [
        helper.make_node(op, ["x"], ["p"], ceil_mode=1, **attributes),
        helper.make_node("Flatten", ["p"], ["y"]),
    ]
    x, y = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", ["N", 1, *sizes]), ("y", ["N", "M"]))
    )
    graph = helper.make_graph(nodes, "g", [x], [y])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def agrees(model: onnx.ModelProto, x: np.ndarray) -> None:
    forward = session(model)

    def y(at: np.ndarray) -> np.ndarray:
        return np.asarray(forward.run(["y"], {"x": at})[0], float)

    explainer = onnxplain.compile(model, "saliency", target="cotangent", head="prob")
    c = np.random.default_rng(9).integers(-3, 4, y(x).shape).astype(np.float32)
    steps = STEP * np.eye(x.size, dtype=np.float32).reshape(-1, *x.shape)
    want = np.array([(c * (y(x + step) - y(x))).sum() for step in steps]) / STEP
    got = explainer(x, cotangent=c).attribution.ravel()
    assert np.abs(got - want).max() <= 1e-3 * max(1, np.abs(want).max())  # float32 sums of up to 200


@pytest.mark.parametrize("opset", [17, 18, 19, 21, 22])
@pytest.mark.parametrize("op", ["MaxPool", "AveragePool", "padded AveragePool"])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_random_pools(op: str, opset: int, rank: int) -> None:
    rng = np.random.default_rng([rank, opset, len(op)])
    refused = 0
    for dynamic in (False, False, False, False, False, False, True, True):
        sizes = [int(n) for n in rng.integers(4, 8 if rank < 3 else 6, rank)]
        kernel, strides = ([int(n) for n in rng.integers(1, 4, rank)] for _ in range(2))
        attributes: dict[str, Any] = {"kernel_shape": kernel, "strides": strides}
        attributes["pads"] = [int(rng.integers(0, k)) for k in [*kernel, *kernel]]
        if op == "MaxPool":
            attributes["dilations"] = [int(n) for n in rng.integers(1, 3, rank)]
        else:
            attributes["count_include_pad"] = int(op.startswith("padded"))
        x = rng.permutation(int(np.prod(sizes))).reshape(1, 1, *sizes).astype(np.float32)
        declared = [f"D{i}" for i in range(rank)] if dynamic else sizes
        model = pool(op.split()[-1], opset, declared, **attributes)
        try:
            agrees(model, x)
        except UnsupportedError as error:
            assert "lies in the padding" in str(
                error
            )  # windows apart along one axis, rounded up along another
            assert rank > 1 and any(k < s for k, s in zip(kernel, strides, strict=True))
            refused += 1
    assert refused <= 2


def test_sizes_that_the_file_declares_wrongly() -> None:
    attributes = {"kernel_shape": [2, 2], "strides": [2, 2], "pads": [1, 1, 1, 1]}
    model = onnx.shape_inference.infer_shapes(pool("AveragePool", 17, [5, 5], **attributes))
    assert model.graph.value_info[0].type.tensor_type.shape.dim[2].dim_value == 4
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 16
    agrees(model, np.random.default_rng(1).permutation(25).reshape(1, 1, 5, 5).astype(np.float32))
