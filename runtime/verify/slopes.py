"""A gradient against difference quotients of the file's own forward pass, in its own precision."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .cases import Array
from .outcome import NotApplicable, Outcome, check, within
from .subject import Floats, Shot, Subject

DIRECTIONS = 4
"""Of each kind, for each input."""

STEPS = tuple(8.0**-k for k in range(1, 8))
"""Lengths of the steps, as a share of the input's root mean square."""

CLEAR = 1024.0
"""A change of z counts from this many units of its rounding on."""

FAINT = 64.0
"""The same in random directions, where the change is small and the bound wide: the shorter the step, the fewer kinks
of a deep net it crosses."""

BOUND = 0.05
"""Of the error along the map; LeNet keeps 0.001, EfficientNet-Lite0 0.006."""

RANDOM = 5.0
"""How much larger the error in random directions may be: there z changes so little in a deep net that single kinks
show (EfficientNet-Lite0: 2 to 10 %)."""

_Direction = dict[str, Floats]


@check("gradient = difference quotient")
def gradient(subject: Subject) -> Outcome:
    """⟨A, v⟩ = dz/dv. See `_measured`."""
    return _checked(subject, product=False)


@check("input × gradient = difference quotient")
def input_times_gradient(subject: Subject) -> Outcome:
    """⟨A, v⟩ = dz along x ⊙ v. See `_measured`."""
    return _checked(subject, product=True)


@check("without noise, the gradient")
def without_noise(subject: Subject) -> Outcome:
    """With noise 0 the mean of the maps is the map itself: the gradient at the input."""
    inner = subject.options.get("inner")
    kinds = {"saliency": False, "input-x-gradient": True}
    if inner not in kinds:
        raise NotApplicable(f"the maps of {inner!r} are no gradient")
    still: dict[str, Any] = {
        name: np.zeros_like(value[:1]) for name, value in subject.more.items() if name.startswith("noise")
    }
    return _checked(subject, product=kinds[str(inner)], **still)


def _checked(subject: Subject, *, product: bool, **more: Any) -> Outcome:
    rng = subject.rng()
    errors: dict[str, list[float]] = {"along the map": [], "at random": []}
    for case in subject.probes:
        shot = subject.shoot(case, **more)
        if len(shot.z) != 1:
            raise NotApplicable(f"the batch is fixed at {len(shot.z)}: one sample cannot be moved alone")
        for kind, found in errors.items():
            found += _errors(subject, shot, product, kind == "at random", rng)
    medians = {kind: float(np.median(found)) for kind, found in errors.items() if found}
    if not medians:
        raise NotApplicable("every change of z is lost in its rounding: no difference quotient can be formed")
    worst = max(value / (RANDOM if kind == "at random" else 1.0) for kind, value in medians.items())
    shown = ", ".join(f"{value:.2g} {kind}" for kind, value in medians.items())
    count = sum(len(found) for found in errors.values())
    return within(worst, BOUND, f"median of {count} directions: {shown} (divided by {RANDOM:g})")


def _errors(
    subject: Subject, shot: Shot, product: bool, random: bool, rng: np.random.Generator
) -> list[float]:
    """One relative error a direction, of the first row. Random directions notice what the map leaves out; those along
    the map (a random half of its elements) that its size is wrong.

    ReLU and max pooling have kinks, and float32 rounds: the smallest central difference counts whose change of z is
    clear of rounding, and of the errors the median, so that single directions may cross a kink. The map is multiplied
    with the step as it was rounded. Relative to the largest of both numbers and of what ⟨A, v⟩ is on average.
    """
    a = {name: value[:1] for name, value in subject.attributions(shot.result).items()}
    x = {name: shot.case.feeds[name].astype(np.float64) for name in a}
    size = np.sqrt(np.mean(np.concatenate([value.ravel() for value in a.values()]) ** 2)) or 1.0
    found = []
    for _ in range(DIRECTIONS):
        v: _Direction = {
            name: rng.standard_normal(value.shape)
            if random
            else value / size * rng.integers(0, 2, value.shape).astype(np.float64)
            for name, value in a.items()
        }
        if product:  # A = x ⊙ g, so along x ⊙ v
            v = {name: x[name] * v[name] for name in v}
            slope = {
                name: np.divide(a[name], x[name], out=np.zeros_like(x[name]), where=x[name] != 0)
                for name in a
            }
        else:
            slope = a
        error = _error(subject, shot, slope, v, FAINT if random else CLEAR)
        found += [] if error is None else [error]
    return found


def _error(subject: Subject, shot: Shot, slope: _Direction, v: _Direction, clear: float) -> float | None:
    """|Δz - ⟨slope, Δx⟩| relative; None where rounding, `clear` units of it, hides both."""
    kind = shot.case.feeds[next(iter(slope))].dtype
    x = {name: shot.case.feeds[name].astype(np.float64) for name in slope}
    length = max(_rms(x), 1e-3) / (_rms(v) or 1.0)
    signed = [sign * step * length for step in STEPS for sign in (1.0, -1.0)]
    points: Mapping[str, Array] = {
        name: np.concatenate([x[name] + h * v[name] for h in signed]).astype(kind) for name in slope
    }
    score = (subject.values(shot.case.feeds, points) * shot.start[:1]).sum(axis=1)
    moved = {name: at.astype(np.float64)[::2] - at.astype(np.float64)[1::2] for name, at in points.items()}
    changes = score[::2] - score[1::2]
    claims = sum((moved[name] * slope[name]).reshape(len(STEPS), -1).sum(axis=1) for name in slope)
    norm = np.sqrt(sum((value**2).sum() for value in slope.values()))
    unit = float(np.finfo(kind).eps) * float(np.abs(shot.start[:1] * shot.z).sum())
    for i in reversed(range(len(STEPS))):
        change, claim = float(changes[i]), float(np.asarray(claims)[i])
        if max(abs(change), abs(claim)) > clear * unit:
            usual = float(norm) * _rms({name: value[i] for name, value in moved.items()})
            return abs(change - claim) / max(abs(change), abs(claim), usual)
    return None


def _rms(v: _Direction) -> float:
    return float(np.sqrt(np.mean(np.concatenate([value.ravel() for value in v.values()]) ** 2)))
