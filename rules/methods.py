"""Gradients, and gradients with a gate, as methods: data over rules."""

from __future__ import annotations

from types import MappingProxyType

from ..rewriter.method import Method
from .gates import OPTIONS, SMOOTH, deconv, guided
from .gradient import GRADIENT
from .readouts import keep, times_input

PLAIN = MappingProxyType(
    {op: "its paper gives no rule for this activation; gate= says how it is treated" for op in sorted(SMOOTH)}
)
ONE_PASS = "1 forward + 1 backward"

SALIENCY = Method(
    name="saliency",
    title="Gradient saliency",
    family="gradient",
    rules=lambda options: GRADIENT,
    read=keep,
    cost=ONE_PASS,
    source="Simonyan et al. 2013; Nie et al. 2018 Eq. 1-2; Ayyar et al. 2021 Eq. 4-6",
)
INPUT_X_GRADIENT = Method(
    name="input-x-gradient",
    title="Input × gradient",
    family="gradient",
    rules=lambda options: GRADIENT,
    read=times_input,
    cost=ONE_PASS,
    source="Shrikumar et al. 2016; Ayyar et al. 2021 section 4",
    display="sum,sym",
)
DECONVNET = Method(
    name="deconvnet",
    title="DeconvNet",
    family="gated gradient",
    rules=deconv,
    read=keep,
    cost=ONE_PASS,
    source="Zeiler & Fergus 2014; Nie et al. 2018 Eq. 1-2; Ayyar et al. 2021 section 4.1",
    display="centre",
    options=OPTIONS,
    approximates=PLAIN,
)
GUIDED_BACKPROP = Method(
    name="guided-backprop",
    title="Guided Backprop",
    family="gated gradient",
    rules=guided,
    read=keep,
    cost=ONE_PASS,
    source="Springenberg et al. 2014; Nie et al. 2018 Eq. 1-2; Ayyar et al. 2021 section 4.3",
    display="centre",
    options=OPTIONS,
    approximates=PLAIN,
)
