"""`onnxplain ui`: the page of `export web`, built in a temporary folder and served to this machine."""

from __future__ import annotations

import tempfile
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from ..export.page_server import address, serve_folder
from ..export.web import export_web
from .options import External, Labels, Overrides, Preprocess, Settings
from .terminal import write_line
from .web import Files, Methods, RuntimeFolder, WebGpu, page_options


def ui_command(
    files: Files,
    method: Methods = None,
    settings: Settings = None,
    rules: Overrides = None,
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1; 0 takes any free one.", min=0, max=65535)] = 0,
    open_browser: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    samples: Annotated[
        bool, typer.Option("--samples/--no-samples", help="Offer the photos that ship with onnxplain.")
    ] = True,
    webgpu: WebGpu = False,
    runtime: RuntimeFolder = None,
    preprocess: Preprocess = None,
    labels: Labels = None,
    external_data: External = False,
) -> None:
    """Explain pictures in the browser, on this machine: maps side by side and the LinearScope explorer.

    Serves the page to 127.0.0.1 until it is stopped with Ctrl-C.
    """
    with tempfile.TemporaryDirectory(prefix="onnxplain-ui-") as temporary:
        folder = Path(temporary) / "page"
        options = page_options(
            method, settings, rules, runtime, webgpu, samples, preprocess, labels, external_data
        )
        made = export_web(files, folder, **options)
        with serve_folder(folder, port) as server:
            write_line(f"{address(server)}  {', '.join(made.titles)}; Ctrl-C stops it", flush=True)
            if open_browser:
                webbrowser.open(address(server))
            try:
                server.serve_forever()
            except KeyboardInterrupt:
                write_line("stopped")
