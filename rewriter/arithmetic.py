"""FLOPs of one node from the shapes of its tensors; `rewriter.cost` says by which convention."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import onnx

from .draft import attributes

Shape: TypeAlias = tuple[int, ...]
Shapes: TypeAlias = Callable[[str], Shape | None]
"""Tensor -> its shape, None where it is not known in full."""

PICKS = frozenset("Slice Gather GatherElements GatherND Split Compress".split())
MOVES = PICKS | frozenset(
    "Transpose Concat Pad Expand Tile Cast CastLike ConstantOfShape DepthToSpace SpaceToDepth Scatter "
    "ScatterElements ScatterND Resize Upsample ReverseSequence EyeLike OneHot NonZero Range Trilu Col2Im "
    "Reshape Flatten Squeeze Unsqueeze Identity Dropout Shape Size".split()
)
"""They compute nothing; an interpolating Resize is counted as if it did not either."""
POOLS = frozenset("MaxPool AveragePool LpPool".split())
REDUCTIONS = frozenset("GlobalAveragePool GlobalMaxPool GlobalLpPool ArgMax ArgMin CumSum".split())
"""And all whose names start with Reduce."""
PER_ELEMENT: Mapping[str, int] = {
    "BatchNormalization": 2,
    "Softmax": 5,
    "LogSoftmax": 5,
    "LayerNormalization": 7,
    "InstanceNormalization": 7,
    "GroupNormalization": 7,
}
"""All others that are not weighted: 1."""
WEIGHT: Mapping[str, int] = {"Conv": 1, "ConvInteger": 1, "QLinearConv": 3, "ConvTranspose": 1}
"""Operator -> which input is the weight."""
PRODUCTS = frozenset("MatMul MatMulInteger QLinearMatMul Gemm".split())
UNCOUNTED = frozenset("Scan LSTM GRU RNN Attention SequenceMap DeformConv DFT STFT".split())


@dataclass(frozen=True)
class Work:
    """macs: multiply-adds of a weighted operator. flops: all there is, 2 for each of those. unknown: why it is not
    counted, or ""."""

    macs: int = 0
    flops: int = 0
    unknown: str = ""


def work_of(node: onnx.NodeProto, shapes: Shapes) -> Work:
    """The work of one node."""
    op = node.op_type
    if node.domain or op in UNCOUNTED:
        return Work(unknown="its FLOPs are not known")
    if op in MOVES:
        return Work()
    weighted = op in WEIGHT or op in PRODUCTS or op == "Einsum"
    operands = (0, WEIGHT.get(op, 1)) if weighted else (0,) if _reduces(op) else ()
    wanted = [node.output[0], *(node.input[i] for i in operands if i < len(node.input))]
    known = [shape for shape in map(shapes, wanted) if shape is not None]
    if len(known) != len(wanted):
        return Work(unknown="the sizes of its tensors are not known")
    if not weighted:
        return Work(flops=_flops(node, *known))
    macs = _macs(node, *known)
    if macs is None:
        return Work(unknown="of other than two operands, or with an ellipsis")
    return Work(macs, 2 * macs)


def _macs(node: onnx.NodeProto, y: Shape, x: Shape, w: Shape = ()) -> int | None:
    op = node.op_type
    if op in WEIGHT:
        return math.prod(x if op == "ConvTranspose" else y) * math.prod(w[1:])
    if op in PRODUCTS:
        inner = 0 if op == "Gemm" and attributes(node).get("transA") else -1
        return math.prod(y) * x[inner]
    equation = attributes(node).get("equation", b"")
    text = (equation.decode() if isinstance(equation, bytes) else str(equation)).replace(" ", "")
    terms = text.split("->")[0].split(",")
    if "." in text or len(terms) != 2:
        return None
    letters = dict(zip(terms[0] + terms[1], x + w, strict=True))
    return math.prod(letters.values())


def _reduces(op: str) -> bool:
    return op in REDUCTIONS or op.startswith("Reduce")


def _flops(node: onnx.NodeProto, y: Shape, x: Shape = ()) -> int:
    op, elements = node.op_type, math.prod(y)
    if op in POOLS:
        window = attributes(node).get("kernel_shape")
        return elements * math.prod(window if isinstance(window, list) else [1])
    return math.prod(x) if _reduces(op) else elements * PER_ELEMENT.get(op, 1)


__all__ = ["MOVES", "PICKS", "Shapes", "Work", "work_of"]
