"""An emitted file becomes a session: spelled for the provider that runs it."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import onnx
from google.protobuf.message import EncodeError

from ..rewriter.errors import ModelError, ProviderError
from ..rewriter.load import PROTOBUF_LIMIT
from ..rewriter.respell import respell
from .providers import AUTO, compiled_in, create_session, is_auto, resolve, short_name

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

    from .providers import Provider

_LOG = logging.getLogger(__name__)

SPELLED = MappingProxyType(
    {"cpu": "cpu", "cuda": "cuda", "tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt", "webgpu": "web"}
)
"""Provider -> table of forms (`rewriter.passes.lower.TABLES`); any other provider gets the portable one."""


def open_session(
    model: onnx.ModelProto,
    path: Path | None = None,
    providers: str | Sequence[Provider] | None = None,
    *,
    threads: int | None = None,
    cache: str | os.PathLike[str] | None = None,
) -> InferenceSession:
    """A session for an emitted file, its primitives spelled for the first of the providers. "auto" is the first one
    that works, and is spelled for that one. path: where the model lies, opened as it is where nothing is to change.

    Without the memory pattern of onnxruntime: an explanation keeps most activations of the forward pass, and needs 1.9
    times the working memory with it, for 1 to 2 % of the time (EfficientNet-Lite0: 26 and 51 MB at batch 1, 215 and 416
    MB at batch 8).
    """
    tries = [name for name in AUTO if name in compiled_in()] if is_auto(providers) else [providers]
    for i, asked in enumerate(tries):
        spelled = respell(model, table_for(asked))
        source = path if path is not None and spelled is model else serialize(spelled)
        try:
            return create_session(source, asked, threads=threads, memory_pattern=False, cache=cache)
        except ProviderError as error:
            if i + 1 == len(tries):
                raise
            _LOG.warning("%s is compiled in but does not work here: %s", asked, error)
    raise ProviderError("this onnxruntime has none of the providers that auto tries")


def table_for(providers: str | Sequence[Provider] | None) -> str:
    """The table of forms for the provider that is asked for first; onnxruntime's own default is the CPU."""
    entries = [providers] if isinstance(providers, str) else list(providers or ["cpu"])
    first = entries[0]
    return SPELLED.get(short_name(resolve(first if isinstance(first, str) else first[0])), "portable")


def serialize(model: onnx.ModelProto) -> bytes:
    """The file's bytes, the same for the same model. ModelError over protobuf's limit of 2 GiB."""
    try:
        data: bytes = model.SerializeToString()
    except (EncodeError, ValueError) as error:  # protobuf refuses a message it cannot write
        raise ModelError(
            f"the explanation does not fit into one ONNX file of at most 2 GiB: {error}"
        ) from error
    if len(data) > PROTOBUF_LIMIT:
        raise ModelError(f"the explanation would have {len(data)} bytes; one ONNX file holds at most 2 GiB")
    return data
