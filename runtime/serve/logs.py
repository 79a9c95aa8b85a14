"""One line an event on stderr: JSON for machines, or words for people. Values are escaped, so that no request can write
a line of its own."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime

_LOG = logging.getLogger(__name__)
LOGGERS = ("onnxplain", "uvicorn")
LONGEST = 300
_handler: logging.Handler | None = None
"""Writes to the real stderr while `only_lines` has taken its place."""


class Lines(logging.Formatter):
    """kind: "json" or "text"."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self._json = kind == "json"

    def format(self, record: logging.LogRecord) -> str:
        fields: Mapping[str, object] = getattr(record, "fields", {})
        stamp = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        event = record.getMessage()
        if record.exc_info and record.exc_info[1] is not None:
            fields = {**fields, "trace": self.formatException(record.exc_info)}
        if self._json:
            entry = {"time": stamp, "level": record.levelname.lower(), "event": event, **fields}
            return json.dumps(entry, default=str)
        words = " ".join(f"{key}={json.dumps(value, default=str)}" for key, value in fields.items())
        said = event if event.isprintable() else json.dumps(event)
        return f"{stamp} {record.levelname.lower()} {said} {words}".rstrip()


def configure(kind: str) -> None:
    """Send what this package and uvicorn log to stderr. For the command line: a library leaves logging alone."""
    handler = _handler or logging.StreamHandler(sys.stderr)
    handler.setFormatter(Lines(kind))
    for name in LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.setLevel(logging.INFO)
        logger.propagate = False
    # It says in several lines what is said here in one.
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)


@contextmanager
def only_lines(kind: str) -> Iterator[None]:
    """Where the log is JSON, so is everything else that is written to stderr meanwhile: other loggers, warnings,
    and whatever libraries and the interpreter write to file descriptor 2 without asking, line by line. Call `configure`
    inside. A crash of the process may lose its last words."""
    if kind != "json":
        yield
        return
    sys.stderr.flush()
    before, (out, into) = os.dup(2), os.pipe()
    os.dup2(into, 2)
    os.close(into)
    stream = os.fdopen(os.dup(before), "w", encoding="utf-8", errors="backslashreplace")
    handler = logging.StreamHandler(stream)
    handler.setFormatter(Lines(kind))
    root = logging.getLogger()
    root.addHandler(handler)
    logging.captureWarnings(True)
    thread = threading.Thread(target=_relay, args=(out, handler), daemon=True)
    thread.start()
    global _handler
    _handler = handler
    try:
        yield
    finally:
        _handler = None
        logging.captureWarnings(False)
        root.removeHandler(handler)
        sys.stderr.flush()
        os.dup2(before, 2)
        os.close(before)
        thread.join(5.0)  # children that live on may hold the other end
        for name in LOGGERS:
            if handler in logging.getLogger(name).handlers:
                logging.getLogger(name).removeHandler(handler)
        if not thread.is_alive():
            stream.close()


def _relay(out: int, handler: logging.Handler) -> None:
    with os.fdopen(out, "rb") as lines:
        for line in lines:
            text = line.decode("utf-8", "backslashreplace").rstrip()
            if text:
                record = logging.LogRecord(__name__, logging.WARNING, __file__, 0, "stderr", None, None)
                record.fields = {"line": text[: 10 * LONGEST]}
                handler.handle(record)


def say(
    event: str,
    level: int = logging.INFO,
    fault: BaseException | None = None,
    fields: Mapping[str, object] | None = None,
) -> None:
    """Log one event with its fields; texts longer than 300 characters are cut."""
    cut = {key: value[:LONGEST] if isinstance(value, str) else value for key, value in (fields or {}).items()}
    _LOG.log(level, event, exc_info=fault, extra={"fields": cut})
