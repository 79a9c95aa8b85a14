"""`onnxplain explain` and `demo`: photos in, a panel out."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ... import models
from ...rewriter.errors import OptionError
from ...rules.registry import find, methods
from ..compiling import compile
from ..images import writable
from ..perturb.registry import refuse_techniques
from ..pictures import Explanations, explain
from ..pictures import Progress as Tell
from .options import (
    CacheFolder,
    External,
    Head,
    Labels,
    Memory,
    ModelPath,
    OutputName,
    Overrides,
    Preprocess,
    Provider,
    Settings,
    Shapes,
    Threads,
    settings_of,
    shapes_of,
)
from .terminal import escape, write_line

DEMO = (
    "saliency",
    "guided-backprop",
    "integrated-gradients",
    "lrp.epsilon-plus",
    "deeplift.rescale",
    "grad-cam",
)


@contextmanager
def _bar(total: int) -> Iterator[Tell]:
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
        task = bar.add_task("", total=total)

        def tell(text: str) -> None:
            bar.update(task, description=escape(text))
            bar.advance(task)

        yield tell


def explain_command(
    model: ModelPath,
    images: Annotated[list[Path], typer.Argument(help="Photos.", show_default=False)],
    method: Annotated[
        str | None,
        typer.Option(
            "--method",
            "-m",
            metavar="METHOD[,METHOD...]",
            help="See `onnxplain methods`. Default: saliency, or that of an emitted file.",
        ),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The panel: .png, .jpg or .webp.")] = Path(
        "explanation.png"
    ),
    target: Annotated[str, typer.Option(help="top, a class index, or a class name.")] = "top",
    output: OutputName = None,
    head: Head = "logits",
    settings: Settings = None,
    rules: Overrides = None,
    shapes: Shapes = None,
    preprocess: Preprocess = None,
    labels: Labels = None,
    provider: Provider = None,
    threads: Threads = None,
    memory: Memory = None,
    cache: CacheFolder = None,
    external_data: External = False,
) -> None:
    """Explain photos: a row a photo, a column a method, with the class and its probability."""
    names = None if method is None else [name.strip() for name in method.split(",") if name.strip()]
    refuse_techniques(names or [])
    for name in names or []:
        find(name)
    writable(out)
    with _bar(len(names or [1]) * (len(images) + 1)) as tell:
        found = explain(
            model,
            list(images),
            names,
            target=target,
            output=output,
            head=head,
            shapes=shapes_of(shapes),
            preprocessing=preprocess,
            labels=labels,
            providers=provider,
            threads=threads,
            memory=memory,
            cache=cache,
            external_data=external_data,
            progress=tell,
            **settings_of(settings, rules),
        )
    found.save(out)
    _report(found, images)
    write_line(out)


def _report(found: Explanations, images: list[Path]) -> None:
    if found[0].about.guessed:
        write_line(
            "onnxplain: nothing says how this model wants its photos; they are stretched to its input, "
            "pixels in [0, 1]. Say it with --preprocess.",
            file=sys.stderr,
        )
    step = len(found) // len(images)
    for i, image in enumerate(images):
        first = found[i * step]
        score = "" if math.isnan(first.score) else f"  {first.score:.3f}"
        write_line(f"{image.name}: {first.label} ({first.target}){score}")


def demo_command(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results; made if missing.")] = Path(
        "onnxplain-demo"
    ),
) -> None:
    """Explain the cat photo with EfficientNet-Lite0 and six methods; no network needed.

    Writes the panel cat.png, and efficientnet_lite0.guided-backprop.onnx, a file to deploy.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OptionError(f"cannot make the folder {os.fspath(out)!r}: {error.strerror}") from error
    model, photo = models.path("efficientnet_lite0"), models.photo("cat_chelsea")
    names = [name for name in DEMO if name in methods()]
    with _bar(2 * len(names)) as tell:
        found = explain(model, photo, names, progress=tell)
    found.save(out / "cat.png")
    file = compile(model, "guided-backprop").save(out / "efficientnet_lite0.guided-backprop.onnx")
    _report(found, [photo])
    write_line(f"{out / 'cat.png'}: the panel of {', '.join(names)}")
    write_line(f"{file}: the same as an ONNX file for any onnxruntime; look at it with `onnxplain show`")
