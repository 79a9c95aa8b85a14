"""What is promised, beside what was measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.measure import Measured
from benchmarks.table import table
from benchmarks.variants import FORWARD

VGG, RESNET, MOBILENET, LITE = "vgg16", "resnet50", "mobilenet-v2", "efficientnet_lite0"
IG, SALIENCY = "onnxplain integrated-gradients", "onnxplain saliency"
ALL = "*"


@dataclass(frozen=True)
class Target:
    """limits: by network, ALL for those that are not named. value: None where it was not measured."""

    text: str
    limits: Mapping[str, float]
    value: Callable[[Measured], float | None]
    at_most: bool = True

    def met(self, value: float, limit: float) -> bool:
        return value <= limit if self.at_most else value >= limit


def over_forward(variant: str) -> Callable[[Measured], float | None]:
    return _ratio(f"onnxplain {variant}", FORWARD)


def _ratio(variant: str, to: str) -> Callable[[Measured], float | None]:
    def value(m: Measured) -> float | None:
        spread = m.batches[1].ratio(variant, to) if 1 in m.batches else None
        return None if spread is None else spread.median

    return value


def _memory(variant: str, to: str) -> Callable[[Measured], float | None]:
    def value(m: Measured) -> float | None:
        a, b = m.memory.get(variant), m.memory.get(to)
        return None if a is None or b is None else a / b

    return value


def _speed(peer: str, ours: str, limits: Mapping[str, float]) -> Target:
    return Target(f"{peer} / {ours}, time", limits, _ratio(peer, ours), at_most=False)


MAPS = {VGG: 1.15, RESNET: 1.15, MOBILENET: 1.15, LITE: 1.15}
GRADIENT = {VGG: 2.1, RESNET: 2.1, MOBILENET: 2.9, LITE: 2.9}
TARGETS = (
    *(
        Target(f"{method} / forward, time", GRADIENT, over_forward(method))
        for method in ("saliency", "guided-backprop")
    ),
    *(
        Target(
            f"{method} / forward, time",
            {VGG: 1.15, RESNET: 1.15, MOBILENET: 1.15, LITE: 1.15},
            over_forward(method),
        )
        for method in ("grad-cam", "fem")
    ),
    Target("lrp.epsilon / forward, time", {VGG: 2.4, RESNET: 2.4}, over_forward("lrp.epsilon")),
    Target("lrp.epsilon-plus / forward, time", {VGG: 2.8, RESNET: 3.6}, over_forward("lrp.epsilon-plus")),
    _speed("captum Saliency", SALIENCY, {VGG: 1.35, RESNET: 2.0, MOBILENET: 3.0}),
    _speed("zennit EpsilonPlus", "onnxplain lrp.epsilon-plus", {VGG: 3.3, RESNET: 4.3, MOBILENET: 8.0}),
    _speed("captum IntegratedGradients", IG, {ALL: 1.5}),
    Target(f"{IG} / captum's, peak memory", {ALL: 0.5}, _memory(IG, "captum IntegratedGradients")),
    Target(
        "the same over captum with all steps at once",
        {ALL: 0.5},
        _memory(IG, "captum IntegratedGradients, all steps at once"),
    ),
    Target(
        "integrated-gradients, 128 / 8 steps, peak memory",
        {ALL: 1.1},
        _memory(f"{IG}, 128 steps", f"{IG}, 8 steps"),
    ),
    Target("saliency / model, session creation", {ALL: 1.5}, lambda m: m.opening.session_ratio),
    Target("saliency / model, file size", {ALL: 1.03}, lambda m: m.opening.size_ratio),
    Target("saliency / model, peak memory", {ALL: 1.7}, _memory(SALIENCY, FORWARD)),
)


def acceptance(measured: Sequence[Measured]) -> str:
    """One line a target, one column a network; the floor by bytes below."""
    rows = [[_line(target), *(_cell(target, m) for m in measured)] for target in TARGETS]
    rows.append(["floor of saliency / forward by bytes", *(f"{m.floor:.2f}" for m in measured)])
    return table(["batch 1", *(m.title for m in measured)], rows)


def _line(target: Target) -> str:
    """A limit that all networks share stands with the text."""
    shared = set(target.limits.values())
    sign = "≤" if target.at_most else "≥"
    return f"{target.text} {sign} {shared.pop():g}" if len(shared) == 1 else f"{target.text} {sign}"


def _cell(target: Target, m: Measured) -> str:
    value = target.value(m)
    limit = target.limits.get(m.name, target.limits.get(ALL))
    if value is None:
        return "-" if limit is None else "not measured"
    shown = f"{value:.3f}" if "file size" in target.text else f"{value:.2f}"
    if limit is None:
        return f"{shown} (no target)"
    bound = "" if len(set(target.limits.values())) == 1 else f" ({limit:g})"
    return f"{shown}{bound} met" if target.met(value, limit) else f"**{shown}{bound} missed**"


def missed(measured: Sequence[Measured]) -> int:
    """How many figures miss their target."""
    return sum("missed" in _cell(target, m) for target in TARGETS for m in measured)
