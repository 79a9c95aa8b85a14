"""Bars: time of an explanation as a multiple of the forward pass, and the peers' time over onnxplain's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

from benchmarks.measure import Measured
from benchmarks.timing import Spread
from benchmarks.variants import FORWARD, PEERS

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

BARS: Mapping[str, tuple[str, str]] = {
    "onnxplain saliency": ("#1b6ca8", FORWARD),
    "torch gradient": ("#c9a227", FORWARD),
    "captum Saliency": ("#a23b3b", FORWARD),
    "onnxplain lrp.epsilon-plus": ("#7fb2d6", FORWARD),
    "zennit EpsilonPlus": ("#6d4c8d", FORWARD),
}
SPEEDUPS = {
    "torch gradient": "#c9a227",
    "captum Saliency": "#a23b3b",
    "captum GuidedBackprop": "#c77272",
    "captum IntegratedGradients": "#e0a3a3",
    "captum LRP": "#8a5a2b",
    "captum DeepLift": "#d9a05b",
    "shap DeepExplainer": "#4f8a5b",
    "zennit EpsilonPlus": "#6d4c8d",
    "zennit EpsilonGammaBox": "#a98cc4",
}


def bars(measured: Sequence[Measured], path: Path, size: int, context: str) -> None:
    """A group of bars a network; whiskers from the tenth to the ninetieth percentile."""
    figure, (top, bottom) = plt.subplots(
        2, 1, figsize=(max(9.0, 2.4 + 2.1 * len(measured)), 8.4), layout="constrained"
    )
    _panel(top, measured, size, BARS)
    top.set_ylabel("time / onnxruntime forward pass")
    top.set_title(f"Explanations on the CPU, {context}: lower is better", fontsize=10)
    _panel(bottom, measured, size, {name: (SPEEDUPS[name], PEERS[name].against) for name in SPEEDUPS})
    bottom.set_ylabel("time / onnxplain's for the same map")
    bottom.set_title("Peers: how many times as long as onnxplain", fontsize=10)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _panel(
    axes: Axes, measured: Sequence[Measured], size: int, variants: Mapping[str, tuple[str, str]]
) -> None:
    width = 0.84 / len(variants)
    for k, (name, (colour, to)) in enumerate(variants.items()):
        at = [i + (k - (len(variants) - 1) / 2) * width for i in range(len(measured))]
        found = [m.batches[size].ratio(name, to) for m in measured]
        label: str | None = name
        for x, ratio in zip(at, found, strict=True):
            if ratio is not None:
                _bar(axes, x, ratio, 0.92 * width, colour, label)
                label = None
    axes.axhline(1, color="black", lw=0.8, ls=":")
    axes.set_yscale("log")
    axes.set_ylim(bottom=0.5)
    axes.set_yticks([1, 2, 4, 8, 16, 32], ["1", "2", "4", "8", "16", "32"], minor=False)
    axes.set_yticks([], minor=True)
    axes.set_xticks(range(len(measured)), [m.title.replace(", ", ",\n") for m in measured])
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(ncols=3, frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(0, -0.12))


def _bar(axes: Axes, x: float, ratio: Spread, width: float, colour: str, label: str | None) -> None:
    whiskers = [[ratio.median - ratio.low], [ratio.high - ratio.median]]
    axes.bar(x, ratio.median, width, color=colour, label=label, yerr=whiskers, error_kw={"lw": 0.8})
    axes.text(x, ratio.high * 1.03, f"{ratio.median:.1f}", ha="center", va="bottom", fontsize=7)
