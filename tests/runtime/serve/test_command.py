"""`onnxplain serve` as a process: what it prints, what it refuses, and how it ends."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from onnxplain.runtime.cli import main
from tests.runtime.serve.conftest import PATIENCE

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")


@contextmanager
def process(
    *words: object, **environment: str
) -> Iterator[tuple[subprocess.Popen[str], list[dict[str, Any]]]]:
    """The process, and the lines of its log as they come. It is killed at the end, should it still run."""
    command = [sys.executable, "-m", "onnxplain", "serve", *map(str, words), "--port", "0", "--log", "json"]
    child = subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment}
    )
    lines: list[dict[str, Any]] = []

    def read() -> None:
        assert child.stderr is not None
        for line in child.stderr:
            lines.append(json.loads(line))

    thread = threading.Thread(target=read)
    thread.start()
    try:
        end = time.monotonic() + 60.0
        while not any(line["event"] == "listening" for line in lines):
            assert child.poll() is None and time.monotonic() < end, lines
            time.sleep(0.02)
        yield child, lines
    finally:
        child.kill()
        child.wait(PATIENCE)
        thread.join(PATIENCE)
        for stream in (child.stdout, child.stderr):
            assert stream is not None
            stream.close()


def port_of(lines: list[dict[str, Any]]) -> int:
    [url] = [line["url"] for line in lines if line["event"] == "listening"]
    return int(url.rpartition(":")[2])


def post(port: int, name: str, value: float) -> tuple[int, Any]:
    entry = {"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [value]}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60.0)
    try:
        connection.request("POST", f"/v2/models/{name}/infer", json.dumps({"inputs": [entry]}))
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def trips(path: Path, seconds: float) -> float:
    """For the model `slow`: so many that a run takes about so long here and now."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    start = time.perf_counter()
    session.run(None, {"x": np.full((1, 1), 1000, np.float32)})
    return 1000 * seconds / (time.perf_counter() - start)


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGTERM there")
def test_sigterm_finishes_what_runs(folder: Path) -> None:
    many = trips(folder / "slow.onnx", 2.0)
    with process(folder / "slow.onnx", "--workers", 1) as (child, lines):
        port = port_of(lines)
        found: list[tuple[int, Any]] = []
        threads = [threading.Thread(target=lambda: found.append(post(port, "slow", many))) for _ in range(2)]
        for thread in threads:
            thread.start()
        time.sleep(0.7)  # one runs, one waits
        child.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        with pytest.raises(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
        for thread in threads:
            thread.join(60.0)
        assert child.wait(PATIENCE) == 0
        assert [status for status, _ in found] == [200, 200]
        assert all(answer["outputs"][0]["data"] == [float(np.float32(many))] for _, answer in found)
        assert [line["event"] for line in lines][-1] == "stopped"


def test_the_key_of_the_environment(folder: Path) -> None:
    with process(folder / "slow.onnx", ONNXPLAIN_API_KEY="battery-staple") as (_, lines):
        port = port_of(lines)
        assert post(port, "slow", 1.0)[0] == 401
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        connection.request("GET", "/v2", headers={"Authorization": "Bearer battery-staple"})
        assert connection.getresponse().status == 200
        connection.close()
        assert "battery" not in json.dumps(lines)


def refuses(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    assert main(["serve", *map(str, words)]) == 2
    out, err = capsys.readouterr()
    assert not out and err.count("\n") == 1 and err.startswith("onnxplain: ")
    return err


def test_what_it_refuses(folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    small = folder / "small.onnx"
    for words, what in (
        ((tmp_path / "none.onnx",), "no model file"),
        ((small, "--max-body", "much"), "--max-body"),
        ((small, "--deadline", "soon"), "duration"),
        ((small, "--log", "xml"), "log"),
        ((small, "--api-key-file", tmp_path / "none"), "API key"),
        ((small, "--batching", "5s"), "batching"),
        ((small, "--host", "203.0.113.7", "--port", "0"), "cannot listen"),
        ((), "onnxplain --help"),
    ):
        assert what in refuses(capsys, *words)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert "another --host or --port" in refuses(capsys, small, "--port", taken.getsockname()[1])


@pytest.fixture(autouse=True)
def loggers() -> Iterator[None]:
    """The command sets up logging for the whole process; put it back."""
    import logging

    names = ("onnxplain", "uvicorn", "uvicorn.error")
    before = {name: (logging.getLogger(name).handlers[:], logging.getLogger(name).level) for name in names}
    yield
    for name, (handlers, level) in before.items():
        logging.getLogger(name).handlers[:] = handlers
        logging.getLogger(name).setLevel(level)
        logging.getLogger(name).propagate = True


@pytest.mark.parametrize("keys", [(), ("battery-staple",)])
def test_a_warning_where_other_machines_can_connect(
    folder: Path, keys: tuple[str, ...], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing listens in this test: only what would be said is looked at."""
    from onnxplain.runtime.serve import Settings
    from onnxplain.runtime.serve.serving import Serving

    serving = Serving([folder / "small.onnx"], Settings(port=0))
    try:
        serving._warn()
        assert not caplog.records
        serving.settings = Settings(host="0.0.0.0", port=0, keys=keys)
        serving._warn()
        [warned] = caplog.records
        assert "other machines can connect to 0.0.0.0" in warned.getMessage()
        assert ("without an API key" in warned.getMessage()) == (not keys)
    finally:
        serving._socket.close()
        serving.site.engine.close()


def test_without_the_extra_one_line_says_what_to_install(folder: Path) -> None:
    code = (
        "import sys; sys.modules['uvicorn'] = None\n"
        "from onnxplain.runtime.cli import main\n"
        f"sys.exit(main(['serve', {str(folder / 'small.onnx')!r}]))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ran.returncode == 2 and "onnxplain[serve]" in ran.stderr and ran.stderr.count("\n") == 1


def test_the_other_commands_do_not_need_the_extra() -> None:
    code = (
        "import sys\n"
        "for name in ('uvicorn', 'starlette'): sys.modules[name] = None\n"
        "from onnxplain.runtime.cli import main\n"
        "sys.exit(main(['serve', '--help']) or main(['methods']))"
    )
    environment: Mapping[str, str] = {**os.environ, "COLUMNS": "200"}
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=environment
    )
    assert ran.returncode == 0 and "--batching" in ran.stdout
