"""Which factor of a product is a gate: sigmoids and softmaxes, and the gates of GELU and HardSwish spelled out."""

from __future__ import annotations

from ...rewriter.graph import Value
from ...rewriter.site import Site
from ..relevance_nodes import is_gate, source

BOUNDED = frozenset({"Erf", "Tanh"})


def gates(site: Site, factors: list[int]) -> list[int]:
    """Of the factors (numbers of inputs) those that are taken at x0; none where all of them would be."""
    inputs = site.node.inputs
    found = [
        i
        for i in factors
        if is_gate(site, inputs[i])
        or _rises(site, inputs[i])
        or any(_clips(site, inputs[i], inputs[k]) for k in factors if k != i)
    ]
    return found if len(found) < len(factors) else []


def _rises(site: Site, x: Value) -> bool:
    """1 + erf or 1 + tanh of something, whatever it is scaled by: twice the gate of a GELU."""
    node, _ = source(site, x)
    if node is None or node.op != "Add":
        return False
    live = [value for value in node.inputs if site.graph.constant(value) is None]
    if len(live) != 1:
        return False
    inner, _ = source(site, live[0])
    return inner is not None and inner.op in BOUNDED


def _clips(site: Site, x: Value, other: Value) -> bool:
    """A Clip of the other factor, shifted: the gate of a HardSwish that is scaled behind the product."""
    node, _ = source(site, x)
    if node is None or node.op != "Clip":
        return False
    before = node.inputs[0]
    if before.inputs and before.inputs[0].op == "Add":
        before = next((v for v in before.inputs[0].inputs if site.graph.constant(v) is None), before)
    return before.name == other.name


__all__ = ["gates"]
