"""`onnxplain compile`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ...rewriter.errors import OptionError
from ..compiling import compile
from .options import (
    External,
    Head,
    Inputs,
    Labels,
    Memory,
    ModelPath,
    OutputName,
    Overrides,
    Preprocess,
    Settings,
    Shapes,
    settings_of,
    shapes_of,
    target_of,
)
from .terminal import write_line


def compile_command(
    model: ModelPath,
    method: Annotated[str, typer.Option("--method", "-m", help="See `onnxplain methods`.")] = "saliency",
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Default: MODEL.METHOD.onnx, here.")] = None,
    target: Annotated[
        str,
        typer.Option(
            help="input (the class is an input of the file), top, a class, classes 1,2,3, or cotangent."
        ),
    ] = "input",
    output: OutputName = None,
    head: Head = "logits",
    inputs: Inputs = None,
    reduce: Annotated[
        str | None,
        typer.Option(help="Add a `heatmap` output: maxabs, sum, abssum_p99, or e.g. maxabs,minmax,jet."),
    ] = None,
    settings: Settings = None,
    rules: Overrides = None,
    shapes: Shapes = None,
    preprocess: Preprocess = None,
    labels: Labels = None,
    lowering: Annotated[
        str,
        typer.Option(help="portable, or the forms of one provider: cpu, cuda, tensorrt, web."),
    ] = "portable",
    precision: Annotated[str, typer.Option(help="float32, or float16 for accelerators.")] = "float32",
    memory: Memory = None,
    external_data: External = False,
) -> None:
    """Compile a model and a method into one self-contained ONNX file.

    The file gives the model's own outputs, unchanged, and `attribution`. It runs wherever onnxruntime runs.
    """
    explainer = compile(
        model,
        method,
        target=target_of(target),
        output=output,
        head=head,
        inputs=inputs,
        reduce=reduce,
        shapes=shapes_of(shapes),
        preprocessing=preprocess,
        labels=labels,
        lowering=lowering,
        precision=precision,
        memory=memory,
        external_data=external_data,
        **settings_of(settings, rules),
    )
    path = out or Path(f"{model.stem}.{method}.onnx")
    if path.exists() and path.samefile(model):
        raise OptionError(f"--out {str(path)!r} is the model itself; give the explanation another name")
    explainer.save(path)
    write_line(f"{path}: {method} of {model.name}, {len(explainer.card.rules)} nodes explained")
    for note in explainer.card.approximations:
        write_line(f"  note: {note}")
