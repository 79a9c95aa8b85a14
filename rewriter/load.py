"""Read a model that nobody vouches for: bytes in, a parsed and vetted ModelProto out."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError, EncodeError
from onnx import TensorProto

from .errors import ModelError
from .vetting import (
    all_tensors,
    vet_domains,
    vet_form,
    vet_nodes,
    vet_tensors,
    vet_text,
    vet_values,
)

STANDARD_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc"})
"""Operator sets a stock onnxruntime runs; com.microsoft carries its contrib operators."""

PROTOBUF_LIMIT = 2**31 - 1


@dataclass(frozen=True)
class Source:
    """A vetted model and where it came from. `sha256` is over the file's bytes."""

    model: onnx.ModelProto
    sha256: str
    size: int
    path: Path | None


def load(
    source: Source | str | os.PathLike[str] | bytes | onnx.ModelProto,
    *,
    external_data: bool = False,
    max_bytes: int = PROTOBUF_LIMIT,
    domains: Iterable[str] = (),
) -> Source:
    """Parse and vet a model given as a path, as bytes or as a ModelProto (which is not modified). A Source was
    vetted when it was loaded, and is returned as it is.

    external_data: read tensors kept in files beside the model. Only regular files inside the model's
        own folder are ever opened, and only when this is asked for.
    max_bytes: cap on the model file, and on model plus external data.
    domains: operator domains to accept beyond STANDARD_DOMAINS and the model's own functions.
    Raises ModelError: missing, too large, not ONNX, malformed, unknown domains (all listed), tensors whose
        data do not fill their shape, nodes that their operator's schema does not allow (`vetting`), or external
        data that is not wanted, not there, or outside the folder.
    """
    if isinstance(source, Source):
        return source
    data, path = _read(source, max_bytes)
    if len(data) > max_bytes:
        raise ModelError(f"the model has {len(data)} bytes, over the cap of {max_bytes}; raise max_bytes")
    model = _parse(data, "the model" if path is None else repr(str(path)))
    vet_text(model)
    vet_form(model)
    vet_domains(model, STANDARD_DOMAINS | set(domains))
    _resolve_external(model, path, external_data, max_bytes - len(data))
    vet_tensors(model)
    vet_values(model)
    vet_nodes(model)
    return Source(model, hashlib.sha256(data).hexdigest(), len(data), path)


def _read(
    source: Source | str | os.PathLike[str] | bytes | onnx.ModelProto, max_bytes: int
) -> tuple[bytes, Path | None]:
    if isinstance(source, onnx.ModelProto):
        try:
            return source.SerializeToString(), None
        except (EncodeError, ValueError) as error:
            raise ModelError(
                f"the model cannot be serialised ({error}); keep its weights outside and give the path"
            ) from error
    if isinstance(source, (bytes, bytearray, memoryview)):
        return bytes(source), None
    if not isinstance(source, (str, os.PathLike)):
        raise ModelError(f"a model is a path, bytes or a ModelProto, not {type(source).__name__}")
    path = Path(source)
    try:
        if not path.is_file():
            other = path.exists() and not path.is_dir()
            why = "; it is a pipe, a socket or a device, and is not opened" if other else ""
            raise ModelError(f"no model file at {str(path)!r}{why}; check the path")
        return _bytes_of(path, max_bytes), path
    except OSError as error:
        raise ModelError(f"cannot read {str(path)!r}: {error.strerror}") from error


def _bytes_of(path: Path, max_bytes: int) -> bytes:
    """What a regular file holds. The name may mean a pipe by now: an open that cannot wait, and a look at what was
    opened."""
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    with os.fdopen(os.open(path, flags), "rb") as file:
        about = os.fstat(file.fileno())
        if not stat.S_ISREG(about.st_mode):
            raise ModelError(f"no model file at {str(path)!r}; it changed while it was read; check the path")
        if about.st_size > max_bytes:
            raise ModelError(f"{str(path)!r} has {about.st_size} bytes, over the cap of {max_bytes}")
        return file.read()


def _parse(data: bytes, name: str) -> onnx.ModelProto:
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError as error:
        raise ModelError(f"{name} is not an ONNX model (or is cut off); export it again") from error
    return model


def _resolve_external(model: onnx.ModelProto, path: Path | None, wanted: bool, budget: int) -> None:
    outside = [t for t in all_tensors(model) if t.data_location == TensorProto.EXTERNAL]
    if not outside:
        return
    if not wanted or path is None:
        raise ModelError(
            f"{len(outside)} tensors are kept outside the model file (first: {outside[0].name!r}); "
            "give the path and ask for them with external_data=True (--external-data)"
        )
    folder = Path(os.path.realpath(path)).parent
    for tensor in outside:
        data = _external_bytes(tensor, folder, budget)
        budget -= len(data)
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")
        tensor.raw_data = data


def _external_bytes(tensor: TensorProto, folder: Path, budget: int) -> bytes:
    """The tensor's bytes, from a regular file strictly inside the model's folder, never through a link."""
    where = {entry.key: entry.value for entry in tensor.external_data}
    location = where.get("location", "")
    file: Path = folder / location
    escapes = os.path.isabs(location) or ".." in Path(location).parts or "\0" in location
    inside = location and not escapes
    if not inside or Path(os.path.realpath(file)) != file or not file.is_file() or file.stat().st_nlink > 1:
        raise ModelError(
            f"external data of {tensor.name!r} at {location!r} is not a plain file inside the model's folder"
        )
    try:
        offset, size = int(where.get("offset", 0)), file.stat().st_size
        length = int(where.get("length", size - offset))
    except ValueError as error:
        raise ModelError(f"external data of {tensor.name!r} has a bad offset or length") from error
    if offset < 0 or length < 0 or offset + length > size or length > budget:
        raise ModelError(f"external data of {tensor.name!r} runs past its file or over the size cap")
    try:
        with file.open("rb") as handle:
            handle.seek(offset)
            return handle.read(length)
    except OSError as error:
        raise ModelError(
            f"external data of {tensor.name!r}: cannot read {location!r}: {error.strerror}"
        ) from error
