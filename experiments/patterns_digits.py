"""PatternNet's two experiments on LeNet and MNIST digits: `python experiments/patterns_digits.py`.

After Kindermans et al. 2017, Fig. 3 (how good a signal estimator is, ρ(S)) and Fig. 4a (how fast the prediction decays
when the patches that an attribution ranks first are blotted out), who used VGG-16 and ImageNet. Patterns are fitted on
1000 digits, the decay is measured on 1000 others. Writes results/patterns_digits.md and two plots beside it; takes
a few minutes on two cores.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from rich.progress import track

import onnxplain
from onnxplain import models
from onnxplain.runtime.estimate import Patterns, Quality, fit_patterns, quality
from onnxplain.runtime.providers import create_session

matplotlib.use("Agg")
from matplotlib import pyplot as plt

Array = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32]

RESULTS = Path(__file__).parent / "results"
MODEL = models.path("mnist_lenet")
SIDE = 4
"""Pixels of a patch: 7 x 7 of them cover a digit."""
CURVES: Mapping[str, tuple[str, dict[str, Any]] | None] = {
    "random order": None,
    "S_w": ("pattern-attribution", {"estimator": "weights"}),
    "S_a": ("pattern-attribution", {"estimator": "linear"}),
    "S_a± (Eq. 7)": ("pattern-attribution", {"estimator": "plus"}),
    "S_a± (within y > 0)": ("pattern-attribution", {"estimator": "plus-within"}),
    "S_x (LRP-0)": ("lrp.zero", {}),
}


def prepared(digits: npt.NDArray[np.uint8]) -> Floats:
    return (digits[:, None] / 255.0).astype(np.float32)


def probabilities(x: Floats) -> Array:
    logits = create_session(MODEL).run(None, {"image": x})[0].astype(np.float64)
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def attribution(name: str, x: Floats, patterns: Patterns) -> Array:
    """(N, 28, 28): the map of the predicted class, channels summed. Random numbers for the random order."""
    curve = CURVES[name]
    if curve is None:
        return np.random.default_rng(0).standard_normal((len(x), *x.shape[2:]))
    method, options = curve
    if method == "pattern-attribution":
        options = {**options, "patterns": patterns}
    explainer = onnxplain.compile(MODEL, method, target="top", **options)
    pieces = [explainer(x[i : i + 50]).attribution for i in range(0, len(x), 50)]
    return np.asarray(np.concatenate(pieces).sum(axis=1), np.float64)


def patches(x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """(N, 28, 28) -> (N, 49, 16), row by row."""
    n, grid = len(x), x.shape[-1] // SIDE
    return x.reshape(n, grid, SIDE, grid, SIDE).transpose(0, 1, 3, 2, 4).reshape(n, grid * grid, SIDE * SIDE)


def whole(cells: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The inverse of `patches`."""
    n, grid = len(cells), int(np.sqrt(cells.shape[1]))
    square = cells.reshape(n, grid, grid, SIDE, SIDE).transpose(0, 1, 3, 2, 4)
    return square.reshape(n, grid * SIDE, grid * SIDE)


def decay(heat: Array, x: Floats) -> Array:
    """(N, 50): probability of the class first predicted after n = 0 ... 49 patches were replaced by their own mean, in
    the order of the attribution's patch sums, highest first, ties row by row."""
    order = np.argsort(-patches(heat).sum(axis=2), axis=1, kind="stable")
    cells, rows = patches(x[:, 0]).copy(), np.arange(len(x))
    chosen = probabilities(x).argmax(axis=1)
    curve = []
    for n in range(order.shape[1] + 1):
        if n:
            at = order[:, n - 1]
            cells[rows, at] = cells[rows, at].mean(axis=1, keepdims=True)
        curve.append(probabilities(whole(cells)[:, None])[rows, chosen])
    return np.stack(curve, axis=1)


def degradation(x: Floats, patterns: Patterns) -> dict[str, Array]:
    names = [name for name, curve in CURVES.items() if curve is None or curve[0] in onnxplain.methods()]
    return {name: decay(attribution(name, x, patterns), x) for name in track(names, "degradation")}


def rho_table(found: list[Quality]) -> list[str]:
    lines = [
        "| layer | estimator | ρ over all samples | ρ inside y > 0 | neurons |",
        "| --- | --- | --- | --- | --- |",
    ]
    for q in found:
        inside = f"{np.nanmean(q.inside):.3f}" if np.isfinite(q.inside).any() else "n/a"
        lines.append(
            f"| {q.node} | {q.signal} | {np.nanmean(q.everywhere):.3f} | {inside} | {np.isfinite(q.inside).sum()} |"
        )
    return lines


def decay_table(curves: Mapping[str, Array]) -> list[str]:
    """Area: the mean over all steps. Behind: the fastest's area less, digit by digit. ±: standard errors."""
    steps = (1, 3, 5, 10, 20, 49)
    head = " | ".join(f"n = {n}" for n in steps)
    lines = [f"| ranked by | area | behind the fastest | {head} |", "| --- " * (len(steps) + 3) + "|"]
    areas = {name: curve.mean(axis=1) for name, curve in curves.items()}
    ranked = sorted(areas, key=lambda name: float(areas[name].mean()))
    for name in ranked:
        behind = areas[name] - areas[ranked[0]]
        values = " | ".join(f"{curves[name][:, n].mean():.3f}" for n in steps)
        lines.append(f"| {name} | {_mean(areas[name])} | {_mean(behind)} | {values} |")
    return lines


def _mean(values: Array) -> str:
    return f"{values.mean():.3f} ± {values.std() / np.sqrt(len(values)):.3f}"


def plot_rho(found: list[Quality], path: Path) -> None:
    nodes, signals = list(dict.fromkeys(q.node for q in found)), list(dict.fromkeys(q.signal for q in found))
    figure, axes = plt.subplots(1, 2, figsize=(11, 3.6), sharey=True, layout="constrained")
    for axis, inside in zip(axes, (False, True), strict=True):
        for k, signal in enumerate(signals):
            mine = [q.inside if inside else q.everywhere for q in found if q.signal == signal]
            places = np.arange(len(nodes)) + (k - (len(signals) - 1) / 2) * 0.16
            axis.bar(places, [np.nanmean(values) for values in mine], 0.15, label=signal)
        axis.set_xticks(np.arange(len(nodes)), [node.split("/")[1] for node in nodes])
        axis.set_title("inside y > 0" if inside else "all samples")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("ρ(S), held out")
    axes[0].set_ylim(0, 1)
    axes[1].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def plot_decay(curves: Mapping[str, Array], path: Path) -> None:
    figure, axis = plt.subplots(figsize=(7, 4.4), layout="constrained")
    for name, curve in curves.items():
        plain = CURVES[name] is None
        (line,) = axis.plot(curve.mean(axis=0), "--" if plain else "-", label=name)
        if plain:
            line.set_color("black")
    axis.set_xlabel(f"patches of {SIDE} × {SIDE} pixels replaced by their mean")
    axis.set_ylabel("probability of the class first predicted")
    axis.set_ylim(0.1 * np.floor(10 * min(curve.mean(axis=0).min() for curve in curves.values())) - 0.02, 1.0)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def report(found: list[Quality], curves: Mapping[str, Array], patterns: Patterns) -> str:
    order = sorted(curves, key=lambda name: float(curves[name].mean()))
    notes = [f"- {warning}" for warning in patterns.provenance["warnings"]]
    missing = [name for name in CURVES if name not in curves]
    return "\n".join(
        [
            "# Patterns on LeNet and digits",
            "",
            "Made by `python experiments/patterns_digits.py`, after Kindermans et al. 2017 Fig. 3 and 4a.",
            "",
            "## Quality of signal estimators, ρ(S)",
            "",
            "900 digits in three parts of 300: S is fitted on the first, v on the second, the correlation taken on the "
            "third; means over at most 16 neurons a layer, 32 positions a digit. 1: no trace of the output is left in "
            "what the estimator calls distractor. ρ of S_x is 0/0. `plus-minus` is Eq. 7; `plus-minus-within` takes "
            "the covariance inside each regime.",
            "",
            *rho_table(found),
            "",
            "![ρ](patterns_rho.png)",
            "",
            "## Degradation",
            "",
            f"Patterns of {patterns.provenance['images']} digits, {len(next(iter(curves.values())))} other digits "
            "degraded. Lower is better. The patches are ranked by the sum of the attribution; a black patch stays "
            "black whoever ranks it, so that the order of the strokes decides.",
            "",
            *decay_table(curves),
            "",
            f"Fastest to slowest: {', '.join(order)}. The paper, on VGG-16: S_a±, S_x, S_w, S_a, random.",
            *([f"Not there: {', '.join(missing)}."] if missing else []),
            "",
            "![decay](patterns_degradation.png)",
            "",
            "The network was trained on most of these digits; the criterion and the curves compare estimators, they do "
            "not measure accuracy. From the fit:",
            "",
            *notes,
            "",
        ]
    )


def main() -> None:
    RESULTS.mkdir(exist_ok=True)
    digits, _ = models.digits()
    patterns = fit_patterns(MODEL, digits[:1000])
    curves = degradation(prepared(digits[1000:]), patterns)
    found = quality(MODEL, digits[:900])
    plot_rho(found, RESULTS / "patterns_rho.png")
    plot_decay(curves, RESULTS / "patterns_degradation.png")
    (RESULTS / "patterns_digits.md").write_text(report(found, curves, patterns), encoding="utf-8")


if __name__ == "__main__":
    main()
