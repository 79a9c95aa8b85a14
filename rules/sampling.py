"""Averages over samples: on the path from a baseline to the input, or of the input with noise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..rewriter.emit import Emit
from ..rewriter.graph import Value
from ..rewriter.loop import Opened, Sampling
from ..rewriter.method import Option, Options
from ..rewriter.scene import Stage
from .baselines import reference
from .checks import whole

NODES = ("midpoint", "gauss-legendre", "trapezoid")

AUTO = "auto"
MOST_LANES = 64


def _lanes(name: str, value: Any) -> Any:
    return AUTO if isinstance(value, str) and value == AUTO else whole(1, MOST_LANES)(name, value)


LANES = Option(
    AUTO,
    None,
    "samples a trip of the loop: a number, or auto (2, of small networks 4, and no more than the memory allows): more "
    "take more memory and no less time",
    _lanes,
)


def lanes_of(options: Options) -> int:
    """Samples a trip; 0 where the compiler chooses (`rewriter.memory.choose_lanes`)."""
    return 0 if options["lanes"] == AUTO else int(options["lanes"])


def path_nodes(kind: str, m: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions α in [0, 1] and weights of sum 1, in float64. Midpoint: (k - 1/2)/m. Trapezoid: k/(m - 1), the ends
    at half weight."""
    if kind == "gauss-legendre":
        nodes, weights = np.polynomial.legendre.leggauss(m)
        return (nodes + 1) / 2, weights / 2
    if kind == "trapezoid" and m > 1:
        weights = np.ones(m)
        weights[[0, -1]] = 0.5
        return np.linspace(0, 1, m), weights / weights.sum()
    return (np.arange(m) + 0.5) / m, np.full(m, 1 / m)


def per_lane(g: Emit, v: Value, x: Value) -> Value:
    """(l,) -> (l, 1, ...), to broadcast over lanes (l, N, ...)."""
    return g.Reshape(v, g.ints(-1, *[1] * len(x.shape)))


def path(options: Options) -> Sampling:
    """Integrated gradients: Σ w_k ∂z_c/∂x (b + α_k (x - b)), times x - b (Ayyar 2021 Eq. 7)."""
    steps = options["steps"]
    alpha, weight = path_nodes(options["rule"], steps)

    def open_(stage: Stage, x: Value) -> Opened:
        return (reference(stage, x),)

    def point(g: Emit, x: Value, opened: Opened, k: Value) -> Value:
        along = per_lane(g, g.Gather(g.constant(alpha.astype(x.dtype)), k), x)
        (b,) = opened
        return g.Add(b, g.Mul(along, g.Sub(x, b)))

    def scale(g: Emit, x: Value, opened: Opened, m: Value, k: Value) -> Value:
        # The loop takes the mean of m maps: m times the weight makes it the weighted sum.
        return g.Mul(m, per_lane(g, g.Gather(g.constant((steps * weight).astype(x.dtype)), k), x))

    def finish(g: Emit, x: Value, opened: Opened, means: Sequence[Value]) -> Value:
        return g.Mul(means[0], g.Sub(x, opened[0]))

    uneven = not np.allclose(weight, 1 / steps, rtol=0, atol=1e-15)
    return Sampling(
        lambda stage: stage.g.ints(steps),
        open_,
        point,
        finish,
        lanes=lanes_of(options),
        scale=scale if uneven else None,
    )


def noise(options: Options, kind: str) -> Sampling:
    """x + σ ε_i, σ = sigma (max x - min x) of each sample, ε the unit normal input `noise` (m, ...), one m for all
    samples of the batch. kind "mean": mean M_i; "square": mean M_i²; "variance": mean M_i² - (mean M_i)², at least
    0."""

    def open_(stage: Stage, x: Value) -> Opened:
        g = stage.g
        # Without an axis to reduce, ReduceMax would take the whole batch.
        flat = g.Reshape(x, g.ints(0, -1)) if len(x.shape) > 1 else g.Unsqueeze(x, g.ints(1))
        spread = g.Sub(*(g.op(op, flat, g.ints(1), keepdims=0) for op in ("ReduceMax", "ReduceMin")))
        spread = g.Reshape(spread, g.ints(-1, *[1] * (len(x.shape) - 1)))
        return (_noise(stage, x), g.Mul(spread, float(options["sigma"])))

    def point(g: Emit, x: Value, opened: Opened, k: Value) -> Value:
        eps, sigma = opened
        return g.Add(x, g.Mul(g.Unsqueeze(g.Gather(eps, k), g.ints(1)), sigma))

    def finish(g: Emit, x: Value, opened: Opened, means: Sequence[Value]) -> Value:
        if kind == "variance":
            return g.Relu(g.Sub(means[1], g.Mul(means[0], means[0])))
        return means[0]

    moments = {"mean": (1,), "square": (2,), "variance": (1, 2)}[kind]
    return Sampling(
        lambda stage: stage.g.rows(_noise(stage, stage.wrt[0])),
        open_,
        point,
        finish,
        moments,
        centred=kind == "variance",
        lanes=lanes_of(options),
    )


def _noise(stage: Stage, x: Value) -> Value:
    stage.vet_batch("noise")
    name = "noise" if len(stage.wrt) == 1 else f"noise/{x.name}"
    return stage.add_input(name, x, ["samples", *x.shape[1:]])
