"""`onnxplain verify`: does an emitted file keep what its method promises?"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column, Table
from rich.text import Text

from ..explainer import load
from ..verify import Certificate, Status, store, verify
from ..verify.verifying import Progress as Tell
from .options import External, Provider, Settings, Shapes, Threads, settings_of, shapes_of
from .terminal import escape, safe, write_json, write_line

STYLES = {
    Status.PASSED: "green",
    Status.FAILED: "bold red",
    Status.REPORTED: "cyan",
    Status.NOT_APPLICABLE: "dim",
}


@contextmanager
def _bar() -> Iterator[Tell]:
    """A progress bar on stderr, when a person is watching."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(
        *columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()
    ) as bar:
        task = bar.add_task("", total=None)
        done = -1

        def tell(text: str, total: int) -> None:
            nonlocal done
            done += 1  # what was told before is done now
            bar.update(task, description=escape(text), completed=done, total=total)

        yield tell


def verify_command(
    file: Annotated[
        Path, typer.Argument(help="An emitted file, of `onnxplain compile`.", show_default=False)
    ],
    inputs: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Photos, or .npy arrays of the model's input; by default random ones.", show_default=False
        ),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(
            "--model",
            help="The model that the file was made from: outputs are compared with it, rules checked node by node.",
        ),
    ] = None,
    settings: Settings = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the random inputs and directions.")] = 0,
    shapes: Shapes = None,
    no_write: Annotated[
        bool, typer.Option("--no-write", help="Leave the file as it is, without a certificate.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The certificate as one JSON object.")] = False,
    provider: Provider = None,
    threads: Threads = None,
    external_data: External = False,
) -> None:
    """Check what the method of an emitted file promises, and store the result in it as a certificate.

    The model's outputs are unchanged, a batch is its samples, sums and signs are as the method says. Zeros, a constant
    and an extreme input are tried besides. Exit code 1 when a check fails.
    """
    explainer = load(file, providers=provider, threads=threads)
    with _bar() as tell:
        found = verify(
            explainer,
            tuple(inputs or ()),
            model=model,
            options=settings_of(settings),
            seed=seed,
            shapes=shapes_of(shapes),
            providers=provider,
            threads=threads,
            external_data=external_data,
            progress=tell,
        )
    if not no_write:
        store(file, explainer.model, found)
    if as_json:
        write_json(found.record())
    else:
        _print(found, f"{file.name}: {explainer.card.method}", file if not no_write else None)
    if not found.passed:
        raise typer.Exit(1)


def _print(found: Certificate, title: str, written: Path | None) -> None:
    shown = Table("check", Column("result", no_wrap=True), "measured", "bound", "note", title=safe(title))
    for outcome in found.outcomes:
        cells = (outcome.check, _number(outcome.measured), _number(outcome.bound), outcome.note)
        check, measured, bound, note = map(safe, cells)
        shown.add_row(check, Text(outcome.status.value, STYLES[outcome.status]), measured, bound, note)
    Console().print(shown)
    counts = ", ".join(f"{found.count(status)} {status.value}" for status in Status if found.count(status))
    write_line(counts + ("" if written is None else f"; certificate stored in {written}"))


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2g}"
