"""Names out of files are data: what they may do to a terminal, a page or a picture."""

from __future__ import annotations

import json
import re

_MEANT = re.compile(r"[\\`*~\[\]|]|(?<![^\W_])_|_(?![^\W_])")
"""An underscore inside a word means nothing."""
_HTML = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})


def escape(text: str) -> str:
    """Every character that is not printable as JSON spells it; all others as they are."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else json.dumps(one)[1:-1] for one in text)


def markdown(text: str) -> str:
    """Text inside a line of markdown that reads as it is written: no markup, no HTML, no cell of a table ends."""
    return _MEANT.sub(r"\\\g<0>", escape(text)).translate(_HTML)


__all__ = ["escape", "markdown"]
