"""Optimised pictures and masks as methods: the gradient of a mask's loss, and an ascent as one file."""

from __future__ import annotations

from ..rewriter.method import Method
from .ascent import OPTIONS as CLIMBED
from .ascent import ascend, assemble_ascent
from .gradient import GRADIENT
from .optimised import OPTIONS as DELETING
from .optimised import deletion
from .readouts import keep

MEANINGFUL_PERTURBATION = Method(
    name="meaningful-perturbation.loss",
    title="Meaningful perturbation: loss and gradient of a mask",
    family="perturbation",
    rules=lambda options: GRADIENT,
    read=keep,
    outputs=deletion,
    cost="2 forward + 1 backward",
    source="Fong & Vedaldi 2017 section 4; Ayyar et al. 2021 section 2.1",
    options=DELETING,
)
ACTIVATION_MAXIMIZATION = Method(
    name="activation-maximization",
    title="Activation maximisation",
    family="optimisation",
    rules=lambda options: GRADIENT,
    read=keep,
    outputs=ascend,
    assembly=assemble_ascent,
    cost="1 forward + (1 forward + 1 backward) a step and 1 more",
    source="Erhan et al. 2009; Simonyan et al. 2013; Gu 2017 Eq. 1-2",
    options=CLIMBED,
)
