"""LIME: a weighted linear model of what switching segments on and off does to the score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ...rewriter.errors import OptionError
from ...rules.checks import number, whole
from ..lanes import Progress
from .probing import Prober
from .segments import Bits, Floats, SegmentSettings, painted, partition, switched
from .technique import Drawn, Knob, Technique, setting

CHOICE = 0.01
"""Ridge penalty of the fit that chooses features, as in the reference implementation."""


@dataclass(frozen=True)
class LimeSettings(SegmentSettings):
    n: int = setting(1000, "copies; the first is the image itself")
    width: float = setting(0.25, "of the kernel over the distance to the image")
    alpha: float = setting(1.0, "ridge penalty")
    features: int | None = setting(
        None, "keep so many segments, those of the largest weights; all by default"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        whole(1, 1 << 30)("n", self.n)
        number(0, above=True)("width", self.width)
        number(0)("alpha", self.alpha)
        if self.features is not None:
            whole(1, 1 << 30)("features", self.features)


@dataclass(frozen=True)
class Surrogate:
    """score ~ intercept + beta mask. beta (classes, D), 0 for segments that were not kept; intercept, r2 (classes,);
    weights (n,): of the copies."""

    beta: Floats
    intercept: Floats
    r2: Floats
    weights: Floats


def sample(segments: int, n: int, seed: int) -> Bits:
    """(n, D): each segment on with chance 1/2; the first row is all on."""
    on = np.random.default_rng(seed).integers(0, 2, (n, segments)).astype(np.bool_)
    on[0] = True
    return on


def proximity(on: Bits, width: float = 0.25) -> Floats:
    """sqrt(exp(-d² / width²)), d = 1 - cos(mask, ones) = 1 - sqrt(share of segments that are on); d = 1 for none."""
    distance = 1 - np.sqrt(on.mean(axis=1))
    return np.asarray(np.sqrt(np.exp(-((distance / width) ** 2))))


def ridge(x: Floats, y: Floats, weights: Floats, alpha: float) -> tuple[Floats, Floats]:
    """β (classes, D) and intercept (classes,) of min Σ w (y - b - x β)² + alpha |β|²: the intercept is free.

    x (n, D), y (n, classes), in float64. The minimum-norm solution where alpha = 0 leaves several.
    """
    share = weights / weights.sum()
    x0, y0 = share @ x, y[0] + share @ (y - y[0])  # around y[0]: equal scores have their mean exactly
    root = np.sqrt(weights)[:, None]
    penalty = np.sqrt(alpha) * np.eye(x.shape[1])
    left = np.concatenate([root * (x - x0), penalty])
    right = np.concatenate([root * (y - y0), np.zeros((len(penalty), y.shape[1]))])
    beta = np.asarray(np.linalg.lstsq(left, right, rcond=None)[0].T, np.float64)
    return beta, y0 - beta @ x0


def fit(
    on: Bits, scores: npt.ArrayLike, width: float = 0.25, alpha: float = 1.0, features: int | None = None
) -> Surrogate:
    """The weighted ridge of scores (n, classes) on masks (n, D).

    features: a fit of all with the penalty `CHOICE` says which have the largest |β| (ties: the lower number), for each
    class apart; the others get 0. r2 is the weighted coefficient of determination; 1 where all scores are equal, as
    the fit then leaves nothing.
    """
    x, y, weights = on.astype(np.float64), np.asarray(scores, np.float64), proximity(on, width)
    if features is None or features >= x.shape[1]:
        beta, intercept = ridge(x, y, weights, alpha)
    else:
        beta, intercept = np.zeros((y.shape[1], x.shape[1])), np.zeros(y.shape[1])
        for c, all_of in enumerate(ridge(x, y, weights, CHOICE)[0]):
            kept = np.sort(np.argsort(-np.abs(all_of), kind="stable")[:features])
            part, intercept[c : c + 1] = ridge(x[:, kept], y[:, c : c + 1], weights, alpha)
            beta[c, kept] = part[0]
    left = weights @ (y - x @ beta.T - intercept) ** 2
    whole_of = weights @ (y - np.average(y - y[0], axis=0, weights=weights) - y[0]) ** 2
    r2 = np.where(whole_of > 0, 1 - left / np.where(whole_of > 0, whole_of, 1), 1.0)
    return Surrogate(beta, intercept, r2, weights)


def _count(prober: Prober, s: LimeSettings) -> int:
    segments = int(partition(prober, s).max()) + 1
    if s.n < segments + 2:
        raise OptionError(
            f"n={s.n} copies are too few for {segments} segments; give {segments + 2} or more, or fewer segments"
        )
    return s.n


def _run(prober: Prober, s: LimeSettings, classes: Sequence[int], tell: Progress | None = None) -> Drawn:
    labels = partition(prober, s)
    on = sample(int(labels.max()) + 1, s.n, s.seed)
    found = fit(on, switched(prober, on, labels, s.value, classes, tell), s.width, s.alpha, s.features)
    notes = {
        "segments": on.shape[1],
        "beta": found.beta.tolist(),
        "intercept": found.intercept.tolist(),
        "r2": found.r2.tolist(),
    }
    return Drawn(painted(found.beta, labels), notes)


LIME = Technique(
    name="lime",
    title="LIME",
    source="Ribeiro et al. 2016; Ayyar et al. 2021 section 2.1",
    settings=LimeSettings,
    forwards=_count,
    run=_run,
    cost="n, one a choice of segments",
    lighter=(Knob("n", lambda s: int(s.n), lambda s: min(s.n, 2 * s.expected() + 2)),),
)

__all__ = ["LIME", "LimeSettings", "Surrogate", "fit", "proximity", "ridge", "sample"]
