"""What a caller gives, as the arrays that a file takes."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from ..rewriter.errors import OptionError, TargetError
from .images import vet_pixels

Array = npt.NDArray[Any]

FLOATS: Mapping[str, Any] = MappingProxyType(
    {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16}
)
INTEGERS: Mapping[str, Any] = MappingProxyType(
    {
        f"tensor({sign}int{bits})": np.dtype(f"{sign}int{bits}")
        for sign in ("", "u")
        for bits in (8, 16, 32, 64)
    }
)


def own_feeds(
    x: npt.ArrayLike | Mapping[str, npt.ArrayLike],
    declared: Mapping[str, str],
    added: str | None,
    preprocessing: Mapping[str, Any] | None,
) -> dict[str, Array]:
    """The model's own feeds. added: the input that the explanation has besides the model's."""
    own = [name for name in declared if name != added]
    if not isinstance(x, Mapping):
        if len(own) != 1:
            raise OptionError(f"the model has {len(own)} inputs ({', '.join(own)}); give a dict of arrays")
        x = {own[0]: x}
    if added in x:
        raise OptionError(f"{added!r} is no input of the model; give it as the argument {added}=")
    for name, value in x.items():
        if declared.get(name, "") in FLOATS and isinstance(value, np.ndarray):
            vet_pixels(value, preprocessing, f"input {name!r}")
    return {name: typed(value, declared.get(name, ""), name) for name, value in x.items()}


def seeds(
    cotangent: npt.ArrayLike | None, declared: str, rows: int, located: Mapping[str, Any] | None
) -> Array:
    """The cotangents, one a sample or any number of one sample. located: where the explained tensor counts samples, if
    not each along axis 0; see the card. Raises TargetError."""
    if cotangent is None:
        raise TargetError(
            "this file takes a cotangent; give cotangent=, of the shape of the explained output"
        )
    array = typed(cotangent, declared, "cotangent")
    axis, each = (0, 1) if located is None else (located["axis"], located["each"] or 1)
    if axis is None:
        return array
    given = array.shape[axis] / each if array.ndim > axis else 0
    if each > 1 and rows != given:
        raise TargetError(
            f"{array.shape[axis]} rows of cotangents for {rows} samples: each has {each} of the explained tensor"
        )
    if rows not in (1, given) and (located is None or located["each"] is not None):
        raise TargetError(
            f"{given:g} cotangents for {rows} samples; give one a sample, or explain one sample"
        )
    return array


def typed(value: npt.ArrayLike, declared: str, name: str) -> Array:
    """In the type that the file declares, where the numbers are the same in it, or it is a floating-point type."""
    try:
        array = np.asarray(value)
    except ValueError as error:  # rows of unequal length
        raise OptionError(f"{name!r} is no array: {error}") from error
    wanted = FLOATS.get(declared)
    if wanted is not None:
        return array if array.dtype.kind not in "fiu" else array.astype(wanted, copy=False)
    whole = INTEGERS.get(declared)
    if whole is None or array.dtype == whole or array.dtype.kind not in "fiu":
        return array
    with np.errstate(invalid="ignore"):
        numbers = array.astype(whole)
    # Other numbers stay as they are, and are refused by their type when all feeds are compared.
    return numbers if np.array_equal(numbers, array) else array


__all__ = ["own_feeds", "seeds", "typed"]
