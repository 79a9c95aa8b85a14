"""Ranges that the specification states in words: numbers of windows and axes, names of modes, finite coefficients."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from .tensors import MAX_RANK, TYPES

_WIDE = 2**31

_POSITIVE = frozenset(
    "kernel_shape strides dilations group blocksize size num_outputs hidden_size num_groups num_scan_inputs "
    "output_shape q_num_heads kv_num_heads".split()
)
_AXES = frozenset(
    {"axis", "axes", "batch_axis", "time_axis", "batch_dims", "scan_input_axes", "scan_output_axes", "perm"}
)
_WIDTHS = frozenset({"pads", "output_padding"})
_TYPES = frozenset({"to", "dtype"})

_ANYTHING = frozenset({"Constant", "Clip", "Pad", "ConstantOfShape"})
"""Operators whose numbers may be infinite: bounds and fillings."""

_PADS = frozenset({"NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"})
_REDUCTIONS = frozenset({"none", "add", "mul", "min", "max"})
_LOSSES = frozenset({"none", "mean", "sum"})
_WORDS: Mapping[tuple[str, str], frozenset[str]] = {
    **{
        (op, "auto_pad"): _PADS
        for op in ("Conv", "ConvTranspose", "MaxPool", "AveragePool", "LpPool", "ConvInteger")
    },
    ("Pad", "mode"): frozenset({"constant", "reflect", "edge", "wrap"}),
    ("Resize", "mode"): frozenset({"nearest", "linear", "cubic"}),
    ("Resize", "nearest_mode"): frozenset({"round_prefer_floor", "round_prefer_ceil", "floor", "ceil", ""}),
    ("Resize", "coordinate_transformation_mode"): frozenset(
        "half_pixel half_pixel_symmetric pytorch_half_pixel align_corners asymmetric tf_half_pixel_for_nn "
        "tf_crop_and_resize".split()
    ),
    ("Resize", "keep_aspect_ratio_policy"): frozenset({"stretch", "not_larger", "not_smaller"}),
    ("DepthToSpace", "mode"): frozenset({"DCR", "CRD"}),
    ("Gelu", "approximate"): frozenset({"none", "tanh"}),
    ("ScatterElements", "reduction"): _REDUCTIONS,
    ("ScatterND", "reduction"): _REDUCTIONS,
    ("NegativeLogLikelihoodLoss", "reduction"): _LOSSES,
    ("SoftmaxCrossEntropyLoss", "reduction"): _LOSSES,
    ("GridSample", "padding_mode"): frozenset({"zeros", "border", "reflection"}),
}


_EQUATION = re.compile("{0}(,{0})*(->{0})?".format(r"[A-Za-z]*(\.\.\.[A-Za-z]*)?"))
"""Of an Einsum; onnx's shape inference does not come to an end over some other characters."""


def fault(op: str, name: str, value: Any) -> str:
    """What is wrong with the value of a standard operator's attribute; '' where nothing is."""
    values: list[Any] = [value]
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        values = list(value)
    if isinstance(value, bytes):
        if (op, name) == ("Einsum", "equation") and not _EQUATION.fullmatch(value.decode().replace(" ", "")):
            return f"the equation {value[:40]!r} is none"
        words = _WORDS.get((op, name))
        text = value.decode()
        return (
            f"{name} is {text[:40]!r}, none of {', '.join(sorted(words))}"
            if words and text not in words
            else ""
        )
    if any(isinstance(v, float) for v in values):
        return (
            ""
            if op in _ANYTHING or all(map(math.isfinite, values))
            else f"{name} is {values[:8]}, which is not finite"
        )
    if not all(isinstance(v, int) for v in values):
        return ""
    if name == "perm" and sorted(values) != list(range(len(values))):
        return f"perm is {values[:8]}, which does not name every axis once"
    if name in _POSITIVE and not (values and all(0 < v < _WIDE for v in values)):
        return f"{name} is {values[:8]}; each must be from 1 to 2^31 - 1"
    if name in _AXES and not all(-MAX_RANK <= v <= MAX_RANK for v in values):
        return f"{name} is {values[:8]}; a tensor has at most {MAX_RANK} axes"
    if name in _WIDTHS and not all(-_WIDE < v < _WIDE for v in values):
        return f"{name} is {values[:8]}; each must be below 2^31"
    if name in _TYPES and not TYPES.issuperset(values):
        return f"{name} is {value}, which is no element type of ONNX"
    return ""
