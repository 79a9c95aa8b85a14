"""Read a model that nobody vouches for: bytes in, a parsed and vetted ModelProto out."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError, EncodeError, Message
from onnx import TensorProto, helper

from .errors import ModelError

STANDARD_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc"})
"""Operator sets a stock onnxruntime runs; com.microsoft carries its contrib operators."""

PROTOBUF_LIMIT = 2**31 - 1
MAX_NODES = 200_000


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
        data do not fill their shape, or external data that is not wanted, not there, or outside the folder.
    """
    if isinstance(source, Source):
        return source
    data, path = _read(source, max_bytes)
    if len(data) > max_bytes:
        raise ModelError(f"the model has {len(data)} bytes, over the cap of {max_bytes}; raise max_bytes")
    model = _parse(data, "the model" if path is None else repr(str(path)))
    _vet_text(model)
    _vet_form(model)
    _vet_domains(model, STANDARD_DOMAINS | set(domains))
    _resolve_external(model, path, external_data, max_bytes - len(data))
    _vet_tensors(model)
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
            raise ModelError(f"no model file at {str(path)!r}; check the path")
        if path.stat().st_size > max_bytes:
            raise ModelError(f"{str(path)!r} has {path.stat().st_size} bytes, over the cap of {max_bytes}")
        return path.read_bytes(), path
    except OSError as error:
        raise ModelError(f"cannot read {str(path)!r}: {error.strerror}") from error


def _parse(data: bytes, name: str) -> onnx.ModelProto:
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError as error:
        raise ModelError(f"{name} is not an ONNX model (or is cut off); export it again") from error
    return model


def _vet_text(message: Message) -> None:
    """Text in ONNX is UTF-8. Protobuf's parser lets other bytes in, and every later reader trips over them."""
    if not all(_readable(text) for text in _texts(message)):
        kind = type(message).__name__
        raise ModelError(f"text of a {kind} is not UTF-8: the file is damaged; export it again")
    if isinstance(message, TensorProto):
        return
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            for part in (value,) if isinstance(value, Message) else value:
                _vet_text(part)


def _texts(message: Message) -> Iterable[str | bytes]:
    """The message's own texts. A text that is not UTF-8 reads as bytes; attributes keep theirs as bytes."""
    if isinstance(message, TensorProto):  # its data are no text, and may be large
        return (message.name, message.doc_string)
    found: list[str | bytes] = []
    if isinstance(message, onnx.AttributeProto):
        found += (message.s, *message.strings)
    for field, value in message.ListFields():
        if field.type == field.TYPE_STRING:
            found += (value,) if isinstance(value, (str, bytes)) else value
    return found


def _readable(text: str | bytes) -> bool:
    if isinstance(text, bytes):
        try:
            text.decode()
        except UnicodeDecodeError:
            return False
    return True


def _vet_form(model: onnx.ModelProto) -> None:
    if not model.ir_version or not model.graph.node:
        raise ModelError("this is not an ONNX model: it has no IR version or no nodes; export it again")
    if not any(entry.domain in ("", "ai.onnx") for entry in model.opset_import):
        raise ModelError("the model does not import the default operator set; export it again")
    count = sum(1 for _ in all_nodes(model))
    if count > MAX_NODES:
        raise ModelError(f"the model has {count} nodes, over the cap of {MAX_NODES}")
    if not model.graph.output or not model.graph.input:
        raise ModelError("the model has no inputs or no outputs; there is nothing to explain")


def _vet_domains(model: onnx.ModelProto, known: frozenset[str] | set[str]) -> None:
    own = {(function.domain, function.name) for function in model.functions}
    unknown = sorted(
        {
            f"{node.domain}.{node.op_type}"
            for node in all_nodes(model)
            if node.domain not in known and (node.domain, node.op_type) not in own
        }
    )
    if unknown:
        raise ModelError(
            f"operators of unknown domains: {', '.join(unknown)}; name the domains you trust with domains="
        )


def all_nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Every node of the model: the graph, its subgraphs and its functions."""
    yield from _walk(model.graph.node)
    for function in model.functions:
        yield from _walk(function.node)


def _walk(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                yield from _walk(graph.node)


def _tensors(model: onnx.ModelProto) -> Iterator[TensorProto]:
    graphs = [model.graph]
    nodes = list(all_nodes(model))
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            single = (attribute.sparse_tensor,) if attribute.HasField("sparse_tensor") else ()
            for sparse in (*single, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)
            graphs += [attribute.g, *attribute.graphs]
    for graph in graphs:
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)


_BITS = {"UINT4": 4, "INT4": 4, "FLOAT4E2M1": 4, "UINT2": 2, "INT2": 2}
"""Bits an element of the types that share bytes."""


def _vet_tensors(model: onnx.ModelProto) -> None:
    for tensor in _tensors(model):
        if not _filled(tensor):
            raise ModelError(
                f"tensor {tensor.name!r} of shape {list(tensor.dims)} is of an unknown type, or its data do not "
                "fill that shape: the file is damaged; export it again"
            )


def _filled(tensor: TensorProto) -> bool:
    """Whether the stored data are as many as dims say; checked here because the weights skip onnx's checker."""
    if tensor.data_type not in TensorProto.DataType.values() or min(tensor.dims, default=0) < 0:
        return False
    count, kind = math.prod(tensor.dims), TensorProto.DataType.Name(tensor.data_type)
    if kind == "UNDEFINED" or kind.startswith("FLOAT6"):
        return bool(kind != "UNDEFINED")  # FLOAT6 is stored in more than one way
    bits = _BITS.get(kind, 8 * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)
    size: int = -(-count * bits // 8)
    if tensor.HasField("raw_data"):
        return bool(kind != "STRING" and len(tensor.raw_data) == size)
    stored = len(getattr(tensor, helper.tensor_dtype_to_field(tensor.data_type)))
    wanted = size if kind in _BITS else 2 * count if kind.startswith("COMPLEX") else count
    return bool(stored == wanted)


def _resolve_external(model: onnx.ModelProto, path: Path | None, wanted: bool, budget: int) -> None:
    outside = [t for t in _tensors(model) if t.data_location == TensorProto.EXTERNAL]
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
