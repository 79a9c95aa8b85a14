"""DeepLIFT: every node by its change against the reference.

Shrikumar et al. 2017; Ayyar 2021 Eq. 19-21; docs/methods/deeplift.md.

A map takes the place of the node between the change of its input, Δx = x - x⁰, and that of its output, Δy: pushed
through it, Δx gives Δy. Composed over the network Σ m Δx = Δz_c holds (summation to delta), which is what each rule
here is built for; `decomposed` has softmax, norms and reductions.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..rewriter.emit import Emit
from ..rewriter.graph import Value
from ..rewriter.linear import Chain, Linear, Local, Scale, Sum
from ..rewriter.mirror import stand_in
from ..rewriter.rules import Match, Rule, Rules
from ..rewriter.site import Refuse, Site
from .decomposed import DECOMPOSED, halfway, log_mean, quotient_chord
from .gradient import GRADIENT
from .gradient.inert import INERT
from .reciprocals import by_reciprocal, is_reciprocal
from .slopes import gradient, near, secant, slope
from .undefined import counted, counted_quotient, finite_ends, taken

STEPS = frozenset("Sign Floor Ceil Round".split())
"""Constant but for jumps: no derivative, a chord all the same."""

ELEMENTWISE = frozenset(
    "Relu Clip LeakyRelu PRelu ThresholdedRelu Shrink Sigmoid Tanh Softplus Softsign Elu Celu Selu HardSigmoid "
    "HardSwish Mish Swish Gelu Erf Abs Sin Cos Tan Sinh Cosh Asin Acos Atan Asinh Acosh Atanh Mod".split()
)
LINEAR = frozenset(
    "Add Sub Sum Mean Neg Identity Dropout Cast CastLike AveragePool GlobalAveragePool BatchNormalization Concat Conv "
    "ConvTranspose CumSum DepthToSpace Expand Flatten Gather GatherElements GatherND Pad ReduceMean ReduceSum Reshape "
    "Resize Slice SpaceToDepth Split Squeeze Tile Transpose Trilu Unsqueeze".split()
)
BILINEAR = frozenset("Mul MatMul Gemm Einsum ReduceSumSquare".split())
"""And a square: their change is exactly their derivative halfway."""

POOLS = frozenset("MaxPool GlobalMaxPool ReduceMax ReduceMin".split())
OPERANDS = frozenset("Add Sub Sum Mean Mul Div Max Min Where".split())
"""Elementwise, of several operands."""


def rescale(tau: float) -> Rules:
    """The rule set. tau: below |Δx| = tau max(1, |x|) a chord is the derivative at x."""
    pairs: dict[Match, Rule] = {
        _any: no_chord,
        frozenset(INERT) - STEPS: gradient,
        LINEAR: steady(gradient, tau),
        BILINEAR: steady(product, tau),
        POOLS: steady(two_sided, tau),
        ELEMENTWISE | STEPS: steady(chords(tau), tau),
        "Div": steady(quotient, tau),
        "Exp": finite_ends(exponential, tau),
        "Tanh": finite_ends(tanh, tau),
        "Sigmoid": finite_ends(sigmoid, tau),
        "Log": finite_ends(logarithm, tau),
        "Sqrt": finite_ends(root, tau),
        "Reciprocal": finite_ends(reciprocal, tau),
        "Pow": steady(powers(tau), tau),
        frozenset({"Max", "Min"}): steady(extremes(tau), tau),
        "Where": choices(tau),
    }
    pairs.update({op: steady(rule, tau) for op, rule in DECOMPOSED.items()})
    return GRADIENT | pairs


def _any(site: Site) -> bool:
    return True


def no_chord(site: Site, g: Emit) -> Local:
    """Operators that only the gradient knows: it would not sum to the change of the output."""
    raise Refuse("DeepLIFT has no rule for it; add one for this operator to the rule set")


def steady(rule: Rule, tau: float) -> Rule:
    """The rule, where every change of the node's inputs comes in through an active one.

    A tensor behind a comparison, a rounding to integers or an arg max changes without carrying anything back. Next to
    one active operand of an elementwise operator the chord of that operand takes the whole change; elsewhere
    the node is refused.
    """

    def guarded(site: Site, g: Emit) -> Local:
        stray = strays(site)
        if not stray:
            return rule(site, g)
        if site.op not in OPERANDS or sum(site.active) != 1:
            raise Refuse(
                f"{stray[0].name!r} depends on the explained input through a step (a comparison, a rounding, an arg "
                "max), which carries nothing back: its change cannot be shared out"
            )
        g.note(
            f"{site.op} at {site.name}: {stray[0].name!r} changes by a step; its share goes to the other operand"
        )
        return chord(site, g, tau)

    guarded.__name__ = getattr(rule, "__name__", "rule")
    return guarded


def strays(site: Site) -> list[Value]:
    """Inputs that carry nothing back and yet may have another value at the reference."""
    passive = [
        i for i, x in enumerate(site.x) if x is not None and not (i < len(site.active) and site.active[i])
    ]
    moved = [i for i in passive if site.reference.x[i] is not site.x[i]]
    return [site.node.inputs[i] for i in moved if _by_value(site, site.node.inputs[i])]


def _by_value(site: Site, value: Value) -> bool:
    """Whether it depends on the values of the explained input: by shapes alone the two passes do not differ."""
    twin, seen, rest = site.graph.twin, set[str](), [value]
    assert twin is not None
    while rest:
        value = rest.pop()
        if value.name in seen:
            continue
        seen.add(value.name)
        if not value.inputs:
            return True  # the explained input itself: everything else that has no node behind it has no twin
        node = value.inputs[0]
        if node.op not in ("Shape", "Size"):
            pairs = zip(node.inputs, twin(node).inputs, strict=True)
            rest += [x for x, other in pairs if x.name and x is not other]
    return False


def chord(site: Site, g: Emit, tau: float) -> Local:
    """Rescale: m_x = m Δy / Δx for the one active operand of an elementwise operator."""
    active = [i for i, flag in enumerate(site.active) if flag]
    if len(active) != 1:
        raise Refuse(
            "DeepLIFT has no rule for this operator where several of its inputs depend on the explained one"
        )
    (i,) = active
    if g.guarded:
        d = counted(site, g, tau, i)
    else:
        x, other = site.node.inputs[i], site.reference
        d = secant(g, x, g.Sub(x, other.node.inputs[i]), g.Sub(site.y, other.y), slope(site, g, i), tau)
    return Local.elementwise(site, *(Scale(d) if k == i else None for k in range(len(site.x))))


def chords(tau: float) -> Rule:
    def rescaled(site: Site, g: Emit) -> Local:
        return chord(site, g, tau)

    return rescaled


def _ends(site: Site) -> tuple[Value, Value]:
    return site.data, site.reference.data


def exponential(site: Site, g: Emit) -> Local:
    """Δe^x / Δx, in a form that does not cancel."""
    x, x0 = _ends(site)
    return Local(Scale(log_mean(g, site.y, site.reference.y, g.Sub(x, x0))))


def logarithm(site: Site, g: Emit) -> Local:
    """Δlog x / Δx, likewise."""
    x, x0 = _ends(site)
    return Local(Scale(g.Reciprocal(log_mean(g, x, x0, g.Sub(site.y, site.reference.y)))))


def _tanh_chord(g: Emit, dx: Value, rest: Value) -> Value:
    """tanh Δx / Δx times the rest; 1 at 0. tanh is exact to its last digits near 0, so is the quotient."""
    none = g.Equal(dx, 0.0)
    return g.Where(none, rest, g.Mul(g.Div(g.Tanh(dx), g.Where(none, 1.0, dx)), rest))


def tanh(site: Site, g: Emit) -> Local:
    """Δ tanh x / Δx = tanh Δx / Δx (1 - y y⁰)."""
    rest = g.Sub(1.0, g.Mul(site.y, site.reference.y))
    return Local(Scale(_tanh_chord(g, g.Sub(*_ends(site)), rest)))


def sigmoid(site: Site, g: Emit) -> Local:
    """Δσ / Δx = tanh(Δx/2) / (Δx/2) (y (1 - y⁰) + y⁰ (1 - y)) / 2."""
    y, y0 = site.y, site.reference.y
    rest = g.Add(g.Mul(y, g.Sub(1.0, y0)), g.Mul(y0, g.Sub(1.0, y)))
    half = g.Mul(g.Sub(*_ends(site)), 0.5)
    return Local(Scale(g.Mul(_tanh_chord(g, half, rest), 0.5)))


def root(site: Site, g: Emit) -> Local:
    """Δ√x / Δx = 1 / (√x + √x⁰); 0 where both are 0."""
    total = g.Add(site.y, site.reference.y)
    none = g.Equal(total, 0.0)
    return Local(Scale(g.Where(none, 0.0, g.Reciprocal(g.Where(none, 1.0, total)))))


def reciprocal(site: Site, g: Emit) -> Local:
    """Δ(1/x) / Δx = -1 / (x x⁰)."""
    return Local(Scale(g.Neg(g.Mul(site.y, site.reference.y))))


def powers(tau: float) -> Rule:
    def power(site: Site, g: Emit) -> Local:
        """x^p by its chord; a square by x + x⁰."""
        p = site.constant(1)
        if p is not None and p.size == 1 and float(p.ravel()[0]) == 2.0:
            return Local.elementwise(site, Scale(g.Add(*_ends(site))))
        return chord(site, g, tau)

    return power


def product(site: Site, g: Emit) -> Local:
    """a b: m_a = m (b + b⁰)/2 and m_b = m (a + a⁰)/2, in all shapes of a product: the gradient rule where every
    activation stands halfway."""
    if sum(site.active) > (3 if site.op == "Gemm" else 2):
        raise Refuse("a product of three activations has no rule in DeepLIFT; export it as products of two")
    if site.op == "Mul" and all(site.active):
        over = next((i for i in (1, 0) if is_reciprocal(site.node.inputs[i])), None)
        if over is not None:
            return by_reciprocal(site, g, over)
    pairs = zip(site.node.inputs, site.reference.node.inputs, strict=True)
    middle = [halfway(g, x, x0) for x, x0 in pairs]
    return gradient(replace(site, node=stand_in(site.node, middle, site.node.outputs)), g)


def quotient(site: Site, g: Emit) -> Local:
    """a / b as the product with 1/b; see `quotient_chord`."""
    if not site.active[1]:
        return gradient(site, g)
    b, b0 = site.node.inputs[1], site.reference.node.inputs[1]
    upper, lower = quotient_chord(g, site.y, site.reference.y, b, b0)
    if g.guarded:
        upper, lower = counted_quotient(site, g, upper, lower)
    return Local.elementwise(site, Scale(upper), Scale(lower))


def extremes(tau: float) -> Rule:
    def extreme(site: Site, g: Emit) -> Local:
        """max(a, b) = a + relu(b - a), the chord at the relu; further operands one after the other."""
        if sum(site.active) == 1:
            return chord(site, g, tau)
        return Local.elementwise(site, *(Scale(share) for share in _shares(site, g, tau)))

    return extreme


def _shares(site: Site, g: Emit, tau: float) -> list[Value]:
    """How much of the change of each operand of Max or Min shows in y."""
    largest, values, others = site.op == "Max", site.node.inputs, site.reference.node.inputs
    best, best0, shares = values[0], others[0], [g.number(1.0, site.y)]
    for b, b0 in zip(values[1:], others[1:], strict=True):
        ahead, ahead0 = (g.Sub(b, best), g.Sub(b0, best0)) if largest else (g.Sub(best, b), g.Sub(best0, b0))
        ahead.shape = site.y.shape
        gained = g.Sub(g.Relu(ahead), g.Relu(ahead0))
        wins = g.cast(g.Greater(ahead, 0.0), site.y)
        taken = secant(g, g.Max(g.Abs(b), g.Abs(best)), g.Sub(ahead, ahead0), gained, wins, tau)
        shares = [*(g.Mul(share, g.Sub(1.0, taken)) for share in shares), taken]
        best, best0 = g.op(site.op, best, b), g.op(site.op, best0, b0)
    return shares


def choices(tau: float) -> Rule:
    def choice(site: Site, g: Emit) -> Local:
        """y = c ? a : b. Where c is not what it is at the reference, (m_a, m_b) is the shortest that gives Δy:
        m Δy (Δa, Δb) / (Δa² + Δb²)."""
        if not strays(site):
            return gradient(site, g)
        g.note(f"Where at {site.name}: its condition depends on the picture; where it differs from the reference's, "
               "the change is shared out by least squares")  # fmt: skip
        (c, a, b), (c0, a0, b0) = site.node.inputs, site.reference.node.inputs
        size, changes = g.Abs(site.y), [g.Sub(taken(g, x), taken(g, x0)) for x, x0 in ((a, a0), (b, b0))]
        far = [change for change, active in zip(changes, site.active[1:], strict=True) if active]
        longest = g.Abs(far[0]) if len(far) == 1 else g.Max(*(g.Abs(change) for change in far))
        plain = g.Or(near(g, size, longest, tau), g.Equal(g.cast(c, a), g.cast(c0, a)))
        unit = [g.Div(change, g.Where(plain, 1.0, longest)) for change in far]
        norm = g.total([g.Mul(u, u) for u in unit])
        along = g.Div(g.Sub(site.y, site.reference.y), g.Where(plain, 1.0, g.Mul(norm, longest)))
        chosen = g.cast(c, site.y)
        steps = iter(unit)
        maps: list[Linear | None] = [None]
        for active, still in zip(site.active[1:], (chosen, g.Sub(1.0, chosen)), strict=True):
            maps.append(Scale(g.Where(plain, still, g.Mul(along, next(steps)))) if active else None)
        return Local.elementwise(site, *maps)

    return choice


def two_sided(site: Site, g: Emit) -> Local:
    """Maxima: with t = max(y, y⁰), m (t - y⁰) goes where x won and m (y - t) where x⁰ won, adding up over windows, and
    is divided by Δx there. What a winner receives is never more than its own change; 0 where Δx = 0."""
    y, y0 = site.y, site.reference.y
    x, x0 = _ends(site)
    top = (g.Min if site.op == "ReduceMin" else g.Max)(y, y0)
    dx = g.Sub(x, x0)
    changed = g.Greater(g.Abs(dx), float(np.finfo(x.dtype).tiny))
    share = g.Where(changed, g.Reciprocal(g.Where(changed, dx, 1.0)), 0.0)
    share.shape = x.shape
    here, there = gradient(site, g).map, gradient(site.reference, g).map
    sides = Sum(Chain(here, Scale(g.Sub(top, y0))), Chain(there, Scale(g.Sub(y, top))))
    return Local(Chain(Scale(share), sides))


__all__ = ["chord", "near", "rescale", "secant", "slope", "steady"]
