"""Constants as initializers, and the arithmetic of shapes done once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator

from ..draft import Draft, attributes, heavy
from ..errors import ModelError
from .shapes import TensorType

EXACT = frozenset(
    "Cast Concat ConstantOfShape Expand Flatten Gather Identity Reshape Shape Size Slice Squeeze Tile "
    "Transpose Unsqueeze".split()
)
"""Operators whose result is the same to the bit whoever computes it: data movement, and integers."""

INTEGER = frozenset("Add Sub Mul Equal Where Range ReduceProd Less Greater Not And Max Min".split())

MAX_ELEMENTS = 16_384
"""A fold must not make the file grow: larger results (weights made by ConstantOfShape, say) stay nodes."""


ROOM, FREE = 2**20, 256
"""Bytes that all folded results of a pass may have together; results of up to FREE bytes do not count."""


def fold(draft: Draft) -> None:
    """Turn Constant nodes into initializers, and evaluate nodes of constant inputs when that is exact and
    small. Floating-point arithmetic is left alone: the forward pass must stay equal to the bit."""
    graph, known = draft.graph, dict(_small_arrays(draft))
    outputs = {value.name for value in graph.output}
    kept: list[onnx.NodeProto] = []
    room = ROOM
    for node in graph.node:
        if node.op_type == "Constant" and not node.domain and not _wide(node):
            _lift_constant(draft, node, known)
            continue
        values = _evaluate(node, known) if not outputs & set(node.output) else None
        size = 0 if values is None else sum(value.nbytes for value in values)
        if values is None or size > room:
            kept.append(node)
            continue
        room -= size if size > FREE else 0
        for name, value in zip(node.output, values, strict=True):
            known[name] = value
            graph.initializer.append(numpy_helper.from_array(value, name))
    del graph.node[:]
    graph.node.extend(kept)
    drop_unread(draft)


def fold_sizes(draft: Draft, types: Mapping[str, TensorType]) -> bool:
    """Shape and Size of what shape inference knows become initializers, and all that follows from them; True
    where anything changed. A free batch keeps its Shape nodes, but not its rank."""
    outputs = {value.name for value in draft.graph.output}
    kept: list[onnx.NodeProto] = []
    for node in draft.graph.node:
        value = None if outputs & set(node.output) else _static_size(node, types)
        if value is None:
            kept.append(node)
        else:
            draft.graph.initializer.append(numpy_helper.from_array(value, node.output[0]))
    if len(kept) == len(draft.graph.node):
        return False
    del draft.graph.node[:]
    draft.graph.node.extend(kept)
    fold(draft)
    return True


def _static_size(node: onnx.NodeProto, types: Mapping[str, TensorType]) -> np.ndarray | None:
    known = types.get(node.input[0]) if node.op_type in ("Shape", "Size") and not node.domain else None
    if known is None or known.shape is None:
        return None
    given, sizes = attributes(node), list(known.shape)
    if node.op_type == "Shape":
        start, end = (given.get(key) for key in ("start", "end"))
        sizes = sizes[start if isinstance(start, int) else None : end if isinstance(end, int) else None]
    if not all(isinstance(size, int) for size in sizes):
        return None
    array = np.asarray(sizes, np.int64)
    if node.op_type == "Shape":
        return array
    count = _elements(sizes)  # type: ignore[arg-type]
    return np.asarray(count, np.int64) if count < 2**63 else None


def _small_arrays(draft: Draft) -> list[tuple[str, np.ndarray]]:
    return [
        (t.name, numpy_helper.to_array(t))
        for t in draft.graph.initializer
        if _elements(t.dims) <= MAX_ELEMENTS
    ]


def _elements(dims: Iterable[int]) -> int:
    return math.prod(int(dim) for dim in dims)  # python integers: no overflow


def _lift_constant(draft: Draft, node: onnx.NodeProto, known: dict[str, np.ndarray]) -> None:
    name, given = node.output[0], attributes(node)
    if len(given) != 1:
        raise ModelError(f"Constant {name!r} has {len(given)} values instead of one; export the model again")
    kind, value = next(iter(given.items()))
    if isinstance(value, TensorProto):
        value.name = name
        tensor = value
    elif isinstance(value, onnx.SparseTensorProto):
        tensor = numpy_helper.from_array(_dense(value, name), name)
    elif kind.startswith("value_string"):
        tensor = numpy_helper.from_array(np.asarray(value, object), name)
    else:
        tensor = numpy_helper.from_array(np.asarray(value, np.float32 if "float" in kind else np.int64), name)
    if _elements(tensor.dims) <= MAX_ELEMENTS:
        known[name] = numpy_helper.to_array(tensor)
    if heavy(tensor):
        draft.weights[name] = tensor
    else:
        draft.graph.initializer.append(tensor)


def _dense(sparse: onnx.SparseTensorProto, name: str) -> np.ndarray:
    """indices (NNZ,) count through the dense tensor, row-major; (NNZ, rank) address it."""
    values, indices = numpy_helper.to_array(sparse.values), numpy_helper.to_array(sparse.indices)
    dense = np.zeros(tuple(sparse.dims), values.dtype)
    try:
        if indices.ndim == 1:
            dense.reshape(-1)[indices] = values
        else:
            dense[tuple(indices.T)] = values
    except (IndexError, ValueError) as error:
        raise ModelError(f"sparse constant {name!r} is malformed: {error}; export the model again") from error
    return dense


def _wide(node: onnx.NodeProto) -> bool:
    """A sparse constant that would fill much memory as a dense one."""
    return any(_elements(attribute.sparse_tensor.dims) > MAX_ELEMENTS for attribute in node.attribute)


def _run(node: onnx.NodeProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    return [np.asarray(value) for value in ReferenceEvaluator(node).run(None, feeds)]


def _evaluate(node: onnx.NodeProto, known: dict[str, np.ndarray]) -> list[np.ndarray] | None:
    inputs = [known.get(name) for name in node.input if name]
    if node.domain or any(value is None for value in inputs) or not node.input:
        return None
    arrays = [value for value in inputs if value is not None]
    integers = all(array.dtype.kind in "iub" for array in arrays)
    if not (node.op_type in EXACT or (node.op_type in INTEGER and integers)) or _too_large(node, arrays):
        return None
    if node.op_type == "Cast" and attributes(node).get("to") not in _PLAIN:
        return None
    feeds = dict(zip([name for name in node.input if name], arrays, strict=True))
    try:
        with np.errstate(
            all="raise"
        ):  # a number that does not fit its new type becomes what the machine likes
            values = _run(node, feeds)
    except Exception:
        # What the evaluator raises is whatever numpy raised: the node asks for the impossible. It stays, for
        # shape inference or the runtime to name.
        return None
    return values if all(value.size <= MAX_ELEMENTS for value in values) else None


_PLAIN = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL)


def _too_large(node: onnx.NodeProto, arrays: list[np.ndarray]) -> bool:
    """Bound the result before computing it: an untrusted model may ask for terabytes."""
    if node.op_type == "ConstantOfShape":
        return _elements(arrays[0].ravel().tolist()) > MAX_ELEMENTS
    if node.op_type == "Expand":
        return _elements(arrays[1].ravel().tolist()) * max(1, arrays[0].size) > MAX_ELEMENTS
    if node.op_type == "Tile":
        return _elements(arrays[1].ravel().tolist()) * arrays[0].size > MAX_ELEMENTS
    if node.op_type == "Range":
        start, limit, delta = (array.item() if array.size == 1 else 0 for array in arrays)
        return delta == 0 or (limit - start) / delta > MAX_ELEMENTS
    if node.op_type == "Gather" and len(arrays) == 2:
        data, index = arrays
        axis = attributes(node).get("axis", 0)
        rows = data.shape[axis] if isinstance(axis, int) and -data.ndim <= axis < data.ndim else 1
        return data.size > MAX_ELEMENTS or data.size // max(1, rows) * index.size > MAX_ELEMENTS
    if node.op_type in INTEGER and node.op_type != "ReduceProd":
        widest = [
            max((a.shape[-i] for a in arrays if a.ndim >= i), default=1)
            for i in range(1, max(a.ndim for a in arrays) + 1)
        ]
        return _elements(widest) > MAX_ELEMENTS
    return sum(array.size for array in arrays) > MAX_ELEMENTS


def drop_unread(draft: Draft) -> None:
    """Remove initializers that nothing reads, subgraphs included."""
    read = {value.name for value in draft.graph.output}
    pending = [draft.graph]
    while pending:
        for node in pending.pop().node:
            read.update(node.input)
            for attribute in node.attribute:
                for graph in (attribute.g, *attribute.graphs):
                    pending.append(graph)
                    read.update(value.name for value in graph.output)
    kept = [tensor for tensor in draft.graph.initializer if tensor.name in read]
    del draft.graph.initializer[:]
    draft.graph.initializer.extend(kept)
    for name in [name for name in draft.weights if name not in read]:
        del draft.weights[name]
