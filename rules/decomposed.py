"""Chords of softmax, normalisations and reductions, taken apart into sums, products and elementwise functions.

Each part has its chord (see `chord`), so the whole sums to delta. Where the plain quotient Δf / Δx would cancel in
float32 an equal form is used that does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from ..rewriter.emit import Emit
from ..rewriter.graph import Value
from ..rewriter.linear import Chain, Keep, Linear, Local, Mean, Neighbours, Scale, Shaped, Sum, Total
from ..rewriter.rules import Rule
from ..rewriter.site import Refuse, Site, rank_of
from .gradient.norm import Grouped, per_channel
from .gradient.reduce import axes_of, total
from .reciprocals import weighted


def halfway(g: Emit, a: Value, a0: Value) -> Value:
    """(a + a⁰)/2; a parameter is itself."""
    if a is a0 or not a.name:
        return a
    value: Value = g.Mul(g.Add(a, a0), 0.5)
    value.dtype, value.shape = a.dtype, a.shape
    return value


def log_mean(g: Emit, a: Value, b: Value, d: Value) -> Value:
    """(a - b) / d for d = log a - log b: the logarithmic mean of a and b, between the two. Near d = 0 by the series
    a (1 - d/2 + d²/6 - d³/24 + d⁴/120), where the next term, d⁵/720, is below rounding."""
    small = g.Less(g.Abs(d), float(720 * np.finfo(a.dtype).eps) ** 0.2)
    series: Value | float = 1.0
    for n in (5, 4, 3, 2):
        series = g.Sub(1.0, g.Mul(g.Mul(d, 1.0 / n), series))
    return g.Where(small, g.Mul(a, series), g.Div(g.Sub(a, b), g.Where(small, 1.0, d)))


def _change(g: Emit, a: Value, b: Value) -> Value:
    """a - b; 0 where they are equal, infinite ones too: masks put -inf into logits."""
    return g.Where(g.Equal(a, b), 0.0, g.Sub(a, b))


def _log_sum(g: Emit, z: Value, axes: tuple[int, ...]) -> Value:
    """log Σ e^z, its axes kept."""
    at = g.ints(*axes)
    top = g.ReduceMax(z, at, keepdims=1)
    return g.Add(top, g.Log(g.ReduceSum(g.Exp(g.Sub(z, top)), at, keepdims=1)))


def _log_sum_chord(g: Emit, z: Value, z0: Value, axes: tuple[int, ...]) -> tuple[Value, Value, Value]:
    """L = log Σ e^z, L⁰, and the ρ of ΔL = Σ ρ Δz: the chord of exp over that of log, under one shift."""
    whole, whole0 = _log_sum(g, z, axes), _log_sum(g, z0, axes)
    shift = g.Max(whole, whole0)
    e, e0 = g.Exp(g.Sub(z, shift)), g.Exp(g.Sub(z0, shift))
    s, s0 = g.Exp(g.Sub(whole, shift)), g.Exp(g.Sub(whole0, shift))
    part = log_mean(g, e, e0, _change(g, z, z0))
    return whole, whole0, g.Div(part, log_mean(g, s, s0, g.Sub(whole, whole0)))


def log_softmax(site: Site, g: Emit) -> Local:
    """y = z - L: Δy = Δz - Σ ρ Δz."""
    axes = (site.axis("axis", -1),)
    _, _, rho = _log_sum_chord(g, site.data, site.reference.data, axes)
    return Local(Sum(Keep(), Chain(Scale(rho), Total(axes), Scale(-1.0))))


def softmax(site: Site, g: Emit) -> Local:
    """y = e^(z - L), the chord of exp behind that of z - L. The other spelling, e^z times 1/Σe^z, has factors
    e^|ΔL| that cancel: at ΔL = 17 nothing of a float32 is left."""
    axes = (site.axis("axis", -1),)
    z, z0 = site.data, site.reference.data
    whole, whole0, rho = _log_sum_chord(g, z, z0, axes)
    w, w0 = g.Sub(z, whole), g.Sub(z0, whole0)
    outer = log_mean(g, site.y, site.reference.y, _change(g, w, w0))
    return Local(Chain(Sum(Keep(), Chain(Scale(rho), Total(axes), Scale(-1.0))), Scale(outer)))


def reduce_log_sum_exp(site: Site, g: Emit) -> Local:
    """y = log Σ e^x: Δy = Σ ρ Δx."""
    _, _, rho = _log_sum_chord(g, site.data, site.reference.data, axes_of(site))
    return Local(Chain(Scale(rho), total(site)))


def reduce_log_sum(site: Site, g: Emit) -> Local:
    """y = log Σx, by the chord of log at the sums."""
    change = total(site)
    s, s0 = change.push(g, site.data), change.push(g, site.reference.data)
    d = g.Reciprocal(log_mean(g, s, s0, g.Sub(site.y, site.reference.y)))
    return Local(Chain(change, Scale(d)))


def _one_over(g: Emit, a: Value) -> Value:
    """1/a, 0 where a = 0."""
    none = g.Equal(a, 0.0)
    return g.Where(none, 0.0, g.Reciprocal(g.Where(none, 1.0, a)))


def reduce_l2(site: Site, g: Emit) -> Local:
    """y = √Σx²: Δy = Σ (x + x⁰) Δx / (y + y⁰)."""
    both = g.Add(site.data, site.reference.data)
    return Local(Chain(Scale(both), total(site), Scale(_one_over(g, g.Add(site.y, site.reference.y)))))


def _absolute(g: Emit, x: Value, x0: Value) -> Value:
    """Δ|x| / Δx = (x + x⁰) / (|x| + |x⁰|): nothing cancels; 0 where both are 0."""
    return g.Mul(g.Add(x, x0), _one_over(g, g.Add(g.Abs(x), g.Abs(x0))))


def reduce_l1(site: Site, g: Emit) -> Local:
    """y = Σ|x|, by the chords of |x|."""
    return Local(Chain(Scale(_absolute(g, site.data, site.reference.data)), total(site)))


def quotient_chord(g: Emit, y: Value, y0: Value, b: Value, b0: Value) -> tuple[Value, Value]:
    """m_a and m_b of y = a / b: (b + b⁰) / (b² + b⁰²) and -(b⁰ y + b y⁰) / (b² + b⁰²); 0 where b = b⁰ = 0.

    That is the product with the reciprocal, Δy = (λ/b + (1 - λ)/b⁰) Δa + ((1 - λ) a + λ a⁰) Δ(1/b), its two halves
    weighted by λ = b² / (b² + b⁰²) instead of 1/2. For a small b⁰, as a constant reference has it behind a
    normalisation, the terms with 1/b⁰ would cancel in the end, but after a few layers they have left the range of a
    float32.
    """
    size = g.Max(g.Abs(b), g.Abs(b0))
    none = g.Equal(size, 0.0)
    over = g.Where(none, 0.0, g.Reciprocal(g.Where(none, 1.0, size)))
    v, v0 = g.Mul(b, over), g.Mul(b0, over)  # of size 1: no square leaves the range
    share = g.Div(over, g.Where(none, 1.0, g.Add(g.Mul(v, v), g.Mul(v0, v0))))
    upper = g.Mul(g.Add(v, v0), share)
    lower = g.Neg(g.Mul(g.Add(g.Mul(v0, y), g.Mul(v, y0)), share))
    return upper, lower


def lp_normalization(site: Site, g: Emit) -> Local:
    """y = x / ‖x‖, 0 where x = 0, by the chords of the norm and of the quotient."""
    axes, euclid = (site.axis("axis", -1),), int(site.attr("p", 2)) == 2
    x, x0, at = site.data, site.reference.data, g.ints(*axes)
    norm, norm0 = ((g.ReduceL2 if euclid else g.ReduceL1)(v, at, keepdims=1) for v in (x, x0))
    grow = g.Mul(g.Add(x, x0), _one_over(g, g.Add(norm, norm0))) if euclid else _absolute(g, x, x0)
    upper, lower = quotient_chord(g, site.y, site.reference.y, norm, norm0)
    return Local(Sum(Scale(upper), Chain(Scale(grow), Total(axes), Scale(lower))))


def whitened(
    g: Emit, x: Value, x0: Value, axes: tuple[int, ...], epsilon: float, centred: bool = True
) -> tuple[Linear, Value]:
    """x̂ = c / s with c = x - mean x (x itself unless centred), s = √(mean c² + ε), by mean, square, root and quotient;
    and x̂ halfway. Δs = mean(c + c⁰)Δc / (s + s⁰)."""
    at = g.ints(*axes)
    centres, roots = [], []
    for v in (x, x0):
        c = g.Sub(v, g.ReduceMean(v, at, keepdims=1)) if centred else v
        centres.append(c)
        roots.append(g.Sqrt(g.Add(g.ReduceMean(g.Mul(c, c), at, keepdims=1), epsilon)))
    (c, c0), (s, s0) = centres, roots
    normal, normal0 = g.Div(c, s), g.Div(c0, s0)
    upper, lower = quotient_chord(g, normal, normal0, s, s0)
    grow = g.Div(g.Add(c, c0), g.Add(s, s0))
    quotient = Sum(Scale(upper), Chain(Scale(grow), Mean(axes), Scale(lower)))
    centring = Sum(Keep(), Chain(Mean(axes), Scale(-1.0)))
    middle = g.Mul(g.Add(normal, normal0), 0.5)
    return (Chain(centring, quotient) if centred else quotient), middle


def _epsilon(site: Site) -> float:
    return float(site.attr("epsilon", 1e-5))


def layer_norm(site: Site, g: Emit) -> Local:
    """y = γ x̂ + β; γ and β may be activations."""
    if site.port:
        raise Refuse("the statistics of a LayerNormalization are explained; explain its first output")
    axes = tuple(range(site.axis("axis", -1), rank_of(site.data)))
    core, middle = whitened(g, site.data, site.reference.data, axes, _epsilon(site))
    gamma = halfway(g, site.node.inputs[1], site.reference.node.inputs[1])
    maps = (Chain(core, Scale(gamma)), Scale(middle), Keep())
    return Local.elementwise(site, *maps[: len(site.x)])


def rms_norm(site: Site, g: Emit) -> Local:
    """y = γ x r, r = 1/√(mean x² + ε)."""
    axes = tuple(range(site.axis("axis", -1), rank_of(site.data)))
    core, middle = whitened(g, site.data, site.reference.data, axes, _epsilon(site), centred=False)
    gamma = halfway(g, site.node.inputs[1], site.reference.node.inputs[1])
    return Local.elementwise(site, Chain(core, Scale(gamma)), Scale(middle))


def instance_norm(site: Site, g: Emit) -> Local:
    """Statistics over the spatial axes of each channel of each sample."""
    rank = rank_of(site.data)
    gamma, _ = site.fixed(1, "the scale"), site.fixed(2, "the bias")
    core, _ = whitened(g, site.data, site.reference.data, tuple(range(2, rank)), _epsilon(site))
    return Local(Chain(core, Scale(per_channel(g, gamma, rank))))


def group_norm(site: Site, g: Emit) -> Local:
    """Statistics over each group of channels and the spatial axes; γ per channel."""
    x, rank, groups = site.data, rank_of(site.data), int(site.attr("num_groups"))
    gamma, _ = site.fixed(1, "the scale"), site.fixed(2, "the bias")
    lines = Grouped(x, groups)
    grouped, grouped0 = lines.push(g, x), lines.push(g, site.reference.data)
    grouped.shape = [x.shape[0], groups, None]
    core = Chain(lines, whitened(g, grouped, grouped0, (2,), _epsilon(site))[0])
    return Local(Chain(core, Shaped(grouped, x), Scale(per_channel(g, gamma, rank))))


def mean_variance(site: Site, g: Emit) -> Local:
    """y = (x - mean) / √var over axes (default 0, 2, 3, which mixes the samples)."""
    rank = rank_of(site.data)
    axes = tuple(sorted(axis % rank for axis in (site.attr("axes") or [0, 2, 3])))
    if 0 in axes:
        raise Refuse("it normalises across the samples of the batch")
    return Local(whitened(g, site.data, site.reference.data, axes, 2.0**-52)[0])


def lrn(site: Site, g: Emit) -> Local:
    """y = x p, p = D^-β, D = bias + α/size Σ_window x²: Δy = m_x Δx + m_p Δp (`weighted`), Δp = -β lm(p) / lm(D) ΔD
    with lm the logarithmic mean of the two values: the chord of the power."""
    size, alpha, beta = (
        int(site.attr("size")),
        float(site.attr("alpha", 1e-4)),
        float(site.attr("beta", 0.75)),
    )
    if size < 1:
        raise Refuse("its window is empty")
    before = (size - 1) // 2
    x, x0, window = site.data, site.reference.data, Neighbours(site.data, before, size - 1 - before)
    window0 = Neighbours(x0, before, size - 1 - before)
    bias = float(site.attr("bias", 1.0))
    d = g.Add(g.Mul(window.push(g, g.Mul(x, x)), alpha / size), bias)
    d0 = g.Add(g.Mul(window0.push(g, g.Mul(x0, x0)), alpha / size), bias)
    p, p0, logs = g.Pow(d, -beta), g.Pow(d0, -beta), g.Sub(g.Log(d), g.Log(d0))
    slope = g.Div(
        g.Mul(log_mean(g, p, p0, g.Mul(logs, -beta)), -beta * alpha / size), log_mean(g, d, d0, logs)
    )
    upper, lower = weighted(g, x, x0, p, p0)
    along = Chain(Scale(g.Add(x, x0)), window, Scale(g.Mul(slope, lower)))
    return Local(Sum(Scale(upper), along))


def reduce_prod(site: Site, g: Emit) -> Local:
    raise Refuse("DeepLIFT has no rule for a product of many activations; export it as products of two")


def top_k(site: Site, g: Emit) -> Local:
    raise Refuse("DeepLIFT has no rule for sorted values; only for a maximum")


DECOMPOSED: Mapping[str, Rule] = MappingProxyType(
    {
        "Softmax": softmax,
        "LogSoftmax": log_softmax,
        "ReduceLogSumExp": reduce_log_sum_exp,
        "ReduceLogSum": reduce_log_sum,
        "ReduceL2": reduce_l2,
        "ReduceL1": reduce_l1,
        "ReduceProd": reduce_prod,
        "TopK": top_k,
        "LpNormalization": lp_normalization,
        "LayerNormalization": layer_norm,
        "RMSNormalization": rms_norm,
        "InstanceNormalization": instance_norm,
        "GroupNormalization": group_norm,
        "MeanVarianceNormalization": mean_variance,
        "LRN": lrn,
    }
)

__all__ = ["DECOMPOSED", "halfway", "log_mean", "quotient_chord"]
