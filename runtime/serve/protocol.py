"""HTTP/1.1 on a connection, with bounds that uvicorn leaves open: how many connections, how long a request's head may
take, how long an answer may lie unread."""

from __future__ import annotations

import asyncio
import json

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD = 32768
"""Bytes of a request's first line and headers."""
LATE = 0.25
"""Seconds that a connection between two requests is kept when the server stops: the next may be on its way."""
_CLOSE = (b"connection", b"close")
_BUSY = b"the server has as many connections as it may; try again later"


class Bounded(H11Protocol):
    """h11: all parsing in Python. `bounded` makes one with its limits."""

    most, idle, stall = 512, 10.0, 30.0
    _head: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None
    _late: asyncio.TimerHandle | None = None
    _draining = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        if len(self.connections) >= self.most:
            body = json.dumps({"error": _BUSY.decode()}).encode()
            head = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\n"
            transport.write(head + b"connection: close\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
            transport.close()
            self.transport = transport
            return
        super().connection_made(transport)
        self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_watching()
        if self.flow is not None:
            super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.flow is None:
            return  # refused, and already being closed
        super().data_received(data)
        self._watch_head()
        if self._draining:
            self._last()

    def shutdown(self) -> None:
        """What runs is answered, and so is a request whose head is still to come: for a connection that has asked
        nothing yet, within `idle` seconds; for one between two requests, within `LATE`."""
        self._draining = True
        self._last()
        if not self._in_request() and self.cycle is not None and not self.conn.trailing_data[0]:
            self._late = self.loop.call_later(LATE, self._end)

    def _last(self) -> None:
        """The answer of the request that runs, if one does, is the connection's last, and says so."""
        if self._in_request():
            self.cycle.keep_alive = False
            self.cycle.default_headers = [*self.server_state.default_headers, _CLOSE]

    def _in_request(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _watch_head(self) -> None:
        """Not put off by further bytes: a head that comes byte by byte is one piece."""
        if self._in_request() or self.transport.is_closing():
            if self._head is not None:
                self._head.cancel()
            self._head = None
        elif self._head is None:
            self._head = self.loop.call_later(self.idle, self._end)

    def _end(self) -> None:
        self._head = None
        if not self._in_request():
            self.transport.abort()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_unread()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.get_write_buffer_size():
            self._watch_unread()

    def _watch_unread(self) -> None:
        if self._unread is None:
            self._unread = self.loop.call_later(self.stall, self._give_up)

    def _give_up(self) -> None:
        self._unread = None
        if self.transport.get_write_buffer_size():
            self.transport.abort()

    def timeout_keep_alive_handler(self) -> None:
        if not self.transport.get_write_buffer_size():  # else it is `_give_up` that decides
            super().timeout_keep_alive_handler()

    def _stop_watching(self) -> None:
        for timer in (self._head, self._unread, self._late):
            if timer is not None:
                timer.cancel()

    def send_400_response(self, msg: str) -> None:
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE) or self._in_request():
            self.transport.abort()  # an answer has begun, or is being worked on
            return
        body = json.dumps({"error": msg}).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        for event in (
            h11.Response(status_code=400, headers=headers, reason=b"Bad Request"),
            h11.Data(data=body),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


def bounded(most: int, idle: float, stall: float) -> type[Bounded]:
    """The protocol with its limits: connections, seconds for a head, seconds for a client to read."""
    return type("Protocol", (Bounded,), {"most": most, "idle": idle, "stall": stall})
