"""One line an event on stderr: JSON for machines, or words for people. Values are escaped, so that no request can write
a line of its own."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping
from datetime import UTC, datetime

_LOG = logging.getLogger(__name__)
LOGGERS = ("onnxplain", "uvicorn")
LONGEST = 300


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
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Lines(kind))
    for name in LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.setLevel(logging.INFO)
        logger.propagate = False
    # It says in several lines what is said here in one.
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)


def say(
    event: str,
    level: int = logging.INFO,
    fault: BaseException | None = None,
    fields: Mapping[str, object] | None = None,
) -> None:
    """Log one event with its fields; texts longer than 300 characters are cut."""
    cut = {key: value[:LONGEST] if isinstance(value, str) else value for key, value in (fields or {}).items()}
    _LOG.log(level, event, exc_info=fault, extra={"fields": cut})
