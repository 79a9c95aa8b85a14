"""The pictures of `prediction_difference.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from prediction_difference_runs import PLACES, STEPS, TEN, Data, Moved, Sampled, Third, pearson, rank
from prediction_difference_units import Means, Units, rectifier_error

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

Doubles = npt.NDArray[np.float64]
Row = tuple[str, Sequence[npt.NDArray[Any]], Sequence[npt.NDArray[Any]] | None]
"""Title; maps, or digits where the third is None; the digits whose outline is drawn over the maps."""


def save(figure: Figure, path: Path) -> None:
    figure.savefig(path, dpi=120)
    plt.close(figure)


def grid(rows: Sequence[Row], path: Path, titles: Sequence[Sequence[str]] | None = None) -> None:
    """A column a digit. Every map has its own scale: red for the class, blue against it, white none."""
    columns = len(rows[0][1])
    figure, axes = plt.subplots(
        len(rows),
        columns,
        figsize=(0.95 * columns + 0.9, 0.98 * len(rows) + 0.15),
        layout="constrained",
        squeeze=False,
    )
    for i, (title, images, outlines) in enumerate(rows):
        for j, axis in enumerate(axes[i]):
            if outlines is None:
                axis.imshow(images[j], cmap="gray_r", vmin=0, vmax=1)
            else:
                most = np.abs(images[j]).max() or 1.0
                axis.imshow(images[j], cmap="RdBu_r", vmin=-most, vmax=most)
                axis.contour(outlines[j], [0.5], colors="black", linewidths=0.5)
            axis.set_xticks([])
            axis.set_yticks([])
            if titles is not None and titles[i]:
                axis.set_title(titles[i][j], fontsize=8)
        axes[i][0].set_ylabel(title, rotation=0, ha="right", va="center", fontsize=8)
    save(figure, path)


def plain(axis: Axes) -> None:
    axis.spines[["top", "right"]].set_visible(False)


def digits(of: Data) -> list[npt.NDArray[Any]]:
    return [of.x[i, 0] for i in of.shown]


def both_algorithms(of: Data, runs: Mapping[str, Sequence[Sampled]], path: Path) -> None:
    """Fig. 13."""
    shapes = digits(of)
    rows: list[Row] = [("digit", shapes, None)]
    for variant, short in (("marginal", "marginal"), ("conditional", "cond.")):
        found = runs[variant]
        most = found[0].p.shape[1]
        rows += [
            (f"{short}\nAlg. 1, S = {TEN}", [one.first(0, TEN) for one in found], shapes),
            (f"{short}\nAlg. 1, S = {most}", [one.first(0, most) for one in found], shapes),
            (f"{short}\nAlg. 2", [one.second for one in found], shapes),
        ]
    grid(rows, path)


def agreement(curves: Mapping[str, Mapping[int, Doubles]], path: Path) -> None:
    """curves: variant -> S -> rank correlations of the digits."""
    figure, axes = plt.subplots(1, len(curves), figsize=(10, 3.6), sharey=True, layout="constrained")
    for axis, (variant, curve) in zip(axes, curves.items(), strict=True):
        table = np.array([curve[s] for s in STEPS])
        for digit, line in enumerate(table.T):
            (drawn,) = axis.plot(
                STEPS, line, ".-", linewidth=1, label=str(digit), color=plt.colormaps["tab10"](digit)
            )
            if line[-1] < 0.8:
                drawn.set_linewidth(2.2)
        axis.axhline(0.8, color="black", linestyle=":", linewidth=1)
        axis.set_xscale("log")
        axis.set_xticks(STEPS, [str(s) for s in STEPS])
        axis.minorticks_off()
        axis.set_xlabel("samples S of Algorithm 1")
        axis.set_title(variant)
        plain(axis)
    axes[0].set_ylim(0.5, 1.0)
    axes[0].set_ylabel("rank correlation with Algorithm 2")
    figure.legend(
        *axes[0].get_legend_handles_labels(), title="digit", frameon=False, loc="outside right center"
    )
    save(figure, path)


def noisy(
    curves: Mapping[str, Mapping[int, float]],
    sampled: Sequence[Sampled],
    chosen: Sequence[tuple[int, int]],
    path: Path,
) -> None:
    """Left: noise of maps, of each as a share of that at S = 1. Right: Fig. 16, for some (digit, window)."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.5), layout="constrained")
    s = np.array(list(next(iter(curves.values()))))
    for (name, curve), mark in zip(curves.items(), "os", strict=True):
        left.loglog(s, np.array(list(curve.values())) / curve[1], mark, label=name)
    left.loglog(s, 1 / np.sqrt(s), "--", color="grey", label="1/√S")
    left.set_xticks(s, [str(n) for n in s])
    left.set_yticks([0.1, 0.2, 0.5, 1.0], ["0.1", "0.2", "0.5", "1"])
    left.minorticks_off()
    left.set_xlabel("samples S")
    left.set_ylabel("deviation over repeats / that at S = 1")
    left.legend(frameon=False)
    for digit, window in chosen:
        p = sampled[digit].p[window]
        running = np.cumsum(p) / np.arange(1, len(p) + 1)
        row, column = PLACES[window]
        away = np.abs(running - sampled[digit].at["mean"][window])
        right.plot(np.arange(1, len(p) + 1), away, label=f"digit {digit}, window at ({row}, {column})")
    right.set_xlabel("samples S")
    right.set_ylabel("|P of Alg. 1 − P of Alg. 2|")
    right.set_ylim(0)
    right.legend(frameon=False, fontsize=8)
    plain(left)
    plain(right)
    save(figure, path)


def sampled_second(of: Data, runs: Mapping[str, Sequence[Sampled]], path: Path) -> None:
    """Fig. 15: below each map of the second kinds, its rank correlation with Algorithm 1 above it."""
    shapes = digits(of)
    rows: list[Row] = [("digit", shapes, None)]
    titles: list[list[str]] = [[]]
    for variant, short in (("conditional", "cond."), ("unclipped", "not clipped")):
        found = runs[variant]
        first = [one.first(0, TEN) for one in found]
        rows.append((f"{short}\nAlg. 1, S = {TEN}", first, shapes))
        titles.append([])
        for name, key in (("sampled Alg. 2", "ten"), ("Alg. 2", "mean")):
            maps = [one.map(one.at[key]) for one in found]
            rows.append((f"{short}\n{name}", maps, shapes))
            titles.append([f"{rank(a, b):.2f}" for a, b in zip(first, maps, strict=True)])
    grid(rows, path, titles)


def hidden(corner: Units, centre: Units, layers: Mapping[str, Units], path: Path) -> None:
    """Fig. 9 for the one dense rectifier, and Eq. 18-19 measured."""
    figure, axes = plt.subplots(1, 4, figsize=(13, 3.3), layout="constrained")
    for of, label in ((corner, "window in the corner"), (centre, "in the middle")):
        axes[0].hist(of.mean, np.arange(-12, 12.1, 0.5), histtype="step", label=label)
        axes[1].hist(of.deviation, np.arange(0, 3.6, 0.1), histtype="step", label=label)
        axes[2].hist(of.ratio, np.geomspace(0.01, 1000, 50), histtype="step", label=label)
    axes[2].set_xscale("log")
    axes[2].axvline(2, color="grey", linestyle=":", linewidth=1)
    for axis, name in zip(axes, ("mean μ", "deviation σ", "|μ| / σ"), strict=False):
        axis.set_xlabel(f"{name} of an input of fc1's ReLU")
        axis.set_ylabel("units of ten digits")
    axes[1].legend(frameon=False, fontsize=8)
    t = np.linspace(-5, 5, 201)
    for name, of in layers.items():
        some = np.random.default_rng(0).permutation(np.flatnonzero(of.alive & (of.deviation > 0.01)))[:1500]
        s = of.deviation[some]
        axes[3].plot(of.mean[some] / s, of.error[some] / s, ".", markersize=2, alpha=0.5, label=name)
    axes[3].plot(t, rectifier_error(t, 1.0), color="black", linewidth=1, label="normal")
    axes[3].set_xlim(-5, 5)
    axes[3].set_xlabel("μ / σ")
    axes[3].set_ylabel("(E[ReLU] − ReLU(E)) / σ")
    axes[3].legend(frameon=False, fontsize=8, markerscale=4)
    for axis in axes:
        plain(axis)
    save(figure, path)


def errors(found: Mapping[str, Means], path: Path) -> None:
    """Fig. 11."""
    figure, axes = plt.subplots(
        1, len(found), figsize=(3.6 * len(found), 3.2), sharey=True, layout="constrained"
    )
    for axis, (name, of) in zip(axes, found.items(), strict=True):
        axis.hist(of.error, np.arange(0, 1.01, 0.05))
        axis.set_title(name, fontsize=10)
        axis.set_xlim(0, 0.8)
        axis.set_xlabel("|mean of P − P at the mean|")
        plain(axis)
    axes[0].set_ylabel(f"digits, of {len(next(iter(found.values())).error)}")
    save(figure, path)


def following(of: Data, sampled: Sequence[Sampled], found: Mapping[str, Sequence[Moved]], path: Path) -> None:
    """Fig. 18. Above a map its correlation, brought back, with the first; in brackets where the class was lost."""
    shapes = digits(of)
    rows: list[Row] = [("as it is", [one.second for one in sampled], shapes)]
    titles: list[list[str]] = [[]]
    for name, all_moved in found.items():
        rows.append(
            (name.replace(" ", "\n", 1), [one.heat for one in all_moved], [one.image for one in all_moved])
        )
        values = [pearson(a.returned, b.second, a.whole) for a, b in zip(all_moved, sampled, strict=True)]
        titles.append(
            [f"{v:.2f}" if a.kept else f"({v:.2f})" for v, a in zip(values, all_moved, strict=True)]
        )
    grid(rows, path, titles)


def gradients(of: Data, found: Sequence[Third], path: Path) -> None:
    """Fig. 19."""
    shapes = digits(of)
    rows: list[Row] = [
        ("digit", shapes, None),
        ("Alg. 2", [one.odds for one in found], shapes),
        ("Alg. 3", [one.gradient for one in found], shapes),
        ("Alg. 2\nof the logit", [one.logit for one in found], shapes),
        ("Alg. 3\nof the logit", [one.gradient_logit for one in found], shapes),
    ]
    grid(rows, path)


def liveliest(sampled: Sequence[Sampled], count: int) -> list[tuple[int, int]]:
    """(digit, window) where samples move the probability most, one a digit, for Fig. 16."""
    spread = np.array([one.p.std(axis=1) for one in sampled])
    found = sorted(
        ((float(row.max()), digit, int(row.argmax())) for digit, row in enumerate(spread)), reverse=True
    )
    return [(digit, window) for _, digit, window in found[:count]]
