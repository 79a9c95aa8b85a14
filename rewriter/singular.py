"""Where numbers may leave the finite range although the model's output does not.

0 * inf is NaN. An untaken branch of a Where, a masked row of attention, a sum of squares at 0 may hold infinities, or
have an infinite derivative, that the model never looks at: the cotangent there is exactly 0. At the nodes found here
(and nowhere else, so that the other nets are emitted as they always were) a factor of 0 wins over whatever the other
one is: see `Emit.times`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from .graph import Graph, Node, Value
from .signs import Known, nonnegative

MASKS = frozenset(
    "Where Max Min Clip Relu LeakyRelu PRelu ThresholdedRelu Shrink HardSigmoid Abs MaxPool GlobalMaxPool ReduceMax "
    "ReduceMin TopK Trilu".split()
)
"""Their factors are finite whatever x is; in a push they are what keeps the untaken side out."""
BOUNDED = frozenset("Clip Where Max Min".split())
"""They select: what comes out is what the model is meant to go on with."""
SHARP = frozenset("Exp Log Sinh Cosh Asin Acos Acosh Atanh ReduceLogSum Mod".split())
"""They overflow, end or have a pole within the range of finite numbers."""
POSITIVE = frozenset(
    "Identity Dropout Cast Reshape Flatten Squeeze Unsqueeze Transpose Expand Tile Slice Split Gather ReduceSum "
    "ReduceMean ReduceMax ReduceMin Sqrt Pow Reciprocal MaxPool GlobalAveragePool".split()
)
"""Positive where their first input is."""


@dataclass(frozen=True)
class Singular:
    """pulls: names of nodes whose factors may be infinite. pushes: of nodes that may have to keep an infinite tangent
    out."""

    pulls: frozenset[str]
    pushes: frozenset[str]


def singular(graph: Graph) -> Singular:
    """One pass over the nodes, in their order; nothing is run."""
    nonzero, pulls, pushes = _nonzero(graph), set[str](), set[str]()
    wild, steep = set[str](), set[str]()  # tensors with values, and tangents, that may not be finite
    live = {x.name for x in graph.inputs}  # sizes alone are no values that could be 0
    for node in graph.nodes:
        reads = {x.name for x in node.inputs if x.name} | graph.hidden.get(node.name, frozenset())
        if reads & live and node.op not in ("Shape", "Size"):
            live |= {y.name for y in node.outputs if y.name}
        fresh = bool(reads & live) and _unbounded(graph, node, nonzero, live)
        infinite = any(_infinite(graph, x) for x in node.inputs) or _fills_infinity(node)
        values = infinite or (bool(reads & wild) and node.op not in BOUNDED)
        if fresh or ((values or reads & wild) and node.op not in MASKS | {"BatchNormalization"}):
            pulls.add(node.name)
        tangents = bool(reads & steep) or node.name in pulls
        if tangents and node.op in MASKS:
            pushes.add(node.name)
        names = {y.name for y in node.outputs if y.name}
        if values or (fresh and node.op not in ("Sqrt", "Asin", "Acos")):
            wild |= names
        if tangents:
            steep |= names
    return Singular(frozenset(pulls), frozenset(pushes))


def _unbounded(graph: Graph, node: Node, nonzero: frozenset[str], live: set[str]) -> bool:
    """Whether finite inputs may give the node an infinite value or derivative."""
    if node.domain:
        return False
    if node.op in ("Div", "Reciprocal", "Sqrt"):
        return not _apart(graph, node.inputs[-1], nonzero, live)
    if node.op == "Pow":
        p = graph.constant(node.inputs[1])
        if p is not None and bool((p >= 1).all() and (np.mod(p, 1) == 0).all()):
            return False
        return not _apart(graph, node.inputs[0], nonzero, live)
    if node.op in ("Log", "ReduceLogSum"):
        return not _apart(graph, node.inputs[0], nonzero, live)
    return node.op in SHARP


def _apart(graph: Graph, x: Value, nonzero: frozenset[str], live: set[str]) -> bool:
    """Whether x is known to keep away from 0: positive, made of sizes, or a parameter without zeros."""
    array = graph.constant(x)
    return x.name in nonzero or (x.name not in live if array is None else bool((array != 0).all()))


def _nonzero(graph: Graph) -> frozenset[str]:
    """Names of the tensors that are > 0, for all finite inputs within the range of e^x."""
    found, above = set[str](), nonnegative(graph)

    def positive(x: Value) -> bool:
        array = graph.constant(x)
        return x.name in found or (array is not None and bool((array > 0).all()))

    def at_least_zero(x: Value) -> bool:
        return x.name in above or positive(x)

    for node in graph.nodes:
        if not node.domain and _is_positive(node, positive, at_least_zero):
            found.update(y.name for y in node.outputs if y.name)
    return frozenset(found)


def _is_positive(node: Node, positive: Known, at_least_zero: Known) -> bool:
    inputs = [x for x in node.inputs if x.name]
    if node.op in ("Exp", "Softplus"):
        return True
    if node.op in ("Add", "Sum"):
        return all(map(at_least_zero, inputs)) and any(map(positive, inputs))
    if node.op == "Max":
        return any(map(positive, inputs))
    if node.op == "Clip":
        return len(node.inputs) > 1 and positive(node.inputs[1])
    if node.op in ("Min", "Mul", "Div", "Concat"):
        return all(map(positive, inputs))
    return node.op in POSITIVE and positive(inputs[0])


READ = frozenset("Add Sub Sum Where Mul Div Max Min Concat Pad".split())
"""Operators whose constants are looked at: masks come in there. Weights are not."""


def _infinite(graph: Graph, x: Value) -> bool:
    if not any(reader.op in READ for reader in x.outputs):
        return False
    array = graph.constant(x)
    return array is not None and array.dtype.kind == "f" and not bool(np.isfinite(array).all())


def _fills_infinity(node: Node) -> bool:
    value = node.attrs.get("value") if node.op == "ConstantOfShape" else None
    array = getattr(value, "values", None)
    if array is None and isinstance(value, onnx.TensorProto):
        array = numpy_helper.to_array(value)
    return array is not None and not bool(np.isfinite(np.asarray(array, float)).all())


__all__ = ["Singular", "singular"]
