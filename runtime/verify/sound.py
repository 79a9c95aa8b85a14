"""Where the model itself has a value and a slope: a check of an explanation says nothing anywhere else."""

from __future__ import annotations

import numpy as np

from ...rewriter.errors import ExplainError
from .cases import Array, Case, Maker
from .outcome import NotApplicable
from .subject import Floats, Subject
from .sums import references
from .surgery import finiteness, loop_of, searches

RANDOM = 3
"""Inputs that are drawn."""

TRIES = 24
"""Inputs that are drawn at most until that many are found."""

STEPS = (1e-1, 1e-2, 1e-3)
"""Of a walk towards x, as a share of its size."""

STEEP = 4.0
"""A difference quotient that grows by this at every tenth of the step has a limit nowhere near: √ at 0 has √10 a step,
10 over both; a kink has 1."""


def drawn(subject: Subject, maker: Maker) -> tuple[Case, ...]:
    """Random inputs at which the model is finite: the first ones of the seed, then ones above zero. Where there is none
    the first ones as they are."""
    first = maker.random(RANDOM)
    found = [case for case in first if not undefined(subject, case)]
    for more in (maker.random(TRIES)[RANDOM:], maker.above(RANDOM)) if len(found) < RANDOM else ():
        for case in more:
            if len(found) < RANDOM and not undefined(subject, case):
                found.append(case)
    return tuple(found or first)


def undefined(subject: Subject, case: Case) -> str:
    """Why the explained value is no number at this input; "" where it is one, or cannot be asked for."""
    try:
        z = subject.tensor(case.feeds)
    except (ExplainError, NotApplicable):
        return ""
    return "" if np.isfinite(np.asarray(z, np.float64)).all() else "the model itself is not finite"


def unsound(subject: Subject, case: Case) -> str:
    """Why no finite map can be asked for at this input: z is not finite at it, at the reference or at a point of the
    method's own, or has no finite slope. "" where none of it holds."""
    return (
        undefined(subject, case)
        or _at_reference(subject, case)
        or _elsewhere(subject, case)
        or _steep(subject, case)
    )


def groundless(subject: Subject) -> str:
    """Why nothing can be said of what the method promises: at every probe the model, or its reference, is no number."""
    whys = [undefined(subject, case) or _at_reference(subject, case) for case in subject.probes]
    return whys[0] if all(whys) else ""


def _at_reference(subject: Subject, case: Case) -> str:
    if "baseline" not in subject.options:
        return ""
    try:
        start = references(subject, case)
        rows = {
            n: np.broadcast_to(b, case.feeds[n].shape).astype(case.feeds[n].dtype) for n, b in start.items()
        }
        z = subject.tensor({**case.feeds, **rows})
    except (ExplainError, NotApplicable):
        return ""
    finite = np.isfinite(np.asarray(z, np.float64)).all()
    return "" if finite else "the model itself is not finite at the method's reference"


def _elsewhere(subject: Subject, case: Case) -> str:
    """Of a method that looks at other points: of one that averages z at all of them; of one that searches whether z is
    no number at any of the inputs."""
    reason = "the model itself is not finite at a point of the method's own"
    try:
        if searches(subject.model, subject.own):
            return reason if any(undefined(subject, other) for other in subject.cases) else ""
        if loop_of(subject.model) is None:
            return ""
        model, name = finiteness(subject.model, subject.head)
        explainer = subject._quiet(model)
        found = subject._ask(explainer, case.feeds, -1, {**subject.more, **subject.beside(case)}).outputs[
            name
        ]
    except (ExplainError, NotApplicable):
        return ""
    return "" if np.isfinite(np.asarray(found, np.float64)).all() else reason


def _steep(subject: Subject, case: Case) -> str:
    """Whether difference quotients of z grow without end towards x, or z is no number beside it."""
    if not subject.free and subject.lead != 1:
        return ""
    rng, start = subject.rng(), {n: case.feeds[n][:1].astype(np.float64) for n in subject.explained}
    size = max(1e-2, *(float(np.sqrt(np.mean(x**2))) for x in start.values()))
    for _ in range(4):
        v = {name: rng.standard_normal(x.shape) for name, x in start.items()}
        try:
            quotients = _quotients(subject, case, start, v, size)
        except (ExplainError, NotApplicable):
            return ""
        if not np.isfinite(quotients).all():
            return "the model itself is not finite beside it"
        if (quotients[-1] > STEEP * quotients[0]).any():
            return "the slope of the model itself is infinite"
    return ""


def _quotients(
    subject: Subject, case: Case, start: dict[str, Floats], v: dict[str, Floats], size: float
) -> Floats:
    """|z(x + h v) - z(x)| / h of every element, for the steps h: (steps, elements)."""
    moves = [0.0, *(size * step for step in STEPS)]
    points: dict[str, Array] = {
        name: np.concatenate([x + h * v[name] for h in moves]).astype(case.feeds[name].dtype)
        for name, x in start.items()
    }
    one = {n: f if n in points or not len(f.shape) else f[:1] for n, f in case.feeds.items()}
    z = subject.values(one, points)
    return np.asarray(np.abs(z[1:] - z[:1]) / np.asarray(moves[1:])[:, None])
