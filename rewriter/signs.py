"""Tensors that are never negative, whatever the input. The operators tell; nothing is run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

from .graph import Graph, Node, Value

Known = Callable[[Value], bool]
Proof = Callable[[Graph, Node, Known], bool]
"""Whether the outputs of a node are provably >= 0, given what is known of its inputs."""


def nonnegative(graph: Graph) -> frozenset[str]:
    """Names of the tensors that nodes make and that are >= 0 for every finite input.

    Not a word on others: they may be nonnegative all the same. One pass over the nodes, in their order.
    """
    found: set[str] = set()

    def known(value: Value) -> bool:
        if value.name in found:
            return True
        array = graph.constant(value)
        return array is not None and array.dtype.kind in "fiu" and bool((array >= 0).all())

    for node in graph.nodes:
        proof = PROOFS.get(node.op) if not node.domain else None
        if proof is not None and proof(graph, node, known):
            found.update(y.name for y in node.outputs if y.name)
    return frozenset(found)


def _always(graph: Graph, node: Node, known: Known) -> bool:
    return True


def _first(graph: Graph, node: Node, known: Known) -> bool:
    return known(node.inputs[0])


def _all(graph: Graph, node: Node, known: Known) -> bool:
    return all(known(x) for x in node.inputs if x.name)


def _any(graph: Graph, node: Node, known: Known) -> bool:
    return any(known(x) for x in node.inputs if x.name)


def _product(graph: Graph, node: Node, known: Known) -> bool:
    """Of nonnegative factors, or a square."""
    return _all(graph, node, known) or node.inputs[0].name == node.inputs[1].name


def _power(graph: Graph, node: Node, known: Known) -> bool:
    exponent = graph.constant(node.inputs[1])
    even = exponent is not None and bool((np.mod(exponent, 2) == 0).all())
    return even or known(node.inputs[0])


def _clip(graph: Graph, node: Node, known: Known) -> bool:
    """min(max(x, low), high), with low or x nonnegative, and high too."""
    low, high = (node.inputs[i] if i < len(node.inputs) and node.inputs[i].name else None for i in (1, 2))
    enough = known(node.inputs[0]) or (low is not None and known(low))
    return enough and (high is None or known(high))


def _where(graph: Graph, node: Node, known: Known) -> bool:
    return known(node.inputs[1]) and known(node.inputs[2])


def _pad(graph: Graph, node: Node, known: Known) -> bool:
    filled = len(node.inputs) > 2 and bool(node.inputs[2].name)
    constant = node.attrs.get("mode", "constant") == "constant"
    return known(node.inputs[0]) and (not filled or not constant or known(node.inputs[2]))


def _resize(graph: Graph, node: Node, known: Known) -> bool:
    """Cubic kernels have negative lobes, and so have bounds outside the image."""
    plain = node.attrs.get("coordinate_transformation_mode") != "tf_crop_and_resize"
    return node.attrs.get("mode", "nearest") in ("nearest", "linear") and plain and known(node.inputs[0])


def _threshold(graph: Graph, node: Node, known: Known) -> bool:
    return float(node.attrs.get("alpha", 1.0)) >= 0


def _response(graph: Graph, node: Node, known: Known) -> bool:
    """x / D^β keeps the sign of x where D > 0."""
    positive = float(node.attrs.get("bias", 1.0)) > 0 and float(node.attrs.get("alpha", 1e-4)) >= 0
    return positive and known(node.inputs[0])


def _slope(graph: Graph, node: Node, known: Known) -> bool:
    """Activations that keep the sign of a nonnegative x."""
    return known(node.inputs[0])


ALWAYS = (
    "Relu Sigmoid HardSigmoid Softmax Softplus Abs Exp Sqrt ReduceL1 ReduceL2 ReduceSumSquare LpPool "
    "GlobalLpPool Not Equal Greater GreaterOrEqual Less LessOrEqual And Or"
)
KEEPS = (
    "Identity Dropout Cast Reshape Flatten Squeeze Unsqueeze Transpose Expand Tile Slice Split Gather "
    "GatherElements GatherND DepthToSpace SpaceToDepth MaxPool AveragePool GlobalAveragePool GlobalMaxPool "
    "ReduceSum ReduceMean ReduceMax ReduceMin ReduceProd TopK CumSum Trilu Floor Ceil Round"
)
SIGNED = "LeakyRelu PRelu Elu Celu Selu Tanh Softsign HardSwish Mish Swish Gelu Erf"

PROOFS: Mapping[str, Proof] = MappingProxyType(
    {op: _always for op in ALWAYS.split()}
    | {op: _first for op in KEEPS.split()}
    | {op: _slope for op in SIGNED.split()}
    | {op: _all for op in ("Add", "Sum", "Mean", "Div", "Min", "Concat")}
    | {
        "Max": _any,
        "Mul": _product,
        "Pow": _power,
        "Clip": _clip,
        "Where": _where,
        "Pad": _pad,
        "Resize": _resize,
        "ThresholdedRelu": _threshold,
        "LRN": _response,
    }
)
