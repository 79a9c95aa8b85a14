"""From sums to patterns: the signal estimators of Kindermans et al. 2017."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ...rewriter.errors import ImageError, OptionError, nearest
from ...rules.patterns import Patterns
from .statistics import Moments, Statistics

Array = npt.NDArray[np.float64]
ESTIMATORS = ("plus", "linear", "plus-within", "minus")
REGIMES = {
    "plus": ("plus", "all"),
    "linear": ("all", "all"),
    "plus-within": ("plus", "plus"),
    "minus": ("minus", "all"),
    "minus-within": ("minus", "minus"),
}
"""Estimator -> samples it looks at, samples that E[y] is taken over."""
ZERO = 1e-12
"""A denominator below this share of the two terms it is the difference of has no correct digit: it counts as 0."""


@dataclass(frozen=True)
class Means:
    """Expectations of one regime: all samples, y > 0, or y <= 0. count (g, O), x (g, O, D), y (g, O), xy (g, O, D).
    An empty regime has the expectations 0."""

    count: Array
    x: Array
    y: Array
    xy: Array


def means(moments: Moments) -> dict[str, Means]:
    """The regimes "all", "plus" and "minus"."""
    sums, o = moments.sums.value, moments.layout.neurons
    y, plus, above, ones = sums[:, :o], sums[:, o : 2 * o], sums[:, 2 * o : 3 * o], sums[:, 3 * o :]
    everything = np.broadcast_to(ones, above.shape)
    return {
        "all": _means(y, everything),
        "plus": _means(plus, above),
        "minus": _means(y - plus, everything - above),
    }


def _means(y: Array, ones: Array) -> Means:
    count = np.maximum(ones[..., -1], 0.0)
    n = np.where(count > 0, count, 1.0)
    return Means(count, ones[..., :-1] / n[..., None], y[..., -1] / n, y[..., :-1] / n[..., None])


def solve(moments: Moments, estimator: str) -> tuple[Array, Array, Array]:
    """(a, count, deviation) of one node: patterns (g, O, D), samples behind each (g, O), |wᵀa - 1| (g, O).

    linear: a = cov[x, y] / wᵀcov[x, y]. plus: (E₊[xy] - E₊[x] E[y]) / wᵀ(...), Eq. 7; E[y] is over all samples.
    minus: the same over y <= 0. plus-within, minus-within: E₊[y] or E₋[y] in place of E[y], the covariance inside
    the regime, which is right also where the distractor has a mean (docs/methods/patterns.md). Where the denominator
    is 0 the numerator stays as it is: 0 for a neuron that is never on. Its deviation counts as 0.

    Source: Kindermans et al. 2017 Eq. 5, 7; docs/methods/patterns.md, "Estimators".
    """
    regimes = means(moments)
    here, centre = (regimes[name] for name in REGIMES[estimator])
    product = here.x * centre.y[..., None]
    above, w = here.xy - product, moments.layout.neurons_of(moments.weight)
    below = (w * above).sum(-1)
    scale = (np.abs(w) * (np.abs(here.xy) + np.abs(product))).sum(-1)
    usable = np.abs(below) > ZERO * scale
    a = above / np.where(usable, below, 1.0)[..., None]
    deviation = np.where(usable, np.abs((w * a).sum(-1) - 1.0), 0.0)
    return a, here.count, deviation


def patterns_of(statistics: Statistics, estimators: Sequence[str] = ESTIMATORS) -> Patterns:
    """Patterns from sums, with the health of the fit in their provenance.

    health: node -> samples, and for every estimator `deviation`, the largest |wᵀa - 1|, `silent`, the neurons without
    a sample, and `few`, those with fewer samples than inputs: their patterns follow the noise of the data.

    Raises OptionError for an unknown estimator or sums over no picture, ImageError for sums that are not finite.
    """
    for name in estimators:
        if name not in ESTIMATORS:
            known = ", ".join(ESTIMATORS)
            raise OptionError(f"no estimator {name!r}{nearest(name, ESTIMATORS)}; there is {known}")
    if not statistics.images:
        raise OptionError("no picture was counted yet; patterns need at least one, and hundreds to be of use")
    arrays: dict[str, dict[str, Array]] = {}
    health: dict[str, dict[str, Any]] = {}
    for node, moments in statistics.nodes.items():
        if not np.isfinite(moments.sums.high).all():
            raise ImageError(
                f"the sums of {node!r} are not finite: an activation is NaN or too large; check the model"
            )
        arrays[node], health[node] = {}, {"samples": int(moments.sums.value[0, -1, -1])}
        for name in estimators:
            a, count, deviation = solve(moments, name)
            arrays[node][name] = moments.layout.weight_of(a)
            health[node][name] = {
                "deviation": float(deviation.max()),
                "silent": int((count == 0).sum()),
                "few": int(((count > 0) & (count < moments.layout.inputs)).sum()),
            }
    about = {key: value for key, value in statistics.about.items() if key != "shard"}
    provenance = about | {
        "images": statistics.images,
        "estimators": list(estimators),
        "health": health,
        "skipped": dict(statistics.skipped),
    }
    return Patterns(arrays, provenance | {"warnings": warnings_of(statistics, health)})


def warnings_of(statistics: Statistics, health: dict[str, dict[str, Any]]) -> list[str]:
    """What a person should know before trusting the patterns, in words."""
    found = []
    for node, entry in health.items():
        moments = statistics.nodes[node]
        neurons = moments.layout.group * moments.layout.neurons
        main = entry.get("plus") or entry.get("plus-within")
        if main and main["silent"]:
            found.append(f"{node}: {main['silent']} of {neurons} neurons are never on; their patterns are 0")
        if main and main["few"]:
            found.append(
                f"{node}: {main['few']} of {neurons} neurons are on in fewer samples than their "
                f"{moments.layout.inputs} inputs; use more pictures"
            )
        worst = max((part["deviation"] for part in entry.values() if isinstance(part, dict)), default=0.0)
        if worst > 1e-6:
            found.append(f"{node}: wᵀa differs from 1 by up to {worst:.1e}")
    return found + [f"{node}: no patterns, {reason}" for node, reason in statistics.skipped.items()]
