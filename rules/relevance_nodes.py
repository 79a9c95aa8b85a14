"""Relevance through nodes without weights. docs/methods/lrp.md, "Other nodes".

Activations pass it on unchanged, a maximum gives it to the winner, what is linear shares it out in proportion, what
moves elements moves it along. Products are a choice: a gate and attention's probabilities are taken as constants.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np

from ..rewriter.emit import Emit
from ..rewriter.graph import Node, Value
from ..rewriter.linear import Chain, Keep, Linear, Local, Mean, Scale, Shaped, Sum, Total
from ..rewriter.rules import Match, Rule
from ..rewriter.site import Refuse, Site, rank_of
from .gates import keep, tangent
from .gradient.norm import Grouped, per_channel
from .gradient.reduce import full, total
from .relevance import DENOMINATOR, Stabiliser, weighted_input

POINTWISE = frozenset(
    "Relu LeakyRelu PRelu ThresholdedRelu Shrink Clip Sigmoid Tanh Softplus Softsign Elu Celu Selu HardSigmoid "
    "HardSwish Mish Swish Gelu Erf Exp Log Sqrt Reciprocal Abs Neg Sin Cos Tan Sinh Cosh Asin Acos Atan Asinh Acosh "
    "Atanh".split()
)
LINEAR = frozenset(
    "AveragePool GlobalAveragePool ReduceMean ReduceSum ReduceL1 ReduceL2 Resize CumSum".split()
)
SUMS = frozenset("Add Sub Sum Mean".split())
PRODUCTS = frozenset("MatMul Gemm Einsum".split())
CENTRED = frozenset(
    "LayerNormalization InstanceNormalization GroupNormalization MeanVarianceNormalization".split()
)
GATES = frozenset("Sigmoid HardSigmoid Softmax".split())
MOVES = frozenset(
    "Identity Dropout Cast Reshape Flatten Squeeze Unsqueeze Transpose Expand Tile Slice Split Gather Resize".split()
)


@dataclass(frozen=True)
class Choices:
    """How nodes without weights are treated.

    add: sums share R in proportion to their terms, or equally. norm: normalisations count x - mean at a fixed
    deviation ("proportional"), or hand R on ("pass"). attention: "value" (probabilities are constants), or "attnlrp"
    (half of R to either factor of a product, the rest through the softmax; Achtibat et al. 2024).
    """

    stabiliser: Stabiliser = field(default_factory=Stabiliser)
    bias: str = "denominator"
    add: str = "proportional"
    norm: str = "proportional"
    attention: str = "value"


def nodes(told: Choices) -> dict[Match, Rule]:
    """Rules for every operator that the gradient is no good for."""
    shared = proportional(told)
    pairs: dict[Match, Rule] = {
        POINTWISE | {"LRN", "LpNormalization", "RMSNormalization"}: first_only(keep),
        LINEAR: shared,
        SUMS: shared if told.add == "proportional" else equal,
        PRODUCTS: product(told),
        "BatchNormalization": shared if told.norm == "proportional" else first_only(keep),
        CENTRED: centred(told) if told.norm == "proportional" else first_only(keep),
        frozenset({"Softmax", "LogSoftmax"}): softmax(told),
        "Mul": mul,
        frozenset({"Div", "Pow", "Mod"}): numerator,
        "ReduceSumSquare": powers(told),
        "ReduceLogSum": powers(told),
        "ReduceLogSumExp": exponentials,
        "ReduceProd": no_rule,
        partly_constant: moved,
    }
    return pairs


def first_only(rule: Rule) -> Rule:
    """The rule, where nothing but the first input is an activation."""

    def guarded(site: Site, g: Emit) -> Local:
        if any(site.active[1:]):
            raise Refuse("one of its parameters depends on the explained input")
        return rule(site, g)

    guarded.__name__ = rule.__name__
    return guarded


def proportional(told: Choices, half: bool = False) -> Rule:
    """R_i = x_i ⊙ A_iᵀ(R / stab(y)), summed over the inputs it is R but for constant terms, which take their share.
    half: R/2 for each of two factors."""

    def rule(site: Site, g: Emit) -> Local:
        local = tangent(site, g)
        live = [part if flag else None for part, flag in zip(local.maps, site.active, strict=False)]
        terms = [(x, part) for x, part in zip(site.node.inputs, live, strict=False) if part is not None]
        constant = _constant(site, local, terms, g)
        z = g.Mul(site.y, 2.0) if half else site.y
        if constant is not None and told.bias != DENOMINATOR:
            z = g.Sub(z, constant)
        quotient = told.stabiliser.inverse(g, z)
        maps = (
            part and Chain(Scale(x), part, Scale(quotient))
            for x, part in zip(site.node.inputs, live, strict=False)
        )
        lost = g.Mul(constant, quotient) if constant is not None and told.bias == DENOMINATOR else None
        return Local(*maps, offset=lost)

    rule.__name__ = "proportional"
    return rule


def _constant(site: Site, local: Local, terms: list[tuple[Value, Linear]], g: Emit) -> Value | None:
    """What y is made of besides its activations."""
    if local.offset is not None or site.op not in SUMS or all(site.active):
        return local.offset
    value: Value = g.Sub(site.y, g.total([part.push(g, x) for x, part in terms]))
    return value


def partly_constant(site: Site) -> bool:
    """Whether some elements of what moves or selects are those of a constant that is not zero."""
    if site.op == "Pad":
        value = site.constant(2) if site.input(2) is not None else np.zeros(1)
        return site.attr("mode", "constant") == "constant" and (value is None or bool(value.any()))
    data = site.active[1:] if site.op == "Where" else site.active
    return site.op in ("Concat", "Max", "Min", "Where") and not all(data)


def moved(site: Site, g: Emit) -> Local:
    """R goes back to where the elements came from; that of constant elements is theirs, as of a bias."""
    maps = tangent(site, g).maps
    ones = [
        part.push(g, g.Expand(g.number(1.0, x), g.Shape(x)))
        for x, part in zip(site.node.inputs, maps, strict=False)
        if part is not None
    ]
    return Local(*maps, offset=g.Sub(1.0, g.total(ones)))


def equal(site: Site, g: Emit) -> Local:
    """R / n to each of n terms that are activations."""
    return Local.elementwise(site, *(Scale(1.0 / sum(site.active)) for _ in site.x))


def mul(site: Site, g: Emit) -> Local:
    """A constant factor passes R on. Of two activations a gate gets nothing and the other all; else half each."""
    gates = [is_gate(site, x) for x in site.node.inputs]
    if sum(site.active) < 2:
        return Local.elementwise(site, Keep(), Keep())
    if gates[0] != gates[1]:
        g.note(f"Mul at {site.name}: a gate; all relevance goes to the value it multiplies")
        return Local.elementwise(site, *(None if gate else Keep() for gate in gates))
    return Local.elementwise(site, Scale(0.5), Scale(0.5))


def is_gate(site: Site, x: Value) -> bool:
    """Whether x comes from a function with values from 0 to 1, at most moved or repeated: a sigmoid, a softmax, a
    Clip(0, 1), or a Clip(0, 6) divided by 6."""
    node, factor = source(site, x)
    if node is None or node.op != "Clip":
        return node is not None and node.op in GATES
    low, high = (site.graph.constant(value) for value in [*node.inputs[1:3], None, None][:2])
    if low is None or high is None or low.size != 1 or high.size != 1:
        return False
    return float(low.ravel()[0]) == 0.0 and abs(float(high.ravel()[0]) * factor - 1.0) < 1e-6


def source(site: Site, x: Value) -> tuple[Node | None, float]:
    """The node that makes x, behind what only moves, repeats, masks or scales it, and the scale."""
    factor = 1.0
    while x.inputs and not x.inputs[0].domain:
        node = x.inputs[0]
        known = [site.graph.constant(value) for value in node.inputs]
        if node.op in MOVES:
            x = node.inputs[0]
        elif node.op == "Where" and (known[1] is None) != (known[2] is None):
            x = node.inputs[1 if known[1] is None else 2]
        elif node.op in ("Mul", "Div") and known[1] is not None and known[1].size == 1:
            by = float(known[1].ravel()[0])
            factor, x = (factor * by if node.op == "Mul" else factor / (by or 1.0)), node.inputs[0]
        else:
            return node, factor
    return None, factor


def numerator(site: Site, g: Emit) -> Local:
    """Div, Pow, Mod: all to the first operand, the second is taken as a constant. If only the second is an activation
    the node is a function of it, and passes R on."""
    if site.active[0]:
        return Local.elementwise(site, Keep(), None)
    return Local.elementwise(site, None, Keep())


def product(told: Choices) -> Rule:
    """A product with one activation shares in proportion. Of two, the probabilities of a softmax are constants, and
    all goes through the other factor; without a softmax, or with attention="attnlrp", half through each."""
    whole, half = proportional(told), proportional(told, half=True)

    def rule(site: Site, g: Emit) -> Local:
        live = [i for i, flag in enumerate(site.active) if flag]
        if weighted_input(site) is not None or site.op == "Gemm" or len(live) == 1:
            return whole(site, g)
        if len(live) != 2:
            raise Refuse("a product of more than two activations")
        frozen = [i for i in live if _is_softmax(site, site.node.inputs[i])]
        if told.attention == "attnlrp" or len(frozen) != 1:
            return half(site, g)
        maps = whole(site, g).maps
        return Local(*(None if i in frozen else part for i, part in enumerate(maps)))

    rule.__name__ = "product"
    return rule


def _is_softmax(site: Site, x: Value) -> bool:
    node, _ = source(site, x)
    return node is not None and node.op == "Softmax"


def softmax(told: Choices) -> Rule:
    """Frozen: no map. At the head (nothing with weights behind it) its derivative. attnlrp: x ⊙ (R - p ΣR), with 0
    in the place of infinite scores, which masks put there."""

    def rule(site: Site, g: Emit) -> Local:
        if site.last:
            return tangent(site, g)
        if told.attention != "attnlrp" or site.op != "Softmax":
            g.note(f"{site.op} at {site.name}: its probabilities are taken as constants")
            return Local()
        x, axes = site.data, (site.axis("axis", -1),)
        finite = g.Where(g.IsInf(x), g.number(0.0, x), x)
        return Local(Chain(Scale(finite), Sum(Keep(), Chain(Scale(g.Neg(site.y)), Total(axes)))))

    rule.__name__ = "softmax"
    return rule


def centred(told: Choices) -> Rule:
    """y = γ (x - mean x) / σ + β at a fixed σ: x ⊙ Lᵀ(γ R / (σ stab(y))), L x = x - mean x. β is a bias."""

    def rule(site: Site, g: Emit) -> Local:
        if any(site.active[1:]) or site.port:
            raise Refuse("its scale or bias depends on the explained input, or its statistics are explained")
        inner, beta = NORMALISED[site.op](site, g)
        dropped = told.bias == DENOMINATOR
        z = site.y if beta is None or dropped else g.Sub(site.y, beta)
        quotient = told.stabiliser.inverse(g, z)
        lost = g.Mul(beta, quotient) if beta is not None and dropped else None
        return Local(Chain(Scale(site.data), inner, Scale(quotient)), offset=lost)

    rule.__name__ = "centred"
    return rule


def _centre(g: Emit, x: Value, axes: tuple[int, ...], epsilon: float) -> Linear:
    """(x - mean x) / σ with σ fixed."""
    at = g.ints(*axes)
    middle = g.Sub(x, g.ReduceMean(x, at, keepdims=1))
    variance = g.ReduceMean(g.Mul(middle, middle), at, keepdims=1)
    inverse = g.Reciprocal(g.Sqrt(g.Add(variance, epsilon)))
    return Chain(Sum(Keep(), Chain(Mean(axes), Scale(-1.0))), Scale(inverse))


def _layer(site: Site, g: Emit) -> tuple[Linear, Value | None]:
    axes = tuple(range(site.axis("axis", -1), site.rank))
    inner = _centre(g, site.data, axes, float(site.attr("epsilon", 1e-5)))
    return Chain(inner, Scale(site.node.inputs[1])), site.input(2)


def _instance(site: Site, g: Emit) -> tuple[Linear, Value | None]:
    rank = rank_of(site.data)
    gamma, beta = (per_channel(g, site.fixed(i, "a parameter"), rank) for i in (1, 2))
    inner = _centre(g, site.data, tuple(range(2, rank)), float(site.attr("epsilon", 1e-5)))
    return Chain(inner, Scale(gamma)), beta


def _group(site: Site, g: Emit) -> tuple[Linear, Value | None]:
    """γ and β per channel (opset 21), or per group."""
    x, rank, groups = site.data, rank_of(site.data), int(site.attr("num_groups"))
    lines = Grouped(x, groups)
    grouped = lines.push(g, x)
    grouped.shape = [x.shape[0], groups, None]
    inner = Chain(lines, _centre(g, grouped, (2,), float(site.attr("epsilon", 1e-5))))
    gamma, beta = (site.fixed(i, "a parameter") for i in (1, 2))
    if site.graph.opset >= 21:
        return Chain(inner, Shaped(grouped, x), Scale(per_channel(g, gamma, rank))), per_channel(
            g, beta, rank
        )
    scaled = Chain(inner, Scale(g.Reshape(gamma, g.ints(1, -1, 1))), Shaped(grouped, x))
    spread = g.Add(g.Mul(grouped, 0.0), g.Reshape(beta, g.ints(1, -1, 1)))
    return scaled, g.shaped(spread, x)


def _variance(site: Site, g: Emit) -> tuple[Linear, Value | None]:
    axes = tuple(sorted(axis % site.rank for axis in (site.attr("axes") or [0, 2, 3])))
    if 0 in axes:
        raise Refuse("it normalises across the samples of the batch")
    return _centre(g, site.data, axes, 2.0**-52), None


NORMALISED = MappingProxyType(
    {
        "LayerNormalization": _layer,
        "InstanceNormalization": _instance,
        "GroupNormalization": _group,
        "MeanVarianceNormalization": _variance,
    }
)


def powers(told: Choices) -> Rule:
    """y = Σx² or log Σx: the sum shares in proportion to its terms, functions before and behind it pass R on."""

    def rule(site: Site, g: Emit) -> Local:
        terms, whole = site.data, full(site, g, site.y)
        if site.op == "ReduceSumSquare":
            terms = g.Mul(terms, terms)
        else:
            whole = g.Exp(whole)
        return Local(Chain(Scale(terms), Scale(told.stabiliser.inverse(g, whole)), total(site)))

    rule.__name__ = "proportional"
    return rule


def exponentials(site: Site, g: Emit) -> Local:
    """y = log Σ e^x: shares e^(x - y)."""
    return Local(Chain(Scale(g.Exp(g.Sub(site.data, full(site, g, site.y)))), total(site)))


def no_rule(site: Site, g: Emit) -> Local:
    raise Refuse("LRP has no rule for a product of many activations; export it as products of two")
