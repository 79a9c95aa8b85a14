"""Many samples around an input, or on the way to it, explained in the trips of one ONNX Loop.

The body holds the whole explanation graph, weights included: onnxruntime then optimises it like a graph of its own,
and the memory in use does not grow with the number of samples. Trip 0 runs the input itself: the model's outputs and
the class to explain come from it, so that the weights are in the file once. Every later trip runs `lanes` samples as
one batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import onnx
from onnx import TensorProto, helper

from .draft import Dim, captured, rename_inputs
from .emit import Emit
from .graph import LOOP, Value, append, declared, variable
from .passes.shapes import tensor_type
from .scene import Stage

Opened: TypeAlias = tuple[Value, ...]

INSIDE = ("initializer", "sparse_initializer", "quantization_annotation")
"""What moves into the body with the nodes."""


@dataclass(frozen=True)
class Sampling:
    """How an input is sampled, and what becomes of the maps M_1 ... M_m.

    count: stage -> m, 1-D int64 of one element. open: (stage, x) -> what the samples of x are made of; both are
    computed once, before the loop. point: (g, x, opened, k) -> samples number k (1-D int64, [l]) of every row of x:
    (l, N, ...). scale: (g, x, opened, maps, k) -> maps (l, N, ...) times their weights. finish: (g, x, opened, means)
    -> attribution; means[i] = 1/m Σ M^p for p = moments[i]; centred: of M - M_0 in place of M, M_0 the map of x itself,
    so that a variance is no difference of large numbers. lanes: samples a trip. also: (g, x, opened, k, first) ->
    tensors that the method left open, by name, for the lanes of a trip (first: 1 on trip 0, which has the lane of x
    itself, else 0).
    """

    count: Callable[[Stage], Value]
    open: Callable[[Stage, Value], Opened]
    point: Callable[[Emit, Value, Opened, Value], Value]
    finish: Callable[[Emit, Value, Opened, Sequence[Value]], Value]
    moments: tuple[int, ...] = (1,)
    centred: bool = False
    lanes: int = 4
    scale: Callable[[Emit, Value, Opened, Value, Value], Value] | None = None
    also: Callable[[Emit, Value, Opened, Value, Value], Mapping[str, Value]] | None = None


@dataclass(frozen=True)
class Inner:
    """The explanation graph of one batch, its weights aside.

    maps: its attribution outputs, one a seed and explained input, the inputs varying fastest. chosen: its output
    that says which classes were explained, int64 (rows, 1), or None. added: inputs that the target gives it.
    Maps have the rows of the lanes; their other sizes are their own.
    """

    model: onnx.ModelProto
    maps: tuple[str, ...]
    chosen: str | None
    added: tuple[Value, ...]


@dataclass(frozen=True)
class _State:
    """A loop-carried tensor: its first value, its value entering the body and leaving it."""

    name: str
    first: Value
    before: Value
    after: str

    @property
    def kind(self) -> int:
        return int(helper.np_dtype_to_tensor_dtype(np.dtype(self.before.dtype)))


class Loop:
    """The loop around an inner explanation graph."""

    def __init__(self, stage: Stage, sampling: Sampling, inner: Inner) -> None:
        self.g, self.body = Emit(stage.graph, "lanes"), Emit(stage.graph, "lane")
        self.stage, self.sampling, self.inner = replace(stage, g=self.g), sampling, inner
        batch = stage.wrt[0].shape[0]
        rows = any(value.name == "cotangent" for value in inner.added)
        # Cotangents may be any number of rows of one sample.
        self.lanes = 1 if rows or not grows(stage) else sampling.lanes
        self.batched = [x for x in stage.graph.inputs if x.shape and (x.shape[0] == batch or x in stage.wrt)]
        self.beside = list(stage.inputs)
        """Inputs of the method inside, of one row or as many as x."""
        self.renamed: dict[str, str] = {}
        """Tensors of the inner graph that have another name in the body."""
        self.count = sampling.count(self.stage)
        self.opened = {x.name: sampling.open(self.stage, x) for x in stage.wrt}
        self.classes = None if inner.chosen is None else self._state("class", self._classes())
        given = {x.name for x in stage.graph.inputs}
        self.outputs = {
            y.name: self._state(f"out/{y.name}", self.g.constant(_nothing(y)))
            for y in stage.graph.outputs
            if y.name not in given  # an input handed out is there already
        }
        zeros = [self.g.number(0.0, self._x(i)) for i in range(len(inner.maps))]
        self.sums = [
            [self._state(f"sum_{i}_{p}", zero) for p in sampling.moments] for i, zero in enumerate(zeros)
        ]
        self.centres = [self._state(f"own_{i}", zero) for i, zero in enumerate(zeros) if sampling.centred]

    def _name(self, name: str) -> str:
        return f"{self.body.scope}/{name}"

    def _state(self, name: str, first: Value) -> _State:
        before = variable(self._name(f"{name}/before"), first.dtype, None)
        return _State(name, first, before, self._name(f"{name}/after"))

    @property
    def states(self) -> list[_State]:
        classes = [] if self.classes is None else [self.classes]
        sums = (state for states in self.sums for state in states)
        return [*classes, *self.outputs.values(), *self.centres, *sums]

    def _x(self, i: int) -> Value:
        """The explained input that map number i belongs to."""
        return self.stage.wrt[i % len(self.stage.wrt)]

    def _classes(self) -> Value:
        given = next((value for value in self.inner.added if value.name == "target"), None)
        x, whole = self.stage.wrt[0], self.stage.graph.rows.whole
        rows = self.g.ints(1, 1) if whole else self.g.join(self.g.rows(x), self.g.ints(1))
        return given if given is not None else self.g.Expand(self.g.ints(-1), rows)

    def run(self) -> tuple[onnx.ModelProto, list[Value]]:
        """The outer model up to the loop, without its outputs' explanation, and the finished attributions, one a
        seed and input; their nodes are in `self.g`."""
        g, stage = self.g, self.stage
        trips = g.Add(g.Div(g.Add(self.count, g.ints(self.lanes - 1)), g.ints(self.lanes)), g.ints(1))
        own = {state.name: name for name, state in self.outputs.items()}
        names = [own.get(state.name, f"{g.scope}/{state.name}") for state in self.states]
        results = [variable(f"{g.scope}/{s.name}", s.first.dtype) for sums in self.sums for s in sums]
        node = helper.make_node(
            "Loop", [g.Squeeze(trips).name, "", *(s.first.name for s in self.states)], names, LOOP
        )
        node.attribute.append(helper.make_attribute("body", self._body()))
        model = onnx.ModelProto()
        model.CopyFrom(self.inner.model)
        for field in ("node", "output", "value_info", *INSIDE):
            model.graph.ClearField(field)
        model.graph.output.extend(stage.graph.draft.graph.output)
        before, g.nodes = g.nodes, []
        inside = captured(node) | set(node.input)
        append(model.graph, stage.graph, before, reads=[c for c in g.constants if c.name in inside])
        model.graph.node.append(node)
        return model, self._finished(results)

    def _finished(self, results: Sequence[Value]) -> list[Value]:
        g, finished, each = self.g, [], len(self.sampling.moments)
        for i in range(len(self.sums)):
            x, sums = self._x(i), results[i * each : (i + 1) * each]
            means = [g.Div(total, g.cast(self.count, x)) for total in sums]
            value = self.sampling.finish(g, x, self.opened[x.name], means)
            value.shape = self._map(i).shape
            finished.append(value)
        return finished

    def _map(self, i: int) -> Value:
        """Map number i of the inner graph."""
        name = self.inner.maps[i]
        info = next(value for value in self.inner.model.graph.output if value.name == name)
        return variable(name, self._x(i).dtype, tensor_type(info).shape)

    def _body(self) -> onnx.GraphProto:
        g = self.body
        trip = variable(self._name("trip"), np.dtype(np.int64), [])
        go = variable(self._name("go"), np.dtype(bool), [])
        i = g.Reshape(trip, g.ints(1))
        first = g.Cast(g.Equal(i, g.ints(0)), to=TensorProto.INT64)
        start = g.Mul(g.Sub(g.Add(i, first), g.ints(1)), g.ints(self.lanes))
        k = g.Range(g.Squeeze(start), g.Squeeze(g.Min(g.Mul(i, g.ints(self.lanes)), self.count)), g.scalar(1))
        width = g.Add(first, g.Shape(k))
        entering = {x.name: self._samples(x, k, first, width) for x in self.batched}
        entering |= {x.name: self._repeated(x, self._copies(x, width)) for x in self.beside if self.lanes > 1}
        if self.sampling.also is not None:
            for x in self.stage.wrt:
                entering |= self.sampling.also(g, x, self.opened[x.name], k, first)
        if self.classes is not None:
            tiled = self._repeated(self.classes.before, width)
            entering["target"] = tiled
        prologue, g.nodes = g.nodes, []
        leaving = self._sums(k, first, width)
        if self.classes is not None:
            rows = g.rows(self.stage.wrt[0])
            leaving[self.classes.after] = g.Slice(_int64(self.inner.chosen), g.ints(0), rows, g.ints(0))
        body = onnx.GraphProto(name="lanes")
        for field in INSIDE:
            getattr(body, field).extend(getattr(self.inner.model.graph, field))
        append(body, self.stage.graph, prologue, outer=self.g.scope)
        body.node.extend(self._inner_nodes({name: value.name for name, value in entering.items()}))
        body.value_info.extend(self._rows(entering))
        at_start = g.Cast(first, to=TensorProto.BOOL)
        append(body, self.stage.graph, g.nodes, outer=self.g.scope)
        body.node.extend(_identity(value.name, name) for name, value in leaving.items())
        body.node.extend(self._kept(at_start))
        body.node.append(_identity(go.name, self._name("go_on")))
        return self._declared(body, trip, go)

    def _rows(self, entering: Mapping[str, Value]) -> list[onnx.ValueInfoProto]:
        """The stated types, under another name for the rows: a trip has not as many as the input."""
        found = [*self.inner.model.graph.value_info]
        found += [declared(variable(entering[x.name].name, x.dtype, x.shape)) for x in self.batched]
        for value in found:
            lead = value.type.tensor_type.shape.dim[0]
            if lead.dim_param in self.rows:
                lead.dim_param = self.rows[lead.dim_param]
        return found

    @property
    def rows(self) -> dict[Dim, str]:
        """What the rows of x are called in the body."""
        rows = self.stage.wrt[0].shape[0]
        return {rows: self._name("rows")} if isinstance(rows, str) else {}

    def _samples(self, x: Value, k: Value, first: Value, width: Value) -> Value:
        """The rows of one trip: on trip 0 x itself, later the samples k; an input that is not explained is
        repeated."""
        if x.name not in self.opened:
            return self._repeated(x, width)
        g = self.body
        itself = g.Slice(g.Unsqueeze(x, g.ints(0)), g.ints(0), first, g.ints(0))
        points = self.sampling.point(g, x, self.opened[x.name], k)
        return g.shaped(g.Concat(itself, points, axis=0), x)

    def _repeated(self, x: Value, width: Value) -> Value:
        """x once for every lane of the trip."""
        g = self.body
        ones = g.ints(*[1] * len(x.shape or (1, 1)))
        rows = g.Expand(g.Unsqueeze(x, g.ints(0)), g.Concat(width, ones, axis=0))
        return g.shaped(rows, x) if x.shape else g.Reshape(rows, g.ints(-1, 1))

    def _copies(self, x: Value, width: Value) -> Value:
        """1 where the fed tensor has one row for all, else one copy a lane."""
        g = self.body
        return g.Where(g.Equal(g.rows(x), g.ints(1)), g.ints(1), width)

    def _sums(self, k: Value, first: Value, width: Value) -> dict[str, Value]:
        """State name -> the sum so far, with this trip's lanes; the map of trip 0 does not count."""
        g, found = self.body, {}
        for i in range(len(self.inner.maps)):
            x, m = self._x(i), self._map(i)
            rows = g.Reshape(m, g.Concat(width, g.ints(-1), g.rest(m), axis=0))
            lanes = g.Slice(rows, first, g.ints(np.iinfo(np.int64).max), g.ints(0))
            if self.centres:
                centre, lane = (
                    self.centres[i],
                    g.Squeeze(g.Slice(rows, g.ints(0), g.ints(1), g.ints(0)), g.ints(0)),
                )
                own = g.Where(g.Cast(first, to=TensorProto.BOOL), lane, centre.before)
                found[centre.after], lanes = own, g.Sub(lanes, own)
            if self.sampling.scale is not None:
                lanes = self.sampling.scale(g, x, self.opened[x.name], lanes, k)
            for p, state in zip(self.sampling.moments, self.sums[i], strict=True):
                power = lanes if p == 1 else g.Pow(lanes, float(p))
                found[state.after] = g.Add(state.before, g.ReduceSum(power, g.ints(0), keepdims=0))
        return found

    def _kept(self, at_start: Value) -> list[onnx.NodeProto]:
        """The model's outputs: those of trip 0, handed through by the others."""
        nodes = []
        for name, state in self.outputs.items():
            branches = {}
            sources = (("then_branch", self._name(f"out/{name}")), ("else_branch", state.before.name))
            for branch, source in sources:
                result = f"{state.after}/{branch}"
                value = helper.make_value_info(result, helper.make_tensor_type_proto(state.kind, None))
                branches[branch] = helper.make_graph([_identity(source, result)], branch, [], [value])
            nodes.append(helper.make_node("If", [at_start.name], [state.after], **branches))
        return nodes

    def _inner_nodes(self, entering: dict[str, str]) -> list[onnx.NodeProto]:
        """The inner nodes with the names that the outer graph uses too exchanged."""
        graph = onnx.GraphProto()
        graph.node.extend(self.inner.model.graph.node)
        made = {name for node in graph.node for name in node.output}
        names = {name: self._name(f"out/{name}") for name in self.outputs}
        self.renamed = entering | {old: new for old, new in names.items() if old in made}
        rename_inputs(graph, self.renamed)
        for node in graph.node:
            for i, name in enumerate(node.output):
                if name in self.outputs:
                    node.output[i] = names[name]
        # An output that no node makes is a parameter.
        return [*graph.node, *(_identity(old, new) for old, new in names.items() if old not in made)]

    def _declared(self, body: onnx.GraphProto, trip: Value, go: Value) -> onnx.GraphProto:
        body.input.append(helper.make_tensor_value_info(trip.name, TensorProto.INT64, []))
        body.input.append(helper.make_tensor_value_info(go.name, TensorProto.BOOL, []))
        body.output.append(helper.make_tensor_value_info(self._name("go_on"), TensorProto.BOOL, []))
        for state in self.states:
            body.input.append(helper.make_tensor_value_info(state.before.name, state.kind, None))
            body.output.append(helper.make_tensor_value_info(state.after, state.kind, None))
        return body


def grows(stage: Stage) -> bool:
    """Whether the lanes of a trip can be one long batch. A batch that is fixed cannot grow, and of an input whose
    rows may or may not be those of the batch nobody knows whether it takes part."""
    leads = [x.shape[0] if x.shape else None for x in stage.graph.inputs if x.shape != []]
    batch = stage.wrt[0].shape[0]
    one = batch is not None or len(leads) == 1
    known = all(isinstance(lead, int) or lead == batch for lead in leads)
    return one and known and all(not isinstance(x.shape[0], int) for x in stage.wrt)


def _nothing(y: Value) -> np.ndarray:
    """What a state that carries y starts with."""
    dtype = np.dtype(y.dtype)
    return np.asarray("", object) if dtype.kind in "OSU" else np.zeros((), dtype)


def _int64(name: str | None) -> Value:
    return variable(name or "", np.dtype(np.int64), None)


def _identity(source: str, result: str) -> onnx.NodeProto:
    return helper.make_node("Identity", [source], [result])
