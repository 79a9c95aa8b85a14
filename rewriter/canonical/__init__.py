"""The canonical form: a view of the model in which affine layers, activations and normalisations are one node each.

The forward graph stays as it is. A view names other nodes for the rules to see, between the same tensors; weights
that differ from the model's are computed from them in the emitted graph.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import TypeAlias

from ..emit import Emit
from ..graph import Graph, Node
from .affine import absorb_after, absorb_before
from .norms import recognise_layer_norm
from .padding import absorb_pad
from .pair import pair_layers
from .recognise import recognise_gate, recognise_relu
from .view import View

Rewrite: TypeAlias = Callable[[View, Node, Emit], Node | None]

SPELLED_OUT: tuple[Rewrite, ...] = (recognise_layer_norm, recognise_gate, recognise_relu)
MERGES: tuple[Rewrite, ...] = (absorb_pad, absorb_after, absorb_before)


def canonise(graph: Graph, g: Emit, keep: Collection[str] = ()) -> Graph:
    """The graph with the canonical nodes, in topological order; it computes the same function.

    Scalings of channels (BatchNormalization, arithmetic with constants) go into the weights and bias of the
    convolution or product before or behind them, zero padding into the convolution that reads it. A MatMul may
    get a third input: the bias added to it, (N,). A merged node keeps the name of its affine node.

    Activations spelled out (Relu, Swish, HardSwish, Mish, Gelu) and layer normalisations are nodes of their own
    name, whatever the opset; they are named after the last node of what they replace.

    keep: names of tensors that stay the output of a node; nothing is merged across them, nor across a tensor that
    several nodes or a subgraph read. Idempotent up to the names of emitted values.
    """
    view = View(graph, keep)
    _rewrite(view, g, SPELLED_OUT)  # first: the factor ½ of a Gelu is no scaling of the layer behind it
    _rewrite(view, g, MERGES)
    return replace(graph, nodes=view.nodes)


def _rewrite(view: View, g: Emit, rewrites: Sequence[Rewrite]) -> None:
    """Until nothing changes: a pad that goes may uncover a scaling, and the other way round. Each step takes nodes
    away, or one of the operators to find, so it ends."""
    changed = True
    while changed:
        changed = False
        for rewrite in rewrites:
            for node in view.nodes:
                if view.holds(node) and rewrite(view, node, g) is not None:
                    changed = True


__all__ = ["canonise", "pair_layers"]
