"""One node of an ONNX file, or a few that belong together, as torch: a module where hooks look for one (weighted
layers, activations, pools), else a function."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

import torch
from onnx import NodeProto, helper
from torch import nn
from torch.nn import functional

Attributes = Mapping[str, Any]
Weights = Mapping[str, Any]
Made = tuple[list[str], Callable[..., Any]]
"""Names of the values that are taken, and the call."""


@dataclass(frozen=True)
class Pattern:
    """Nodes in a row that torch has one module for. `make` returns None where they do not fit after all."""

    ops: tuple[str, ...]
    make: Callable[[Sequence[NodeProto], Weights], Made | None]


def single(node: NodeProto, live: Sequence[str], weights: Weights) -> Made:
    """A node by itself. live: those of its inputs that depend on the network's."""
    if node.op_type not in SINGLE:
        raise NotImplementedError(f"the twin has no {node.op_type}")
    attributes = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
    call = SINGLE[node.op_type](attributes, [weights[name] for name in node.input if name in weights])
    # The sizes of a Reshape may be computed from the same input.
    return list(live[:1]) if node.op_type == "Reshape" else list(live), call


def _pads(attributes: Attributes) -> tuple[Any, Any]:
    """The module that pads, where both ends differ, and the pads of the window itself."""
    top, left, bottom, right = attributes.get("pads", [0] * 4)
    if (top, left) == (bottom, right):
        return None, (top, left)
    return nn.ZeroPad2d((left, right, top, bottom)), (0, 0)


def _filled(module: Any, parameters: Sequence[Any]) -> Any:
    """The module, built without storage, with these as its weight and bias."""
    for name, value in zip(("weight", "bias"), parameters, strict=False):
        if getattr(module, name).shape != value.shape:
            raise NotImplementedError(f"{name} of shape {list(value.shape)}")
        setattr(module, name, nn.Parameter(value, requires_grad=False))
    return module


def _conv(attributes: Attributes, parameters: list[Any]) -> Any:
    weight, group = parameters[0], attributes.get("group", 1)
    before, padding = _pads(attributes)
    conv = nn.Conv2d(
        weight.shape[1] * group,
        weight.shape[0],
        tuple(weight.shape[2:]),
        attributes.get("strides", [1, 1]),
        padding,
        attributes.get("dilations", [1, 1]),
        group,
        bias=len(parameters) > 1,
        device="meta",
    )
    conv = _filled(conv, parameters)
    return conv if before is None else nn.Sequential(before, conv)


def _conv_transpose(attributes: Attributes, parameters: list[Any]) -> Any:
    inner, outer, *_ = parameters[0].shape
    kernel = tuple(parameters[0].shape[2:])
    bias = len(parameters) > 1
    made = nn.ConvTranspose2d(inner, outer, kernel, attributes["strides"], bias=bias, device="meta")
    if any(attributes["pads"]):
        raise NotImplementedError("a ConvTranspose with pads")
    return _filled(made, parameters)


def _linear(parameters: Sequence[Any]) -> Any:
    outs, ins = parameters[0].shape
    return _filled(nn.Linear(ins, outs, bias=len(parameters) > 1, device="meta"), parameters)


def _gemm(attributes: Attributes, parameters: list[Any]) -> Any:
    if not attributes.get("transB", 0) or attributes.get("transA", 0):
        raise NotImplementedError("a Gemm that is no x Wᵀ + b")
    return _linear(parameters)


def _batch_norm(attributes: Attributes, parameters: list[Any]) -> Any:
    scale, bias, mean, variance = parameters
    norm = nn.BatchNorm2d(len(scale), eps=attributes.get("epsilon", 1e-5))
    norm.running_mean, norm.running_var = mean, variance
    return _filled(norm, [scale, bias])


def _layer_norm(attributes: Attributes, parameters: list[Any]) -> Any:
    if attributes.get("axis", -1) != -1:
        raise NotImplementedError("a LayerNormalization over more than the last axis")
    norm = nn.LayerNorm(len(parameters[0]), attributes.get("epsilon", 1e-5), device="meta")
    return _filled(norm, parameters)


def _clip(attributes: Attributes, parameters: list[Any]) -> Any:
    if [float(value) for value in parameters] != [0.0, 6.0]:
        raise NotImplementedError("a Clip that is no ReLU6")
    return nn.ReLU6()


def _max_pool(attributes: Attributes, parameters: list[Any]) -> Any:
    before, padding = _pads(attributes)
    if before is not None:
        raise NotImplementedError("a MaxPool whose pads differ from end to end")
    return nn.MaxPool2d(tuple(attributes["kernel_shape"]), tuple(attributes["strides"]), padding)


def _resize(attributes: Attributes, parameters: list[Any]) -> Any:
    form = ("mode", "coordinate_transformation_mode", "nearest_mode")
    if [attributes.get(key) for key in form] != [b"nearest", b"asymmetric", b"floor"]:
        raise NotImplementedError("a Resize that does not repeat cells")
    _, _, *factor = parameters[-1].tolist()
    return lambda x: functional.interpolate(x, scale_factor=factor, mode="nearest")


def _reshape(attributes: Attributes, parameters: list[Any]) -> Any:
    """Without constant sizes it is the Flatten of an exporter that works them out."""
    if not parameters:
        return lambda x: x.flatten(1)
    sizes = parameters[0].tolist()
    return lambda x: x.reshape([x.shape[i] if size == 0 else size for i, size in enumerate(sizes)])


def _gather(attributes: Attributes, parameters: list[Any]) -> Any:
    if parameters[0].dim():
        raise NotImplementedError("a Gather of more than one cell")
    axis, index = attributes.get("axis", 0), int(parameters[0])
    return lambda x: x.select(axis, index)


def _add(attributes: Attributes, parameters: list[Any]) -> Any:
    return (lambda x: x + parameters[0]) if parameters else (lambda a, b: a + b)


def _expand(attributes: Attributes, parameters: list[Any]) -> Any:
    """A weight once for every sample; it takes the network's input, for the size of the batch."""
    weight = parameters[0]
    return lambda x: weight.expand(len(x), *weight.shape[1:])


def _concat(attributes: Attributes, parameters: list[Any]) -> Any:
    if parameters:
        raise NotImplementedError("a Concat with weights")
    return lambda *values: torch.cat(values, attributes["axis"])


SINGLE: Mapping[str, Callable[[Attributes, list[Any]], Any]] = {
    "Add": _add,
    "BatchNormalization": _batch_norm,
    "Clip": _clip,
    "Concat": _concat,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Expand": _expand,
    "Flatten": lambda attributes, parameters: lambda x: x.flatten(attributes.get("axis", 1)),
    "Gather": _gather,
    "Gemm": _gemm,
    "GlobalAveragePool": lambda attributes, parameters: nn.AdaptiveAvgPool2d(1),
    "Identity": lambda attributes, parameters: lambda x: x,
    "LayerNormalization": _layer_norm,
    "MaxPool": _max_pool,
    "Relu": lambda attributes, parameters: nn.ReLU(),
    "Reshape": _reshape,
    "Resize": _resize,
    "Transpose": lambda attributes, parameters: lambda x: x.permute(attributes["perm"]),
}


def _token_linear(nodes: Sequence[NodeProto], weights: Weights) -> Made | None:
    product, total = nodes
    x, weight = product.input
    bias = next((name for name in total.input if name in weights), None)
    if weight not in weights or bias is None or product.output[0] not in total.input:
        return None
    return [x], _linear([weights[weight].T.contiguous(), weights[bias]])


def _gelu(nodes: Sequence[NodeProto], weights: Weights) -> Made | None:
    x = nodes[0].input[0]
    constants = [float(weights[name]) for node in nodes for name in node.input if name in weights]
    wanted = (sqrt(2), 1.0, 0.5)
    if len(constants) != 3 or any(abs(a - b) > 1e-6 for a, b in zip(constants, wanted, strict=True)):
        return None
    return ([x], nn.GELU()) if x in nodes[3].input else None


def _attention(nodes: Sequence[NodeProto], weights: Weights) -> Made | None:
    """k comes transposed."""
    (q, k), v = nodes[0].input, nodes[3].input[1]
    if any(name in weights for name in (q, k, v)):
        return None
    scale = 1 / float(weights[nodes[1].input[1]])

    def attend(q: Any, k: Any, v: Any) -> Any:
        return functional.scaled_dot_product_attention(q, k.transpose(-1, -2), v, scale=scale)

    return [q, k, v], attend


PATTERNS = (
    Pattern(("MatMul", "Div", "Softmax", "MatMul"), _attention),
    Pattern(("Div", "Erf", "Add", "Mul", "Mul"), _gelu),
    Pattern(("MatMul", "Add"), _token_linear),
)
