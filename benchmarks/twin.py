"""A torch module that computes what an ONNX file computes, from the file's own weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch import nn

Attributes = Mapping[str, Any]


class Add(nn.Module):  # type: ignore[misc]
    def forward(self, a: Any, b: Any) -> Any:
        return a + b


class Concat(nn.Module):  # type: ignore[misc]
    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, *values: Any) -> Any:
        return torch.cat(values, self.axis)


class OnnxTwin(nn.Module):  # type: ignore[misc]
    """One submodule a node, run in the file's order; no module twice, so that hooks see every activation apart.

    A Reshape counts as Flatten (that is what exporters write for it); the nodes that work out its sizes are
    left out. Whoever uses the twin compares its output with onnxruntime's first.
    Raises NotImplementedError for an operator or a form that no network of the benchmarks has.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        super().__init__()
        weights = {entry.name: entry for entry in model.graph.initializer}
        self.start, self.end = model.graph.input[0].name, model.graph.output[0].name
        self.parts = nn.ModuleList()
        self.steps: list[tuple[list[str], str]] = []
        live = {self.start}
        for node in model.graph.node:
            inputs = [name for name in node.input if name in live]
            if node.op_type == "Shape" or not inputs:
                continue  # sizes
            parameters = [_tensor(weights[name]) for name in node.input if name in weights]
            attributes = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
            self.parts.append(_module(node.op_type, attributes, parameters))
            self.steps.append((inputs[:1] if node.op_type == "Reshape" else inputs, node.output[0]))
            live.add(node.output[0])
        last = {name: i for i, (names, _) in enumerate(self.steps) for name in names}
        self.done = [
            [name for name in set(names) if last[name] == i] for i, (names, _) in enumerate(self.steps)
        ]
        self.eval().requires_grad_(False)

    def forward(self, x: Any) -> Any:
        values = {self.start: x}
        for part, (names, made), done in zip(self.parts, self.steps, self.done, strict=True):
            values[made] = part(*(values[name] for name in names))
            for name in done:
                del values[name]
        return values[self.end]


@cache
def twin(model: Path) -> OnnxTwin:
    return OnnxTwin(onnx.load(model))


def _tensor(entry: onnx.TensorProto) -> Any:
    return torch.from_numpy(np.array(numpy_helper.to_array(entry)))


def _module(op: str, attributes: Attributes, parameters: list[Any]) -> Any:
    if op not in MODULES:
        raise NotImplementedError(f"the twin has no {op}")
    return MODULES[op](attributes, parameters)


def _pads(attributes: Attributes) -> tuple[Any, list[int]]:
    """The module that pads, where both ends differ, and the pads of the window itself."""
    top, left, bottom, right = attributes["pads"]
    if (top, left) == (bottom, right):
        return None, [top, left]
    return nn.ZeroPad2d((left, right, top, bottom)), [0, 0]


def _filled(module: Any, parameters: list[Any]) -> Any:
    """The module, built without storage, with these as its weight and bias."""
    for name, value in zip(("weight", "bias"), parameters, strict=False):
        if getattr(module, name).shape != value.shape:
            raise NotImplementedError(f"{name} of shape {list(value.shape)}")
        setattr(module, name, nn.Parameter(value, requires_grad=False))
    return module


def _conv(attributes: Attributes, parameters: list[Any]) -> Any:
    weight, group = parameters[0], attributes["group"]
    before, padding = _pads(attributes)
    conv = nn.Conv2d(
        weight.shape[1] * group,
        weight.shape[0],
        list(weight.shape[2:]),
        attributes["strides"],
        padding,
        attributes["dilations"],
        group,
        bias=len(parameters) > 1,
        device="meta",
    )
    conv = _filled(conv, parameters)
    return conv if before is None else nn.Sequential(before, conv)


def _conv_transpose(attributes: Attributes, parameters: list[Any]) -> Any:
    inner, outer, *kernel = parameters[0].shape
    bias = len(parameters) > 1
    made = nn.ConvTranspose2d(inner, outer, kernel, attributes["strides"], bias=bias, device="meta")
    if any(attributes["pads"]):
        raise NotImplementedError("a ConvTranspose with pads")
    return _filled(made, parameters)


def _gemm(attributes: Attributes, parameters: list[Any]) -> Any:
    if not attributes.get("transB", 0) or attributes.get("transA", 0):
        raise NotImplementedError("a Gemm that is no x Wᵀ + b")
    outs, ins = parameters[0].shape
    return _filled(nn.Linear(ins, outs, bias=len(parameters) > 1, device="meta"), parameters)


def _norm(attributes: Attributes, parameters: list[Any]) -> Any:
    scale, bias, mean, variance = parameters
    norm = nn.BatchNorm2d(len(scale), eps=attributes.get("epsilon", 1e-5))
    norm.running_mean, norm.running_var = mean, variance
    return _filled(norm, [scale, bias])


def _clip(attributes: Attributes, parameters: list[Any]) -> Any:
    if [float(value) for value in parameters] != [0.0, 6.0]:
        raise NotImplementedError("a Clip that is no ReLU6")
    return nn.ReLU6()


def _max_pool(attributes: Attributes, parameters: list[Any]) -> Any:
    before, padding = _pads(attributes)
    if before is not None:
        raise NotImplementedError("a MaxPool whose pads differ from end to end")
    return nn.MaxPool2d(list(attributes["kernel_shape"]), list(attributes["strides"]), padding)


MODULES: Mapping[str, Callable[[Attributes, list[Any]], Any]] = {
    "Add": lambda attributes, parameters: Add(),
    "BatchNormalization": _norm,
    "Clip": _clip,
    "Concat": lambda attributes, parameters: Concat(attributes["axis"]),
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Flatten": lambda attributes, parameters: nn.Flatten(attributes.get("axis", 1)),
    "Gemm": _gemm,
    "GlobalAveragePool": lambda attributes, parameters: nn.AdaptiveAvgPool2d(1),
    "MaxPool": _max_pool,
    "Relu": lambda attributes, parameters: nn.ReLU(),
    "Reshape": lambda attributes, parameters: nn.Flatten(1),
}
