"""Requests made up from the document: no answer is a 5xx, and each is as the document says."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.runtime.serve.conftest import running

EXAMPLES = 25
"""An operation: enough to meet every branch of a schema, and quick."""


@pytest.mark.skipif(find_spec("schemathesis") is None, reason="needs schemathesis")
def test_no_request_of_the_document_breaks_the_server(folder: Path) -> None:
    files = [folder / f"{name}.onnx" for name in ("small", "small.saliency", "types")]
    with running(*files, deadline=5.0) as server:
        command = [
            sys.executable,
            str(Path(__file__).with_name("fuzz.py")),
            server.serving.url,
            str(EXAMPLES),
        ]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=240)
        assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-3000:]
        assert int(ran.stdout.split()[-1]) == 18  # all but /openapi.json, where the document came from
        counts = server.serving.site.metrics.requests
        posts = sum(count for (operation, _, _), count in counts.items() if operation in ("infer", "explain"))
        assert posts >= 2 * EXAMPLES  # of four operations
        assert not [key for key in counts if key[2] >= 500]
