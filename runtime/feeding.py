"""What people give to an explanation file, as the arrays that onnxruntime is fed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ..rewriter.errors import OptionError, TargetError

Array = npt.NDArray[Any]


def model_feeds(
    x: npt.ArrayLike | Mapping[str, npt.ArrayLike], declared: Mapping[str, str], added: str | None
) -> dict[str, Array]:
    """The model's own feeds. added: the input that the explanation has besides the model's."""
    own = [name for name in declared if name != added]
    if not isinstance(x, Mapping):
        if len(own) != 1:
            raise OptionError(f"the model has {len(own)} inputs ({', '.join(own)}); give a dict of arrays")
        x = {own[0]: x}
    if added in x:
        raise OptionError(f"{added!r} is no input of the model; give it as the argument {added}=")
    return {name: typed(value, declared.get(name, ""), name) for name, value in x.items()}


def given_cotangent(
    cotangent: npt.ArrayLike | None, declared: str, rows: int, located: Mapping[str, Any] | None
) -> Array:
    """A row for each cotangent. located: where the explained tensor counts samples, if not each along axis 0; see the
    card. TargetError where there is none, or another number than of samples."""
    if cotangent is None:
        raise TargetError(
            "this file takes a cotangent; give cotangent=, of the shape of the explained output"
        )
    array = typed(cotangent, declared, "cotangent")
    axis, each = (0, 1) if located is None else (located["axis"], located["each"] or 1)
    if axis is None:
        return array
    given = array.shape[axis] / each if array.ndim > axis else 0
    if rows not in (1, given) and (located is None or located["each"] is not None):
        raise TargetError(
            f"{given:g} cotangents for {rows} samples; give one a sample, or explain one sample"
        )
    return array


def typed(value: npt.ArrayLike, declared: str, name: str) -> Array:
    """An array; numbers in the floating-point type that the input declares. OptionError for what is no array."""
    try:
        array = np.asarray(value)
    except ValueError as error:  # rows of unequal length
        raise OptionError(f"{name!r} is no array: {error}") from error
    wanted = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16}.get(
        declared
    )
    return array if wanted is None or array.dtype.kind not in "fiu" else array.astype(wanted, copy=False)


__all__ = ["given_cotangent", "model_feeds", "typed"]
