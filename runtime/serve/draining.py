"""uvicorn that turns away nobody who was there before it was told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Any

import uvicorn


class Draining(uvicorn.Server):
    """Connections that the system has taken before the stop, but not yet handed out, are taken before the socket is
    closed: uvicorn would close it over them, and they would be reset."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        waiting = self._waiting(sockets or [])
        for server in self.servers:
            server.close()
        loop, config = asyncio.get_running_loop(), self.config

        def protocol() -> asyncio.Protocol:
            kind: Any = config.http_protocol_class
            made: asyncio.Protocol = kind(
                config=config, server_state=self.server_state, app_state=self.lifespan.state
            )
            return made

        for line in waiting:
            with contextlib.suppress(OSError):  # it has gone
                await loop.connect_accepted_socket(protocol, line)
        await super().shutdown(sockets)

    def _waiting(self, sockets: list[socket.socket]) -> list[socket.socket]:
        found: list[socket.socket] = []
        for listening in sockets:
            with contextlib.suppress(BlockingIOError, OSError):
                for _ in range(self.config.backlog + 1):
                    line, _address = listening.accept()
                    line.setblocking(False)
                    found.append(line)
        return found
