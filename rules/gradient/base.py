"""The rule set that the families of this package fill."""

from __future__ import annotations

from ...rewriter.emit import Emit
from ...rewriter.graph import Value
from ...rewriter.rules import Rules

GRADIENT = Rules()
"""Exact derivatives. Kinks: 0 at x = 0 for Relu, 0 at both ends of Clip, the first of equal values wins."""


def step(g: Emit, x: Value, low: Value | float | None = None, high: Value | float | None = None) -> Value:
    """1 where low < x < high, strictly, else 0; in the type of x."""
    return g.primitive("StepMask", x, low, high)


def normalised_axes(axes: list[int], rank: int) -> tuple[int, ...]:
    """Axes counted from the front, in order."""
    return tuple(sorted(axis % rank for axis in axes))
