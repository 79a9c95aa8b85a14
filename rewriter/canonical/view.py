"""The nodes that rules see, while passes replace some of them; the forward graph itself stays."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

import numpy as np

from ..graph import Graph, Node, Value, operator


class View:
    """Makers and readers are counted among the nodes of the view: a node made here links itself to tensors of
    the forward graph, so `value.inputs` and `value.outputs` name nodes of both.

    keep: tensors that must stay the output of a node. varying: tensors that depend on an input of the model;
    all others are parameters.
    """

    def __init__(self, graph: Graph, keep: Collection[str] = ()) -> None:
        self.graph, self.keep = graph, frozenset(keep)
        self._slots: list[Node | None] = []
        self._slot: dict[int, int] = {}
        self._maker: dict[str, Node] = {}
        self._readers: dict[str, list[Node]] = {}
        for node in graph.nodes:
            self._slots.append(None)
            self._put(node, len(self._slots) - 1)
        self._captured = frozenset(name for names in graph.hidden.values() for name in names)
        self.varying = _varying(graph)

    @property
    def nodes(self) -> tuple[Node, ...]:
        """In topological order."""
        return tuple(node for node in self._slots if node is not None)

    def holds(self, node: Node) -> bool:
        return id(node) in self._slot

    def maker(self, value: Value) -> Node | None:
        return self._maker.get(value.name)

    def readers(self, value: Value) -> tuple[Node, ...]:
        """A node that reads the tensor twice is there twice."""
        return tuple(self._readers.get(value.name, ()))

    def only_reader(self, value: Value) -> Node | None:
        """The node that takes the tensor in once, where nobody else needs it; else None."""
        readers = self.readers(value)
        return readers[0] if len(readers) == 1 and self._may_go(value) else None

    def closed(self, nodes: Sequence[Node], last: Node) -> bool:
        """Whether nobody outside these nodes needs what they make, `last` excepted."""
        inside = {id(node) for node in nodes}
        return all(
            self._may_go(y) and all(id(reader) in inside for reader in self.readers(y))
            for node in nodes
            if node is not last
            for y in node.outputs
            if y.name
        )

    def parameter(self, value: Value | None) -> bool:
        """Whether the tensor is there and depends on no input of the model."""
        return value is not None and bool(value.name) and value.name not in self.varying

    def constant(self, value: Value | None) -> np.ndarray | None:
        return self.graph.constant(value)

    def replace(
        self,
        old: Sequence[Node],
        op: str,
        name: str,
        attrs: dict[str, Any],
        inputs: Sequence[Value],
        output: Value,
        domain: str = "",
    ) -> Node:
        """Put one new node in place of the old ones, where the last of them stands."""
        place = max(self._slot[id(node)] for node in old)
        for node in old:
            self._drop(node)
        made = operator(op, name, attrs, list(inputs), [output], domain)
        self._put(made, place)
        return made

    def _may_go(self, value: Value) -> bool:
        return value.name not in self.keep and value.name not in self._captured

    def _put(self, node: Node, slot: int) -> None:
        self._slots[slot] = node
        self._slot[id(node)] = slot
        for y in _named(node.outputs):
            self._maker[y.name] = node
        for x in _named(node.inputs):
            self._readers.setdefault(x.name, []).append(node)

    def _drop(self, node: Node) -> None:
        self._slots[self._slot.pop(id(node))] = None
        for y in _named(node.outputs):
            del self._maker[y.name]
        for x in _named(node.inputs):
            self._readers[x.name] = [reader for reader in self._readers[x.name] if reader is not node]


def _named(values: Iterable[Value]) -> list[Value]:
    return [value for value in values if value.name]


def _varying(graph: Graph) -> frozenset[str]:
    live = {x.name for x in graph.inputs}
    for node in graph.nodes:
        reads = {x.name for x in node.inputs} | graph.hidden.get(node.name, frozenset())
        if reads & live:
            live.update(y.name for y in _named(node.outputs))
    return frozenset(live)


def operator_name(node: Node) -> str:
    """As rules name it: "Relu", "com.acme:Gate"."""
    return f"{node.domain}:{node.op}" if node.domain else str(node.op)
