"""Activations that a model spells out in several nodes become one node of their own name."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..emit import Emit
from ..graph import Node, Value
from .gates import Form, Polynomial, Reader, close, followers, origins, scalar
from .view import View

GELU_SLOPE, GELU_CUBE = math.sqrt(2 / math.pi), 0.044715
"""gelu(x) ≈ x/2 (1 + tanh(√(2/π) (x + 0.044715 x³))): Hendrycks and Gimpel 2016."""

HALF_X: Polynomial = {1: 0.5}


@dataclass(frozen=True)
class Found:
    """An operator, its attributes."""

    op: str
    attrs: dict[str, Any]


def recognise_relu(view: View, node: Node, g: Emit) -> Node | None:
    """Clip to [0, ∞) and Max(x, 0) are Relu. Returns the new node, or None."""
    if node.domain:
        return None
    x: Value | None = None
    if node.op == "Clip":
        low, high = _bounds(view, node)
        x = node.inputs[0] if low == 0.0 and high == math.inf else None
    elif node.op == "Max" and len(node.inputs) == 2:
        for value, other in (node.inputs, node.inputs[::-1]):
            if not view.parameter(value) and scalar(view, other, value) == 0.0:
                x = value
    return None if x is None else view.replace([node], "Relu", node.name, {}, [x], node.outputs[0])


def _bounds(view: View, node: Node) -> tuple[float | None, float | None]:
    """Lower and upper bound of a Clip; infinite where open, None where not known. The largest number of the type
    is an open bound too."""
    found: list[float | None] = []
    for i, open_end in ((1, -math.inf), (2, math.inf)):
        value = node.inputs[i] if i < len(node.inputs) and node.inputs[i].name else None
        known = view.constant(value)
        if value is None:
            found.append(open_end)
        elif known is None or known.size != 1:
            found.append(None)
        else:
            bound = float(known.reshape(()))
            most = float(np.finfo(known.dtype).max) if known.dtype.kind == "f" else math.inf
            found.append(open_end if abs(bound) >= most and bound * open_end > 0 else bound)
    return found[0], found[1]


def recognise_gate(view: View, node: Node, g: Emit) -> Node | None:
    """From the function in its middle: Swish, HardSwish, Mish, Gelu in both forms. Returns the new node, or None."""
    if node.domain or node.op not in GATES or len(node.outputs) != 1:
        return None
    for x in origins(view, node.inputs[0]):
        if x.dtype is None or np.dtype(x.dtype).kind != "f":
            continue
        inner = Reader(view, x, None, {})
        start, softplus = node.inputs[0], view.maker(node.inputs[0])
        if node.op == "Tanh" and softplus is not None and softplus.op == "Softplus" and not softplus.domain:
            start = softplus.inputs[0]
            inner.nodes[id(softplus)] = softplus
        argument = inner.read(start)
        if argument is None or argument.q:
            continue
        made = _outwards(view, node, x, argument.p, inner)
        if made is not None:
            return made
    return None


def _outwards(view: View, node: Node, x: Value, argument: Polynomial, inner: Reader) -> Node | None:
    """Take in the arithmetic behind the gate, node by node, until it is an operator we know."""
    gate = node.outputs[0]
    for last in followers(view, gate):
        outer = Reader(view, x, gate, {})
        form = outer.read(last.outputs[0])
        if form is None:
            continue
        softplus = any(other.op == "Softplus" for other in inner.nodes.values())
        gate_of = _mish if softplus else GATES[node.op]
        found = gate_of(view, node, form, argument, x)
        nodes = [node, *({**inner.nodes, **outer.nodes}).values()]
        if found is not None and view.closed(nodes, last):
            return view.replace(nodes, found.op, last.name, found.attrs, [x], last.outputs[0])
    return None


Gate = Callable[[View, Node, Form, Polynomial, Value], Found | None]


def _sigmoid(view: View, node: Node, form: Form, argument: Polynomial, x: Value) -> Found | None:
    """x σ(αx); with α = 2√(2/π) and its cube term, the tanh form of Gelu, since (1 + tanh z)/2 = σ(2z)."""
    if form.p or not close(form.q, {1: 1.0}, x):
        return None
    if close(argument, {1: 2 * GELU_SLOPE, 3: 2 * GELU_SLOPE * GELU_CUBE}, x):
        return Found("Gelu", {"approximate": "tanh"})
    return Found("Swish", {"alpha": argument[1]}) if set(argument) == {1} else None


def _hard_sigmoid(view: View, node: Node, form: Form, argument: Polynomial, x: Value) -> Found | None:
    """x clip(αx + β, 0, 1) with α = 1/6 and β = 1/2."""
    slope, offset = float(node.attrs.get("alpha", 0.2)), float(node.attrs.get("beta", 0.5))
    line = {0: argument.get(0, 0.0) * slope + offset, 1: argument.get(1, 0.0) * slope}
    # The attributes are float32, whatever the type of x.
    right = set(argument) <= {0, 1} and all(abs(line[k] - v) < 1e-6 for k, v in ((0, 0.5), (1, 1 / 6)))
    return Found("HardSwish", {}) if right and not form.p and close(form.q, {1: 1.0}, x) else None


def _clip(view: View, node: Node, form: Form, argument: Polynomial, x: Value) -> Found | None:
    """x clip(c (x + 3), 0, 6c) / 6c: c is 1, or 1/6 for a gate between 0 and 1."""
    low, high = _bounds(view, node)
    if low != 0.0 or high is None or not 0 < high < math.inf or form.p:
        return None
    right = close(argument, {0: high / 2, 1: high / 6}, x) and close(form.q, {1: 1 / high}, x)
    return Found("HardSwish", {}) if right else None


def _erf(view: View, node: Node, form: Form, argument: Polynomial, x: Value) -> Found | None:
    """x/2 (1 + erf(x/√2))."""
    halves = close(form.p, HALF_X, x) and close(form.q, HALF_X, x)
    right = halves and close(argument, {1: math.sqrt(0.5)}, x)
    return Found("Gelu", {"approximate": "none"}) if right else None


def _tanh(view: View, node: Node, form: Form, argument: Polynomial, x: Value) -> Found | None:
    """x/2 (1 + tanh(√(2/π) (x + 0.044715 x³))); and x/2 (1 + tanh(αx/2)) is Swish."""
    if not (close(form.p, HALF_X, x) and close(form.q, HALF_X, x)):
        return None
    if close(argument, {1: GELU_SLOPE, 3: GELU_SLOPE * GELU_CUBE}, x):
        return Found("Gelu", {"approximate": "tanh"})
    return Found("Swish", {"alpha": 2 * argument[1]}) if set(argument) == {1} else None


def _mish(view: View, node: Node, form: Form, argument: Polynomial, x: Value) -> Found | None:
    """x tanh(log(1 + e^x))."""
    right = not form.p and close(form.q, {1: 1.0}, x) and close(argument, {1: 1.0}, x)
    return Found("Mish", {}) if right else None


GATES: dict[str, Gate] = {
    "Sigmoid": _sigmoid,
    "HardSigmoid": _hard_sigmoid,
    "Clip": _clip,
    "Erf": _erf,
    "Tanh": _tanh,
}
"""By the function in the middle."""
