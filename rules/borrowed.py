"""The gradient as the base of other families: where the derivative is the family's own rule, and a record where not.

A family is a rule set over `borrowed`. It names the operators whose derivative is what its papers mean: those that move
and repeat elements, linear ones, selections. Any other operator may lack a rule of the family; an operator that a user
adds is one. There the derivative stands in, and the card lists the nodes.
"""

from __future__ import annotations

from collections.abc import Collection

from ..rewriter.emit import Emit
from ..rewriter.linear import Local
from ..rewriter.rules import Match, Rule, Rules
from ..rewriter.site import Site
from .gradient import GRADIENT
from .gradient.inert import INERT

MOVES = frozenset(
    "Cast CastLike Concat DepthToSpace Dropout Expand Flatten Gather GatherElements GatherND Identity Pad "
    "Reshape Slice SpaceToDepth Split Squeeze Tile Transpose Trilu Unsqueeze".split()
)
"""They move, repeat and leave out elements: what comes back is moved back and summed."""
CHOICES = frozenset("GlobalMaxPool Max MaxPool Min ReduceMax ReduceMin TopK Where".split())
"""They select elements: all goes to the one that was taken."""
LINEAR = frozenset(
    "Add AveragePool BatchNormalization CumSum GlobalAveragePool Mean Neg ReduceMean ReduceSum Resize Sub Sum".split()
)
"""Of their activations; constant operands are an offset."""
PRODUCTS = frozenset("Conv ConvTranspose Div Einsum Gemm MatMul Mul".split())
"""Linear where one operand alone is an activation; see `is_linear`."""
SILENT = frozenset(INERT)
"""Their derivative is zero, whatever the method."""


def is_linear(site: Site) -> bool:
    """Whether a product has one activation, and that is no denominator."""
    return site.op in PRODUCTS and sum(site.active) == 1 and (site.op != "Div" or site.active[0])


def borrowed(right: Collection[str], why: str, *, products: bool = True) -> Rules:
    """The gradient as the base of a family. right: operators whose derivative is the family's own rule; products: so
    are products of one activation with constants. why: what the card says of all others."""
    known = SILENT | frozenset(right)

    def other(site: Site) -> bool:
        listed = site.op in known or (products and is_linear(site))
        return not listed and GRADIENT.find(site) is not None

    pairs: dict[Match, Rule] = {other: recorded(why)}
    return GRADIENT | pairs


def recorded(why: str) -> Rule:
    """The plain derivative, and a record of it."""

    def derivative(site: Site, g: Emit) -> Local:
        rule = GRADIENT.find(site)
        assert rule is not None, site.op
        g.approximate(site.op, site.name, why)
        return rule(site, g)

    return derivative


__all__ = ["CHOICES", "LINEAR", "MOVES", "PRODUCTS", "SILENT", "borrowed", "is_linear", "recorded"]
