"""Normalisations and softmax: sums of simple maps."""

from __future__ import annotations

import math

from ...rewriter.emit import Emit
from ...rewriter.graph import Value
from ...rewriter.linear import Chain, Keep, Linear, Local, Mean, Neighbours, Scale, Shaped, Sum, Total
from ...rewriter.site import Refuse, Site, rank_of
from .base import GRADIENT


def per_channel(g: Emit, v: Value, rank: int) -> Value:
    """A (C,) parameter in the shape (1, C, 1...)."""
    return g.Reshape(v, g.ints(1, -1, *[1] * (rank - 2)))


@GRADIENT.on("BatchNormalization")
def batch_norm(site: Site, g: Emit) -> Local:
    """Inference: y = γ (x - μ) / √(v + ε) + β, all parameters."""
    if site.attr("training_mode", 0) or site.port:
        raise Refuse("BatchNormalization in training mode mixes the samples; export the model for inference")
    gamma, beta, mean, variance = (site.fixed(i, "a parameter") for i in range(1, 5))
    scale = g.Div(gamma, g.Sqrt(g.Add(variance, float(site.attr("epsilon", 1e-5)))))
    rank = rank_of(site.data)
    offset = g.Sub(beta, g.Mul(mean, scale))
    return Local(Scale(per_channel(g, scale, rank)), offset=per_channel(g, offset, rank))


def normalised(g: Emit, x: Value, axes: tuple[int, ...], epsilon: float) -> tuple[Value, Value]:
    """x̂ = (x - mean x) r and r = 1/√(var x + ε)."""
    at = g.ints(*axes)
    centred = g.Sub(x, g.ReduceMean(x, at, keepdims=1))
    inverse = g.Reciprocal(g.Sqrt(g.Add(g.ReduceMean(g.Mul(centred, centred), at, keepdims=1), epsilon)))
    return g.Mul(centred, inverse), inverse


def whiten(g: Emit, x: Value, axes: tuple[int, ...], epsilon: float) -> Linear:
    """Tangent of x̂ = (x - mean x) r, r = 1/√(var x + ε): dx̂ = r (dx - mean dx - x̂ mean(x̂ dx))."""
    normal, inverse = normalised(g, x, axes, epsilon)
    mean = Chain(Mean(axes), Scale(-1.0))
    return Chain(Sum(Keep(), mean, Chain(Scale(normal), mean, Scale(normal))), Scale(inverse))


@GRADIENT.on("InstanceNormalization")
def instance_norm(site: Site, g: Emit) -> Local:
    """Statistics over the spatial axes of each channel of each sample, population variance."""
    rank = rank_of(site.data)
    gamma, _ = site.fixed(1, "the scale"), site.fixed(2, "the bias")
    core = whiten(g, site.data, tuple(range(2, rank)), float(site.attr("epsilon", 1e-5)))
    return Local(Chain(core, Scale(per_channel(g, gamma, rank))))


@GRADIENT.on("LayerNormalization")
def layer_norm(site: Site, g: Emit) -> Local:
    """y = γ x̂ + β, statistics over the axes from `axis` on; γ and β broadcast and may be activations."""
    if site.port:
        raise Refuse("the statistics of a LayerNormalization are explained; explain its first output")
    axes, epsilon = tuple(range(site.axis("axis", -1), rank_of(site.data))), float(site.attr("epsilon", 1e-5))
    core = Chain(whiten(g, site.data, axes, epsilon), Scale(site.node.inputs[1]))
    maps = core, Scale(normalised(g, site.data, axes, epsilon)[0]), Keep()
    return Local.elementwise(site, *maps[: len(site.x)])  # the bias may be missing


@GRADIENT.on("RMSNormalization")
def rms_norm(site: Site, g: Emit) -> Local:
    """y = γ x r, r = 1/√(mean x² + ε): dy = γ r (dx - x̂ mean(x̂ dx))."""
    axes = tuple(range(site.axis("axis", -1), rank_of(site.data)))
    x, at = site.data, g.ints(*axes)
    square = g.ReduceMean(g.Mul(x, x), at, keepdims=1)
    inverse = g.Reciprocal(g.Sqrt(g.Add(square, float(site.attr("epsilon", 1e-5)))))
    normal = g.Mul(x, inverse)
    core = Sum(Keep(), Chain(Scale(normal), Mean(axes), Scale(-1.0), Scale(normal)))
    return Local.elementwise(site, Chain(core, Scale(inverse), Scale(site.node.inputs[1])), Scale(normal))


@GRADIENT.on("GroupNormalization")
def group_norm(site: Site, g: Emit) -> Local:
    """Statistics over each group of channels and the spatial axes; γ per channel (opset 21), or per group."""
    x, rank, groups = site.data, rank_of(site.data), int(site.attr("num_groups"))
    gamma, _ = site.fixed(1, "the scale"), site.fixed(2, "the bias")
    grouped = g.Reshape(x, g.ints(0, groups, -1))
    grouped.shape = [x.shape[0], groups, None]
    lines = Grouped(x, groups)
    core = Chain(lines, whiten(g, grouped, (2,), float(site.attr("epsilon", 1e-5))))
    if site.graph.opset < 21:
        return Local(Chain(core, Scale(g.Reshape(gamma, g.ints(1, -1, 1))), Shaped(grouped, x)))
    return Local(Chain(core, Shaped(grouped, x), Scale(per_channel(g, gamma, rank))))


class Grouped:
    """(N, C, ...) seen as (N, groups, everything else)."""

    def __init__(self, x: Value, groups: int) -> None:
        self.x, self.groups = x, groups

    def push(self, g: Emit, t: Value) -> Value:
        return g.Reshape(t, g.ints(0, self.groups, -1))

    def pull(self, g: Emit, ct: Value) -> Value:
        return g.shaped(ct, self.x)


@GRADIENT.on("LRN")
def lrn(site: Site, g: Emit) -> Local:
    """y = x D^-β, D = bias + α/size Σ_window x²: dy = D^-β dx - 2αβ/size x D^(-β-1) Σ_window x dx."""
    x, size = site.data, int(site.attr("size"))
    if size < 1:
        raise Refuse("its window is empty")
    alpha, beta = float(site.attr("alpha", 1e-4)), float(site.attr("beta", 0.75))
    before = (size - 1) // 2
    near = Neighbours(x, before, size - 1 - before)
    d = g.Add(g.Mul(near.push(g, g.Mul(x, x)), alpha / size), float(site.attr("bias", 1.0)))
    shrink = g.Pow(d, -beta)
    bend = g.Mul(g.Mul(x, g.Div(shrink, d)), -2 * alpha * beta / size)
    return Local(Sum(Scale(shrink), Chain(Scale(x), near, Scale(bend))))


@GRADIENT.on("Softmax")
def softmax(site: Site, g: Emit) -> Local:
    """dy = y (dx - Σ y dx)."""
    axes = (site.axis("axis", -1),)
    return Local(Chain(Sum(Keep(), Chain(Scale(site.y), Total(axes), Scale(-1.0))), Scale(site.y)))


@GRADIENT.on("LogSoftmax")
def log_softmax(site: Site, g: Emit) -> Local:
    """dy = dx - Σ e^y dx."""
    axes = (site.axis("axis", -1),)
    return Local(Sum(Keep(), Chain(Scale(g.Exp(site.y)), Total(axes), Scale(-1.0))))


@GRADIENT.on("LpNormalization")
def lp_normalization(site: Site, g: Emit) -> Local:
    """y = x / ‖x‖: dy = (dx - y Σ n dx) / ‖x‖, n the gradient of the norm: y for p = 2, sign x for p = 1.
    dy = 0 where x = 0."""
    axes, euclid = (site.axis("axis", -1),), int(site.attr("p", 2)) == 2
    norm = (g.ReduceL2 if euclid else g.ReduceL1)(site.data, g.ints(*axes), keepdims=1)
    zero = g.Equal(norm, 0.0)
    inverse = g.Where(zero, 0.0, g.Reciprocal(g.Where(zero, 1.0, norm)))
    normal = g.Mul(site.data, inverse)
    along = Chain(Scale(normal if euclid else g.Sign(site.data)), Total(axes), Scale(-1.0), Scale(normal))
    return Local(Chain(Sum(Keep(), along), Scale(inverse)))


@GRADIENT.on("MeanVarianceNormalization")
def mean_variance(site: Site, g: Emit) -> Local:
    """y = (x - mean) / √var over axes (default 0, 2, 3, which mixes the samples)."""
    rank = rank_of(site.data)
    axes = tuple(sorted(axis % rank for axis in (site.attr("axes") or [0, 2, 3])))
    if 0 in axes:
        raise Refuse("it normalises across the samples of the batch")
    return Local(whiten(g, site.data, axes, math.ulp(1.0)))
