"""Content codings: what is unpacked is bounded, and what is damaged is refused."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib
from collections.abc import Callable

import pytest

from onnxplain.runtime.serve.coding import choose_coding, deflate, inflate, qualities
from onnxplain.runtime.serve.refusal import Refusal

PACK: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "deflate": zlib.compress}


@pytest.mark.parametrize("coding", PACK)
def test_there_and_back(coding: str) -> None:
    data = bytes(range(256)) * 10
    assert inflate(PACK[coding](data), coding, len(data)) == data
    assert inflate(deflate(data, coding), coding.upper(), len(data)) == data


@pytest.mark.parametrize("coding", PACK)
def test_a_bomb_is_not_unpacked(coding: str) -> None:
    """200 MB in 200 kB, with a limit of 1 MB: no more than that is ever in memory (4 MB leave room for zlib)."""
    bomb = PACK[coding](bytes(200_000_000))
    assert len(bomb) < 400_000
    tracemalloc.start()
    with pytest.raises(Refusal) as caught:
        inflate(bomb, coding, 1_000_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert caught.value.status == 413 and peak < 4_000_000


@pytest.mark.parametrize("coding", PACK)
def test_the_limit_itself_fits(coding: str) -> None:
    body = PACK[coding](bytes(1000))
    assert len(inflate(body, coding, 1000)) == 1000
    with pytest.raises(Refusal):
        inflate(body, coding, 999)


@pytest.mark.parametrize("coding", PACK)
def test_damage(coding: str) -> None:
    whole = PACK[coding](b"some data" * 50)
    for body in (
        b"",
        whole[:-1],
        whole + b"x",
        b"nonsense",
        whole + whole,
        whole[:5] + b"\x00" + whole[6:-1],
    ):
        with pytest.raises(Refusal) as caught:
            inflate(body, coding, 10_000)
        assert caught.value.status == 400


@pytest.mark.parametrize("coding", ["br", "gzip, gzip", "compress", "x" * 1000])
def test_other_codings(coding: str) -> None:
    with pytest.raises(Refusal) as caught:
        inflate(b"", coding, 10)
    assert caught.value.status == 415 and len(caught.value.message) < 200


@pytest.mark.parametrize(
    ("accepted", "chosen"),
    [
        ("", ""),
        ("identity", ""),
        ("gzip", "gzip"),
        ("deflate", "deflate"),
        ("deflate, gzip", "gzip"),
        ("gzip;q=0.1, deflate;q=0.9", "deflate"),
        ("gzip;q=0", ""),
        ("*", "gzip"),
        ("*;q=0", ""),
        ("gzip;q=nonsense", ""),
        ("br, GZIP ; q=0.5", "gzip"),
    ],
)
def test_the_coding_of_an_answer(accepted: str, chosen: str) -> None:
    assert choose_coding(accepted) == chosen


def test_qualities() -> None:
    assert qualities("a, b;q=0.5,, c;x=1;q=0.2") == {"a": 1.0, "b": 0.5, "c": 0.2}
