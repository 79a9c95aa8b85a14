"""Layer-wise relevance propagation and deep Taylor decomposition as methods: data over rules. METHODS 1.10, 1.11."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from ..rewriter.canonical import canonise
from ..rewriter.method import Method, Option, Options, positive_value, value
from ..rewriter.rules import Rules
from .bounds import box_of
from .composites import (
    ALPHA,
    ALPHA2,
    BETA,
    FLAT,
    GAMMA,
    GAMMA_BOX,
    HIGH,
    LOW,
    OPTIONS,
    PLUS,
    VARIANT,
    Composite,
    rule_set,
    uniform,
)
from .readouts import keep

BACH, MONTAVON = "Bach et al. 2015; Ayyar et al. 2021 Eq. 11-15", "Montavon et al. 2017; Ayyar et al. 2021 Eq. 16-18"
APPROXIMATES = MappingProxyType(
    {
        "LRN": "relevance passes unchanged; its paper has no rule for it",
        "LpNormalization": "relevance passes unchanged; its paper has no rule for it",
        "RMSNormalization": "relevance passes unchanged, as at a fixed deviation",
    }
)


def _method(
    name: str,
    title: str,
    composite: Composite,
    more: Mapping[str, Option] | None = None,
    source: str = BACH,
    cost: str = "1 forward + 1 backward",
) -> Method:
    return Method(
        name=name,
        title=f"LRP, {title}",
        family="relevance",
        rules=lambda options: rule_set(composite, options),
        read=keep,
        cost=cost,
        source=source,
        display="sum,sym",
        options={**OPTIONS, **(more or {})},
        approximates=APPROXIMATES,
        seed=value,
        views=lambda options: (canonise,),
    )


def _without(*names: str) -> dict[str, Option]:
    return {name: option for name, option in OPTIONS.items() if name not in names}
