"""The smallest model with a given input: what a reference input is computed in."""

from __future__ import annotations

import onnx
from onnx import helper

from .cases import Slot


def identity(slot: Slot) -> onnx.ModelProto:
    """y = |x|; the compiler would drop an identity."""
    kind = helper.np_dtype_to_tensor_dtype(slot.dtype)
    ends = [helper.make_tensor_value_info(name, kind, list(slot.shape)) for name in (slot.name, "verify/y")]
    node = helper.make_node("Abs", [slot.name], ["verify/y"], "abs")
    graph = helper.make_graph([node], "identity", ends[:1], ends[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
