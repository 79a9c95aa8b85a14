"""Elementwise factors of a cotangent, gathered until an operator needs their product.

A rule that shares out relevance multiplies by 1/z above a layer and by x below it. On their way down x and the next
1/z meet: their product needs no cotangent, and where x = max(z, 0) it is a function of x alone, so that the forward
Conv and Relu stay fused and z is not kept. x p + x q is x (p + q): sums stay sums of what convolutions give.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ..emit import PRIVATE, Emit, tail_of
from ..graph import Node, Value
from .share import reconnect

FILLING = frozenset(
    {"DataGradient", "WinnerPut", "Spread", "Conv", "ConvTranspose", "Gemm", "MatMul", "Reshape"}
)
"""Operators whose result has its full shape: nothing is left for a factor to broadcast."""


@dataclass(frozen=True)
class Lazy:
    """A cotangent: the product of recorded factors and a base."""

    factors: tuple[Value, ...]
    base: Value


def factor(g: Emit, outputs: Sequence[Value]) -> tuple[list[Node], list[Value]]:
    """Rewrite g's nodes; returns the new nodes and outputs. Without seeds in `g.seeds` nothing is done."""
    if not g.seeds:
        return g.nodes, list(outputs)
    work = _Work(g, outputs)
    nodes, g.nodes = g.nodes, []
    for node in nodes:
        reconnect(node, work.replaced)
        with g.at("/".join(node.name.split("/")[1:-1])):
            work.take(node)
    return g.nodes, [work.replaced.get(id(y), y) for y in outputs]


@dataclass
class _Work:
    g: Emit
    outputs: Sequence[Value]
    lazy: dict[int, Lazy] = field(default_factory=dict)
    replaced: dict[int, Value] = field(default_factory=dict)
    products: dict[tuple[int, ...], Value] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.lazy = {id(seed): Lazy((), seed) for seed in self.g.seeds}
        self.uses = Counter(id(x) for node in self.g.nodes for x in node.inputs)
        self.uses.update(id(y) for y in self.outputs)

    def take(self, node: Node) -> None:
        live = [x for x in node.inputs if id(x) in self.lazy]
        found = self._gathered(node, live) if live and len(node.outputs) == 1 else None
        if found is None:
            for i, x in enumerate(list(node.inputs)):
                if id(x) in self.lazy:
                    node.inputs[i] = self.made(self.lazy[id(x)])
            self.g.nodes.append(node)
            if live:
                self.lazy |= {id(y): Lazy((), y) for y in node.outputs}
            return
        y = node.outputs[0]
        if self.uses[id(y)] > 1:
            found = Lazy((), self.made(found))
        self.lazy[id(y)] = found

    def _gathered(self, node: Node, live: Sequence[Value]) -> Lazy | None:
        """The node's result with its factors kept apart, or None."""
        held = [self.lazy[id(x)] for x in live]
        if node.domain == PRIVATE:
            return self._won(node, held[0]) if node.op == "WinnerPut" and live[0] is node.inputs[0] else None
        if node.op == "Mul" and len(live) == 1:
            other = node.inputs[1] if node.inputs[0] is live[0] else node.inputs[0]
            return Lazy((*held[0].factors, other), held[0].base)
        if node.op in ("Add", "Sub") and len(live) == 2:
            return self._summed(node.op, *held)
        if node.op == "Reshape" and live[0] is node.inputs[0]:
            return self._reshaped(node, held[0])
        return None

    def _summed(self, op: str, a: Lazy, b: Lazy) -> Lazy | None:
        common = _common(a.factors, b.factors)
        if not common:
            return None
        parts = [self.made(Lazy(_without(part.factors, common), part.base)) for part in (a, b)]
        return Lazy(common, self.g.op(op, *parts))

    def _won(self, node: Node, held: Lazy) -> Lazy | None:
        """The winner of a window is the value of its output: y put back is x there."""
        _, x, y = node.inputs
        return self._carried(node, held, y, x)

    def _reshaped(self, node: Node, held: Lazy) -> Lazy | None:
        """A factor that the forward pass made by reshaping x is x, where the cotangent gets the shape of x."""
        shape = getattr(node.inputs[1], "values", None)
        for value in held.factors:
            if value.inputs and value.inputs[0].op in ("Reshape", "Flatten") and shape is not None:
                x = value.inputs[0].inputs[0]
                if tail_of(x) == tuple(int(size) for size in np.ravel(shape)[1:]):
                    return self._carried(node, held, value, x)
        return None

    def _carried(self, node: Node, held: Lazy, before: Value, after: Value) -> Lazy | None:
        """The node applied without the factor `before`, which is the factor `after` of the result."""
        if not any(value is before for value in held.factors) or not _full(held.base):
            return None
        rest = _without(held.factors, (before,))
        domain = node.domain or ""
        base = self.g.op(
            node.op, self.made(Lazy(rest, held.base)), *node.inputs[1:], domain=domain, **node.attrs
        )
        return Lazy((after,), base)

    def made(self, held: Lazy) -> Value:
        """The cotangent as one value."""
        if not held.factors:
            return held.base
        key = tuple(sorted(id(value) for value in held.factors))
        if key not in self.products:
            self.products[key] = _product(self.g, held.factors)
        return self.g.Mul(held.base, self.products[key])


def _full(base: Value) -> bool:
    if not base.inputs:
        return False
    node = base.inputs[0]
    return node.op in FILLING or (node.op in ("Add", "Sub") and any(_full(x) for x in node.inputs))


def _common(a: Sequence[Value], b: Sequence[Value]) -> tuple[Value, ...]:
    left, found = list(b), []
    for value in a:
        at = next((i for i, other in enumerate(left) if other is value), None)
        if at is not None:
            found.append(left.pop(at))
    return tuple(found)


def _without(factors: Sequence[Value], drop: Sequence[Value]) -> tuple[Value, ...]:
    left = list(factors)
    for value in drop:
        left.pop(next(i for i, other in enumerate(left) if other is value))
    return tuple(left)


def _product(g: Emit, factors: Sequence[Value]) -> Value:
    """The product, each inverse joined with the activation that cancels it."""
    left, parts = list(factors), []
    for inverse in [value for value in factors if _inverse(value)]:
        node = inverse.inputs[0]
        z = node.inputs[0]
        mate = next((i for i, value in enumerate(left) if value is z or _rectified(value, z)), None)
        if mate is None:
            mate = next((i for i, value in enumerate(left) if value.shape == z.shape is not None), None)
        if mate is None or left[mate] is inverse:
            continue
        parts.append(_quotient(g, left[mate], z, node))
        left = [*_without([value for i, value in enumerate(left) if i != mate], (inverse,))]
    product, *more = [*parts, *left]
    for value in more:
        product = g.Mul(product, value)
    return product


def _quotient(g: Emit, v: Value, z: Value, node: Node) -> Value:
    if not node.attrs["epsilon"] and _rectified(v, z):
        return g.primitive("StepMask", v, 0.0, None)
    return g.primitive("Quotient", v, z, **node.attrs)


def _inverse(value: Value) -> bool:
    return bool(value.inputs) and value.inputs[0].op == "Inverse" and value.inputs[0].domain == PRIVATE


def _rectified(value: Value, z: Value) -> bool:
    return bool(value.inputs) and value.inputs[0].op == "Relu" and value.inputs[0].inputs[0] is z
