"""A request that is not answered as asked: a status, one line, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping

from ...rewriter.errors import ExplainError, ImageError, OptionError, TargetError


class Refusal(Exception):
    """Answered with `status` and {"error": message}."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.headers = status, message, dict(headers or {})


class Gone(Exception):
    """The client closed the connection: there is nobody to answer."""


def busy(what: str) -> Refusal:
    """503: the client may try again in a second."""
    return Refusal(503, f"{what}; try again later", {"Retry-After": "1"})


def late(deadline: float) -> Refusal:
    """504: the answer would have come after the deadline."""
    return Refusal(504, f"no answer within the deadline of {deadline:g} s; send fewer rows, or ask later")


def refusal_of(error: ExplainError) -> Refusal:
    """What a client is told: 400 for what it can mend; 500, without details, for what it cannot.

    A run that onnxruntime itself refuses for its arguments (an index out of range) is the request's fault.
    """
    cause = error.__cause__
    mended = isinstance(error, (OptionError, TargetError, ImageError))
    if mended or (cause is not None and type(cause).__name__ == "InvalidArgument"):
        return Refusal(400, " ".join(str(error).split())[:500])
    return Refusal(500, "the model failed on this input; the server's log says why")
