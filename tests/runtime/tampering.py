"""Files that were changed after they were compiled, so that a check must notice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

import onnxplain
from onnxplain.rewriter.card import read_card
from onnxplain.runtime.explainer import Explainer

GOLDEN = Path(__file__).parents[1] / "data" / "golden"

Nodes = Callable[[str, str], Sequence[onnx.NodeProto]]
"""(name before, name after) -> what stands between."""


def net(name: str) -> Path:
    return GOLDEN / f"{name}.onnx"


def compiled(name: str, method: str, **options: object) -> onnx.ModelProto:
    return onnxplain.compile(net(name), method, **options).model  # type: ignore[arg-type]


def opened(model: onnx.ModelProto) -> Explainer:
    return Explainer(model, read_card(model))


def spliced(model: onnx.ModelProto, tensor: str, nodes: Nodes, **constants: np.ndarray) -> onnx.ModelProto:
    """A copy in which nodes stand between a tensor and whoever reads it."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    maker = next(node for node in copy.graph.node if tensor in node.output)
    before = f"{tensor}/before"
    maker.output[list(maker.output).index(tensor)] = before
    place = list(copy.graph.node).index(maker) + 1
    kept = list(copy.graph.node)
    del copy.graph.node[:]
    copy.graph.node.extend([*kept[:place], *nodes(before, tensor), *kept[place:]])
    copy.graph.initializer.extend(numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items())
    return copy


def by(op: str, other: str) -> Nodes:
    """after = op(before, other)."""
    return lambda before, after: [helper.make_node(op, [before, other], [after])]


def alone(op: str, domain: str = "") -> Nodes:
    return lambda before, after: [helper.make_node(op, [before], [after], domain=domain)]


def spread(before: str, after: str) -> list[onnx.NodeProto]:
    """Less the mean of the batch."""
    return [
        helper.make_node("ReduceMean", [before, "axes"], ["mean"], keepdims=1),
        helper.make_node("Sub", [before, "mean"], [after]),
    ]


def over_input(before: str, after: str) -> list[onnx.NodeProto]:
    """Divided by Σ |x|, and multiplied by it: NaN where the picture is black, and only there."""
    return [
        helper.make_node("ReduceL1", ["x"], ["size"], keepdims=0),
        helper.make_node("Div", [before, "size"], ["share"]),
        helper.make_node("Mul", ["share", "size"], [after]),
    ]


def bent(before: str, after: str) -> list[onnx.NodeProto]:
    """A |A|: of degree 2."""
    return [helper.make_node("Abs", [before], ["abs"]), helper.make_node("Mul", [before, "abs"], [after])]


def times(model: onnx.ModelProto, factor: float, tensor: str = "attribution") -> onnx.ModelProto:
    return spliced(model, tensor, by("Mul", "factor"), factor=np.asarray(factor, np.float32))
