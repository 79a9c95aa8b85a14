"""Reading the body of a request: not too much, not too slowly, and not while others fill the memory."""

from __future__ import annotations

import asyncio

from starlette.requests import Request

from .engine import Hold, Ticket
from .refusal import Gone, Refusal
from .settings import Settings


async def read_body(request: Request, settings: Settings, hold: Hold, ticket: Ticket) -> bytearray:
    """The bytes as sent. Raises Refusal: 413 for more than max_body (before anything is read where the length is
    declared), 408 for a client that pauses longer than `idle` or is not done at the deadline, 503 when the requests
    together hold too much; Gone when the client leaves."""
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > settings.max_body:
        raise _too_large(settings)
    body = bytearray()
    while True:
        try:
            async with asyncio.timeout(min(settings.idle, ticket.left)):
                message = await request.receive()
        except TimeoutError as error:
            raise Refusal(408, "the body did not come in time", {"Connection": "close"}) from error
        if message["type"] == "http.disconnect":
            raise Gone
        piece = message.get("body", b"")
        hold.add(len(piece))
        body += piece
        if len(body) > settings.max_body:
            raise _too_large(settings)
        if not message.get("more_body", False):
            return body


async def until_gone(request: Request) -> None:
    """Returns when the client closes the connection. Only after the body was read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _too_large(settings: Settings) -> Refusal:
    return Refusal(413, f"the body has more than {settings.max_body} bytes; send fewer rows, or as bytes")
