"""Backward passes that gate the cotangent at rectifiers. Nie 2018 Eq. 1-2; docs/methods/gated.md."""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType

from ..rewriter.emit import Emit
from ..rewriter.graph import Value
from ..rewriter.linear import Gated, Keep, Local, Scale
from ..rewriter.method import Option, Options
from ..rewriter.rules import Match, Rule, Rules, matches
from ..rewriter.site import Site
from .borrowed import CHOICES, LINEAR, MOVES, borrowed
from .gradient import GRADIENT
from .gradient.base import step
from .gradient.pointwise import clip

Gate = Callable[[Emit, Value], Value]


def rectify(g: Emit, ct: Value) -> Value:
    """max(ct, 0)."""
    return g.Relu(ct)


def gated(base: Rule, by: Gate) -> Rule:
    """The base rule's map, behind a gate on the cotangent."""

    def rule(site: Site, g: Emit) -> Local:
        maps = base(site, g).maps
        return Local(*(None if part is None else Gated(part, by) for part in maps))

    rule.__name__ = f"{by.__name__}_{getattr(base, '__name__', 'rule')}"
    return rule


def keep(site: Site, g: Emit) -> Local:
    """The cotangent passes unchanged."""
    return Local(*(Keep() for _ in site.x))


def below_top(site: Site, g: Emit) -> Local:
    """Clip(0, high) as DeconvNet sees it: open where x < high, whatever its sign."""
    high = site.input(2)
    return Local(Keep() if high is None else Scale(step(g, site.y, None, high)))


def clip_at_zero(site: Site) -> bool:
    """Clip(0, high): a rectifier, ReLU6 above all."""
    low = site.constant(1)
    return site.op == "Clip" and low is not None and low.size == 1 and float(low.ravel()[0]) == 0.0


def max_with_zero(site: Site) -> bool:
    """Max(x, 0): a Relu in another spelling."""
    zeros = [i for i in range(len(site.x)) if _all_zero(site, i)]
    return site.op == "Max" and len(site.x) == 2 and len(zeros) == 1


def _all_zero(site: Site, i: int) -> bool:
    value = site.constant(i)
    return value is not None and value.size > 0 and bool((value == 0).all())


def _either(a: Match, b: Match) -> Match:
    return lambda site: matches(a, site) or matches(b, site)


LIKE_RELU = _either("Relu", max_with_zero)

SMOOTH = frozenset(
    "LeakyRelu PRelu ThresholdedRelu Elu Celu Selu Sigmoid Tanh Softplus Softsign Mish HardSigmoid HardSwish Swish "
    "Gelu".split()
)
"""Activations for which Nie 2018 has no rule."""


RIGHT = MOVES | CHOICES | LINEAR | SMOOTH
"""Operators at which the gated families are the gradient; what is told of SMOOTH ones is in `methods.PLAIN`."""
WHY = "its paper gives no rule for it; the plain derivative"


def on_where_positive(site: Site, g: Emit) -> Local:
    """[y > 0] for a Relu in either spelling."""
    return Local(*(Scale(step(g, site.y, 0.0)) for _ in site.x))


def tangent(site: Site, g: Emit) -> Local:
    """The plain derivative."""
    rule = GRADIENT.find(site)
    assert rule is not None, site.op
    return rule(site, g)


def gates(relu: Rule, clip: Rule, options: Options) -> Rules:
    """The gradient with the gate at the nodes that `gate` names: "relu" (Relu and Max(x, 0), as the hooks of
    captum and zennit see a network), "rectifiers" (those and Clip(0, high)), "activations"
    (smooth ones too: max(ct, 0) f'). lrn="pass" lets the cotangent through LRN unchanged. Other non-linear nodes keep
    their derivative, which is recorded."""
    pairs: dict[Match, Rule] = {LIKE_RELU: gated(relu, by=rectify)}
    if options["gate"] != "relu":
        pairs[clip_at_zero] = gated(clip, by=rectify)
    if options["gate"] == "activations":
        pairs[SMOOTH] = gated(tangent, by=rectify)
    if options["lrn"] == "pass":
        pairs["LRN"] = keep
    return borrowed(RIGHT, WHY) | pairs


def guided(options: Options) -> Rules:
    """Guided Backprop: max(ct, 0) where the unit is on."""
    return gates(on_where_positive, clip, options)


def deconv(options: Options) -> Rules:
    """DeconvNet: max(ct, 0), the forward sign ignored."""
    return gates(keep, below_top, options)


OPTIONS = MappingProxyType(
    {
        "gate": Option(
            "rectifiers", ("relu", "rectifiers", "activations"), "which activations gate the backward signal"
        ),
        "lrn": Option(
            "gradient", ("gradient", "pass"), "local response normalisation: its derivative, or untouched"
        ),
    }
)
