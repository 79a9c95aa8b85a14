"""Bars, one a method: time over the forward pass, with the floors marked."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from ...rewriter.errors import OptionError
from ..atomic import atomic
from ..escaping import escape
from .report import Report, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PICTURES = (".png", ".svg", ".pdf")

BAR, SAMPLED, INK, MARK = "#4c8dbf", "#a9c9e0", "#222222", "#c0392b"


def vet_plot(path: str | os.PathLike[str]) -> None:
    """Raises OptionError where matplotlib, which draws, is not installed."""
    if find_spec("matplotlib") is None:
        raise OptionError(
            f"{os.fspath(path)!r}: pictures are drawn by matplotlib, which is not installed; run `pip install "
            "matplotlib`, or write .md or .json"
        )


def plot(report: Report, path: str | os.PathLike[str]) -> None:
    """Draw the report as .png, .svg or .pdf. A method that averages is drawn per sample, in a paler colour.

    Raises OptionError without matplotlib, and where the file cannot be written.
    """
    vet_plot(path)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = sorted(report.rows, key=lambda row: row.ratio.median / row.samples)
    figure = Figure(figsize=(9, 1.9 + 0.27 * (len(rows) + 1)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    _bars(axes, [report.forward, *rows], report.forward)
    _dress(axes, report, [report.forward, *rows])
    with atomic(path) as temporary:
        figure.savefig(temporary, dpi=150, format=Path(path).suffix.lower()[1:])


def _bars(axes: Axes, rows: list[Row], forward: Row) -> None:
    for y, row in enumerate(rows):
        ratio, each = row.ratio, row.samples
        value = ratio.median / each
        axes.barh(y, value, 0.72, color=BAR if each == 1 else SAMPLED, zorder=2)
        if row is not forward:
            axes.plot([ratio.low / each, ratio.high / each], [y, y], color=INK, lw=1, zorder=3)
        least = row.least / each / forward.seconds.median
        if least:
            axes.plot([least] * 2, [y - 0.36, y + 0.36], color=MARK, lw=2, solid_capstyle="butt", zorder=4)
        if row is not forward and row.floor.arithmetic < float("inf"):
            axes.plot(row.floor.arithmetic / each, y, "D", color="white", ms=4.5, mec=INK, mew=0.9, zorder=5)
        label = f"{value:.2f}" if value < 10 else f"{value:.1f}"
        at = max(
            value, ratio.high / each, least, row.floor.arithmetic / each if row.floor.arithmetic < 1e9 else 0
        )
        axes.annotate(label, (at, y), (5, 0), textcoords="offset points", va="center", fontsize=8)


def _dress(axes: Axes, report: Report, rows: list[Row]) -> None:
    names = [row.method + (f" / {row.samples} samples" if row.samples > 1 else "") for row in rows]
    axes.set_yticks(range(len(rows)), [escape(name) for name in names], fontsize=8.5, parse_math=False)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(0, axes.get_xlim()[1] * 1.06)
    axes.axvline(1, color=INK, lw=0.8, ls=":", zorder=1)
    axes.grid(axis="x", color="#e3e3e3", lw=0.7, zorder=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    machine, forward = report.machine, f"{report.forward.seconds.median * 1e3:.3g} ms"
    threads = "" if machine.threads is None else f", {machine.threads} threads"
    axes.set_xlabel(f"time, as a multiple of the forward pass ({forward})", fontsize=9)
    shape = " × ".join(map(str, next(iter(report.shapes.values()))))
    title = f"{escape(report.title)}, {shape}\n{machine.processor}, {machine.provider}{threads}"
    axes.set_title(title, fontsize=10, loc="left", parse_math=False)  # a $ in a name is a $
    _legend(axes, any(row.samples > 1 for row in rows))


def _legend(axes: Axes, sampled: bool) -> None:
    from matplotlib.artist import Artist
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Artist] = [Patch(color=BAR, label="median; line: 10 to 90 %")]
    if sampled:
        handles.append(Patch(color=SAMPLED, label="the same, per sample"))
    handles.append(Line2D([], [], color=MARK, lw=2, label="floor of this machine (roofline)"))
    flops = Line2D([], [], color=INK, marker="D", linestyle="", markerfacecolor="white", markersize=4.5)
    flops.set_label("FLOPs, over those of the forward pass")
    handles.append(flops)
    axes.figure.legend(handles=handles, fontsize=8, frameon=False, loc="outside lower center", ncols=2)
