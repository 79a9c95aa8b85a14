"""A folder shown on this machine only, with the headers that WebAssembly threads and a strict page ask for."""

from __future__ import annotations

from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePath
from types import MappingProxyType

from ...rewriter.errors import OptionError

LOOPBACK = "127.0.0.1"
POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self' blob:; connect-src 'self'; "
    "img-src 'self' blob: data:; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = MappingProxyType(
    {
        # Both together isolate the page, which is what shared memory, and so threads, need.
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Embedder-Policy": "require-corp",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Content-Security-Policy": POLICY,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
    }
)
TYPES = MappingProxyType(
    {
        ".html": "text/html; charset=utf-8",
        ".css": "text/css; charset=utf-8",
        ".js": "text/javascript; charset=utf-8",
        ".mjs": "text/javascript; charset=utf-8",
        ".json": "application/json",
        ".wasm": "application/wasm",
        ".svg": "image/svg+xml",
        ".jpg": "image/jpeg",
        ".txt": "text/plain; charset=utf-8",
        ".md": "text/plain; charset=utf-8",
        ".onnx": "application/octet-stream",
        ".weights": "application/octet-stream",
        "": "text/plain; charset=utf-8",
    }
)
"""Spelled out: the tables of operating systems differ, and a module of a wrong type is not run."""


class Handler(SimpleHTTPRequestHandler):
    """Files of one folder, to requests that name this machine: a foreign name that was made to point here (DNS
    rebinding) gets 403. No listing of folders."""

    protocol_version = "HTTP/1.1"
    timeout = 30

    def guess_type(self, path: object) -> str:
        return TYPES.get(PurePath(str(path)).suffix, "application/octet-stream")

    def send_head(self):  # type: ignore[no-untyped-def]
        name = (self.headers.get("Host") or "").rpartition(":")[0] or self.headers.get("Host")
        if name not in (LOOPBACK, "localhost"):
            self.send_error(403, "This server answers to 127.0.0.1 and localhost")
            return None
        return super().send_head()

    def end_headers(self) -> None:
        for key, value in HEADERS.items():
            self.send_header(key, value)
        super().end_headers()

    def list_directory(self, path: object) -> None:
        self.send_error(404, "No such file")

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the page says what fails."""


def serve_folder(folder: Path, port: int = 0) -> ThreadingHTTPServer:
    """A server bound to loopback, not yet running; `server_port` is the port, any free one for 0. OptionError where
    the port is taken."""
    try:
        server = ThreadingHTTPServer((LOOPBACK, port), partial(Handler, directory=str(folder)))
    except (OSError, OverflowError) as error:
        raise OptionError(
            f"cannot listen on port {port}: {error}; choose another --port, or 0 for any"
        ) from error
    server.daemon_threads = True
    return server


def address(server: ThreadingHTTPServer) -> str:
    return f"http://{LOOPBACK}:{server.server_port}/"


__all__ = ["address", "serve_folder"]
