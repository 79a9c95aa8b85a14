"""Maps whose sum is a difference of the explained value, or that value itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ...rewriter.emit import Emit
from ...rewriter.graph import assemble, prepare, with_weights
from ...rewriter.results import finish
from ...rewriter.scene import Stage
from ...rules.baselines import reference
from ...rules.gradient import GRADIENT
from ..session import run
from .cases import Array, Case
from .identity import identity
from .outcome import NotApplicable, Outcome, check, reported, within
from .subject import Floats, Shot, Subject
from .surgery import forward_part

GRID = 256
"""Points at which the path of integrated gradients is looked at, at most."""

DELTA = 1e-3
"""Of summation to delta, relative (docs/methods/README.md, "Tolerances")."""

CONSERVED = 1e-3
"""Of conservation, relative to the relevance there is: float32, ε = 1e-6."""

SMALL = 1e-5
"""An ε up to here absorbs less than CONSERVED."""


def total(subject: Subject, shot: Shot) -> Floats:
    """Σ A of every row, (rows,)."""
    maps = subject.attributions(shot.result).values()
    return np.asarray(sum(m.reshape(len(m), -1).sum(axis=1) for m in maps))


def mass(subject: Subject, shot: Shot) -> Floats:
    """Σ |A| of every row."""
    maps = subject.attributions(shot.result).values()
    return np.asarray(sum(np.abs(m).reshape(len(m), -1).sum(axis=1) for m in maps))


@check("Σ A = z(x) - z(baseline)")
def completeness(subject: Subject) -> Outcome:
    """Integrated gradients: Σ A = z(x) - z(x⁰).

    The sum over the nodes misses the integral by at most the step times the total variation of the slope of z on the
    path, which is measured on the forward pass: with D = Σ |z(α - h) - 2 z(α) + z(α + h)| over a grid of 2 steps, h
    apart, the bound is 2 D (plus 1e-4 of |z| and 1e-5 of Σ |A| for rounding). It falls as 1/steps.
    """
    pairs = []
    for case in subject.probes:
        shot, start = subject.shoot(case), references(subject, case)
        gap, bends = _path(subject, shot, start)
        bound = (
            2 * bends + subject.bound(1e-4) * np.abs(shot.value) + subject.bound(1e-5) * mass(subject, shot)
        )
        pairs.append((np.abs(total(subject, shot) - gap), bound, np.abs(gap)))
    return _worst(pairs)


def _path(subject: Subject, shot: Shot, start: Mapping[str, Array]) -> tuple[Floats, Floats]:
    """z(x) - z(x⁰), and D of `completeness`."""
    if len(shot.z) != 1:
        raise NotApplicable(f"the batch is fixed at {len(shot.z)}: one sample cannot be moved alone")
    steps = int(subject.options.get("steps", 50))
    count = min(2 * steps, GRID)
    alpha = np.linspace(0, 1, count + 1)
    points = {}
    for name, b in start.items():
        x = shot.case.feeds[name]
        along = alpha.reshape(-1, *[1] * (x.ndim - 1))
        points[name] = (b + along * (x.astype(np.float64) - b)).astype(x.dtype)
    z = subject.values(shot.case.feeds, points)
    if not np.isfinite(z).all():
        raise NotApplicable("the model itself is not finite on the path from the baseline to the input")
    score = np.stack([shot.score(row[None]) for row in z])
    bends = np.abs(score[2:] - 2 * score[1:-1] + score[:-2]).sum(axis=0) * count / (2 * steps)
    return score[-1] - score[0], bends


@check("Σ A = z(x) - z(reference)")
def summation_to_delta(subject: Subject) -> Outcome:
    """DeepLIFT: Σ A = z(x) - z(x⁰), to 1e-3 (and 1e-5 of Σ |A| and of the values, which float32 rounds)."""
    pairs = []
    for case in subject.probes:
        shot = subject.shoot(case)
        before = np.mean([shot.score(z) for z in _references(subject, case)], axis=0)
        gap = shot.value - before
        size = np.abs(shot.value) + np.abs(before) + mass(subject, shot)
        pairs.append(
            (
                np.abs(total(subject, shot) - gap),
                subject.bound(DELTA) * np.abs(gap) + subject.bound(1e-5) * size,
                np.abs(gap),
            )
        )
    return _worst(pairs)


def _references(subject: Subject, case: Case) -> list[Floats]:
    """z at the reference, or at each of a set of them."""
    many = subject.options.get("references")
    if many is None:
        start = references(subject, case)
        if subject.free or subject.lead == 1:
            return [subject.values(case.feeds, {n: b.astype(case.feeds[n].dtype) for n, b in start.items()})]
        rows = {
            n: np.broadcast_to(b, case.feeds[n].shape).astype(case.feeds[n].dtype) for n, b in start.items()
        }
        z = subject.tensor({**case.feeds, **rows})
        return [np.asarray(z, np.float64).reshape(len(z), -1)]
    if not isinstance(many, np.ndarray):
        raise NotApplicable("the references are not in the card; give them with --set references=FILE.npy")
    name = subject.explained[0]
    z = subject.values(case.feeds, {name: many.astype(case.feeds[name].dtype)})
    return [row[None] for row in z]


def references(subject: Subject, case: Case) -> dict[str, Array]:
    """x⁰ of every explained input, by the option `baseline` and the code that the compiler uses."""
    kind = subject.options.get("baseline", "zeros")
    if isinstance(kind, Mapping):
        raise NotApplicable(
            "the card does not hold the baseline, an array; give it with --set baseline=FILE.npy"
        )
    if isinstance(kind, str) and kind == "input":
        inputs = {
            name: "baseline" if len(subject.explained) == 1 else f"baseline/{name}"
            for name in subject.explained
        }
        return {name: subject.more[key] for name, key in inputs.items()}
    found = {}
    for slot in (slot for slot in subject.slots if slot.explained):
        graph = prepare(identity(slot))
        g = Emit(graph)
        x = graph.inputs[0]
        stage = Stage(
            graph, g, (x,), graph.outputs[0], subject.options, GRADIENT, subject.card.preprocessing or {}
        )
        value = reference(stage, x)
        infos = finish(g, [("reference", value, [None, *slot.shape[1:]])], set(graph.values), "portable")
        model = with_weights(assemble(graph, g.nodes, infos), graph)
        found[slot.name] = np.asarray(
            run(subject.session(model), {slot.name: case.feeds[slot.name]})["reference"]
        )
    return found


def _worst(pairs: Sequence[tuple[Floats, Floats, Floats]]) -> Outcome:
    """The row that comes closest to its bound, or exceeds it most, relative to what the sum should be."""
    error, bound, size = (np.concatenate([pair[i] for pair in pairs]) for i in range(3))
    if not np.isfinite(error).all():
        return within(float("nan"), 0.0, "the sum is not finite")
    i = int(np.argmax(error / np.maximum(bound, 1e-300)))
    unit = float(size[i]) or 1.0
    return within(float(error[i]) / unit, float(bound[i]) / unit, f"relative, worst of {len(error)} rows")


def begun(subject: Subject, shot: Shot, *, positive: bool = False) -> Floats:
    """The relevance that the backward pass starts with: Σ of the cotangent, or z_c."""
    if subject.aim == "cotangent":
        return np.asarray(shot.start.sum(axis=1))
    return np.maximum(shot.value, 0) if positive else shot.value


@check("Σ R = z_c")
def conservation(subject: Subject) -> Outcome:
    """LRP: Σ R = z_c. Bounded where docs/methods/lrp.md promises it, else the share that arrives is reported."""
    shares, errors = [], []
    for case in subject.probes:
        shot = subject.shoot(case)
        start, arrived = begun(subject, shot), total(subject, shot)
        shares += list(arrived / np.where(start == 0, 1, start))
        scale = np.abs(start) + 1e-2 * mass(subject, shot)
        errors += list(np.abs(arrived - start) / np.where(scale == 0, 1, scale))
    shown = f"Σ R / z_c from {min(shares):.3g} to {max(shares):.3g}"
    reason = _conserves(subject)
    if reason:
        return reported(max(abs(share - 1) for share in shares), f"{shown}; no bound: {reason}")
    return within(max(errors), subject.bound(CONSERVED), shown)


CONSERVATIVE = frozenset({"lrp.zero", "lrp.epsilon", "lrp.gamma", "lrp.z-plus", "lrp.epsilon-plus"})
POSITIVE = frozenset({"lrp.z-plus", "lrp.epsilon-plus"})
RECTIFIED = frozenset(
    "Conv ConvTranspose Gemm MatMul Relu MaxPool AveragePool GlobalAveragePool GlobalMaxPool BatchNormalization "
    "Flatten Reshape Squeeze Unsqueeze Transpose Concat Identity Dropout Cast Pad Constant Shape Gather Slice".split()
)
"""Operators of nets in which relevance only arrives where something positive was added up, and sums have one sign."""


def lossy(subject: Subject) -> str:
    """Why a node need not pass on all that its bias leaves; empty where it must."""
    method, options = subject.card.method, subject.options
    if method not in CONSERVATIVE:
        return "the rule does not conserve"
    if options.get("rules"):
        return "rules were changed for some nodes"
    if float(options.get("epsilon", 0.0)) > SMALL or options.get("eps_mode", "absolute") != "absolute":
        return "ε absorbs relevance"
    return not_rectified(subject) if method in POSITIVE else ""


def not_rectified(subject: Subject) -> str:
    """Why z⁺ may find nothing positive to share relevance out to; empty for nets of ReLUs, pools and a positive start.
    A sum with a constant is a bias; one of two branches hands relevance to a negative one."""
    if subject.aim == "cotangent":
        return "a cotangent may ask for a negative value"
    part = forward_part(subject.model, [subject.head]).graph
    weights = {tensor.name for tensor in part.initializer}
    odd = sorted(
        node.op_type
        for node in part.node
        if node.op_type not in RECTIFIED and not (node.op_type == "Add" and weights & set(node.input))
    )
    if odd:
        return f"{odd[0]} makes or mixes signs"
    if any((shot.value <= 0).any() for shot in subject.shots()):
        return "the explained value is negative"
    return ""


def _conserves(subject: Subject) -> str:
    """Why the sum need not be kept; empty where it must be."""
    reason = lossy(subject)
    if reason or (
        subject.options.get("bias") == "ignore" and subject.card.method in POSITIVE - {"lrp.epsilon-plus"}
    ):
        return reason
    return "" if homogeneous(subject) else "biases take their share"


def homogeneous(subject: Subject) -> bool:
    """Whether the explained tensor doubles with the input, and vanishes with it: no biases, and only activations and
    pools without a scale of their own."""
    for case in subject.probes:
        x = {name: case.feeds[name] for name in subject.explained}
        zero = subject.values(case.feeds, {name: np.zeros_like(value) for name, value in x.items()})
        once = subject.values(case.feeds, x)
        twice = subject.values(case.feeds, {name: value * 2 for name, value in x.items()})
        size = float(np.abs(once).max()) or 1.0
        if np.abs(zero).max() > 1e-6 * size or np.abs(twice - 2 * once).max() > 1e-5 * size:
            return False
    return True


@check("R >= 0")
def positive(subject: Subject) -> Outcome:
    """Deep Taylor: R >= 0; the most negative element relative to the largest. Bounded for nets of ReLUs and pools."""
    worst = 0.0
    for shot in subject.shots():
        for value in subject.attributions(shot.result).values():
            worst = max(worst, -float(value.min()) / (float(np.abs(value).max()) or 1.0))
    reason = not_rectified(subject)
    if reason:
        return reported(worst, f"the most negative element, relative to the largest; no bound: {reason}")
    return within(worst, 1e-6, "the most negative element, relative to the largest")


@check("Σ R <= max(z_c, 0)")
def no_more_than_began(subject: Subject) -> Outcome:
    """Deep Taylor: Σ R <= max(z_c, 0); the excess, relative. Bounded where R >= 0 is."""
    worst, shares = 0.0, []
    for shot in subject.shots():
        start, arrived = begun(subject, shot, positive=True), total(subject, shot)
        scale = np.where(start == 0, 1, start)
        worst = max(worst, float(np.max((arrived - start) / scale)))
        shares += list(arrived / scale)
    note, reason = f"share from {min(shares):.3g} to {max(shares):.3g}", not_rectified(subject)
    return (
        reported(worst, f"{note}; no bound: {reason}")
        if reason
        else within(worst, subject.bound(CONSERVED), note)
    )
