"""Keys, logs, and what a client is told when something goes wrong inside."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest

from onnxplain.runtime.serve.logs import Lines, say
from tests.runtime.serve.conftest import Running, running, wait_until

KEYS = ("correct-horse", "battery-staple")
ONE = np.zeros((1, 2, 3, 4), np.float32)


def test_keys(folder: Path) -> None:
    with running(folder / "small.onnx", keys=KEYS) as server:
        for path in ("/v2/health/live", "/v2/health/ready"):
            assert server(path).status == 200
        for path in ("/v2", "/metrics", "/openapi.json", "/v2/models/small", "/nothing"):
            answer = server(path)
            assert answer.status == 401 and answer.headers["www-authenticate"] == "Bearer"
            assert "API key" in answer.error()
        assert server("/v2/models/small/infer", b"{}").status == 401
        for key in KEYS:
            assert server("/v2", headers={"Authorization": f"Bearer {key}"}).status == 200
            assert server("/v2", headers={"authorization": f"bearer {key}"}).status == 200
            assert server("/v2", headers={"X-API-Key": key}).status == 200
        for wrong in ("", "correct-hors", "correct-horsee", "CORRECT-HORSE", "ä" * 13):
            assert (
                server("/v2", headers={"Authorization": f"Bearer {wrong}".encode().decode("latin-1")}).status
                == 401
            )
        assert server("/v2", headers={"Authorization": f"Basic {KEYS[0]}"}).status == 401
        document = server("/openapi.json", headers={"X-API-Key": KEYS[0]}).json
        assert document["security"] and document["components"]["securitySchemes"]
        assert document["paths"]["/v2/health/live"]["get"]["security"] == []


def test_a_fault_of_ours_is_one_line(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(folder / "small.onnx") as server:
        served = server.serving.models["small"]

        def broken(feeds: object) -> dict[str, np.ndarray]:
            raise RuntimeError("a secret of the inside")

        monkeypatch.setattr(served, "run", broken)
        with caplog.at_level(logging.INFO, "onnxplain.runtime.serve"):
            answer = server.infer("small", ONE)
        assert answer.status == 500 and "secret" not in answer.error()
        assert answer.headers["x-request-id"] in answer.error()
        [fault] = [record for record in caplog.records if record.getMessage() == "failed"]
        assert fault.exc_info and "secret" in str(fault.exc_info[1])
        assert server("/v2").status == 200


def requests(caplog: pytest.LogCaptureFixture) -> list[dict[str, object]]:
    return [vars(line)["fields"] for line in caplog.records if line.getMessage() == "request"]


def test_a_line_for_every_request(server: Running, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "onnxplain.runtime.serve"):
        answer = server.infer("small", ONE)
        missing = server("/v2/models/none")
        wait_until(lambda: len(requests(caplog)) == 2)  # written behind the answer
    lines = requests(caplog)
    first, second = lines
    assert first["id"] == answer.headers["x-request-id"] and first["status"] == 200
    assert (first["method"], first["path"]) == ("POST", "/v2/models/small/infer")
    assert first["sent"] == len(answer.body) and first["received"] and first["ms"]
    assert second["status"] == 404 and second["error"] == missing.error()


def record(event: str, **fields: object) -> logging.LogRecord:
    made = logging.LogRecord("x", logging.INFO, "x.py", 1, event, None, None)
    made.__dict__["fields"] = fields
    return made


@pytest.mark.parametrize("kind", ["text", "json"])
def test_no_request_writes_a_line_of_its_own(kind: str) -> None:
    line = Lines(kind).format(record("request", path='/a\n2026-01-01 "forged" \x1b[31m', n=1))
    assert "\n" not in line and "\x1b" not in line
    if kind == "json":
        told = json.loads(line)
        assert told["event"] == "request" and told["level"] == "info" and told["n"] == 1


def test_long_values_are_cut(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "onnxplain.runtime.serve"):
        say("request", fields={"path": "a" * 10_000})
    assert len(getattr(caplog.records[-1], "fields")["path"]) == 300  # noqa: B009
