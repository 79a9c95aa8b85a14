"""`onnxplain bench`: what explanations cost on a model of one's own."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.measure import Measurement
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

from ...rewriter.errors import OptionError
from ...rules.registry import find
from ..atomic import write_bytes
from ..bench import Report, bench
from ..bench.measure import Setup, Tell
from ..bench.plot import PICTURES, plot, vet_plot
from ..bench.report import COLUMNS, cells_of
from .options import (
    External,
    Head,
    ModelPath,
    OutputName,
    Preprocess,
    Provider,
    Settings,
    Shapes,
    Threads,
    settings_of,
    shapes_of,
)
from .terminal import escape, safe, write_line

TEXTS = (".md", ".json")
EXPENDABLE = ("bytes ×", "session", "file", "FLOPs ×", "per sample", "memory", "floor")
"""Columns that a narrow terminal does without, the first ones first."""


def bench_command(
    model: ModelPath,
    method: Annotated[
        str | None,
        typer.Option(
            "--methods",
            "-m",
            metavar="METHOD[,METHOD...]",
            help="See `onnxplain methods`; by default all of them.",
        ),
    ] = None,
    out: Annotated[
        list[Path] | None,
        typer.Option(
            "--out", "-o", help="Also write .md, .json, .png, .svg or .pdf; may be given several times."
        ),
    ] = None,
    batch: Annotated[
        int | None, typer.Option("--batch", min=1, help="Samples of a call; by default the photos, or 1.")
    ] = None,
    repeats: Annotated[
        int, typer.Option("--repeats", min=1, help="Rounds at most; slow methods get fewer, but 3.")
    ] = 9,
    image: Annotated[
        list[Path] | None,
        typer.Option("--image", help="A photo to explain, several fill a batch; by default random numbers."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the random numbers.")] = 0,
    output: OutputName = None,
    head: Head = "logits",
    settings: Settings = None,
    shapes: Shapes = None,
    preprocess: Preprocess = None,
    provider: Provider = None,
    threads: Threads = None,
    external_data: External = False,
) -> None:
    """Measure what explanations of a model cost: time over the forward pass, memory, files, and floors of them.

    Every method runs side by side with the forward pass; its memory is taken in a process of its own. A method that is
    not defined for the model is listed with the reason.
    """
    names = None if method is None else [name.strip() for name in method.split(",") if name.strip()]
    for name in names or []:
        find(name)
    for path in out or []:
        _vet(path)
    setup = Setup(
        batch=batch,
        threads=threads,
        providers=_providers(provider),
        repeats=repeats,
        images=list(image or []),
        seed=seed,
        options=settings_of(settings),
        shapes=shapes_of(shapes),
        output=output,
        head=head,
        preprocessing=preprocess,
        external_data=external_data,
    )
    with _bar() as tell:
        found = bench(model, names, setup, progress=tell)
    for path in out or []:
        _write(found, path)
    _print(found)
    for path in out or []:
        write_line(path)


def _providers(given: list[str] | None) -> str | list[str] | None:
    return "auto" if given and [name.lower() for name in given] == ["auto"] else given


def _vet(path: Path) -> None:
    """Raises OptionError before any work is done."""
    suffix = path.suffix.lower()
    if suffix not in (*TEXTS, *PICTURES):
        raise OptionError(f"--out {str(path)!r}: it must end in {', '.join((*TEXTS, *PICTURES))}")
    folder = path.absolute().parent
    if not folder.is_dir() or not os.access(folder, os.W_OK) or path.is_dir():
        raise OptionError(f"cannot write {str(path)!r}: choose a file in an existing, writable folder")
    if suffix in PICTURES:
        vet_plot(path)


def _write(found: Report, path: Path) -> None:
    suffix = path.suffix.lower()
    if suffix in PICTURES:
        plot(found, path)
    else:
        write_bytes(path, (found.json() if suffix == ".json" else found.markdown()).encode())


@contextmanager
def _bar() -> Iterator[Tell]:
    """A progress bar on stderr, when a person is watching."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
    )
    with Progress(
        *columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()
    ) as bar:
        task = bar.add_task("", total=1.0)
        yield lambda text, done: bar.update(task, description=escape(text), completed=done)


def _print(found: Report) -> None:
    console, endless = Console(), Console(width=1000)
    shown: list[str] = list(COLUMNS)
    for name in EXPENDABLE:
        if Measurement.get(endless, endless.options, _table(found, shown)).maximum <= console.width:
            break
        shown.remove(name)
    console.print(_table(found, shown))
    missing = [name for name in COLUMNS if name not in shown]
    if missing:
        write_line(f"the terminal is too narrow for: {', '.join(missing)}; --out writes them")
    for name, why in found.refused.items():
        console.print(safe(f"left out: {name}: {why}"))
    for line in found.gaps():
        console.print(safe(line))
    console.print(*map(safe, str(found.machine).split("\n")), safe(found.context), sep="\n")


def _table(found: Report, shown: Sequence[str]) -> Table:
    columns = (Column(name, justify="right", no_wrap=True) for name in shown)
    made = Table(Column("", no_wrap=True), *columns, title=safe(f"what explanations of {found.title} cost"))
    for row in (found.forward, *found.rows):
        cells = dict(zip(COLUMNS, cells_of(row, found.forward), strict=True))
        made.add_row(safe(row.method), *(cells[name] for name in shown))
    return made
