"""Prediction differences that are one graph, as methods: data over rules."""

from __future__ import annotations

from ..rewriter.method import Method
from .difference import OPTIONS, difference
from .gradient import GRADIENT

PDA_GRADIENT = Method(
    name="pda.gradient",
    title="Prediction difference analysis, first order",
    family="prediction difference",
    rules=lambda options: GRADIENT,
    read=difference,
    cost="1 forward + 1 backward + a convolution of the input for each of (l - k + 1)² places of a window",
    source="Gu & Tresp 2017 Algorithm 3; Zintgraf et al. 2017",
    display="sum,sym",
    options=OPTIONS,
)
