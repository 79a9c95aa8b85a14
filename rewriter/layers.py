"""Find the activation that a class activation map is made of."""

from __future__ import annotations

from collections.abc import Sequence

from .errors import OptionError, nearest
from .graph import Graph, Node, Value
from .tape import carries, touched

POOLS = frozenset({"MaxPool", "AveragePool"})
MOVES = frozenset({"Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze"})
"""Their outputs may have channels anywhere."""


def candidates(graph: Graph, wrt: Sequence[Value], head: Value) -> list[Value]:
    """The tensors that every path from the inputs to the head goes through, in order."""
    nodes, active = [], {x.name for x in wrt}
    for node in touched(graph, wrt, head):  # what reads a shape only carries nothing
        if any(x.name in active for x in node.inputs) and any(carries(y) for y in node.outputs):
            nodes.append(node)
            active.update(y.name for y in node.outputs)
    active = {x.name for x in wrt}
    last_read: dict[str, int] = {}
    for i, node in enumerate(nodes):
        for x in (*(x.name for x in node.inputs), *graph.hidden.get(node.name, ())):
            last_read[x] = i
    found: list[Value] = []
    latest = max((last_read.get(name, -1) for name in active), default=-1)
    for i, node in enumerate(nodes):
        if latest <= i and len(node.outputs) == 1:
            found.append(node.outputs[0])
        latest = max(latest, *(last_read.get(y.name, -1) for y in node.outputs))
    return found


def find_layer(graph: Graph, wrt: Sequence[Value], head: Value, name: str | None = None) -> Value:
    """The layer named (a tensor, or a node with one output), or the default: the last tensor (N, C, spatial...)
    of more than one cell on every path to the head, after its activation and before a pool that follows it.

    Raises OptionError when there is none, or no such name; the message lists what can be chosen.
    """
    found = candidates(graph, wrt, head)
    if name is not None:
        return _named(graph, wrt, head, found, name)
    spatial = [value for value in found if _spatial(value) and not _moved(value, graph)]
    if not spatial:
        raise OptionError(
            "layer: no activation with channels and a spatial extent lies on every path to the target; "
            "name a tensor with layer="
        )
    chosen = spatial[-1]
    node = _maker(graph, chosen)
    while node is not None and node.op in POOLS and len(spatial) > 1:
        spatial.pop()
        chosen, node = spatial[-1], _maker(graph, spatial[-1])
    return chosen


def _named(graph: Graph, wrt: Sequence[Value], head: Value, found: Sequence[Value], name: str) -> Value:
    values = {y.name: y for node in touched(graph, wrt, head) for y in node.outputs}
    values |= {node.name: node.outputs[0] for node in touched(graph, wrt, head) if node.name not in values}
    if name not in values:
        some = [value.name for value in found if _spatial(value)][-5:]
        raise OptionError(
            f"layer: no tensor or node {name!r} between input and target{nearest(name, values)}; "
            f"the usual ones here: {', '.join(some) or 'none'}"
        )
    chosen = values[name]
    if chosen.shape is None or len(chosen.shape) < 3:
        raise OptionError(
            f"layer: {name!r} has no spatial axes (shape {chosen.shape}); a map needs (N, C, spatial...)"
        )
    return chosen


def _spatial(value: Value) -> bool:
    if value.shape is None or len(value.shape) < 4:
        return False
    return any(not isinstance(dim, int) or dim > 1 for dim in value.shape[2:])


def _maker(graph: Graph, value: Value) -> Node | None:
    return next((node for node in graph.nodes if any(y is value for y in node.outputs)), None)


def _moved(value: Value, graph: Graph) -> bool:
    node = _maker(graph, value)
    return node is not None and node.op in MOVES
