"""Per-channel numbers: float64 where they are known now, arithmetic in the emitted graph where they are not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from ..emit import Emit
from ..graph import Value, is_value
from .view import View

Vector: TypeAlias = np.ndarray | Value
"""(C,), or () for a number that all channels share."""


def number(a: float) -> Vector:
    """What all channels share."""
    return np.asarray(a, np.float64)


ZERO, ONE = number(0.0), number(1.0)


@dataclass(frozen=True)
class Numbers:
    """Arithmetic of vectors; what is emitted has the type of `like`."""

    g: Emit
    like: Value

    def add(self, a: Vector, b: Vector) -> Vector:
        return self._apply("Add", np.add, a, b)

    def sub(self, a: Vector, b: Vector) -> Vector:
        return self._apply("Sub", np.subtract, a, b)

    def mul(self, a: Vector, b: Vector) -> Vector:
        if same(a, 1.0):
            return b
        return a if same(b, 1.0) else self._apply("Mul", np.multiply, a, b)

    def div(self, a: Vector, b: Vector) -> Vector:
        return self._apply("Div", np.divide, a, b)

    def sqrt(self, a: Vector) -> Vector:
        if isinstance(a, np.ndarray):
            with np.errstate(all="ignore"):
                return np.asarray(np.sqrt(a))
        root: Value = self.g.Sqrt(a)
        return root

    def value(self, a: Vector, shape: Sequence[int] | None = None) -> Value:
        """As a tensor; shape: what to reshape it to, -1 for the channels."""
        if is_value(a):
            typed = a if a.dtype is None or a.dtype == self.like.dtype else self.g.cast(a, self.like)
            return typed if shape is None else self.g.Reshape(typed, self.g.ints(*shape))
        array = np.asarray(a, np.dtype(self.like.dtype))
        return self.g.constant(array if shape is None else array.reshape(shape))

    def full(self, a: Vector, channels: int) -> Value:
        """As a tensor (C,)."""
        if not is_value(a):
            return self.value(np.broadcast_to(np.asarray(a), (channels,)))
        spread: Value = self.g.Expand(self.value(a), self.g.ints(channels))
        spread.shape = [channels]
        return spread

    def _apply(self, op: str, f: Callable[..., np.ndarray], a: Vector, b: Vector) -> Vector:
        if not is_value(a) and not is_value(b):
            with np.errstate(all="ignore"):  # who asked looks at the result: see `sound`
                return np.asarray(f(a, b))
        made: Value = self.g.op(op, self.value(a), self.value(b))
        return made


def same(a: Vector, number: float) -> bool:
    """Whether all elements are known to be this number."""
    return not is_value(a) and bool(np.all(np.asarray(a) == number))


def sound(a: Vector, like: Value) -> bool:
    """Whether no known element is infinite or NaN in the type of `like`."""
    if is_value(a):
        return True
    with np.errstate(all="ignore"):
        return bool(np.all(np.isfinite(np.asarray(a, np.dtype(like.dtype)))))


def vector(view: View, g: Emit, value: Value | None, rank: int, axis: int, channels: int) -> Vector | None:
    """A parameter that broadcasts to a tensor of this rank along the channel axis alone, or as one number;
    None where it does anything else, or its shape is not static."""
    if value is None or not view.parameter(value):
        return None
    known = view.constant(value)
    shape = known.shape if known is not None else value.shape
    if shape is None or len(shape) > rank or not all(isinstance(dim, int) for dim in shape):
        return None
    offset = rank - len(shape)
    if any(dim != 1 and (i + offset != axis or dim != channels) for i, dim in enumerate(shape)):
        return None
    alone = all(dim == 1 for dim in shape)
    if known is not None:
        return known.astype(np.float64).reshape(() if alone else (channels,))
    if len(shape) == 1:
        return value
    flat: Value = g.Reshape(value, g.ints(-1))
    return flat
