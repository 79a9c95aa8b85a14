"""Equal nodes once, unused nodes never."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ..graph import Node, Value


def share(
    nodes: Sequence[Node], outputs: Sequence[Value], also: Sequence[Node] = ()
) -> tuple[list[Node], list[Value]]:
    """Merge emitted nodes that compute the same thing, then drop those that no output needs. also: nodes that are not
    emitted, but whose inputs are to follow."""
    ends = {id(y) for y in outputs}  # each has a name of its own: two equal ones are two outputs all the same
    canonical: dict[int, Value] = {}
    seen: dict[Any, Node] = {}
    kept: list[Node] = []
    for node in nodes:
        reconnect(node, canonical)
        key = (node.domain, node.op, tuple(id(x) if x.name else 0 for x in node.inputs), _frozen(node.attrs))
        twin = seen.setdefault((*key, len(node.outputs)), node)
        two = any(id(y) in ends for y in node.outputs) and any(id(y) in ends for y in twin.outputs)
        if twin is node or two:
            kept.append(node)
        else:
            canonical.update((id(y), same) for y, same in zip(node.outputs, twin.outputs, strict=True))
    for node in also:
        reconnect(node, canonical)
    results = [canonical.get(id(y), y) for y in outputs]
    return live(kept, results), results


def live(nodes: Sequence[Node], outputs: Iterable[Value]) -> list[Node]:
    needed = {id(y) for y in outputs}
    kept: list[Node] = []
    for node in reversed(nodes):
        if any(id(y) in needed for y in node.outputs):
            needed.update(id(x) for x in node.inputs)
            kept.append(node)
    return kept[::-1]


def reconnect(node: Node, canonical: dict[int, Value]) -> None:
    """Let the node read the canonical twin of each input."""
    for i, x in enumerate(list(node.inputs)):
        if id(x) in canonical:
            node.inputs[i] = canonical[id(x)]


def _frozen(attrs: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((key, repr(value)) for key, value in attrs.items()))
