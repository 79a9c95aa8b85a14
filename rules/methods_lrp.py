"""Layer-wise relevance propagation and deep Taylor decomposition as methods: data over rules. docs/methods/lrp.md."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from ..rewriter.canonical import canonise
from ..rewriter.method import Method, Option, Options, positive_value, value
from ..rewriter.rules import Rules
from .bounds import box_of
from .composites import (
    ALPHA,
    ALPHA2,
    BETA,
    GAMMA,
    GAMMA_BOX,
    HIGH,
    LOW,
    OPTIONS,
    PLUS,
    VARIANT,
    Composite,
    first,
    rule_set,
    uniform,
)
from .readouts import keep

CHANGED = MappingProxyType(
    {
        "LRN": "relevance passes unchanged; its paper has no rule for it",
        "LpNormalization": "relevance passes unchanged; its paper has no rule for it",
        "RMSNormalization": "relevance passes unchanged, as at a fixed deviation",
    }
)
BOX = MappingProxyType({"low": LOW, "high": HIGH})
SHARED = MappingProxyType({"alpha": ALPHA, "beta": BETA})
WIDER = MappingProxyType({"gamma": GAMMA, "variant": VARIANT})
WHICH = MappingProxyType({"first": Option(None, (None, "flat"), "another rule for the first layers")})
HIDDEN = Option(
    None,
    (None, "z-box", "z-plus"),
    "the rule behind the first layers: z-box where low and high are given as numbers, which then hold for every layer; "
    "z-plus where they are the range of the pixels",
)
TENTH = MappingProxyType({"epsilon": replace(OPTIONS["epsilon"], default=0.1)})


def lrp(
    name: str, title: str, composite: Composite, more: Mapping[str, Option] = MappingProxyType({})
) -> Method:
    """LRP with a rule for each kind of node. It starts with the value of the logit and sees the canonical form.
    LRP-0 has no epsilon."""
    options = {**OPTIONS, **more}
    if composite == uniform("zero"):
        options = {key: option for key, option in options.items() if key not in ("epsilon", "eps_mode")}
    return Method(
        name=f"lrp.{name}",
        title=f"LRP, {title}",
        family="relevance",
        rules=lambda given: rule_set(first(composite, given.get("first")), given),
        read=keep,
        cost="1 forward + 1 backward; rules that split weights by sign run each such layer once or twice more",
        source="Bach et al. 2015; Montavon et al. 2019; Ayyar et al. 2021 Eq. 11-15",
        display="sum,sym",
        options=options,
        approximates=CHANGED,
        seed=value,
        views=lambda given: (canonise,),
    )


def boxes(options: Options) -> Composite:
    """The z-box where its box holds: at the first layers, and behind them as `hidden` says."""
    hidden = options["hidden"] or ("z-box" if isinstance(options["low"], float) else "z-plus")
    return ("all", hidden), ("first", "z-box")


LRP_ZERO = lrp("zero", "rule 0", uniform("zero"))
LRP_EPSILON = lrp("epsilon", "rule ε", uniform("epsilon"))
LRP_GAMMA = lrp("gamma", "rule γ", uniform("gamma"), WIDER)
LRP_ALPHA_BETA = lrp("alpha-beta", "rule αβ", uniform("alpha-beta"), SHARED)
LRP_Z_PLUS = lrp("z-plus", "rule z⁺", uniform("z-plus"))
LRP_W_SQUARE = lrp("w-square", "rule w²", uniform("w-square"))
LRP_FLAT = lrp("flat", "rule flat", uniform("flat"))
LRP_Z_BOX = replace(
    lrp("z-box", "rule z-box", uniform("z-box"), {**BOX, "hidden": HIDDEN}),
    rules=lambda given: rule_set(boxes(given), given),
)
LRP_EPSILON_PLUS = lrp("epsilon-plus", "ε and z⁺", PLUS)
LRP_EPSILON_PLUS_FLAT = lrp("epsilon-plus-flat", "ε and z⁺, first flat", first(PLUS, "flat"))
LRP_EPSILON_ALPHA2_BETA1 = lrp("epsilon-alpha2-beta1", "ε and α2β1", ALPHA2)
LRP_EPSILON_ALPHA2_BETA1_FLAT = lrp(
    "epsilon-alpha2-beta1-flat", "ε and α2β1, first flat", first(ALPHA2, "flat")
)
LRP_EPSILON_GAMMA_BOX = lrp("epsilon-gamma-box", "ε and γ, first z-box", GAMMA_BOX, {**WIDER, **BOX})
LRP_PRESET_A = lrp("preset-a", "ε = 0.1 and α1β0", PLUS, {**TENTH, **WHICH})
LRP_PRESET_B = lrp("preset-b", "ε = 0.1 and α2β1", ALPHA2, {**TENTH, **WHICH})

INPUTS = MappingProxyType({"bounded": "z-box", "unbounded": "w-square", "positive": "z-plus"})
"""What is known of the input -> the rule whose root points lie in that domain."""


def deep_taylor(options: Options) -> Rules:
    """Root points of z⁺ in hidden layers, which read what is positive; of the input's own domain in the first. Biases
    are ignored, so that all of max(z_c, 0) arrives. Raises OptionError for input="bounded" without a range."""
    known = box_of(options).low is not None
    domain = options["input"] or ("bounded" if known else "unbounded")
    composite = (("all", "z-plus"), ("first", INPUTS[domain]))
    return rule_set(composite, {**options, "bias": "ignore"})


DEEP_TAYLOR = replace(
    LRP_Z_PLUS,
    name="deep-taylor",
    title="Deep Taylor decomposition",
    rules=deep_taylor,
    source="Montavon et al. 2017; Ayyar et al. 2021 Eq. 16-18",
    options={
        **{key: option for key, option in OPTIONS.items() if key != "bias"},
        "input": Option(
            None,
            (None, *INPUTS),
            "what is known of the input: it lies from low to high, is any number, or is positive; by default bounded "
            "where a range is known, else unbounded",
        ),
        **BOX,
    },
    seed=positive_value,
)
