"""The types of tensors, in the words of onnxruntime, of the protocol and of numpy."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ...rewriter.errors import ModelError
from .refusal import Refusal

Array = npt.NDArray[Any]

_OF_ORT = {
    "bool": "BOOL",
    "float16": "FP16",
    "float": "FP32",
    "double": "FP64",
    "string": "BYTES",
    **{f"{sign.lower()}int{bits}": f"{sign}INT{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)},
}

# Little-endian on the wire, whatever the machine.
NUMPY: Mapping[str, np.dtype[Any]] = MappingProxyType(
    {
        "BOOL": np.dtype("?"),
        "FP16": np.dtype("<f2"),
        "FP32": np.dtype("<f4"),
        "FP64": np.dtype("<f8"),
        **{f"INT{bits}": np.dtype(f"<i{bits // 8}") for bits in (8, 16, 32, 64)},
        **{f"UINT{bits}": np.dtype(f"<u{bits // 8}") for bits in (8, 16, 32, 64)},
    }
)
"""Datatype of the protocol -> type of numpy. BYTES, texts of any length, has none."""


class Declared(Protocol):
    """An input or output as onnxruntime declares it."""

    name: str
    type: str
    shape: Sequence[int | str | None]


@dataclass(frozen=True)
class Tensor:
    """An input or output of a served model. A free size is its name, or None. optional: may be left out. shared: its
    first axis is none of samples, all of them use the whole of it (noise, references)."""

    name: str
    datatype: str
    shape: tuple[int | str | None, ...]
    optional: bool = False
    shared: bool = False

    @property
    def sizes(self) -> list[int]:
        """The shape as the protocol has it: -1 for a free size."""
        return [size if isinstance(size, int) else -1 for size in self.shape]

    @property
    def free_rows(self) -> bool:
        """Whether the first axis is of samples, and any number of them may be given."""
        return bool(self.shape) and not isinstance(self.shape[0], int) and not self.shared


def tensor_of(node: Declared, where: str, optional: bool = False, shared: bool = False) -> Tensor:
    """Raises ModelError for a type that the protocol has no word for."""
    kind = node.type.removeprefix("tensor(").removesuffix(")")
    if not node.type.startswith("tensor(") or kind not in _OF_ORT:
        raise ModelError(f"{where}: {node.name!r} is a {node.type}, which the protocol cannot carry")
    return Tensor(node.name, _OF_ORT[kind], tuple(node.shape), optional, shared)


def datatype_of(array: Array) -> str:
    """The protocol's word for an array that a model gave out."""
    if array.dtype.kind in "OUS":
        return "BYTES"
    kind = np.dtype(array.dtype.newbyteorder("<"))
    return next(name for name, known in NUMPY.items() if known == kind)


def pack(array: Array) -> bytes:
    """The bytes of an array: little-endian, in C order; of a text its length in 4 bytes before it."""
    if datatype_of(array) != "BYTES":
        return np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
    texts = [item if isinstance(item, bytes) else str(item).encode() for item in array.ravel().tolist()]
    return b"".join(struct.pack("<I", len(text)) + text for text in texts)


def unpack(blob: memoryview, datatype: str, count: int, name: str) -> Array:
    """The inverse of `pack`, `count` values flat. Raises Refusal (400) where the bytes are not exactly these."""
    if datatype == "BYTES":
        return _unpack_texts(blob, count, name)
    kind = NUMPY[datatype]
    if len(blob) != count * kind.itemsize:
        raise Refusal(
            400,
            f"input {name!r}: {len(blob)} bytes for {count} values of {datatype} ({count * kind.itemsize})",
        )
    if datatype == "BOOL" and count and int(np.frombuffer(blob, np.uint8).max()) > 1:
        raise Refusal(400, f"input {name!r}: a BOOL is one byte, 0 or 1")
    return np.frombuffer(blob, kind)


def _unpack_texts(blob: memoryview, count: int, name: str) -> Array:
    found: list[str] = []
    start = 0
    while start < len(blob) and len(found) < count:
        end = start + 4
        size = int.from_bytes(blob[start:end], "little") if end <= len(blob) else len(blob)
        if end + size > len(blob):
            raise Refusal(400, f"input {name!r}: a text is longer than the bytes that are left")
        try:
            found.append(bytes(blob[end : end + size]).decode())
        except UnicodeDecodeError as error:
            raise Refusal(400, f"input {name!r}: a text is not UTF-8") from error
        start = end + size
    if start != len(blob) or len(found) != count:
        raise Refusal(400, f"input {name!r}: its bytes do not hold exactly {count} texts")
    return np.array(found, object)


def from_json(data: object, datatype: str, name: str) -> Array:
    """A JSON list, flat or nested, as flat values. Raises Refusal (400) for anything that is not of the datatype:
    nothing is rounded to an integer, cut off, or read out of a text."""
    flat = _flat(data, name)
    kind = NUMPY.get(datatype)
    if not set(map(type, flat)) <= _JSON["" if kind is None else kind.kind]:
        raise Refusal(400, f"input {name!r}: data must be a list of values of {datatype}")
    if kind is None:
        return np.array(flat, object)
    try:
        with np.errstate(over="ignore"):
            made = np.array(flat, {"i": np.int64, "u": np.uint64}.get(kind.kind, kind))
    except OverflowError as error:
        raise Refusal(400, f"input {name!r}: a value does not fit {datatype}") from error
    fits = not made.size or kind.kind == "b"
    if not fits and kind.kind in "iu":
        fits = int(made.min()) >= np.iinfo(kind).min and int(made.max()) <= np.iinfo(kind).max
    if not fits and kind.kind == "f":
        fits = bool(np.isfinite(made).all())
    if not fits:
        raise Refusal(400, f"input {name!r}: a value does not fit {datatype}")
    return made.astype(kind, copy=False)


_JSON = {
    "": frozenset({str}),
    "b": frozenset({bool}),
    "i": frozenset({int}),
    "u": frozenset({int}),
    "f": frozenset({int, float}),
}
"""Kind of numpy -> the types that a JSON list of it may hold; the empty one stands for texts."""


def _flat(data: object, name: str) -> list[object]:
    if not isinstance(data, list):
        raise Refusal(400, f"input {name!r}: data must be a list")
    while data and isinstance(data[0], list):
        if set(map(type, data)) != {list} or len(set(map(len, data))) != 1:
            raise Refusal(400, f"input {name!r}: the nested lists of data differ in length")
        data = list(chain.from_iterable(data))
    return data
