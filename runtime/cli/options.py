"""What several commands share: option types, and how their words are read."""

from __future__ import annotations

import json
from inspect import signature
from pathlib import Path
from typing import Annotated, Any

import typer

from ...rewriter.errors import OptionError
from ...rewriter.target import Target
from ..compiling import compile
from ..pictures import explain

ModelPath = Annotated[Path, typer.Argument(help="The model, an .onnx file.", show_default=False)]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="An option of the method; may be given several times."),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--rule",
        metavar="MATCH=RULE",
        help="LRP: another rule for some nodes. MATCH: first, last, an operator, or a pattern of node names; RULE: "
        "a rule of `onnxplain methods` without lrp., such as z-box or gamma:gamma=0.1. May be given several times.",
    ),
]
OutputName = Annotated[
    str | None,
    typer.Option("--output", metavar="NAME", help="Which output to explain; the first by default."),
]
Head = Annotated[
    str,
    typer.Option(
        "--head", help="logits (found behind a trailing softmax), prob, logprob, or a tensor's name."
    ),
]
Inputs = Annotated[
    list[str] | None,
    typer.Option("--input", metavar="NAME", help="An input to explain; may be given several times."),
]
Shapes = Annotated[
    list[str] | None,
    typer.Option("--shape", metavar="NAME=N,3,224,224", help="Fix the shape of an input; letters stay free."),
]
External = Annotated[
    bool, typer.Option("--external-data", help="Read weights kept in other files of the model's folder.")
]
Preprocess = Annotated[
    str | None,
    typer.Option(
        "--preprocess",
        metavar="PRESET|FILE",
        help="How photos are prepared: a preset (imagenet, unit, tf, lite, caffe, raw, clip) or a JSON file. "
        "By default what the model's metadata or the JSON file beside it says.",
    ),
]
_TAKEN = frozenset(signature(compile).parameters) | frozenset(signature(explain).parameters)
"""Arguments of the Python functions: they are no options of a method."""

Labels = Annotated[Path | None, typer.Option("--labels", help="Class names, one a line.")]
Provider = Annotated[
    list[str] | None,
    typer.Option("--provider", help="cpu, cuda, tensorrt, ... or auto; several in order of preference."),
]
Memory = Annotated[
    str | None,
    typer.Option(
        "--memory", metavar="SIZE", help="What a run may take, such as 2GB; half of what is free by default."
    ),
]
CacheFolder = Annotated[
    Path | None,
    typer.Option("--cache", metavar="FOLDER", help="Keep optimised graphs there, so that they open faster."),
]
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="Threads of one operator.")]
Pictures = Annotated[
    Path,
    typer.Argument(
        help="A folder of photos, a text file with a path a line, or an .npy or .npz array of pictures.",
        show_default=False,
    ),
]
Limit = Annotated[int | None, typer.Option(help="Only the first pictures.", min=1)]
Shard = Annotated[
    str | None,
    typer.Option(
        metavar="I/N",
        help="Count only every N-th picture, from the I-th on, and write statistics for `fit merge`.",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(help="Processes of one thread each; the result is that of one with --threads 1.", min=1),
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with a fit that was stopped.")]
RawInput = Annotated[
    bool, typer.Option("--raw-input", help="The array holds model inputs: no preprocessing.")
]


def target_of(text: str) -> Target:
    """ "input", "top", "cotangent", a class, or classes joined by commas."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    try:
        classes = [int(part) for part in parts]
    except ValueError:
        return text
    return classes[0] if len(classes) == 1 else classes


def settings_of(pairs: list[str] | None, overrides: list[str] | None = None) -> dict[str, Any]:
    """key=value pairs; a value that reads as JSON (a number, true, a list) is that, else it is text. overrides:
    match=rule pairs, which are the option `rules`."""
    found: dict[str, Any] = {}
    if overrides:
        found["rules"] = dict(_override(pair) for pair in overrides)
    for pair in pairs or []:
        key, sign, text = pair.partition("=")
        key = key.strip().replace("-", "_")
        if not sign or not key:
            raise OptionError(f"--set {pair!r}: write it as key=value")
        if key in _TAKEN:
            raise OptionError(
                f"--set {pair!r}: {key} is no option of a method; see --help for a flag of that name"
            )
        try:
            found[key] = json.loads(text)
        except (ValueError, RecursionError):
            found[key] = text
    return found


def _override(pair: str) -> tuple[str, str]:
    match, sign, rule = pair.partition("=")
    if not sign or not match.strip() or not rule.strip():
        raise OptionError(f"--rule {pair!r}: write it as match=rule, such as first=z-box")
    return match.strip(), rule.strip()


def shapes_of(pairs: list[str] | None) -> dict[str, list[int | str | None]] | None:
    found: dict[str, list[int | str | None]] = {}
    for pair in pairs or []:
        name, sign, text = pair.rpartition("=")
        if not sign or not name:
            raise OptionError(f"--shape {pair!r}: write it as name=N,3,224,224")
        found[name] = [_dim(dim.strip(), pair) for dim in text.split(",")]
    return found or None


def _dim(text: str, pair: str) -> int | str:
    if text.isidentifier():
        return text
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise OptionError(f"--shape {pair!r}: {text!r} is neither a size of at least 1 nor a name")
    return int(text)


def shard_of(text: str | None) -> tuple[int, int] | None:
    """ "2/4" -> (2, 4)."""
    if text is None:
        return None
    first, sign, count = text.partition("/")
    if not sign or not first.isdecimal() or not count.isdecimal():
        raise OptionError(f"--shard {text!r}: write it as 1/4, 2/4, 3/4, 4/4")
    return int(first), int(count)


def writable_beside(out: Path, *sources: Path) -> None:
    """Before any work is done for it: OptionError where a file cannot be made, or is one of the sources."""
    if not out.absolute().parent.is_dir() or out.is_dir():
        raise OptionError(f"cannot write {str(out)!r}: name a file in an existing folder")
    for source in sources:
        if out.exists() and source.exists() and out.samefile(source):
            raise OptionError(f"--out {str(out)!r} is one of the inputs; give the result another name")
