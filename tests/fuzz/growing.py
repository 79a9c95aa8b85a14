"""Random sound graphs, grown node by node: onnxruntime runs each new node, so that every graph is one that it takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from tests.rules.forward import session

Array = npt.NDArray[Any]
Draw = np.random.Generator

OPSET = 21
LARGEST = 2000
"""Elements of a tensor."""
BATCH = 2
"""Rows of what is fed where the batch is free."""


@dataclass
class Growing:
    """A graph so far. values: what each tensor is on the input. free: whether the first axis is N."""

    draw: Draw
    free: bool
    inputs: dict[str, Array] = field(default_factory=dict)
    values: dict[str, Array] = field(default_factory=dict)
    weights: dict[str, Array] = field(default_factory=dict)
    nodes: list[onnx.NodeProto] = field(default_factory=list)

    def weight(self, array: Any, kind: Any = np.float32) -> str:
        name = f"w{len(self.weights)}"
        self.weights[name] = np.asarray(array, kind)
        return name

    def normal(self, *shape: int) -> str:
        return self.weight(self.draw.normal(size=shape))

    def value(self, name: str) -> Array:
        return self.values[name] if name in self.values else self.weights[name]

    def add(self, op: str, *inputs: str, count: int = 1, **attributes: Any) -> str:
        """The first output of a new node. ValueError where onnxruntime does not run it, or the result is of no use."""
        names = [f"t{len(self.nodes)}_{i}" for i in range(count)]
        node = helper.make_node(op, list(inputs), names, f"n{len(self.nodes)}", **attributes)
        given = {x: self.value(x) for x in inputs if x}
        try:
            results = run(model_of([node], given, {}, names, {}), given)
        except Exception as error:  # onnxruntime's own errors have no common type
            raise ValueError(f"{op}: {error}") from error
        for array in results:
            fine = array.dtype.kind != "f" or (
                np.isfinite(array).all() and np.abs(array).max(initial=0) < 1e4
            )
            if not fine or not 0 < array.size <= LARGEST or array.ndim > 6:
                raise ValueError(f"{op} gives what no node should read")
        self.nodes.append(node)
        self.values |= dict(zip(names, results, strict=True))
        return names[0]

    def some(self, fits: Callable[[Array], bool] = lambda array: True) -> str:
        """A floating-point tensor, late ones more often. ValueError where none fits."""
        names = [n for n, v in self.values.items() if v.dtype == np.float32 and v.ndim and fits(v)]
        if not names:
            raise ValueError("no tensor fits")
        late = self.draw.random() < 0.6
        return names[-1] if late else names[int(self.draw.integers(len(names)))]

    def model(self, outputs: list[str]) -> onnx.ModelProto:
        return model_of(self.nodes, self.inputs, self.weights, outputs, {"free": self.free})

    @property
    def feeds(self) -> dict[str, Array]:
        return {name: self.values[name] for name in self.inputs}


def model_of(
    nodes: list[onnx.NodeProto],
    inputs: dict[str, Array],
    weights: dict[str, Array],
    outputs: list[str],
    about: dict[str, bool],
) -> onnx.ModelProto:
    """about: "free" makes the first axis of every input N."""
    declared = []
    for name, array in inputs.items():
        shape: list[Any] = list(array.shape)
        if about.get("free") and shape:
            shape[0] = "N"
        declared.append(
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), shape)
        )
    results = [onnx.ValueInfoProto(name=name) for name in outputs]
    stored = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "grown", declared, results, stored)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)
    if about:
        typed = onnx.shape_inference.infer_shapes(made)
        del made.graph.output[:]
        made.graph.output.extend(typed.graph.output)
    return made


def run(model: onnx.ModelProto, feeds: dict[str, Array]) -> list[Array]:
    return [np.asarray(value) for value in session(model).run(None, feeds)]


def one(choices: Any, draw: Draw) -> Any:
    return choices[int(draw.integers(len(choices)))]
