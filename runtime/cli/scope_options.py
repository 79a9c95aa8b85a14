"""What all commands of `onnxplain scope` take: declared once, added to the signature of each."""

import functools
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from ...rewriter.errors import OptionError
from ..scope.photo import Opened, Place, beside, open_photo
from .options import (
    CacheFolder,
    External,
    Head,
    Labels,
    Memory,
    ModelPath,
    OutputName,
    Preprocess,
    Provider,
    Threads,
)
from .terminal import write_line


@dataclass(frozen=True, kw_only=True)
class Shared:
    """The model, the photo, and how the network is frozen there."""

    model: ModelPath
    image: Annotated[Path, typer.Argument(help="The photo.", show_default=False)]
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", help="The picture: .png, .jpg or .webp; numbers go beside it, .npz and .json."
        ),
    ] = Path("scope.png")
    crop: Annotated[
        str | None,
        typer.Option("--crop", metavar="X,Y,W,H", help="Only this part of the photo, in its own pixels."),
    ] = None
    size: Annotated[
        str | None, typer.Option("--size", metavar="WxH", help="Scale the photo, or its part, to this size.")
    ] = None
    output: OutputName = None
    head: Head = "logits"
    freeze: Annotated[
        str,
        typer.Option("--freeze", help="Smooth activations: offset, mask or taylor; see `onnxplain methods`."),
    ] = "offset"
    norm: Annotated[
        str,
        typer.Option(
            "--norm", help="Normalisations: stats (mean and deviation held) or std (only the deviation)."
        ),
    ] = "stats"
    preprocess: Preprocess = None
    labels: Labels = None
    provider: Provider = None
    threads: Threads = None
    memory: Memory = None
    cache: CacheFolder = None
    external_data: External = False

    def open(self) -> Opened:
        """The interpreter at the photo; a place that cannot be written is refused before."""
        for path in (self.out, *beside(self.out)):
            for source in (self.model, self.image):
                if path.exists() and source.exists() and path.samefile(source):
                    raise OptionError(
                        f"--out {str(self.out)!r} would overwrite {str(source)!r}; give another name"
                    )
        opened = open_photo(
            self.model,
            self.image,
            Place(_crop(self.crop), _size(self.size)),
            head=self.head,
            preprocessing=self.preprocess,
            labels=self.labels,
            external_data=self.external_data,
            output=self.output,
            freeze=self.freeze,
            norm=self.norm,
            providers=self.provider,
            threads=self.threads,
            memory=self.memory,
            cache=self.cache,
        )
        if opened.guessed:
            write_line(
                "onnxplain: nothing says how this model wants its photos; they are stretched to its input, "
                "pixels in [0, 1]. Say it with --preprocess.",
                file=sys.stderr,
            )
        return opened

    def record(self, opened: Opened) -> dict[str, Any]:
        """What the numbers belong to."""
        a = opened.a
        return {
            "model": self.model.name,
            "sha256": opened.source.sha256,
            "image": self.image.name,
            "crop": self.crop,
            "size": self.size,
            "freeze": self.freeze,
            "norm": self.norm,
            "explained": a.system.about["head"],
            "x": list(a.inward.parts[0][1]),
            "y": list(a.outward.parts[0][1]),
        }


def shared(command: Callable[..., None]) -> Callable[..., None]:
    """command(shared, own...) as a function of all options, for typer."""
    common = list(inspect.signature(Shared).parameters.values())
    own = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for parameter in list(inspect.signature(command, eval_str=True).parameters.values())[1:]
    ]

    @functools.wraps(command)
    def run(**words: Any) -> None:
        given = Shared(**{parameter.name: words.pop(parameter.name) for parameter in common})
        command(given, **words)

    places = 2  # the model and the photo
    run.__signature__ = inspect.Signature([*common[:places], *own, *common[places:]])  # type: ignore[attr-defined]
    return run


def _numbers(text: str, sign: str, count: int, flag: str, form: str) -> list[int]:
    parts = text.lower().split(sign)
    if len(parts) != count or not all(part.strip().isascii() and part.strip().isdigit() for part in parts):
        raise OptionError(f"{flag} {text!r}: write it as {form}, whole numbers")
    return [int(part) for part in parts]


def _crop(text: str | None) -> tuple[int, int, int, int] | None:
    if text is None:
        return None
    left, top, width, height = _numbers(text, ",", 4, "--crop", "X,Y,W,H")
    if not width or not height:
        raise OptionError(f"--crop {text!r}: width and height must be at least 1")
    return left, top, width, height


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    width, height = _numbers(text, "x", 2, "--size", "WIDTHxHEIGHT")
    if not 0 < width * height <= 4096**2:
        raise OptionError(f"--size {text!r}: give 1 x 1 to 4096 x 4096 pixels")
    return width, height
