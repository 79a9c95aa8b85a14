"""Which inputs are explained. Integers, pixels of 8 bits, tokens or categories, have no derivative: explained is the
first floating-point tensor that is made of them.

The graph is cut there. Up to the last step the compiler sees a model whose input is that tensor, so that loops,
references and views need to know nothing of it; then the nodes before the cut, the front, are put back.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import onnx
from google.protobuf.message import Message

from .draft import Draft, captured
from .errors import OptionError, TargetError, nearest
from .graph import LOOP, Graph, Node, Value, declared, link
from .passes.constants import drop_unread
from .passes.shapes import TensorType, infer

MOVES = frozenset("Transpose Reshape Flatten Squeeze Unsqueeze Slice Split Gather Identity Expand".split())
"""Operators that only move the numbers of their first input."""

M = TypeVar("M", bound=Message)


@dataclass(frozen=True)
class Entry:
    """Where numbers become floating-point. x: the integer input. tensor: what is explained. node: that makes it.
    table: rows of the embedding, 0 where the numbers themselves are meant."""

    x: Value
    tensor: Value
    node: Node
    table: int = 0

    @property
    def note(self) -> str:
        return (
            f"input {self.x.name!r} holds integers: explained is {self.tensor.name!r}, which {self.node.op} at "
            f"{self.node.name!r} makes of it"
        )


@dataclass(frozen=True)
class Front:
    """What was cut off. inputs: of the model, in order, as it declares them. nodes, tensors: before the cut. entries:
    by the explained tensor."""

    inputs: tuple[onnx.ValueInfoProto, ...]
    nodes: tuple[onnx.NodeProto, ...]
    tensors: tuple[onnx.TensorProto, ...]
    entries: dict[str, Entry]

    @property
    def places(self) -> dict[str, str]:
        """Explained tensor -> the input that it is made of."""
        return {name: entry.x.name for name, entry in self.entries.items()}

    def restore(self, model: onnx.ModelProto) -> None:
        """Put the front before the nodes of an emitted file, and the model's inputs in the place of the tensors."""
        graph = model.graph
        own = {value.name for value in self.inputs}
        added = [value for value in graph.input if value.name not in own | set(self.entries)]
        del graph.input[:]
        graph.input.extend([*self.inputs, *added])
        nodes = [*self.nodes, *graph.node]
        del graph.node[:]
        graph.node.extend(nodes)
        names = {tensor.name for tensor in self.tensors}
        for home in (graph, *(node.attribute[0].g for node in nodes if node.name == LOOP)):
            kept = [tensor for tensor in home.initializer if tensor.name not in names]
            del home.initializer[:]
            home.initializer.extend(kept)
        graph.initializer.extend(self.tensors)  # a loop's body reads them from here


def enter(graph: Graph, names: Sequence[str] | None) -> tuple[Graph, tuple[Value, ...], Front | None]:
    """The explained inputs: by name, or the first floating-point one of the highest rank; where a model has none, and
    for the names of others, what an integer input becomes. The graph is then cut there.

    Raises OptionError and TargetError for what cannot be explained.
    """
    floats = {x.name for x in graph.inputs if _is(x, "f")}
    whole = [name for name in names or () if name not in floats and not _enters(graph, name)]
    if whole or (floats if names is None else not set(names) - floats):
        return graph, tuple(explained_inputs(graph, names)), None
    entries = choose(graph, None if names is None else [name for name in names if name not in floats])
    graph, front = cut(graph, entries)
    places = {e.x.name: e.tensor.name for e in entries} | {name: name for name in front.entries}
    chosen = [places[entries[0].x.name]] if names is None else [places.get(name, name) for name in names]
    for name in chosen:
        _vet_axes(graph.values[name])
    return graph, tuple(graph.values[name] for name in chosen), front


def explained_inputs(graph: Graph, names: Sequence[str] | None) -> list[Value]:
    """The floating-point inputs to explain: by name, or the first one of the highest rank."""
    floats = {x.name: x for x in graph.inputs if _is(x, "f")}
    if names is None:
        if not floats:
            raise TargetError("the model has no floating-point input; there is nothing to explain")
        names = [max(floats.values(), key=lambda x: min(len(x.shape or ()), 4)).name]
    for name in names:
        if name not in floats:
            raise OptionError(
                f"no floating-point input {name!r}{nearest(name, floats)}; there is {', '.join(floats) or 'none'}"
            )
        _vet_axes(floats[name])
    return [floats[name] for name in names]


def _vet_axes(x: Value) -> None:
    if x.shape is None:
        raise TargetError(f"the rank of input {x.name!r} is unknown; fix its shape with shapes=")
    if not x.shape:
        raise TargetError(f"input {x.name!r} is a scalar: it has no batch axis to explain along")


def _enters(graph: Graph, name: str) -> bool:
    """Whether it is an integer input, or a tensor that one becomes."""
    numbers = [x for x in graph.inputs if _is(x, "iu")]
    return any(x.name == name or any(e.tensor.name == name for e in _entries(graph, x)) for x in numbers)


def choose(graph: Graph, names: Sequence[str] | None) -> list[Entry]:
    """The places to explain in front of integer inputs: by the name of the input or of its tensor, or the one that a
    model without floating-point inputs has first: of the highest rank, of the largest table.

    Raises OptionError for an input without such a place, with the reason.
    """
    known = {x.name: list(_entries(graph, x)) for x in graph.inputs if _is(x, "iu")}
    if names is None:
        found = [entries[0] for entries in known.values() if len({e.tensor.name for e in entries}) == 1]
        if not found:
            raise TargetError(_nothing(graph, known))
        return [max(found, key=lambda e: (min(len(e.tensor.shape or ()), 4), e.table))]
    tensors = {e.tensor.name: e for entries in known.values() for e in entries}
    chosen = []
    for name in names:
        if name in tensors:
            chosen.append(tensors[name])
        elif len(known.get(name, ())) == 1:
            chosen.append(known[name][0])
        elif known.get(name):
            places = ", ".join(e.tensor.name for e in known[name])
            raise OptionError(
                f"integer input {name!r} enters at several places; name one with inputs=: {places}"
            )
        else:
            raise OptionError(
                f"integer input {name!r} has no derivative, and no Cast, Gather or OneHot makes a floating-point "
                "tensor of it that could be explained in its place"
            )
    return chosen


def _nothing(graph: Graph, known: dict[str, list[Entry]]) -> str:
    several = {name: entries for name, entries in known.items() if entries}
    if several:
        name, entries = next(iter(several.items()))
        places = ", ".join(e.tensor.name for e in entries)
        return f"integer input {name!r} enters at several places; name one with inputs=: {places}"
    return (
        "the model has no floating-point input, and no Cast, Gather or OneHot makes one of an integer input: there is "
        "nothing to explain"
    )


def _entries(graph: Graph, x: Value) -> Iterator[Entry]:
    """Every place where x becomes floating-point, in the order of the nodes."""
    live = {x.name}
    for node in graph.nodes:
        if not node.inputs or not any(v.name in live for v in node.inputs) or not node.outputs:
            continue
        y, first = node.outputs[0], node.inputs[0].name in live
        if node.op in ("Cast", "DequantizeLinear") and first:
            if _is(y, "f"):
                yield Entry(x, y, node)
            elif _is(y, "iu"):
                live.add(y.name)
        elif node.op in ("Gather", "OneHot") and _is(y, "f"):
            indices = node.inputs[1 if node.op == "Gather" else 0].name
            if indices in live:  # what reads rows of a table by number
                yield Entry(x, y, node, _rows(node) if node.op == "Gather" else 1)
        elif node.op in MOVES and first:
            live.update(y.name for y in node.outputs if _is(y, "iu"))


def _rows(node: Node) -> int:
    shape = node.inputs[0].shape
    return int(shape[0]) if shape and isinstance(shape[0], int) else 1


def _is(value: Value, kinds: str) -> bool:
    return value.dtype is not None and np.dtype(value.dtype).kind in kinds


def cut(graph: Graph, entries: Sequence[Entry]) -> tuple[Graph, Front]:
    """The graph from the tensors of `entries` on, which become its inputs, and what was before them."""
    work, targets = graph.draft, {e.tensor.name: e for e in entries}
    front, needed = [], set(targets)
    for node in reversed(work.graph.node):
        if needed & set(node.output):
            front.append(node)
            needed |= {name for name in (*node.input, *captured(node)) if name}
    tensors = [t for t in (*work.graph.initializer, *work.weights.values()) if t.name in needed]
    before = _copies(front[::-1])
    nodes = _read(work.graph, [node for node in work.graph.node if not targets.keys() & set(node.output)])
    read = {name for node in nodes for name in (*node.input, *captured(node))} | set(targets)
    gone = {e.x.name for e in entries} - read - {value.name for value in work.graph.output}
    inputs = [value for value in work.graph.input if value.name not in gone]
    _rename(before, {name for node in nodes for name in node.output if name})
    kept = Front(tuple(_copies(work.graph.input)), tuple(before), tuple(tensors), targets)
    work.graph.ClearField("node")
    work.graph.node.extend(nodes)
    inputs = _copies(inputs)
    work.graph.ClearField("input")
    work.graph.input.extend([*inputs, *(declared(_counted(e)) for e in entries)])
    drop_unread(work)
    return link(work, _typed(work, graph)), kept


def _rename(front: list[onnx.NodeProto], taken: set[str]) -> None:
    """What is computed on both sides of the cut, once before it and once behind, has another name before."""
    names = {name: f"front/{name}" for node in front for name in node.output if name in taken}
    for node in front:
        if names.keys() & set(node.output):
            node.name = f"front/{node.name}"
        for field in (node.input, node.output):
            for i, name in enumerate(field):
                field[i] = names.get(name, name)


def _typed(work: Draft, before: Graph) -> dict[str, TensorType]:
    """Types of the cut graph; what only the whole one showed is known from there."""
    types = infer(work)
    for name, value in before.values.items():
        found = types.get(name)
        if value.shape is not None and (found is None or found.shape is None):
            types[name] = TensorType(
                None if value.dtype is None else np.dtype(value.dtype), tuple(value.shape)
            )
    return types


def without_lists(graph: Graph) -> Graph:
    """The graph with outputs that are tensors alone: a loop carries nothing else. What is left out is noted; where the
    scores are left out, the tensor that they were made of takes their place."""
    lists = [value for value in graph.outputs if value.dtype is None]
    if not lists:
        return graph
    work, names = graph.draft, {value.name for value in lists}
    outputs = _copies(value for value in work.graph.output if value.name not in names)
    for value in lists:
        inner = unzipped(value)
        work.notes.append(f"output {value.name!r} is no tensor, which a loop cannot carry: it is left out")
        if inner is not value and inner.shape is not None and inner.name not in {v.name for v in outputs}:
            outputs.append(declared(inner))
    work.graph.ClearField("output")
    work.graph.output.extend(outputs)
    nodes = _read(work.graph, list(work.graph.node))
    work.graph.ClearField("node")
    work.graph.node.extend(nodes)
    drop_unread(work)
    return link(work, _typed(work, graph))


def unzipped(value: Value) -> Value:
    """What scikit-learn's converters give as a list of maps, class -> score, as the tensor that it was."""
    maker = value.inputs[0] if value.inputs else None
    zipped = maker is not None and maker.op == "ZipMap" and maker.domain == "ai.onnx.ml"
    return maker.inputs[0] if maker is not None and zipped else value


def _counted(entry: Entry) -> Value:
    """The tensor with the rows of its input by their name, where inference has lost it."""
    made, shape = entry.tensor, list(entry.tensor.shape or ())
    if shape and entry.x.shape and not isinstance(shape[0], int):
        shape[0] = entry.x.shape[0]
    made.shape = shape
    return made


def _read(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """Copies of the nodes whose results are still read, once the cut has left some without readers."""
    needed, found = {value.name for value in graph.output}, []
    for node in reversed(nodes):
        if needed & set(node.output):
            found.append(node)
            needed |= {name for name in (*node.input, *captured(node)) if name}
    return _copies(found[::-1])


def _copies(messages: Iterable[M]) -> list[M]:
    return [type(message).FromString(message.SerializeToString()) for message in messages]


__all__ = ["Entry", "Front", "choose", "cut", "enter", "explained_inputs", "unzipped", "without_lists"]
