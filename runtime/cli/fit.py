"""`onnxplain fit`: estimate on pictures what a method needs besides the model."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from ...rewriter.errors import OptionError
from ...rules.patterns import Patterns
from ..estimate import (
    ESTIMATORS,
    Plan,
    gather,
    load_statistics,
    merge,
    patterns_of,
    save_patterns,
    save_statistics,
)
from ..estimate.fit import Progress as Tell
from .options import External, Head, ModelPath, OutputName, Preprocess, Provider, Threads

app = typer.Typer(
    no_args_is_help=True,
    help="Estimate patterns, which pattern-net and pattern-attribution need, on pictures.",
)
Out = Annotated[Path, typer.Option("--out", "-o", help="The file to write, .npz.", show_default=False)]
Estimators = Annotated[
    list[str] | None,
    typer.Option(
        "--estimator", help=f"Keep only these of {', '.join(ESTIMATORS)}; may be given several times."
    ),
]


@contextmanager
def _bar() -> Iterator[Tell]:
    """A progress bar on stderr, when a person is watching."""
    columns = (
        TextColumn("pictures"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(
        *columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()
    ) as bar:
        task = bar.add_task("", total=None)

        def tell(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield tell


@app.command("patterns")
def patterns_command(
    model: ModelPath,
    images: Annotated[
        Path,
        typer.Argument(
            help="A folder of photos, a text file with a path a line, or an .npy or .npz array of pictures.",
            show_default=False,
        ),
    ],
    out: Out,
    limit: Annotated[int | None, typer.Option(help="Only the first pictures.", min=1)] = None,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N",
            help="Count only every N-th picture, from the I-th on, and write statistics for `fit merge`.",
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a fit that was stopped.")] = False,
    batch: Annotated[int, typer.Option(help="Pictures read ahead; no effect on the result.", min=1)] = 16,
    estimators: Estimators = None,
    raw_input: Annotated[
        bool, typer.Option("--raw-input", help="The array holds model inputs: no preprocessing.")
    ] = False,
    preprocess: Preprocess = None,
    output: OutputName = None,
    head: Head = "logits",
    provider: Provider = None,
    threads: Threads = None,
    external_data: External = False,
) -> None:
    """Fit patterns in one pass over pictures.

    The result does not depend on --batch or on how shards are dealt. What was counted is kept in FILE.part every
    minute and when the run is stopped; --resume goes on from there.
    """
    part = out.with_name(out.name + ".part")
    _known(estimators)
    _writable(out, model, images)
    plan = Plan(limit=limit, shard=_shard(shard), batch=batch, partial=part, resume=resume)
    with _bar() as tell:
        found = gather(
            model,
            images,
            plan=plan,
            raw_input=raw_input,
            preprocessing=preprocess,
            output=output,
            head=head,
            providers=provider,
            threads=threads,
            external_data=external_data,
            progress=tell,
        )
    if plan.shard is None:
        _save(patterns_of(found, estimators or ESTIMATORS), out)
    else:
        save_statistics(found, out)
        print(
            f"{out}: statistics of {found.images} of {found.about['total']} pictures; join all with `fit merge`"
        )
    part.unlink(missing_ok=True)


@app.command("merge")
def merge_command(
    parts: Annotated[
        list[Path], typer.Argument(help="Every file that --shard wrote, in any order.", show_default=False)
    ],
    out: Out,
    estimators: Estimators = None,
) -> None:
    """Join the statistics of all shards into patterns."""
    _known(estimators)
    whole = merge([load_statistics(part) for part in parts], [str(part) for part in parts])
    if whole.images != whole.about["total"]:
        print(f"onnxplain: {whole.images} of {whole.about['total']} pictures are there", file=sys.stderr)
    _save(patterns_of(whole, estimators or ESTIMATORS), out)


def _save(patterns: Patterns, out: Path) -> None:
    save_patterns(patterns, out)
    print(f"{out}: patterns of {len(patterns.arrays)} nodes from {patterns.provenance['images']} pictures")
    for warning in patterns.provenance["warnings"]:
        print(f"  note: {warning}")


def _known(estimators: list[str] | None) -> None:
    for name in estimators or []:
        if name not in ESTIMATORS:
            raise OptionError(f"--estimator {name!r}: it is one of {', '.join(ESTIMATORS)}")


def _writable(out: Path, model: Path, images: Path) -> None:
    """Before any work is done for it."""
    if not out.absolute().parent.is_dir() or out.is_dir():
        raise OptionError(f"cannot write {str(out)!r}: name a file in an existing folder")
    for source in (model, images):
        if out.exists() and source.exists() and out.samefile(source):
            raise OptionError(f"--out {str(out)!r} is one of the inputs; give the patterns another name")


def _shard(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    first, sign, count = text.partition("/")
    if not sign or not first.isdecimal() or not count.isdecimal():
        raise OptionError(f"--shard {text!r}: write it as 1/4, 2/4, 3/4, 4/4")
    return int(first), int(count)
