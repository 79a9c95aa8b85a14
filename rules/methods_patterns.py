"""PatternNet and PatternAttribution as methods: data over rules."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

from ..rewriter.canonical import canonise
from ..rewriter.method import Method, value
from .patterns import OPTIONS, pattern_attribution, pattern_net
from .readouts import keep

PATTERN_NET = Method(
    name="pattern-net",
    title="PatternNet",
    family="patterns",
    rules=pattern_net,
    read=keep,
    cost="1 forward + 1 backward",
    source="Kindermans et al. 2017 section 4",
    display="centre",
    options=OPTIONS,
    approximates=MappingProxyType({"LRN": "the signal passes unchanged; its paper has no rule for it"}),
    seed=value,
    views=lambda options: (canonise,),
)
PATTERN_ATTRIBUTION = replace(
    PATTERN_NET,
    name="pattern-attribution",
    title="PatternAttribution",
    rules=pattern_attribution,
    display="sum,sym",
)
