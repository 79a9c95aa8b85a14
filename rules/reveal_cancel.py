"""DeepLIFT's RevealCancel: positive and negative changes go through an activation apart. Shrikumar et al. 2017 section
3.5.3; Ayyar 2021 Eq. 22-25; docs/methods/deeplift.md.

The rule stands on an affine node u = W x + b and the activation y = f(u) behind it, which a view joins to one node.
"""

from __future__ import annotations

import math
from collections.abc import Collection

from ..rewriter.canonical import pair_layers
from ..rewriter.emit import PRIVATE, Emit
from ..rewriter.graph import Graph, Value
from ..rewriter.linear import Chain, Local, Scale, Sum
from ..rewriter.method import View
from ..rewriter.rules import Match, Rule, Rules
from ..rewriter.site import Site
from .chord import ELEMENTWISE, product, rescale, secant, slope, steady
from .gradient import GRADIENT
from .reweigh import reweighed

LAYER = f"{PRIVATE}:Layer"
DENSE = frozenset({"Gemm", "MatMul"})
AFFINE = DENSE | {"Conv", "ConvTranspose"}
ACTIVATIONS = ELEMENTWISE - {"Mod"}


def joined(ops: Collection[str]) -> View:
    """A view in which affine nodes of these operators and the activations behind them are one."""

    def view(graph: Graph, g: Emit, keep: Collection[str]) -> Graph:
        return pair_layers(graph, ops, ACTIVATIONS, keep)

    return view


def reveal_cancel(tau: float) -> Rules:
    """RevealCancel in joined layers; elsewhere Rescale, with a note at activations that stand alone."""

    def alone(site: Site, g: Emit) -> Local:
        g.note(
            f"{site.op} at {site.name}: its input is not an affine layer's alone; Rescale instead of RevealCancel"
        )
        rule = plain.find(site)
        assert rule is not None
        return rule(site, g)

    plain = rescale(tau)
    lonely: dict[Match, Rule] = {ACTIVATIONS: alone}
    return mixed(tau) | lonely


def mixed(tau: float) -> Rules:
    """RevealCancel in joined layers, Rescale elsewhere."""

    def layer(site: Site, g: Emit) -> Local:
        """m_x = W₊ᵀ m₊ + W₋ᵀ m₋ where Δx > 0, W₋ᵀ m₊ + W₊ᵀ m₋ where Δx < 0, Wᵀ (m₊ + m₋) / 2 where Δx = 0."""
        affine, act = site.parts
        if sum(affine.active) > 1:
            return _product(affine, act, g, tau)
        rule = GRADIENT.find(affine)
        assert rule is not None, affine.op
        w = rule(affine, g).maps[0]
        assert w is not None
        # With W± = (W ± |W|) / 2 the three cases are Wᵀ (m₊ + m₋)/2 + sign Δx |W|ᵀ (m₊ - m₋)/2: two products
        # on the way back instead of four, and one on the way there.
        size = reweighed(w, g.Abs, g)
        dx = g.Sub(affine.data, affine.reference.data)
        plus, minus = _multipliers(affine, act, g, size.push(g, g.Abs(dx)), tau)
        mean, half = g.Mul(g.Add(plus, minus), 0.5), g.Mul(g.Sub(plus, minus), 0.5)
        return Local(Sum(Chain(w, Scale(mean)), Chain(Scale(g.Sign(dx)), size, Scale(half))))

    layer.__name__ = "reveal_cancel"
    return rescale(tau) | {LAYER: steady(layer, tau)}


def _multipliers(affine: Site, act: Site, g: Emit, rest: Value, tau: float) -> tuple[Value, Value]:
    """Δy₊ / Δu₊ and Δy₋ / Δu₋, f'(u⁰) where Δu± is next to nothing.

    rest: |W| |Δx|, so that Δu± = (Δu ± rest) / 2, the positive and the negative products apart.
    Δy₊ = ½ (f(u⁰ + Δu₊) - f(u⁰)) + ½ (f(u) - f(u⁰ + Δu₋)), and Δy₋ the other way round.
    """
    u, u0, y, y0 = affine.y, affine.reference.y, act.y, act.reference.y
    du = g.Sub(u, u0)
    up, down = g.Mul(g.Add(du, rest), 0.5), g.Mul(g.Sub(du, rest), 0.5)
    y_up, y_down = (_f(act, g, g.Add(u0, change)) for change in (up, down))
    dy_up = g.Mul(g.Add(g.Sub(y_up, y0), g.Sub(y, y_down)), 0.5)
    dy_down = g.Mul(g.Add(g.Sub(y_down, y0), g.Sub(y, y_up)), 0.5)
    still, reach = slope(act.reference, g), g.Max(g.Abs(u0), rest)
    return secant(g, reach, up, dy_up, still, tau), secant(g, reach, down, dy_down, still, tau)


def _f(act: Site, g: Emit, u: Value) -> Value:
    """The activation of another input; its slope or bounds stay. A view may name operators that the file's opset does
    not have: they are spelled out."""
    if act.op == "Swish":
        return g.Mul(u, g.Sigmoid(g.Mul(u, float(act.attr("alpha", 1.0)))))
    if act.op == "Gelu" and act.attr("approximate", "none") == "none":
        return g.Mul(g.Mul(u, 0.5), g.Add(g.Erf(g.Mul(u, math.sqrt(0.5))), 1.0))
    if act.op == "Gelu":
        inner = g.Mul(g.Mul(u, math.sqrt(2 / math.pi)), g.Add(g.Mul(g.Mul(u, u), 0.044715), 1.0))
        return g.Mul(g.Mul(u, 0.5), g.Add(g.Tanh(inner), 1.0))
    return g.op(act.node.op, u, *act.x[1:], domain=act.node.domain or "", **act.node.attrs)


def _product(affine: Site, act: Site, g: Emit, tau: float) -> Local:
    """A product of two activations has no fixed weights to split."""
    g.note(f"{affine.op} at {affine.name}: a product of two activations; Rescale instead of RevealCancel")
    rule = rescale(tau).find(act)
    assert rule is not None
    back = rule(act, g).map
    return Local(*(None if part is None else Chain(part, back) for part in product(affine, g).maps))


__all__ = ["AFFINE", "DENSE", "joined", "mixed", "reveal_cancel"]
