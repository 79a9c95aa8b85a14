"""`onnxplain fit`: estimate on pictures what a method needs besides the model."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from ...rewriter.errors import OptionError
from ...rules.patterns import Patterns
from ..batch.fitting import gather_on, part_files
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
from ..estimate.files import holds
from ..lanes import progress_bar
from ..perturb.gaussian_fit import KIND as PATCHES
from . import fit_gaussian
from .options import (
    External,
    Head,
    Limit,
    ModelPath,
    OutputName,
    Pictures,
    Preprocess,
    Provider,
    RawInput,
    Resume,
    Shard,
    Threads,
    Workers,
    shard_of,
    writable_beside,
)
from .terminal import write_line

app = typer.Typer(
    no_args_is_help=True,
    help="Estimate on pictures what methods need besides the model: patterns, or a Gaussian of patches.",
)
app.command("gaussian")(fit_gaussian.gaussian_command)
Out = Annotated[Path, typer.Option("--out", "-o", help="The file to write, .npz.", show_default=False)]
Estimators = Annotated[
    list[str] | None,
    typer.Option(
        "--estimator", help=f"Keep only these of {', '.join(ESTIMATORS)}; may be given several times."
    ),
]


@app.command("patterns")
def patterns_command(
    model: ModelPath,
    images: Pictures,
    out: Out,
    limit: Limit = None,
    shard: Shard = None,
    resume: Resume = False,
    batch: Annotated[int, typer.Option(help="Pictures read ahead; no effect on the result.", min=1)] = 16,
    estimators: Estimators = None,
    raw_input: RawInput = False,
    preprocess: Preprocess = None,
    output: OutputName = None,
    head: Head = "logits",
    provider: Provider = None,
    threads: Threads = None,
    workers: Workers = None,
    external_data: External = False,
) -> None:
    """Fit patterns in one pass over pictures.

    The result does not depend on --batch or on how shards are dealt. What was counted is kept in FILE.part every
    minute and when the run is stopped; --resume goes on from there.
    """
    part = out.with_name(out.name + ".part")
    _known(estimators)
    writable_beside(out, model, images)
    plan = Plan(limit=limit, shard=shard_of(shard), batch=batch, partial=part, resume=resume)
    parts = [part] if workers is None else part_files(plan, workers)
    count = partial(gather, model, images) if workers is None else partial(gather_on, workers, model, images)
    with progress_bar("pictures" if workers is None else "shards") as tell:
        found = count(
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
        write_line(
            f"{out}: statistics of {found.images} of {found.about['total']} pictures; join all with `fit merge`"
        )
    for path in parts:
        path.unlink(missing_ok=True)


@app.command("merge")
def merge_command(
    parts: Annotated[
        list[Path], typer.Argument(help="Every file that --shard wrote, in any order.", show_default=False)
    ],
    out: Out,
    estimators: Estimators = None,
) -> None:
    """Join the statistics of all shards into patterns, or into a Gaussian."""
    _known(estimators)
    if any(holds(part, PATCHES) for part in parts):
        if estimators:
            raise OptionError("--estimator is for patterns; these files are statistics of patches")
        fit_gaussian.merge(parts, out)
        return
    whole = merge([load_statistics(part) for part in parts], [str(part) for part in parts])
    if whole.images != whole.about["total"]:
        write_line(f"onnxplain: {whole.images} of {whole.about['total']} pictures are there", file=sys.stderr)
    _save(patterns_of(whole, estimators or ESTIMATORS), out)


def _save(patterns: Patterns, out: Path) -> None:
    save_patterns(patterns, out)
    write_line(
        f"{out}: patterns of {len(patterns.arrays)} nodes from {patterns.provenance['images']} pictures"
    )
    for warning in patterns.provenance["warnings"]:
        write_line(f"  note: {warning}")


def _known(estimators: list[str] | None) -> None:
    for name in estimators or []:
        if name not in ESTIMATORS:
            raise OptionError(f"--estimator {name!r}: it is one of {', '.join(ESTIMATORS)}")
