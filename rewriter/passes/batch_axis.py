"""Follow the axis that counts the samples of a batch through a graph; `rewriter.rows` has the theory.

`follow` starts at axis 0 of the inputs and applies one rule a node (`batch_rules`, `batch_products`). An operator
without a rule keeps the axis that two numbers of samples show: the one that grows with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import TargetError
from ..rows import Along, Mixed, Place, Rows
from . import batch_products, batch_rules
from .batch_trial import RULES, Trial

if TYPE_CHECKING:
    from ..graph import Graph, Node, Value


def locate(graph: Graph, wrt: Sequence[Value], head: Value) -> Rows:
    """Where the samples are, seen from the explained inputs.

    One sample (a first axis of 1 that is fixed) needs no axis; a head without an axis of 1 in front is about it as a
    whole. A first axis along which a convolution slides, or that is fixed and does not go through, is no batch: the
    input is one sample. Raises TargetError where the samples of a batch are brought together on the way to the head.
    """
    x = next((x for x in wrt if x.shape and not isinstance(x.shape[0], int)), wrt[0])
    batch = x.shape[0] if x.shape else 1
    if batch == 1:
        return Rows({} if head.shape[:1] == [1] else {head.name: None}, x.name)
    rows = follow(graph, wrt, x)
    place = rows.places.get(head.name)
    if place is None:  # it depends on no input that is explained, and that is what will be said
        return Rows(source=x.name)
    if isinstance(place, Along):
        return rows
    if place.single and not isinstance(batch, int):
        return Rows({} if head.shape[:1] == [1] else {head.name: None}, x.name, single=True)
    if isinstance(batch, int) or place.window:
        return Rows(whole=True, source=x.name)
    size = "" if batch is None else f" ({batch})"
    raise TargetError(
        f"{head.name!r} has no batch axis: samples are counted along axis 0{size} of {x.name!r}, and {place}. "
        "Export the model so that samples stay apart, fix the batch at one, "
        f"shapes={{{x.name!r}: {[1, *x.shape[1:]]}}}, or choose another head= or output="
    )


def follow(graph: Graph, wrt: Sequence[Value], x: Value) -> Rows:
    """The places of all tensors, samples being counted along axis 0 of the explained input x and of those that call
    their first axis by the same name."""
    batch = x.shape[0]
    counted = frozenset(
        other.name
        for other in graph.inputs
        if other.shape and (other.shape[0] == batch or (other in wrt and not isinstance(other.shape[0], int)))
    )
    trial = Trial(graph, batch, counted, dict.fromkeys(counted, Along(0)))
    for node in graph.nodes:
        found = _outputs(trial, node)
        trial.places |= {y.name: place for y, place in zip(node.outputs, found, strict=True) if y.name}
    return Rows({**dict.fromkeys(graph.values), **trial.places}, x.name, open=trial.open)


def _outputs(trial: Trial, node: Node) -> Sequence[Place]:
    hidden = [trial.places.get(name) for name in trial.graph.hidden.get(node.name, ())]
    given = [*(trial.place(x) for x in node.inputs), *hidden]
    lost = next((place for place in given if isinstance(place, Mixed)), None)
    if lost is not None or not any(given):
        return [lost] * len(node.outputs)
    rule = None if node.domain or any(hidden) else RULES.get(node.op)
    if rule is None:
        (first, *_) = (place for place in given if isinstance(place, Along))
        return [trial.grown(node, first, y) for y in node.outputs]
    found = rule(trial, node)
    return [found] * len(node.outputs) if found is None or isinstance(found, (Along, Mixed)) else found


__all__ = ["batch_products", "batch_rules", "follow", "locate"]
