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

from .draft import captured, rename_inputs
from .emit import Emit
from .graph import LOOP, Value, append, variable
from .scene import Stage

Opened: TypeAlias = tuple[Value, ...]


@dataclass(frozen=True)
class Sampling:
    """How an input is sampled, and what becomes of the maps M_1 ... M_m.

    count: stage -> m, 1-D int64 of one element. open: (stage, x) -> what the samples of x are made of; both are
    computed once, before the loop. point: (g, x, opened, k) -> samples number k (1-D int64, [l]) of every row of x:
    (l, N, ...). scale: (g, x, maps, k) -> maps (l, N, ...) times their weights. finish: (g, x, opened, means) ->
    attribution; means[i] = 1/m Σ M^p for p = moments[i]. lanes: samples a trip. also: (g, x, opened, k, first) ->
    tensors that the method left open, by name, for the lanes of a trip (first: 1 on trip 0, which has the lane of x
    itself, else 0).
    """

    count: Callable[[Stage], Value]
    open: Callable[[Stage, Value], Opened]
    point: Callable[[Emit, Value, Opened, Value], Value]
    finish: Callable[[Emit, Value, Opened, Sequence[Value]], Value]
    moments: tuple[int, ...] = (1,)
    lanes: int = 4
    scale: Callable[[Emit, Value, Value, Value], Value] | None = None
    also: Callable[[Emit, Value, Opened, Value, Value], Mapping[str, Value]] | None = None


@dataclass(frozen=True)
class Inner:
    """The explanation graph of one batch, its weights aside.

    maps: its attribution outputs, one a seed and explained input, the inputs varying fastest. chosen: its output
    that says which classes were explained, int64 (rows, 1), or None. added: inputs that the target gives it.
    """

    model: onnx.ModelProto
    maps: tuple[str, ...]
    chosen: str | None
    added: tuple[Value, ...]


@dataclass(frozen=True)
class _State:
    """A loop-carried tensor: its first value, its value entering the body and leaving it."""

    first: Value
    before: Value
    after: str

    @property
    def kind(self) -> int:
        return int(helper.np_dtype_to_tensor_dtype(np.dtype(self.before.dtype)))


def _state(name: str, first: Value) -> _State:
    return _State(first, variable(f"lane/{name}/before", first.dtype, None), f"lane/{name}/after")


class Loop:
    """The loop around an inner explanation graph."""

    def __init__(self, stage: Stage, sampling: Sampling, inner: Inner) -> None:
        self.g, self.body = Emit(stage.graph, "lanes"), Emit(stage.graph, "lane")
        self.stage, self.sampling, self.inner = replace(stage, g=self.g), sampling, inner
        batch = stage.wrt[0].shape[0]
        rows = any(value.name == "cotangent" for value in inner.added)
        # A batch that is fixed cannot grow lanes; cotangents may be any number of rows of one sample.
        self.lanes = 1 if rows or isinstance(batch, int) else sampling.lanes
        self.batched = [x for x in stage.graph.inputs if x.shape and (x.shape[0] == batch or x in stage.wrt)]
        self.count = sampling.count(self.stage)
        self.opened = {x.name: sampling.open(self.stage, x) for x in stage.wrt}
        self.classes = None if inner.chosen is None else _state("class", self._classes())
        self.outputs = {
            y.name: _state(f"out/{y.name}", self.g.constant(np.zeros((), y.dtype)))
            for y in stage.graph.outputs
        }
        self.sums = [
            [_state(f"sum_{i}_{p}", self.g.number(0.0, self._x(i))) for p in sampling.moments]
            for i in range(len(inner.maps))
        ]

    @property
    def states(self) -> list[_State]:
        classes = [] if self.classes is None else [self.classes]
        return [*classes, *self.outputs.values(), *(state for sums in self.sums for state in sums)]

    def _x(self, i: int) -> Value:
        """The explained input that map number i belongs to."""
        return self.stage.wrt[i % len(self.stage.wrt)]

    def _classes(self) -> Value:
        given = next((value for value in self.inner.added if value.name == "target"), None)
        rows = self.g.join(self.g.rows(self.stage.wrt[0]), self.g.ints(1))
        return given if given is not None else self.g.Expand(self.g.ints(-1), rows)

    def run(self) -> tuple[onnx.ModelProto, list[Value]]:
        """The outer model up to the loop, without its outputs' explanation, and the finished attributions, one a
        seed and input; their nodes are in `self.g`."""
        g, stage = self.g, self.stage
        trips = g.Add(g.Div(g.Add(self.count, g.ints(self.lanes - 1)), g.ints(self.lanes)), g.ints(1))
        results = [
            variable(f"lanes/sum_{n}", state.first.dtype)
            for n, state in enumerate(s for x in self.sums for s in x)
        ]
        names = ["lanes/class"] if self.classes is not None else []
        names += [*self.outputs, *(value.name for value in results)]
        node = helper.make_node(
            "Loop", [g.Squeeze(trips).name, "", *(s.first.name for s in self.states)], names, LOOP
        )
        node.attribute.append(helper.make_attribute("body", self._body()))
        model = onnx.ModelProto()
        model.CopyFrom(self.inner.model)
        model.graph.Clear()
        model.graph.name = stage.graph.draft.graph.name
        model.graph.input.extend(stage.graph.draft.graph.input)
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
            finished.append(self.sampling.finish(g, x, self.opened[x.name], means))
        return finished

    def _body(self) -> onnx.GraphProto:
        g = self.body
        trip, go = variable("lane/trip", np.dtype(np.int64), []), variable("lane/go", np.dtype(bool), [])
        i = g.Reshape(trip, g.ints(1))
        first = g.Cast(g.Equal(i, g.ints(0)), to=TensorProto.INT64)
        start = g.Mul(g.Sub(g.Add(i, first), g.ints(1)), g.ints(self.lanes))
        k = g.Range(g.Squeeze(start), g.Squeeze(g.Min(g.Mul(i, g.ints(self.lanes)), self.count)), g.scalar(1))
        width = g.Add(first, g.Shape(k))
        entering = {x.name: self._samples(x, k, first, width) for x in self.batched}
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
        body.initializer.extend(self.inner.model.graph.initializer)
        append(body, self.stage.graph, prologue, outer=self.g.scope)
        body.node.extend(self._inner_nodes({name: value.name for name, value in entering.items()}))
        at_start = g.Cast(first, to=TensorProto.BOOL)
        append(body, self.stage.graph, g.nodes, outer=self.g.scope)
        body.node.extend(_identity(value.name, name) for name, value in leaving.items())
        body.node.extend(self._kept(at_start))
        body.node.append(_identity(go.name, "lane/go_on"))
        return self._declared(body, trip, go)

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

    def _sums(self, k: Value, first: Value, width: Value) -> dict[str, Value]:
        """State name -> the sum so far, with this trip's lanes; the map of trip 0 does not count."""
        g, found = self.body, {}
        for i, name in enumerate(self.inner.maps):
            x = self._x(i)
            m = variable(name, x.dtype, x.shape)
            rows = g.Reshape(m, g.Concat(width, g.ints(-1), g.rest(x), axis=0))
            lanes = g.Slice(rows, first, g.ints(np.iinfo(np.int64).max), g.ints(0))
            if self.sampling.scale is not None:
                lanes = self.sampling.scale(g, x, lanes, k)
            for p, state in zip(self.sampling.moments, self.sums[i], strict=True):
                power = lanes if p == 1 else g.Pow(lanes, float(p))
                found[state.after] = g.Add(state.before, g.ReduceSum(power, g.ints(0), keepdims=0))
        return found

    def _kept(self, at_start: Value) -> list[onnx.NodeProto]:
        """The model's outputs: those of trip 0, handed through by the others."""
        nodes = []
        for name, state in self.outputs.items():
            branches = {}
            for branch, source in (("then_branch", f"lane/out/{name}"), ("else_branch", state.before.name)):
                result = f"{state.after}/{branch}"
                value = helper.make_value_info(result, helper.make_tensor_type_proto(state.kind, None))
                branches[branch] = helper.make_graph([_identity(source, result)], branch, [], [value])
            nodes.append(helper.make_node("If", [at_start.name], [state.after], **branches))
        return nodes

    def _inner_nodes(self, entering: dict[str, str]) -> list[onnx.NodeProto]:
        """The inner nodes with the names that the outer graph uses too exchanged."""
        graph = onnx.GraphProto()
        graph.node.extend(self.inner.model.graph.node)
        names = entering | {name: f"lane/out/{name}" for name in self.outputs}
        rename_inputs(graph, names)
        for node in graph.node:
            for i, name in enumerate(node.output):
                if name in self.outputs:
                    node.output[i] = names[name]
        return list(graph.node)

    def _declared(self, body: onnx.GraphProto, trip: Value, go: Value) -> onnx.GraphProto:
        body.input.append(helper.make_tensor_value_info(trip.name, TensorProto.INT64, []))
        body.input.append(helper.make_tensor_value_info(go.name, TensorProto.BOOL, []))
        body.output.append(helper.make_tensor_value_info("lane/go_on", TensorProto.BOOL, []))
        for state in self.states:
            body.input.append(helper.make_tensor_value_info(state.before.name, state.kind, None))
            body.output.append(helper.make_tensor_value_info(state.after, state.kind, None))
        return body


def _int64(name: str | None) -> Value:
    return variable(name or "", np.dtype(np.int64), None)


def _identity(source: str, result: str) -> onnx.NodeProto:
    return helper.make_node("Identity", [source], [result])
