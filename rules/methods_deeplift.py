"""DeepLIFT as methods: data over rules."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

from ..rewriter.canonical import canonise
from ..rewriter.method import Method, Option
from .baselines import BASELINE
from .checks import number
from .chord import rescale
from .readouts import times_change
from .reference_sets import REFERENCES, over_references, reference_or_set
from .reveal_cancel import AFFINE, DENSE, joined, mixed, reveal_cancel

COST = "2 forward + 1 backward (1 forward where the reference is constant)"
SPLIT_COST = "3 forward + 2 backward (2 forward where the reference is constant)"
OPTIONS = MappingProxyType(
    {
        "baseline": BASELINE,
        "references": REFERENCES,
        "tau": Option(
            1e-7,
            None,
            "below a change of tau times the larger of 1 and |x| the derivative stands for the chord",
            number(0.0, 1.0, above=True),
        ),
    }
)

DEEPLIFT_RESCALE = Method(
    name="deeplift.rescale",
    title="DeepLIFT (Rescale)",
    family="deeplift",
    rules=lambda options: rescale(options["tau"]),
    read=times_change,
    cost=COST,
    source="Shrikumar et al. 2017; Ayyar et al. 2021 Eq. 19-21",
    display="sum,sym",
    options=OPTIONS,
    reference=reference_or_set,
    sampling=over_references,
)
DEEPLIFT_REVEAL_CANCEL = replace(
    DEEPLIFT_RESCALE,
    name="deeplift.reveal-cancel",
    title="DeepLIFT (RevealCancel)",
    rules=lambda options: reveal_cancel(options["tau"]),
    views=lambda options: (canonise, joined(AFFINE)),
    cost=SPLIT_COST,
    source="Shrikumar et al. 2017 section 3.5.3; Ayyar et al. 2021 Eq. 22-25",
)
DEEPLIFT_MIXED = replace(
    DEEPLIFT_REVEAL_CANCEL,
    name="deeplift.mixed",
    title="DeepLIFT (RevealCancel in dense layers, Rescale elsewhere)",
    rules=lambda options: mixed(options["tau"]),
    views=lambda options: (canonise, joined(DENSE)),
)
