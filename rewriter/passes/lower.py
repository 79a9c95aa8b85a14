"""Spell the semantic primitives in standard operators.

A table a provider; a rule never knows which one is used. `portable` has the forms that every onnxruntime build has
kernels for, and is the default for files that travel.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from ..emit import PRIVATE, Emit
from ..errors import OptionError, nearest
from ..graph import Node, Value
from . import blocked, quotients
from .primitives import data_gradient, spread, step_mask, window_spread, winner_put, winner_take
from .share import reconnect

Lowering: TypeAlias = Callable[[Emit, Node], Value]

PORTABLE: dict[str, Lowering] = {
    "StepMask": step_mask,
    "DataGradient": data_gradient,
    "WinnerTake": winner_take,
    "WinnerPut": winner_put,
    "WindowSpread": window_spread,
    "Spread": spread,
    "Inverse": quotients.inverse,
    "Quotient": quotients.quotient,
}

CPU: dict[str, Lowering] = PORTABLE | {
    "StepMask": blocked.step,
    "DataGradient": blocked.gradient,
    "WindowSpread": blocked.window,
    "Spread": blocked.repeated,
}

TABLES: dict[str, Mapping[str, Lowering]] = {"portable": PORTABLE, "cpu": CPU}


def lower(g: Emit, outputs: Sequence[Value], provider: str = "portable") -> tuple[list[Node], list[Value]]:
    """Replace every primitive among g's nodes by the table's form; returns the new nodes and outputs."""
    if provider not in TABLES:
        raise OptionError(
            f"no lowering for {provider!r}{nearest(provider, TABLES)}; known: {', '.join(TABLES)}"
        )
    table, nodes = TABLES[provider], g.nodes
    g.nodes = []
    replaced: dict[int, Value] = {}
    for node in nodes:
        reconnect(node, replaced)
        if node.domain != PRIVATE:
            g.nodes.append(node)
            continue
        with g.at("/".join(node.name.split("/")[1:-1])):
            replaced[id(node.outputs[0])] = table[node.op](g, node)
    return g.nodes, [replaced.get(id(y), y) for y in outputs]
