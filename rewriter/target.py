"""What is explained: the tensor, and the cotangent the backward pass starts from."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from .draft import Dim
from .emit import Emit
from .errors import TargetError, nearest
from .graph import Graph, Value, variable
from .inputs import unzipped
from .rows import Along

Target: TypeAlias = str | int | Sequence[int]

PASSING = frozenset({"Identity", "Cast", "Dropout", "Squeeze", "Unsqueeze", "Flatten", "Reshape"})
SQUASHING = frozenset({"Softmax", "LogSoftmax", "Sigmoid"})
HEADS = ("logits", "prob", "logprob")
MAX_ROWS = 64
MOST = 2**63 - 1
"""The largest class that a file can hold."""


@dataclass(frozen=True)
class Start:
    """Where and how the backward pass starts. `rows` cotangents, each of the shape of `head`."""

    head: Value
    seeds: tuple[Value, ...]
    inputs: tuple[Value, ...]
    """Inputs the target adds to the file."""
    chosen: Value | None = None
    """The classes explained, int64 (N, 1), where they depend on the input."""


def find_output(graph: Graph, name: str | None) -> Value:
    """The output to explain: by name, or the first that can be: floating-point, with a batch axis. Of scores that a
    ZipMap turns into a list of maps, the tensor before it."""
    outputs = {value.name: value for value in graph.outputs}
    if name is not None and name not in outputs:
        raise TargetError(f"no output {name!r}{nearest(name, outputs)}; the model has {', '.join(outputs)}")
    if name is not None:
        return unzipped(outputs[name])
    found = [unzipped(value) for value in graph.outputs]
    return next((value for value in found if value.shape and _is_float(value)), found[0])


def _is_float(value: Value) -> bool:
    return value.dtype is not None and np.dtype(value.dtype).kind == "f"


def find_head(graph: Graph, output: Value, head: str) -> tuple[Value, str | None]:
    """The tensor whose elements are explained, and the squashing operator it was found behind, if any.

    "logits": walk back from the output through Identity, Cast, Dropout, Squeeze, Unsqueeze, Flatten and
    Reshape, and through one Softmax, LogSoftmax or Sigmoid; its input. Without such a node the output itself
    (docs/methods/README.md, "What is explained": Nie 2018 section 2.2, Ayyar 2021 section 5.1). "prob" and "logprob":
    the output as it is. Any other word names a tensor of the model.
    """
    if head in ("prob", "logprob"):
        return output, None
    if head != "logits":
        if head not in graph.values:
            raise TargetError(f"head: no tensor {head!r}{nearest(head, (*HEADS, *graph.values))}")
        return graph.values[head], None
    value = output
    while value.inputs and value.inputs[0].op in PASSING | SQUASHING and not value.inputs[0].domain:
        node = value.inputs[0]
        if value is not node.outputs[0]:
            break
        value = node.inputs[0]
        if node.op in SQUASHING:
            return value, str(node.op)
    return output, None


def start(graph: Graph, head: Value, target: Target, g: Emit, batch: Dim = "N") -> Start:
    """Seeds for a target. One-hot rows over the elements of one sample of `head`, in row-major order: for
    (N, classes) the index is the class, of (T, N, C) it counts through (T, C). Without an axis of samples the whole of
    the head is one sample.

    "input": the class is the graph input `target` int64 (N, 1); -1 is the top element (first on ties), and a class that
    is not there makes the explanation NaN.
    "top": the top element. An integer, or a list of them (each a row; rows of one sample stay together).
    "cotangent": the graph input `cotangent`, of the shape of `head`, with K or N for its samples.
    batch: the leading dim of the explained input, which the target input shares.
    """
    rows = graph.rows
    if target == "cotangent":
        given = _input(graph, "cotangent", head.dtype, _fed(rows.place(head.name), head))
        return Start(head, (given,), (given,))
    if rows.whole and not isinstance(target, (str, int)) and len(target) > 1:
        raise TargetError(
            f"{len(target)} targets: {rows.source!r} has no batch axis to lay their maps along; give one class"
        )
    of = Samples(graph, head, g)
    top = g.ArgMax(of.flat, axis=1, keepdims=1)
    if target == "input":
        given = _input(
            graph, "target", np.dtype(np.int64), [1 if rows.whole or rows.single else batch or "N", 1]
        )
        chosen = g.Where(g.Equal(given, g.scalar(-1)), top, given)
        return Start(head, (of.one_hot(chosen, vet=True),), (given,), chosen)
    if target == "top":
        return Start(head, (of.one_hot(top),), (), top)
    return Start(head, tuple(of.fixed(i) for i in _indices(target, graph, head)), ())


def _fed(place: Along | None, head: Value) -> list[Dim]:
    """The shape of a cotangent."""
    shape: list[Dim] = list(head.shape or ())
    if place is not None and shape:
        shape[place.axis] = "K"
    return shape


class Samples:
    """A head sample by sample: `flat` (N, elements), and the way back to its shape.

    Where something lies before the samples of `b N a` (see `rewriter.rows`), the head is seen as (before, N, behind)
    and turned. at: a tensor of the shape of the head in its place. count: the number of samples, 1-D int64, where it is
    not that of the input.
    """

    def __init__(
        self, graph: Graph, head: Value, g: Emit, at: Value | None = None, count: Value | None = None
    ) -> None:
        self.head, self.g = head, g
        place, rank, v = graph.rows.place(head.name), len(head.shape), at or head
        self.view, self.perm, self.size = v, list(range(rank)), graph.rows.elements(head.name, head.shape)
        self.table = place == Along(0) and rank == 2
        if place is None:
            self.flat = g.Reshape(v, g.ints(1, -1))
        elif place == Along(0):
            self.flat = g.Reshape(v, g.ints(0, -1) if rank > 1 else g.ints(-1, 1))
        elif place == Along(place.axis):
            self._turn([place.axis, *(axis for axis in range(rank) if axis != place.axis)])
        else:
            many = g.rows(graph.values[graph.rows.source]) if count is None else count
            if place.axis == 0 and place.before == 1:
                self.flat = g.Reshape(v, g.join(many, g.ints(-1)))
            else:
                before = g.join(*(g.size(head, axis) for axis in range(place.axis)), g.ints(place.before))
                ahead = g.ReduceProd(before, g.ints(0), keepdims=1)
                self.view = g.Reshape(v, g.join(ahead, many, g.ints(-1)))
                self._turn([1, 0, 2])

    def _turn(self, perm: list[int]) -> None:
        self.perm = perm
        self.flat = self.g.Reshape(self.g.Transpose(self.view, perm=perm), self.g.ints(0, -1))

    def fixed(self, index: int) -> Value:
        g = self.g
        if index == -1:
            return self.one_hot(g.ArgMax(self.flat, axis=1, keepdims=1))
        rows = g.Expand(g.constant(np.full((1, 1), index, np.int64)), g.join(g.rows(self.flat), g.ints(1)))
        return self.one_hot(rows, vet=self.size is None)

    def one_hot(self, chosen: Value, *, vet: bool = False) -> Value:
        """chosen (N, 1) -> ones at the chosen element of each sample, in the shape of head. vet: NaN where there is no
        such element, which OneHot would answer with zeros: a file is also run by others than this package."""
        g, head = self.g, self.head
        depth = g.Shape(self.flat, start=1, end=2)
        # float32 first: onnxruntime has no OneHot of doubles on the CPU.
        hot = g.OneHot(
            g.Squeeze(chosen, g.ints(1)), depth, g.constant(np.asarray([0.0, 1.0], np.float32)), axis=-1
        )
        if vet:
            there = g.And(g.GreaterOrEqual(chosen, g.scalar(0)), g.Less(chosen, depth))
            hot = g.Where(there, hot, float("nan"))
        if np.dtype(head.dtype) != np.float32:
            hot = g.cast(hot, head)
        if self.perm != sorted(self.perm):
            turned = g.Reshape(hot, g.Shape(g.Transpose(self.view, perm=self.perm)))
            hot = g.Transpose(turned, perm=sorted(range(len(self.perm)), key=self.perm.__getitem__))
        return hot if self.table else g.Reshape(hot, g.Shape(head))


def count_of(graph: Graph, head: Value, v: Value, g: Emit) -> Value:
    """Samples of a tensor of the shape of the head, 1-D int64."""
    place = graph.rows.place(head.name)
    if place is None:
        return g.ints(1)
    if place == Along(place.axis):
        return g.Shape(v, start=place.axis, end=place.axis + 1)
    return g.rows(graph.values[graph.rows.source])


def vet_leading(graph: Graph, head: Value, what: str) -> None:
    """TargetError unless axis 0 of the head counts the samples."""
    place = graph.rows.place(head.name)
    if place != Along(0):
        where = "has no batch axis" if place is None else f"counts its samples {place}"
        raise TargetError(
            f"{what} reads a head (N, ...), and {head.name!r} {where}; choose another head= or output="
        )


def leading(target: Target, lead: Dim) -> Dim:
    """Rows of a result, as the file calls them: of the batch (`lead`), of the cotangents, or of several classes a
    sample."""
    if target == "cotangent":
        return "K"
    if not isinstance(target, (str, int)) and len(target) > 1:
        return lead * len(target) if isinstance(lead, int) else "rows"
    return lead


def interleaved(g: Emit, rows: Sequence[Value], tail: Sequence[Dim]) -> Value:
    """The results (N, *tail) of several starts sample by sample: (N * starts, *tail)."""
    like = rows[0]
    if len(rows) == 1:
        return like
    like.shape = [None, *tail]
    value = g.shaped(g.Concat(*(g.Unsqueeze(v, g.ints(1)) for v in rows), axis=1), like)
    value.shape = like.shape
    return value


def branches(g: Emit, rows: Value, count: int, axis: int | None = 0) -> tuple[Value, ...]:
    """A fixed number of rows, one by one: each pass over them has one row, as the recorded values have, so that
    blocked layouts and fused kernels stay. They share masks, winners and weights. TargetError without an axis of rows.
    """
    if axis is None:
        raise TargetError("probes= are cotangents of one sample, and the head has no axis to lay them along")
    shape = list(rows.shape)
    rows.shape = [*shape[:axis], count, *shape[axis + 1 :]]
    parts = g.ops("Split", rows, outputs=count, axis=axis, num_outputs=count)
    for part in parts:
        part.shape = [*shape[:axis], 1, *shape[axis + 1 :]]
    return parts


def settle(target: object) -> Target:
    """A target as text, an int or a tuple of ints, numbers of numpy included. TargetError for anything else."""
    if isinstance(target, str):
        return target
    try:
        if isinstance(target, Iterable):
            return tuple(_index(i) for i in target)
        return _index(target)
    except TypeError:
        raise TargetError(f"a target is a class index, a list of them, or text, not {target!r}") from None


def _index(i: object) -> int:
    if isinstance(i, (bool, np.bool_)):
        raise TypeError
    return operator.index(i)  # type: ignore[arg-type]


def _indices(target: Target, graph: Graph, head: Value) -> list[int]:
    if isinstance(target, str):
        known = ("input", "top", "cotangent")
        raise TargetError(
            f"unknown target {target!r}{nearest(target, known)}; {', '.join(known)} or a class index"
        )
    indices = [target] if isinstance(target, int) else list(target)
    if not indices or len(indices) > MAX_ROWS:
        raise TargetError(
            f"{len(indices)} targets; give 1 to {MAX_ROWS}, or use target='cotangent' and feed rows"
        )
    size = graph.rows.elements(head.name, head.shape)
    for index in indices:
        if not -1 <= index <= MOST or (size is not None and index >= size):
            raise TargetError(
                f"class {index} is out of range: {head.name!r} has {size or 'an open number of'} elements a sample"
            )
    return indices


def _input(graph: Graph, name: str, dtype: np.dtype, shape: list[int | str | None]) -> Value:
    if name in graph.values:
        raise TargetError(
            f"the model already has a tensor named {name!r}; rename it, or choose another target"
        )
    return variable(name, dtype=dtype, shape=shape)
