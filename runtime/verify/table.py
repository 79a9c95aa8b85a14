"""Which checks a method is held to."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from ...rewriter.card import Card
from ...rewriter.errors import OptionError
from ...rules.registry import find
from . import again, general, maps, scope, slopes, sums
from .outcome import Check

PER_NODE = (again.adjoint,)
CHECKS: Mapping[str, tuple[Check, ...]] = MappingProxyType(
    {
        "saliency": (slopes.gradient, maps.linear_start, *PER_NODE),
        "input-x-gradient": (slopes.input_times_gradient, maps.linear_start, *PER_NODE),
        "gated gradient": (maps.homogeneous_start, *PER_NODE),
        "integrated-gradients": (sums.completeness, *PER_NODE),
        "noise": (maps.repeatable,),
        "smoothgrad": (slopes.without_noise, maps.any_order),
        "smoothgrad-squared": (maps.variance_sign, maps.any_order),
        "vargrad": (maps.variance_sign,),
        "cam": (maps.one_map, *PER_NODE),
        "grad-cam": (maps.cam_sign, maps.one_map, *PER_NODE),
        "fem": (maps.fem_sign, maps.one_map, maps.class_free),
        "lrp.": (sums.conservation, maps.linear_start, again.relevance_kept, *PER_NODE),
        "deep-taylor": (sums.positive, sums.no_more_than_began, again.relevance_kept, *PER_NODE),
        "deeplift.": (sums.summation_to_delta, again.change_kept, *PER_NODE),
        "pattern-": (maps.linear_start, *PER_NODE),
        scope.ROWS: (maps.linear_start, scope.affine, *PER_NODE),
        scope.COLUMNS: (scope.linear_tangent, scope.zero_tangent, scope.affine, *PER_NODE),
        scope.REST: (scope.affine,),
        "linearscope.contributions": (scope.summed, *PER_NODE),
        "linearscope.dual": (scope.pairs_agree, scope.pairs_affine, *PER_NODE),
    }
)
"""Name of a method, beginning of a name (it ends in . or -), or family -> its checks; all that fit apply, each once."""


def checks_of(card: Card, table: Mapping[str, tuple[Check, ...]] = CHECKS) -> list[Check]:
    """General checks first, then those of the method."""
    try:
        family = find(card.method).family
    except OptionError:  # a file from a package that is not installed here
        family = ""
    found: list[Check] = list(general.GENERAL)
    for key, checks in table.items():
        if key in (card.method, family) or (key[-1] in ".-" and card.method.startswith(key)):
            found += [check for check in checks if check not in found]
    return found
