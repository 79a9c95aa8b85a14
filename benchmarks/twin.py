"""A torch module that computes what an ONNX file computes, from the file's own weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import nn

from benchmarks.modules import PATTERNS, Made, Weights, single


@dataclass(frozen=True)
class Step:
    """`output` = `call` of `inputs`."""

    inputs: tuple[str, ...]
    output: str
    call: Callable[..., Any]


class OnnxTwin(nn.Module):  # type: ignore[misc]
    """The nodes as torch would have them, run in the file's order; no module twice, so that hooks see every
    activation apart.

    Whoever uses the twin compares its output with onnxruntime's first: nodes that work out sizes are left out, and a
    Reshape to such sizes is taken for a Flatten. add: makes the module for a sum of two branches, where a library
    wants one of its own.
    Raises NotImplementedError for an operator or a form that no network of the benchmarks has.
    """

    def __init__(
        self, model: onnx.ModelProto, weights: Weights, add: Callable[[], Any] | None = None
    ) -> None:
        super().__init__()
        self.start, self.end = model.graph.input[0].name, model.graph.output[0].name
        self.steps = list(_steps(model, weights, add))
        self.parts = nn.ModuleList(step.call for step in self.steps if isinstance(step.call, nn.Module))
        last = {name: i for i, step in enumerate(self.steps) for name in step.inputs}
        self.done = [[x for x in set(step.inputs) if last[x] == i] for i, step in enumerate(self.steps)]
        self.eval().requires_grad_(False)

    def forward(self, x: Any) -> Any:
        values = {self.start: x}
        for step, done in zip(self.steps, self.done, strict=True):
            values[step.output] = step.call(*[values[name] for name in step.inputs])
            for name in done:
                del values[name]
        return values[self.end]

    def maker(self, value: str) -> Any:
        """The module that makes a value of the file."""
        return next(step.call for step in self.steps if step.output == value)


@cache
def twin(model: Path, add: Callable[[], Any] | None = None) -> OnnxTwin:
    """One a process; all twins of a file share its weights."""
    proto, weights = _read(model)
    return OnnxTwin(proto, weights, add)


def channels_last(model: Path) -> OnnxTwin:
    made: Any = OnnxTwin(*_read(model))
    made.to(memory_format=torch.channels_last)  # in place
    return cast(OnnxTwin, made)


@cache
def _read(model: Path) -> tuple[onnx.ModelProto, Weights]:
    proto = onnx.load(model)
    weights = {
        entry.name: torch.from_numpy(np.array(numpy_helper.to_array(entry)))
        for entry in proto.graph.initializer
    }
    del proto.graph.initializer[:]
    return proto, weights


def _steps(model: onnx.ModelProto, weights: Weights, add: Callable[[], Any] | None) -> Iterator[Step]:
    nodes = list(model.graph.node)
    live = {model.graph.input[0].name}
    at = 0
    while at < len(nodes):
        row, made = _next(nodes[at:], live, weights, model.graph.input[0].name)
        at += len(row)
        if made is None:
            continue
        inputs, call = made
        if add is not None and row[0].op_type == "Add" and len(inputs) == 2:
            call = add()
        yield Step(tuple(inputs), row[-1].output[0], call)
        live.add(row[-1].output[0])


def _next(
    nodes: Sequence[onnx.NodeProto], live: set[str], weights: Weights, start: str
) -> tuple[Sequence[onnx.NodeProto], Made | None]:
    """The nodes of the next step, and the step; None where they only work out sizes."""
    for pattern in PATTERNS:
        row = nodes[: len(pattern.ops)]
        if tuple(node.op_type for node in row) == pattern.ops and (made := pattern.make(row, weights)):
            return row, made
    node = nodes[0]
    inputs = [name for name in node.input if name in live]
    if node.op_type == "Expand" and node.input[0] in weights:
        inputs = [start]
    return nodes[:1], single(node, inputs, weights) if inputs and node.op_type != "Shape" else None
