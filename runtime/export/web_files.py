"""Emitted files as a browser loads them: the weights of a source model once, graphs that refer to them beside it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import onnx
from onnx import TensorProto, numpy_helper

ALIGNMENT = 64
"""Of every tensor in the file of weights."""
LIGHT = 1024
"""Bytes up to which a tensor stays in the graph: shapes, axes and scales are read while it is loaded."""


@dataclass
class Weights:
    """One file of tensors that several graphs share; equal bytes are stored once. name: of the file, as the graphs
    refer to it (ONNX external data)."""

    name: str
    data: bytearray = field(default_factory=bytearray)
    _places: dict[bytes, int] = field(default_factory=dict)

    def detach(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """A copy of the model whose heavy initializers lie here."""
        light = onnx.ModelProto()
        light.CopyFrom(model)
        for tensor in light.graph.initializer:
            raw = _bytes_of(tensor)
            if len(raw) > LIGHT:
                self._refer(tensor, raw)
        return light

    def _refer(self, tensor: TensorProto, raw: bytes) -> None:
        kept = TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
        kept.data_location = TensorProto.EXTERNAL
        told = {"location": self.name, "offset": self._place(raw), "length": len(raw)}
        for key, value in told.items():
            entry = kept.external_data.add()
            entry.key, entry.value = key, str(value)
        tensor.CopyFrom(kept)

    def _place(self, raw: bytes) -> int:
        key = hashlib.sha256(raw).digest()
        if key not in self._places:
            self.data.extend(b"\0" * (-len(self.data) % ALIGNMENT))
            self._places[key] = len(self.data)
            self.data.extend(raw)
        return self._places[key]


def _bytes_of(tensor: TensorProto) -> bytes:
    """Little-endian, as external data are; nothing for strings, which have no fixed size."""
    if tensor.data_type == TensorProto.STRING or tensor.data_location == TensorProto.EXTERNAL:
        return b""
    if tensor.HasField("raw_data"):
        return bytes(tensor.raw_data)
    array = numpy_helper.to_array(tensor)
    raw: bytes = array.astype(array.dtype.newbyteorder("<")).tobytes()
    return raw


__all__ = ["Weights"]
