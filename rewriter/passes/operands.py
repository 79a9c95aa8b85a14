"""Constant operands (pads, scales, axes) are checked against what their operator allows.

Pads, scales, axes and the like come as tensors: neither the schema nor onnx's checker looks into them, and shape
inference only at some. Whoever reads them later may rely on their numbers and ranges.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from ..draft import Draft, attributes
from ..errors import ModelError
from ..vetting.tensors import MAX_RANK, countable
from ..vetting.walk import where
from .shapes import TensorType

_SCALAR = frozenset({"CumSum", "Trilu", "TopK"})

_WIDE = 2**62
"""Ends of slices are written as the largest integer; everything else is far below."""


@dataclass(frozen=True)
class _Operands:
    """Of one node: the constants among its inputs, and the rank of each input where it is known."""

    node: onnx.NodeProto
    known: Mapping[str, np.ndarray]
    ranks: tuple[int | None, ...]

    @property
    def rank(self) -> int | None:
        """Of the first input."""
        return self.ranks[0]

    def given(self, i: int) -> bool:
        return i < len(self.node.input) and bool(self.node.input[i])

    def __call__(self, i: int) -> np.ndarray | None:
        """Input i, flat; None where it is omitted, or not known. Raises ValueError where it is no list."""
        array = self.known.get(self.node.input[i]) if self.given(i) else None
        if array is not None and array.ndim != 1 and (array.ndim or self.node.op_type not in _SCALAR):
            raise ValueError(f"its input {i} must be a list of numbers, and has {array.ndim} axes")
        return None if array is None else array.ravel()

    def fit(self, i: int, count: int | None, *, empty: bool = False) -> bool:
        """Whether input i, if it is known, has so many elements."""
        array = self(i)
        return array is None or count is None or array.size == count or (empty and array.size == 0)

    def axes(self, i: int) -> int | None:
        """How many axes the node works on: as many as input i lists, else all. Raises ValueError for wrong ones."""
        if not self.given(i):
            return self.rank
        array = self(i)
        if array is None:
            return None
        if self.rank is not None:
            places = [int(axis) % max(1, self.rank) for axis in array]
            if len(set(places)) < len(places) or any(not -self.rank <= axis < self.rank for axis in array):
                raise ValueError(f"the axes {array[:8].tolist()} do not fit a tensor of {self.rank}")
        return int(array.size)


def vet_operands(draft: Draft, types: Mapping[str, TensorType]) -> None:
    """ModelError naming the first node whose constant operands do not fit it, or whose results nothing can hold."""
    known = {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in draft.graph.initializer
        if tensor.data_type != onnx.TensorProto.STRING
    }
    for node in draft.graph.node:
        for name in node.output:
            _vet_size(node, types.get(name))
        check = _CHECKS.get(node.op_type) if not node.domain else None
        if check is None or not node.input:
            continue
        try:
            problem = check(_Operands(node, known, tuple(_rank(types.get(name)) for name in node.input)))
        except ValueError as error:
            problem = str(error)
        if problem:
            raise ModelError(f"{where(node)}: {problem}; the file is damaged: export it again")


def _rank(kind: TensorType | None) -> int | None:
    return None if kind is None or kind.shape is None else len(kind.shape)


def _vet_size(node: onnx.NodeProto, result: TensorType | None) -> None:
    if result is not None and result.shape is not None:
        sizes = [dim if isinstance(dim, int) else 1 for dim in result.shape]
        if not countable(sizes):
            raise ModelError(
                f"{where(node)} gives a tensor of {len(sizes)} axes and {sizes[:8]} elements along them; nothing can "
                f"hold that (at most {MAX_RANK} axes); make the model smaller"
            )


def _resize(of: _Operands) -> str:
    listed = attributes(of.node).get("axes")
    count = len(listed) if isinstance(listed, list) else of.rank
    if isinstance(listed, list) and of.rank is not None:
        if len({int(axis) % max(1, of.rank) for axis in listed}) < len(listed) or any(
            not -of.rank <= axis < of.rank for axis in listed
        ):
            return f"axes {listed[:8]} do not fit a tensor of {of.rank}"
    scales, sizes = of(2), of(3)
    if not of.fit(1, None if count is None else 2 * count, empty=True):
        return f"its region must list the begins and the ends of {count} axes"
    if not of.fit(2, count, empty=True) or not of.fit(3, count, empty=True):
        return f"it must have one scale or size for each of {count} axes"
    if scales is not None and not (np.isfinite(scales).all() and (scales > 0).all()):
        return f"its scales are {scales[:8].tolist()}; each must be positive and finite"
    if sizes is not None and not ((sizes > 0) & (sizes < _WIDE)).all():
        return f"its sizes are {sizes[:8].tolist()}; each must be positive"
    return ""


def _pad(of: _Operands) -> str:
    count = of.axes(3)
    widths = of(1)
    if not of.fit(1, None if count is None else 2 * count):
        return f"its pads must list the begins and the ends of {count} axes"
    if widths is not None and not (abs(widths.astype(object)) < _WIDE).all():
        return f"its pads are {widths[:8].tolist()}"
    return ""


def _slice(of: _Operands) -> str:
    starts, steps = of(1), of(4)
    count = of.axes(3) if of.given(3) else None if starts is None else int(starts.size)
    if count is not None and of.rank is not None and count > of.rank:
        return f"it cuts {count} axes of a tensor of {of.rank}"
    if not all(of.fit(i, count) for i in (1, 2, 4)):
        return "starts, ends, axes and steps must be as many"
    if steps is not None and not steps.all():
        return "a step is 0"
    return ""


def _tile(of: _Operands) -> str:
    repeats = of(1)
    if not of.fit(1, of.rank):
        return f"it must have one number of repeats for each of {of.rank} axes"
    if repeats is not None and not ((repeats >= 0) & (repeats < _WIDE)).all():
        return f"its repeats are {repeats[:8].tolist()}; none may be negative"
    return ""


def _reduce(of: _Operands) -> str:
    of.axes(1)
    return ""


def _running(of: _Operands) -> str:
    if not of.fit(1, 1):
        return "its axis must be one number"
    of.axes(1)
    return ""


def _single(of: _Operands) -> str:
    return "" if of.fit(1, 1) else "its second input must be one number"


def _pieces(of: _Operands) -> str:
    sizes = of(1)
    if not of.fit(1, len(of.node.output)):
        return f"it has {len(of.node.output)} outputs, and not as many sizes"
    return "" if sizes is None or (sizes >= 0).all() else f"its sizes are {sizes[:8].tolist()}"


def _einsum(of: _Operands) -> str:
    """A term an operand, a letter an axis (an ellipsis: any number), a letter of the result one of a term."""
    equation = attributes(of.node)["equation"]
    assert isinstance(equation, bytes)  # `vetting` has seen to it, and to its letters
    left, _, result = equation.decode().replace(" ", "").partition("->")
    terms = left.split(",")
    if len(terms) != len(of.ranks):
        return f"its equation {left!r} is one of {len(terms)} operands, and it has {len(of.ranks)}"
    for term, rank in zip(terms, of.ranks, strict=True):
        letters = len(term.replace("...", ""))
        if rank is not None and (letters > rank if "..." in term else letters != rank):
            return f"{term!r} in its equation does not fit an operand of {rank} axes"
    letters_of = result.replace("...", "")
    if len(set(letters_of)) < len(letters_of) or not set(result) <= set(left):
        return f"the result {result!r} of its equation repeats a letter, or has one that no operand has"
    return ""


_CHECKS: Mapping[str, Callable[[_Operands], str]] = {
    "Resize": _resize,
    "Pad": _pad,
    "Slice": _slice,
    "Tile": _tile,
    "CumSum": _running,
    "TopK": _single,
    "Trilu": _single,
    "Split": _pieces,
    **{f"Reduce{kind}": _reduce for kind in "L1 L2 LogSum LogSumExp Max Mean Min Prod Sum SumSquare".split()},
    "Squeeze": _reduce,
    "Einsum": _einsum,
}
