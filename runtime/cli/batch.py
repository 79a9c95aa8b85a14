"""`onnxplain batch`: one emitted file over many pictures."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ...rewriter.errors import TargetError
from ..batch import run
from ..lanes import progress_bar
from .options import Preprocess, Provider
from .terminal import write_line


def batch_command(
    file: Annotated[
        Path, typer.Argument(help="An explanation, made by `onnxplain compile`.", show_default=False)
    ],
    images: Annotated[
        Path,
        typer.Argument(help="A folder of photos, or a text file with a path a line.", show_default=False),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to write.", show_default=False)],
    workers: Annotated[
        int | None, typer.Option(help="Processes of this machine; one a core by default.", min=1)
    ] = None,
    dask: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS", help="Use the workers of this dask scheduler, which see the same folders."
        ),
    ] = None,
    shard: Annotated[int, typer.Option(help="Pictures in a file of the result.", min=1)] = 250,
    format: Annotated[str, typer.Option(help="parquet, zarr (maps of one size only) or npz.")] = "parquet",
    kind: Annotated[
        str | None,
        typer.Option("--map", help="heatmap or attribution; by default the heat map where the file has one."),
    ] = None,
    target: Annotated[str, typer.Option(help="top, or a class index.")] = "top",
    bad: Annotated[
        str, typer.Option(help="Pictures that cannot be read: skip (and list them in bad.csv) or stop.")
    ] = "skip",
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run that was stopped.")] = False,
    preprocess: Preprocess = None,
    provider: Provider = None,
    rows: Annotated[
        int, typer.Option(help="Pictures in one run; more than 1 is for graphics cards.", min=1)
    ] = 1,
) -> None:
    """Explain many pictures, on many processes or machines.

    The result has the same bytes for any number of workers. A worker that is killed costs a shard, not the run; what a
    stopped run has written is kept, and --resume goes on from there.
    """
    with progress_bar("pictures") as tell:
        report = run(
            file,
            images,
            out,
            workers=workers,
            dask=dask,
            shard=shard,
            format=format,
            map=kind,
            target=_class(target),
            bad=bad,
            resume=resume,
            preprocessing=preprocess,
            providers=provider,
            rows=rows,
            progress=tell,
        )
    shards = f"{report.shards} shard{'s' * (report.shards != 1)}"
    kept = f", {report.resumed} of them kept" if report.resumed else ""
    write_line(f"{out}: {report.explained} of {report.pictures} pictures explained in {shards}{kept}")
    if report.bad:
        write_line(f"onnxplain: {len(report.bad)} bad pictures, see {out / 'bad.csv'}", file=sys.stderr)
    if report.zero:
        count = len(report.zero)
        write_line(
            f"onnxplain: the map of {count} picture{'s' * (count != 1)} is zero everywhere, the first is number "
            f"{report.zero[0]}; see `zero` in {out / 'manifest.json'}",
            file=sys.stderr,
        )


def _class(text: str) -> int | None:
    """None for "top". TargetError for what is neither that nor an index."""
    if text == "top":
        return None
    try:
        return int(text)
    except ValueError:
        raise TargetError(f"--target {text!r}: give top, or a class index") from None
