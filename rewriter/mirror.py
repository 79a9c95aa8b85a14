"""The forward pass once more, at a reference input: emitted nodes over the same weights.

A reference that is constant leaves nothing to compute at run time: onnxruntime folds its whole branch when it
loads the file, and the file holds no activation. The forward nodes proper stay as they are.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from .draft import Dim, attributes, reachable
from .emit import Emit
from .graph import Graph, Node, Value, variable
from .rows import Along
from .site import Refuse
from .tape import touched


def mirror(graph: Graph, g: Emit, references: Mapping[str, Value], head: Value) -> Graph:
    """The graph with a twin for every node between the inputs named in `references` and the head.

    references: input name -> reference, (1 or N, ...). Twins have as many rows, except where the batch is fixed,
    folded with another axis, or meets another input of the model: there they have N. A node that a view made gets its
    twin when it is asked for: the same operator and weights, activations exchanged.

    Nodes with subgraphs are not run a second time: asked for the twin of one, or of a node behind it, `twin` refuses.
    """
    wrt = [graph.values[name] for name in references]
    nodes = touched(graph, wrt, head)
    with g.at("reference"):
        twins = dict(_rows(graph, g, nodes, references))
    lead, batch = next(iter(twins.values())).shape[0], wrt[0].shape[0]
    stored = {node.name: attributes(node) for node in graph.draft.graph.node}
    lost: set[str] = set()
    for node in nodes:
        if node.name in graph.hidden or any(x.name in lost for x in node.inputs):
            lost.update(y.name for y in node.outputs)
            continue
        inputs = [twins.get(x.name, x) if x.name else None for x in node.inputs]
        with g.at(f"reference/{node.name}"):
            made = _again(g, node, inputs, stored[node.name])
        for y, twin in zip(node.outputs, made, strict=True):
            if y.name:
                twin.dtype, twin.shape = y.dtype, _shape(y, lead, batch)
                twins[y.name] = twin
                g.pair(twin, y)

    found: dict[int, tuple[Node, Node]] = {}

    def twin_of(node: Node) -> Node:
        if id(node) not in found:  # the node is kept, so that no other one gets its id
            found[id(node)] = node, _exchanged(node, twins, lost)
        return found[id(node)][1]

    return replace(graph, twin=twin_of)


def _again(
    g: Emit, node: Node, inputs: Sequence[Value | None], attrs: Mapping[str, Any]
) -> tuple[Value, ...]:
    """The node on other inputs. Operators that onnxruntime spells out only after it has folded constants are spelled
    here, in the same way."""
    x = inputs[0]
    if node.domain or x is None or node.op not in ("HardSwish", "Mish", "Swish", "GroupNormalization"):
        return g.ops(node.op, *inputs, outputs=len(node.outputs), domain=node.domain or "", **attrs)
    if node.op == "HardSwish":
        return (g.Mul(x, g.HardSigmoid(x, alpha=1 / 6, beta=0.5)),)
    if node.op == "Mish":
        return (g.Mul(x, g.Tanh(g.Softplus(x))),)
    if node.op == "Swish":
        return (g.Mul(x, g.Sigmoid(g.Mul(x, float(attrs.get("alpha", 1.0))))),)
    return (_group_norm(g, node, inputs, attrs),)


def _group_norm(g: Emit, node: Node, inputs: Sequence[Value | None], attrs: Mapping[str, Any]) -> Value:
    """Each group as one channel of an InstanceNormalization; γ and β per channel."""
    x, groups = node.inputs[0], int(attrs["num_groups"])
    one, zero = (g.Expand(g.number(value, x), g.ints(groups)) for value in (1.0, 0.0))
    lines = g.Reshape(inputs[0], g.ints(0, groups, -1))
    normal = g.InstanceNormalization(lines, one, zero, epsilon=float(attrs.get("epsilon", 1e-5)))
    gamma, beta = (g.Reshape(v, g.ints(1, -1, *[1] * (len(x.shape) - 2))) for v in inputs[1:])
    value: Value = g.Add(g.Mul(g.shaped(normal, x), gamma), beta)
    return value


def _rows(
    graph: Graph, g: Emit, nodes: Sequence[Node], references: Mapping[str, Value]
) -> Mapping[str, Value]:
    """The references, repeated to the rows of the input where one row would not go through the model, or not be one
    behind it: its batch is fixed or folded with another axis, a node also reads another input, or the references do
    not agree."""
    xs = {name: graph.values[name] for name in references}
    other = reachable(graph.draft.graph, [x.name for x in graph.inputs if x.name not in xs])
    beside = any(x.name in other for node in nodes for x in node.inputs)
    fixed = graph.rows.whole or any(isinstance(x.shape[0], int) and x.shape[0] != 1 for x in xs.values())
    folded = any(not _plain(graph.rows.place(y.name)) for node in nodes for y in node.outputs)
    if not beside and not fixed and not folded and len({str(r.shape[0]) for r in references.values()}) == 1:
        return references
    repeated: dict[str, Value] = {}
    for name, reference in references.items():
        x = xs[name]
        ones = [g.ints(*[1] * (len(x.shape) - 1))] if len(x.shape) > 1 else []
        value = g.Expand(reference, g.join(g.size(x, 0), *ones))
        value.dtype, value.shape = x.dtype, list(x.shape)
        repeated[name] = value
    return repeated


def _plain(place: Along | None) -> bool:
    """Whether nothing is counted beside the samples along their axis: one row then broadcasts over all."""
    return place is None or place == Along(place.axis)


def _shape(y: Value, lead: Dim, batch: Dim) -> list[Dim] | None:
    """The shape of a twin: the batch symbol becomes the rows of the reference; any other symbol in its place
    may count rows too."""
    if not y.shape:
        return None if y.shape is None else []
    first = y.shape[0]
    rows = lead if first == batch else first if isinstance(first, int) else None
    return [rows, *(lead if isinstance(batch, str) and dim == batch else dim for dim in y.shape[1:])]


def _exchanged(node: Node, twins: Mapping[str, Value], lost: Collection[str]) -> Node:
    if any(value.name in lost for value in (*node.inputs, *node.outputs)):
        raise Refuse("it is, or lies behind, a node with a subgraph, which cannot be run at the reference")
    return stand_in(node, _swap(node.inputs, twins), _swap(node.outputs, twins))


def _swap(values: Sequence[Value], twins: Mapping[str, Value]) -> list[Value]:
    return [twins.get(value.name, value) if value.name else variable() for value in values]


def stand_in(node: Node, inputs: Sequence[Value], outputs: Sequence[Value]) -> Node:
    """The same operator on other tensors, for rules to look at: linked to none of them, and never written."""
    return Shadow(node, list(inputs), list(outputs))


class Shadow(Node):
    """A node that is linked to nothing: graphsurgeon's constructor would enter it at its tensors."""

    def __init__(self, like: Node, inputs: list[Value], outputs: list[Value]) -> None:
        self.op, self.name, self.domain, self.attrs = like.op, like.name, like.domain, like.attrs
        self.inputs, self.outputs = inputs, outputs
