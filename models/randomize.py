"""Usable weights for topologies that ship without: ConstantOfShape nodes in place of trained tensors.

The onnx wheel has nine such files (onnx/backend/test/data/light): real architectures in which nearly every
weight is the constant 0.02, so that all classes of all images get the same score.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod, sqrt

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from .blocks import HE, LINEAR, Floats

_VIEWS = ("Unsqueeze", "Reshape", "Identity")
_WEIGHTED = ("Conv", "Gemm")


@dataclass(frozen=True)
class _Slot:
    """Where a constant ends up: input `index` of `node`, there of the shape `shape`."""

    node: NodeProto
    index: int
    shape: tuple[int, ...]


def randomize_constants(model: ModelProto, seed: int = 0) -> ModelProto:
    """A copy of `model` in which every ConstantOfShape that feeds a parameter is a seeded initializer.

    The consumer, looked up through Unsqueeze and Reshape, decides the distribution:

    * Conv and Gemm weight: N(0, 2 / fan_in); in the last one N(0, 1 / (fan_in g²)) with g the estimated
      growth of the values up to it, so that a softmax behind it does not saturate; bias: N(0, 0.05²);
    * BatchNormalization scale and variance: uniform within 0.2 and 0.3 of 1; bias and mean: N(0, 0.1²);
    * second operand of Mul: uniform within 0.2 of 1; of Add: N(0, 0.1²).

    This holds for inputs of a second moment near 1 (standardised pixels). Tensors that the file does store
    stay. Initializers are no longer inputs of the graph, hence the IR version is at least 4; nodes, names and
    shapes stay. ConstantOfShape nodes of another kind of consumer, or of a shape that is only known at run
    time, stay as they are.

    Source: He et al., "Delving deep into rectifiers", ICCV 2015, for the variance of the weights.
    """
    result = ModelProto()
    result.CopyFrom(model)
    _replace(result, _drawn(result, np.random.default_rng(seed)))
    return result


def _drawn(model: ModelProto, rng: np.random.Generator) -> dict[str, Floats]:
    graph = model.graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    consumers = _consumers(graph.node)
    shapes = {
        node.output[0]: tuple(int(n) for n in numpy_helper.to_array(stored[node.input[0]]).ravel())
        for node in graph.node
        if node.op_type == "ConstantOfShape" and node.input[0] in stored
    }
    last = [node.output[0] for node in graph.node if node.op_type in _WEIGHTED][-1:]
    growth = _growth(graph.node)
    drawn: dict[str, Floats] = {}
    for name, shape in shapes.items():
        slot = _slot(name, shape, consumers, stored)
        if slot is None:
            continue
        is_last = list(slot.node.output[:1]) == last
        gain = LINEAR / growth.get(slot.node.input[0], 1.0) if is_last else HE
        values = _draw(slot, gain, rng)
        if values is not None:
            drawn[name] = values.reshape(shape).astype(np.float32)
    return drawn


def _consumers(nodes: Iterable[NodeProto]) -> defaultdict[str, list[tuple[NodeProto, int]]]:
    table: defaultdict[str, list[tuple[NodeProto, int]]] = defaultdict(list)
    for node in nodes:
        for index, name in enumerate(node.input):
            table[name].append((node, index))
    return table


def _slot(
    name: str,
    shape: tuple[int, ...],
    consumers: defaultdict[str, list[tuple[NodeProto, int]]],
    stored: dict[str, TensorProto],
) -> _Slot | None:
    uses = consumers[name]
    while uses:
        node, index = uses[0]
        if node.op_type not in _VIEWS or index != 0:
            return _Slot(node, index, shape)
        if node.op_type == "Reshape" and node.input[1] in stored:
            target = np.empty(shape, np.bool_).reshape(numpy_helper.to_array(stored[node.input[1]]))
            shape = target.shape
        uses = consumers[node.output[0]]
    return None


def _draw(slot: _Slot, gain: float, rng: np.random.Generator) -> NDArray[np.float64] | Floats | None:
    shape = slot.shape
    match slot.node.op_type, slot.index:
        case ("Conv" | "Gemm", 1):
            values = rng.standard_normal(shape, np.float32)
            values *= np.float32(gain / sqrt(_fan_in(slot)))
            return values
        case ("Conv" | "Gemm", 2):
            return rng.normal(0, 0.05, shape)
        case ("BatchNormalization", 1) | ("Mul", 1):
            return rng.uniform(0.8, 1.2, shape)
        case ("BatchNormalization", 2 | 3) | ("Add", 1):
            return rng.normal(0, 0.1, shape)
        case ("BatchNormalization", 4):
            return rng.uniform(0.7, 1.3, shape)
    return None


def _fan_in(slot: _Slot) -> int:
    transposed = any(a.name == "transB" and a.i for a in slot.node.attribute)
    outputs_last = slot.node.op_type == "Gemm" and not transposed
    return prod(slot.shape[:-1] if outputs_last else slot.shape[1:])


def _growth(nodes: Iterable[NodeProto]) -> dict[str, float]:
    """Rough root mean square of every tensor relative to the input's.

    He-normal layers double the second moment and a ReLU halves it; independent summands add theirs; a
    max-pool of rectified, spatially correlated values raises the root by about half. A ReLU behind a residual
    sum halves nothing, because one summand has already been rectified.
    """
    factor = {"Conv": HE, "Gemm": HE, "Relu": 1 / HE, "MaxPool": 1.5}
    growth: dict[str, float] = {}
    sums: set[str] = set()
    for node in nodes:
        known = [growth.get(name, 1.0) for name in node.input]
        if node.op_type in ("Sum", "Concat"):
            squares = sum(rms * rms for rms in known)
            value = sqrt(squares if node.op_type == "Sum" else squares / len(known))
            sums.update(node.output if node.op_type == "Sum" else ())
        elif node.op_type == "Relu" and node.input[0] in sums:
            value = known[0]
        else:
            value = factor.get(node.op_type, 1.0) * (known[0] if known else 1.0)
        growth.update(dict.fromkeys(node.output, value))
    return growth


def _replace(model: ModelProto, drawn: dict[str, Floats]) -> None:
    graph = model.graph
    nodes = [
        node for node in graph.node if not (node.op_type == "ConstantOfShape" and node.output[0] in drawn)
    ]
    used = {name for node in nodes for name in node.input} | {value.name for value in graph.output}
    kept = [tensor for tensor in graph.initializer if tensor.name in used and tensor.name not in drawn]
    kept += [
        helper.make_tensor(n, TensorProto.FLOAT, v.shape, v.astype("<f4").tobytes(), True)
        for n, v in drawn.items()
    ]
    stored = {tensor.name for tensor in graph.initializer} | set(drawn)
    inputs = [value for value in graph.input if value.name not in stored]
    graph.ClearField("node")
    graph.node.extend(nodes)
    graph.ClearField("initializer")
    graph.initializer.extend(kept)
    graph.ClearField("input")
    graph.input.extend(inputs)
    model.ir_version = max(model.ir_version, 4)
