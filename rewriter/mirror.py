"""The forward pass once more, at a reference input: emitted nodes over the same weights.

A reference that is constant leaves nothing to compute at run time: onnxruntime folds its whole branch when it
loads the file, and the file holds no activation. The forward nodes proper stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from .emit import Emit
from .graph import Graph, Node, Value, variable
from .tape import touched


def mirror(graph: Graph, g: Emit, references: Mapping[str, Value], head: Value) -> Graph:
    """The graph with a twin for every node between the inputs named in `references` and the head.

    references: input name -> reference, (1 or N, ...). A node that a view made gets its twin when it is asked for:
    the same operator and weights, activations exchanged.
    """
    twins: dict[str, Value] = dict(references)
    wrt = [graph.values[name] for name in references]
    lead = next(iter(references.values())).shape[:1]
    for node in touched(graph, wrt, head):
        inputs = [twins.get(x.name, x) if x.name else None for x in node.inputs]
        made = g.ops(node.op, *inputs, outputs=len(node.outputs), domain=node.domain or "", **node.attrs)
        for y, twin in zip(node.outputs, made, strict=True):
            twin.dtype = y.dtype
            twin.shape = None if y.shape is None else [*lead, *y.shape[1:]] if y.shape else y.shape
            twins[y.name] = twin

    found: dict[int, Node] = {}

    def twin_of(node: Node) -> Node:
        if id(node) not in found:
            found[id(node)] = _exchanged(node, twins)
        return found[id(node)]

    return replace(graph, twin=twin_of)


def _exchanged(node: Node, twins: Mapping[str, Value]) -> Node:
    """A stand-in for the rules to look at; it is never written."""
    return Shadow(
        node.op,
        node.name,
        node.domain,
        node.attrs,
        _swap(node.inputs, twins),
        _swap(node.outputs, twins),
    )


def _swap(values: Sequence[Value], twins: Mapping[str, Value]) -> list[Value]:
    return [twins.get(value.name, value) if value.name else variable() for value in values]


class Shadow(Node):
    """A node that is linked to nothing."""

    def __init__(  # graphsurgeon's Node would link itself to its tensors
        self,
        op: str,
        name: str,
        domain: str | None,
        attrs: dict[str, object],
        inputs: list[Value],
        outputs: list[Value],
    ) -> None:
        self.op, self.name, self.domain = op, name, domain
        self.attrs, self.inputs, self.outputs = attrs, inputs, outputs
