"""The paper's literal form: a network that takes [x0; x1] along the batch. Navarrete et al. section 3, Fig. 2.

Every node that selects, gates or normalises is replaced: its rows are split, the first half goes through the node
itself and the second through the node frozen at the first. What is linear already stays, and runs once over both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import onnx

from ...rewriter.draft import attributes, reachable
from ...rewriter.errors import TargetError
from ...rewriter.graph import Node, Value, assemble
from ...rewriter.order import ordered
from ...rewriter.passes.share import live
from ...rewriter.results import Result
from ...rewriter.scene import Stage
from ...rewriter.tape import Step, ancestors
from ...rewriter.target import Target, vet_leading
from .flow import mapped, reaching
from .freeze import LINEAR, PRODUCTS, TERMS
from .results import frozen

SHAPES = frozenset({"Shape", "Size"})
ROWS = "the first half of the rows is x0, the second x1: of {0!r}, [x0; x1] gives [{0}(x0); F(x0) x1 + r(x0)]"


def dual(stage: Stage, target: Target) -> list[Result]:
    """The tensors of the replaced nodes, both halves; `assemble_dual` writes them in place of the forward ones.

    The file's inputs and outputs are the model's, with 2N rows in place of N. Inputs that are not explained have 2N
    rows too where they count the samples as the explained one does, those of x1 being looked at by linear nodes
    only; others, such as a scale of 2 numbers, are fed as they are. Nodes that are not on the way to the head, such
    as a Softmax behind it, stay as they are: of a classifier with one the second half is softmax(F x1 + r), and the
    card says so.

    An odd number of rows fails at run time, in the first Split. TargetError where the batch is fixed to an odd number,
    where it is not the first axis of some tensor that is split, and where the head does not depend on the input.
    """
    vet_leading(stage.graph, stage.head, "the dual batch")
    _vet_rows(stage)
    steps = reaching(frozen(stage), stage.head)
    if not steps:
        raise TargetError(
            f"{stage.head.name!r} does not depend on {stage.wrt[0].name!r} other than by softmax and gates"
        )
    halves = _Halves(stage)
    stage.g.note(ROWS.format(stage.head.name))
    for output in stage.graph.outputs:
        _tell(stage, output)
    chosen = [step for step in steps if not _stays(halves, step)]
    results: list[Result] = []
    for step in chosen:
        y = step.site.y
        with stage.g.at(step.site.name):
            halves.first[y.name] = _again(halves, step)
            halves.second[y.name] = _frozen(halves, step)
            both = stage.g.Concat(halves.first[y.name], halves.second[y.name], axis=0)
        results.append((f"{stage.g.scope}/both/{y.name}", both, y.shape))
    halves.settle([value for _, value, _ in results])
    stage.extras["replaced"] = [step.site.y.name for step in chosen]
    return results


def _vet_rows(stage: Stage) -> None:
    for x in stage.wrt:
        if isinstance(x.shape[0], int) and x.shape[0] % 2:
            raise TargetError(
                f"input {x.name!r} has {x.shape[0]} rows and no room for [x0; x1]; "
                f"free its batch with shapes={{{x.name!r}: ('N', ...)}}"
            )


def _tell(stage: Stage, output: Value) -> None:
    """Say where the second half of an output is no affine map of x1: behind nodes that are not on the way to the head,
    and so were not frozen."""
    graph, live, curved = stage.graph, {x.name for x in stage.wrt}, list[str]()
    frozen_part, needed = ancestors(graph, stage.head), ancestors(graph, output)
    for node in graph.nodes:
        reads = [x.name for x in node.inputs if x.name in live]
        nested = graph.hidden.get(node.name, frozenset()) & live
        if not (reads or nested):
            continue
        live |= {y.name for y in node.outputs}
        made = {y.name for y in node.outputs if y.name in needed}
        product = node.op in PRODUCTS | {"Div"} and reads == [node.inputs[0].name]
        linear = not nested and not node.domain and (product or node.op in LINEAR | TERMS)
        if made and not made & frozen_part and not linear:
            curved.append(f"{node.op} at {node.name}")
    if curved:
        stage.g.note(
            f"the second half of {output.name!r} is not F x1 + r: behind the frozen part it goes through "
            f"{', '.join(curved)}; with head='prob' (or output=) this output is frozen as a whole"
        )


def _stays(halves: _Halves, step: Step) -> bool:
    """Whether the node is linear by itself: nothing that it reads beside its activations depends on the input."""
    site = step.site
    others = {x.name for x in site.node.inputs if x.name} - {x.name for x in mapped(step)}
    others |= set(site.graph.hidden.get(site.name, ()))
    if others & halves.moving:
        return False
    if site.op in PRODUCTS | {"Div"}:
        return site.op != "ReduceSumSquare" and len(mapped(step)) == 1
    return site.op in LINEAR | TERMS


@dataclass
class _Halves:
    """Which value stands for the first and for the second half of a forward tensor.

    Rules are asked for the maps of the forward nodes, so that what they look at is what it is elsewhere; afterwards
    every forward tensor that emitted nodes read is exchanged for its first half.
    """

    stage: Stage
    first: dict[str, Value] = field(default_factory=dict)
    second: dict[str, Value] = field(default_factory=dict)
    splitters: set[int] = field(default_factory=set)
    """Nodes that read both halves."""
    copies: dict[str, tuple[Value, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        graph = self.stage.graph.draft.graph
        inputs = [x.name for x in self.stage.graph.inputs if self._counts(x)]
        light = onnx.GraphProto()
        light.node.extend(node for node in graph.node if node.op_type not in SHAPES)
        self.moving = reachable(light, inputs)
        """Tensors whose values depend on the inputs, not on their sizes alone."""
        self.sized = reachable(graph, inputs)

    def _counts(self, x: Value) -> bool:
        """Whether an input has a row for each sample: its first axis is that of the explained one. TargetError where
        two fixed sizes are equal, which proves nothing."""
        batch, explained = self.stage.wrt[0].shape[0], x in self.stage.wrt
        same = bool(x.shape) and x.shape[0] == batch
        if same and isinstance(batch, int) and not explained:
            raise TargetError(
                f"nothing says whether the first axis of input {x.name!r}, {batch}, counts the samples as that of "
                f"{self.stage.wrt[0].name!r} does; name the batch with shapes="
            )
        return explained or same

    def rows(self, x: Value) -> bool:
        """Whether x has the rows of both halves."""
        batch = self.stage.wrt[0].shape[0]
        counts = bool(x.shape) and isinstance(batch, str) and x.shape[0] == batch
        return x.name in self.moving or (x.name in self.sized and counts)

    def half(self, x: Value, which: int) -> Value:
        known = self.second if which else self.first
        if x.name not in known:
            self._split(x)
        return known[x.name]

    def _split(self, x: Value) -> None:
        g, batch = self.stage.g, self.stage.wrt[0].shape[0]
        if x.shape is not None and (not x.shape or (isinstance(batch, str) and batch in x.shape[1:])):
            raise TargetError(
                f"the rows of {x.name!r} of shape {list(x.shape)} are not its first axis: no [x0; x1]"
            )
        before = len(g.nodes)
        count = g.Div(g.Shape(x, start=0, end=1), g.ints(2))
        made = g.ops("Split", x, g.Concat(count, count, axis=0), outputs=2, axis=0)
        self.splitters.update(id(node) for node in g.nodes[before:])
        for half, known in zip(made, (self.first, self.second), strict=True):
            half.dtype, half.shape = x.dtype, None if x.shape is None else [_halved(x.shape[0]), *x.shape[1:]]
            known.setdefault(x.name, half)

    def settle(self, results: Sequence[Value]) -> None:
        """Exchange what the emitted nodes read, and put them in order."""
        g, graph = self.stage.g, self.stage.graph
        g.nodes = live(g.nodes, results)
        for node in list(g.nodes):
            for i, x in enumerate(list(node.inputs)):
                if id(node) not in self.splitters and graph.values.get(x.name) is x and self.rows(x):
                    node.inputs[i] = self.half(x, 0)
        g.nodes = live(_sorted(g.nodes), results)


def _halved(rows: object) -> object:
    return rows // 2 if isinstance(rows, int) else rows


def _again(halves: _Halves, step: Step) -> Value:
    """h of the first half: the node, written once more."""
    site, graph = step.site, halves.stage.graph
    if site.name not in halves.copies:
        stored = next(node for node in graph.draft.graph.node if node.name == site.name)
        inputs = [x if x.name else None for x in site.node.inputs]
        halves.copies[site.name] = halves.stage.g.ops(
            site.node.op,
            *inputs,
            outputs=len(site.node.outputs),
            domain=site.node.domain or "",
            **attributes(stored),
        )
        for made, y in zip(halves.copies[site.name], site.node.outputs, strict=True):
            made.dtype = y.dtype
            made.shape = None if y.shape is None or not y.shape else [_halved(y.shape[0]), *y.shape[1:]]
    return halves.copies[site.name][site.port]


def _frozen(halves: _Halves, step: Step) -> Value:
    """A x1 + c of the second half."""
    g = halves.stage.g
    with g.guarding(step.pushed):
        parts = [
            part.push(g, halves.half(x, 1))
            for x, part in zip(step.site.node.inputs, step.local.maps, strict=False)
            if part is not None
        ]
    if step.local.offset is not None:
        parts.append(step.local.offset)
    value = g.total(parts)
    value.dtype = step.site.y.dtype
    return value


def _sorted(nodes: Sequence[Node]) -> list[Node]:
    order = ordered(
        [[x.name for x in node.inputs] for node in nodes], [[y.name for y in n.outputs] for n in nodes]
    )
    assert order is not None, "halves are made of forward tensors alone"
    return [nodes[i] for i in order]


def assemble_dual(stage: Stage, infos: Sequence[onnx.ValueInfoProto]) -> onnx.ModelProto:
    """The forward nodes without the replaced ones, and the emitted ones in their places."""
    model = assemble(stage.graph, stage.g.nodes, [], stage.g.stated)
    own = {node.name for node in stage.graph.draft.graph.node}
    both: dict[str, list[str]] = {}
    for info, name in zip(infos, stage.extras["replaced"], strict=True):
        both.setdefault(info.name, []).append(name)
    replaced = {name for names in both.values() for name in names}
    read = {name for node in model.graph.node for name in node.input} | {v.name for v in model.graph.output}
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        forward = node.name in own
        if forward and set(node.output) & replaced:
            if not (set(node.output) - replaced) & read:
                continue
            for i, name in enumerate(node.output):  # its other outputs are still needed
                node.output[i] = f"{stage.g.scope}/unread/{name}" if name in replaced else name
        elif not forward and node.output[0] in both:
            first, *same = both[node.output[0]]
            node.output[0] = first
            nodes += [onnx.helper.make_node("Identity", [first], [name]) for name in same]
        nodes.append(node)
    order = ordered([node.input for node in nodes], [node.output for node in nodes])
    assert order is not None, "a replaced node reads what the forward one has read"
    copies = [onnx.NodeProto.FromString(nodes[i].SerializeToString()) for i in order]
    del model.graph.node[:]
    model.graph.node.extend(copies)
    return model


__all__ = ["assemble_dual", "dual"]
