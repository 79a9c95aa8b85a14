"""A view of the nodes as a model that can be run: what the rules see must compute what the model computes."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from onnxplain.rewriter.canonical import canonise
from onnxplain.rewriter.emit import Emit
from onnxplain.rewriter.graph import Graph, Node, append, prepare, proto

from .nets import run


@dataclass(frozen=True)
class Seen:
    """A model before and after, and what the view has emitted."""

    graph: Graph
    view: Graph
    g: Emit

    @property
    def ops(self) -> list[str]:
        return [node.op for node in self.view.nodes]

    def node(self, name: str) -> Node:
        return next(node for node in self.view.nodes if node.name == name)


def canonical(model: onnx.ModelProto, keep: Collection[str] = ()) -> Seen:
    graph = prepare(model)
    g = Emit(graph)
    return Seen(graph, canonise(graph, g, keep), g)


def as_model(seen: Seen) -> onnx.ModelProto:
    """The nodes of the view and the emitted ones over the inputs, weights and outputs of the model."""
    view, draft = seen.view, seen.view.draft
    ours = {id(node) for node in seen.graph.nodes}
    forward = {node.name: node for node in draft.graph.node}
    written = onnx.GraphProto()
    append(written, view, [*seen.g.nodes, *view.nodes])  # its nodes are not used, its constants are
    nodes = [proto(node) for node in seen.g.nodes]
    for node in view.nodes:
        nodes += [forward[node.name]] if id(node) in ours else spelled(node)
    model = onnx.ModelProto()
    model.CopyFrom(draft.model)
    del model.graph.node[:]
    model.graph.initializer.extend(written.initializer)
    model.graph.initializer.extend(draft.weights.values())
    given = {x.name for x in (*model.graph.input, *model.graph.initializer)}
    model.graph.node.extend(_ordered(nodes, given))
    return model


def spelled(node: Node) -> list[NodeProto]:
    """A node of the view in operators that onnxruntime has at every opset from 18 on."""
    made = proto(node)
    x, y = made.input[0], made.output[0]
    if node.op == "MatMul" and len(node.inputs) == 3:
        return [
            helper.make_node("MatMul", made.input[:2], [f"{y}/product"]),
            helper.make_node("Add", [f"{y}/product", made.input[2]], [y]),
        ]
    if node.op == "Swish":
        return [
            _constant(f"{y}/alpha", float(node.attrs["alpha"]), node),
            helper.make_node("Mul", [x, f"{y}/alpha"], [f"{y}/ax"]),
            helper.make_node("Sigmoid", [f"{y}/ax"], [f"{y}/gate"]),
            helper.make_node("Mul", [x, f"{y}/gate"], [y]),
        ]
    return _gelu(node, x, y) if node.op == "Gelu" else [made]


def _gelu(node: Node, x: str, y: str) -> list[NodeProto]:
    """0.5 x (1 + erf(x / √2)), or with tanh(√(2/π) (x + 0.044715 x³)) for the error function."""
    a, b, c, d, e, f = (f"{y}/{i}" for i in range(6))
    numbers = {
        "half": 0.5,
        "one": 1.0,
        "root": math.sqrt(0.5),
        "three": 3.0,
        "k": 0.044715,
        "slope": math.sqrt(2 / math.pi),
    }
    nodes = [_constant(f"{y}/{key}", value, node) for key, value in numbers.items()]
    if node.attrs.get("approximate", "none") == "none":
        nodes += [helper.make_node("Mul", [x, f"{y}/root"], [d]), helper.make_node("Erf", [d], [e])]
    else:
        nodes += [
            helper.make_node("Pow", [x, f"{y}/three"], [a]),
            helper.make_node("Mul", [a, f"{y}/k"], [b]),
            helper.make_node("Add", [x, b], [c]),
            helper.make_node("Mul", [c, f"{y}/slope"], [d]),
            helper.make_node("Tanh", [d], [e]),
        ]
    return [
        *nodes,
        helper.make_node("Add", [e, f"{y}/one"], [f]),
        helper.make_node("Mul", [f, x], [f"{y}/whole"]),
        helper.make_node("Mul", [f"{y}/whole", f"{y}/half"], [y]),
    ]


def _constant(name: str, value: float, node: Node) -> NodeProto:
    array = np.asarray(value, np.dtype(node.outputs[0].dtype))
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(array))


def _ordered(nodes: Sequence[NodeProto], given: set[str]) -> list[NodeProto]:
    """Topological order; nodes that cannot be reached are a mistake of the view."""
    known, waiting, done = set(given) | {""}, list(nodes), list[NodeProto]()
    while waiting:
        ready = [node for node in waiting if known.issuperset(node.input)]
        assert ready, f"not in order: {[node.name for node in waiting]}"
        known.update(name for node in ready for name in node.output)
        done += ready
        waiting = [node for node in waiting if not any(node is other for other in ready)]
    return done


def agrees(model: onnx.ModelProto, feeds: Mapping[str, np.ndarray], keep: Collection[str] = ()) -> Seen:
    """The view of a model, after a check that it computes the same outputs, and that neither the forward nodes
    nor the weights have changed. Largest difference accepted: 1e-5 of the largest element in float32 (merged weights
    round once more; measured: up to 1e-6), 1e-12 in float64."""
    graph = prepare(model)
    before = graph.draft.model.SerializeToString(deterministic=True)
    weights = {name: id(tensor) for name, tensor in graph.draft.weights.items()}
    g = Emit(graph)
    seen = Seen(graph, canonise(graph, g, keep), g)
    assert graph.draft.model.SerializeToString(deterministic=True) == before
    assert {name: id(tensor) for name, tensor in graph.draft.weights.items()} == weights
    want, got = run(model, feeds), run(as_model(seen), feeds)
    for name, value in want.items():
        assert got[name].shape == value.shape and got[name].dtype == value.dtype
        error = float(np.max(np.abs(got[name] - value), initial=0.0))
        size = float(np.max(np.abs(value), initial=0.0))
        assert error <= (1e-12 if value.dtype == np.float64 else 1e-5) * size, (
            f"{name}: off by {error} of {size}"
        )
    made = {y.name for node in seen.view.nodes for y in node.outputs}
    assert {name for name in keep if name in graph.values} <= made | {x.name for x in graph.inputs}
    return seen


def model_of(
    nodes: Sequence[NodeProto],
    x: Sequence[int | str],
    weights: Mapping[str, np.ndarray],
    outputs: Sequence[str] = ("y",),
    element: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    """A net from x to the outputs, whose shapes are left to shape inference."""
    graph = helper.make_graph(
        [*nodes],
        "net",
        [helper.make_tensor_value_info("x", element, x)],
        [helper.make_tensor_value_info(name, element, None) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    inferred = onnx.shape_inference.infer_shapes(model)
    del model.graph.output[:]
    model.graph.output.extend(inferred.graph.output)
    return model
