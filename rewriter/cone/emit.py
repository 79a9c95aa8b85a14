"""The two files of a cone: one keeps the activations of an image, one computes what a window changes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ..draft import attributes
from ..emit import Emit
from ..errors import ModelError, OptionError
from ..graph import Value, assemble, declared, proto, variable, with_weights
from ..passes.share import share
from ..results import finish, vet
from ..scores import FILL, SCORES, Scored
from .crops import Crops
from .plan import Plan, Step, plan_cone
from .tables import Key, Table, tables

ROW, COLUMN, MEANS = "row", "column", "means"
METADATA = "onnxplain.cone"


@dataclass(frozen=True)
class Cone:
    """The compiled cone of one size of window.

    record: the model's input with one row -> `cells/i` (the tables) and `means/i` of the image. probe: these, `row` and
    `column` int64 (B,), the top left corner of each window, and `fill` (B, channels, height, width) -> `scores` (B, K),
    those of the copies with that window filled. All windows of a run must be of one group of rows and one of columns
    (`plan.groups`; the metadata entry "onnxplain.cone" has them for those who run the file elsewhere).
    """

    of: Scored
    plan: Plan

    @cached_property
    def tables(self) -> dict[Key, Table]:
        return tables(self.of, self.plan)

    @cached_property
    def means(self) -> list[Value]:
        """Outputs of global pools, which change by the mean of the change."""
        return [
            step.node.outputs[0] for step in self.plan.steps if step.kind is not None and step.kind.pooled
        ]

    @cached_property
    def nested(self) -> list[str]:
        """Nodes of the cone with subgraphs, which it cannot hold."""
        hidden = self.of.graph.hidden
        return [f"{step.node.op} {step.node.name!r}" for step in self.plan.steps if step.node.name in hidden]

    def record(self) -> onnx.ModelProto:
        of, g = self.of, Emit(self.of.graph, "cells_")
        results: list[Any] = []
        for table in self.tables.values():
            value = g.Transpose(of.graph.values[table.value], perm=table.axes.perm)
            pads = g.ints(0, *table.before, 0, 0, *table.behind, 0)
            padded = g.Pad(value, pads, g.number(table.outside, value), mode="constant")
            results.append(
                (table.name, g.Reshape(padded, g.ints(-1, table.channels)), [table.cells, table.channels])
            )
        results += [(f"{MEANS}/{i}", g.Identity(y), [1, *y.shape[1:]]) for i, y in enumerate(self.means)]
        infos = finish(g, results, set(of.graph.values), "portable")
        model = assemble(of.graph, g.nodes, infos, g.stated)
        del model.graph.output[:]
        model.graph.output.extend(infos)
        vet(model, of.graph)
        return with_weights(model, of.graph)

    def probe(self) -> onnx.ModelProto:
        of = self.of
        if self.nested:
            raise ModelError(f"{self.nested[0]} has a subgraph; run whole copies of the image, engine='full'")
        g = Emit(of.graph, "cone")
        dtype = of.x.dtype
        row, column = (variable(name, dtype=np.dtype(np.int64), shape=["B"]) for name in (ROW, COLUMN))
        channels = of.x.shape[of.channel_axis]
        fill = variable(FILL, dtype=dtype, shape=["B", channels, *self.plan.window])
        cells = {
            key: variable(t.name, dtype=of.graph.values[t.value].dtype, shape=[t.cells, t.channels])
            for key, t in self.tables.items()
        }
        means = [
            variable(f"{MEANS}/{i}", dtype=y.dtype, shape=[1, *y.shape[1:]]) for i, y in enumerate(self.means)
        ]
        inputs = [row, column, fill, *cells.values(), *means]
        crops = Crops(self.plan, g, self.tables, cells, row, column)
        crops.made[of.x.name] = crops.in_layout(fill, self.plan.local[of.x.name][1])
        self._steps(crops, dict(zip((y.name for y in self.means), means, strict=True)))
        read = of.read.name
        final = g.Identity(of.emit(g, crops.whole(read) if read in self.plan.local else crops.done[read]))
        final.name, final.shape, final.dtype = SCORES, ["B", None], dtype
        g.nodes, finals = share(g.nodes, [final])
        return self._file(g, inputs, finals)

    def _steps(self, crops: Crops, means: dict[str, Value]) -> None:
        stored = {node.name: attributes(node) for node in self.of.graph.draft.graph.node}
        for step in self.plan.steps:
            with crops.g.at(step.node.name):
                if step.kind is not None and step.kind.pooled:
                    _mean(crops, step, means[step.node.outputs[0].name])
                else:
                    _again(crops, step, stored[step.node.name])

    def _file(self, g: Emit, inputs: Sequence[Value], outputs: Sequence[Value]) -> onnx.ModelProto:
        source = self.of.graph.draft
        nodes = [proto(node) for node in g.nodes]
        made = {name for node in nodes for name in node.output} | {value.name for value in inputs}
        needed = {name for node in nodes for name in node.input if name} - made
        front = []
        for node in reversed(source.graph.node):
            if needed & set(node.output):
                front.append(node)
                needed |= {name for name in node.input if name}
        stored = source.light() | source.weights
        clash = sorted({value.name for value in (*inputs, *outputs)} & set(stored))
        if clash:
            raise OptionError(f"the model already has a tensor named {clash[0]!r}; rename it")
        model = onnx.ModelProto()
        model.ir_version = source.model.ir_version
        model.opset_import.extend(source.model.opset_import)
        graph = helper.make_graph([*front[::-1], *nodes], "cone", [], [])
        graph.input.extend(declared(value) for value in inputs)
        graph.output.extend(declared(value) for value in outputs)
        graph.initializer.extend(_constants(g, needed))
        model.graph.CopyFrom(graph)
        model.metadata_props.add(key=METADATA, value=self._about())
        model.graph.initializer.extend(tensor for name, tensor in stored.items() if name in needed)
        return model

    def _about(self) -> str:
        rows, columns = (group.label.tolist() for group in self.plan.groups)
        return json.dumps({"window": list(self.plan.window), "rows": rows, "columns": columns})


def _constants(g: Emit, needed: Iterable[str]) -> list[onnx.TensorProto]:
    wanted = set(needed)
    found: list[onnx.TensorProto] = []
    for value in g.constants:
        if value.name in wanted:
            array: Any = value
            found.append(numpy_helper.from_array(np.asarray(array.values), value.name))
    return found


def _again(crops: Crops, step: Step, attrs: dict[str, Any]) -> None:
    """The node on the cells of its canvas, or on everything."""
    node, kind, g = step.node, step.kind, crops.g
    inputs: list[Value | None] = []
    for x in node.inputs:
        if not x.name:
            inputs.append(None)
        elif x.name in crops.plan.local:
            canvas, outside = step.canvas, 0.0 if kind is None else kind.outside
            inputs.append(crops.whole(x.name) if canvas is None else crops.take(x.name, canvas, outside))
        else:
            inputs.append(crops.done.get(x.name, x))
    if kind is not None and kind.op == "":
        outputs: tuple[Value | None, ...] = (inputs[0],)
    else:
        settled = attrs if kind is None or kind.attrs is None else {**attrs, **kind.attrs}
        outputs = g.ops(node.op, *inputs, outputs=len(node.outputs), domain=node.domain or "", **settled)
    where = crops.done if kind is None else crops.made
    for y, value in zip(node.outputs, outputs, strict=True):
        if y.name and value is not None:
            value.dtype = y.dtype
            where[y.name] = value


def _mean(crops: Crops, step: Step, old: Value) -> None:
    """The mean of the image, and the mean of what has changed."""
    g, node = crops.g, step.node
    name = next(x.name for x in node.inputs if x.name in crops.plan.local)
    rows, columns = crops.plan.local[name][0].rows.length, crops.plan.local[name][0].columns.length
    total = g.ReduceSum(crops.change(name), g.ints(1, 2), keepdims=0)
    y = node.outputs[0]
    change = g.Reshape(g.Div(total, g.number(float(rows * columns), old)), g.ints(-1, *y.shape[1:]))
    crops.done[y.name] = g.Add(old, change)


def compile_cone(of: Scored, window: tuple[int, int], groups: tuple[int, int] = (1, 1)) -> Cone:
    """OptionError where the input is no picture of a fixed size. groups: see `plan_cone`."""
    return Cone(of, plan_cone(of, window, groups))


__all__ = ["COLUMN", "METADATA", "ROW", "Cone", "compile_cone"]
