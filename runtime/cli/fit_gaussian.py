"""`onnxplain fit gaussian`: the model of patches that prediction difference analysis samples from."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from ...rewriter.errors import ModelError, OptionError
from ...rewriter.load import load
from ..batch.fitting import gather_patches_on, part_files
from ..compiling import description
from ..describe import describe
from ..estimate.fit import Plan
from ..lanes import progress_bar
from ..perturb.gaussian import Gaussian, save_gaussian
from ..perturb.gaussian_fit import (
    Patches,
    gather_patches,
    gaussian_of,
    load_patch_sums,
    merge_patch_sums,
    save_patch_sums,
)
from ..preprocess import PRESETS, Preprocessing
from .options import (
    External,
    Limit,
    Pictures,
    Preprocess,
    RawInput,
    Resume,
    Shard,
    Workers,
    shard_of,
    writable_beside,
)
from .terminal import write_line


def gaussian_command(
    images: Pictures,
    out: Annotated[Path, typer.Option("--out", "-o", help="The file to write, .npz.", show_default=False)],
    patch: Annotated[int, typer.Option("--patch", "-l", help="Side of a patch, in pixels.", min=1)] = 18,
    patches: Annotated[
        int, typer.Option(help="How many patches, dealt evenly to the pictures at random places.", min=2)
    ] = 20_000,
    joint: Annotated[
        bool, typer.Option("--joint", help="One covariance of all channels, not one for each.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of the places of the patches.", min=0)] = 0,
    model: Annotated[
        Path | None,
        typer.Option("--model", help="Prepare pictures as this model takes them.", show_default=False),
    ] = None,
    preprocess: Preprocess = None,
    raw_input: RawInput = False,
    limit: Limit = None,
    shard: Shard = None,
    resume: Resume = False,
    batch: Annotated[int, typer.Option(help="Pictures read ahead; no effect on the result.", min=1)] = 16,
    workers: Workers = None,
    external_data: External = False,
) -> None:
    """Fit a Gaussian to patches of pictures, in one pass; for pda.sampling and pda.mean.

    It is a model of the inputs of a network: pictures are prepared as --model says, or as --preprocess alone (a preset
    then takes RGB pictures in their own size). The result does not depend on --batch or on how shards are dealt. What
    was counted is kept in FILE.part every minute and when the run is stopped; --resume goes on from there.
    """
    part = out.with_name(out.name + ".part")
    writable_beside(out, images, *([] if model is None else [model]))
    plan = Plan(limit=limit, shard=shard_of(shard), batch=batch, partial=part, resume=resume)
    of = Patches(patch, patches, seed, joint)
    preprocessing = _preprocessing(model, preprocess, raw_input, external_data)
    parts = [part] if workers is None else part_files(plan, workers)
    count = gather_patches if workers is None else partial(gather_patches_on, workers)
    with progress_bar("pictures" if workers is None else "shards") as tell:
        sums = count(images, of, preprocessing=preprocessing, raw_input=raw_input, plan=plan, progress=tell)
    if plan.shard is None:
        _save(gaussian_of(sums), out)
    else:
        save_patch_sums(sums, out)
        write_line(f"{out}: statistics of {sums.images} of {sums.wanted} pictures; join all with `fit merge`")
    for path in parts:
        path.unlink(missing_ok=True)


def merge(parts: Sequence[Path], out: Path) -> None:
    """Join the statistics of shards into a Gaussian."""
    whole = merge_patch_sums([load_patch_sums(part) for part in parts], [str(part) for part in parts])
    if whole.images != whole.wanted:
        write_line(f"onnxplain: {whole.images} of {whole.wanted} pictures are there", file=sys.stderr)
    _save(gaussian_of(whole), out)


def _save(gaussian: Gaussian, out: Path) -> None:
    save_gaussian(gaussian, out)
    about = gaussian.provenance
    write_line(f"{out}: {gaussian}, from {about['counted']} patches of {about['images']} pictures")
    for warning in about["warnings"]:
        write_line(f"  note: {warning}")


def _preprocessing(
    model: Path | None, preprocess: str | None, raw_input: bool, external_data: bool
) -> Preprocessing | None:
    """None with raw inputs and no word of their layout. OptionError, ModelError."""
    if model is not None:
        about = description(model, load(model, external_data=external_data).model, preprocess)
        if about is None:
            if raw_input:
                return None
            raise ModelError(
                "the model's input is not a picture; give an array of model inputs with --raw-input"
            )
        return about.preprocessing
    if preprocess is None:
        if raw_input:
            return None
        raise OptionError(
            "say how the pictures are prepared: --model MODEL, --preprocess, or --raw-input for an array of inputs"
        )
    if preprocess in PRESETS:
        return Preprocessing().scaled(preprocess)
    return describe(None, (), {}, preprocessing=preprocess).preprocessing
