"""What a hostile or unlucky client can do, and that the server stays within its bounds and recovers."""

from __future__ import annotations

import gzip
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.runtime.serve.conftest import Running, running, wait_until

ONE = np.zeros((1, 2, 3, 4), np.float32)
ENDLESS = np.full((1, 1), 1e9, np.float32)
"""For the model `slow`: hours."""
POST = b"POST /v2/models/small/infer HTTP/1.1\r\nhost: x\r\n"


def alive(server: Running) -> None:
    assert server.infer("small", ONE).status == 200


def test_a_body_that_is_too_large(folder: Path) -> None:
    with running(folder, max_body=100_000) as server:
        for headers in (b"content-length: 100001\r\n", b"content-length: 99999999999999\r\n"):
            found = server.talk(POST + headers + b"\r\n")
            assert found.startswith(b"HTTP/1.1 413 ") and b"connection: close" in found.lower()
        chunk = b"%x\r\n" % 50_000 + bytes(50_000) + b"\r\n"
        found = server.talk(POST + b"transfer-encoding: chunked\r\n\r\n", *[chunk] * 3, pause=0.05)
        assert found.startswith(b"HTTP/1.1 413 ")
        bomb = gzip.compress(bytes(100_000_000))
        answer = server("/v2/models/small/infer", bomb, {"Content-Encoding": "gzip"})
        assert answer.status == 413 and "unpacked" in answer.error()
        assert server("/v2/models/small/infer", b"x", {"Content-Encoding": "br"}).status == 415
        alive(server)


def test_a_body_that_does_not_come(folder: Path) -> None:
    with running(folder, idle=0.3, workers=1, queue=0) as server:
        slow = [POST + b"content-length: 50\r\n\r\n", b"{"]
        with ThreadPoolExecutor(20) as pool:
            waiting = [pool.submit(server.talk, *slow) for _ in range(20)]
            time.sleep(0.1)
            alive(server)  # whoever dawdles takes no place in the queue
            for found in waiting:
                assert found.result().startswith(b"HTTP/1.1 408 ")


def test_a_body_that_drips(folder: Path) -> None:
    """Each byte is in time; the deadline is for all of it."""
    with running(folder, idle=0.5, deadline=0.8) as server:
        start = time.monotonic()
        found = server.talk(POST + b"content-length: 50\r\n\r\n", *[b" "] * 12, pause=0.1)
        # Who still sends when the connection is closed may be told so by a reset only.
        assert not found or found.startswith(b"HTTP/1.1 408 ")
        assert time.monotonic() - start < 5.0
        wait_until(lambda: server.serving.site.metrics.requests["infer", "small", 408] == 1)
        alive(server)


@pytest.mark.parametrize("pieces", [[], [b"GET /v2 HT"], [b"GET /v2 HTTP/1.1\r\n", *[b"a: b\r\n"] * 10]])
def test_a_head_that_does_not_come(folder: Path, pieces: list[bytes]) -> None:
    """The connection is closed, also where every piece is in time."""
    with running(folder / "small.onnx", idle=0.4) as server:
        start = time.monotonic()
        assert server.talk(*pieces, pause=0.1) == b""
        assert time.monotonic() - start < 5.0
        alive(server)


MALFORMED = {
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
    "another version": b"GET / HTTP/one\r\nhost: x\r\n\r\n",
    "no host": b"GET /v2 HTTP/1.1\r\n\r\n",
    "a bad length": POST + b"content-length: -5\r\n\r\n",
    "two lengths": POST + b"content-length: 5\r\ncontent-length: 6\r\n\r\n",
    "an endless head": b"GET /v2 HTTP/1.1\r\nhost: x\r\n" + b"a: " + b"b" * 100_000,
    "a bad header": b"GET /v2 HTTP/1.1\r\nhost: x\r\nb\x00d: 1\r\n\r\n",
    "an unknown coding": POST + b"transfer-encoding: gzip\r\n\r\n",
}


@pytest.mark.parametrize("what", MALFORMED)
def test_malformed_http(server: Running, what: str) -> None:
    found = server.talk(MALFORMED[what])
    head, _, body = found.partition(b"\r\n\r\n")
    assert head.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 501 ")), found
    assert list(json.loads(body)) == ["error"]


def test_a_malformed_chunk_ends_the_connection(server: Running) -> None:
    found = server.talk(POST + b"transfer-encoding: chunked\r\n\r\nzz\r\n", pause=0.05)
    assert b"HTTP/1.1 2" not in found
    alive(server)


def test_connections_are_counted(folder: Path) -> None:
    with running(folder / "small.onnx", connections=3, idle=5.0) as server:
        idle = [socket.create_connection(server.address) for _ in range(3)]
        try:
            time.sleep(0.1)
            found = server.talk(b"")
            assert found.startswith(b"HTTP/1.1 503 ") and b"retry-after" in found
        finally:
            for line in idle:
                line.close()
        wait_until(lambda: server.talk(b"GET /v2 HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 200"))


def test_an_answer_that_nobody_reads(folder: Path) -> None:
    """8 MB of answers into a socket that is not read: closed after the time a client has, and the rest goes on."""
    x = np.zeros((64, 2, 3, 4), np.float32)
    body = json.dumps(
        {"inputs": [{"name": "x", "datatype": "FP32", "shape": list(x.shape), "data": x.ravel().tolist()}]}
    ).encode()
    request = b"POST /v2/models/small.saliency/infer HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(
        body
    )
    with running(folder, stall=0.5) as server, socket.socket() as line:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        line.settimeout(20.0)
        line.connect(server.address)
        line.setblocking(False)
        rest = (request + body) * 400
        connections = server.serving._server.server_state.connections
        wait_until(lambda: len(connections) == 1)
        end = time.monotonic() + 20.0
        try:
            while connections and time.monotonic() < end:
                try:
                    rest = rest[line.send(rest[:65536]) :]
                except BlockingIOError:
                    time.sleep(0.05)
        except (ConnectionResetError, BrokenPipeError):
            pass
        wait_until(lambda: not connections)
        alive(server)


def test_overload_is_refused_and_passes(folder: Path) -> None:
    """One worker, a queue of one, ten endless runs: two get their time, eight are refused at once."""
    with running(folder, workers=1, queue=1, deadline=3.0) as server, ThreadPoolExecutor(10) as pool:
        start = time.monotonic()
        answers = list(pool.map(lambda _: server.infer("slow", ENDLESS), range(10)))
        statuses = sorted(answer.status for answer in answers)
        assert statuses == [503] * 8 + [504] * 2
        assert all(answer.headers.get("retry-after") == "1" for answer in answers if answer.status == 503)
        assert all(answer.error() for answer in answers)
        assert time.monotonic() - start < 10.0
        wait_until(lambda: server.serving.site.engine.taken == 0)
        alive(server)


def test_a_run_is_stopped_at_the_deadline(folder: Path) -> None:
    with running(folder, deadline=0.5) as server:
        start = time.monotonic()
        answer = server.infer("slow", ENDLESS)
        assert answer.status == 504 and "deadline" in answer.error()
        assert time.monotonic() - start < 5.0
        # The thread is free again: onnxruntime was told to stop, and did.
        wait_until(lambda: server.serving.site.engine.running == 0)


def test_a_run_is_stopped_when_nobody_waits_for_it(folder: Path) -> None:
    with running(folder, deadline=60.0, workers=1) as server:
        body = json.dumps(
            {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [1e9]}]}
        ).encode()
        head = b"POST /v2/models/slow/infer HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body)
        with socket.create_connection(server.address) as line:
            line.sendall(head + body)
            wait_until(lambda: server.serving.site.engine.running == 1)
        wait_until(lambda: server.serving.site.engine.running == 0)
        alive(server)


def test_bodies_are_held_within_a_bound(folder: Path) -> None:
    """Four bodies that stand still share a buffer of two: the others are refused, not kept."""
    with running(folder, max_body=200_000, buffer=250_000, idle=1.0) as server:
        pieces = [POST + b"content-length: 200000\r\n\r\n", bytes(100_000)]
        found: list[bytes] = []
        threads = [threading.Thread(target=lambda: found.append(server.talk(*pieces))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20.0)
        statuses = sorted(answer.split()[1] for answer in found)
        assert statuses == [b"408", b"408", b"503", b"503"]
        assert server.serving.site.engine.held == 0
        alive(server)


def test_the_memory_of_a_run_can_be_bounded(folder: Path) -> None:
    with running(folder, memory=2_000) as server:
        x = np.zeros((1, 1, 28, 28), np.float32).ravel().tolist()
        entry = {"name": "image", "datatype": "FP32", "shape": [1, 1, 28, 28], "data": x}
        answer = server("/v2/models/lenet.saliency/infer", {"inputs": [entry]})
        assert answer.status == 400 and "memory" in answer.error()


def test_a_run_that_fails_is_the_requests_fault(folder: Path, tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.INT64, ["N", 1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 1])],
        [helper.make_tensor("table", TensorProto.FLOAT, [2], [1.0, 2.0])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, tmp_path / "gather.onnx")
    with running(tmp_path) as server:
        for index, status in ((1, 200), (2, 400)):
            entry = {"name": "x", "datatype": "INT64", "shape": [1, 1], "data": [index]}
            answer = server("/v2/models/gather/infer", {"inputs": [entry]})
            assert answer.status == status
        answer.error()


def test_classes_that_are_not_there(server: Running) -> None:
    wrong = {"name": "target", "datatype": "INT64", "shape": [1, 1], "data": [5]}
    x = {"name": "x", "datatype": "FP32", "shape": [1, 2, 3, 4], "data": [0] * 24}
    answer = server("/v2/models/small.saliency/infer", {"inputs": [x, wrong]})
    assert answer.status == 400 and "0 to 4" in answer.error()
    two = {"name": "target", "datatype": "INT64", "shape": [2, 1], "data": [1, 1]}
    answer = server("/v2/models/small.saliency/infer", {"inputs": [x, two]})
    assert answer.status == 400 and "2 targets for 1" in answer.error()
