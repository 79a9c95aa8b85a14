"""Adversarial pictures as methods: data over the gradient, and over two generators."""

from __future__ import annotations

from ..rewriter.method import Method
from .adversarial import OPTIONS, fgsm
from .generators import OPTIONS as GENERATORS
from .generators import assembly, explanation
from .gradient import GRADIENT
from .readouts import keep

FGSM = Method(
    name="fgsm",
    title="Fast gradient sign: the picture one step away",
    family="adversarial",
    rules=lambda options: GRADIENT,
    read=keep,
    outputs=fgsm,
    cost="1 forward + 1 backward",
    source="Goodfellow et al. 2015; Nie et al. 2018 section 4",
    display="centre",
    options=OPTIONS,
)
ADVERSARIAL = Method(
    name="adversarial",
    title="What a similar and an adversarial picture differ in",
    family="adversarial",
    rules=lambda options: GRADIENT,
    read=keep,
    outputs=explanation,
    assembly=assembly,
    cost="3 forward + 1 forward of each generator",
    source="Charachon et al. 2020; Ayyar et al. 2021 Eq. 27",
    display="maxabs",
    options=GENERATORS,
)
