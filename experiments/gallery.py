"""Every method on four photos with EfficientNet-Lite0, and on ten digits with LeNet: `python experiments/gallery.py`.

Writes docs/gallery.md and the panels it shows, docs/gallery/*.jpg. LeNet's patterns are fitted on the way, on the
digits that ship with the package. EfficientNet-Lite0 would want ten thousand photos: it is shown with the estimator
S_w, which needs none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.progress import track

import onnxplain
from onnxplain import models
from onnxplain.rewriter.errors import UnsupportedError
from onnxplain.runtime.estimate import fit_patterns

DOCS = Path(__file__).parent.parent / "docs"
PHOTOS = ("cat_chelsea", "panda", "goldfish", "coffee")


@dataclass(frozen=True)
class Plate:
    """One panel: a row a picture, a column a method."""

    name: str
    title: str
    methods: Sequence[str]
    text: str
    options: dict[str, Any] = field(default_factory=dict)


PLATES = (
    Plate(
        "gradients",
        "Gradients, and gradients with a gate",
        ("saliency", "input-x-gradient", "deconvnet", "guided-backprop"),
        "Saliency and input × gradient are noisy. Guided Backprop draws edges, of whatever class is asked for; "
        "DeconvNet draws texture (Nie et al. 2018).",
    ),
    Plate(
        "averages",
        "Averages along a path and over noise",
        ("integrated-gradients", "smoothgrad", "smoothgrad-squared", "vargrad"),
        "32 points on the path from a grey image; 32 noisy copies. Each is one file with a Loop inside.",
        {"steps": 32, "samples": 32},
    ),
    Plate(
        "maps",
        "Activation maps",
        ("cam", "grad-cam", "guided-grad-cam", "fem"),
        "The last 7 × 7 activation of EfficientNet-Lite0. CAM needs a mean-pooled linear head, which LeNet has not. "
        "FEM does not depend on the class.",
    ),
    Plate(
        "lrp",
        "Layer-wise relevance propagation, one rule everywhere",
        (
            "lrp.zero",
            "lrp.epsilon",
            "lrp.gamma",
            "lrp.alpha-beta",
            "lrp.z-plus",
            "lrp.w-square",
            "lrp.flat",
            "lrp.z-box",
        ),
        "The small rules repeat the gradient's noise; z+ and α-β are positive and smooth; w² and flat ignore the input "
        "and show the receptive fields.",
    ),
    Plate(
        "composites",
        "Relevance by composites, and Deep Taylor",
        (
            "lrp.epsilon-plus",
            "lrp.epsilon-plus-flat",
            "lrp.epsilon-alpha2-beta1",
            "lrp.epsilon-alpha2-beta1-flat",
            "lrp.epsilon-gamma-box",
            "lrp.preset-a",
            "lrp.preset-b",
            "deep-taylor",
        ),
        "Another rule for the first layer, for convolutions and for dense layers.",
    ),
    Plate(
        "differences",
        "Differences from a reference",
        ("deeplift.rescale", "deeplift.reveal-cancel", "deeplift.mixed"),
        "Against the grey image (zeros in the model's input space).",
    ),
    Plate(
        "patterns",
        "Patterns",
        ("pattern-net", "pattern-attribution"),
        "LeNet's patterns are fitted on 2000 digits (a+, Eq. 7). EfficientNet-Lite0's are S_w = w / wᵀw, which needs "
        "no data and is the weakest of the paper's estimators; the signal is rescaled where all paths meet "
        "(`project`).",
    ),
)


def draw(plate: Plate, model: str, pictures: Sequence[Any], options: dict[str, Any]) -> str:
    """Draw one panel; returns the Markdown that shows it. A method that is not defined on the model is named."""
    done, missing = [], []
    for method in plate.methods:
        try:
            onnxplain.compile(models.path(model), method, **_mine(method, options))
            done.append(method)
        except UnsupportedError as error:
            missing.append(f"`{method}` is not defined on {model}: {error.sites[0].reason}.")
    found = onnxplain.explain(models.path(model), list(pictures), done, **options)
    path = DOCS / "gallery" / f"{plate.name}-{model}.jpg"
    found.save(path)
    shrink(path)
    return "\n\n".join([f"![{plate.title} on {model}](gallery/{path.name})", *missing])


def _mine(method: str, options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name in onnxplain.methods()[method].options}


def shrink(path: Path, width: int = 1800) -> None:
    """A panel small enough for a page in git."""
    with Image.open(path) as picture:
        size = (width, round(picture.height * width / picture.width))
        small = picture.resize(size, Image.Resampling.LANCZOS) if picture.width > width else picture.copy()
    small.save(path, quality=85)


def pictures(model: str) -> list[Any]:
    if model != "mnist_lenet":
        return [models.photo(name) for name in PHOTOS]
    images, labels = models.digits()
    first = [int(np.flatnonzero(labels == digit)[0]) for digit in (0, 2, 4, 7, 8)]
    return [Image.fromarray(images[i]) for i in first]


def main() -> None:
    """Fit, draw, write the page."""
    (DOCS / "gallery").mkdir(exist_ok=True)
    digits, _ = models.digits()
    patterns: dict[str, dict[str, Any]] = {
        "efficientnet_lite0": {"estimator": "weights", "project": True},
        "mnist_lenet": {"patterns": fit_patterns(models.path("mnist_lenet"), digits)},
    }
    parts = [
        "# Gallery",
        "",
        "Made by `python experiments/gallery.py`; the models and photos ship with the package.",
        "",
    ]
    for plate in track(PLATES, "drawing"):
        parts += [f"## {plate.title}", "", plate.text, ""]
        for model, fitted in patterns.items():
            options = {**plate.options, **(fitted if plate.name == "patterns" else {})}
            parts += [draw(plate, model, pictures(model), options), ""]
    (DOCS / "gallery.md").write_text("\n".join(parts), encoding="utf-8")


if __name__ == "__main__":
    main()
