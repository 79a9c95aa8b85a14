"""How good a signal estimator is: the criterion ρ(S) of Kindermans et al. 2017, on pictures held out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from ...rewriter.errors import OptionError
from ..compiling import Model, description
from ..opening import serialize
from ..providers import create_session
from ..session import run
from .graph import survey
from .layout import Layout
from .samples import Images, samples
from .solve import solve
from .statistics import Moments

Array: TypeAlias = npt.NDArray[np.float64]
SIGNALS = ("random", "weights", "linear", "plus-minus", "plus-minus-within")
RIDGES = (1e-8, 1e-6, 1e-4, 1e-2, 1e-1, 1.0)
"""What `rho` tries, as shares of the mean variance of the distractor."""


@dataclass(frozen=True)
class Part:
    """Samples of one neuron: x (P, D), z (P,) = wᵀx, on (P,): whether wᵀx + b > 0."""

    x: Array
    z: Array
    on: npt.NDArray[np.bool_]

    def only(self, chosen: npt.NDArray[np.bool_]) -> Part:
        return Part(self.x[chosen], self.z[chosen], self.on[chosen])


@dataclass(frozen=True)
class Quality:
    """ρ of one estimator at one node, a number a neuron: over all samples, and over those with y > 0. NaN where a
    neuron is on in too few samples to say."""

    node: str
    signal: str
    everywhere: Array
    inside: Array


def rho(above: Array, below: Array, train: Part, test: Part, ridge: float | None = None) -> float:
    """ρ(S) = 1 - corr(wᵀx, vᵀ(x - S(x))), S(x) = a wᵀx, with a = `above` (D,) where the neuron is on, else `below`.

    v is fitted on `train`, the correlation taken on `test`. It is the multiple regression v = Σ⁺ cov[d, y] of the
    distractor d = x - S(x), whose covariance Σ is singular (wᵀd = 0), so it gets a ridge: the one of RIDGES that does
    best on the last quarter of `train`; ridge=0 takes the pseudo-inverse instead.

    1: nothing of the output is left in the distractor. For S(x) = x there is none, ρ is 0/0. In sample, linear and
    plus-minus give 1 by construction, so `train` and `test` must not be what S was fitted on. NaN where wᵀx or the
    distractor does not vary. Source: Kindermans et al. 2017 Eq. 1; docs/methods/patterns.md, "Quality".
    """

    def distractor(part: Part) -> Array:
        return np.asarray(part.x - np.where(part.on[:, None], above, below) * part.z[:, None])

    d, t = distractor(train), distractor(test)
    if ridge is not None:
        return 1.0 - _correlation(t @ _regression(d, train.z, (ridge,))[0], test.z)
    cut = max(2, 3 * len(d) // 4)
    tries = _regression(d[:cut], train.z[:cut], RIDGES)
    held = [_correlation(d[cut:] @ v, train.z[cut:]) for v in tries]
    best = int(np.argmax(np.nan_to_num(held, nan=-1.0)))
    return 1.0 - _correlation(t @ tries[best], test.z)


def _regression(d: Array, z: Array, ridges: Sequence[float]) -> list[Array]:
    """v for every ridge, from one eigendecomposition."""
    d, z = d - d.mean(0), z - z.mean()
    values, vectors = np.linalg.eigh(d.T @ d / len(d))
    along = vectors.T @ (d.T @ z / len(d))
    found = []
    for ridge in ridges:
        bottom = values + ridge * max(values.mean(), np.finfo(float).tiny)
        usable = values > 1e-10 * values[-1] if ridge == 0 else bottom > 0
        found.append(vectors @ np.where(usable, along / np.where(usable, bottom, 1.0), 0.0))
    return found


def _correlation(a: Array, b: Array) -> float:
    if len(a) < 3 or not np.ptp(a) > 1e-12 * np.abs(a).max() or not np.ptp(b) > 1e-12 * np.abs(b).max():
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


def quality(
    model: Model,
    images: Images,
    *,
    signals: Sequence[str] = SIGNALS,
    neurons: int = 16,
    positions: int = 32,
    raw_input: bool = False,
    seed: int = 0,
) -> list[Quality]:
    """ρ of signal estimators at every weighted node, held out: the pictures are dealt at random into three parts, S
    is fitted on the first, v on the second, the correlation taken on the third.

    signals: random (a random direction, scaled to wᵀa = 1), weights (S_w), linear (S_a), plus-minus (S_a±, Eq. 7),
    plus-minus-within (with the covariance inside the regime). neurons: at most so many of a node, drawn at random.
    positions: at most so many of a picture's positions. Inside y > 0 v is fitted and judged on such samples alone.

    Memory: pictures × positions × inputs of the widest node; time: neurons × inputs³. Raises as `fit_patterns`, and
    OptionError for fewer than 12 pictures or an unknown signal.
    """
    unknown = [name for name in signals if name not in SIGNALS]
    if unknown:
        raise OptionError(f"no signal estimator {unknown[0]!r}; there are {', '.join(SIGNALS)}")
    draw = np.random.default_rng(seed)
    nodes, weights, collected = collect(model, images, positions=positions, raw_input=raw_input, seed=seed)
    count = len(next(iter(collected.values())))
    if count < 12:
        raise OptionError(f"{count} pictures are too few for three parts; give at least 12")
    parts = [np.sort(part) for part in np.array_split(draw.permutation(count), 3)]
    found = []
    for node, layout in nodes.items():
        pieces = [_joined([collected[node][i] for i in part]) for part in parts]
        moments = moments_of(layout, weights[node], *pieces[0])
        picks = draw.permutation(layout.group * layout.neurons)[:neurons]
        pairs = {name: _signal(name, moments, draw) for name in signals}
        for name, (above, below) in pairs.items():
            rows = [_judge(above, below, layout, weights[node], pieces, int(i)) for i in np.sort(picks)]
            everywhere, inside = np.asarray(rows).T
            found.append(Quality(node, name, everywhere, inside))
    return found


def collect(
    model: Model, images: Images, *, positions: int, raw_input: bool = False, seed: int = 0
) -> tuple[dict[str, Layout], dict[str, Array], dict[str, list[tuple[Array, Array]]]]:
    """Layouts and weights of the nodes, and for every picture (U (group, D + 1, P), y (group, O, P)) of at most
    `positions` positions, drawn at random."""
    graph = survey(model, samples=True)
    about = description(model, graph.source.model)
    pictures = samples(images, None if about is None else about.preprocessing, raw_input, graph.dtype)
    weights = run(create_session(serialize(graph.weights)), {})
    session = create_session(serialize(graph.model), deterministic=True)
    collected: dict[str, list[tuple[Array, Array]]] = {node: [] for node in graph.nodes}
    draw = np.random.default_rng(seed)
    for i in range(len(pictures)):
        results = run(session, {graph.input: pictures[i]})
        for k, node in enumerate(graph.nodes):
            u, y = (np.asarray(results[name], np.float64) for name in (graph.sums(k), graph.squares(k)))
            chosen = np.sort(draw.permutation(u.shape[2])[:positions])
            collected[node].append((u[..., chosen], y[..., chosen]))
    named = {
        node: np.asarray(weights[f"{graph.scope}/weight/{k}"], np.float64)
        for k, node in enumerate(graph.nodes)
    }
    return graph.nodes, named, collected


def _joined(pieces: Sequence[tuple[Array, Array]]) -> tuple[Array, Array]:
    return np.concatenate([u for u, _ in pieces], axis=2), np.concatenate([y for _, y in pieces], axis=2)


def moments_of(layout: Layout, weight: Array, u: Array, y: Array) -> Moments:
    """The sums over samples that are at hand: what the statistics graph computes, in numpy."""
    above = (y > 0).astype(np.float64)
    rows = np.concatenate([y, y * above, above, u[:, -1:]], axis=1)
    moments = Moments.empty(layout, weight)
    moments.add(rows @ u.transpose(0, 2, 1), (y * y).sum(-1))
    return moments


def _signal(name: str, moments: Moments, draw: np.random.Generator) -> tuple[Array, Array]:
    """(a₊, a₋), each (group, O, D)."""
    w = moments.layout.neurons_of(moments.weight)
    if name == "random":
        r = draw.standard_normal(w.shape)
        a = r / (w * r).sum(-1, keepdims=True)
        return a, a
    if name == "weights":
        square = (w * w).sum(-1, keepdims=True)
        a = w / np.where(square > 0, square, 1.0)
        return a, a
    if name == "linear":
        a = solve(moments, "linear")[0]
        return a, a
    within = "-within" if name.endswith("-within") else ""
    return solve(moments, f"plus{within}")[0], solve(moments, f"minus{within}")[0]


def _judge(
    above: Array, below: Array, layout: Layout, weight: Array, pieces: Sequence[tuple[Array, Array]], i: int
) -> tuple[float, float]:
    """ρ of neuron i, (over all samples, inside y > 0)."""
    group, o = divmod(i, layout.neurons)
    w = layout.neurons_of(weight)[group, o]
    train, test = (Part(u[group, :-1].T, u[group, :-1].T @ w, y[group, o] > 0) for u, y in pieces[1:])
    a, b = above[group, o], below[group, o]
    inside = float("nan")
    if min(train.on.sum(), test.on.sum()) >= 12:
        inside = rho(a, b, train.only(train.on), test.only(test.on))
    return rho(a, b, train, test), inside
