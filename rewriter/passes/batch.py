"""Free the batch axis: a model exported for one picture takes any number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import numpy_helper

from ..draft import Dim, Draft, attributes, reachable, set_attribute
from ..errors import ModelError, TargetError
from .shapes import TensorType, infer, set_shape, tensor_type

BATCH = "N"

ALONG_AXIS = {
    "ArgMax": 0,
    "ArgMin": 0,
    "Hardmax": -1,
    "LogSoftmax": -1,
    "LpNormalization": -1,
    "Softmax": -1,
    "TopK": -1,
}
"""Operators that combine or rank the elements along one axis, with their default axis."""

READ_SHAPE = frozenset({"Shape", "Size"})


def free_batch(draft: Draft, wanted: Mapping[str, Dim] | None = None) -> None:
    """Replace a leading 1 of the inputs, and the 1s that Reshape and Resize repeat, by a symbol.

    A proof with two samples decides: unless every output then starts with 2, and no operator works along an
    axis that the second sample lengthened, nothing is changed and a note says that the file keeps its batch
    of one. wanted: inputs whose batch, of any fixed size, was asked to be free, and what to call it. Raises TargetError
    where the proof fails for them.
    """
    if wanted:
        _free_wanted(draft, wanted)
        return
    fixed = {value.name for value in draft.graph.input if _leading(value) == 1}
    if not fixed or any(_symbolic(value) for value in draft.graph.input):
        return
    blocker = _freed(draft, fixed, 1, BATCH)
    if blocker:
        draft.notes.append(f"the batch stays fixed at 1: {blocker}")


def _free_wanted(draft: Draft, wanted: Mapping[str, Dim]) -> None:
    sizes = {_leading(value) for value in draft.graph.input if value.name in wanted}
    many, *others = sizes
    names = sorted({str(name) for name in wanted.values()})
    if others or not isinstance(many, int) or len(names) > 1:
        raise TargetError(
            f"shapes: the inputs {', '.join(map(repr, wanted))} have batches of {sorted(map(str, sizes))}, to be "
            f"called {', '.join(names)}; free one batch by one name"
        )
    blocker = _freed(draft, set(wanted), many, names[0])
    if blocker:
        raise TargetError(
            f"shapes: the batch of {many} cannot be freed: {blocker}. Export the model with a dynamic batch, or leave "
            "its batch as it is"
        )


def _freed(draft: Draft, names: set[str], many: int, symbol: str) -> str:
    """Let `many` samples be any number; why that cannot be, or ''."""
    before = infer(draft)
    trial = Draft(_copy(draft.model), dict(draft.weights), draft.notes)
    _patch(trial, before, names, many)
    blocker = _blocker(trial, names, before, many)
    if blocker:
        return blocker
    _set_batch(trial, names, symbol)
    draft.model = trial.model
    _forget_outputs(draft)
    del draft.graph.value_info[:]  # declared for the fixed batch
    types = infer(draft)
    for value in draft.graph.output:
        shape = types[value.name].shape
        if shape is not None:
            set_shape(value, (symbol, *shape[1:]))  # inference may have lost the name on the way
    return ""


def leading_names(draft: Draft, shapes: Mapping[str, Sequence[Dim]]) -> dict[str, Dim]:
    """Inputs whose first axis is fixed in the file, and a symbol in the shapes that are asked for."""
    fixed = {value.name: _leading(value) for value in draft.graph.input}
    return {
        name: shape[0]
        for name, shape in shapes.items()
        if shape and isinstance(shape[0], str) and isinstance(fixed.get(name), int)
    }


def _leading(value: onnx.ValueInfoProto) -> Dim:
    shape = tensor_type(value).shape
    return shape[0] if shape and len(shape) > 1 else None


def _symbolic(value: onnx.ValueInfoProto) -> bool:
    shape = tensor_type(value).shape
    return bool(shape) and shape is not None and len(shape) > 1 and not isinstance(shape[0], int)


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def _set_batch(draft: Draft, names: set[str], batch: Dim) -> None:
    for value in draft.graph.input:
        shape = tensor_type(value).shape
        if value.name in names and shape:
            set_shape(value, (batch, *shape[1:]))


def _patch(draft: Draft, types: dict[str, TensorType], names: set[str], many: int) -> None:
    live = reachable(draft.graph, names)
    constants = draft.light()
    for node in draft.graph.node:
        if node.input and node.input[0] in live and not node.domain:
            if node.op_type == "Reshape" and node.input[1] in constants:
                _patch_reshape(draft, node, types, numpy_helper.to_array(constants[node.input[1]]), many)
            elif node.op_type == "Resize" and len(node.input) > 3 and node.input[3] in constants:
                _patch_resize(draft, node, numpy_helper.to_array(constants[node.input[3]]), many)


def _patch_reshape(
    draft: Draft, node: onnx.NodeProto, types: dict[str, TensorType], shape: np.ndarray, many: int
) -> None:
    """[N, ...] -> [0, ...] (0 copies the input's batch); [heads, ...] after a merge of the batch -> [-1, ...]."""
    target, source = as_ints(shape), types[node.input[0]].shape
    result = types[node.output[0]].shape
    if not target or target[0] == -1 or source is None or result is None or attributes(node).get("allowzero"):
        return
    if target[0] == many and source and source[0] == many:
        target[0] = 0
    elif target[0] > 0:
        rest = [a if b == -1 else b for a, b in zip(result, target, strict=True)]
        if not all(isinstance(dim, int) for dim in rest):
            return
        target = [-1, *(int(dim) for dim in rest[1:] if isinstance(dim, int))]
    node.input[1] = draft.add_constant(f"{node.output[0]}/shape", np.asarray(target, np.int64))


def _patch_resize(draft: Draft, node: onnx.NodeProto, sizes: np.ndarray, many: int) -> None:
    """sizes over every axis -> sizes over all but the batch."""
    target = as_ints(sizes)
    cropped = len(node.input) > 1 and bool(node.input[1])  # its region lists every axis
    whole = attributes(node).get("axes") is None and len(target) > 1 and not cropped
    if whole and target[0] == many:
        node.input[3] = draft.add_constant(f"{node.output[0]}/sizes", np.asarray(target[1:], np.int64))
        set_attribute(node, "axes", list(range(1, len(target))))


def _blocker(trial: Draft, names: set[str], before: dict[str, TensorType], many: int) -> str:
    """Why twice as many samples do not go through as that, or '' when they do."""
    two = Draft(_copy(trial.model), trial.weights)
    _set_batch(two, names, 2 * many)
    _forget_outputs(two)
    try:
        after = infer(two, strict=True)
    except ModelError as error:
        return str(error)
    for value in two.graph.output:
        old, new = before[value.name].shape, after[value.name].shape
        if not old or not new or len(old) != len(new):
            return f"output {value.name!r} has no shape that could be checked"
        moved = any(
            isinstance(a, int) and isinstance(b, int) and a != b
            for a, b in zip(old[1:], new[1:], strict=True)
        )
        if old[0] != many or new[0] != 2 * many or moved:
            count = "two" if many == 1 else 2 * many
            return f"output {value.name!r} of shape {list(old)} becomes {list(new)} for {count} pictures"
    return _mixed(two.graph, before, after)


def _mixed(graph: onnx.GraphProto, before: dict[str, TensorType], after: dict[str, TensorType]) -> str:
    """The first node that brings the two samples together, or ''. A tensor that depends on the samples has one
    axis that the second one lengthened: one without has lost a sample or summed both, one with two holds their
    products."""
    constants = {t.name: as_ints(numpy_helper.to_array(t)) for t in graph.initializer if _indices(t)}
    for node in graph.node:
        where = f"{node.op_type} at {node.name or node.output[0]!r}"
        if node.input and _grown(node.input[0], before, after) & set(_worked(node, after, constants)):
            return f"{where} works along the batch"
        if node.op_type in READ_SHAPE or not any(_grown(name, before, after) for name in node.input):
            continue
        for name in node.output:
            known = name in after and after[name].shape is not None
            if known and len(_grown(name, before, after)) != 1:
                return f"{where} does not keep the pictures apart"
    return ""


def _forget_outputs(draft: Draft) -> None:
    """A declared shape overrules the inferred one."""
    for value in draft.graph.output:
        value.type.tensor_type.ClearField("shape")


def _indices(tensor: onnx.TensorProto) -> bool:
    return tensor.data_type in (onnx.TensorProto.INT64, onnx.TensorProto.INT32) and len(tensor.dims) < 2


def _grown(name: str, before: dict[str, TensorType], after: dict[str, TensorType]) -> set[int]:
    """Axes of a tensor that are twice as long with two samples."""
    old = before[name].shape if name in before else None
    new = after[name].shape if name in after else None
    if old is None or new is None:
        return set()
    pairs = enumerate(zip(old, new, strict=False))
    return {i for i, (a, b) in pairs if isinstance(a, int) and isinstance(b, int) and b == 2 * a and a > 0}


def _worked(node: onnx.NodeProto, types: dict[str, TensorType], constants: dict[str, list[int]]) -> list[int]:
    """Axes along which a node combines or ranks elements."""
    shape = types[node.input[0]].shape if node.input and node.input[0] in types else None
    if shape is None or node.domain:
        return []
    rank, given = len(shape), attributes(node)
    if node.op_type in ALONG_AXIS:
        axis = given.get("axis", ALONG_AXIS[node.op_type])
        return [axis % rank] if isinstance(axis, int) and rank else []
    if node.op_type == "MatMul":
        return [rank - 1]
    if node.op_type == "Gemm":
        return [0 if given.get("transA") else 1]
    if node.op_type == "CumSum":
        return [axis % rank for axis in constants.get(node.input[1], range(rank))]
    if node.op_type == "MeanVarianceNormalization":
        return as_ints(np.asarray(given.get("axes", [0, 2, 3])))
    if not node.op_type.startswith("Reduce"):
        return []
    if len(node.input) < 2 or not node.input[1]:
        return [] if given.get("noop_with_empty_axes") else list(range(rank))
    return [axis % rank for axis in constants.get(node.input[1], range(rank))]


def as_ints(values: np.ndarray) -> list[int]:
    return [int(value) for value in values.ravel()]
