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
from . import accelerators, blocked, quotients, winners
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
    "WinnerPut": winners.winner_put_cpu,
    "WinnerTake": winners.winner_take_plain,
}

TABLES: dict[str, Mapping[str, Lowering]] = {
    "portable": PORTABLE,
    "cpu": CPU,
    "cuda": PORTABLE | accelerators.CUDA,
    "tensorrt": PORTABLE | accelerators.TENSORRT,
    "web": PORTABLE | accelerators.WEB,
}


def table_of(provider: str) -> Mapping[str, Lowering]:
    """The table of a provider. OptionError for an unknown one."""
    if provider not in TABLES:
        raise OptionError(
            f"no lowering for {provider!r}{nearest(provider, TABLES)}; known: {', '.join(TABLES)}"
        )
    return TABLES[provider]


def lower(g: Emit, outputs: Sequence[Value], provider: str = "portable") -> tuple[list[Node], list[Value]]:
    """Replace every primitive among g's nodes by the table's form, and note it in `g.spelled`; returns the new nodes
    and outputs."""
    table, nodes = table_of(provider), g.nodes
    g.nodes = []
    replaced: dict[int, Value] = {}
    for node in nodes:
        reconnect(node, replaced)
        if node.domain != PRIVATE:
            g.nodes.append(node)
            continue
        with g.at("/".join(node.name.split("/")[1:-1])):
            value = table[node.op](g, node)
        replaced[id(node.outputs[0])] = value
        g.spelled.append((node, value))
    return g.nodes, [replaced.get(id(y), y) for y in outputs]
