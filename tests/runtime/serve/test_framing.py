"""Where a request ends, how long its head may be, and who is still answered when the server stops."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.runtime.serve.conftest import PATIENCE, Running, running, wait_until
from tests.runtime.serve.test_command import port_of, process

LIVE = b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\n"


def rest(line: socket.socket) -> bytes:
    """Until the server closes."""
    found = b""
    while piece := line.recv(65536):
        found += piece
    return found


@pytest.mark.parametrize("order", [0, 1])
def test_two_lengths_end_the_connection(server: Running, order: int) -> None:
    """RFC 9112, 6.1. What is smuggled behind the chunks is never answered."""
    lengths = [b"content-length: 4\r\n", b"transfer-encoding: chunked\r\n"][:: 1 - 2 * order]
    head = b"POST /v2/repository/index HTTP/1.1\r\nhost: x\r\n" + b"".join(lengths) + b"\r\n"
    found = server.talk(head + b"0\r\n\r\n" + LIVE + b"\r\n")
    assert found.startswith(b"HTTP/1.1 400 ") and b"connection: close" in found.lower()
    assert found.count(b"HTTP/1.1") == 1
    one = b"POST /v2/repository/index HTTP/1.0\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"
    found = server.talk(one)
    assert found.count(b"HTTP/1.1") == 1 and b" 400 " in found.partition(b"\r\n")[0]


@pytest.mark.parametrize("where", ["header", "headers", "address"])
def test_a_head_of_32_kib(server: Running, where: str) -> None:
    """Sent at once, so that it is complete when it is looked at."""
    for size, status in ((32_000, b"200"), (33_000, b"431")):
        if where == "header":
            head = LIVE + b"a: " + b"b" * (size - 60)
        elif where == "headers":
            head = LIVE + b"\r\n".join(b"a%04d: %b" % (i, b"b" * 92) for i in range(size // 100))
        else:
            head = LIVE.replace(b"live", b"live?" + b"b" * (size - 60)).rstrip()
        found = server.talk(head + b"\r\nconnection: close\r\n\r\n")
        assert found.startswith((b"HTTP/1.1 " + status, *([b"HTTP/1.1 400"] if status == b"431" else []))), (
            found[:60]
        )


def test_who_has_connected_is_answered(folder: Path) -> None:
    """A connection without a byte, one with half a head, and one between two requests whose next is on its way."""
    with running(folder / "small.onnx") as server:
        fresh, half, used = (socket.create_connection(server.address, timeout=PATIENCE) for _ in range(3))
        used.sendall(LIVE + b"\r\n")
        assert used.recv(65536).startswith(b"HTTP/1.1 200")
        half.sendall(LIVE)
        wait_until(lambda: len(server.serving._server.server_state.connections) == 3)
        server.serving.stop()
        used.sendall(LIVE + b"\r\n")
        time.sleep(0.6)
        for line, text in ((half, b"\r\n"), (fresh, LIVE + b"\r\n")):
            line.sendall(text)
        for line in (used, half, fresh):
            found = rest(line)
            line.close()
            assert found.startswith(b"HTTP/1.1 200")
            assert line is used or b"connection: close" in found.lower()


def test_who_waits_to_be_accepted_is_answered(folder: Path) -> None:
    """The loop is held up while twenty connect and the stop comes: none of them is reset."""
    with running(folder / "small.onnx") as server:
        loop = next(iter(server.serving._server.servers)).get_loop()
        held, go = threading.Event(), threading.Event()

        def hold() -> None:
            held.set()
            go.wait(PATIENCE)

        loop.call_soon_threadsafe(hold)
        assert held.wait(PATIENCE)
        lines = [socket.create_connection(server.address, timeout=PATIENCE) for _ in range(20)]
        server.serving.stop()
        # Nothing is accepted from now on but by the stop itself.
        loop.call_soon_threadsafe(loop._remove_reader, server.serving._socket.fileno())  # type: ignore[attr-defined]
        go.set()
        for line in lines:
            line.sendall(LIVE + b"\r\n")
        for line in lines:
            assert rest(line).startswith(b"HTTP/1.1 200")
            line.close()


def test_an_idle_connection_does_not_hold_up_the_stop(folder: Path) -> None:
    with running(folder / "small.onnx") as server:
        line = socket.create_connection(server.address, timeout=PATIENCE)
        line.sendall(LIVE + b"\r\n")
        assert line.recv(65536).startswith(b"HTTP/1.1 200")
        start = time.monotonic()
        server.serving.stop()
        assert line.recv(65536) == b"" and time.monotonic() - start < 3.0
        line.close()


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGTERM there")
def test_every_line_is_json(folder: Path) -> None:
    """uvicorn's own words too; `process` reads every line as JSON."""
    with process(folder / "small.onnx") as (child, lines):
        with socket.create_connection(("127.0.0.1", port_of(lines)), timeout=PATIENCE) as line:
            line.sendall(b"\x1b[31m nonsense\r\n\r\n")
            assert rest(line).startswith(b"HTTP/1.1 400")
        child.send_signal(signal.SIGTERM)
        assert child.wait(PATIENCE) == 0
        assert any("Invalid HTTP" in line["event"] for line in lines)
        assert lines[-1]["event"] == "stopped"


SCRIPT = """
import logging, os, sys, threading, warnings
from onnxplain.runtime.serve import logs
with logs.only_lines("json"):
    logs.configure("json")
    warnings.warn("a warning\\nof two lines")
    logging.getLogger("asyncio").error("another logger")
    os.write(2, b"\\x1b[31mnative\\xff\\n")
    def fail(): raise ValueError("in a thread")
    thread = threading.Thread(target=fail); thread.start(); thread.join()
    print("printed", file=sys.stderr)
    logs.say("said")
print("after", file=sys.stderr)
"""


def test_whatever_is_written_to_stderr_is_json() -> None:
    ran = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60)
    *lines, last = ran.stderr.splitlines()
    told = [json.loads(line) for line in lines]
    assert ran.returncode == 0 and last == "after" and not ran.stdout
    events, written = [one["event"] for one in told], [one.get("line", "") for one in told]
    assert any("a warning" in event for event in events) and "another logger" in events and "said" in events
    assert "\x1b[31mnative\\xff" in written and "printed" in written
    assert any("ValueError: in a thread" in line for line in written)
    assert "\x1b" not in ran.stderr


@pytest.mark.parametrize("words", [("none.onnx",), ("none.onnx", "--deadline", "soon")])
def test_what_ends_the_server_is_json(words: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", "onnxplain", "serve", *words, "--log", "json"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60)
    [line] = [json.loads(line) for line in ran.stderr.splitlines()]
    assert ran.returncode == 2 and line["event"] == "failed" and line["error"]
