"""A server on a free port of the loopback, in a thread of this process, and a plain client for it."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxplain
from onnxplain import models
from onnxplain.runtime.serve import Settings
from tests.runtime.small import picture

if TYPE_CHECKING:
    from onnxplain.runtime.serve.serving import Serving

PATIENCE = 20.0
"""Seconds after which a test that waits gives up."""


def slow() -> onnx.ModelProto:
    """x (N, 1) -> y = x, after max(x) products of 96 x 96 matrices: as slow as the client wishes."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["on"]),
            helper.make_node("MatMul", ["state", "weight"], ["next"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, [96, 96]),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, [96, 96]),
        ],
    )
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
        helper.make_node("Cast", ["most"], ["trips"], to=TensorProto.INT64),
        helper.make_node("Loop", ["trips", "yes", "weight"], ["last"], body=body),
        helper.make_node("ReduceSum", ["last"], ["sum"], keepdims=0),
        helper.make_node("Mul", ["sum", "zero"], ["nothing"]),
        helper.make_node("Add", ["x", "nothing"], ["y"]),
    ]
    shape = ["N", 1]
    graph = helper.make_graph(
        nodes,
        "slow",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [
            numpy_helper.from_array(np.eye(96, dtype=np.float32), "weight"),
            helper.make_tensor("yes", TensorProto.BOOL, [], [True]),
            helper.make_tensor("zero", TensorProto.FLOAT, [], [0.0]),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def every_type() -> onnx.ModelProto:
    """name_in -> Identity -> name_out, (N, 2), for every type that the protocol knows."""
    kinds = {
        "BOOL": TensorProto.BOOL,
        "FP16": TensorProto.FLOAT16,
        "FP32": TensorProto.FLOAT,
        "FP64": TensorProto.DOUBLE,
        "BYTES": TensorProto.STRING,
        **{f"{s}INT{n}": getattr(TensorProto, f"{s}INT{n}") for s in ("", "U") for n in (8, 16, 32, 64)},
    }
    graph = helper.make_graph(
        [helper.make_node("Identity", [f"{name}_in"], [f"{name}_out"]) for name in kinds],
        "types",
        [helper.make_tensor_value_info(f"{name}_in", kind, ["N", 2]) for name, kind in kinds.items()],
        [helper.make_tensor_value_info(f"{name}_out", kind, ["N", 2]) for name, kind in kinds.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """small.saliency, small (plain), slow (plain), types (plain), lenet.saliency and lenet.smooth."""
    made = tmp_path_factory.mktemp("served")
    onnx.save(picture(), made / "small.onnx")
    onnx.save(slow(), made / "slow.onnx")
    onnx.save(every_type(), made / "types.onnx")
    onnxplain.compile(picture(squash="Softmax"), "saliency", labels=list("abcde")).save(
        made / "small.saliency.onnx"
    )
    lenet = models.path("mnist_lenet")
    onnxplain.compile(lenet, "saliency", reduce="maxabs").save(made / "lenet.saliency.onnx")
    onnxplain.compile(lenet, "smoothgrad", samples=3).save(made / "lenet.smooth.onnx")
    return made


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    """By lower-case name."""
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def error(self) -> str:
        """The one line of a refusal: no traceback, no path."""
        assert self.headers["content-type"] == "application/json"
        told = self.json
        assert list(told) == ["error"] and isinstance(told["error"], str) and told["error"]
        assert "Traceback" not in told["error"] and "\n" not in told["error"] and ".py" not in told["error"]
        return str(told["error"])


@dataclass(frozen=True)
class Running:
    serving: Serving

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", self.serving.port

    def __call__(
        self,
        path: str,
        body: bytes | object | None = None,
        headers: Mapping[str, str] | None = None,
        method: str | None = None,
    ) -> Answer:
        """GET, or POST where there is a body: bytes, or anything JSON can say."""
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
        connection = http.client.HTTPConnection(*self.address, timeout=PATIENCE)
        try:
            method = method or ("GET" if body is None else "POST")
            connection.request(method, path, body, dict(headers or {}))
            answer = connection.getresponse()
            found = {key.lower(): value for key, value in answer.getheaders()}
            return Answer(answer.status, found, answer.read())
        finally:
            connection.close()

    def infer(self, name: str, array: np.ndarray, **more: object) -> Answer:
        """One input x, as JSON."""
        return self(f"/v2/models/{name}/infer", {"inputs": [tensor("x", array)], **more})

    def talk(self, *pieces: bytes, pause: float = 0.0, patience: float = PATIENCE) -> bytes:
        """Raw bytes, piece by piece; everything that comes back until the server closes, or b"" after a reset."""
        found = b""
        with socket.create_connection(self.address, timeout=patience) as line:
            try:
                for piece in pieces:
                    line.sendall(piece)
                    time.sleep(pause)
                while piece := line.recv(65536):
                    found += piece
            except (ConnectionResetError, BrokenPipeError):
                pass
        return found


def tensor(name: str, array: np.ndarray, datatype: str = "FP32") -> dict[str, object]:
    return {"name": name, "datatype": datatype, "shape": list(array.shape), "data": array.ravel().tolist()}


def wait_until(true: Callable[[], bool]) -> None:
    """Raises AssertionError when it does not come true."""
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.01)


@contextmanager
def running(*paths: Path, **settings: Any) -> Iterator[Running]:
    """A server with these models. At the end it must have stopped by itself, with no work left."""
    pytest.importorskip("starlette")
    pytest.importorskip("uvicorn")
    from onnxplain.runtime.serve.serving import Serving

    serving = Serving(paths, Settings(**{"port": 0, "workers": 2, **settings}))
    thread = threading.Thread(target=serving.run)
    thread.start()
    try:
        wait_until(lambda: serving.started)
        yield Running(serving)
    finally:
        serving.stop()
        thread.join(PATIENCE)
        assert not thread.is_alive()
        assert (serving.site.engine.taken, serving.site.engine.held) == (0, 0)


@pytest.fixture(scope="session")
def server(folder: Path) -> Iterator[Running]:
    with running(folder) as made:
        yield made
