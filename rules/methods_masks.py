"""Perturbation methods that are one graph, as methods: data over rules."""

from __future__ import annotations

from ..rewriter.method import Method
from .gradient import GRADIENT
from .masks import MASKS, WINDOWS, occluded, randomised, score

OCCLUSION_GRAPH = Method(
    name="occlusion.graph",
    title="Occlusion, in one graph",
    family="occlusion",
    rules=lambda options: GRADIENT,
    read=score,
    cost="(⌈(H - k) / stride⌉ + 1)(⌈(W - k) / stride⌉ + 1) + 1 forwards",
    source="Zeiler & Fergus 2014 section 4.2; Ayyar et al. 2021 section 2.1",
    display="sum,sym",
    sampling=occluded,
    options=WINDOWS,
)
RISE_GRAPH = Method(
    name="rise.graph",
    title="RISE, in one graph",
    family="occlusion",
    rules=lambda options: GRADIENT,
    read=score,
    cost="n + 1 forwards",
    source="Petsiuk et al. 2018",
    display="sum,minmax",
    sampling=randomised,
    options=MASKS,
)
