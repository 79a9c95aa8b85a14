"""What the command line prints: names out of files are data, and never move a cursor or change a colour.

Everything that a command writes goes through `escape`: control characters, escape sequences, line ends, bidirectional
overrides, invisible characters and halves of surrogate pairs are spelt out, `\\u001b`. Rich reads markup in plain text;
`safe` gives it as text.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.text import Text

from ..escaping import escape


def safe(text: str) -> Text:
    """For rich: escaped, and "[red]" in it is printed."""
    return Text(escape(text))


def write_line(text: object = "", *, file: TextIO | None = None, flush: bool = False) -> None:
    """One line, whatever is in the text. file: stdout by default."""
    print(escape(str(text)), file=file, flush=flush)


def write_json(value: object) -> None:
    """A JSON object over several lines; it reads back as it was."""
    lines = json.dumps(value, indent=2, ensure_ascii=False, default=str).split("\n")
    print("\n".join(map(escape, lines)))


@contextmanager
def warnings_in_a_line() -> Iterator[None]:
    """A warning is one escaped line, and not a line of our code; so is what is logged where nobody has set up logging.
    Filters and recorders stay what they are."""

    def line(message: Warning | str, category: type[Warning], *_: object, **__: object) -> str:
        return f"onnxplain: {escape(' '.join(str(message).split()))}\n"

    before, last = warnings.formatwarning, logging.lastResort
    warnings.formatwarning = line
    if last is not None:
        last.setFormatter(_Line())
    try:
        yield
    finally:
        warnings.formatwarning = before
        if last is not None:
            last.setFormatter(None)


class _Line(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return f"onnxplain: {escape(' '.join(super().format(record).split()))}"


__all__ = ["escape", "safe", "warnings_in_a_line", "write_json", "write_line"]
