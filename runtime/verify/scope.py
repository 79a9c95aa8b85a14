"""LinearScope: is what the files give a linear system, y = F x + r, and is it the model's?"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ...rewriter.compile import compile_source
from ...rewriter.errors import TargetError
from ...rules.registry import find
from ...rules.scope.results import CONTRIBUTIONS, RESIDUAL, RESPONSE, TANGENT
from ..explainer import Explainer
from .again import recompiled
from .cases import Array, Case
from .general import SAME, distance
from .outcome import NotApplicable, Outcome, check, within
from .subject import Floats, Subject

ROWS, COLUMNS, REST = "linearscope.rows", "linearscope.columns", "linearscope.residual"


@check("F x + r = z")
def affine(subject: Subject) -> Outcome:
    """At x itself the linear system gives the explained tensor z. What the file lacks, F or r, is compiled from the
    original model; of rows it is ⟨F'c, x⟩ + ⟨c, r⟩ = ⟨c, z⟩. Relative to what is added up."""
    other = _other(subject, COLUMNS if subject.card.method == REST else REST)
    worst = 0.0
    for case in subject.probes:
        parts = _by_rows(subject, other, case) if subject.card.method == ROWS else _at_x(subject, other, case)
        fx, r, z = parts
        size = np.abs(fx).max() + np.abs(r).max() + np.abs(z).max()
        worst = max(worst, float(np.abs(fx + r - z).max() / (size or 1.0)))
    return within(
        worst, subject.bound(SAME), f"with {other.card.method} of the original" if other else "with F = 0"
    )


def _other(subject: Subject, name: str) -> Explainer | None:
    """The same system in another file; None where F is zero, because z does not depend on x once gates are frozen."""
    source, _, request = recompiled(subject)
    method = find(name)
    options = {key: v for key, v in request.options.items() if key in method.options and key != "probes"}
    try:
        model, card = compile_source(source, method, replace(request, target="output", options=options))
    except TargetError:
        if name != COLUMNS:
            raise
        return None
    return subject.opened(model, card)


def _at_x(subject: Subject, other: Explainer | None, case: Case) -> tuple[Floats, Floats, Floats]:
    """F x, r and z, as far as they have the same rows."""
    alone = len(subject.explained) == 1
    x = {TANGENT if alone else f"{TANGENT}/{name}": case.feeds[name] for name in subject.explained}
    if subject.card.method == REST:
        r = subject.call(case.feeds).results[RESIDUAL]
        fx = np.zeros_like(r) if other is None else other(case.feeds, **x).results[RESPONSE]
    else:
        assert other is not None, "r is never left out"
        fx = _response(subject, case, x)
        r = other(case.feeds).results[RESIDUAL]
    return _wide(fx), _wide(r), _wide(subject.tensor(case.feeds))


def _by_rows(subject: Subject, other: Explainer | None, case: Case) -> tuple[Floats, Floats, Floats]:
    """The same, each weighed with the start of the backward pass: one number a row."""
    assert other is not None, "r is never left out"
    shot = subject.shoot(case)
    fx = np.zeros(len(shot.start))
    for name, value in subject.attributions(shot.result).items():
        x = _wide(case.feeds[name])
        x = np.repeat(x, len(value) // len(x), axis=0)
        fx = fx + (value * x).reshape(len(value), -1).sum(axis=1)
    r = _wide(other(case.feeds).results[RESIDUAL]).reshape(len(shot.z), -1)
    return fx, shot.score(r), shot.value


def _wide(value: Array) -> Floats:
    return value.astype(np.float64)


def _response(subject: Subject, case: Case, tangents: dict[str, Array]) -> Array:
    """F t. With a number of probes built in the rows are repeated to it, and the first ones returned."""
    count = len(next(iter(tangents.values())))
    rows = subject.probes_fixed or count
    fed = {name: np.concatenate([t] * rows)[:rows] for name, t in tangents.items()}
    found: Array = subject.call(case.feeds, **fed).results[RESPONSE]
    return found[:count]


def _tangents(subject: Subject, case: Case) -> dict[str, Array]:
    return {name: t for name, t in subject.beside(case).items() if name.split("/")[0] == TANGENT}


@check("linear in the tangent")
def linear_tangent(subject: Subject) -> Outcome:
    """F (t + 2 u) = F t + 2 F u, t and u being drawn."""
    worst = 0.0
    case = subject.probes[0]
    t = _tangents(subject, case)
    u = {name: np.ascontiguousarray(value[..., ::-1]) for name, value in t.items()}
    both = {name: (t[name] + 2 * u[name]).astype(t[name].dtype) for name in t}
    first, second, joint = (_wide(_response(subject, case, v)) for v in (t, u, both))
    size = float(np.abs(first).max() + 2 * np.abs(second).max()) or 1.0
    worst = float(np.abs(joint - first - 2 * second).max()) / size
    return within(worst, subject.bound(SAME), "random tangents")


@check("F 0 = 0")
def zero_tangent(subject: Subject) -> Outcome:
    """No response to a tangent of zeros: r is left out."""
    worst = 0.0
    for case in subject.probes:
        still = {name: np.zeros_like(t) for name, t in _tangents(subject, case).items()}
        worst = max(worst, float(np.abs(_wide(_response(subject, case, still))).max()))
    return within(worst, 0.0, f"{len(subject.probes)} inputs")


@check("Σ contributions = z_c")
def summed(subject: Subject) -> Outcome:
    """The share of the input and those of all constants are the explained value; relative to Σ of their sizes."""
    worst = 0.0
    for case in subject.probes:
        shot = subject.shoot(case)
        found = _wide(shot.result.results[CONTRIBUTIONS])
        scale = np.abs(found).sum(axis=1)
        error = np.abs(found.sum(axis=1) - shot.value) / np.where(scale == 0, 1, scale)
        worst = max(worst, float(error.max()))
    return within(worst, subject.bound(SAME), f"{len(subject.card.options.get('terms', ()))} terms")


@check("y([x; x]) = [y; y]")
def pairs_agree(subject: Subject) -> Outcome:
    """The frozen half gives at x0 what the model gives."""
    worst = 0.0
    for case in subject.probes:
        x0 = {name: value[: len(value) // 2] for name, value in case.feeds.items()}
        first, second = _halves(subject, case, x0, x0)
        worst = max(worst, distance(second, first))
    return within(worst, subject.bound(SAME), f"{len(subject.probes)} inputs")


@check("affine in x1")
def pairs_affine(subject: Subject) -> Outcome:
    """F (a + b) + r = (F a + r) + (F b + r) - r, at a fixed x0, which all the first halves are the same for."""
    case = subject.probes[0]
    x0, a = ({n: np.array_split(v, 2)[i] for n, v in case.feeds.items()} for i in (0, 1))
    b = {name: np.ascontiguousarray(value[..., ::-1]) for name, value in a.items()}
    moved = [
        {name: part(name).astype(x0[name].dtype) if name in subject.explained else x0[name] for name in x0}
        for part in (
            lambda name: a[name] + b[name],
            lambda name: a[name],
            lambda name: b[name],
            lambda name: np.zeros_like(a[name]),
        )
    ]
    both, one, other, none = (_halves(subject, case, x0, x1)[1] for x1 in moved)
    size = sum(float(np.abs(v).max()) for v in (both, one, other, none)) or 1.0
    return within(
        float(np.abs(both - one - other + none).max()) / size, subject.bound(SAME), "random pictures"
    )


def _halves(
    subject: Subject, case: Case, x0: dict[str, Array], x1: dict[str, Array]
) -> tuple[Floats, Floats]:
    """z of [x0; x1]."""
    if subject.lead == 1 or len(next(iter(x0.values()))) == 0:
        raise NotApplicable("the batch has no room for [x0; x1]")
    z = _wide(subject.tensor({name: np.concatenate([x0[name], x1[name]]) for name in case.feeds}))
    first, second = np.array_split(z, 2)
    return first, second
