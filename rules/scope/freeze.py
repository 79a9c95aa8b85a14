"""Every node frozen at x0: y = A(x0) x + c(x0), with y = h(x0) at x = x0. docs/methods/linearscope.md.

The maps and offsets of all nodes compose to the network's linear interpreter y = F(x0) x + r(x0) (Navarrete et al.
section 3, Eq. 3). What selects, gates or normalises is taken at x0; the rest is linear already.
"""

from __future__ import annotations

from ...rewriter.emit import Emit
from ...rewriter.graph import Value
from ...rewriter.linear import Chain, Linear, Local, Scale
from ...rewriter.method import Options
from ...rewriter.rules import Match, Rule, Rules
from ...rewriter.site import Refuse, Site
from ..borrowed import SILENT
from ..gates import tangent
from ..gradient import GRADIENT
from ..gradient.base import step
from .gating import gates
from .norms import NORMS
from .secants import CURVED, secants

LINEAR = frozenset(
    "Neg Identity Dropout Cast CastLike AveragePool GlobalAveragePool BatchNormalization Conv ConvTranspose CumSum "
    "DepthToSpace Expand Flatten Gather GatherElements GatherND ReduceMean ReduceSum Reshape Resize Slice "
    "SpaceToDepth Split Squeeze Tile Transpose Trilu Unsqueeze".split()
)
"""Of one activation; biases are their offsets."""
TERMS = frozenset("Add Sub Sum Mean Concat Where Pad".split())
"""Linear, and constant operands are part of y."""
HOMOGENEOUS = frozenset(
    "Relu LeakyRelu PRelu ThresholdedRelu Abs MaxPool GlobalMaxPool ReduceMax ReduceMin ReduceL1 ReduceL2 TopK".split()
)
"""y = A(x) x with A the derivative: masks, and winners."""
PRODUCTS = frozenset("Mul MatMul Gemm Einsum ReduceSumSquare".split())
WINNERS = frozenset("Max Min".split())
"""Of several activations, the largest or smallest."""
FROZEN = frozenset("Softmax LogSoftmax".split())
STEEP = frozenset("Sqrt Pow Asin Acos Acosh".split())
"""With an infinite derivative at the end of their domain."""


def freeze(options: Options) -> Rules:
    """The rule set. freeze: "offset", "mask" or "taylor" for smooth activations; norm: "stats" or "std"."""
    pairs: dict[Match, Rule] = {
        _known: unlisted,
        LINEAR | HOMOGENEOUS: tangent,
        TERMS: terms,
        PRODUCTS: product,
        FROZEN: constant,
        "Clip": clip,
        "Div": numerator,
        "Resize": resized,
    }
    if options["freeze"] != "taylor":
        pairs[CURVED] = secants(mask=options["freeze"] == "mask")
    pairs[denominator] = constant
    pairs.update({op: rule(options["norm"] == "std") for op, rule in NORMS.items()})
    return GRADIENT | pairs


def _known(site: Site) -> bool:
    return GRADIENT.find(site) is not None


def denominator(site: Site) -> bool:
    """1 / x, and negative powers: what the numerator of a Div is divided by."""
    power = site.constant(1) if site.op == "Pow" else None
    return site.op == "Reciprocal" or (power is not None and power.size > 0 and bool((power < 0).all()))


def rest(site: Site, maps: tuple[Linear | None, ...], g: Emit) -> Value | None:
    """y - Σ A x: what maps leave out at the recorded input."""
    parts = [
        part.push(g, x)
        for x, part, on in zip(site.node.inputs, maps, site.active, strict=False)
        if part is not None and on
    ]
    value: Value | None = g.Sub(site.y, g.total(parts)) if parts else None
    return value


def taylor(site: Site, g: Emit) -> Local:
    """A = h'(x0), c = h(x0) - h'(x0) x0 (Eq. 4); A = 0 where h' is infinite. Of a piecewise linear node this is the
    frozen node itself."""
    local = tangent(site, g)
    if site.op in STEEP:
        local = Local(*(_bounded(part, g) for part in local.maps))
    return Local(*local.maps, offset=rest(site, local.maps, g))


def unlisted(site: Site, g: Emit) -> Local:
    """As `taylor`; recorded where the operator has a curve that the option `freeze` does not hold for."""
    if site.op not in SILENT | WINNERS | CURVED:
        g.approximate(site.op, site.name, "frozen by its tangent at x0 (Eq. 4), whatever freeze= says")
    return taylor(site, g)


def _bounded(part: Linear | None, g: Emit) -> Linear | None:
    if not isinstance(part, Scale) or isinstance(part.d, (int, float)):
        return part
    return Scale(g.Where(g.IsInf(part.d), g.number(0.0, part.d), part.d))


def clip(site: Site, g: Emit) -> Local:
    """A = [low < x0 < high]; c = the bound that x0 is at."""
    (low, high), (scale,) = (site.input(1), site.input(2)), tangent(site, g).maps
    if low is None and high is None:
        return Local(scale)
    return Local(scale, offset=g.Mul(site.y, g.Sub(1.0, step(g, site.y, low, high))))


def terms(site: Site, g: Emit) -> Local:
    """Linear in its activations; operands that do not depend on x are the offset: y with activations of 0."""
    local = tangent(site, g)
    fixed = [x for x, on in zip(site.x, site.active, strict=True) if x is not None and not on]
    if site.op in ("Add", "Sum"):
        return Local(*local.maps, offset=g.total(fixed) if fixed else None)
    if site.op == "Sub":
        offset = None if not fixed else fixed[0] if not site.active[0] else g.Neg(fixed[0])
        return Local(*local.maps, offset=offset)
    if site.op == "Pad" and (str(site.attr("mode", "constant")) != "constant" or _pads_zero(site)):
        return local
    if site.op in ("Concat", "Mean") and not fixed:
        return local
    return Local(*local.maps, offset=_at_zero(site, g))


def _pads_zero(site: Site) -> bool:
    value = site.constant(2)
    return site.input(2) is None or (value is not None and not value.any())


def _at_zero(site: Site, g: Emit) -> Value:
    """The node, activations 0."""
    inputs = [
        x if x is None or not on else g.Expand(g.number(0.0, x), g.Shape(x))
        for x, on in zip(site.x, site.active, strict=True)
    ]
    attrs = dict(site.node.attrs)
    return g.ops(site.node.op, *inputs, outputs=1, domain=site.node.domain or "", **attrs)[0]


def resized(site: Site, g: Emit) -> Local:
    """Linear; places outside a cropped region have a value of their own."""
    local = tangent(site, g)
    if float(site.attr("extrapolation_value", 0.0)) == 0.0:
        return local
    return Local(*local.maps, offset=rest(site, local.maps, g))


def product(site: Site, g: Emit) -> Local:
    """Of two activations a gate (a sigmoid, a softmax) is a constant; without one h = ½ h(x0, x) + ½ h(x, x0)."""
    local = tangent(site, g)
    live = [i for i, on in enumerate(site.active) if on and i < len(local.maps) and local.maps[i] is not None]
    factors = [i for i in live if site.op != "Gemm" or i < 2]
    if site.op == "ReduceSumSquare":
        return Local(*(part and Chain(part, Scale(0.5)) for part in local.maps))
    if len(factors) < 2:
        return local
    held = gates(site, factors)
    if held:
        g.note(f"{site.op} at {site.name}: a gate, taken as constant")
    kept = [None if i in held else part for i, part in enumerate(local.maps)]
    count = len(factors) - len(held)
    if count > 1:
        share = Scale(1.0 / count)
        kept = [part and Chain(part, share) if i in factors else part for i, part in enumerate(kept)]
    return Local(*kept, offset=local.offset)


def numerator(site: Site, g: Emit) -> Local:
    """The denominator is taken at x0."""
    if not site.active[0]:
        return Local()
    return Local(tangent(site, g).maps[0])


def constant(site: Site, g: Emit) -> Local:
    """A = 0, c = h(x0): the probabilities of attention."""
    if any(site.active[1:]):
        raise Refuse("one of its parameters depends on the explained input")
    return Local()


__all__ = ["freeze", "rest"]
