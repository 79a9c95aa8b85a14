"""`onnxplain export web`, and what `onnxplain ui` shares with it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..export.web import export_web
from .options import External, Labels, Overrides, Preprocess, Settings, settings_of
from .terminal import write_line

Files = Annotated[
    list[Path],
    typer.Argument(help="Emitted explanation files, and models to compile here.", show_default=False),
]
Methods = Annotated[
    list[str] | None,
    typer.Option(
        "--method",
        "-m",
        help="For models: a method, or several joined by commas; may be given several times. By default saliency, or "
        "rows and columns of LinearScope where the output is a picture.",
    ),
]
RuntimeFolder = Annotated[
    Path | None,
    typer.Option(
        "--runtime",
        metavar="FOLDER",
        help="The dist folder of the npm package onnxruntime-web; by default npm fetches the pinned one, once.",
    ),
]
WebGpu = Annotated[
    bool,
    typer.Option("--webgpu", help="Add the files of WebGPU, 27 MB; the page compares it with WebAssembly."),
]
Samples = Annotated[bool, typer.Option("--samples", help="Add the photos that ship with onnxplain.")]


def web_command(
    files: Files,
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to write.")] = Path("onnxplain-web"),
    method: Methods = None,
    settings: Settings = None,
    rules: Overrides = None,
    runtime: RuntimeFolder = None,
    webgpu: WebGpu = False,
    samples: Samples = False,
    preprocess: Preprocess = None,
    labels: Labels = None,
    external_data: External = False,
) -> None:
    """Write a folder of static files that explains pictures in any browser, offline.

    Page, WebAssembly, models and licences: any file server shows it. Nothing is computed on a server.
    """
    made = export_web(
        files,
        out,
        **page_options(method, settings, rules, runtime, webgpu, samples, preprocess, labels, external_data),
    )
    total = sum(made.bytes.values())
    write_line(f"{made.folder}: {len(made.bytes)} files, {total / 1e6:.1f} MB")
    for title in made.titles:
        write_line(f"  {title}")


def page_options(
    method: list[str] | None,
    settings: list[str] | None,
    rules: list[str] | None,
    runtime: Path | None,
    webgpu: bool,
    samples: bool,
    preprocess: str | None,
    labels: Path | None,
    external_data: bool,
) -> dict[str, Any]:
    """The arguments of `export_web` beside files and folder."""
    return {
        "methods": [name.strip() for names in method or () for name in names.split(",") if name.strip()],
        "options": settings_of(settings, rules),
        "runtime": runtime,
        "webgpu": webgpu,
        "samples": samples,
        "preprocessing": preprocess,
        "labels": labels,
        "external_data": external_data,
    }


__all__ = ["page_options", "web_command"]
