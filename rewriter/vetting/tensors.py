"""Tensors of a file: a known type, a size that can be counted, and data that fill the shape."""

from __future__ import annotations

import math
from collections.abc import Iterable

import onnx
from onnx import TensorProto, helper

from ..errors import ModelError
from .walk import all_sparse, all_tensors

MAX_RANK = 32
"""What numpy 1 can hold; onnxruntime has kernels for less."""

MAX_SIZE = 2**56
"""Elements of a tensor, its axes of size 0 left out: of the widest type this is 2^60 bytes, and no sum of such sizes
overflows 64 bits."""

TYPES = frozenset(TensorProto.DataType.values()) - {TensorProto.UNDEFINED}

_BITS = {"UINT4": 4, "INT4": 4, "FLOAT4E2M1": 4, "UINT2": 2, "INT2": 2}
"""Bits an element of the types that share bytes."""


def vet_tensors(model: onnx.ModelProto) -> None:
    """ModelError naming the first tensor that is damaged."""
    for tensor in all_tensors(model):
        if not countable(tensor.dims) or not _filled(tensor):
            raise ModelError(
                f"tensor {tensor.name!r} of shape {_told(tensor.dims)} is of an unknown type or of a size that nothing "
                "can hold, or its data do not fill that shape: the file is damaged; export it again"
            )
    for sparse in all_sparse(model):
        _vet_sparse(sparse)


def countable(dims: Iterable[int]) -> bool:
    """Whether a tensor of these sizes has at most MAX_RANK axes and MAX_SIZE elements."""
    sizes = list(dims)
    if len(sizes) > MAX_RANK or min(sizes, default=0) < 0:
        return False
    return math.prod(max(1, size) for size in sizes) <= MAX_SIZE


def _told(dims: Iterable[int]) -> str:
    sizes = list(dims)
    return str(sizes) if len(sizes) <= 8 else f"[{', '.join(map(str, sizes[:8]))}, ...] ({len(sizes)} axes)"


def _filled(tensor: TensorProto) -> bool:
    """Whether the stored data are as many as dims say; checked here because the weights skip onnx's checker."""
    if tensor.data_type not in TYPES:
        return False
    count, kind = math.prod(tensor.dims), TensorProto.DataType.Name(tensor.data_type)
    if kind.startswith("FLOAT6"):
        return True  # stored in more than one way
    bits = _BITS.get(kind, 8 * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)
    size: int = -(-count * bits // 8)
    if tensor.HasField("raw_data"):
        return bool(kind != "STRING" and len(tensor.raw_data) == size)
    stored = len(getattr(tensor, helper.tensor_dtype_to_field(tensor.data_type)))
    wanted = size if kind in _BITS else 2 * count if kind.startswith("COMPLEX") else count
    return bool(stored == wanted)


def _vet_sparse(sparse: onnx.SparseTensorProto) -> None:
    """values (NNZ,), indices (NNZ,) or (NNZ, rank) of int64, within a dense shape that can be counted."""
    values, indices, rank = list(sparse.values.dims), list(sparse.indices.dims), len(sparse.dims)
    fits = len(values) == 1 and indices in (values, [*values, rank]) and rank > 0
    if not fits or not countable(sparse.dims) or sparse.indices.data_type != TensorProto.INT64:
        raise ModelError(
            f"sparse tensor {sparse.values.name!r} of shape {_told(sparse.dims)}: its values {values} and indices "
            f"{indices} do not describe it: the file is damaged; export it again"
        )
