"""Arithmetic around one nonlinear function, read as P(x) + Q(x) G(A(x)) with polynomials P, Q and A.

However an exporter orders and groups the products, x · sigmoid(x) has P = 0, Q = x; the Gaussian error unit has
P = Q = x/2 with G = erf. Operators are then told apart by their coefficients.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from ..graph import Node, Value
from .view import View

Polynomial: TypeAlias = Mapping[int, float]
"""Power of x -> coefficient; no zeros."""

DEEP, HIGH = 12, 4
"""Nodes between x and the result, and powers of x, at most: the longest function here has eight nodes and x³."""


@dataclass(frozen=True)
class Form:
    """P(x) + Q(x) G, for a G known by its place."""

    p: Polynomial
    q: Polynomial = field(default_factory=dict)


@dataclass
class Reader:
    """Reads tensors as forms in x and in the output of the gate; collects the nodes it has come through."""

    view: View
    x: Value
    gate: Value | None
    nodes: dict[int, Node]
    known: dict[str, Form | None] = field(default_factory=dict)

    def read(self, value: Value, deep: int = DEEP) -> Form | None:
        if value.name == self.x.name:
            return Form({1: 1.0})
        if self.gate is not None and value.name == self.gate.name:
            return Form({}, {0: 1.0})
        constant = scalar(self.view, value, self.x)
        if constant is not None:
            return Form(_clean({0: constant}))
        node = self.view.maker(value)
        if node is None or node.domain or deep == 0:
            return None
        if value.name not in self.known:
            self.known[value.name] = self._node(node, deep - 1)
        found = self.known[value.name]
        if found is not None:
            self.nodes[id(node)] = node
        return found

    def _node(self, node: Node, deep: int) -> Form | None:
        if node.op not in ("Add", "Sub", "Mul", "Div", "Pow", "Neg"):
            return None
        forms = [self.read(x, deep) for x in node.inputs]
        a, b = [*forms, None][:2]
        if a is None:
            return None
        if node.op == "Neg":
            return _times(a, Form({0: -1.0}))
        if b is None:
            return None
        if node.op in ("Add", "Sub"):
            sign = 1.0 if node.op == "Add" else -1.0
            return Form(_sum(a.p, b.p, sign), _sum(a.q, b.q, sign))
        if node.op == "Mul":
            return _times(a, b)
        c = _number(b)
        if c is None:
            return None
        if node.op == "Div":
            return _times(a, Form({0: 1 / c})) if c else None
        if c not in (2.0, 3.0):
            return None
        square = _times(a, a)
        return square if c == 2.0 or square is None else _times(square, a)


def scalar(view: View, value: Value, like: Value) -> float | None:
    """A parameter of one element that leaves the shape of `like` as it is."""
    if not view.parameter(value):
        return None
    known = view.constant(value)
    if known is None or known.size != 1 or known.dtype.kind not in "fi":
        return None
    if known.ndim > 0 and (like.shape is None or known.ndim > len(like.shape)):
        return None
    return float(known.reshape(()))


def _number(form: Form) -> float | None:
    if form.q or set(form.p) - {0}:
        return None
    return form.p.get(0, 0.0)


def _clean(p: Polynomial) -> Polynomial:
    return {power: c for power, c in p.items() if c}


def _sum(a: Polynomial, b: Polynomial, sign: float = 1.0) -> Polynomial:
    return _clean({k: a.get(k, 0.0) + sign * b.get(k, 0.0) for k in {*a, *b}})


def _product(a: Polynomial, b: Polynomial) -> Polynomial:
    total: dict[int, float] = {}
    for i, c in a.items():
        for j, d in b.items():
            total[i + j] = total.get(i + j, 0.0) + c * d
    return _clean(total)


def _times(a: Form, b: Form) -> Form | None:
    """None for a square of the gate, and for high powers."""
    if (a.q and b.q) or max((*a.p, *a.q), default=0) + max((*b.p, *b.q), default=0) > HIGH:
        return None
    return Form(_product(a.p, b.p), _sum(_product(a.p, b.q), _product(a.q, b.p)))


def close(found: Polynomial, wanted: Polynomial, like: Value) -> bool:
    """Equal as far as constants in the type of `like` can say it."""
    tolerance = 16 * float(np.finfo(np.dtype(like.dtype)).eps)
    return found.keys() == wanted.keys() and all(
        abs(found[k] - wanted[k]) <= tolerance * abs(wanted[k]) for k in wanted
    )


def origins(view: View, value: Value) -> Iterator[Value]:
    """Tensors that this one may be arithmetic of, the nearest first."""
    seen, waiting = set[str](), [value]
    while waiting and len(seen) < DEEP:
        current = waiting.pop(0)
        if current.name in seen or not current.name or view.parameter(current):
            continue
        seen.add(current.name)
        yield current
        node = view.maker(current)
        if (
            node is not None
            and not node.domain
            and node.op in ("Add", "Sub", "Mul", "Div", "Pow", "Neg", "Softplus")
        ):
            waiting += node.inputs


def followers(view: View, value: Value) -> Iterator[Node]:
    """Arithmetic behind a tensor, as long as each result has a single reader."""
    for _ in range(DEEP):
        readers = view.readers(value)
        if len(readers) != 1 or readers[0].domain or readers[0].op not in ("Add", "Sub", "Mul", "Div", "Neg"):
            return
        yield readers[0]
        value = readers[0].outputs[0]
