"""An inference request: JSON, with the values of tensors inside it or as bytes behind it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .datatypes import Array, Tensor, from_json, unpack
from .refusal import Refusal

MAX_RANK = 16
MAX_LISTS = 1_000_000
"""Lists and objects in one JSON: an empty list is 2 bytes on the wire and 64 in memory."""

Record = Mapping[str, object]


@dataclass(frozen=True)
class Wanted:
    """An output to answer. classes: so many top classes of it, as texts, instead of its values; 0: the values."""

    name: str
    binary: bool = False
    classes: int = 0


@dataclass(frozen=True)
class Asked:
    """feeds: by input name. outputs: what to answer, in order. id: given back as it is, or None."""

    feeds: dict[str, Array]
    outputs: tuple[Wanted, ...]
    id: str | None = None
    rows: int = 1


def read_request(
    body: bytes | bytearray,
    header_length: str | None,
    inputs: Mapping[str, Tensor],
    outputs: Mapping[str, Tensor],
    max_batch: int,
) -> Asked:
    """A body (without content coding) against what the model declares.

    header_length: bytes of the JSON at its start, from Inference-Header-Content-Length; None: all of them.
    Raises Refusal, 400: no JSON, something of it has another type, unknown or repeated names, a datatype or a shape
    that does not fit, values that do not fill the shape, bytes left over, more than max_batch rows.
    """
    head, blob = _split(body, header_length)
    request = _parse(head)
    feeds: dict[str, Array] = {}
    for entry in _records(request, "inputs", required=True):
        name = _name(entry, "input", inputs)
        if name in feeds:
            raise Refusal(400, f"input {name!r} is given twice")
        feeds[name], blob = _feed(entry, inputs[name], blob, max_batch)
    if blob:
        raise Refusal(400, f"{len(blob)} bytes follow those of the inputs; check binary_data_size")
    missing = [name for name, tensor in inputs.items() if name not in feeds and not tensor.optional]
    if missing:
        raise Refusal(400, f"no value was given for the input {', '.join(map(repr, missing))}")
    id_ = request.get("id")
    if id_ is not None and not isinstance(id_, str):
        raise Refusal(400, "id must be a text")
    rows = max((feeds[name].shape[0] for name in feeds if inputs[name].free_rows), default=1)
    return Asked(feeds, _wanted(request, outputs), id_, rows)


def _split(body: bytes | bytearray, header_length: str | None) -> tuple[bytes | bytearray, memoryview]:
    if header_length is None:
        return body, memoryview(b"")
    digits = header_length.strip()
    if not (digits.isascii() and digits.isdecimal() and len(digits) < 12) or int(digits) > len(body):
        raise Refusal(
            400, f"Inference-Header-Content-Length {digits[:20]!r} does not fit a body of {len(body)}"
        )
    length = int(digits)
    return body[:length], memoryview(body)[length:]


def _parse(head: bytes | bytearray) -> Record:
    if head.count(b"[") + head.count(b"{") > MAX_LISTS:
        raise Refusal(400, f"the JSON holds over {MAX_LISTS} lists; send data flat, or as bytes")
    try:
        request = json.loads(head, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise Refusal(400, f"the request is no JSON: {str(error)[:200]}") from error
    if not isinstance(request, dict):
        raise Refusal(400, "the request must be a JSON object")
    return request


def _refuse_constant(word: str) -> float:
    raise ValueError(f"{word} is no JSON; send such values as bytes")


def _records(request: Record, key: str, required: bool = False) -> Sequence[Record]:
    entries = request.get(key)
    if entries is None and not required:
        return ()
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise Refusal(400, f"{key} must be a list of objects")
    return entries


def _name(entry: Record, kind: str, known: Mapping[str, Tensor]) -> str:
    name = entry.get("name")
    if not isinstance(name, str):
        raise Refusal(400, f"every {kind} needs a name")
    if name not in known:
        raise Refusal(400, f"unexpected {kind} {name[:100]!r}; the model has: {', '.join(known)}")
    return name


def _parameters(entry: Record) -> Record:
    found = entry.get("parameters")
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise Refusal(400, "parameters must be an object")
    shared = next((key for key in found if str(key).startswith("shared_memory")), None)
    if shared is not None:
        raise Refusal(400, f"{shared}: this server takes no shared memory; send the values")
    return found


def _feed(entry: Record, tensor: Tensor, blob: memoryview, max_batch: int) -> tuple[Array, memoryview]:
    """The array of one input, and the bytes that are left for the others."""
    name = tensor.name
    if entry.get("datatype") != tensor.datatype:
        raise Refusal(
            400, f"input {name!r} has the datatype {tensor.datatype}, not {str(entry.get('datatype'))[:20]}"
        )
    shape = _shape(entry, tensor, max_batch)
    count = math.prod(shape)
    size = _parameters(entry).get("binary_data_size")
    if size is None:
        if "data" not in entry:
            raise Refusal(400, f"input {name!r} has neither data nor binary_data_size")
        values = from_json(entry["data"], tensor.datatype, name)
    else:
        if "data" in entry:
            raise Refusal(400, f"input {name!r} has both data and binary_data_size")
        if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= len(blob):
            raise Refusal(
                400, f"input {name!r}: binary_data_size {str(size)[:20]}, but {len(blob)} bytes are left"
            )
        values, blob = unpack(blob[:size], tensor.datatype, count, name), blob[size:]
    if values.size != count:
        raise Refusal(400, f"input {name!r}: {values.size} values for the shape {shape}")
    return values.reshape(shape), blob


def _shape(entry: Record, tensor: Tensor, max_batch: int) -> list[int]:
    shape = entry.get("shape")
    if not isinstance(shape, list) or not all(type(size) is int and 0 < size < 2**31 for size in shape):
        raise Refusal(400, f"input {tensor.name!r}: shape must be a list of sizes of at least 1")
    fits = len(shape) == len(tensor.shape) <= MAX_RANK
    if not fits or any(
        given != size for given, size in zip(shape, tensor.shape, strict=True) if isinstance(size, int)
    ):
        raise Refusal(400, f"input {tensor.name!r} takes the shape {tensor.sizes}, not {str(shape)[:100]}")
    if tensor.free_rows and shape[0] > max_batch:
        raise Refusal(400, f"input {tensor.name!r}: {shape[0]} rows; this server takes {max_batch} at a time")
    return shape


def _wanted(request: Record, outputs: Mapping[str, Tensor]) -> tuple[Wanted, ...]:
    """All outputs where none is named."""
    binary = _flag(_parameters(request), "binary_data_output", False)
    entries = _records(request, "outputs")
    found: dict[str, Wanted] = {}
    for entry in entries:
        name, parameters = _name(entry, "output", outputs), _parameters(entry)
        if name in found:
            raise Refusal(400, f"output {name!r} is asked for twice")
        classes = parameters.get("classification", 0)
        if type(classes) is not int or not 0 <= classes < 2**31:
            raise Refusal(400, f"output {name!r}: classification must be a number of classes")
        if classes and outputs[name].datatype in ("BYTES", "BOOL"):
            raise Refusal(400, f"output {name!r} of {outputs[name].datatype} has no classes to put in order")
        found[name] = Wanted(name, _flag(parameters, "binary_data", binary), classes)
    return tuple(found.values()) or tuple(Wanted(name, binary) for name in outputs)


def _flag(parameters: Record, key: str, default: bool) -> bool:
    value = parameters.get(key, default)
    if not isinstance(value, bool):
        raise Refusal(400, f"{key} must be true or false")
    return value
