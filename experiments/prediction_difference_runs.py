"""What `prediction_difference.py` runs on whole digits: maps of the three algorithms (Gu and Tresp 2017)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import onnx
from scipy import ndimage
from scipy.stats import spearmanr

import onnxplain
from onnxplain import models
from onnxplain.runtime.perturb.difference import (
    PDA_MEAN,
    PDA_SAMPLING,
    Mean,
    average,
    corners,
    differences,
)
from onnxplain.runtime.perturb.gaussian import Gaussian, Surroundings
from onnxplain.runtime.perturb.gaussian_fit import Patches, fit_gaussian
from onnxplain.runtime.perturb.probing import Asked, Prober
from onnxplain.runtime.perturb.technique import Found, perform

Doubles = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32]
T = TypeVar("T")

MODEL = models.path("mnist_lenet")
SIDE, K, L = 28, 4, 8
SAMPLES, FEWER = 100, 20
STEPS = (1, 2, 5, 10, 20, 50, 100)
TEN = 10
"""Samples of a window in the paper."""
PLACES = corners((SIDE, SIDE), K)


@dataclass(frozen=True, eq=False)
class Data:
    """Digits as the model sees them, (N, 1, 28, 28), the ten that are shown, and Gaussians fitted on `others`."""

    x: Floats
    others: Floats
    shown: tuple[int, ...]
    more: tuple[int, ...]
    gaussian: Gaussian
    wide: Gaussian

    def settings(self, variant: str) -> dict[str, Any]:
        """Of both algorithms. "unclipped" is conditional, with samples that may leave [0, 1]."""
        if variant == "marginal":
            return {"k": K, "variant": "marginal", "images": self.others}
        free = variant == "unclipped"
        of = dataclasses.replace(self.gaussian, low=None, high=None) if free else self.gaussian
        return {"k": K, "l": L, "variant": "conditional", "gaussian": of}


def data() -> Data:
    """Explained digits are among the second thousand, everything is fitted on the first."""
    digits, labels = models.digits()
    x = (digits[:, None] / 255.0).astype(np.float32)
    by_digit = [1000 + np.flatnonzero(labels[1000:] == digit) for digit in range(10)]
    others = x[:1000]
    return Data(
        x,
        others,
        tuple(int(found[0]) for found in by_digit),
        tuple(int(i) for found in by_digit for i in found[1:3]),
        fit_gaussian(others, Patches(patch=L), raw_input=True),
        fit_gaussian(others, Patches(patch=18), raw_input=True),
    )


def both_cores(run: Callable[[int], T], items: Sequence[int]) -> list[T]:
    """onnxruntime lets go of the lock; one thread a session beats two threads on a net as small as this."""
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(run, items))


def probe(image: Floats, score: str = "probability", engine: str = "incremental") -> Prober:
    """image: (1, 28, 28)."""
    return Prober(MODEL, image[None], Asked(score=score, engine=engine, batch=256, threads=1))


@dataclass(frozen=True, eq=False)
class Sampled:
    """What LeNet says of one digit with each window filled. p: probability of the top class for every sample,
    (windows, S); geometric: normalised geometric mean of all samples (windows,); at: probability with one fill: "mean",
    that of Algorithm 2, "clipped" the same within [0, 1], and the mean of the first "ten" samples, the "next" ten, of
    "many" (`FEWER`)."""

    prober: Prober
    of: Mean
    p: Doubles
    geometric: Doubles
    at: Mapping[str, Doubles]

    def maps(self, p: Doubles) -> Doubles:
        """WE / counts of P(c | x without window), (windows, maps) -> (maps, height, width)."""
        values = differences(self.prober, self.of, p, [self.prober.top] * p.shape[1])
        return average(PLACES, K, values, self.prober.size)

    def map(self, p: Doubles) -> Doubles:
        """Of one, (windows,)."""
        return np.asarray(self.maps(p[:, None])[0])

    def first(self, start: int, stop: int) -> Doubles:
        """The map of Algorithm 1 from some of the samples."""
        return self.map(self.p[:, start:stop].mean(axis=1))

    @property
    def second(self) -> Doubles:
        """That of Algorithm 2."""
        return self.map(self.at["mean"])


def sample(of: Data, index: int, variant: str, samples: int) -> Sampled:
    """The fills are those of `pda.sampling` with seed 0: the first S of them are what it takes for samples=S."""
    prober, settings = probe(of.x[index]), Mean(**of.settings(variant))
    fills, mean = _fills(prober.planes, settings, samples)

    def scores(places: npt.NDArray[np.int64], fills: Floats) -> Doubles:
        return prober.windows(places, (K, K), fills.__getitem__).astype(np.float64)

    p = scores(np.repeat(PLACES, samples, axis=0), fills.reshape(-1, 1, K, K))
    logs = np.log(np.maximum(p, np.finfo(np.float32).tiny)).reshape(len(PLACES), samples, -1).mean(axis=1)
    powers = np.exp(logs)
    top = prober.top
    means = {"mean": mean}
    if samples >= FEWER:
        parts = {"ten": fills[:, :TEN], "next": fills[:, TEN : 2 * TEN], "many": fills[:, :FEWER]}
        means |= {name: part.mean(axis=1) for name, part in parts.items()}
        means["clipped"] = np.clip(mean, 0.0, 1.0)
    at = {name: scores(PLACES, fill)[:, top] for name, fill in means.items()}
    return Sampled(
        prober,
        settings,
        p[:, top].reshape(len(PLACES), samples),
        powers[:, top] / powers.sum(axis=1),
        at,
    )


def sample_all(of: Data, indices: Sequence[int], variant: str, samples: int) -> list[Sampled]:
    return both_cores(lambda index: sample(of, index, variant, samples), indices)


def _fills(planes: Floats, of: Mean, samples: int) -> tuple[Floats, Floats]:
    """Samples (windows, S, 1, k, k) and their mean (windows, 1, k, k)."""

    def random(row: int, column: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence((0, row, column)))

    if of.gaussian is not None:
        around = Surroundings(of.gaussian, planes, (K, K))
        return around.samples(PLACES, samples, random).astype(np.float32), around.means(PLACES).astype(
            np.float32
        )
    assert of.images is not None
    mean = of.images.mean(axis=0, dtype=np.float64).astype(np.float32)
    drawn = [
        of.images[random(r, c).permutation(len(of.images))[:samples], :, r : r + K, c : c + K]
        for r, c in PLACES
    ]
    return np.stack(drawn), np.stack([mean[:, r : r + K, c : c + K] for r, c in PLACES])


def rank(a: Doubles, b: Doubles, where: npt.NDArray[np.bool_] | None = None) -> float:
    """Spearman's correlation of two maps; ties get their mean rank."""
    chosen = np.ones(a.shape, bool) if where is None else where
    return float(spearmanr(a[chosen], b[chosen]).statistic)


def pearson(a: Doubles, b: Doubles, where: npt.NDArray[np.bool_] | None = None) -> float:
    chosen = np.ones(a.shape, bool) if where is None else where
    return float(np.corrcoef(a[chosen], b[chosen])[0, 1])


def evidence(a: Doubles, b: Doubles) -> npt.NDArray[np.bool_]:
    """Pixels where one of two maps has more than 1 % of its largest value."""
    return np.asarray((np.abs(a) > 0.01 * np.abs(a).max()) | (np.abs(b) > 0.01 * np.abs(b).max()))


@dataclass(frozen=True)
class Noise:
    """Of Algorithm 1's map, root mean square over pixels and digits. deviation: over repeats; mean: over pixels and
    digits of the mean map, which tells whether few samples are biased."""

    deviation: float
    mean: float


def noise(
    sampled: Sequence[Sampled], odds: Literal["log2-odds", "difference"], orders: int = 5
) -> dict[int, Noise]:
    """By S. The samples are cut into as many repeats as there are, in several orders, for there are few repeats of
    many samples. odds: in bits, or of probabilities."""
    random = np.random.default_rng(0)
    counts = STEPS[:-1]
    variances, means = np.zeros(len(counts)), np.zeros(len(counts))
    for one in sampled:
        mine = dataclasses.replace(one, of=dataclasses.replace(one.of, odds=odds))
        for _ in range(orders):
            p = one.p[:, random.permutation(one.p.shape[1])]
            for i, count in enumerate(counts):
                maps = mine.maps(p.reshape(len(PLACES), -1, count).mean(axis=2))
                variances[i] += np.var(maps, axis=0, ddof=1).mean()
                means[i] += maps.mean()
    runs = len(sampled) * orders
    return {
        count: Noise(float(np.sqrt(v / runs)), float(m / runs))
        for count, v, m in zip(counts, variances, means, strict=True)
    }


def slope(curve: Mapping[int, float]) -> float:
    """Of log y over log x."""
    return float(np.polyfit(np.log(list(curve)), np.log(list(curve.values())), 1)[0])


@dataclass(frozen=True)
class Counted:
    """The shipped techniques on the ten digits. off: the largest deviation of their Algorithm 1 maps from those of
    `sample`, over the maximum."""

    first: tuple[int, ...]
    second: tuple[int, ...]
    off: float
    found: tuple[Found, ...]


def count(of: Data, sampled: Sequence[Sampled], variant: str) -> Counted:
    settings = of.settings(variant)

    def run(number: int) -> tuple[Found, Found]:
        prober = probe(of.x[of.shown[number]], engine="full")
        return perform(prober, PDA_SAMPLING, samples=TEN, **settings), perform(prober, PDA_MEAN, **settings)

    pairs = both_cores(run, range(len(of.shown)))
    off = 0.0
    for one, (first, second) in zip(sampled, pairs, strict=True):
        for mine, its in ((one.first(0, TEN), first.maps[0]), (one.second, second.maps[0])):
            off = max(off, float(np.abs(mine - its).max() / np.abs(mine).max()))
    return Counted(
        tuple(first.forwards for first, _ in pairs),
        tuple(second.forwards for _, second in pairs),
        off,
        tuple(second for _, second in pairs),
    )


@dataclass(frozen=True)
class Move:
    """A change of a picture, and the way back for a map."""

    name: str
    there: Callable[[Doubles], Doubles]
    back: Callable[[Doubles], Doubles]


def _zoomed(image: Doubles, factor: float) -> Doubles:
    centre = (SIDE - 1) / 2
    return np.asarray(ndimage.affine_transform(image, np.eye(2) / factor, centre - centre / factor, order=1))


def _turn(angle: float) -> Move:
    def by(angle: float) -> Callable[[Doubles], Doubles]:
        return lambda image: ndimage.rotate(image, angle, reshape=False, order=1)

    return Move(f"turned by {angle:+.0f}°", by(angle), by(-angle))


MOVES = (
    Move(
        "shifted by (2, 3)",
        lambda image: ndimage.shift(image, (2, 3), order=0),
        lambda image: ndimage.shift(image, (-2, -3), order=0),
    ),
    _turn(15),
    _turn(-15),
    Move(
        "cropped, enlarged 1.25 times",
        lambda image: _zoomed(image, 1.25),
        lambda image: _zoomed(image, 1 / 1.25),
    ),
    Move("flipped left to right", np.fliplr, np.fliplr),
    Move("turned by 90°", np.rot90, lambda image: np.rot90(image, -1)),
)


@dataclass(frozen=True, eq=False)
class Moved:
    """A digit after a move. p: of the class that it had; kept: whether that is still the top class. heat: the map of
    Algorithm 2, brought back in `returned`; whole: pixels that were never outside."""

    image: Doubles
    p: float
    kept: bool
    heat: Doubles
    returned: Doubles
    whole: npt.NDArray[np.bool_]


def moved(of: Data, sampled: Sequence[Sampled], move: Move) -> list[Moved]:
    def run(number: int) -> Moved:
        c = sampled[number].prober.top
        image = np.asarray(move.there(of.x[of.shown[number], 0].astype(np.float64)))
        prober = probe(image[None].astype(np.float32), engine="full")
        heat = perform(prober, PDA_MEAN, [c], **of.settings("conditional")).maps[0].astype(np.float64)
        whole = np.asarray(move.back(move.there(np.ones((SIDE, SIDE)))) > 0.99)
        return Moved(image, float(prober.base[c]), prober.top == c, heat, np.asarray(move.back(heat)), whole)

    return both_cores(run, range(len(of.shown)))


@dataclass(frozen=True, eq=False)
class Third:
    """Algorithm 3 beside what Algorithm 2 says in three units."""

    gradient: Doubles
    gradient_logit: Doubles
    odds: Doubles
    probability: Doubles
    logit: Doubles


def third(of: Data, counted: Counted) -> list[Third]:
    options: dict[str, Any] = {"k": K, "gaussian": of.gaussian, "target": "top", "threads": 1}
    made = {
        score: onnxplain.compile(MODEL, "pda.gradient", score=score, **options)
        for score in ("probability", "logit")
    }

    def run(number: int) -> Third:
        image = of.x[of.shown[number]]
        gradients = [
            made[s](image[None]).attribution[0, 0].astype(np.float64) for s in ("probability", "logit")
        ]
        settings = {"odds": "difference", **of.settings("conditional")}
        plain = [
            perform(probe(image, s, "full"), PDA_MEAN, **settings).maps[0].astype(np.float64)
            for s in ("probability", "logit")
        ]
        odds = counted.found[number].maps[0].astype(np.float64)
        return Third(gradients[0], gradients[1], odds, plain[0], plain[1])

    return [run(number) for number in range(len(of.shown))]


def passes(of: Data) -> tuple[int, int, int]:
    """Layers with weights in LeNet, nodes that stand for one in the forward part of the file of Algorithm 3, and in the
    backward part."""
    made = onnxplain.compile(MODEL, "pda.gradient", target="top", k=K, gaussian=of.gaussian).model
    kinds = ("Conv", "ConvTranspose", "Gemm", "MatMul")
    weighted = [node.name for node in made.graph.node if node.op_type in kinds]
    forward = [name for name in weighted if not name.startswith("bwd/")]
    backward = [name for name in weighted if any(name.startswith(f"bwd/{layer}/") for layer in forward)]
    layers = sum(node.op_type in kinds for node in onnx.load(MODEL).graph.node)
    return layers, len(forward), len(backward)


def roughness(heat: Doubles) -> float:
    """Mean difference of neighbours over the mean of the map, both in absolute value."""
    steps = np.abs(np.diff(heat, axis=0)).mean() + np.abs(np.diff(heat, axis=1)).mean()
    return float(steps / 2 / np.abs(heat).mean())
