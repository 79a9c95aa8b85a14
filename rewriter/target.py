"""What is explained: the tensor, and the cotangent the backward pass starts from."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from .draft import Dim
from .emit import Emit, tail_of
from .errors import TargetError, nearest
from .graph import Graph, Value, variable
from .inputs import unzipped

Target: TypeAlias = str | int | Sequence[int]

PASSING = frozenset({"Identity", "Cast", "Dropout", "Squeeze", "Unsqueeze", "Flatten", "Reshape"})
SQUASHING = frozenset({"Softmax", "LogSoftmax", "Sigmoid"})
HEADS = ("logits", "prob", "logprob")
MAX_ROWS = 64


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
    (METHODS 0.2: Nie 2018 section 2.2, Ayyar 2021 section 5.1). "prob" and "logprob": the output as it is.
    Any other word names a tensor of the model.
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
    (N, classes) the index is the class.

    "input": the class is the graph input `target` int64 (N, 1); -1 is the top element (first on ties).
    "top": the top element. An integer, or a list of them (each a row; rows of one sample stay together).
    "cotangent": the graph input `cotangent`, of the shape of `head` with a leading K or N.
    batch: the leading dim of the explained input, which the target input shares.
    """
    if target == "cotangent":
        given = _input(graph, "cotangent", head.dtype, ["K", *(head.shape[1:] if head.shape else [])])
        return Start(head, (given,), (given,))
    flat = g.Reshape(head, g.ints(0, -1)) if len(head.shape) > 1 else g.Reshape(head, g.ints(-1, 1))
    top = g.ArgMax(flat, axis=1, keepdims=1)
    if target == "input":
        given = _input(graph, "target", np.dtype(np.int64), [batch or "N", 1])
        chosen = g.Where(g.Less(given, g.scalar(0)), top, given)
        return Start(head, (_one_hot(g, chosen, flat, head),), (given,), chosen)
    if target == "top":
        return Start(head, (_one_hot(g, top, flat, head),), (), top)
    return Start(head, tuple(_fixed(g, i, flat, head) for i in _indices(target, head)), ())


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


def branches(g: Emit, rows: Value, count: int) -> tuple[Value, ...]:
    """A fixed number of rows, one by one: each pass over them has one row, as the recorded values have, so that
    blocked layouts and fused kernels stay. They share masks, winners and weights."""
    rows.shape = [count, *rows.shape[1:]]
    parts = g.ops("Split", rows, outputs=count, axis=0, num_outputs=count)
    for part in parts:
        part.shape = [1, *rows.shape[1:]]
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


def _indices(target: Target, head: Value) -> list[int]:
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
    tail = tail_of(head)
    size = None if tail is None else int(np.prod(tail))
    for index in indices:
        if index < -1 or (size is not None and index >= size):
            raise TargetError(f"class {index} is out of range: {head.name!r} has {size} elements a sample")
    return indices


def _fixed(g: Emit, index: int, flat: Value, head: Value) -> Value:
    if index == -1:
        return _one_hot(g, g.ArgMax(flat, axis=1, keepdims=1), flat, head)
    rows = g.Expand(g.constant(np.full((1, 1), index, np.int64)), g.join(g.rows(flat), g.ints(1)))
    return _one_hot(g, rows, flat, head)


def _one_hot(g: Emit, chosen: Value, flat: Value, head: Value) -> Value:
    """chosen (N, 1) -> ones at the chosen element of each sample, in the shape of head."""
    depth = g.Shape(flat, start=1, end=2)
    # float32 first: onnxruntime has no OneHot of doubles on the CPU.
    hot = g.OneHot(
        g.Squeeze(chosen, g.ints(1)), depth, g.constant(np.asarray([0.0, 1.0], np.float32)), axis=-1
    )
    if np.dtype(head.dtype) != np.float32:
        hot = g.cast(hot, head)
    return hot if len(head.shape) == 2 else g.Reshape(hot, g.Shape(head))


def _input(graph: Graph, name: str, dtype: np.dtype, shape: list[int | str | None]) -> Value:
    if name in graph.values:
        raise TargetError(
            f"the model already has a tensor named {name!r}; rename it, or choose another target"
        )
    return variable(name, dtype=dtype, shape=shape)
