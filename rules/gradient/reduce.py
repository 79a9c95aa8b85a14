"""Reductions along axes."""

from __future__ import annotations

from ...rewriter.emit import Emit
from ...rewriter.graph import Value
from ...rewriter.linear import Chain, Keep, Linear, Local, Permute, Reduced, Scale, TakeElements
from ...rewriter.site import Refuse, Site, rank_of
from .base import GRADIENT, normalised_axes
from .pool import average


def axes_of(site: Site) -> tuple[int, ...]:
    """The axes of a Reduce operator, from its second input; all of them when it is absent or empty."""
    rank = rank_of(site.data)
    if site.input(1) is None:
        axes = list(site.attr("axes") or [])
    else:
        axes = [int(axis) for axis in site.required(1, "the list of axes").ravel()]
    if not axes and site.attr("noop_with_empty_axes", 0):
        return ()
    return normalised_axes(axes or list(range(rank)), rank)


def total(site: Site) -> Reduced:
    return Reduced(site.data, axes_of(site), bool(site.attr("keepdims", 1)))


def full(site: Site, g: Emit, y: Value) -> Value:
    """y with its reduced axes kept at size 1, so that it broadcasts against x."""
    axes = axes_of(site)
    if site.attr("keepdims", 1) or not axes:
        return y
    return g.Unsqueeze(y, g.ints(*axes))


@GRADIENT.on("ReduceSum")
def reduce_sum(site: Site, g: Emit) -> Local:
    """dy = Σ dx."""
    return Local(total(site))


@GRADIENT.on("ReduceMean")
def reduce_mean(site: Site, g: Emit) -> Local:
    """dy = Σ dx / n."""
    return Local(Chain(total(site), average(site, g, axes_of(site))))


@GRADIENT.on("ReduceL2")
def reduce_l2(site: Site, g: Emit) -> Local:
    """y = √Σx²; dy = Σ x dx / y, 0 where y = 0."""
    y = full(site, g, site.y)
    share = g.Where(g.Equal(y, 0.0), 0.0, g.Div(site.data, y))
    return Local(Chain(Scale(share), total(site)))


@GRADIENT.on("ReduceL1")
def reduce_l1(site: Site, g: Emit) -> Local:
    """y = Σ|x|; dy = Σ sign(x) dx."""
    return Local(Chain(Scale(g.Sign(site.data)), total(site)))


@GRADIENT.on("ReduceSumSquare")
def reduce_sum_square(site: Site, g: Emit) -> Local:
    """y = Σx²; dy = Σ 2x dx."""
    return Local(Chain(Scale(g.Mul(site.data, 2.0)), total(site)))


@GRADIENT.on("ReduceLogSum")
def reduce_log_sum(site: Site, g: Emit) -> Local:
    """y = log Σx; dy = Σ dx / e^y."""
    return Local(Chain(total(site), Scale(g.Exp(g.Neg(site.y)))))


@GRADIENT.on("ReduceLogSumExp")
def reduce_log_sum_exp(site: Site, g: Emit) -> Local:
    """y = log Σ e^x; dy = Σ e^(x - y) dx."""
    return Local(Chain(Scale(g.Exp(g.Sub(site.data, full(site, g, site.y)))), total(site)))


@GRADIENT.on("ReduceProd")
def reduce_prod(site: Site, g: Emit) -> Local:
    """y = Πx; dy = Σ (Π of the others) dx, exact with zeros: without them y / x, with one zero the product of
    the rest at that place, with more 0."""
    x, axes = site.data, axes_of(site)
    if not axes:
        return Local(Keep())
    zero = g.cast(g.Equal(x, 0.0), x)
    filled = g.Add(x, zero)
    count = g.ReduceSum(zero, g.ints(*axes), keepdims=1)
    others = g.Div(g.ReduceProd(filled, g.ints(*axes), keepdims=1), filled)
    none = g.cast(g.Equal(count, 0.0), x)
    one = g.Mul(g.cast(g.Equal(count, 1.0), x), zero)
    return Local(Chain(Scale(g.Mul(others, g.Add(none, one))), total(site)))


@GRADIENT.on("ReduceMax", "ReduceMin")
def reduce_extreme(site: Site, g: Emit) -> Local:
    """The first of the largest (smallest) elements takes all."""
    return Local(
        first_extreme(site, g, axes_of(site), bool(site.attr("keepdims", 1)), site.op == "ReduceMax")
    )


@GRADIENT.on("GlobalMaxPool")
def global_max_pool(site: Site, g: Emit) -> Local:
    """The first of the largest elements of each channel takes all."""
    return Local(first_extreme(site, g, tuple(range(2, rank_of(site.data))), True, True))


def first_extreme(site: Site, g: Emit, axes: tuple[int, ...], keepdims: bool, largest: bool) -> Linear:
    """Reduced axes last, flattened; the arg max there; the element taken; the axes put back."""
    x, rank = site.data, rank_of(site.data)
    if not axes:
        return Keep()
    if 0 in axes:
        raise Refuse("it compares samples of the batch with each other")
    if any(x.shape[axis] == 0 for axis in axes):
        raise Refuse("an empty axis has no largest element")
    kept = [axis for axis in range(rank) if axis not in axes]
    order = Permute((*kept, *axes))
    lines = g.Reshape(g.Transpose(x, perm=list(order.perm)), g.ints(*[0] * len(kept), -1))
    index = (g.ArgMax if largest else g.ArgMin)(lines, axis=-1, keepdims=1)
    take = TakeElements(g.Shape(lines, start=1), index, len(kept), len(kept) + 1)
    turned = [g.ints(-1), *(g.size(x, axis) for axis in order.perm[1:])]
    flat = Resized(g.ints(*[0] * len(kept), -1), g.join(*turned))
    rest = [
        g.ints(-1),
        *(g.size(x, i) if i in kept else g.ints(1) for i in range(1, rank) if keepdims or i in kept),
    ]
    back = Resized(g.join(*rest), g.join(g.ints(-1), *(g.size(x, i) for i in kept[1:]), g.ints(1)))
    return Chain(order, flat, take, back)


class Resized:
    """The same elements under explicit shapes: `after` for the push, `before` for the pull (1-D int64)."""

    def __init__(self, after: Value, before: Value) -> None:
        self.after, self.before = after, before

    def push(self, g: Emit, t: Value) -> Value:
        return g.Reshape(t, self.after)

    def pull(self, g: Emit, ct: Value) -> Value:
        return g.Reshape(ct, self.before)
