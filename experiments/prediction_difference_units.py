"""What `prediction_difference.py` runs inside of LeNet: how good the mean of a window stands for its samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from prediction_difference_runs import Data, K, both_cores, probe
from scipy.stats import norm

from onnxplain.runtime.perturb.gaussian import Gaussian, Surroundings

Doubles = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32]

RELUS = {"conv1": "/conv1/Conv_output_0", "conv2": "/conv2/Conv_output_0", "fc1": "/fc1/Gemm_output_0"}
"""Layer -> the tensor that its rectifier reads."""
WIDE = 10
CORNER, CENTRE = (0, 0), (9, 9)
"""Places of a window of 10 x 10."""
ALIVE = 1e-4
"""A unit whose deviation is below this hears nothing of the window; its ratio is left out."""


def draws(
    gaussian: Gaussian, image: Floats, place: tuple[int, int], k: int, samples: int
) -> tuple[Floats, Floats]:
    """Samples (S, 1, k, k) of one window, and its conditional mean (1, k, k)."""
    around = Surroundings(gaussian, image, (k, k))
    where = np.array([place])
    drawn = around.samples(where, samples, lambda r, c: np.random.default_rng((1, r, c)))[0]
    return drawn.astype(np.float32), around.means(where)[0].astype(np.float32)


@dataclass(frozen=True, eq=False)
class Units:
    """Inputs of rectifiers over samples of a window, one entry a unit. error: E[relu] - relu(E), measured; expected:
    what a normal variable of this mean and deviation would have (Baldi and Sadowski; Eq. 18 at mean 0)."""

    mean: Doubles
    deviation: Doubles
    error: Doubles

    @property
    def alive(self) -> npt.NDArray[np.bool_]:
        return np.asarray(self.deviation > ALIVE)

    @property
    def ratio(self) -> Doubles:
        """|μ| / σ of the units that the window moves."""
        return np.abs(self.mean[self.alive]) / self.deviation[self.alive]

    @property
    def expected(self) -> Doubles:
        return rectifier_error(self.mean[self.alive], self.deviation[self.alive])


def rectifier_error(mean: npt.ArrayLike, deviation: npt.ArrayLike) -> Doubles:
    """σ φ(μ/σ) - |μ| Φ(-|μ|/σ): E[relu(z)] - relu(E[z]) of a normal z."""
    m, s = np.abs(np.asarray(mean, np.float64)), np.asarray(deviation, np.float64)
    return np.asarray(s * norm.pdf(m / s) - m * norm.cdf(-m / s))


def units(of: Data, number: int, layer: str, place: tuple[int, int], samples: int) -> Units:
    prober = probe(of.x[of.shown[number]], RELUS[layer], "full")
    drawn, _ = draws(of.wide, prober.planes, place, WIDE, samples)
    z = prober.windows(np.array([place] * samples), (WIDE, WIDE), drawn.__getitem__).astype(np.float64)
    mean = z.mean(axis=0)
    return Units(mean, z.std(axis=0, ddof=1), np.maximum(z, 0).mean(axis=0) - np.maximum(mean, 0))


def joined(parts: list[Units]) -> Units:
    return Units(
        *(np.concatenate([getattr(p, name) for p in parts]) for name in ("mean", "deviation", "error"))
    )


def all_units(of: Data, layer: str, place: tuple[int, int], samples: int) -> Units:
    """Of the ten digits."""
    return joined(both_cores(lambda number: units(of, number, layer, place, samples), range(len(of.shown))))


def monte_carlo(count: int = 1_000_000) -> dict[float, tuple[float, float]]:
    """μ/σ -> E[relu] - relu(E) of a normal variable with σ = 1, by sampling and in closed form."""
    z = np.random.default_rng(0).standard_normal(count)
    found = {}
    for ratio in (0.0, 0.5, 1.0, -1.0, 2.0, -3.0, 4.0):
        drawn = float(np.maximum(z + ratio, 0).mean() - max((z + ratio).mean(), 0.0))
        found[ratio] = (drawn, float(rectifier_error(ratio, 1.0)))
    return found


@dataclass(frozen=True, eq=False)
class Means:
    """Of many digits and one window, (digits,): the class's probability, the arithmetic mean over samples, their
    normalised geometric mean, and the probability at the conditional mean."""

    plain: Doubles
    arithmetic: Doubles
    geometric: Doubles
    at_mean: Doubles

    @property
    def error(self) -> Doubles:
        return np.abs(self.arithmetic - self.at_mean)


def means(of: Data, place: tuple[int, int], k: int, digits: int = 200, samples: int = 500) -> Means:
    """Fig. 11: 200 pictures, a fixed window, 500 samples. One session reads the copies of all digits."""
    prober = probe(of.x[1000], engine="full")
    gaussian = of.gaussian if k == K else of.wide
    box = (slice(None), slice(None), slice(place[0], place[0] + k), slice(place[1], place[1] + k))

    def run(index: int) -> tuple[float, float, float, float]:
        drawn, mean = draws(gaussian, of.x[index], place, k, samples)
        copies = np.repeat(of.x[index : index + 1], samples + 2, axis=0)
        copies[box] = np.concatenate([drawn, mean[None], of.x[index : index + 1][box]])
        p = prober.scores(copies).astype(np.float64)
        c = int(p[-1].argmax())
        powers = np.exp(np.log(np.maximum(p[:samples], np.finfo(np.float32).tiny)).mean(axis=0))
        return p[-1, c], p[:samples, c].mean(), powers[c] / powers.sum(), p[-2, c]

    prober.scores(of.x[1000:1001])  # opens the session before two threads ask for it
    rows = both_cores(run, range(1000, 1000 + digits))
    return Means(*np.array(rows).T)


def shares(errors: Doubles, edges: tuple[float, ...]) -> Mapping[float, float]:
    """Of errors below each edge."""
    return {edge: float((errors < edge).mean()) for edge in edges}
