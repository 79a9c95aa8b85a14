"""What an operator decides: where to listen, how much to accept, how long to work on it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

from ...rewriter.errors import OptionError
from ..cores import available_cores

KEY_VARIABLE = "ONNXPLAIN_API_KEY"
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "": 1.0, "m": 60.0, "min": 60.0}
LOGS = ("text", "json")


@dataclass(frozen=True)
class Settings:
    """host, port: where to listen; port 0 takes a free one.

    workers      runs at a time, each in a thread of its own; they share one session a model
    threads      threads of one run (of one operator of onnxruntime)
    queue        requests that may wait for a worker; one more is answered 503
    max_batch    rows of one request, and of a joined batch
    max_body     bytes of a body, as sent and as unpacked
    deadline     seconds from the first byte of a request to its answer; a run that is not done is stopped, 504
    batching     seconds to wait for requests that can share a run; 0: every request runs alone
    keys         whoever shows one of them may ask; none: everybody
    memory       bytes that weights and working memory of one run may take (see `Explainer`); None: not estimated for
                 one row, and half of what is available for more
    idle         seconds between two pieces of a request (its head counts as one piece), 408 or a closed connection
    stall        seconds for a client to take what was sent to it
    connections  open at a time; one more is answered 503 and closed
    buffer       bytes of bodies held at a time, of all requests; by default 4 max_body

    Raises OptionError, naming the field, for a value out of range.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    workers: int = field(default_factory=available_cores)
    threads: int = 1
    queue: int = 64
    max_batch: int = 64
    max_body: int = 64_000_000
    deadline: float = 30.0
    batching: float = 0.0
    keys: tuple[str, ...] = field(default=(), repr=False)
    log: str = "text"
    memory: int | None = None
    providers: tuple[str, ...] | None = None
    idle: float = 10.0
    stall: float = 30.0
    connections: int = 512
    buffer: int = 0

    def __post_init__(self) -> None:
        for name in ("workers", "threads", "max_batch", "max_body", "connections"):
            if getattr(self, name) < 1:
                raise OptionError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("queue", "buffer"):
            if getattr(self, name) < 0:
                raise OptionError(f"{name} is {getattr(self, name)}; it must not be negative")
        for name in ("deadline", "idle", "stall"):
            if not 0.0 < getattr(self, name) < math.inf:
                raise OptionError(f"{name} is {getattr(self, name)} s; it must be more than 0")
        if not 0.0 <= self.batching <= 1.0:
            raise OptionError(f"batching is {self.batching} s; it must lie between 0 and 1 s")
        if not 0 <= self.port <= 65535:
            raise OptionError(f"port is {self.port}; it must lie in 0..65535")
        if self.log not in LOGS:
            raise OptionError(f"log is {self.log!r}; known: {', '.join(LOGS)}")
        if not all(key.isascii() and key.isprintable() and len(key) >= 8 for key in self.keys):
            raise OptionError("an API key must have at least 8 printable ASCII characters")

    @property
    def held(self) -> int:
        """Bytes of bodies in memory at a time."""
        return max(self.buffer or 4 * self.max_body, self.max_body)

    @property
    def loopback(self) -> bool:
        """Whether only this machine can connect."""
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


def parse_seconds(text: str) -> float:
    """ "30s", "2ms", "500us", "1m", "0.5" (seconds) -> seconds. Raises OptionError."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(us|ms|s|min|m|)\s*", text.lower())
    if match is None:
        raise OptionError(f"{text!r} is no duration; write it as 30s, 2ms or 1m")
    return float(match[1]) * _SECONDS[match[2]]


def read_keys(file: Path | None, environment: Mapping[str, str]) -> tuple[str, ...]:
    """API keys: of the file, one a line, if there is one, else the one of the variable ONNXPLAIN_API_KEY.

    Raises OptionError for a file that cannot be read or holds none, and for a variable that is set but empty: an
    operator who meant to protect the server must not get an open one.
    """
    if file is not None:
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise OptionError(f"cannot read the API key from {str(file)!r}: {error}") from error
        keys = tuple(line.strip() for line in lines if line.strip())
        if not keys:
            raise OptionError(f"{str(file)!r} holds no API key; write one a line")
        return keys
    if KEY_VARIABLE not in environment:
        return ()
    key = environment[KEY_VARIABLE].strip()
    if not key:
        raise OptionError(f"{KEY_VARIABLE} is empty; set a key, or unset it to serve without one")
    return (key,)
