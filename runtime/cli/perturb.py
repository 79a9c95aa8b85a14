"""`onnxplain perturb`: what a model says of changed copies of a photo, as a picture and numbers."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from ...rewriter.errors import OptionError
from ..lanes import progress_bar
from ..perturb.budget import Job, parse_budget, say_time, within
from ..perturb.perturbing import Opened, open_probe
from ..perturb.probing import ENGINES, Asked
from ..perturb.registry import find_technique
from ..perturb.technique import Found
from ..scope.photo import beside, save
from .options import CacheFolder, External, Labels, ModelPath, OutputName, Preprocess, Provider, Threads
from .terminal import write_line

LONG = 300.0
"""Seconds from which a run without a budget is asked about first."""


def perturb_command(
    model: ModelPath,
    image: Annotated[Path, typer.Argument(help="The photo.", show_default=False)],
    method: Annotated[
        str,
        typer.Option("--method", "-m", metavar="METHOD[,METHOD...]", help="See `onnxplain methods`."),
    ] = "occlusion",
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", help="The picture: .png, .jpg or .webp; numbers go beside it, .npz and .json."
        ),
    ] = Path("perturbation.png"),
    target: Annotated[
        list[str] | None,
        typer.Option(
            "--target",
            help="top (the default), a class index, or a class name; may be given several times, a row each.",
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="A setting of the methods, such as stride=8, or of one of them, rise.n=2000; may be given several "
            "times. images= takes a folder or "
            ".npy file, gaussian= an .npz file of `onnxplain fit gaussian`, segments= a word or an .npy file.",
        ),
    ] = None,
    score: Annotated[
        str,
        typer.Option(
            "--score",
            metavar="SCORE",
            help="What is compared: probability, logit, output (as the model gives it), or a tensor's name; the "
            "targets are then elements of it.",
        ),
    ] = "probability",
    budget: Annotated[
        str | None,
        typer.Option(
            "--budget",
            metavar="60s|5m|2000",
            help="Refuse what a short trial says will take longer, or more forward passes, and name settings that fit.",
        ),
    ] = None,
    fit_budget: Annotated[
        bool, typer.Option("--fit-budget", help="Take the settings that fit the budget, and say which.")
    ] = False,
    engine: Annotated[
        str,
        typer.Option(
            "--engine",
            metavar="|".join(ENGINES),
            help="Windows: whole copies (full), only what a window reaches (incremental), or what is expected to be "
            "faster (auto).",
        ),
    ] = "auto",
    batch: Annotated[int, typer.Option("--batch", min=1, help="Copies of a run.")] = 32,
    seed: Annotated[
        int | None, typer.Option("--seed", min=0, help="Of methods that draw; the same as --set seed=N.")
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Do not ask before a run of more than five minutes.")
    ] = False,
    output: OutputName = None,
    preprocess: Preprocess = None,
    labels: Labels = None,
    provider: Provider = None,
    threads: Threads = None,
    cache: CacheFolder = None,
    external_data: External = False,
) -> None:
    """Explain a photo by changing parts of it: what happens to the score without them.

    The number of forward passes and their time are measured and said before the work begins.
    """
    techniques = [find_technique(name.strip()) for name in method.split(",") if name.strip()]
    if not techniques:
        raise OptionError("no method given; `onnxplain methods` lists them")
    allowed = None if budget is None else parse_budget(budget)
    if fit_budget and allowed is None:
        raise OptionError("--fit-budget needs a --budget to fit")
    given = _given(settings, seed)
    _vet_place(out, model, image, *(Path(value) for value in given.values() if isinstance(value, str)))
    asked = Asked(score, output, batch, engine, None, provider, threads, cache)
    opened = open_probe(model, image, asked, preprocess, labels, external_data)
    classes = opened.classes(_targets(target))
    jobs = opened.jobs(techniques, given, len(classes))
    _say(opened)
    jobs = opened.tried(jobs, classes)
    if allowed is not None:
        jobs = within(opened.prober, jobs, allowed, fit_budget)
    _announce(jobs, sure=yes or allowed is not None)
    found = []
    for job in jobs:
        with progress_bar(job.technique.name) as tell:
            found.append(opened.run(job, classes, tell))
    about = {"model": model.name, "image": image.name, "budget": budget}
    save(
        out,
        opened.figure(found, [job.technique.display for job in jobs]),
        _arrays(found),
        _record(opened, found, about),
    )
    _report(out, opened, found)


def _vet_place(out: Path, *sources: Path) -> None:
    """Raises OptionError for a place that cannot be written, or that would overwrite what is read."""
    for path in (out, *beside(out)):
        for source in sources:
            if path.exists() and source.exists() and path.samefile(source):
                raise OptionError(f"--out {str(out)!r} would overwrite {str(source)!r}; give another name")


def _given(pairs: list[str] | None, seed: int | None) -> dict[str, Any]:
    """key=value pairs as words; the technique says what they are."""
    found: dict[str, Any] = {} if seed is None else {"seed": seed}
    for pair in pairs or []:
        key, sign, text = pair.partition("=")
        method, dot, name = key.strip().rpartition(".")
        key = method + dot + name.replace("-", "_")
        if not sign or not name:
            raise OptionError(f"--set {pair!r}: write it as key=value")
        if key in found:
            raise OptionError(f"--set {pair!r}: {key} is given twice")
        found[key] = text.strip()
    return found


def _targets(texts: list[str] | None) -> list[str]:
    """Class numbers may be joined by commas; names, which may hold some, are not."""
    found: list[str] = []
    for text in texts or ["top"]:
        parts = [part.strip() for part in text.split(",")]
        numbers = all(part == "top" or part.lstrip("-").isdecimal() for part in parts)
        found += parts if numbers else [text]
    return found


def _say(opened: Opened) -> None:
    if opened.about is not None and opened.about.guessed:
        write_line(
            "onnxplain: nothing says how this model wants its photos; they are stretched to its input, "
            "pixels in [0, 1]. Say it with --preprocess.",
            file=sys.stderr,
        )


def _announce(jobs: Sequence[Job], sure: bool) -> None:
    """The estimates; a long run that nobody has agreed to is asked about."""
    for job in jobs:
        words = "".join(f", {name}={now} instead of {was}" for name, (was, now) in job.changed.items())
        write_line(f"onnxplain: {job.technique.name}: {job.estimate}{words}", file=sys.stderr)
    whole = sum(job.estimate.total for job in jobs)
    if len(jobs) > 1:
        write_line(f"onnxplain: together about {say_time(whole)}", file=sys.stderr)
    if sure or whole <= LONG:
        return
    if not attended():
        raise OptionError(f"that is about {say_time(whole)}; agree with --yes, or give a --budget")
    typer.confirm("Go on?", abort=True, err=True)


def attended() -> bool:
    """Whether somebody can answer."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def _arrays(found: Sequence[Found]) -> dict[str, np.ndarray]:
    """maps (methods, classes, height, width)."""
    return {
        "maps": np.stack([one.maps for one in found]),
        "methods": np.array([str(one.record["method"]) for one in found]),
        "classes": np.array(found[0].classes, np.int64),
        "base": found[0].base,
    }


def _record(opened: Opened, found: Sequence[Found], about: dict[str, Any]) -> dict[str, Any]:
    classes = found[0].classes
    return about | {
        "sha256": opened.prober.source.sha256,
        "score": opened.prober.of.score,
        "tensor": opened.prober.of.read.name,
        "classes": list(classes),
        "names": [opened.name(c) for c in classes],
        "base": [float(opened.prober.base[c]) for c in classes],
        "x": list(opened.prober.image.shape),
        "windows": opened.engines,
        "methods": [{key: value for key, value in one.record.items() if key != "sha256"} for one in found],
    }


def _report(out: Path, opened: Opened, found: Sequence[Found]) -> None:
    for one in found:
        write_line(f"{one.record['method']}: {one.forwards} forwards, {say_time(one.seconds)}")
    for c in found[0].classes:
        write_line(f"  {opened.name(c)} ({c})  {opened.prober.base[c]:.4g}")
    write_line(out)


__all__ = ["perturb_command"]
