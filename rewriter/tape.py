"""Linearise a graph, and run the list of maps backwards or forwards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .emit import Emit
from .errors import Obstacle, UnsupportedError
from .graph import Graph, Node, Value
from .linear import Local
from .rules import Rule, Rules, rule_name
from .singular import Singular, singular
from .site import Refuse, Site

WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})


@dataclass(frozen=True)
class Step:
    """One output of one node, and the maps put in its place. pulled, pushed: whether products are guarded on the way
    back, and forwards (`singular`)."""

    site: Site
    local: Local
    rule: str
    pulled: bool = False
    pushed: bool = False


@dataclass(frozen=True)
class Tape:
    """The steps in forward order, from the explained inputs to the target."""

    steps: tuple[Step, ...]

    def rules(self) -> dict[str, str]:
        """Node name -> rule name."""
        return {step.site.name: step.rule for step in self.steps}


def linearize(graph: Graph, wrt: Sequence[Value], target: Value, rules: Rules, g: Emit) -> Tape:
    """Apply the rules to every node between the inputs `wrt` and the target.

    Raises UnsupportedError once, with every node that has no rule or that its rule refuses.
    """
    needed, hard = ancestors(graph, target), singular(graph)
    early = _weighted_after(graph, needed)
    active, deep = {value.name for value in wrt}, set[str]()
    steps: list[Step] = []
    obstacles: list[Obstacle] = []
    for node in graph.nodes:
        reads = [x.name for x in node.inputs]
        hidden = graph.hidden.get(node.name, frozenset()) & active
        if not (hidden or active & set(reads)) or not any(y.name in needed for y in node.outputs):
            continue
        if deep & set(reads) or (is_weighted(node) and active & set(reads)):
            deep.update(y.name for y in node.outputs)
        flags = tuple(name in active for name in reads)
        last = not any(output.name in early for output in node.outputs)
        for port, y in enumerate(node.outputs):
            if y.name not in needed:
                continue
            site = Site(node, graph, port, flags, first=not deep & set(reads), last=last)
            if not carries(y):
                # Integers and booleans carry nothing, but only an operator that is known may end a path.
                if not hidden and rules.find(site) is None:
                    obstacles.append(Obstacle(site.op, site.name, "no rule for this operator"))
                    active.add(y.name)  # go on, so that one error names every such node
                continue
            step = _step(site, rules, g, bool(hidden), hard)
            if isinstance(step, Obstacle):
                obstacles.append(step)
                active.add(y.name)
            elif any(part is not None for part in step.local.maps):
                steps.append(step)
                active.add(y.name)
    if obstacles:
        raise UnsupportedError(obstacles, "`onnxplain check MODEL` lists the coverage of a model")
    return Tape(tuple(steps))


def is_weighted(node: Node) -> bool:
    """A convolution or product with weights, by itself or joined with its activation in a view."""
    return node.op in WEIGHTED or "affine" in node.attrs


def _weighted_after(graph: Graph, needed: set[str]) -> set[str]:
    """Tensors with a weighted node between them and the target."""
    early: set[str] = set()
    for node in reversed(graph.nodes):
        outputs = {y.name for y in node.outputs}
        if outputs & needed and (outputs & early or is_weighted(node)):
            early.update(x.name for x in node.inputs)
    return early


def carries(y: Value) -> bool:
    """Only floating-point tensors carry cotangents; a tensor of unknown type might."""
    return bool(y.name) and (y.dtype is None or np.dtype(y.dtype).kind == "f")


def _step(site: Site, rules: Rules, g: Emit, nested: bool, hard: Singular) -> Step | Obstacle:
    rule: Rule | None = None if nested else rules.find(site)
    if nested:
        return Obstacle(site.op, site.name, "its subgraph reads the explained input")
    if rule is None:
        return Obstacle(site.op, site.name, "no rule for this operator")
    unknown = [v.name for v in (*site.x, site.y) if v is not None and v.shape is None]
    if is_weighted(site.node) and unknown:
        reason = f"the rank of {unknown[0]!r} is unknown; fix the input shape with shapes="
        return Obstacle(site.op, site.name, reason)
    try:
        with g.at(site.name), g.guarding(site.name in hard.pulls | hard.pushes):
            local = rule(site, g)
    except Refuse as refusal:
        return Obstacle(site.op, site.name, str(refusal))
    maps = tuple(
        part if i < len(site.active) and site.active[i] else None for i, part in enumerate(local.maps)
    )
    pulled, pushed = site.name in hard.pulls, site.name in hard.pushes
    return Step(site, Local(*maps, offset=local.offset), rule_name(rule), pulled, pushed)


def ancestors(graph: Graph, target: Value) -> set[str]:
    """Names of the tensors that the target is computed from, itself included."""
    needed = {target.name}
    for node in reversed(graph.nodes):
        if any(y.name in needed for y in node.outputs):
            needed.update(x.name for x in node.inputs)
            needed |= graph.hidden.get(node.name, frozenset())
    return needed


def pull(tape: Tape, seeds: Mapping[str, Value], g: Emit) -> dict[str, Value]:
    """Cotangents of every tensor from those of `seeds` (tensor name -> cotangent). A tensor that several
    nodes read receives the sum of what each returns; one on no path is absent."""
    cotangents = dict(seeds)
    for step in reversed(tape.steps):
        ct = cotangents.get(step.site.y.name)
        if ct is None:
            continue
        with g.at(step.site.name), g.guarding(step.pulled):
            for x, part in zip(step.site.node.inputs, step.local.maps, strict=False):
                if part is not None:
                    mine = part.pull(g, ct)
                    known = cotangents.get(x.name)
                    cotangents[x.name] = mine if known is None else g.Add(known, mine)
    return cotangents


def push(tape: Tape, tangents: Mapping[str, Value], g: Emit, *, affine: bool = False) -> dict[str, Value]:
    """Tangents of every tensor from those of the inputs. affine: add each node's offset, so that the
    recorded activations are reproduced from the recorded input."""
    known = dict(tangents)
    for step in tape.steps:
        with g.at(step.site.name), g.guarding(step.pushed):
            parts = [
                part.push(g, known[x.name])
                for x, part in zip(step.site.node.inputs, step.local.maps, strict=False)
                if part is not None and x.name in known
            ]
            if affine and step.local.offset is not None:
                parts.append(step.local.offset)
            if parts:
                value = g.total(parts)
                alone = affine and not any(x.name in known for x in step.site.node.inputs)
                known[step.site.y.name] = g.Expand(value, g.Shape(step.site.y)) if alone else value
    return known


def touched(graph: Graph, wrt: Sequence[Value], target: Value) -> list[Node]:
    """Nodes that depend on `wrt` and that the target depends on, by connection alone."""
    needed, live = ancestors(graph, target), {value.name for value in wrt}
    found: list[Node] = []
    for node in graph.nodes:
        reads = {x.name for x in node.inputs} | graph.hidden.get(node.name, frozenset())
        if reads & live and any(y.name in needed for y in node.outputs):
            live.update(y.name for y in node.outputs)
            found.append(node)
    return found
