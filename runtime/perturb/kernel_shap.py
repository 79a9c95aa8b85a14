"""KernelSHAP: Shapley values of segments as the solution of one weighted linear regression."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

from ...rewriter.errors import OptionError
from ...rules.checks import whole
from ..lanes import Progress
from .probing import Prober
from .segments import Bits, Floats, SegmentSettings, painted, partition, switched
from .technique import Drawn, Knob, Technique, setting


@dataclass(frozen=True)
class KernelShapSettings(SegmentSettings):
    n: int = setting(2048, "copies at most; all coalitions of segments are taken where there are no more")

    def __post_init__(self) -> None:
        super().__post_init__()
        whole(1, 1 << 30)("n", self.n)


@dataclass(frozen=True)
class Coalitions:
    """on (m, D): which segments are on, never none or all; weights (m,), of sum 1. exact: all that there are."""

    on: Bits
    weights: Floats
    exact: bool


def coalitions(segments: int, n: int, seed: int = 0) -> Coalitions:
    """Up to n coalitions under the Shapley kernel (D - 1) / (C(D, k) k (D - k)) of the size k.

    All 2^D - 2 where n allows it. Else sizes are taken whole from the outside, k and D - k together (1 and D - 1
    always: they determine every value), as long as their share of n reaches; the rest is drawn, size by kernel weight,
    each coalition with its complement, those drawn twice counting twice. OptionError for n below 2 D.
    [Lundberg & Lee 2017 section 4.1]
    """
    sizes = np.arange(1, segments // 2 + 1)
    pairs = np.where(2 * sizes == segments, 1, 2)
    shares = pairs / (sizes * (segments - sizes))
    shares = shares / shares.sum()
    total = 2**segments - 2
    if n < min(2 * segments, total):
        raise OptionError(
            f"n={n} copies are too few for {segments} segments; give {min(2 * segments, total)} or more, or fewer "
            "segments"
        )
    rows: list[Bits] = [np.zeros((0, segments), np.bool_)]
    weights: list[Floats] = [np.zeros(0)]
    left, at = n, 0
    while at < len(sizes):
        many = math.comb(segments, int(sizes[at])) * int(pairs[at])
        if many > left or (at and left * shares[at] / shares[at:].sum() < many * (1 - 1e-9)):
            break
        rows.append(_all_of(segments, int(sizes[at]), paired=pairs[at] == 2))
        weights.append(np.full(many, shares[at] / many))
        left, at = left - many, at + 1
    if at < len(sizes) and left > 1:
        drawn, counts = _drawn(segments, sizes[at:], shares[at:], left // 2, seed)
        rows.append(drawn)
        weights.append(counts * (shares[at:].sum() / counts.sum()))
    found = np.concatenate(weights)
    return Coalitions(np.concatenate(rows), found / (found.sum() or 1.0), at == len(sizes))


def _all_of(segments: int, size: int, paired: bool) -> Bits:
    """Every coalition of a size; paired: and the complements."""
    chosen = np.array(list(combinations(range(segments), size)))
    on = np.zeros((len(chosen), segments), np.bool_)
    np.put_along_axis(on, chosen, True, axis=1)
    return np.concatenate([on, ~on]) if paired else on


def _drawn(
    segments: int, sizes: npt.NDArray[np.int64], shares: Floats, pairs: int, seed: int
) -> tuple[Bits, Floats]:
    """Up to so many pairs of different coalitions, and how often each was drawn. Four draws a pair at most, as small
    sizes run out."""
    rng = np.random.default_rng(seed)
    chances = shares / shares.sum()
    seen: dict[bytes, int] = {}
    rows: list[Bits] = []
    counts: list[float] = []
    for _ in range(4 * pairs):
        one = np.zeros(segments, np.bool_)
        one[rng.permutation(segments)[: rng.choice(sizes, p=chances)]] = True
        key = min(one.tobytes(), (~one).tobytes())
        if key in seen:
            counts[seen[key]] += 1
        elif len(rows) < pairs:
            seen[key] = len(rows)
            rows.append(one)
            counts.append(1.0)
        if len(rows) == pairs:
            break
    on, each = np.array(rows), np.array(counts)
    return np.concatenate([on, ~on]), np.concatenate([each, each])


def shapley(of: Coalitions, scores: Floats, full: Floats, empty: Floats) -> Floats:
    """φ (classes, D) of min Σ w (f(z) - f(none) - z φ)² with Σ φ = f(all) - f(none) exactly.

    scores (m, classes); full, empty (classes,): of all and of no segment. The last value is eliminated: regress
    f(z) - f(none) - z_D (f(all) - f(none)) on z_j - z_D.
    """
    change = full - empty
    z = of.on.astype(np.float64)
    root = np.sqrt(of.weights)[:, None]
    last = z[:, -1:]
    left = root * (z[:, :-1] - last)
    right = root * (scores - empty - last * change)
    phi = np.linalg.lstsq(left, right, rcond=None)[0].T
    return np.asarray(np.concatenate([phi, (change - phi.sum(axis=1))[:, None]], axis=1), np.float64)


def _taken(prober: Prober, s: KernelShapSettings) -> tuple[npt.NDArray[np.int64], Coalitions]:
    labels = partition(prober, s)
    return labels, coalitions(int(labels.max()) + 1, s.n, s.seed)


def _count(prober: Prober, s: KernelShapSettings) -> int:
    """The coalitions, and the copy without any segment."""
    return len(_taken(prober, s)[1].on) + 1


def _run(
    prober: Prober, s: KernelShapSettings, classes: Sequence[int], tell: Progress | None = None
) -> Drawn:
    labels, of = _taken(prober, s)
    on = np.concatenate([np.zeros((1, of.on.shape[1]), np.bool_), of.on])
    scores = switched(prober, on, labels, s.value, classes, tell)
    full = prober.base[list(classes)].astype(np.float64)
    phi = shapley(of, scores[1:], full, scores[0])
    notes = {
        "segments": of.on.shape[1],
        "phi": phi.tolist(),
        "empty": scores[0].tolist(),
        "full": full.tolist(),
        "exact": of.exact,
    }
    return Drawn(painted(phi, labels), notes)


KERNEL_SHAP = Technique(
    name="kernel-shap",
    title="KernelSHAP",
    source="Lundberg & Lee 2017",
    settings=KernelShapSettings,
    forwards=_count,
    run=_run,
    cost="n + 1, or 2^D - 1 for D segments if that is less",
    lighter=(Knob("n", lambda s: int(s.n), lambda s: min(s.n, 2 * s.expected())),),
)

__all__ = ["KERNEL_SHAP", "Coalitions", "KernelShapSettings", "coalitions", "shapley"]
