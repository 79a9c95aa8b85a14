"""Where a result that says nothing came from: the file is run once more, with a look at every tensor in it.

Every floating-point tensor t gets Σ 0·t + sign Σ|t|: NaN where t is not finite, 0 where it is zero everywhere, else 1.
From the result the walk goes back to the node that made it zero, or not finite, out of inputs that are not. Samples are
trips of a loop: the walk goes on inside, in the trip that shows it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from ..rewriter.card import Card
from ..rewriter.draft import draft
from ..rewriter.errors import ExplainError
from ..rewriter.graph import LOOP
from ..rewriter.respell import respell
from .lanes import Split
from .session import Arrays, run
from .telling import NOT_FINITE, ZERO, Finding

if TYPE_CHECKING:
    from .explainer import Explainer

Array = npt.NDArray[np.generic]
Run = Callable[[onnx.ModelProto, Sequence[str]], Arrays]
"""(model, its outputs to compute) -> their values, with the feeds that the result came from."""

EMITTED = re.compile(r"(?:low/)?(?:bwd|lane)_*/(?:(.*)/)?[^/]+", re.DOTALL)
"""Names of emitted nodes, as written and as spelled for a provider; the group is the forward node."""
STARTS = frozenset({"target", "classes"})
"""What emitted nodes that choose the start are named after."""
STATES = "onnxplain/traced"
FLOATS = frozenset({TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16})
INPUT = "Input"
"""Stands for a tensor that no node makes."""
MOST = 3
"""Nodes that are named."""


def explained(
    explainer: Explainer, findings: Sequence[Finding], feeds: Mapping[str, Array], split: Split
) -> tuple[Finding, ...]:
    """The findings with their reasons. The first row of each is run once more."""
    spelled = respell(explainer.model, explainer.table)
    found: list[Finding] = []
    for finding in findings:
        row = one_row(finding, feeds, split)
        unfit = sorted(name for name, x in row.items() if x.dtype.kind == "f" and not np.isfinite(x).all())
        if unfit and finding.kind == NOT_FINITE:
            found.append(replace(finding, why=f"the input {unfit[0]!r} holds NaN or infinity"))
            continue

        def again(model: onnx.ModelProto, names: Sequence[str], row: Mapping[str, Array] = row) -> Arrays:
            return run(explainer.open_like(model), row, names)

        try:
            why = trace(spelled, explainer.card, finding.output, finding.kind, again)
        except (ExplainError, onnx.shape_inference.InferenceError) as error:
            why = f"where from could not be found out ({' '.join(str(error).split())[:200]})"
        found.append(replace(finding, why=why))
    return tuple(found)


def one_row(finding: Finding, feeds: Mapping[str, Array], split: Split) -> dict[str, Array]:
    """What the first row of the finding came from, where the rows can be run apart."""
    cut = {name for name in split.inputs if name in feeds and feeds[name].ndim}
    counts = {len(feeds[name]) for name in cut}
    if split.obstacle or len(counts) != 1 or finding.output not in split.outputs:
        return dict(feeds)
    at = finding.rows[0] * counts.pop() // finding.of
    return {name: x[at : at + 1] if name in cut else x for name, x in feeds.items()}


def trace(model: onnx.ModelProto, card: Card, output: str, kind: str, run: Run) -> str:
    """Why `output` is zero or not finite, in words: the nodes at which it became so."""
    traced = probed(model)
    values = run(traced.model, traced.names)
    graphs = _graphs(traced, values)
    bad = _is_nan if kind == NOT_FINITE else _is_zero
    ends = _Walk(graphs, bad, _moving(model, card) if kind == ZERO else None).ends(output)
    if not ends:
        return ""
    if kind == NOT_FINITE:
        return f"it begins at {_named(ends[0], card)}, whose inputs are finite"
    said = list(dict.fromkeys(_blame(node, card) for node in ends))
    more = f", and {len(said) - MOST} more" if len(said) > MOST else ""
    return f"{', '.join(said[:MOST])}{more}{_closed(card)}"


@dataclass(frozen=True)
class Traced:
    """The model with a tensor of states a graph, `names`; tensors: what the states are of, likewise."""

    model: onnx.ModelProto
    names: list[str]
    tensors: list[list[str]]


def probed(model: onnx.ModelProto) -> Traced:
    """A copy with states of all floating-point tensors, those in the body of a loop among them."""
    made, kinds = onnx.ModelProto(), _kinds(model)
    made.CopyFrom(model)
    names, tensors = [STATES], [_probe(made.graph, kinds, STATES)]
    made.graph.output.append(helper.make_tensor_value_info(STATES, TensorProto.FLOAT, None))
    for i, loop in enumerate(_loops(made.graph)):
        name = f"{STATES}/{i}"
        body = loop.attribute[0].g
        inner = _probe(body, kinds, f"{name}/body")
        body.output.append(helper.make_tensor_value_info(f"{name}/body", TensorProto.FLOAT, [len(inner)]))
        loop.output.append(name)
        made.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
        names.append(name)
        tensors.append(inner)
    return Traced(made, names, tensors)


def _loops(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    return [node for node in graph.node if node.op_type == "Loop" and node.name == LOOP]


def _kinds(model: onnx.ModelProto) -> dict[str, int]:
    """Element types by name, as far as they can be inferred without weights."""
    inferred = onnx.shape_inference.infer_shapes(draft(model).closed())
    found: dict[str, int] = {}
    for graph in (inferred.graph, *(loop.attribute[0].g for loop in _loops(inferred.graph))):
        for value in (*graph.value_info, *graph.input, *graph.output):
            found[value.name] = value.type.tensor_type.elem_type
        found |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    return found


def _probe(graph: onnx.GraphProto, kinds: Mapping[str, int], name: str) -> list[str]:
    """Add the nodes; `name` is the tensor of states."""
    tensors = [value.name for value in graph.input]
    tensors += [y for node in graph.node for y in node.output if y]
    tensors = [t for t in tensors if kinds.get(t) in FLOATS]
    parts = []
    for i, t in enumerate(tensors):
        at = f"{name}:{i}"
        zero = f"{STATES}/zero/{kinds[t]}/{name}"
        if not any(tensor.name == zero for tensor in graph.initializer):
            dtype = helper.tensor_dtype_to_np_dtype(kinds[t])
            graph.initializer.append(numpy_helper.from_array(np.zeros((), dtype), zero))
        graph.node.extend(
            [
                helper.make_node("Mul", [t, zero], [f"{at}/nothing"]),
                helper.make_node("ReduceSum", [f"{at}/nothing"], [f"{at}/finite"], keepdims=0),
                helper.make_node("Abs", [t], [f"{at}/size"]),
                helper.make_node("ReduceSum", [f"{at}/size"], [f"{at}/sum"], keepdims=0),
                helper.make_node("Sign", [f"{at}/sum"], [f"{at}/any"]),
                helper.make_node("Add", [f"{at}/finite", f"{at}/any"], [f"{at}/state"]),
                helper.make_node("Cast", [f"{at}/state"], [f"{at}/float"], to=TensorProto.FLOAT),
                helper.make_node("Reshape", [f"{at}/float", f"{STATES}/one/{name}"], [f"{at}/part"]),
            ]
        )
        parts.append(f"{at}/part")
    graph.initializer.append(numpy_helper.from_array(np.asarray([1]), f"{STATES}/one/{name}"))
    if not parts:
        graph.initializer.append(numpy_helper.from_array(np.zeros(1, np.float32), f"{name}/none"))
        parts.append(f"{name}/none")
    graph.node.append(helper.make_node("Concat", parts, [name], axis=0))
    return tensors


@dataclass(frozen=True)
class _Level:
    """A graph with the states of its tensors: (trips, tensors), one trip outside of loops."""

    graph: onnx.GraphProto
    states: Mapping[str, npt.NDArray[np.floating]]
    makers: Mapping[str, int]
    """Tensor -> the number of its node."""


def _graphs(traced: Traced, values: Mapping[str, Array]) -> list[_Level]:
    graphs = [traced.model.graph, *(loop.attribute[0].g for loop in _loops(traced.model.graph))]
    levels = []
    for graph, name, tensors in zip(graphs, traced.names, traced.tensors, strict=True):
        table = np.asarray(values[name], np.float32).reshape(-1, max(1, len(tensors)))
        makers = {y: i for i, node in enumerate(graph.node) for y in node.output if y}
        levels.append(_Level(graph, {t: table[:, k] for k, t in enumerate(tensors)}, makers))
    return levels


def _is_nan(states: npt.NDArray[np.floating]) -> npt.NDArray[np.bool_]:
    return np.asarray(~np.isfinite(states))


def _is_zero(states: npt.NDArray[np.floating]) -> npt.NDArray[np.bool_]:
    return np.asarray(states == 0)


@dataclass
class _Walk:
    """From a tensor back to the nodes that made it `bad` out of inputs that are not.

    follow: the tensors that cotangents are made of. Where a node reads some, the others (recorded values, masks) are
    allowed to be zero: it is the cotangent that is followed.
    """

    levels: Sequence[_Level]
    bad: Callable[[npt.NDArray[np.floating]], npt.NDArray[np.bool_]]
    follow: Collection[str] | None
    seen: set[tuple[int, str]] = field(default_factory=set)

    def ends(self, output: str) -> list[onnx.NodeProto]:
        """In the order of the graph; of a loop, those inside."""
        found: dict[tuple[int, int], onnx.NodeProto] = {}
        rest = [(0, 0, output)]
        while rest:
            level, trip, name = rest.pop()
            if (level, name) in self.seen:
                continue
            self.seen.add((level, name))
            at = self.levels[level].makers.get(name)
            if at is None:
                if level == 0:
                    found[-1, len(found)] = helper.make_node(INPUT, [], [name], name)
                continue
            node = self.levels[level].graph.node[at]
            inside = list(self._inside(level, node, name))
            before = inside or [(level, trip, x) for x in self._before(level, trip, node)]
            rest += before
            if not before:
                found[level, at] = self._factor(level, trip, node)
        return [found[key] for key in sorted(found)]

    def _inside(self, level: int, node: onnx.NodeProto, name: str) -> Iterator[tuple[int, int, str]]:
        """The tensor of the body that becomes this output of a loop, in the first trip where it is bad."""
        if node.op_type != "Loop" or node.name != LOOP:
            return
        body = self.levels[level + 1]
        inner = body.graph.output[list(node.output).index(name) + 1].name
        states = body.states.get(inner)
        trips = np.flatnonzero(self.bad(states)) if states is not None else np.zeros(0, int)
        if trips.size:
            yield level + 1, int(trips[0]), inner

    def _before(self, level: int, trip: int, node: onnx.NodeProto) -> list[str]:
        """The inputs that are bad already; none where the node itself is the end."""
        known = {x: self._bad(level, trip, x) for x in node.input if x}
        if self.follow is None:
            return [x for x, bad in known.items() if bad]
        live = [x for x in known if x in self.follow and known[x] is not None]
        if live and not all(known[x] for x in live):
            return []
        return live or [x for x, bad in known.items() if bad]

    def _factor(self, level: int, trip: int, node: onnx.NodeProto) -> onnx.NodeProto:
        """Who is to blame for a product that is zero: the maker of its recorded factor, a mask or an activation."""
        if self.follow is None or node.op_type != "Mul" or _place(node) in STARTS:
            return node
        for x in (x for x in node.input if x not in self.follow):
            if self._bad(level, trip, x):
                return self._source(level, trip, x)
            at = self.levels[level].makers.get(x)
            if at is not None and _place(self.levels[level].graph.node[at]):
                return self.levels[level].graph.node[at]
        return node

    def _source(self, level: int, trip: int, name: str) -> onnx.NodeProto:
        """The node at which a tensor that is zero began to be so, or the input."""
        here = self.levels[level]
        while name in here.makers:
            maker = here.graph.node[here.makers[name]]
            known = {x: self._bad(level, trip, x) for x in maker.input if x}
            if True not in known.values() or (False in known.values() and maker.op_type != "Mul"):
                return maker
            name = next(x for x, bad in known.items() if bad)
        return helper.make_node(INPUT, [], [name], name)

    def _bad(self, level: int, trip: int, name: str) -> bool | None:
        """None for a tensor without a state: weights, integers."""
        for at in range(level, -1, -1):
            states = self.levels[at].states.get(name)
            if states is not None:
                return bool(self.bad(states[trip if at == level and len(states) > trip else 0]))
        return None


def _moving(model: onnx.ModelProto, card: Card) -> set[str]:
    """Tensors that depend on where the backward pass starts: what is fed for it, or the nodes that choose a class."""
    live = {name for name in card.inputs if name.split("/")[0] not in ("noise", "baseline", "references")}
    for graph in (model.graph, *(loop.attribute[0].g for loop in _loops(model.graph))):
        for node in graph.node:
            starts = (_place(node) or "").split("/")[0] in STARTS
            if starts or live & set(node.input):
                live.update(y for y in node.output if y)
    return live


def _place(node: onnx.NodeProto) -> str | None:
    """The forward node that an emitted one belongs to, "" for those of the readout; None for a forward node."""
    match = EMITTED.fullmatch(node.name)
    return None if match is None else match[1] or ""


def _blame(node: onnx.NodeProto, card: Card) -> str:
    """What made the result zero."""
    if node.op_type == INPUT:
        return f"the input {node.name!r} is zero"
    if _place(node) in STARTS:
        return "it starts with zero: the explained value is 0, or there is no such class"
    return f"nothing comes through {_named(node, card)}"


def _named(node: onnx.NodeProto, card: Card) -> str:
    """An emitted node by the forward node that it belongs to, as a message can point at it."""
    at = _place(node)
    if at is None:
        return f"{node.op_type} at {node.name!r} of the model itself"
    if not at:
        return f"{node.op_type} at {node.name!r}, of the readout"
    rule = card.rules.get(at)
    return f"{node.op_type} at {at!r}" + (f" (rule {rule})" if rule else "")


def _closed(card: Card) -> str:
    """Nodes at which the method stops by design, which the card has a note of and no rule for."""
    notes = []
    for note in card.approximations:
        match = re.match(r"\S+ at (.+?): ", note)
        if match is not None and not any(name in card.rules for name in match[1].split(", ")):
            notes.append(note)
    return f"; {'; '.join(notes[:MOST])}" if notes else ""


__all__ = ["Traced", "explained", "one_row", "probed", "trace"]
