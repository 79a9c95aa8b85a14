"""What a gradient cannot do without: bytes that every forward and backward pass has to move."""

from __future__ import annotations

from math import prod

import onnx
from onnx import TypeProto, shape_inference

POINTWISE = frozenset({"Relu", "Clip", "Erf", "Sigmoid", "Tanh", "HardSwish", "LeakyRelu", "Elu", "Gelu"})
VIEWS = frozenset({"Reshape", "Flatten", "Identity", "Squeeze", "Unsqueeze", "Shape", "Expand"})
FORGETFUL = frozenset(
    {"Add", "Concat", "Conv", "ConvTranspose", "Gemm", "GlobalAveragePool", "Resize", "Transpose"}
)
"""Their gradient needs no value of the forward pass."""


def byte_floor(model: onnx.ModelProto) -> float:
    """Bytes of a forward and a backward pass over those of the forward pass alone, batch 1.

    Forward, F: every node reads its inputs and weights and writes its output; a pointwise activation is free, in the
    kernel of the node before it. Backward: the same numbers of cotangents (outputs read, inputs written) and the
    weights once more, so F again; and every value that decides a derivative is read once more: the input of an
    activation, of a pool, of a norm, the factors of a product. So 2 + (those values) / F. For a network whose time is
    arithmetic, not bytes, the floor is 2.
    """
    sizes = _sizes(model)
    weights = {entry.name for entry in model.graph.initializer}
    forward = again = 0
    for node in model.graph.node:
        if node.op_type in VIEWS:
            continue
        live = sum(sizes.get(name, 0) for name in node.input if name not in weights)
        if node.op_type not in POINTWISE:
            forward += sum(sizes.get(name, 0) for name in (*node.input, *node.output))
        if node.op_type not in FORGETFUL and not (node.op_type == "MatMul" and node.input[1] in weights):
            again += live
    return 2 + again / forward


def _sizes(model: onnx.ModelProto) -> dict[str, int]:
    """Elements of every tensor whose shape is known; a free axis counts as 1."""
    known = shape_inference.infer_shapes(model, data_prop=True).graph
    sizes = {entry.name: prod(entry.dims) for entry in known.initializer}
    for value in (*known.input, *known.value_info, *known.output):
        sizes[value.name] = _elements(value.type)
    return sizes


def _elements(kind: TypeProto) -> int:
    return prod(dim.dim_value if dim.HasField("dim_value") else 1 for dim in kind.tensor_type.shape.dim)
