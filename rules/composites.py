"""Which relevance rule where: sets of rules, and a user's changes to them. docs/methods/lrp.md."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, TypeAlias

from ..rewriter.errors import OptionError, nearest
from ..rewriter.method import Option, Options
from ..rewriter.rules import Match, Rule, Rules
from ..rewriter.site import Site
from .borrowed import CHOICES as SELECTING
from .borrowed import MOVES, borrowed
from .bounds import bound, needed
from .checks import Check, number
from .gradient import GRADIENT
from .relevance import (
    ABSOLUTE,
    DENOMINATOR,
    DISTRIBUTE,
    EPSILON,
    IGNORE,
    RELATIVE,
    SHARES,
    Settings,
    Signs,
    Stabiliser,
    relevance,
    weighted_input,
)
from .relevance_nodes import Choices, nodes

CONVOLUTIONS = frozenset({"Conv", "ConvTranspose"})
WEIGHTED = CONVOLUTIONS | {"Gemm", "MatMul"}

PLACES: Mapping[str, Callable[[Site], bool]] = MappingProxyType(
    {
        "all": lambda site: True,
        "convolutions": lambda site: site.op in CONVOLUTIONS,
        "first": lambda site: site.first,
        "first convolutions": lambda site: site.first and site.op in CONVOLUTIONS,
        "last": lambda site: site.last,
    }
)

Composite: TypeAlias = tuple[tuple[str, str], ...]
"""(place, rule) pairs; the last that fits counts."""

PLUS: Composite = (("all", "epsilon"), ("convolutions", "z-plus"))
ALPHA2: Composite = (("all", "epsilon"), ("convolutions", "alpha-beta"))
GAMMA_BOX: Composite = (
    ("all", "epsilon"),
    ("convolutions", "gamma"),
    ("first convolutions", "z-box"),
)


def uniform(rule: str) -> Composite:
    """One rule for every node with weights."""
    return (("all", rule),)


def first(composite: Composite, rule: str | None) -> Composite:
    """The composite with a rule of its own for the first layers."""
    return composite if rule is None else (*composite, ("first", rule))


RIGHT = MOVES | SELECTING
"""Operators at which relevance goes where the gradient goes; all others have rules of their own."""
WHY = "relevance has no rule for it; the plain derivative, which does not conserve relevance"

_EPSILON = number(0.0)
CHECKS: Mapping[str, Check] = MappingProxyType(
    {
        "epsilon": _EPSILON,
        "gamma": number(0.0),
        "alpha": number(1.0),
        "beta": number(0.0),
        "low": bound,
        "high": bound,
    }
)
CHOICES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "eps_mode": (ABSOLUTE, RELATIVE),
        "bias": (DENOMINATOR, IGNORE, DISTRIBUTE),
        "variant": ("generalised", "plain"),
    }
)
_ANY = ("epsilon", "eps_mode", "bias")
PARAMETERS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "zero": ("bias",),
        "epsilon": _ANY,
        "gamma": ("gamma", "variant", *_ANY),
        "alpha-beta": ("alpha", "beta", *_ANY),
        "z-plus": _ANY,
        "w-square": ("epsilon", "eps_mode"),
        "flat": ("epsilon", "eps_mode"),
        "z-box": ("low", "high", "epsilon", "eps_mode"),
    }
)
"""What can be said of each rule."""


def overrides(name: str, value: Any) -> dict[str, dict[str, Any]] | None:
    """The option `rules`: {where: rule}, where: "first", "last", an operator, or a shell pattern of node names; rule: a
    name, "gamma:gamma=0.1,bias=ignore", or {"rule": "gamma", "gamma": 0.1}. Later entries win.

    Raises OptionError for an unknown rule or setting, and for an operator without weights.
    """
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise OptionError(f"{name}={value!r} is no mapping of nodes to rules, such as {{'first': 'flat'}}")
    return {_where(name, where): _spec(f"{name}[{where!r}]", rule) for where, rule in value.items()}


def _where(name: str, where: Any) -> str:
    if not isinstance(where, str) or not where:
        raise OptionError(
            f"{name}: {where!r} is neither first, last, an operator nor a pattern of node names"
        )
    if where in set(GRADIENT.ops()) - WEIGHTED:
        raise OptionError(
            f"{name}: {where} has no weights; these rules are for {', '.join(sorted(WEIGHTED))}. To name a node that "
            f"is called {where!r}, write [{where[0]}]{where[1:]}"
        )
    return where


def _spec(name: str, rule: Any) -> dict[str, Any]:
    if isinstance(rule, str):
        kind, _, text = rule.partition(":")
        pairs = (part.partition("=") for part in text.split(",") if part.strip())
        given: dict[str, Any] = {key.strip(): _plain(number.strip()) for key, _, number in pairs}
    elif isinstance(rule, Mapping) and isinstance(rule.get("rule"), str):
        kind, given = rule["rule"], {str(key): v for key, v in rule.items() if key != "rule"}
    else:
        raise OptionError(
            f"{name}={rule!r} is no rule; write 'gamma', 'gamma:gamma=0.1' or {{'rule': 'gamma'}}"
        )
    kind = kind.strip()
    if kind not in SHARES:
        raise OptionError(f"{name}: no rule {kind!r}{nearest(kind, SHARES)}; there is {', '.join(SHARES)}")
    return {"rule": kind} | {key: _setting(name, kind, key, v) for key, v in given.items()}


def _plain(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _setting(name: str, kind: str, key: str, value: Any) -> Any:
    if key not in PARAMETERS[kind]:
        known = ", ".join(PARAMETERS[kind])
        raise OptionError(
            f"{name}: {kind} has no setting {key!r}{nearest(key, PARAMETERS[kind])}; it has {known}"
        )
    if key in CHECKS:
        return CHECKS[key](f"{name}: {key}", value)
    if value not in CHOICES[key]:
        raise OptionError(f"{name}: {key}={value!r} is not one of {', '.join(CHOICES[key])}")
    return value


OPTIONS: Mapping[str, Option] = MappingProxyType(
    {
        "epsilon": Option(EPSILON, None, "what keeps a denominator away from 0, with its sign", _EPSILON),
        "eps_mode": Option(
            ABSOLUTE, CHOICES["eps_mode"], "epsilon itself, or times the root mean square of the denominators"
        ),
        "bias": Option(
            DENOMINATOR,
            CHOICES["bias"],
            "a bias takes its share of the relevance and it is dropped; is ignored; or its share goes to the inputs",
        ),
        "add": Option(
            "proportional", ("proportional", "equal"), "how a sum shares relevance among what it adds up"
        ),
        "norm": Option(
            "proportional",
            ("proportional", "pass"),
            "normalisations: in proportion to x - mean at a fixed deviation, or unchanged",
        ),
        "attention": Option(
            "value", ("value", "attnlrp"), "relevance through the values alone, or through the scores too"
        ),
        "rules": Option(
            None,
            None,
            "other rules for some nodes: {match: rule}, match being first, last, an operator or a pattern of names",
            overrides,
        ),
    }
)
GAMMA = Option(0.25, None, "how much more contributions of the output's sign count", CHECKS["gamma"])
VARIANT = Option("generalised", CHOICES["variant"], "for inputs of any sign, or W + gamma max(W, 0) alone")
ALPHA = Option(2.0, None, "share of the positive contributions", CHECKS["alpha"])


def _beta(name: str, value: Any) -> float | None:
    return None if value is None else CHECKS["beta"](name, value)


BETA = Option(None, None, "share of the negative ones: alpha - 1, the default", _beta)
LOW = Option(None, None, "lowest input, a number or one a channel; default: that of the pixels", bound)
HIGH = Option(None, None, "highest input", bound)


def rule_set(composite: Composite, options: Options) -> Rules:
    """The rules of a composite under options, with the overrides that they hold.

    The option epsilon is meant for nodes with weights, and where a composite has the epsilon rule among others, for
    that rule alone; other denominators are kept from 0 by 1e-6, in LRP-0 by R/0 := 0.

    Raises OptionError for alpha - beta other than 1, and for a z-box without a range.
    """
    signs, mixed = Signs(), {rule for _, rule in composite} > {"epsilon"}
    general = {key: v for key, v in options.items() if not (mixed and key in ("epsilon", "eps_mode"))}
    stabiliser = Stabiliser(0.0 if composite == uniform("zero") else EPSILON)
    told = {key: options[key] for key in ("add", "norm", "attention") if key in options}
    pairs: dict[Match, Rule] = {}
    for place, rule in composite:
        pairs[_weighted(PLACES[place])] = _rule(rule, options if rule == "epsilon" else general, signs)
    for where, spec in (options.get("rules") or {}).items():
        own = options if spec["rule"] == "epsilon" else general
        pairs[_weighted(_place(where))] = _rule(spec["rule"], {**own, **spec}, signs)
    choices = Choices(stabiliser, options.get("bias", DENOMINATOR), **told)
    return borrowed(RIGHT, WHY, products=False) | nodes(choices) | pairs


def _place(where: str) -> Callable[[Site], bool]:
    if where in ("first", "last"):
        return PLACES[where]
    if where in WEIGHTED:
        return lambda site: site.op == where
    return lambda site: fnmatch.fnmatchcase(site.name, where)


def _weighted(place: Callable[[Site], bool]) -> Match:
    return lambda site: weighted_input(site) is not None and place(site)


def _rule(kind: str, options: Options, signs: Signs) -> Rule:
    told = settings(options, signs)
    if kind == "zero":
        told = replace(told, stabiliser=Stabiliser(0.0))
    if kind == "z-box":
        told = replace(told, box=needed(options))
    return relevance(kind, told)


def settings(options: Options, signs: Signs) -> Settings:
    """What the rules are told, from the options; what these do not hold is as by default."""
    alpha, beta = float(options.get("alpha", ALPHA.default)), options.get("beta")
    beta = alpha - 1.0 if beta is None else float(beta)
    if abs(alpha - beta - 1.0) > 1e-6:
        raise OptionError(f"alpha={alpha:g} and beta={beta:g}: alpha - beta must be 1")
    return Settings(
        stabiliser=Stabiliser(float(options.get("epsilon", EPSILON)), options.get("eps_mode", ABSOLUTE)),
        bias=options.get("bias", DENOMINATOR),
        gamma=float(options.get("gamma", GAMMA.default)),
        plain=options.get("variant") == "plain",
        alpha=alpha,
        beta=beta,
        signs=signs,
    )
