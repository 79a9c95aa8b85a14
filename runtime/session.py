"""Running a session: what is fed is checked against what the model declares, before onnxruntime sees it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from ..rewriter.errors import ExplainError, ImageError, ModelError, OptionError, nearest
from ..rewriter.passes.order import is_name
from .subnormal import flushed

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

Arrays = dict[str, npt.NDArray[np.generic]]


class Declared(Protocol):
    """An input as onnxruntime declares it; a free dimension is its name, or None."""

    name: str
    type: str
    shape: Sequence[int | str | None]


_TYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(bool)": "bool",
    **{f"tensor({sign}int{bits})": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}


def check_feeds(session: InferenceSession, feeds: Mapping[str, npt.NDArray[np.generic]]) -> None:
    """Compare names, types and shapes of the arrays with the inputs of the session.

    Fixed dimensions must be equal; dimensions of the same name must be equal across the inputs. Types that
    numpy lacks (bfloat16, 8-bit floats) and sequences are left to onnxruntime.

    Raises OptionError for a missing or unknown input, a wrong type, or a wrong shape; ImageError for the
    wrong shape of a picture (a floating-point input with 4 axes). The message names the input, what it takes
    and what was given.
    """
    inputs = {node.name: node for node in session.get_inputs()}
    for name in feeds:
        if name not in inputs:
            raise OptionError(
                f"the model has no input {name!r}{nearest(name, inputs)}; it has: {', '.join(inputs)}"
            )
    missing = [name for name in inputs if name not in feeds]
    if missing:
        raise OptionError(f"no array was given for the input {', '.join(map(repr, missing))}")
    named: dict[str, tuple[int, str]] = {}
    for name, node in inputs.items():
        check_types(node, feeds[name], named)


def check_types(
    node: Declared, array: npt.NDArray[np.generic], named: dict[str, tuple[int, str]] | None = None
) -> None:
    """Compare the type and the shape of one array with what its input declares; `named`: symbol -> the size it has
    so far, and the input that it comes from. Raises as `check_feeds`."""
    wanted = _TYPES.get(node.type)
    if wanted is None:
        return
    if array.dtype != np.dtype(wanted):
        raise OptionError(
            f"input {node.name!r} takes {wanted}, not {array.dtype}; convert it: .astype({wanted!r})"
        )
    _check_shape(node, array, {} if named is None else named)


def tensors_of(session: InferenceSession) -> list[Declared]:
    """The outputs that are tensors. scikit-learn's converters also give lists of maps, for whoever runs the file with
    onnxruntime alone; the tensor that they are made of is what can be explained."""
    return [node for node in session.get_outputs() if node.type.startswith("tensor(")]


def run(
    session: InferenceSession,
    feeds: Mapping[str, npt.NDArray[np.generic]],
    outputs: Sequence[str] | None = None,
) -> Arrays:
    """Check the arrays (`check_feeds`), run, and give the outputs by name; None means all tensors among them.

    Raises as `check_feeds`, OptionError for an unknown output, ModelError when onnxruntime fails on the way.
    """
    check_feeds(session, feeds)
    known = [node.name for node in session.get_outputs()]
    names = [node.name for node in tensors_of(session)] if outputs is None else list(outputs)
    for name in names:
        if name not in known:
            raise OptionError(
                f"the model has no output {name!r}{nearest(name, known)}; it has: {', '.join(known)}"
            )
    try:
        with flushed():
            values = session.run(names, dict(feeds))
    except Exception as error:
        raise ModelError(f"onnxruntime failed while running the model: {error}") from error
    result: Arrays = {}
    for name, value in zip(names, values, strict=True):
        if not isinstance(value, np.ndarray):
            raise ModelError(f"output {name!r} is a {type(value).__name__} and not a dense tensor")
        result[name] = value
    return result


def _check_shape(node: Declared, array: npt.NDArray[np.generic], named: dict[str, tuple[int, str]]) -> None:
    expected = node.shape
    picture = len(expected) == 4 and "float" in node.type
    if array.ndim != len(expected):
        raise _misfit(node, array, picture, f"{array.ndim} axes instead of {len(expected)}")
    for axis, (dimension, given) in enumerate(zip(expected, array.shape, strict=True)):
        if isinstance(dimension, int) and dimension != given:
            raise _misfit(node, array, picture, f"axis {axis} is {given} instead of {dimension}")
        if isinstance(dimension, str) and is_name(dimension):
            first, owner = named.setdefault(dimension, (given, node.name))
            if first != given:
                reason = f"axis {axis} ({dimension}) is {given}, but {first} in {owner!r}"
                raise _misfit(node, array, picture, reason)


def _misfit(node: Declared, array: npt.NDArray[np.generic], picture: bool, reason: str) -> ExplainError:
    expected = ", ".join(str(dimension) if dimension else "?" for dimension in node.shape)
    kind = ImageError if picture else OptionError
    return kind(f"input {node.name!r} takes [{expected}], not {list(array.shape)}: {reason}")
