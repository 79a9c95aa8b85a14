"""`onnxplain serve`: explanations and models over HTTP."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from ...rewriter.errors import ExplainError, OptionError
from ..cores import available_cores
from ..lanes import parse_bytes
from ..serve import Settings, parse_seconds
from ..serve.logs import configure, only_lines, say
from ..serve.settings import read_keys
from .options import Memory, Provider

Paths = Annotated[
    list[Path],
    typer.Argument(
        metavar="FILE_OR_DIR...",
        help="Explanation files and plain models; of a folder its .onnx files, and NAME/1/model.onnx.",
        show_default=False,
    ),
]


def serve_command(
    paths: Paths,
    host: Annotated[
        str, typer.Option(help="Where to listen; by default only this machine can connect.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(help="0 takes a free one; the log says which.", min=0, max=65535)
    ] = 8000,
    workers: Annotated[
        int | None, typer.Option(help="Runs at a time; by default as many as there are cores.", min=1)
    ] = None,
    threads: Annotated[int, typer.Option(help="Threads of one run.", min=1)] = 1,
    queue: Annotated[int, typer.Option(help="Requests that may wait; one more is answered 503.", min=0)] = 64,
    max_batch: Annotated[int, typer.Option("--max-batch", help="Rows of one request.", min=1)] = 64,
    max_body: Annotated[
        str, typer.Option("--max-body", metavar="SIZE", help="Of one body, as sent and as unpacked.")
    ] = "64MB",
    deadline: Annotated[
        str, typer.Option(metavar="TIME", help="For one request; a run that is not done is stopped, 504.")
    ] = "30s",
    batching: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Wait so long, such as 2ms, for requests that can share a run. Answers then equal those of the "
            "batch, and those of single runs to rounding. By default every request runs alone.",
        ),
    ] = None,
    api_key_file: Annotated[
        Path | None,
        typer.Option(
            "--api-key-file",
            help="Keys, one a line; else the variable ONNXPLAIN_API_KEY; else no key is asked for.",
        ),
    ] = None,
    log: Annotated[str, typer.Option(help="Lines on stderr: text or json.")] = "text",
    memory: Memory = None,
    provider: Provider = None,
) -> None:
    """Serve explanations and models by the Open Inference Protocol v2 (KServe v2, Triton), JSON and binary.

    POST /v2/models/NAME/infer takes tensors, POST /v2/models/NAME/explain a JPEG or PNG; /openapi.json lists the rest.
    """
    with only_lines(log), _failures(log):
        cores = available_cores()
        settings = Settings(
            host=host,
            port=port,
            workers=workers or max(1, cores // threads),
            threads=threads,
            queue=queue,
            max_batch=max_batch,
            max_body=_size(max_body, "--max-body"),
            deadline=parse_seconds(deadline),
            batching=0.0 if batching is None else parse_seconds(batching),
            keys=read_keys(api_key_file, os.environ),
            log=log,
            memory=None if memory is None else parse_bytes(memory),
            providers=None if provider is None else tuple(provider),
        )
        from ..serve.serving import Serving  # needs the extra

        configure(settings.log)
        Serving(paths, settings).run()


@contextmanager
def _failures(log: str) -> Iterator[None]:
    """Where the log is JSON, what ends the server is a line of it as well."""
    if log != "json":
        yield
        return
    configure(log)
    try:
        yield
    except ExplainError as error:
        say("failed", logging.ERROR, fields={"error": str(error)})
        raise typer.Exit(2) from error
    except Exception as error:
        say("failed", logging.CRITICAL, error)
        raise typer.Exit(1) from error


def _size(text: str, flag: str) -> int:
    try:
        return parse_bytes(text)
    except OptionError as error:
        raise OptionError(f"{flag} {text!r} is no number of bytes; write it as 64MB") from error
