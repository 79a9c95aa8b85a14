"""Types and shapes of every tensor of the graph."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, shape_inference

from ..draft import Dim, Draft
from ..errors import ModelError, OptionError


@dataclass(frozen=True)
class TensorType:
    """dtype is None when unknown; shape is None when the rank is unknown; a dim is int, symbol or None."""

    dtype: np.dtype | None
    shape: tuple[Dim, ...] | None


UNKNOWN = TensorType(None, None)


def infer(draft: Draft, *, strict: bool = False, trusting: bool = False) -> dict[str, TensorType]:
    """Type of every tensor: what onnx's shape inference proves, completed by what the file declares; UNKNOWN for what
    an operator of another domain makes, if nothing declares it. trusting: what it declares counts as proven, for a
    file that this package wrote."""
    model = draft.closed()
    declared = {value.name: tensor_type(value) for value in (*model.graph.value_info, *model.graph.output)}
    if not trusting:
        del model.graph.value_info[:]
    for value in model.graph.output:
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.ClearField(
                "shape"
            )  # onnx would take the declared symbol for the proven size
    try:
        inferred = shape_inference.infer_shapes(model, strict_mode=strict, data_prop=True)
    except (shape_inference.InferenceError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelError(f"the model's shapes do not fit together: {reason}") from error
    graph = inferred.graph
    types = {value.name: tensor_type(value) for value in (*graph.value_info, *graph.output, *graph.input)}
    for tensor in graph.initializer:
        types[tensor.name] = TensorType(_dtype(tensor.data_type), tuple(tensor.dims))
    types |= {name: _complete(types.get(name), known) for name, known in declared.items()}
    return {name: UNKNOWN for node in graph.node for name in node.output if name} | types


def _complete(found: TensorType | None, declared: TensorType) -> TensorType:
    """What inference proves; where it knows no more than a name of its own, what the file says."""
    if found is None:
        return declared
    dtype = declared.dtype if found.dtype is None else found.dtype
    if found.shape is None or declared.shape is None or len(found.shape) != len(declared.shape):
        return TensorType(dtype, declared.shape if found.shape is None else found.shape)
    pairs = zip(found.shape, declared.shape, strict=True)
    return TensorType(dtype, tuple(b if a is None or str(a).startswith("unk__") else a for a, b in pairs))


MAX_VECTOR = 2**20
"""Longest vector that shape inference may be asked to follow element by element."""


def vet_shapes(draft: Draft) -> None:
    """Refuse vectors so long that propagating shape data through them would take gigabytes: onnx follows the
    elements of every tensor of rank 1 that meets an operator of shape arithmetic, whatever its type."""
    model = draft.closed()
    del model.graph.value_info[:]
    try:
        graph = shape_inference.infer_shapes(model).graph
    except (shape_inference.InferenceError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelError(f"the model's shapes do not fit together: {reason}") from error
    _vet_graph(graph, {}, draft.opset)


def _vet_graph(graph: onnx.GraphProto, outer: dict[str, int], opset: int) -> None:
    lengths = outer | {
        value.name: _length(value) for value in (*graph.value_info, *graph.output, *graph.input)
    }
    lengths |= {tensor.name: tensor.dims[0] for tensor in graph.initializer if len(tensor.dims) == 1}
    for node in graph.node:
        longest = max((lengths.get(name, 0) for name in node.input), default=0)
        if longest > MAX_VECTOR and _propagates(node, opset):
            raise ModelError(
                f"{node.op_type} at {node.name or node.output[0]!r} reads a vector of {longest} elements, over the "
                f"cap of {MAX_VECTOR}; give it a second axis"
            )
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                _vet_graph(inner, lengths, opset)


def _length(value: onnx.ValueInfoProto) -> int:
    shape = tensor_type(value).shape
    length = shape[0] if shape is not None and len(shape) == 1 else 0
    return length if isinstance(length, int) else 0


def _propagates(node: onnx.NodeProto, opset: int) -> bool:
    if node.domain or not onnx.defs.has(node.op_type):
        return False
    return bool(onnx.defs.get_schema(node.op_type, opset).has_data_propagation_function)


def tensor_type(value: onnx.ValueInfoProto) -> TensorType:
    if not value.type.HasField("tensor_type"):
        return TensorType(None, None)
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return TensorType(_dtype(tensor.elem_type), None)
    return TensorType(_dtype(tensor.elem_type), tuple(_dim(dim) for dim in tensor.shape.dim))


def _dim(dim: onnx.TensorShapeProto.Dimension) -> Dim:
    if dim.HasField("dim_value") and dim.dim_value >= 0:
        return int(dim.dim_value)
    return str(dim.dim_param) or None


def _dtype(element: int) -> np.dtype | None:
    return (
        None if element == onnx.TensorProto.UNDEFINED else np.dtype(helper.tensor_dtype_to_np_dtype(element))
    )


def set_shape(value: onnx.ValueInfoProto, shape: tuple[Dim, ...]) -> None:
    tensor = value.type.tensor_type
    tensor.ClearField("shape")
    tensor.shape.SetInParent()
    for dim in shape:
        added = tensor.shape.dim.add()
        if isinstance(dim, int):
            added.dim_value = dim
        elif dim:
            added.dim_param = dim


def fix_inputs(draft: Draft, shapes: dict[str, tuple[Dim, ...]], keep: Collection[str] = ()) -> None:
    """Give inputs the shapes a user asks for, e.g. to make height and width static. keep: inputs whose first size is
    left as it is."""
    inputs = {value.name: value for value in draft.graph.input}
    for name, shape in shapes.items():
        if name not in inputs:
            raise OptionError(f"shapes: the model has no input {name!r}; it has {', '.join(inputs)}")
        old = tensor_type(inputs[name]).shape
        clash = old is not None and (
            len(old) != len(shape)
            or any(
                isinstance(a, int) and isinstance(b, int) and a != b for a, b in zip(old, shape, strict=True)
            )
        )
        if clash:
            raise OptionError(
                f"shapes: {list(shape)} does not fit the declared {list(old or ())} of {name!r}"
            )
        set_shape(inputs[name], (old[0], *shape[1:]) if old and name in keep else tuple(shape))
