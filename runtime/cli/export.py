"""`onnxplain export`: an emitted file where others serve it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..export.triton import Serving, export_triton
from .terminal import write_line
from .web import web_command

app = typer.Typer(no_args_is_help=True, help="Lay emitted files out for other servers and for web pages.")
app.command("web")(web_command)


@app.command("triton")
def triton_command(
    files: Annotated[
        list[Path], typer.Argument(help="Explanations, made by `onnxplain compile`.", show_default=False)
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The model repository, a folder.", show_default=False)
    ],
    max_batch: Annotated[int, typer.Option(help="Rows that may be put into one run.", min=1)] = 16,
    delay: Annotated[
        int, typer.Option(help="Microseconds that a request may wait for others to join it.", min=0)
    ] = 2000,
    name: Annotated[str | None, typer.Option(help="Of the model; by default that of the file.")] = None,
    warmup: Annotated[
        bool, typer.Option("--warmup", help="Run one row of zeros before the model is called ready.")
    ] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Take the place of a model of that name.")
    ] = False,
) -> None:
    """Write a model repository for Triton, or for KServe on Triton."""
    made = export_triton(files, out, name=name, serving=Serving(max_batch, delay, warmup), replace=replace)
    for folder in made:
        write_line(folder)
