"""Pools whose last window would lie in the padding: onnxruntime drops that window, onnx's shape inference counts it.

With ceil_mode the number of windows along an axis of n cells is rounded up. A last window that starts behind the last
cell sees nothing of x; onnxruntime leaves it out at every opset, the specification from opset 22 on. Spelt so that
nothing is left to round, both agree: every type behind the pool is right, and every rule sees what runs.
"""

from __future__ import annotations

import onnx

from ..draft import Draft, attributes, set_attribute
from .canonical import POOLS, whole_numbers
from .shapes import UNKNOWN, TensorType, infer, set_shape, tensor_type, vet_shapes


def settle_ceil(draft: Draft) -> None:
    """Rewrite the pools with such a window, one after the other: the sizes behind a pool follow from it.

    Where no axis needs the rounding, ceil_mode goes; else the padding behind the axis is cut to what its windows read.
    A pool for which there is no such padding (windows apart along one axis, rounded up along another), or whose size is
    not static, stays: its rule refuses it, or follows what runs."""
    pools = [node for node in draft.graph.node if _rounds_up(node)] if draft.opset < 22 else []
    if pools:
        vet_shapes(draft)
    types, changed = None, False
    for node in pools:
        types = infer(draft) if types is None else types
        if _settle(node, types.get(node.input[0], UNKNOWN)):
            types, changed = None, True
    if changed:
        _state_outputs(draft)


def _state_outputs(draft: Draft) -> None:
    """A file may declare the sizes that shape inference counted when it was written."""
    types = infer(draft)
    for value in draft.graph.output:
        shape, stated = types[value.name].shape, tensor_type(value).shape
        if shape is not None and stated is not None and len(shape) == len(stated):
            pairs = zip(shape, stated, strict=True)
            set_shape(value, tuple(a if isinstance(a, int) and isinstance(b, int) else b for a, b in pairs))


def _rounds_up(node: onnx.NodeProto) -> bool:
    given = attributes(node)
    plain = given.get("auto_pad", b"NOTSET") in (b"NOTSET", "NOTSET", b"VALID", "VALID")
    return node.op_type in POOLS and not node.domain and bool(given.get("ceil_mode", 0)) and plain


def _settle(node: onnx.NodeProto, known: TensorType) -> bool:
    """Whether the node was changed."""
    given, sizes = attributes(node), (known.shape or ())[2:]
    kernel = whole_numbers(given.get("kernel_shape", []))
    rank = len(kernel)
    strides, dilations = (whole_numbers(given.get(key, [1] * rank)) for key in ("strides", "dilations"))
    pads = whole_numbers(given.get("pads", [0] * 2 * rank))
    if len(sizes) != rank or not len(strides) == len(dilations) == rank or len(pads) != 2 * rank:
        return False  # malformed: the vetting of windows says so
    if min([*strides, *kernel], default=0) < 1:
        return False
    over, kept = [0] * rank, False
    for i, size in enumerate(sizes):
        if not isinstance(size, int):
            return False
        room = size + pads[i] + pads[i + rank] - dilations[i] * (kernel[i] - 1) - 1
        rest = room % strides[i]
        if rest and (room // strides[i] + 1) * strides[i] >= size + pads[i]:
            over[i] = rest
        elif rest:
            kept = True
    if not any(over):
        return False
    if not kept:
        set_attribute(node, "ceil_mode", None)
        return True
    cut = [pads[i + rank] - over[i] for i in range(rank)]
    if min(cut) < 0:
        return False
    set_attribute(node, "pads", pads[:rank] + cut)
    return True
