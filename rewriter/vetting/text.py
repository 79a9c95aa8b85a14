"""Text in ONNX is UTF-8. Protobuf's parser lets other bytes in, and every later reader trips over them; what is written
in C reads a name up to its first NUL."""

from __future__ import annotations

from collections.abc import Iterable

import onnx
from google.protobuf.message import Message
from onnx import TensorProto

from ..errors import ModelError


def vet_text(message: Message) -> None:
    """ModelError where a text of the message, or of one inside it, is not UTF-8, and for names with a NUL in them."""
    if not all(_readable(text) for text in _texts(message)):
        kind = type(message).__name__
        raise ModelError(
            f"text of a {kind} is not UTF-8, or has a NUL in it: the file is damaged; export it again"
        )
    if isinstance(message, TensorProto):
        return
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            for part in (value,) if isinstance(value, Message) else value:
                vet_text(part)


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
    if isinstance(text, str):
        return "\0" not in text
    if text:
        try:
            text.decode()
        except UnicodeDecodeError:
            return False
    return True
