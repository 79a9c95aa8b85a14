"""The server as a whole: models opened, a socket, uvicorn, signals."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from ...rewriter.errors import OptionError
from .logs import say
from .served import open_models
from .settings import Settings

try:
    import uvicorn

    from .app import Site, application
    from .draining import Draining
    from .engine import Engine
    from .protocol import HEAD, bounded
except ImportError as error:  # named once, here
    raise OptionError(
        f"the server needs starlette and uvicorn ({error}); install onnxplain[serve]"
    ) from error

BACKLOG = 128


class Serving:
    """Models behind an address. `run` blocks until `stop`, SIGTERM or SIGINT, then answers whoever is connected.

    Raises OptionError (paths, an address that cannot be taken) and ModelError.
    """

    def __init__(self, paths: Sequence[str | os.PathLike[str]], settings: Settings) -> None:
        self.settings = settings
        self.models = open_models(paths, settings)
        self._socket = _listen(settings.host, settings.port)
        self.port: int = self._socket.getsockname()[1]
        self.site = Site(self.models, settings, Engine(settings), lambda: self._server.should_exit)
        protocol = bounded(settings.connections, settings.idle, settings.stall)
        config = uvicorn.Config(
            application(self.site),
            http=protocol,
            loop="asyncio",
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=5,
            # What runs has its deadline; then its answer must be read.
            timeout_graceful_shutdown=int(settings.deadline + settings.stall) + 1,
            h11_max_incomplete_event_size=HEAD,
            backlog=BACKLOG,
        )
        self._server = Draining(config)

    @property
    def url(self) -> str:
        host = self.settings.host
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"

    @property
    def started(self) -> bool:
        return self._server.started

    def run(self) -> None:
        self._warn()
        told = {"url": self.url, "models": sorted(self.models), "workers": self.settings.workers}
        say("listening", fields=told)
        with _finishing():
            self._server.run(sockets=[self._socket])
        say("stopped", fields={"requests": self._server.server_state.total_requests})

    def stop(self) -> None:
        """From any thread: take no more requests, finish those that run, return from `run`."""
        self._server.should_exit = True

    def _warn(self) -> None:
        if not self.settings.loopback:
            advice = "" if self.settings.keys else " without an API key; set --api-key-file, or use 127.0.0.1"
            say(f"other machines can connect to {self.settings.host}{advice}", logging.WARNING)
        for served in self.models.values():
            if self.settings.batching and not served.joinable:
                say("its requests do not share runs", logging.WARNING, fields={"model": served.name})


def _listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises OptionError for an address that is not ours or is taken."""
    made: socket.socket | None = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        made = socket.socket(family, kind, protocol)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
        made.listen(BACKLOG)  # whoever connects from now on waits for the loop, and is not turned away
        made.setblocking(False)
    except (OSError, UnicodeError) as error:
        if made is not None:
            made.close()
        reason = getattr(error, "strerror", None) or str(error)
        raise OptionError(
            f"cannot listen at {host}:{port}: {reason}; choose another --host or --port"
        ) from error
    return made


@contextmanager
def _finishing() -> Iterator[None]:
    """uvicorn raises the signal that stopped it once more when it is done; that ends this block and no process."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def nothing(number: int, frame: FrameType | None) -> None:
        return None

    before = {number: signal.signal(number, nothing) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
