"""Bars: time of a gradient as a multiple of the forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib

from benchmarks.table import Measured

matplotlib.use("Agg")

from matplotlib import pyplot as plt

BARS = {
    "onnxplain saliency": "#1b6ca8",
    "torch gradient": "#c9a227",
    "torch gradient, channels last": "#e3cf86",
    "captum saliency": "#a23b3b",
    "onnxplain guided-backprop": "#7fb2d6",
    "captum guided-backprop": "#d99a9a",
}


def bars(measured: Sequence[Measured], path: Path, context: str) -> None:
    """A group of bars a network; whiskers from the tenth to the ninetieth percentile."""
    figure, axes = plt.subplots(figsize=(1.6 + 2.1 * len(measured), 4.6), layout="constrained")
    width = 0.8 / len(BARS)
    top = 1.25 * max(m.ratio(name).median for m in measured for name in BARS if name in m.times)
    for k, (name, colour) in enumerate(BARS.items()):
        labelled = False
        for i, m in enumerate(measured):
            at = i + (k - (len(BARS) - 1) / 2) * width
            if name not in m.times:
                axes.text(
                    at, 0.05 * top, "n/a", rotation=90, ha="center", va="bottom", fontsize=7, color="grey"
                )
                continue
            ratio = m.ratio(name)
            whiskers = [[ratio.median - ratio.low], [ratio.high - ratio.median]]
            label = None if labelled else name
            axes.bar(
                at, ratio.median, 0.92 * width, color=colour, label=label, yerr=whiskers, error_kw={"lw": 0.8}
            )
            axes.text(
                at,
                min(ratio.high, 0.95 * top) + 0.01 * top,
                f"{ratio.median:.1f}",
                ha="center",
                va="bottom",
                fontsize=7,
            )
            labelled = True
    axes.axhline(1, color="black", lw=0.8, ls=":")
    axes.set_xticks(range(len(measured)), [m.title.replace(", ", ",\n") for m in measured])
    axes.set_ylabel("time / onnxruntime forward pass")
    axes.set_ylim(0, top)  # a whisker of a disturbed round may leave the picture
    axes.set_title(f"Gradient methods on the CPU, {context}: lower is better", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(
        *axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False, fontsize=8
    )
    figure.savefig(path, dpi=130)
    plt.close(figure)
