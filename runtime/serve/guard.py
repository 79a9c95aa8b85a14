"""Around every request: who may ask, what is answered when something goes wrong, and what is written down."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import secrets
import time
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ...rewriter.errors import ExplainError
from .counts import Metrics
from .logs import say
from .protocol import HEAD
from .refusal import Gone, Refusal, refusal_of
from .settings import Settings

OPEN = frozenset({"/v2/health/live", "/v2/health/ready"})
"""Asked by whoever restarts the server, without a key."""
LINGER = 2.0
"""Seconds to read on, so that a client that is still sending gets to see why it is refused."""


class Guard:
    """ASGI middleware. No exception leaves it but those of a client that has gone."""

    def __init__(self, app: ASGIApp, settings: Settings, metrics: Metrics, names: frozenset[str]) -> None:
        self._app, self._settings, self._metrics, self._names = app, settings, metrics, names
        self._keys = tuple(sha256(key.encode()).digest() for key in settings.keys)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = Exchange(scope, receive, send, self._settings.max_body)
        try:
            _vet_head(exchange)
            if scope["path"] not in OPEN:
                self._admit(exchange.headers)
            await self._app(scope, exchange.receive, exchange.send)
        except Gone:
            exchange.status = 499  # nobody reads it; what logs call a client that closed the connection
        except Refusal as refusal:
            await exchange.refuse(refusal)
        except ExplainError as error:
            said = refusal_of(error)
            if said.status >= 500:
                say("failed", logging.ERROR, fields={"id": exchange.id, "error": str(error)})
            await exchange.refuse(said)
        except Exception as error:
            say("failed", logging.ERROR, error, {"id": exchange.id})
            await exchange.refuse(
                Refusal(500, f"internal error; the server's log has it under {exchange.id}")
            )
        finally:
            self._write_down(exchange)

    def _admit(self, headers: Headers) -> None:
        """Raises Refusal (401) without a key, where there are keys. Compares in constant time, and all of them."""
        if not self._keys:
            return
        scheme, _, token = headers.get("authorization", "").partition(" ")
        given = token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        digest = sha256(given.encode()).digest()
        if not sum(hmac.compare_digest(digest, key) for key in self._keys):
            raise Refusal(
                401, "send the API key as Authorization: Bearer KEY", {"WWW-Authenticate": "Bearer"}
            )

    def _write_down(self, exchange: Exchange) -> None:
        seconds = time.monotonic() - exchange.start
        scope = exchange.scope
        operation = getattr(scope.get("endpoint"), "__name__", "none")
        name = scope.get("path_params", {}).get("name", "")
        self._metrics.count(operation, name if name in self._names else "", exchange.status, seconds)
        fields: dict[str, object] = {
            "id": exchange.id,
            "client": (scope.get("client") or ("",))[0],
            "method": scope["method"],
            "path": scope["path"],
            "status": exchange.status,
            "ms": round(seconds * 1000, 3),
            "received": exchange.received,
            "sent": exchange.sent,
        }
        say("request", fields=fields | ({"error": exchange.error} if exchange.error else {}))


def _vet_head(exchange: Exchange) -> None:
    """Raises Refusal: 400 for a body whose length is said in two ways (RFC 9112, 6.1: a proxy before us may have read
    another request out of it; the connection is closed), or in chunks by HTTP/1.0; 431 for a head of more than `HEAD`
    bytes."""
    scope, headers = exchange.scope, exchange.headers
    if "transfer-encoding" in headers and ("content-length" in headers or scope.get("http_version") == "1.0"):
        exchange.last = True
        raise Refusal(400, "give the length of the body once: Content-Length or Transfer-Encoding, not both")
    size = (
        len(scope.get("raw_path") or b"") + len(scope.get("query_string") or b"") + len(scope["method"]) + 12
    )
    size += sum(len(key) + len(value) + 4 for key, value in scope["headers"])
    if size > HEAD:
        exchange.last = True
        raise Refusal(431, f"the head of the request has more than {HEAD} bytes")


class Exchange:
    """One request and its answer, as they pass."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, limit: int) -> None:
        self.scope, self.headers = scope, Headers(scope=scope)
        self.id = secrets.token_hex(8)
        self.start: float = scope.setdefault("state", {}).setdefault("start", time.monotonic())
        self.status, self.received, self.sent = 0, 0, 0
        self.error = ""
        self.last = False
        """Whether the connection ends with this answer."""
        self._receive, self._send, self._limit = receive, send, limit
        self._complete = False

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self.received += len(message.get("body", b""))
            self._complete = self._complete or not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(raw=list(message.get("headers", [])))
            if headers.get("connection") != "close":
                await self._linger()
            self.status = message["status"]
            headers["X-Request-Id"] = self.id
            if self.last or not self._complete:
                headers["Connection"] = "close"  # the rest of the body is not read
            message = {**message, "headers": headers.raw}
        else:
            self.sent += len(message.get("body", b""))
        await self._send(message)

    async def _linger(self) -> None:
        """Read what the client still sends, and forget it: as much as a body may have, for a short time."""
        declared = self.headers.get("content-length", "")
        body = declared not in ("", "0") or "transfer-encoding" in self.headers
        if not body:
            self._complete = True
        too_long = declared.isdecimal() and int(declared) > self._limit
        if self._complete or too_long or "expect" in self.headers:
            return
        try:
            async with asyncio.timeout(LINGER):
                while not self._complete and self.received <= self._limit:
                    if (await self.receive())["type"] == "http.disconnect":
                        return
        except TimeoutError:
            return

    async def refuse(self, refusal: Refusal) -> None:
        self.error = refusal.message
        body = json.dumps({"error": refusal.message}).encode()
        fixed: Mapping[str, Any] = {"content-type": "application/json", "content-length": str(len(body))}
        headers = [
            (key.lower().encode(), str(value).encode("latin-1", "replace"))
            for key, value in {**fixed, **refusal.headers}.items()
        ]
        await self.send({"type": "http.response.start", "status": refusal.status, "headers": headers})
        await self.send(
            {"type": "http.response.body", "body": b"" if self.scope["method"] == "HEAD" else body}
        )
