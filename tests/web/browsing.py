"""Node and Chromium, as far as this machine has them; what is missing skips the test and is named."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from onnxplain.runtime.export.page_server import address, serve_folder
from onnxplain.runtime.export.web_runtime import PAGE

HERE = Path(__file__).parent
PACKAGES = HERE.parents[1] / "web" / "node_modules"
"""Of this checkout: an installed package has none."""
PLAYWRIGHT = PACKAGES / "playwright-core"
RUNTIME = PACKAGES / "onnxruntime-web" / "dist"
WAIT = 240
"""Seconds for a browser, much more than a run takes."""


def node() -> str:
    found = shutil.which("node")
    if found is None:
        pytest.skip("node is not installed")
    return found


def chromium() -> str:
    for name in ("chromium", "chromium-browser", "google-chrome"):
        found = shutil.which(name)
        if found is not None:
            return found
    pytest.skip("no Chromium is installed")


def call(folder: Path, calls: Sequence[tuple[str, str, Sequence[Any]]]) -> list[dict[str, Any]]:
    """Functions of the page's modules, run by node: {"value"} or {"error"} of each."""
    asked, told = folder / "calls.json", folder / "results.json"
    asked.write_text(json.dumps(calls))
    done = subprocess.run(
        [node(), str(HERE / "call.mjs"), str(PAGE), str(asked), str(told)],
        capture_output=True,
        text=True,
        timeout=WAIT,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found: list[dict[str, Any]] = json.loads(told.read_text())
    return found


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a folder, shown to this machine while the block runs."""
    with serve_folder(folder) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield address(server)
        finally:
            server.shutdown()
            thread.join(10)


@dataclass(frozen=True)
class Report:
    """values: what the steps read. requests: every address asked for. complaints: errors and warnings of the console,
    uncaught errors, requests that failed."""

    url: str
    values: dict[str, Any]
    requests: list[str]
    complaints: list[str]

    @property
    def foreign(self) -> list[str]:
        """Requests that went to another server; `blob:` and `data:` go to none."""
        near = (self.url, "data:", f"blob:{self.url}")
        return [request for request in self.requests if not request.startswith(near)]


def browse(url: str, steps: Sequence[Sequence[Any]], work: Path, **settings: Any) -> Report:
    """Take the steps of browse.mjs with Chromium; settings: viewport, dark, flags."""
    if not PLAYWRIGHT.is_dir():
        pytest.skip("playwright-core is not installed: npm ci in web/")
    asked, told = work / "steps.json", work / "report.json"
    asked.write_text(json.dumps({"url": url, "steps": steps, **settings}))
    command = [node(), HERE / "browse.mjs", PLAYWRIGHT, chromium(), asked, told]
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, timeout=WAIT, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads(told.read_text())
    assert report["failure"] is None, (report["failure"], report["complaints"])
    return Report(url.split("?")[0], report["values"], report["requests"], report["complaints"])
