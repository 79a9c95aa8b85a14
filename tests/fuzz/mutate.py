"""Damage to a protobuf message, drawn from a seed: bytes, fields, order, repeats, and numbers at the edges."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import EncodeError, Message

WHOLE: tuple[int, ...] = (
    0,
    1,
    -1,
    2,
    3,
    7,
    16,
    64,
    65,
    99,
    255,
    1000,
    3000,
    10**6,
    10**8,
    2**31 - 1,
    2**31,
    2**32,
    2**40,
)
WHOLE += (2**62, 2**63 - 1, -2, -(2**31), -(2**63))  # fmt: skip
REAL = (0.0, -0.0, 1.0, -1.0, 0.5, 1e-38, 1e38, -1e38, float("nan"), float("inf"), float("-inf"), 1e9)
WORDS = (
    "",
    "x",
    "y",
    "axis",
    "axes",
    "ai.onnx",
    "com.microsoft",
    "ai.onnx.ml",
    "nowhere",
    "a/b",
    "é",
    "?",
    "n" * 300,
)

_BOUNDS = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}


def mutated(model: onnx.ModelProto, draw: np.random.Generator) -> bytes:
    """The model's bytes after one to three pieces of damage, most of them to fields."""
    work = onnx.ModelProto()
    work.CopyFrom(model)
    if draw.random() < 0.1:
        return damaged_bytes(work.SerializeToString(), draw)
    for _ in range(int(draw.choice([1, 1, 1, 1, 2, 3]))):
        damage_field(work, draw)
    try:
        return bytes(work.SerializeToString())
    except (EncodeError, ValueError):  # a text that protobuf does not write
        return bytes(model.SerializeToString())


def damaged_bytes(data: bytes, draw: np.random.Generator) -> bytes:
    """Some bytes changed, dropped, repeated, or the end cut off."""
    raw = bytearray(data)
    for _ in range(int(draw.integers(1, 6))):
        at, kind = int(draw.integers(0, len(raw))), int(draw.integers(0, 5))
        if kind == 0:
            raw[at] = int(draw.integers(0, 256))
        elif kind == 1:
            raw[at] ^= 1 << int(draw.integers(0, 8))
        elif kind == 2:
            del raw[at : at + int(draw.integers(1, 9))]
        elif kind == 3:
            raw[at:at] = raw[at : at + int(draw.integers(1, 33))]
        elif at > len(raw) // 2:
            del raw[at:]
        if not raw:
            raw = bytearray(b"\0")
    return bytes(raw)


def damage_field(model: onnx.ModelProto, draw: np.random.Generator) -> None:
    """One field of one message. The kind of message is drawn first: a few large ones must not hide the others."""
    kinds: dict[str, list[Message]] = {}
    for message in _messages(model):
        kinds.setdefault(type(message).__name__, []).append(message)
    likely = [name for name in ("NodeProto", "AttributeProto", "TensorProto") if name in kinds]
    names = sorted(kinds) + 2 * likely
    message = _one(kinds[_one(names, draw)], draw)
    fields = list(message.DESCRIPTOR.fields)
    there = [field for field, _ in message.ListFields()]
    field = _one(there, draw) if there and draw.random() < 0.8 else _one(fields, draw)
    value = getattr(message, field.name)
    damage = _repeated if hasattr(value, "extend") else _single
    damage(message, field, kinds, draw)


def _messages(message: Message) -> list[Message]:
    found = [message]
    for field, value in message.ListFields():
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            for part in (value,) if isinstance(value, Message) else value:
                found += _messages(part)
    return found


Kinds = dict[str, list[Message]]


def _single(message: Message, field: FieldDescriptor, kinds: Kinds, draw: np.random.Generator) -> None:
    if draw.random() < 0.3:
        message.ClearField(field.name)
    elif field.type == FieldDescriptor.TYPE_MESSAGE:
        _copy(getattr(message, field.name), kinds, draw)
    else:
        setattr(message, field.name, _value(field, getattr(message, field.name), kinds, draw))


def _repeated(message: Message, field: FieldDescriptor, kinds: Kinds, draw: np.random.Generator) -> None:
    values: Any = getattr(message, field.name)
    nested = field.type == FieldDescriptor.TYPE_MESSAGE
    at = int(draw.integers(0, len(values))) if len(values) else 0
    kind = int(draw.integers(0, 6)) if len(values) else 0
    if kind == 0 and nested:
        _copy(values.add(), kinds, draw)
    elif kind == 0:
        times = 65 if draw.random() < 0.1 else 1
        values.extend([_value(field, values[at] if len(values) else None, kinds, draw)] * times)
    elif kind == 1:
        del values[at]
    elif kind == 2:
        values.extend([values[at]])
    elif kind == 3:
        order = list(draw.permutation(len(values)))
        kept = [_kept(values[int(i)]) for i in order]
        del values[:]
        values.extend(kept)
    elif nested:
        _copy(values[at], kinds, draw)
    else:
        values[at] = _value(field, values[at], kinds, draw)


def _kept(value: Any) -> Any:
    if not isinstance(value, Message):
        return value
    copy = type(value)()
    copy.CopyFrom(value)
    return copy


def _copy(target: Message, kinds: Kinds, draw: np.random.Generator) -> None:
    """Another message of the same kind; half the time nothing."""
    others = kinds.get(type(target).__name__, [])
    if others and draw.random() < 0.7:
        target.CopyFrom(_kept(_one(others, draw)))


def _value(field: FieldDescriptor, old: Any, kinds: Kinds, draw: np.random.Generator) -> Any:
    if field.type == FieldDescriptor.TYPE_ENUM:
        kinds_of: Any = field.enum_type
        return _one(list(kinds_of.values), draw).number
    if field.cpp_type in _BOUNDS:
        low, high = _BOUNDS[field.cpp_type]
        near = int(old or 0) + int(draw.integers(-2, 3))
        return min(max(near if draw.random() < 0.4 else _one(WHOLE, draw), low), high)
    if field.cpp_type in (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE):
        return _one(REAL, draw)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return _bytes(bytes(old or b""), draw)
    return _text(field.name, kinds, draw)


def _bytes(old: bytes, draw: np.random.Generator) -> bytes:
    choices: list[Callable[[], bytes]] = [
        lambda: b"",
        lambda: b"\xff\xfe",
        lambda: old[: len(old) // 2],
        lambda: old + b"\0",
        lambda: np.asarray([_one(REAL, draw)] * max(1, len(old) // 4), "<f4").tobytes(),
        lambda: np.asarray([_one(WHOLE, draw)] * max(1, len(old) // 8), "<i8").tobytes(),
        lambda: b"SAME_LOWER",
        lambda: b"linear",
    ]
    return choices[int(draw.integers(0, len(choices)))]()


def _text(field: str, kinds: Kinds, draw: np.random.Generator) -> str:
    """An operator for an operator, a tensor for a tensor, and now and then anything."""
    nodes: list[Any] = list(kinds.get("NodeProto", []))
    pools = {
        "op_type": sorted({schema.name for schema in onnx.defs.get_all_schemas()}),
        "name": [a.name for a in kinds.get("AttributeProto", []) if isinstance(a, onnx.AttributeProto)],
    }
    pool = pools.get(field) or [name for node in nodes for name in (*node.input, *node.output)]
    return str(_one(pool if pool and draw.random() < 0.8 else WORDS, draw))


def _one(choices: Any, draw: np.random.Generator) -> Any:
    return choices[int(draw.integers(0, len(choices)))]
