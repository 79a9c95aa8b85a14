"""What a file declares of inputs, outputs and tensors in between: types that exist, shapes that can be counted."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
from onnx import TensorProto

from ..errors import ModelError
from .tensors import MAX_RANK, MAX_SIZE, TYPES, countable
from .walk import all_graphs


def vet_values(model: onnx.ModelProto) -> None:
    """ModelError naming the first value whose declared type or shape nothing can have. In place: a negative size, which
    is how some exporters write one that is free, is left out, for onnx's C++ computes with it."""
    for value in model.graph.input:
        if any(tensor.elem_type == TensorProto.UNDEFINED for tensor in _tensor_types(value.type)):
            raise ModelError(f"input {value.name!r} has no element type; export the model again")
    for graph in all_graphs(model):
        for value in (*graph.input, *graph.output, *graph.value_info):
            _vet_type(value.name, value.type)
    for function in model.functions:
        for value in function.value_info:
            _vet_type(value.name, value.type)


def _vet_type(name: str, declared: onnx.TypeProto) -> None:
    for tensor in _tensor_types(declared):
        if tensor.elem_type not in TYPES and tensor.elem_type != TensorProto.UNDEFINED:
            raise ModelError(
                f"{name!r} is declared of the element type {tensor.elem_type}, which ONNX does not have: the file is "
                "damaged, or newer than the installed onnx"
            )
        for dim in tensor.shape.dim:
            if dim.dim_value < 0:
                dim.ClearField("dim_value")
        sizes = [dim.dim_value for dim in tensor.shape.dim]
        if not countable(sizes):
            raise ModelError(
                f"{name!r} is declared with {len(sizes)} axes and a size that nothing can hold (at most {MAX_RANK} "
                f"axes, 2^{MAX_SIZE.bit_length() - 1} elements); export the model again"
            )


def _tensor_types(declared: onnx.TypeProto) -> Iterator[onnx.TypeProto.Tensor]:
    """The tensors of a type: itself, or what its sequence, optional or map holds."""
    kind = declared.WhichOneof("value")
    if kind == "tensor_type":
        yield declared.tensor_type
    elif kind == "sparse_tensor_type":
        yield onnx.TypeProto.Tensor(
            elem_type=declared.sparse_tensor_type.elem_type, shape=declared.sparse_tensor_type.shape
        )
    elif kind in ("sequence_type", "optional_type"):
        yield from _tensor_types(getattr(declared, kind).elem_type)
    elif kind == "map_type":
        yield from _tensor_types(declared.map_type.value_type)
