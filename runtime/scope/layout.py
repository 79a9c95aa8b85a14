"""How flat vectors and tensors of one sample correspond: shapes, order, and the names of single entries."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ...rewriter.errors import OptionError, nearest

Array: TypeAlias = npt.NDArray[Any]
Tensors: TypeAlias = Any
"""An array, or where several inputs are explained a dict of arrays by input name. Not a union: with one input, as
nearly always, every caller would have to rule the dict out."""
Given: TypeAlias = "npt.ArrayLike | Mapping[str, npt.ArrayLike]"
Entry: TypeAlias = "int | tuple[Any, ...]"
"""A flat index, or coordinates (after the name of the input where there are several)."""
Entries: TypeAlias = "Entry | Iterable[Entry] | Array"


@dataclass(frozen=True)
class Layout:
    """One side of F. parts: (name, shape of one sample, without the batch axis), in the order in which flat vectors
    concatenate them, each in row-major order. what: "input" or "output", for messages."""

    what: str
    parts: tuple[tuple[str, tuple[int, ...]], ...]

    @property
    def size(self) -> int:
        return sum(prod(shape) for _, shape in self.parts)

    @property
    def shape(self) -> tuple[int, ...] | None:
        """Of the only part; None where there are several."""
        return self.parts[0][1] if len(self.parts) == 1 else None

    def flat(self, tensors: Mapping[str, Array]) -> Array:
        """{name: (K, ...)} -> (K, size)."""
        rows = [np.reshape(tensors[name], (len(tensors[name]), -1)) for name, _ in self.parts]
        return rows[0] if len(rows) == 1 else np.concatenate(rows, axis=1)

    def split(self, rows: Array) -> dict[str, Array]:
        """(K, size) -> {name: (K, ...)}."""
        found, start = {}, 0
        for name, shape in self.parts:
            end = start + prod(shape)
            found[name] = rows[:, start:end].reshape(len(rows), *shape)
            start = end
        return found

    def tensors(self, rows: Array) -> Tensors:
        """(K, size) -> (K, ...), or a dict of them."""
        found = self.split(rows)
        return found if len(found) > 1 else next(iter(found.values()))

    def sample(self, row: Array) -> Tensors:
        """(size,) -> the tensors of one sample, without a batch axis."""
        found = self.split(row[None])
        return {k: v[0] for k, v in found.items()} if len(found) > 1 else next(iter(found.values()))[0]

    def index(self, entry: Entry) -> int:
        """The flat index of an entry. OptionError, with the index and the range, for one that is not there."""
        if isinstance(entry, tuple):
            return self._place(entry)
        try:
            found = operator.index(entry)
        except TypeError:
            raise OptionError(f"{entry!r} is no index of the {self.what}: give whole numbers") from None
        if not 0 <= found < self.size:
            raise OptionError(f"{self.what} index {found} is out of range: 0 to {self.size - 1}")
        return found

    def _place(self, entry: tuple[Any, ...]) -> int:
        start, name, shape = self._part(entry)
        place = entry[1:] if entry and isinstance(entry[0], str) else entry
        if len(place) != len(shape):
            raise OptionError(
                f"{self.what} index {entry}: {len(place)} coordinates for {name!r}, whose samples have the shape "
                f"{list(shape)}"
            )
        try:
            coordinates = [operator.index(i) for i in place]
        except TypeError:
            raise OptionError(f"{self.what} index {entry}: give whole numbers") from None
        for axis, (i, length) in enumerate(zip(coordinates, shape, strict=True)):
            if not 0 <= i < length:
                raise OptionError(
                    f"{self.what} index {entry}: {i} is out of range on axis {axis} of {name!r}: 0 to {length - 1}"
                )
        return start + int(np.ravel_multi_index(coordinates, shape)) if shape else start

    def _part(self, entry: tuple[Any, ...]) -> tuple[int, str, tuple[int, ...]]:
        names = [name for name, _ in self.parts]
        named = bool(entry) and isinstance(entry[0], str)
        if not named and len(names) > 1:
            raise OptionError(
                f"{self.what} index {entry}: begin it with the input, one of {', '.join(names)}"
            )
        wanted = entry[0] if named else names[0]
        start = 0
        for name, shape in self.parts:
            if name == wanted:
                return start, name, shape
            start += prod(shape)
        raise OptionError(
            f"{self.what} index {entry}: no {wanted!r}{nearest(wanted, names)}; {', '.join(names)}"
        )

    def indices(self, entries: Entries) -> list[int]:
        """Of one entry (an integer or a tuple) or of many (a list; an array (K,), or (K, axes) of coordinates)."""
        if isinstance(entries, np.ndarray) and entries.ndim:
            entries = [tuple(row) if np.ndim(row) else row for row in entries]
        if isinstance(entries, (tuple, str)) or not isinstance(entries, Iterable):
            return [self.index(entries)]
        found = [self.index(tuple(e) if isinstance(e, list) else e) for e in entries]
        if not found:
            raise OptionError(f"no {self.what} index was given")
        return found

    def units(self, indices: Sequence[int], dtype: npt.DTypeLike) -> Array:
        """(K, size): one-hot rows."""
        rows = np.zeros((len(indices), self.size), dtype)
        rows[np.arange(len(indices)), indices] = 1
        return rows


def as_array(value: npt.ArrayLike, what: str) -> Array:
    """Numbers, and no others. OptionError."""
    try:
        found = np.asarray(value)
    except ValueError as error:  # rows of unequal length
        raise OptionError(f"the {what} is no array: {error}") from error
    if found.dtype.kind not in "fiub":
        raise OptionError(f"the {what} has the type {found.dtype}; real numbers are needed")
    return found


__all__ = ["Array", "Entries", "Entry", "Given", "Layout", "Tensors", "as_array"]
