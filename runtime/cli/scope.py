"""`onnxplain scope`: the linear interpreter of a network at one photo, as pictures and numbers."""

from __future__ import annotations

import math
from typing import Annotated, Any

import numpy as np
import typer

from ...rewriter.errors import OptionError
from ..lanes import progress_bar
from ..pictures import class_index
from ..scope import figures
from ..scope.layout import Array
from ..scope.photo import Opened, probes, save
from .scope_options import Shared, shared
from .terminal import write_line

app = typer.Typer(
    no_args_is_help=True,
    help="LinearScope: freeze a network at a photo and see the linear system y = F x + r that it is there.",
)
At = Annotated[
    list[str] | None,
    typer.Option(
        "--at",
        metavar="Y,X",
        help="A pixel with all its channels; C,Y,X is one entry (in the tensor's order), a number a flat index, a word "
        "a class. May be given several times. By default the middle of a picture, or the top class.",
    ),
]
TOP = "top20"


@app.command("rows")
@shared
def rows_command(given: Shared, at: At = None) -> None:
    """Receptive filters: the rows of F, what an output takes from every input pixel."""
    opened = given.open()
    a = opened.a
    asked, units = probes(at or [], a.outward, opened.view, a.value)
    with progress_bar("rows") as tell:
        (found,) = a.system.rows(units, tell).values()
    _filters(given, opened, asked, units, found, "rows")


@app.command("columns")
@shared
def columns_command(given: Shared, at: At = None) -> None:
    """Projective filters: the columns of F, what an input pixel does to the output."""
    opened = given.open()
    a = opened.a
    asked, units = probes(at or [], a.inward, opened.view)
    with progress_bar("columns") as tell:
        found = a.system.columns({a.system.names[0]: units}, tell)
    _filters(given, opened, asked, units, found, "columns")


def _filters(
    given: Shared, opened: Opened, asked: list[figures.Probe], units: Array, found: Array, kind: str
) -> None:
    a = opened.a
    record = given.record(opened) | {
        "kind": kind,
        "at": [probe.name for probe in asked],
        "largest": [float(np.abs(values).max()) for values in found],
        "sum": [float(values.sum(dtype=np.float64)) for values in found],
    }
    arrays = {kind: found, "probes": units, "value": a.value, "residual": a.residual}
    save(given.out, figures.filters(opened.view, a, asked, found, kind), arrays, record)
    write_line(f"{given.out}: {len(asked)} {kind} of F, {a.shape[0]} x {a.shape[1]}")


@app.command("svd")
@shared
def svd_command(
    given: Shared,
    k: Annotated[int, typer.Option("--k", "-k", help="How many singular values.", min=1)] = 5,
    method: Annotated[str, typer.Option("--method", "-m", help="power, or lanczos (needs scipy).")] = "power",
    momentum: Annotated[
        str, typer.Option(help="power: auto, or a number in units of σ⁴, below a quarter of the largest σ⁴.")
    ] = "auto",
    steps: Annotated[int, typer.Option(help="At most so many products with F'F a triplet.", min=1)] = 100,
    tolerance: Annotated[float, typer.Option(help="Of ‖F'u - σv‖ / σ.")] = 1e-3,
    seed: Annotated[int, typer.Option(help="Of the start vectors.", min=0)] = 0,
) -> None:
    """Singular values of F, eigen-inputs over eigen-outputs."""
    opened = given.open()
    a = opened.a
    amount: float | str = 0.0 if method == "lanczos" else _momentum(momentum)
    with progress_bar("svd") as tell:
        found = a.svd(k, method, amount, steps, tolerance, seed, tell)
    record = given.record(opened) | {
        "method": method,
        "values": found.values.tolist(),
        "residuals": found.residuals.tolist(),
        "converged": found.converged.tolist(),
        "steps": found.steps.tolist(),
        "momentum": found.momentum.tolist(),
        "tolerance": tolerance,
        "seed": seed,
        "warnings": [str(warning) for warning in found.warnings],
    }
    arrays: dict[str, Any] = {
        "values": found.values,
        "inputs": found.inputs,
        "outputs": found.outputs,
        "value": a.value,
        "residual": a.residual,
    }
    save(given.out, figures.decomposition(opened.view, a, found), arrays, record)
    write_line(f"{given.out}: F {a.shape[0]} x {a.shape[1]}")
    for i, (sigma, residual, done) in enumerate(
        zip(found.values, found.residuals, found.converged, strict=True), start=1
    ):
        write_line(f"  sigma {i}  {sigma:.6g}  residual {residual:.1e}{'' if done else '  not converged'}")
    for warning in found.warnings:
        write_line(f"  note: {warning}")


def _momentum(text: str) -> float | str:
    if text == "auto":
        return text
    try:
        return float(text)
    except ValueError:
        raise OptionError(f"--momentum {text!r}: give auto or a number") from None


@app.command("contributions")
@shared
def contributions_command(
    given: Shared,
    target: Annotated[
        str, typer.Option(help="top, a class, a class name, or coordinates of an output.")
    ] = "top",
) -> None:
    """What the input and the biases of every layer contribute to a score."""
    opened = given.open()
    found = opened.a.contributions(_target(target, opened))
    record = given.record(opened) | {
        "target": found.target,
        "score": found.score,
        "input": found.input,
        "residual": found.residual,
        "ratio": found.ratio if math.isfinite(found.ratio) else None,
        "share": found.share,
        "error": found.error,
        "terms": dict(zip(found.names, map(float, found.values), strict=True)),
    }
    title = _name(found.target, opened)
    save(
        given.out,
        figures.contributions(found, title),
        {"values": found.values, "names": np.array(found.names)},
        record,
    )
    write_line(
        f"{given.out}: {title}, score {found.score:.4g} = input {found.input:.4g} + residual {found.residual:.4g}"
    )
    write_line(f"  residual / score {found.ratio:.1%}, |r| / (|F x0| + |r|) {found.share:.1%}")


def _target(text: str, opened: Opened) -> int | tuple[int, ...]:
    if text == "top":
        return -1
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        return class_index(text, opened.view.labels)
    return numbers if len(numbers) != 1 else numbers[0]


def _name(index: int, opened: Opened) -> str:
    shape = opened.a.outward.parts[0][1]
    if len(shape) == 1:
        return opened.view.name(index)
    return f"output {tuple(int(i) for i in np.unravel_index(index, shape))}"


@app.command("votes")
@shared
def votes_command(
    given: Shared,
    classes: Annotated[
        str, typer.Option(help="Who can be voted for: all, top20 (or another number), or classes 1,2,3.")
    ] = TOP,
    show: Annotated[int, typer.Option(help="Popularity images of so many classes.", min=1, max=23)] = 5,
    variant: Annotated[
        str,
        typer.Option(
            help="Of the discussions: classwise, or as printed paper or eq18, where the biases say the same for every "
            "class and one class may take all pixels by its scale."
        ),
    ] = "classwise",
    scale: Annotated[str, typer.Option(help="Of the discussions: score, shift or none.")] = "score",
) -> None:
    """Which class every pixel votes for."""
    opened = given.open()
    a = opened.a
    chosen = _classes(classes, opened)
    with progress_bar("classes") as tell:
        found = a.votes(chosen, variant, scale, tell)
    record = given.record(opened) | {
        "variant": variant,
        "scale": scale,
        "classes": found.classes.tolist(),
        "counts": found.counts.tolist(),
        "names": [_name(int(c), opened) for c in found.classes],
    }
    arrays = {
        "votes": found.votes,
        "classes": found.classes,
        "counts": found.counts,
        "strength": found.strength,
    }
    save(given.out, figures.votes(opened.view, found, a.value, show), arrays, record)
    write_line(f"{given.out}: votes of {found.votes.size} pixels over {len(found.classes)} classes")
    for c in found.popular(show):
        write_line(f"  {found.shares[list(found.classes).index(c)]:6.1%}  {_name(c, opened)} ({c})")


def _classes(text: str, opened: Opened) -> list[int] | None:
    if text == "all":
        return None
    scores = opened.a.value.ravel()
    if text.startswith("top") and text[3:].isdecimal() and int(text[3:]):
        return [int(i) for i in np.argsort(-scores, kind="stable")[: int(text[3:])]]
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise OptionError(f"--classes {text!r}: write all, top20, or classes 1,2,3") from None


__all__ = ["app"]
