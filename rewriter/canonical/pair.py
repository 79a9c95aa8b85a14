"""An affine node and the activation behind it, as one node for rules that treat them together."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from ..emit import PRIVATE
from ..graph import Graph
from .view import View, operator_name

LAYER = "Layer"


def pair_layers(
    graph: Graph, ops: Collection[str], acts: Collection[str], keep: Collection[str] = ()
) -> Graph:
    """A view in which a node of `ops`, and the node of `acts` that alone reads its output, are one.

    The node made is onnxplain:Layer. It has the name and the inputs of the affine node, the output of the
    activation, and the two nodes as attributes "affine" and "activation". ops, acts: operator names as in rule sets.
    keep: names of tensors that stay the output of a node. Other inputs of the activation (slope, bounds) must be
    parameters. The forward graph is not touched.
    """
    view = View(graph, keep)
    for node in graph.nodes:
        if operator_name(node) not in ops or len(node.outputs) != 1:
            continue
        act = view.only_reader(node.outputs[0])
        if act is None or operator_name(act) not in acts or len(act.outputs) != 1:
            continue
        if act.inputs[0].name != node.outputs[0].name or any(x.name in view.varying for x in act.inputs[1:]):
            continue
        attrs = {"affine": node, "activation": act}
        view.replace([node, act], LAYER, node.name, attrs, list(node.inputs), act.outputs[0], PRIVATE)
    return replace(graph, nodes=view.nodes)
