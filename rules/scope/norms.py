"""Normalisations with their statistics taken at x0. docs/methods/linearscope.md.

"stats" freezes mean and deviation, as the text says: A is diagonal. "std" freezes the deviation alone; the mean stays
linear, so that every element reaches every other one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from ...rewriter.emit import Emit
from ...rewriter.graph import Value
from ...rewriter.linear import Chain, Keep, Linear, Local, Mean, Neighbours, Scale, Shaped, Sum
from ...rewriter.rules import Rule
from ...rewriter.site import Refuse, Site, rank_of
from ..gradient.norm import Grouped, per_channel

MVN_EPSILON = 2.0**-52


def statistics(g: Emit, x: Value, axes: tuple[int, ...], epsilon: float) -> tuple[Value, Value]:
    """mean x and 1/√(var x + ε) over axes, kept at size 1."""
    at = g.ints(*axes)
    mean = g.ReduceMean(x, at, keepdims=1)
    centred = g.Sub(x, mean)
    spread = g.Add(g.ReduceMean(g.Mul(centred, centred), at, keepdims=1), epsilon)
    return mean, g.Reciprocal(g.Sqrt(spread))


def frozen(
    g: Emit, x: Value, axes: tuple[int, ...], epsilon: float, std: bool
) -> tuple[Linear, Value | None]:
    """(x - mean) / deviation as a map and an offset."""
    mean, inverse = statistics(g, x, axes, epsilon)
    if std:
        return Chain(Sum(Keep(), Chain(Mean(axes), Scale(-1.0))), Scale(inverse)), None
    return Scale(inverse), g.Neg(g.Mul(mean, inverse))


def affine(g: Emit, offset: Value | None, gamma: Value, beta: Value | None) -> Value | None:
    """γ offset + β."""
    if offset is None:
        return beta
    value: Value = g.Mul(offset, gamma)
    return value if beta is None else g.Add(value, beta)


def layer_norm(std: bool) -> Rule:
    """Over the axes from `axis` on; γ and β broadcast, β may be an activation."""

    def rule(site: Site, g: Emit) -> Local:
        if site.port:
            raise Refuse("the statistics of a LayerNormalization are explained; explain its first output")
        axes = tuple(range(site.axis("axis", -1), rank_of(site.data)))
        core, offset = frozen(g, site.data, axes, float(site.attr("epsilon", 1e-5)), std)
        gamma, beta = site.fixed(1, "the scale"), site.input(2)
        live = len(site.active) > 2 and site.active[2]
        offset = affine(g, offset, gamma, None if live else beta)
        maps: tuple[Linear | None, ...] = (Chain(core, Scale(gamma)), None, Keep())
        return Local.elementwise(site, *maps[: len(site.x)], offset=offset)

    return rule


def rms_norm(std: bool) -> Rule:
    """y = γ x r: nothing to centre."""

    def rule(site: Site, g: Emit) -> Local:
        axes = tuple(range(site.axis("axis", -1), rank_of(site.data)))
        square = g.ReduceMean(g.Mul(site.data, site.data), g.ints(*axes), keepdims=1)
        inverse = g.Reciprocal(g.Sqrt(g.Add(square, float(site.attr("epsilon", 1e-5)))))
        gamma = site.fixed(1, "the scale")
        return Local.elementwise(site, Chain(Scale(inverse), Scale(gamma)))

    return rule


def instance_norm(std: bool) -> Rule:
    """Over the spatial axes of each channel of each sample."""

    def rule(site: Site, g: Emit) -> Local:
        rank = rank_of(site.data)
        gamma, beta = (
            per_channel(g, site.fixed(i, what), rank) for i, what in ((1, "the scale"), (2, "the bias"))
        )
        core, offset = frozen(g, site.data, tuple(range(2, rank)), float(site.attr("epsilon", 1e-5)), std)
        return Local(Chain(core, Scale(gamma)), offset=affine(g, offset, gamma, beta))

    return rule


def group_norm(std: bool) -> Rule:
    """Over each group of channels and the spatial axes; γ and β per channel (opset 21), or per group."""

    def rule(site: Site, g: Emit) -> Local:
        x, rank, groups = site.data, rank_of(site.data), int(site.attr("num_groups"))
        gamma, beta = site.fixed(1, "the scale"), site.fixed(2, "the bias")
        lines = Grouped(x, groups)
        grouped = lines.push(g, x)
        grouped.shape = [x.shape[0], groups, None]
        core, offset = frozen(g, grouped, (2,), float(site.attr("epsilon", 1e-5)), std)
        whole = Chain(lines, core, Shaped(grouped, x))
        wide = None if offset is None else g.shaped(g.Expand(offset, g.Shape(grouped)), x)
        by = [per_channel(g, v, rank) for v in (gamma, beta)]
        if site.graph.opset < 21:  # each value stands for the channels of its group
            by = [_repeated(g, v, x, groups, rank) for v in (gamma, beta)]
        return Local(Chain(whole, Scale(by[0])), offset=affine(g, wide, by[0], by[1]))

    return rule


def _repeated(g: Emit, v: Value, x: Value, groups: int, rank: int) -> Value:
    each = g.Div(g.size(x, 1), g.ints(groups))
    wide = g.Expand(g.Reshape(v, g.ints(-1, 1)), g.join(g.ints(groups), each))
    return g.Reshape(wide, g.ints(1, -1, *[1] * (rank - 2)))


def lrn(std: bool) -> Rule:
    """y = x D(x0)^-β, D = bias + α/size Σ_window x0²."""

    def rule(site: Site, g: Emit) -> Local:
        x, size = site.data, int(site.attr("size"))
        if size < 1:
            raise Refuse("its window is empty")
        before = (size - 1) // 2
        near = Neighbours(x, before, size - 1 - before).push(g, g.Mul(x, x))
        d = g.Add(g.Mul(near, float(site.attr("alpha", 1e-4)) / size), float(site.attr("bias", 1.0)))
        return Local(Scale(g.Pow(d, -float(site.attr("beta", 0.75)))))

    return rule


def lp_norm(std: bool) -> Rule:
    """y = x / ‖x0‖; 0 where x0 = 0."""

    def rule(site: Site, g: Emit) -> Local:
        axes = g.ints(site.axis("axis", -1))
        reduce = g.ReduceL2 if int(site.attr("p", 2)) == 2 else g.ReduceL1
        norm = reduce(site.data, axes, keepdims=1)
        zero = g.Equal(norm, 0.0)
        one = g.number(1.0, norm)
        return Local(Scale(g.Where(zero, g.number(0.0, norm), g.Reciprocal(g.Where(zero, one, norm)))))

    return rule


def mean_variance(std: bool) -> Rule:
    """Over axes (default 0, 2, 3, which mixes the samples)."""

    def rule(site: Site, g: Emit) -> Local:
        rank = rank_of(site.data)
        axes = tuple(sorted(axis % rank for axis in (site.attr("axes") or [0, 2, 3])))
        if 0 in axes:
            raise Refuse("it normalises across the samples of the batch")
        core, offset = frozen(g, site.data, axes, MVN_EPSILON, std)
        return Local(core, offset=offset)

    return rule


NORMS: Mapping[str, Callable[[bool], Rule]] = MappingProxyType(
    {
        "LayerNormalization": layer_norm,
        "RMSNormalization": rms_norm,
        "InstanceNormalization": instance_norm,
        "GroupNormalization": group_norm,
        "LRN": lrn,
        "LpNormalization": lp_norm,
        "MeanVarianceNormalization": mean_variance,
    }
)
"""Operator -> (freeze the deviation alone?) -> rule."""

__all__ = ["NORMS"]
