"""Two models as one: the output of the first is the input of the second."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
from onnx import compose

from .draft import Dim
from .errors import ModelError, OptionError
from .graft import opset_of, raised
from .graph import prepare
from .load import Source


def composed(first: Source, second: Source, x: str) -> tuple[onnx.ModelProto, str]:
    """second(first(code)): the nodes and weights of both as they are, tensors and nodes of the first behind a prefix.
    x: the input of the second that the first output of the first takes the place of. Returns the model, and the name
    that this tensor has in it. Where the opsets differ the older model is converted.

    OptionError where the output does not fit the input in type, rank or a fixed size; ModelError where the two cannot
    be in one file (opsets that cannot be converted).
    """
    made, taken = prepare(first.model).outputs[0], prepare(second.model).values[x]
    if made.dtype != taken.dtype:
        raise OptionError(f"the generator gives {made.dtype}, the model's input {x!r} takes {taken.dtype}")
    if not _agree(made.shape, taken.shape):
        raise OptionError(
            f"the generator's output {made.name!r} has shape {_said(made.shape)}, the model's input {x!r} takes "
            f"{_said(taken.shape)}"
        )
    prefix = "generator/"
    while any(name.startswith(prefix) for name in _names(second.model.graph)):
        prefix = f"_{prefix}"
    one, two = _same_opset(first.model, second.model)
    try:
        whole = compose.merge_models(
            compose.add_prefix(one, prefix),
            two,
            io_map=[(prefix + made.name, x)],
            outputs=[value.name for value in two.graph.output],
        )
    except (ValueError, onnx.checker.ValidationError) as error:
        raise ModelError(
            f"generator and model do not go into one file: {' '.join(str(error).split())[:300]}"
        ) from error
    return whole, prefix + made.name


def _agree(a: Sequence[Dim] | None, b: Sequence[Dim] | None) -> bool:
    """No different rank, and no different sizes where both are fixed."""
    if a is None or b is None:
        return True
    fixed = [(m, n) for m, n in zip(a, b, strict=False) if isinstance(m, int) and isinstance(n, int)]
    return len(a) == len(b) and all(m == n for m, n in fixed)


def _said(shape: Sequence[Dim]) -> str:
    return f"[{', '.join('?' if dim is None else str(dim) for dim in shape)}]"


def _names(graph: onnx.GraphProto) -> set[str]:
    names = {name for node in graph.node for name in (node.name, *node.input, *node.output)}
    return names | {value.name for value in (*graph.input, *graph.output, *graph.initializer)}


def _same_opset(one: onnx.ModelProto, two: onnx.ModelProto) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """Both in the newer opset and IR version."""
    opset, ir = max(opset_of(one), opset_of(two)), max(one.ir_version, two.ir_version)
    first, second = (_of_ir(raised(model, opset), ir) for model in (one, two))
    return first, second


def _of_ir(model: onnx.ModelProto, version: int) -> onnx.ModelProto:
    made = onnx.ModelProto()
    made.CopyFrom(model)
    made.ir_version = max(version, made.ir_version)
    return made


__all__ = ["composed"]
