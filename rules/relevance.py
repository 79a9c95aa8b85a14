"""Relevance through nodes with weights: each rule once, for Conv, ConvTranspose, Gemm and MatMul.

A rule shares out the relevance R of an output z = A x + b among its inputs, in proportion to what they put in. A
proportion is a composition of maps that are there already: the pull of Chain(Scale(v), V, Scale(1/z)) is v ⊙ Vᵀ(R/z).
Rules differ in the terms V v that they count as contributions. Source: docs/methods/lrp.md, "Weighted nodes".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeAlias

from ..rewriter.emit import Emit
from ..rewriter.graph import Graph, Value
from ..rewriter.linear import Chain, Linear, Local, Scale, Sum
from ..rewriter.rules import Rule
from ..rewriter.signs import nonnegative
from ..rewriter.site import Site
from .bounds import Box
from .gradient import GRADIENT
from .gradient.base import step
from .reweigh import reweighed

ABSOLUTE, RELATIVE = "absolute", "relative"
DENOMINATOR, IGNORE, DISTRIBUTE = "denominator", "ignore", "distribute"
EPSILON = 1e-6


@dataclass(frozen=True)
class Stabiliser:
    """z + ε s(z), s(z) = 1 for z >= 0 and -1 below: keeps a quotient R/z finite where z is near 0.

    mode: "absolute", or "relative", ε times the root mean square of z over a sample. ε = 0 means LRP-0: R/0 := 0.
    """

    epsilon: float = EPSILON
    mode: str = ABSOLUTE

    def inverse(self, g: Emit, z: Value, *, positive: bool = False) -> Value:
        """1 / (z + ε s(z)); 0 where that is 0, which only happens without an absolute ε. positive: z >= 0."""
        if self.epsilon == 0 or self.mode == ABSOLUTE:
            inverse: Value = g.primitive("Inverse", z, epsilon=self.epsilon, positive=int(positive))
            inverse.shape = z.shape
            return inverse
        mean = g.ReduceMean(g.Mul(z, z), self._rest(g, z), keepdims=1)
        shift = g.Mul(g.Sqrt(mean), self.epsilon)
        return reciprocal(g, g.Add(z, g.Where(g.GreaterOrEqual(z, 0.0), shift, g.Neg(shift))))

    def _rest(self, g: Emit, z: Value) -> Value:
        """Every axis but the first."""
        if z.shape is not None:
            return g.ints(*range(1, len(z.shape)))
        return g.Range(g.scalar(1), g.Squeeze(g.Shape(g.Shape(z))), g.scalar(1))


def reciprocal(g: Emit, z: Value) -> Value:
    """1/z, 0 where z = 0."""
    none = g.Equal(z, 0.0)
    return g.Where(none, g.number(0.0, z), g.Reciprocal(g.Where(none, g.number(1.0, z), z)))


@dataclass
class Signs:
    """Which tensors are provably >= 0; of one graph at a time."""

    _of: tuple[Graph, frozenset[str]] | None = None

    def nonnegative(self, site: Site, x: Value) -> bool:
        if self._of is None or self._of[0] is not site.graph:
            self._of = site.graph, nonnegative(site.graph)
        return x.name in self._of[1]


@dataclass(frozen=True)
class Settings:
    """What the rules are told. bias: "denominator" (it takes its share of R, and that is dropped), "ignore" (it is
    left out of z), "distribute" (its share goes to the inputs of the receptive field in equal parts)."""

    stabiliser: Stabiliser = field(default_factory=Stabiliser)
    bias: str = DENOMINATOR
    gamma: float = 0.25
    plain: bool = False
    alpha: float = 2.0
    beta: float = 1.0
    box: Box = field(default_factory=Box)
    signs: Signs = field(default_factory=Signs, compare=False)


@dataclass(frozen=True)
class Layer:
    """A node with weights, y = A x + b, whose input x is the only activation it reads; and the settings."""

    site: Site
    g: Emit
    x: Value
    a: Linear
    b: Value | None
    told: Settings

    def weights(self, f: Callable[[Value], Value]) -> Linear:
        """The map with f(W) in place of W."""
        return reweighed(self.a, f, self.g)

    @property
    def plus(self) -> Linear:
        return self.weights(self.g.Relu)

    @property
    def minus(self) -> Linear:
        return self.weights(self.lower)

    @property
    def flat(self) -> Linear:
        """Every weight 1."""
        return self.weights(lambda w: self.g.Expand(self.g.number(1.0, w), self.g.Shape(w)))

    def lower(self, v: Value) -> Value:
        """min(v, 0)."""
        return self.g.Min(v, 0.0)

    def signed(self, above: Linear, below: Linear) -> tuple[tuple[Value, Linear], ...]:
        """Terms with one map for the positive part of x and another one for the negative part, if it has any."""
        if self.told.signs.nonnegative(self.site, self.x):
            return ((self.x, above),)
        return (self.g.Relu(self.x), above), (self.lower(self.x), below)

    def filled(self, v: Value | float) -> Value:
        """A number or a per-channel tensor in the shape of x; one row, for all samples."""
        g, x = self.g, self.x
        turned = self.site.op == "Gemm" and bool(self.site.attr("transA", 0))
        shape = g.Shape(x) if turned else g.join(g.ints(1), g.rest(x))
        return g.Expand(g.number(v, x), shape)

    def share(
        self,
        *terms: tuple[Value, Linear],
        bias: Value | None = None,
        z: Value | None = None,
        factor: Value | float | None = None,
        positive: bool = False,
    ) -> Local:
        """R shared among terms V v in proportion to z = Σ V v + bias: R_x = Σ v ⊙ Vᵀ(factor R / stab(z)).

        z: given where it is known already; positive: it cannot be negative. bias counts as the setting `bias` says;
        the offset is its share.
        """
        g, mode = self.g, self.told.bias
        if z is None:
            z = g.total([part.push(g, v) for v, part in terms])
            z = z if bias is None or mode == IGNORE else g.Add(z, bias)
            z.shape = self.site.y.shape
        quotient = self.told.stabiliser.inverse(g, z, positive=positive)
        if factor is not None:
            quotient = g.Mul(quotient, factor)
        chains = [Chain(Scale(v), part) for v, part in terms]
        if bias is not None and mode == DISTRIBUTE:
            count = reciprocal(g, self.flat.push(g, self.filled(1.0)))
            chains.append(Chain(self.flat, Scale(g.Mul(count, bias))))
        lost = g.Mul(bias, quotient) if bias is not None and mode == DENOMINATOR else None
        return Local(Chain(Sum(*chains) if len(chains) > 1 else chains[0], Scale(quotient)), offset=lost)

    @property
    def own(self) -> Value:
        """A x + b as recorded, or A x where the bias is ignored."""
        y = self.site.y
        if self.b is None or self.told.bias != IGNORE:
            return y
        value: Value = self.g.Sub(y, self.b)
        value.shape = y.shape
        return value


Share: TypeAlias = Callable[[Layer], Local]
"""The map of the relevance; its offset is the share that biases take, so that push(1) + offset = 1 but for ε."""


def both(n: Layer, a: Local, b: Local) -> Local:
    """The sum of two shares."""
    lost = [part for part in (a.offset, b.offset) if part is not None]
    return Local(Sum(a.map, b.map), offset=n.g.total(lost) if lost else None)


def epsilon(n: Layer) -> Local:
    """x ⊙ Aᵀ(R / stab(z)). With ε = 0, LRP-0: x times the gradient in a net of Relus without biases."""
    return n.share((n.x, n.a), bias=n.b, z=n.own)


def gamma(n: Layer) -> Local:
    """Contributions of the sign of z count (1 + γ)-fold, by the signs of x and W. plain: W + γW⁺ for all of them,
    which is the same where x >= 0 and z > 0 (Montavon et al. 2019)."""
    g, c, b = n.g, n.told.gamma, n.b
    above, below = (
        n.weights(lambda w: grown(g, w, g.Relu(w), c)),
        None if b is None else grown(g, b, g.Relu(b), c),
    )
    if n.told.plain:
        return n.share((n.x, above), bias=below)
    under = n.weights(lambda w: grown(g, w, n.lower(w), c))
    worse = None if b is None else grown(g, b, n.lower(b), c)
    return both(
        n,
        n.share(*n.signed(above, under), bias=below, factor=step(g, n.site.y, 0.0)),
        n.share(*n.signed(under, above), bias=worse, factor=step(g, n.site.y, None, 0.0)),
    )


def grown(g: Emit, v: Value, part: Value, c: float) -> Value:
    """v + c part."""
    return g.Add(v, g.Mul(part, c))


def alpha_beta(n: Layer) -> Local:
    """α of R to the positive contributions, -β to the negative ones, α - β = 1. The bias is one of its sign."""
    g, plus, minus = n.g, n.plus, n.minus
    up, down = (None, None) if n.b is None else (g.Relu(n.b), n.lower(n.b))
    share = None if n.told.alpha == 1 else n.told.alpha
    mine = n.share(*n.signed(plus, minus), bias=up, factor=share, positive=True)
    if n.told.beta == 0:
        return mine
    return both(n, mine, n.share(*n.signed(minus, plus), bias=down, factor=-n.told.beta))


def z_plus(n: Layer) -> Local:
    """α = 1, β = 0: positive contributions alone."""
    g = n.g
    return n.share(*n.signed(n.plus, n.minus), bias=None if n.b is None else g.Relu(n.b), positive=True)


def w_square(n: Layer) -> Local:
    """In proportion to W², whatever x and b: (W²)ᵀ(R / stab(Σ W²))."""
    return n.share((n.filled(1.0), n.weights(lambda w: n.g.Mul(w, w))), positive=True)


def flat(n: Layer) -> Local:
    """Equal parts to all inputs of the receptive field; cells of the padding are none."""
    return n.share((n.filled(1.0), n.flat), positive=True)


def z_box(n: Layer) -> Local:
    """Root points in the corners of the box l <= x <= h: contributions W x - W⁺ l - W⁻ h, none of them of the wrong
    sign. The bias cancels: it counts with W as with W⁺ and W⁻."""
    g = n.g
    low, high = (n.filled(bound) for bound in n.told.box.at(n.site, n.x, g))
    return n.share((n.x, n.a), (g.Neg(low), n.plus), (g.Neg(high), n.minus))


SHARES: Mapping[str, Share] = MappingProxyType(
    {
        "zero": epsilon,
        "epsilon": epsilon,
        "gamma": gamma,
        "alpha-beta": alpha_beta,
        "z-plus": z_plus,
        "w-square": w_square,
        "flat": flat,
        "z-box": z_box,
    }
)
"""Rules for nodes with weights, by name. "zero" is "epsilon" with ε = 0."""


def weighted_input(site: Site) -> int | None:
    """Which operand is the activation of a node with weights; None where both are, or the bias is too."""
    if site.op not in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
        return None
    live = [i for i, flag in enumerate(site.active) if flag]
    return live[0] if len(live) == 1 and live[0] < 2 else None


def relevance(name: str, told: Settings) -> Rule:
    """A rule of SHARES, for the nodes at which `weighted_input` finds one."""
    shared = SHARES[name]

    def rule(site: Site, g: Emit) -> Local:
        i, base = weighted_input(site), GRADIENT.find(site)
        assert i is not None and base is not None, site.op
        local = base(site, g)
        part = local.maps[i]
        assert part is not None
        layer = Layer(site, g, site.node.inputs[i], part, local.offset, told)
        found = shared(layer)
        return Local(*(None,) * i, found.map, offset=found.offset)

    rule.__name__ = name
    return rule
