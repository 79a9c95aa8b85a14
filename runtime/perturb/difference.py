"""Prediction difference analysis: how much less a class is believed in when a window is not known."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from ...rewriter.errors import OptionError, nearest
from ...rules.checks import both, say_sides, sides, whole
from ..lanes import Progress
from .gaussian import Gaussian, Surroundings, vet_fit
from .probing import Array, Fills, Places, Prober
from .technique import Knob, Sides, Technique, coarser, setting
from .windows import average, corners

Doubles: TypeAlias = npt.NDArray[np.float64]

VARIANTS = ("conditional", "marginal")
ODDS = ("auto", "log2-odds", "difference")
PICKS = ("random", "first")
SLACK = 1e-5
"""How far rounding in float32 may carry a probability beyond 0 and 1."""


@dataclass(frozen=True, eq=False)
class Windows:
    """What both algorithms ask. gaussian is for the variant "conditional", images for "marginal"."""

    k: int | tuple[int, int] = setting(10, "side of the square window, in pixels; or rows,columns")
    l: int = setting(18, "side of the patch that a window is conditioned on, as in the Gaussian")  # noqa: E741
    stride: int | tuple[int, int] = setting(
        1, "pixels from one window to the next, at most k; or rows,columns"
    )
    variant: Literal["conditional", "marginal"] = setting(
        "conditional",
        "a window is filled by what the pixels around it say, or by what other images have there",
    )
    odds: Literal["auto", "log2-odds", "difference"] = setting(
        "auto",
        "what is compared: log2-odds of probabilities, difference of other scores, or auto, which chooses",
    )
    laplace: int = setting(100_000, "N of the Laplace correction of probabilities, (p N + 1)/(N + K)")
    gaussian: Gaussian | None = field(
        default=None, metadata={"help": "for conditional: what `onnxplain fit gaussian` wrote"}
    )
    images: Array | None = field(
        default=None,
        metadata={"help": "for marginal: other images, (N, channels, height, width) as the model sees them"},
    )

    def __post_init__(self) -> None:
        for name in ("l", "laplace"):
            whole(1, 1 << 50)(name, getattr(self, name))
        for name in ("k", "stride"):
            object.__setattr__(self, name, sides(1, 1 << 50)(name, getattr(self, name)))
        for name, known in (("variant", VARIANTS), ("odds", ODDS)):
            _one_of(name, getattr(self, name), known)
        if any(step > k for step, k in zip(both(self.stride), self.window, strict=True)):
            raise OptionError(
                f"stride={say_sides(self.stride)} is larger than k={say_sides(self.k)}: pixels between windows stay "
                "uncovered"
            )
        if self.variant == "conditional":
            self._vet_gaussian()
        else:
            object.__setattr__(self, "images", self._vetted_images())

    @property
    def window(self) -> tuple[int, int]:
        """(height, width)."""
        return both(self.k)

    def _vet_gaussian(self) -> None:
        if self.gaussian is None:
            raise OptionError(
                "the conditional variant needs gaussian=FILE, made by `onnxplain fit gaussian`; or take "
                "variant=marginal with images="
            )
        if not isinstance(self.gaussian, Gaussian):
            raise OptionError(f"gaussian is {type(self.gaussian).__name__}; give a Gaussian (load_gaussian)")
        if self.l < max(self.window):
            raise OptionError(
                f"the outer patch, l={self.l}, is smaller than the window, k={say_sides(self.k)}; give l of k or more"
            )
        if self.gaussian.patch != self.l:
            raise OptionError(
                f"l is {self.l}, the Gaussian is one of patches of {self.gaussian.patch}; set "
                f"l={self.gaussian.patch}, or fit another"
            )

    def _vetted_images(self) -> Array:
        if self.images is None:
            raise OptionError("the marginal variant needs images=, other images as the model sees them")
        found = np.asarray(self.images)
        if found.dtype.kind not in "fiu" or found.ndim != 4 or not found.size or not np.isfinite(found).all():
            raise OptionError(
                f"images: {found.dtype} {list(found.shape)} is not (N, channels, height, width), or holds NaN or "
                "infinity"
            )
        return np.asarray(found, np.float32)


@dataclass(frozen=True, eq=False)
class Sampling(Windows):
    """Settings of Algorithm 1. With pick "random" every window draws its own images, without replacement."""

    samples: int = setting(10, "S, fills of every window")
    pick: Literal["random", "first"] = setting(
        "random", "for marginal: S images drawn for every window, or the first S (Zintgraf)"
    )
    seed: int = setting(0, "of the samples")

    def __post_init__(self) -> None:
        whole(1, 1 << 31)("samples", self.samples)
        whole(0, 1 << 62)("seed", self.seed)
        _one_of("pick", self.pick, PICKS)
        super().__post_init__()
        if self.variant == "marginal" and self.images is not None and len(self.images) < self.samples:
            raise OptionError(
                f"samples={self.samples} takes as many images, there are {len(self.images)}; give more images, or "
                "fewer samples"
            )


@dataclass(frozen=True, eq=False)
class Mean(Windows):
    """Settings of Algorithm 2."""


def log_odds(p: npt.ArrayLike, classes: int, laplace: int) -> Doubles:
    """log2 (p' / (1 - p')), p' = (p N + 1)/(N + K): finite for p = 0 and p = 1. A single probability is one of two
    classes, K = 2."""
    q = np.clip(np.asarray(p, np.float64), 0.0, 1.0)
    return np.asarray(np.log2(q * laplace + 1) - np.log2((1 - q) * laplace + max(classes, 2) - 1))


def differences(prober: Prober, of: Windows, found: Doubles, classes: Sequence[int]) -> Doubles:
    """What every window speaks for, of mean scores with it unknown (P, classes): log2-odds of the image less those of
    `found`, or the plain difference."""
    base = np.asarray(prober.base[list(classes)], np.float64)
    if not _takes_odds(prober, of):
        return base - found
    return log_odds(base, len(prober.base), of.laplace) - log_odds(found, len(prober.base), of.laplace)


def mean_scores(
    prober: Prober,
    places: Places,
    window: Sides,
    fills: Fills,
    samples: int,
    classes: Sequence[int],
    tell: Progress | None = None,
) -> Doubles:
    """P(c | x without window) of windows (P, 2): the mean over `samples` fills of each, (P, classes). fills: index
    s + samples w is sample s of window w."""
    scores = prober.windows(np.repeat(places, samples, axis=0), both(window), fills, classes, tell)
    return np.asarray(scores.reshape(len(places), samples, len(classes)).mean(axis=1, dtype=np.float64))


def prediction_difference(
    prober: Prober,
    of: Windows,
    fills: Fills,
    samples: int,
    classes: Sequence[int],
    tell: Progress | None = None,
) -> Array:
    """Algorithm 1 of Gu 2017 with fills that are given: maps (classes, height, width)."""
    places = corners(prober.size, of.k, of.stride)
    found = mean_scores(prober, places, of.k, fills, samples, classes, tell)
    values = differences(prober, of, found, classes)
    return average(places, of.k, values, prober.size).astype(np.float32)


def run_sampling(prober: Prober, of: Sampling, classes: Sequence[int], tell: Progress | None = None) -> Array:
    """Prediction difference analysis, Algorithm 1 (Zintgraf 2017, Gu 2017): (1/|w ∋ i|) Σ_w [log2 odds p_c(x) - log2
    odds 1/S Σ_s p_c(x with w ~ p(w | around it))]."""
    places = corners(prober.size, of.k, of.stride)
    draws = _conditional_samples(prober, of) if of.variant == "conditional" else _marginal_samples(prober, of)

    def fills(index: npt.NDArray[np.int64]) -> Array:
        windows, which = np.unique(index // of.samples, return_inverse=True)
        return draws(places[windows])[which.reshape(-1), index % of.samples]

    return prediction_difference(prober, of, fills, of.samples, classes, tell)


def run_mean(prober: Prober, of: Mean, classes: Sequence[int], tell: Progress | None = None) -> Array:
    """Efficient prediction difference analysis, Algorithm 2 (Gu 2017): one fill a window, its conditional mean, which
    is not clipped; of variant "marginal" the mean of the images there."""
    places = corners(prober.size, of.k, of.stride)
    if of.variant == "conditional":
        around = _surroundings(prober, of)
        return prediction_difference(
            prober, of, lambda index: around.means(places[index]).astype(np.float32), 1, classes, tell
        )
    mean = _vet_images(prober, of).mean(axis=0, dtype=np.float64).astype(np.float32)
    return prediction_difference(
        prober, of, lambda index: _cut(mean, places[index], of.window), 1, classes, tell
    )


def count_sampling(prober: Prober, of: Sampling) -> int:
    """S times the windows: S (n - k + 1)² at stride 1."""
    return of.samples * count_mean(prober, of)


def count_mean(prober: Prober, of: Windows) -> int:
    """The windows: (n - k + 1)² at stride 1. OptionError where the settings do not fit the image or the scores."""
    places = len(corners(prober.size, of.k, of.stride))
    _takes_odds(prober, of)
    if of.variant == "conditional":
        _vet_gaussian(prober, of)
    else:
        _vet_images(prober, of)
    return places


def _conditional_samples(prober: Prober, of: Sampling) -> Callable[[Places], Array]:
    around = _surroundings(prober, of)

    def draws(places: Places) -> Array:
        return around.samples(places, of.samples, lambda r, c: _random(of.seed, r, c)).astype(np.float32)

    return draws


def _marginal_samples(prober: Prober, of: Sampling) -> Callable[[Places], Array]:
    images = _vet_images(prober, of)

    def draws(places: Places) -> Array:
        high, wide = of.window
        found = np.empty((len(places), of.samples, prober.channels, high, wide), np.float32)
        chosen = np.arange(of.samples)
        for fill, (r, c) in zip(found, places, strict=True):
            if of.pick == "random":
                chosen = _random(of.seed, int(r), int(c)).permutation(len(images))[: of.samples]
            fill[:] = images[chosen, :, r : r + high, c : c + wide]
        return found

    return draws


def _random(seed: int, row: int, column: int) -> np.random.Generator:
    """Of one window: its samples do not depend on the batch, on other windows or on the stride."""
    return np.random.default_rng(np.random.SeedSequence((seed, row, column)))


def _cut(plane: Array, places: Places, window: tuple[int, int]) -> Array:
    return np.stack([plane[:, r : r + window[0], c : c + window[1]] for r, c in places])


def _surroundings(prober: Prober, of: Windows) -> Surroundings:
    return Surroundings(_vet_gaussian(prober, of), prober.planes, of.window)


def _vet_gaussian(prober: Prober, of: Windows) -> Gaussian:
    """OptionError for a Gaussian of other inputs than the model's."""
    assert of.gaussian is not None, "the settings have seen to that"
    vet_fit(of.gaussian, (prober.channels, *prober.size), of.window)
    fitted, own = of.gaussian.provenance.get("preprocessing"), prober.asked.preprocessing
    if isinstance(fitted, Mapping) and own is not None:
        for key in ("color", "mean", "std"):
            if key in fitted and key in own and _plain(fitted[key]) != _plain(own[key]):
                raise OptionError(
                    f"the Gaussian was fitted on pictures prepared with {key} {_plain(fitted[key])}, the model takes "
                    f"{_plain(own[key])}; fit one with the model's preprocessing"
                )
    return of.gaussian


def _vet_images(prober: Prober, of: Windows) -> Array:
    assert of.images is not None, "the settings have seen to that"
    if of.images.shape[1:] != prober.planes.shape:
        raise OptionError(
            f"images of shape {list(of.images.shape[1:])} do not fit the image, {list(prober.planes.shape)} (channels, "
            "height, width)"
        )
    return of.images


def _takes_odds(prober: Prober, of: Windows) -> bool:
    """OptionError for odds of what is no probability."""
    if of.odds != "log2-odds":
        return of.odds == "auto" and prober.of.score == "probability"
    low, high = float(prober.base.min()), float(prober.base.max())
    if low < -SLACK or high > 1 + SLACK:
        raise OptionError(
            f"odds=log2-odds are those of probabilities; the score {prober.of.score!r} goes from {low:g} to "
            f"{high:g}: take odds=difference, or score=probability"
        )
    return True


def _one_of(name: str, value: object, known: Sequence[str]) -> None:
    if value not in known:
        raise OptionError(f"{name}={value!r} is none of {', '.join(known)}{nearest(str(value), known)}")


def _plain(value: Any) -> Any:
    return [float(v) for v in value] if isinstance(value, (list, tuple)) else value


_COARSER = coarser(lambda s: s.stride)

PDA_SAMPLING = Technique(
    name="pda.sampling",
    title="Prediction difference analysis, sampled (Algorithm 1)",
    source="Zintgraf 2017; Gu 2017 Alg. 1",
    settings=Sampling,
    forwards=count_sampling,
    run=run_sampling,
    cost="S times the windows: S (n - k + 1)²",
    lighter=(_COARSER, Knob("samples", lambda s: int(s.samples), lambda s: 1)),
)
PDA_MEAN = Technique(
    name="pda.mean",
    title="Efficient prediction difference analysis (Algorithm 2)",
    source="Gu 2017 Alg. 2",
    settings=Mean,
    forwards=count_mean,
    run=run_mean,
    cost="one a window: (n - k + 1)²",
    lighter=(_COARSER,),
)

__all__ = [
    "PDA_MEAN",
    "PDA_SAMPLING",
    "Mean",
    "Sampling",
    "Windows",
    "average",
    "corners",
    "differences",
    "log_odds",
    "mean_scores",
    "prediction_difference",
]
