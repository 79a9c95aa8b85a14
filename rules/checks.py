"""Checks of options. Each returns the value in the form that the method wants, or raises OptionError."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..rewriter.errors import OptionError

Check = Callable[[str, Any], Any]


def whole(low: int, high: int) -> Check:
    """An integer from low to high, both included; one of numpy's will do."""

    def check(name: str, value: Any) -> int:
        value = _plain(value)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise OptionError(f"{name}={value!r} is not a whole number from {low} to {high}")
        return value

    return check


def sides(low: int, high: int) -> Check:
    """A side of squares, or (rows, columns) of windows that are none; "4,1" is (4, 1)."""
    one = whole(low, high)

    def check(name: str, value: Any) -> int | tuple[int, int]:
        if isinstance(value, str):
            words = [word.strip() for word in value.strip("()[] ").split(",")]
            value = [int(word) for word in words] if all(word.isdecimal() for word in words) else value
            value = value[0] if isinstance(value, list) and len(value) == 1 else value
        if isinstance(value, np.ndarray) and value.ndim == 1:
            value = value.tolist()
        if not isinstance(value, (list, tuple)):
            return int(one(name, value))
        if len(value) != 2:
            raise OptionError(f"{name}={value!r}: give one side of a square, or two, rows and columns")
        return int(one(name, value[0])), int(one(name, value[1]))

    return check


def both(side: int | tuple[int, int]) -> tuple[int, int]:
    """(rows, columns) of a window."""
    return (side, side) if isinstance(side, int) else (side[0], side[1])


def say_sides(side: int | tuple[int, int]) -> str:
    """As it is given: 4, or 4,1 where the window is no square."""
    rows, columns = both(side)
    return str(rows) if rows == columns else f"{rows},{columns}"


def number(low: float = -math.inf, high: float = math.inf, *, above: bool = False) -> Check:
    """A finite number from low (above: but not low itself) to high; one of numpy's will do."""

    def check(name: str, value: Any) -> float:
        value = _plain(value)
        fits = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        if not fits or not low <= value <= high or (above and value == low):
            bounds = (
                f"{'above' if above else 'of at least'} {low:g}"
                if high == math.inf
                else f"from {low:g} to {high:g}"
            )
            raise OptionError(
                f"{name}={value!r} is not a number" + ("" if low == -math.inf else f" {bounds}")
            )
        return float(value)

    return check


def _plain(value: Any) -> Any:
    """A scalar of numpy as Python's own."""
    return value.item() if isinstance(value, np.generic) else value
