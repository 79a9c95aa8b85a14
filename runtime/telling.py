"""Results that say nothing: zero everywhere, or not finite. They are told of, and where it came from.

Looking at the arrays costs next to nothing and is done for every result. Why is found out only then: see `tracing`.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..rewriter.errors import ExplainWarning
from ..rewriter.results import ATTRIBUTION, HEATMAP

ZERO, NOT_FINITE = "zero everywhere", "not finite"
MAPS = frozenset({ATTRIBUTION, HEATMAP})
"""Results with a map in every row."""
MEANT = frozenset({"residual", "value", "contributions"})
"""Results of which a zero says something: r = 0 in a network without biases."""
PROBED = frozenset({"cotangent", "tangent"})
"""Inputs that F is applied to."""


@dataclass(frozen=True)
class Finding:
    """output: of the file. kind: ZERO or NOT_FINITE. rows: which ones, of so many. why: where it came from, as far as
    that was looked for."""

    output: str
    kind: str
    rows: tuple[int, ...]
    of: int
    why: str = ""

    def __str__(self) -> str:
        which = "" if self.of == 1 else f" in row{'s' * (len(self.rows) > 1)} {_few(self.rows)} of {self.of}"
        return f"{self.output} is {self.kind}{which}" + (f": {self.why}" if self.why else "")

    def to_record(self) -> dict[str, object]:
        """As answers and records keep it."""
        return {"output": self.output, "kind": self.kind, "rows": list(self.rows)}


def _few(rows: tuple[int, ...]) -> str:
    """Numbers of rows, the first eight of them."""
    names = ", ".join(map(str, rows[:8]))
    return names if len(rows) <= 8 else f"{names}, ... ({len(rows)})"


def probes_of(feeds: Mapping[str, npt.NDArray[np.generic]]) -> tuple[npt.NDArray[np.generic], ...]:
    """What F is applied to: cotangents and tangents."""
    return tuple(x for name, x in feeds.items() if name.split("/")[0] in PROBED)


def look(
    outputs: Mapping[str, npt.NDArray[np.generic]],
    added: Collection[str],
    probes: Sequence[npt.NDArray[np.generic]] = (),
) -> tuple[Finding, ...]:
    """What is to be told of the outputs that the explanation adds.

    Attributions and heat maps are looked at row by row, other results as a whole. A heat map that only repeats its
    attribution is left out. probes: cotangents or tangents that were fed. F may send some of them to zero: it is told
    where it does so with all of them, and they are not zero themselves.
    """
    null = bool(probes) and not any(x.any() for x in probes)
    found: list[Finding] = []
    for name in sorted(set(added) & set(outputs)):
        kind = name.partition("/")[0]
        rows = np.asarray(outputs[name])
        if rows.dtype.kind != "f" or not rows.size:
            continue
        for told, flags in _flags(rows, kind, bool(probes), null).items():
            at = tuple(int(i) for i in np.flatnonzero(flags))
            twin = name.replace(HEATMAP, ATTRIBUTION, 1)
            repeated = kind == HEATMAP and any((f.output, f.kind, f.rows) == (twin, told, at) for f in found)
            if at and not repeated:
                found.append(Finding(name, told, at, len(flags)))
    return tuple(found)


def _flags(
    values: npt.NDArray[np.generic], kind: str, probed: bool, null: bool
) -> dict[str, npt.NDArray[np.bool_]]:
    """Which rows are not finite, and which are zero."""
    rows = _by_row(values, kind)
    bad = np.asarray(~np.isfinite(rows).all(axis=1))
    zero = np.asarray(~rows.astype(bool).any(axis=1))
    if kind in MEANT or null or (probed and not zero.all()):
        zero = np.zeros_like(zero)
    return {NOT_FINITE: bad, ZERO: zero}


def _by_row(values: npt.NDArray[np.generic], kind: str) -> npt.NDArray[np.generic]:
    rows = len(values) if kind in MAPS and values.ndim > 1 else 1
    return values.reshape(rows, -1)


def look_at_maps(maps: npt.NDArray[np.generic], name: str = "map") -> tuple[Finding, ...]:
    """The same of maps (K, ...) that no file made."""
    return tuple(
        Finding(name, f.kind, f.rows, f.of) for f in look({ATTRIBUTION: np.asarray(maps)}, (ATTRIBUTION,))
    )


def warn(method: str, findings: Iterable[Finding], *, stacklevel: int = 3) -> None:
    """Warn, once a finding."""
    for finding in findings:
        warnings.warn(f"{method}: {finding}", ExplainWarning, stacklevel=stacklevel)


__all__ = ["NOT_FINITE", "ZERO", "Finding", "look", "look_at_maps", "probes_of", "warn"]
