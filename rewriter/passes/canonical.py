"""One spelling for what ONNX lets a model say in several ways. The function never changes."""

from __future__ import annotations

import onnx
from onnx import numpy_helper

from ..draft import Draft, attributes, rename_inputs, set_attribute
from ..errors import ModelError
from .shapes import TensorType

POOLS = frozenset({"MaxPool", "AveragePool", "LpPool"})
CONVOLUTIONS = frozenset({"Conv", "ConvTranspose"})


def explicit_windows(draft: Draft, types: dict[str, TensorType]) -> None:
    """Write kernel_shape, strides, pads, dilations and group of every Conv, ConvTranspose and pool out;
    auto_pad and output_shape become pads. Where the size they depend on is not static they stay, and the
    operator's rule says what to do."""
    for node in draft.graph.node:
        if node.domain or node.op_type not in POOLS | CONVOLUTIONS:
            continue
        given, kernel = attributes(node), _kernel(node, types)
        if kernel is None:
            continue
        rank = len(kernel)
        strides = whole_numbers(given.get("strides", [1] * rank))
        dilations = whole_numbers(given.get("dilations", [1] * rank))
        _vet_window(node, kernel, strides, dilations, types.get(node.input[0]))
        explicit: dict[str, object] = {"kernel_shape": list(kernel), "strides": strides}
        if node.op_type in CONVOLUTIONS:
            explicit |= {"group": given.get("group", 1), "dilations": dilations}
        elif node.op_type == "MaxPool" or draft.opset >= 19:
            explicit["dilations"] = dilations
        for name, value in explicit.items():
            set_attribute(node, name, value)
        effective = [d * (k - 1) + 1 for k, d in zip(kernel, dilations, strict=True)]
        pads = _pads(node, given, types, effective, strides)
        if pads is not None:
            set_attribute(node, "pads", pads)
            set_attribute(node, "auto_pad", None)
            set_attribute(node, "output_shape", None)


def _vet_window(
    node: onnx.NodeProto,
    kernel: list[int],
    strides: list[int],
    dilations: list[int],
    data: TensorType | None,
) -> None:
    """Shape inference looks at these numbers only where the input's shape is known, and never at group."""
    given, rank = attributes(node), len(kernel)
    sizes = [*kernel, *strides, *dilations, given.get("group", 1)]
    extra = whole_numbers(given.get("output_padding", [0] * rank))
    fits = (
        len(strides) == len(dilations) == len(extra) == rank
        and len(whole_numbers(given.get("pads", [0] * 2 * rank))) == 2 * rank
        and len(whole_numbers(given.get("output_shape", [1] * rank))) in (rank, rank + 2)
        and min(extra) >= 0
        and (data is None or data.shape is None or len(data.shape) == rank + 2)
    )
    if not fits or not rank or not all(isinstance(size, int) and 0 < size < 2**31 for size in sizes):
        raise ModelError(
            f"{node.op_type} at {node.name or node.output[0]!r}: kernel_shape, strides, pads, dilations and group "
            "do not describe a window; export the model again"
        )


def whole_numbers(values: object) -> list[int]:
    return [int(value) for value in values]  # type: ignore[attr-defined]


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _kernel(node: onnx.NodeProto, types: dict[str, TensorType]) -> list[int] | None:
    given = attributes(node).get("kernel_shape")
    if given is not None:
        return whole_numbers(given)
    weight = types.get(node.input[1]) if len(node.input) > 1 else None
    if weight is None or weight.shape is None or not all(isinstance(dim, int) for dim in weight.shape[2:]):
        return None
    return [int(dim) for dim in weight.shape[2:] if isinstance(dim, int)]


def _pads(
    node: onnx.NodeProto,
    given: dict[str, object],
    types: dict[str, TensorType],
    effective: list[int],
    strides: list[int],
) -> list[int] | None:
    mode = _text(given.get("auto_pad", b"NOTSET"))
    rank = len(effective)
    if node.op_type == "ConvTranspose" and ("output_shape" in given or mode.startswith("SAME")):
        return _transpose_pads(node, types.get(node.input[0]), effective, strides, mode)
    if mode == "NOTSET":
        return whole_numbers(given.get("pads", [0] * 2 * rank))
    if mode == "VALID":
        return [0] * 2 * rank
    shape = (types.get(node.input[0]) or TensorType(None, None)).shape or (None,) * (rank + 2)
    totals: list[int] = []
    for size, extent, stride in zip(shape[2:], effective, strides, strict=True):
        if isinstance(size, int):
            totals.append(max(0, (-(-size // stride) - 1) * stride + extent - size))
        elif stride == 1:
            totals.append(extent - 1)
        else:
            return None
    return _share(totals, more_at_end=mode == "SAME_UPPER")


def _transpose_pads(
    node: onnx.NodeProto,
    data: TensorType | None,
    effective: list[int],
    strides: list[int],
    mode: str,
) -> list[int] | None:
    """pads of a ConvTranspose from its output size: total = stride (in - 1) + output_padding + extent - out.
    Where the windows do not reach that size, output_padding makes up for it."""
    given, rank = attributes(node), len(effective)
    extra = whole_numbers(given.get("output_padding", [0] * rank))
    sizes = data.shape[2:] if data is not None and data.shape is not None else (None,) * rank
    wanted = given.get("output_shape")
    totals: list[int] = []
    for i, (size, extent, stride) in enumerate(zip(sizes, effective, strides, strict=True)):
        if wanted is None:
            totals.append(extra[i] + extent - stride)
        elif isinstance(size, int):
            totals.append(stride * (size - 1) + extra[i] + extent - whole_numbers(wanted)[-rank:][i])
        else:
            return None
    missing = [max(0, -total) for total in totals]
    if wanted is None and any(missing):
        return None  # the specification fills up with zeros, onnxruntime does not: the node stays as it is
    if any(short >= stride for short, stride in zip(missing, strides, strict=True) if short):
        return None
    if any(missing):
        set_attribute(node, "output_padding", [a + b for a, b in zip(extra, missing, strict=True)])
        totals = [max(0, total) for total in totals]
    return _share(totals, more_at_end=mode == "SAME_UPPER")


def _share(totals: list[int], *, more_at_end: bool) -> list[int]:
    small, large = [total // 2 for total in totals], [total - total // 2 for total in totals]
    return small + large if more_at_end else large + small


def drop_identities(draft: Draft) -> None:
    """Remove Identity, and Dropout as inference sees it. A node that names a graph output, or one that is
    asked for its mask, stays."""
    graph = draft.graph
    outputs = {value.name for value in graph.output}
    flags = {t.name: t for t in graph.initializer if t.data_type == onnx.TensorProto.BOOL and not t.dims}
    read = {name for node in graph.node for name in node.input} | outputs
    names: dict[str, str] = {}
    kept: list[onnx.NodeProto] = []
    for node in graph.node:
        source = names.get(node.input[0], node.input[0]) if node.input else ""
        if _passes(node, flags, read) and node.output[0] not in outputs:
            names[node.output[0]] = source
        else:
            kept.append(node)
    if names:
        del graph.node[:]
        graph.node.extend(kept)
        rename_inputs(graph, names)


def _passes(node: onnx.NodeProto, flags: dict[str, onnx.TensorProto], read: set[str]) -> bool:
    if node.domain or node.op_type not in ("Identity", "Dropout"):
        return False
    if node.op_type == "Identity":
        return True
    mode = node.input[2] if len(node.input) > 2 else ""
    training = bool(mode) and (mode not in flags or bool(numpy_helper.to_array(flags[mode])))
    return not training and not any(name in read for name in node.output[1:] if name)
