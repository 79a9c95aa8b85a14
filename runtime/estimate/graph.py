"""The statistics graph: the forward pass of one picture, and for every weighted node the sums over its samples."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper

from ...rewriter.canonical import canonise
from ...rewriter.compile import explained_inputs
from ...rewriter.emit import Emit
from ...rewriter.errors import ModelError, OptionError
from ...rewriter.graph import Graph, Node, Value, assemble, prepare, with_weights
from ...rewriter.load import Source, load
from ...rewriter.passes.share import live
from ...rewriter.site import Refuse, Site
from ...rewriter.split import behind
from ...rewriter.tape import WEIGHTED, touched
from ...rewriter.target import find_head, find_output
from .layout import Layout, layout_of, samples_of


@dataclass(frozen=True)
class Survey:
    """What is run on the pictures.

    source: the model. input, dtype: its picture. nodes: the weighted nodes, by name. skipped: weighted nodes that
    have no patterns, and why. model: picture (1, ...) -> for node i the outputs `sums(i)` (group, 3 O + 1, D + 1) and
    `squares(i)` (group, O), float64. weights: a model without inputs that gives the nodes' weights, with Gemm's alpha
    in them.
    """

    source: Source
    input: str
    dtype: np.dtype
    nodes: dict[str, Layout]
    skipped: dict[str, str]
    model: onnx.ModelProto
    weights: onnx.ModelProto
    scope: str

    def sums(self, i: int) -> str:
        return f"{self.scope}/sums/{i}"

    def squares(self, i: int) -> str:
        return f"{self.scope}/squares/{i}"


def survey(
    model: str | os.PathLike[str] | bytes | onnx.ModelProto | Source,
    *,
    output: str | None = None,
    head: str = "logits",
    external_data: bool = False,
    samples: bool = False,
) -> Survey:
    """Build the statistics graph of a model: nodes of the canonical form, as `compile` sees them for this output and
    head. samples: outputs are the samples themselves, U (group, D + 1, P) and y (group, O, P), for `quality`.

    Raises ModelError where there is nothing to fit, OptionError for a model of several inputs.
    """
    source = load(model, external_data=external_data)
    graph = prepare(source.model)
    g = Emit(graph, "fit")
    if len(graph.inputs) != 1:
        names = ", ".join(x.name for x in graph.inputs)
        raise OptionError(
            f"the model has {len(graph.inputs)} inputs ({names}); patterns are fitted on one picture"
        )
    (x,) = explained_inputs(graph, None)
    if x.shape is None or not x.shape or (isinstance(x.shape[0], int) and x.shape[0] != 1):
        raise ModelError(
            f"input {x.name!r} of shape {x.shape} cannot take one picture at a time; free its batch axis"
        )
    goal, _ = find_head(graph, find_output(graph, output), head)
    view = canonise(graph, g, (goal.name,))
    nodes, layouts, skipped = _nodes(view, x, goal)
    if not nodes:
        raise ModelError("the model has no convolution or product with weights to fit patterns for")
    results, weights = _results(g, nodes, layouts, samples)
    return Survey(
        source,
        x.name,
        np.dtype(x.dtype),
        layouts,
        skipped,
        _model(graph, g, results),
        _model(graph, g, weights),
        g.scope,
    )


def _results(
    g: Emit, nodes: Sequence[Node], layouts: Mapping[str, Layout], samples: bool
) -> tuple[list[Value], list[Value]]:
    """The outputs of the two models."""
    results, weights = [], []
    for i, (node, layout) in enumerate(zip(nodes, layouts.values(), strict=True)):
        with g.at(node.name):
            first, second = (samples_of if samples else _sums)(g, node, layout)
            weight = g.Cast(node.inputs[1], to=TensorProto.DOUBLE)
            if node.op == "Gemm":
                weight = g.Mul(weight, float(node.attrs.get("alpha", 1.0)))
        results.append(_named(g, f"{g.scope}/sums/{i}", first, 3))
        results.append(_named(g, f"{g.scope}/squares/{i}", second, 3 if samples else 2))
        weights.append(_named(g, f"{g.scope}/weight/{i}", weight, len(layout.shape)))
    return results, weights


def _nodes(view: Graph, x: Value, goal: Value) -> tuple[list[Node], dict[str, Layout], dict[str, str]]:
    found: list[Node] = []
    layouts: dict[str, Layout] = {}
    skipped: dict[str, str] = {}
    live = {x.name}
    for node in touched(view, [x], goal):
        reads, name = [value.name in live for value in node.inputs], str(node.name)
        live.update(y.name for y in node.outputs)
        if node.op not in WEIGHTED or node.domain or True not in reads[:2] or all(reads[:2]):
            continue
        try:
            layouts[name] = layout_of(Site(node, view, active=tuple(reads)))
            found.append(node)
        except Refuse as reason:
            skipped[name] = str(reason)
    return found, layouts, skipped


def _sums(g: Emit, node: Node, layout: Layout) -> tuple[Value, Value]:
    """One product carries all sums: rows y, y⁺, [y > 0] and 1, columns x and 1. (docs/methods/patterns.md)"""
    u, y = samples_of(g, node, layout)
    above = g.Cast(g.Greater(y, g.number(0.0, y)), to=TensorProto.DOUBLE)
    ones = g.Slice(u, g.ints(layout.inputs), g.ints(layout.inputs + 1), g.ints(1))
    rows = g.Concat(y, g.Mul(y, above), above, ones, axis=1)
    return g.MatMul(rows, g.Transpose(u, perm=[0, 2, 1])), g.ReduceSumSquare(y, g.ints(2), keepdims=0)


def _named(g: Emit, name: str, value: Value, rank: int) -> Value:
    final: Value = g.Identity(value)
    final.name, final.shape = name, [None] * rank
    return final


def _model(graph: Graph, g: Emit, results: Sequence[Value]) -> onnx.ModelProto:
    """Forward nodes and emitted ones, as far as the results need them."""
    infos = [helper.make_tensor_value_info(value.name, TensorProto.DOUBLE, value.shape) for value in results]
    made = assemble(graph, live(g.nodes, results), infos)
    del made.graph.output[: len(graph.outputs)]
    needed = _keep_needed(made.graph, [value.name for value in results])
    made = with_weights(made, graph)
    weights = [tensor for tensor in made.graph.initializer if tensor.name in needed]
    inputs = [value for value in made.graph.input if value.name in needed]
    del made.graph.initializer[:], made.graph.input[:]
    made.graph.initializer.extend(weights)
    made.graph.input.extend(inputs)
    return made


def _keep_needed(graph: onnx.GraphProto, names: Iterable[str]) -> set[str]:
    """Drop the nodes that none of the tensors depends on; returns every tensor that is needed."""
    kept, needed = behind(graph.node, names)
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in kept]
    del graph.node[:]
    graph.node.extend(nodes)
    return needed
