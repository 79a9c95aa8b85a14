"""LinearScope on real models, as in the figures of the paper: `python experiments/linearscope.py`.

Writes docs/linearscope.md and the pictures it shows, docs/linearscope/*.png. Takes some minutes on two cores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.progress import track

from onnxplain import models
from onnxplain.runtime.cli.main import main as command
from onnxplain.runtime.scope.photo import Place, open_photo

DOCS = Path(__file__).parent.parent / "docs"
PHOTOS = ("cat_chelsea", "goldfish", "panda", "coffee", "rocket", "volleyball", "astronaut", "frying_pan")


@dataclass(frozen=True)
class Plate:
    """One figure: `onnxplain scope WORDS` on a model and a photo."""

    name: str
    title: str
    kind: str
    model: str
    photo: str
    words: Sequence[str]
    text: str

    @property
    def command(self) -> str:
        words = " ".join([self.kind, f"{self.model}.onnx", f"{self.photo}.jpg", *self.words])
        return f"onnxplain scope {words}"


PLATES = (
    Plate(
        "contributions",
        "A classifier: what the biases say",
        "contributions",
        "efficientnet_lite0",
        "cat_chelsea",
        (),
        "Score of the top class = share of the input F x0 + one share for every bias, from one backward pass (the "
        "paper's Fig. 4).",
    ),
    Plate(
        "votes",
        "A classifier: which class every pixel votes for",
        "votes",
        "efficientnet_lite0",
        "cat_chelsea",
        ("--classes", "top20"),
        "Pixel discussions of the 20 classes with the highest scores; every pixel votes for the largest (the paper's "
        "Fig. 3 and 9). The biases are weighed by what they do for the class: as printed in the paper they say the "
        "same for every class, in a map far larger than what the input says of one, and the most and the least likely "
        "class take all pixels.",
    ),
    Plate(
        "rows",
        "Super-resolution: receptive filters",
        "rows",
        "esrgan_slim_x4",
        "cat_chelsea",
        ("--crop", "150,110,64,64", "--at", "96,100", "--at", "128,128"),
        "Rows of F: what an output pixel takes from the input (the paper's Fig. 11).",
    ),
    Plate(
        "columns",
        "Super-resolution: projective filters",
        "columns",
        "esrgan_slim_x4",
        "cat_chelsea",
        ("--crop", "150,110,64,64", "--at", "24,25", "--at", "32,32"),
        "Columns of F: what an input pixel becomes in the output. A linear upscaler would have the same one "
        "everywhere.",
    ),
    Plate(
        "svd",
        "Super-resolution: eigen-inputs over eigen-outputs",
        "svd",
        "esrgan_slim_x4",
        "cat_chelsea",
        ("--crop", "150,110,48,48", "-k", "4", "--steps", "150"),
        "The directions that the network enlarges most at this picture (the paper's Fig. 5 and 12).",
    ),
    Plate(
        "style-stats",
        "Image to image: mean and deviation of InstanceNorm held",
        "columns",
        "style07_instancenorm",
        "cat_chelsea",
        ("--crop", "150,110,96,96", "--at", "48,48", "--head", "prob"),
        "A column of a style network with its statistics held at x0, as the text of the paper has it: the filter ends "
        "where the convolutions end. The network ends in a Sigmoid; with --head prob it is frozen like the rest, and y "
        "is the picture.",
    ),
    Plate(
        "style-std",
        "Image to image: only the deviation held",
        "columns",
        "style07_instancenorm",
        "cat_chelsea",
        ("--crop", "150,110,96,96", "--at", "48,48", "--head", "prob", "--norm", "std"),
        "The same column with the mean left linear: now one pixel moves every other one, faintly (see the lines around "
        "the eye): the off-diagonals of the paper's Fig. 7. Its text holds the mean too, which cannot give them.",
    ),
)


def main() -> None:
    folder = DOCS / "linearscope"
    folder.mkdir(exist_ok=True)
    lines = [
        "# LinearScope",
        "",
        "Made by `python experiments/linearscope.py`; the models and photos ship with the package. A network frozen "
        "at a picture x0 is linear, y = F(x0) x + r(x0): F and r say how it read this one picture (Navarrete et al.).",
    ]
    for plate in track(PLATES, "figures"):
        out = folder / f"{plate.name}.png"
        words = [plate.kind, str(models.path(plate.model)), str(models.photo(plate.photo)), *plate.words]
        _run(["scope", *words, "-o", str(out)])
        for extra in (".npz", ".json"):  # the numbers are made again by the command
            out.with_suffix(extra).unlink()
        lines += ["", f"## {plate.title}", "", plate.text, "", f"`{plate.command}`", ""]
        lines += [f"![{plate.title}](linearscope/{plate.name}.png)"]
    lines += ["", *residuals(), "", *reach()]
    (DOCS / "linearscope.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _run(words: Sequence[str]) -> None:
    code = command(list(words))
    if code:
        raise SystemExit(f"onnxplain {' '.join(words)} ended with {code}")


def residuals() -> list[str]:
    """The share of biases in the top score, over photos (Tables 3 and 4)."""
    ratio, share = [], []
    for photo in track(PHOTOS, "residuals"):
        opened = open_photo(models.path("efficientnet_lite0"), models.photo(photo), Place())
        found = opened.a.contributions()
        ratio.append(found.ratio)
        share.append(found.share)
    return [
        "## How much of a score is bias",
        "",
        f"EfficientNet-Lite0, top class of {len(PHOTOS)} photos: r / y {_spread(ratio)}, |r| / (|F x0| + |r|) "
        f"{_spread(share)}. The paper reports 78 to 95 % for ImageNet classifiers over 100 photos, without saying "
        "which of the two ratios it is (Tables 3 and 4).",
    ]


def _spread(values: Sequence[float]) -> str:
    return f"{np.mean(values):.1%} ± {np.std(values):.1%} ({min(values):.1%} to {max(values):.1%})"


def reach() -> list[str]:
    """How far an input pixel reaches in the output of the style network, by what is frozen."""
    model, photo, place = (
        models.path("style07_instancenorm"),
        models.photo("cat_chelsea"),
        Place((50, 20, 256, 256)),
    )
    shares = {}
    for norm in ("stats", "std"):
        a = open_photo(model, photo, place, head="logits", norm=norm).a
        column = np.abs(a.columns((0, 128, 128))[0]).max(axis=0)
        shares[norm] = float((column > 0).mean())
    return [
        "## How far a pixel reaches",
        "",
        "Share of output pixels of the style network that the middle one of 256 × 256 input pixels moves at all: "
        f"{shares['stats']:.0%} with mean and deviation held, {shares['std']:.0%} with the deviation alone. On the "
        "small image-to-image net of the tests, the share of non-zero entries of F is 36 % and 100 %.",
    ]


if __name__ == "__main__":
    main()
