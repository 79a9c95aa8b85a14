"""Add nodes to the explanation: an operator is called by its ONNX name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import prod
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from .graph import Graph, Node, Value, is_value, operator, parameter, variable

ROOM = 2**20
"""Bytes of constants that rules may work out for an explanation, besides a hundredth of the model's own weights."""

PRIVATE = "onnxplain"
"""Domain of the semantic primitives; `passes.lower` turns every one of them into standard operators."""

_BOOLEAN = frozenset(
    {"Greater", "Less", "Equal", "GreaterOrEqual", "LessOrEqual", "And", "Or", "Not", "IsNaN"}
)
_INTEGER = frozenset({"Shape", "ArgMax", "ArgMin", "Size", "NonZero"})


class Emit:
    """Builds the emitted part of an explanation graph: `g.Mul(a, b)`, `g.Conv(x, w, strides=[2, 2])`.

    Numbers and arrays among the operands become constants, shared by value; a bare number takes the type of
    the operands around it. Nodes are named `bwd/conv1/Mul_3` after the forward node they belong to.
    """

    def __init__(self, graph: Graph, scope: str = "bwd") -> None:
        while any(name.startswith(f"{scope}/") for name in graph.values):
            scope += "_"
        self.graph, self.scope = graph, scope
        self.nodes: list[Node] = []
        self.notes: list[str] = list(graph.draft.notes)
        self.approximated: dict[tuple[str, str], list[str]] = {}
        """(operator, what is done there for want of a rule) -> its nodes."""
        self.seeds: list[Value] = []
        """The cotangents that backward passes start with."""
        self.lead: int | str | None = None
        """Rows of the cotangents, as the file calls them; None where nobody knows."""
        self.stated: list[Value] = []
        """Tensors whose type the file states, where onnxruntime's inference loses their rows."""
        self.memo: dict[Any, Any] = {}
        """What rules have worked out once for all outputs of a node."""
        self.spelled: list[tuple[Node, Value]] = []
        """Primitives, and the values that took their place."""
        self._twins: dict[str, str] = {}
        self._constants: dict[tuple[str, tuple[int, ...], bytes], Value] = {}
        self.guarded = False
        """Whether a factor of 0 wins over an infinite one: see `times`."""
        self._at = ""
        self._count = 0
        self._room = ROOM + sum(4 * prod(tensor.dims) for tensor in graph.draft.weights.values()) // 100

    def __getattr__(self, op: str) -> Callable[..., Value]:
        if not op[:1].isupper():
            raise AttributeError(op)
        return lambda *inputs, **attrs: self.op(op, *inputs, **attrs)

    def op(self, op: str, *inputs: Any, domain: str = "", **attrs: Any) -> Value:
        """Add a node of one output and return it. None among the inputs stands for an omitted one."""
        return self.ops(op, *inputs, outputs=1, domain=domain, **attrs)[0]

    def ops(self, op: str, *inputs: Any, outputs: int, domain: str = "", **attrs: Any) -> tuple[Value, ...]:
        """Add a node of several outputs."""
        dtype = next(
            (x.dtype for x in inputs if is_value(x) and _is_float(x.dtype)),
            next((x.dtype for x in inputs if is_value(x)), np.dtype(np.float32)),
        )
        values = [self._operand(x, dtype) for x in inputs]
        path = "/".join(part for part in (self.scope, self._at, f"{op}_{self._count}") if part)
        self._count += 1
        made = tuple(
            variable(path if i == 0 else f"{path}:{i}", dtype=_result(op, dtype, attrs, values, i))
            for i in range(outputs)
        )
        kept = {key: value for key, value in attrs.items() if value is not None}
        self.nodes.append(operator(op, path, kept, values, list(made), domain))
        return made

    def primitive(self, op: str, *inputs: Any, **attrs: Any) -> Value:
        """Add a semantic primitive: what is meant, for the lowering to spell."""
        return self.op(op, *inputs, domain=PRIVATE, **attrs)

    def ints(self, *values: int) -> Value:
        """A 1-D int64 constant."""
        return self.constant(np.asarray(values, np.int64))

    def scalar(self, value: int) -> Value:
        return self.constant(np.asarray(value, np.int64))

    def number(self, value: Value | float, like: Value) -> Value:
        """A scalar constant in the floating-point type of `like`; a value as it is."""
        if is_value(value):
            return value
        return self.constant(np.asarray(value, like.dtype or np.float32))

    def zeros(self, like: Value, *shape: Value) -> Value:
        """Zeros of the floating-point type of `like`; shape: 1-D int64 pieces, in order."""
        return self.Expand(self.number(0.0, like), self.join(*shape))

    def scattered(self, op: str, updates: Value, index: Value, *shape: Value, **attrs: Any) -> Value:
        """Updates added up in zeros at an index, by ScatterElements or ScatterND. shape: as of `zeros`. Half precision
        adds in float32: the CPU has no half kernel that adds, and fewer digits get lost."""
        if updates.dtype != np.float16:
            return self.op(op, self.zeros(updates, *shape), index, updates, reduction="add", **attrs)
        wide = self.Cast(updates, to=int(TensorProto.FLOAT))
        return self.cast(self.scattered(op, wide, index, *shape, **attrs), updates)

    def join(self, *parts: Value) -> Value:
        """1-D pieces end to end."""
        return parts[0] if len(parts) == 1 else self.Concat(*parts, axis=0)

    def rows(self, v: Value) -> Value:
        """Number of rows of v, as a 1-D int64 tensor of one element."""
        return self.Shape(v, start=0, end=1)

    def constant(self, array: np.ndarray) -> Value:
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = parameter(f"{self.scope}/const_{len(self._constants)}", array)
        return self._constants[key]

    def affords(self, size: int) -> bool:
        """Whether a constant of so many bytes may stand in the file, and takes them off the room that there is. Sizes
        are the model's to choose, so a constant that follows from them is only worked out where this is true; where not
        it is computed in the graph."""
        if size > self._room:
            return False
        self._room -= size
        return True

    def filled(self, value: float, shape: Sequence[int], like: Value) -> Value:
        """A constant of one number, in the type of `like`; spread in the graph where the file has no room for it."""
        dtype = np.dtype(like.dtype or np.float32)
        if self.affords(prod(shape) * dtype.itemsize):
            return self.constant(np.full(tuple(shape), value, dtype))
        spread = self.Expand(self.number(value, like), self.ints(*shape))
        spread.shape = list(shape)
        return spread

    @property
    def constants(self) -> list[Value]:
        return list(self._constants.values())

    @contextmanager
    def at(self, name: str) -> Iterator[None]:
        """Name what is emitted inside after a forward node."""
        before, self._at = self._at, name
        try:
            yield
        finally:
            self._at = before

    @contextmanager
    def guarding(self, on: bool) -> Iterator[None]:
        """Products that are made inside are guarded, or not."""
        before, self.guarded = self.guarded, on
        try:
            yield
        finally:
            self.guarded = before

    def times(self, t: Value, d: Value | float) -> Value:
        """t d, a tangent or cotangent times a recorded factor. At a singular node (`rewriter.singular`) 0 times
        anything is 0: nothing flows through what the model does not look at."""
        if not self.guarded or not is_value(d):
            return self.Mul(t, d)
        none = self.Or(self.Equal(t, 0.0), self.Equal(d, 0.0))
        return self.Where(none, self.number(0.0, t), self.Mul(t, d))

    def finite(self, v: Value) -> Value:
        """v as a number to be compared: NaN counts as 0, an infinity as `large`, and so does what is larger."""
        most = large(v.dtype)
        clipped = self.Clip(v, self.number(-most, v), self.number(most, v))
        return self.Where(self.IsNaN(v), self.number(0.0, v), clipped)

    def note(self, text: str) -> None:
        """Record an approximation or a choice; it ends up in the emitted file's metadata."""
        if text not in self.notes:
            self.notes.append(text)

    def approximate(self, op: str, name: str, why: str) -> None:
        """Record that the node is explained by what is no rule of the method; the card has one note an operator."""
        nodes = self.approximated.setdefault((op, why), [])
        if name not in nodes:
            nodes.append(name)

    def cast(self, x: Value, like: Value) -> Value:
        """x in the floating-point type of `like`."""
        return self.Cast(x, to=int(helper.np_dtype_to_tensor_dtype(np.dtype(like.dtype))))

    def rest(self, x: Value) -> Value:
        """Sizes of every axis of x but the first, as a 1-D int64 tensor; a constant where they are static."""
        tail = tail_of(x)
        return self.ints(*tail) if tail is not None else self.Shape(x, start=1)

    def axis(self, x: Value) -> int | None:
        """The axis that counts the samples of a tensor of the forward pass, or of its twin; 0 of any other tensor."""
        return self.graph.rows.axis(self._twins.get(x.name, x.name))

    def pair(self, twin: Value, y: Value) -> None:
        """An emitted tensor has its samples where y has them."""
        self._twins[twin.name] = y.name

    def shaped(self, ct: Value, x: Value, *, rows: bool = False) -> Value:
        """ct reshaped to x, whatever its number of rows. rows: the first axis stays as it is; said in the file, the
        size of the batch is still known to be that of the model's input."""
        at = self.axis(x) or 0
        return self.Reshape(ct, self._sizes(x, at, 0 if rows and not at else -1))

    def spread(self, ct: Value, x: Value) -> Value:
        """ct broadcast to x, whatever its number of rows."""
        return self.Expand(ct, self._sizes(x, self.axis(x) or 0, 1))

    def _sizes(self, x: Value, at: int, count: int) -> Value:
        """The sizes of x, but for one axis: constant where they are static."""
        shape: list[Any] = [] if x.shape is None else list(x.shape)
        dims = [*shape[:at], count, *shape[at + 1 :]]
        if x.shape is not None and all(isinstance(dim, int) for dim in dims):
            return self.ints(*dims)
        before = [self.size(x, axis) for axis in range(at)]
        return self.Concat(*before, self.ints(count), self.Shape(x, start=at + 1), axis=0)

    def size(self, x: Value, axis: int) -> Value:
        """Size of one axis, as a 1-D int64 tensor of one element."""
        dim = None if x.shape is None else x.shape[axis]
        if isinstance(dim, int):
            return self.ints(dim)
        rank = len(x.shape) if x.shape is not None else 0
        axis = axis % rank if rank else axis
        return self.Shape(x, start=axis, end=axis + 1)

    def state(self, v: Value, tail: Sequence[int]) -> Value:
        """v, whose type the file will state: a cotangent with these sizes behind its rows."""
        if self.lead is not None:
            v.shape = [self.lead, *tail]
            self.stated.append(v)
        return v

    def total(self, values: Sequence[Value]) -> Value:
        value = values[0]
        for other in values[1:]:
            value = self.Add(value, other)
        return value

    def _operand(self, x: Any, dtype: np.dtype) -> Value:
        if is_value(x):
            return x
        if x is None:
            return variable()
        array = np.asarray(x, dtype=dtype if isinstance(x, (int, float)) else None)
        return self.constant(array)


def _is_float(dtype: Any) -> bool:
    return dtype is not None and np.dtype(dtype).kind == "f"


def _result(op: str, dtype: np.dtype, attrs: dict[str, Any], values: list[Value], port: int) -> np.dtype:
    if op in _BOOLEAN:
        return np.dtype(bool)
    if op in _INTEGER or (op in ("MaxPool", "TopK") and port == 1):
        return np.dtype(np.int64)
    if op == "Cast":
        return np.dtype(helper.tensor_dtype_to_np_dtype(int(attrs["to"])))  # type: ignore[no-any-return]
    if op in ("Gather", "GatherElements", "Reshape", "Slice", "Expand", "Squeeze", "Unsqueeze") and values:
        return np.dtype(values[0].dtype or dtype)
    if op in ("Where", "OneHot") and len(values) > 1:
        return np.dtype(values[-1].dtype or dtype)
    return np.dtype(dtype)


def large(dtype: Any) -> float:
    """The root of the largest number of a type: 2^64 for float32."""
    return float(2.0 ** (int(np.finfo(np.dtype(dtype or np.float32)).maxexp) // 2))


def tail_of(x: Value) -> tuple[int, ...] | None:
    """Static sizes of every axis but the first, or None."""
    if x.shape is None or not all(isinstance(dim, int) for dim in x.shape[1:]):
        return None
    return tuple(int(dim) for dim in x.shape[1:])
