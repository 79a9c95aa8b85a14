"""Content codings of bodies: gzip and deflate, unpacked to a bound."""

from __future__ import annotations

import zlib

from .refusal import Refusal

_WINDOW = {"gzip": 31, "deflate": 15}
"""Coding -> zlib's wbits; what HTTP calls deflate has the header of zlib."""

SMALL = 1024
"""Answers below this many bytes are sent as they are."""


def inflate(body: bytes | bytearray, coding: str, limit: int) -> bytes | bytearray:
    """A body as it was before `coding` ("", "identity", "gzip", "deflate").

    Never more than `limit` + 1 bytes are unpacked. Raises Refusal: 413 where there would be more, 415 for another
    coding, 400 for a damaged or cut off stream and for anything behind its end.
    """
    coding = coding.strip().lower()
    if coding in ("", "identity"):
        return body
    if coding not in _WINDOW:
        raise Refusal(415, f"content coding {coding[:40]!r} is not known; send gzip, deflate or identity")
    engine = zlib.decompressobj(_WINDOW[coding])
    try:
        data = engine.decompress(body, limit + 1)
    except zlib.error as error:
        raise Refusal(400, f"the body is no {coding}: {error}") from error
    if len(data) > limit:
        raise Refusal(413, f"the unpacked body has more than {limit} bytes; send fewer rows")
    if not engine.eof or engine.unused_data:
        raise Refusal(400, f"the {coding} body is cut off, or something follows its end")
    return data


def choose_coding(accepted: str) -> str:
    """The coding for an answer, from Accept-Encoding: "gzip" before "deflate", or "" for none."""
    weights = qualities(accepted)
    found = [coding for coding in _WINDOW if weights.get(coding, weights.get("*", 0.0)) > 0.0]
    return max(found, key=lambda coding: weights.get(coding, weights.get("*", 0.0)), default="")


def deflate(body: bytes, coding: str) -> bytes:
    """At level 1: maps are floats, which the higher levels hardly pack better."""
    engine = zlib.compressobj(1, zlib.DEFLATED, _WINDOW[coding])
    return engine.compress(body) + engine.flush()


def qualities(header: str) -> dict[str, float]:
    """ "a, b;q=0.5" -> {"a": 1.0, "b": 0.5}, as Accept and Accept-Encoding are written; nonsense counts as 0."""
    found: dict[str, float] = {}
    for part in header.lower().split(","):
        name, *parameters = (piece.strip() for piece in part.split(";"))
        weight = next((piece[2:] for piece in parameters if piece.startswith("q=")), "1")
        try:
            found[name] = float(weight)
        except ValueError:
            found[name] = 0.0
    found.pop("", None)
    return found
