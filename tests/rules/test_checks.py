"""What options may be."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from onnxplain.rewriter.errors import OptionError
from onnxplain.rules.checks import number, whole


@pytest.mark.parametrize("value", [1, 7, 10, np.int64(3), np.uint8(10)])
def test_whole_numbers(value: Any) -> None:
    got = whole(1, 10)("steps", value)
    assert (type(got), got) == (int, int(value))


@pytest.mark.parametrize("value", [0, 11, -1, 2.0, np.float32(2), True, np.True_, "3", None, [3], math.nan])
def test_no_whole_numbers(value: Any) -> None:
    with pytest.raises(OptionError, match=r"steps=.*is not a whole number from 1 to 10"):
        whole(1, 10)("steps", value)


@pytest.mark.parametrize("value", [0, 0.25, 3, np.float32(0.5), np.float64(1), np.int32(2)])
def test_numbers(value: Any) -> None:
    got = number(0.0)("sigma", value)
    assert (type(got), got) == (float, float(value))


@pytest.mark.parametrize(
    "value",
    [-0.1, math.nan, math.inf, -math.inf, np.float32(math.nan), True, np.False_, "1", None, 1j, [0.5]],
)
def test_no_numbers(value: Any) -> None:
    with pytest.raises(OptionError, match=r"sigma=.*is not a number of at least 0"):
        number(0.0)("sigma", value)


def test_bounds() -> None:
    assert number()("k", -1e30) == -1e30
    assert number(0.0, 1.0)("share", 1) == 1.0
    with pytest.raises(OptionError, match="is not a number from 0 to 1"):
        number(0.0, 1.0)("share", 1.5)
    with pytest.raises(OptionError, match="is not a number above 0"):
        number(0.0, above=True)("epsilon", 0)
    with pytest.raises(OptionError, match=r"k='x' is not a number$"):
        number()("k", "x")
