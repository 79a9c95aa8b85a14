"""The type of every tensor of a graph when its inputs have given shapes."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator

from .draft import Draft
from .passes.constants import fold, fold_sizes
from .passes.shapes import TensorType, infer, set_shape

SIZES = frozenset("Abs Compress Div Max Min Mod Neg NonZero ReduceMax ReduceMin ReduceSum".split())
"""Arithmetic of sizes that `fold` leaves alone."""
WHOLE = frozenset({TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL})
SMALL = 1024
"""Elements of a tensor that takes part in it."""


def settled(source: Draft, shapes: Mapping[str, tuple[int, ...]]) -> tuple[Draft, dict[str, TensorType]]:
    """A copy of a graph with inputs of these shapes, and the type of each of its tensors: sizes that follow from sizes
    are computed, however long that chain is."""
    work = Draft(_copied(source.model), dict(source.weights))
    for value in work.graph.input:
        if value.name in shapes:
            set_shape(value, shapes[value.name])
    fold(work)
    types, changed = infer(work), True
    while changed:
        changed = fold_sizes(work, types)
        changed |= _evaluate(work)
        types = infer(work) if changed else types
    return work, types


def _evaluate(work: Draft) -> bool:
    """Compute what remains of the arithmetic of sizes; True where anything changed."""
    light, kept = work.light(), []
    for node in work.graph.node:
        values = _values(node, light)
        if values is None:
            kept.append(node)
        else:
            light |= dict(zip(node.output, values, strict=True))
            work.graph.initializer.extend(values)
    changed = len(kept) < len(work.graph.node)
    if changed:
        del work.graph.node[:]
        work.graph.node.extend(kept)
        fold(work)
    return changed


def _values(node: onnx.NodeProto, light: Mapping[str, TensorProto]) -> list[TensorProto] | None:
    given = [light.get(name) for name in node.input if name]
    known = [tensor for tensor in given if tensor is not None and _vector(tensor)]
    whole = all(tensor.data_type in WHOLE for tensor in known)
    if node.op_type not in SIZES or node.domain or not whole or len(known) != len(given):
        return None
    feeds = {tensor.name: numpy_helper.to_array(tensor) for tensor in known}
    try:
        with np.errstate(all="raise"):
            values = ReferenceEvaluator(node).run(None, feeds)
    except Exception:
        return None  # whatever numpy raised: the node asks for the impossible
    return [
        numpy_helper.from_array(np.asarray(value), name)
        for value, name in zip(values, node.output, strict=True)
    ]


def _vector(tensor: TensorProto) -> bool:
    """Or a number. Of higher ranks two small ones can make a large one."""
    return len(tensor.dims) <= 1 and math.prod(tensor.dims) <= SMALL


def _copied(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


__all__ = ["settled"]
