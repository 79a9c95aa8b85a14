"""From the head of a model to the probability of a class, and the cotangents that go the other way."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..rewriter.emit import Emit
from ..rewriter.errors import OptionError
from ..rewriter.graph import Graph, Value
from ..rewriter.rows import Along
from ..rewriter.target import PASSING, SQUASHING, find_head

SOFTMAX, SIGMOID, PROBABILITY, LOGARITHM = "softmax", "sigmoid", "probability", "logarithm"
VALUE = "value"


@dataclass(frozen=True)
class Ending:
    """How the values z of a head become probabilities. kind: "softmax" along `axis`, "sigmoid" of each, "probability":
    they are some already, "logarithm": exp, "value": a single number that stands for itself. The classes of a softmax
    lie along `axis`."""

    kind: str
    axis: int = -1


def ending(graph: Graph, head: Value) -> Ending:
    """What the model does behind the head, or has done before it; the softmax of a head that is an output by itself. Of
    a single number (a regression, a binary logit) that is the number itself.

    Raises OptionError where such an output is no row of classes: nothing tells where they lie.
    """
    for output in graph.outputs:
        found, squash = find_head(graph, output, "logits")
        if squash is not None and found is head:
            node = next(node for node in found.outputs if node.op == squash)
            return _behind(squash, int(node.attrs.get("axis", -1)) % len(head.shape))
    value = head
    while value.inputs and value.inputs[0].op in PASSING and not value.inputs[0].domain:
        value = value.inputs[0].inputs[0]
    if value.inputs and value.inputs[0].op in SQUASHING and not value.inputs[0].domain:
        return Ending(LOGARITHM if value.inputs[0].op == "LogSoftmax" else PROBABILITY)
    if graph.rows.elements(head.name, head.shape) == 1:
        return Ending(VALUE)
    own = [axis for axis in range(len(head.shape)) if axis != graph.rows.axis(head.name)]
    if len(own) != 1 or graph.rows.place(head.name) not in (None, Along(0)):
        raise OptionError(
            f"{head.name!r} has shape {head.shape} and no Softmax or Sigmoid behind it: a probability needs logits "
            "(N, classes); name another output= or head="
        )
    return Ending(SOFTMAX, own[0])


def _behind(squash: str, axis: int) -> Ending:
    return Ending(SIGMOID) if squash == "Sigmoid" else Ending(SOFTMAX, axis)


def of_probability(g: Emit, end: Ending, z: Value, v: Value) -> Value:
    """The cotangent of z from v, that of the probabilities p: p (v - Σ p v) behind a softmax, v σ(z) σ(-z) behind a
    sigmoid. For v = e_c these are p_c (e_c - p) and e_c p_c (1 - p_c), the gradient of p_c.

    Where p_c is all but 1, p_c - p_c² is lost to rounding: v is taken relative to its value at the top class, so that
    the small probabilities add up by themselves.
    """
    if end.kind in (PROBABILITY, VALUE):
        return v
    if end.kind == LOGARITHM:
        return g.Mul(v, g.Exp(z))
    if end.kind == SIGMOID:
        return g.Mul(v, g.Mul(g.Sigmoid(z), g.Sigmoid(g.Neg(z))))
    axis = g.ints(end.axis)
    p = g.Softmax(z, axis=end.axis)
    top = g.cast(g.GreaterOrEqual(z, g.ReduceMax(z, axis, keepdims=1)), z)
    at_top = g.Div(
        g.ReduceSum(g.Mul(top, v), axis, keepdims=1),
        g.ReduceSum(top, axis, keepdims=1),
    )
    above = g.Sub(v, at_top)
    return g.Mul(p, g.Sub(above, g.ReduceSum(g.Mul(p, above), axis, keepdims=1)))


def of_cross_entropy(g: Emit, end: Ending, z: Value, hot: Value) -> tuple[Value, Value]:
    """(seed, factor): factor · seed is the gradient of CE(z, c) = -log p_c by z, softmax(z) - e_c; behind sigmoids of
    Σ_k BCE(z_k, [k = c]), σ(z) - e_c. factor (N, 1) > 0 keeps its size apart: as p_c goes to 1 the gradient vanishes,
    its direction q - e_c, with q the softmax over the other classes, does not.

    Raises OptionError for a head behind its Softmax or Sigmoid.
    """
    if end.kind in (PROBABILITY, LOGARITHM, VALUE):
        raise OptionError("the cross-entropy is taken of logits; leave head= out, or give head='logits'")
    rest = g.Sub(1.0, hot)
    if end.kind == SIGMOID:
        seed = g.Sub(g.Mul(rest, g.Sigmoid(z)), g.Mul(hot, g.Sigmoid(g.Neg(z))))
        return seed, g.number(1.0, z)
    axis = g.ints(end.axis)
    least = float(np.finfo(np.dtype(z.dtype)).min)
    others = g.Softmax(g.Where(g.Greater(hot, 0.5), g.number(least, z), z), axis=end.axis)
    here = g.ReduceSum(hot, axis, keepdims=1)  # of a head with cells: 1 where the class is, 0 in other cells
    seed = g.Sub(g.Mul(others, here), hot)
    missing = g.Mul(g.Softmax(z, axis=end.axis), g.Mul(rest, here))
    return seed, g.ReduceSum(g.Reshape(missing, g.ints(0, -1)), g.ints(1), keepdims=1)


def classes_of(graph: Graph, head: Value) -> int | None:
    """Elements of one sample of the head; None where a size is dynamic."""
    return graph.rows.elements(head.name, head.shape)


__all__ = [
    "PROBABILITY",
    "SIGMOID",
    "VALUE",
    "Ending",
    "classes_of",
    "ending",
    "of_cross_entropy",
    "of_probability",
]
