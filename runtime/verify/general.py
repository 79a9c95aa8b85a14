"""What every emitted file promises, whatever the method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx

from ...rewriter.graph import LOOP
from ...rewriter.passes.shapes import tensor_type
from ..explainer import Result
from ..session import run
from ..telling import NOT_FINITE, ZERO
from .cases import Array, Case
from .form import checked, fed, shapes, standard
from .outcome import NotApplicable, Outcome, check, judged, reported, within
from .sound import unsound
from .subject import Floats, Subject
from .surgery import first_trip, forward_part, loop_of

ROUNDING = 1e-5
"""Of outputs that fused kernels may round differently (docs/methods/README.md, "Tolerances")."""

SAME = 1e-4
"""Of maps that should be equal and are computed in another order: rounding of a deep net (docs/methods/README.md)."""

BLURRED = 1e-3
"""The same for relevance, whose quotients R/z enlarge rounding where z is next to 0 (docs/methods/README.md)."""


@check("forward unchanged, to the bit")
def forward_exact(subject: Subject) -> Outcome:
    """The model's own outputs, without graph optimisation: not one bit differs from those of the original. Of a loop
    the first trip runs, which makes them. Without the original the file's forward part stands in, and the outcome says
    so: it shows that the explanation does not disturb the outputs, not that they are the model's."""
    mine = subject.session(first_trip(subject.model), "disabled")
    return _forward(subject, _gap(subject, mine, "disabled"), 0.0, "to the bit")


@check("forward unchanged, optimised")
def forward_optimised(subject: Subject) -> Outcome:
    """The same with all optimisations: relative to the largest element, 1e-5."""
    return _forward(subject, _gap(subject, subject.explainer.session, "all"), ROUNDING, "optimised")


def _forward(subject: Subject, gap: float, bound: float, how: str) -> Outcome:
    bound = subject.bound(bound)
    if subject.source is not None:
        return within(gap, bound, "the file against the original model")
    outcome = within(gap, bound, f"the file against its own forward part; {_proof(subject.card.proof)}")
    return replace(outcome, check=f"outputs undisturbed by the explanation, {how}")


def _proof(proof: Mapping[str, Any] | None) -> str:
    """What the card says of the model itself, which was not given."""
    if proof is None:
        return "nothing here says that it is the model's: give the original model"
    if "unproved" in proof:
        return f"that it is the model's was not proved when the file was compiled: {proof['unproved']}"
    return f"its card says that it was {proof.get('error')} off the model's when the file was compiled"


def _gap(subject: Subject, mine: Any, optimization: str) -> float:
    baseline = _baseline(subject)
    theirs = subject.session(baseline, optimization)
    declared = {node.name: node.shape for node in theirs.get_inputs()}
    worst = 0.0
    for case in subject.cases:
        ours = run(mine, fed(subject, case))
        feeds = {n: first_half(v) if subject.paired else v for n, v in case.feeds.items() if n in declared}
        expected = run(theirs, feeds)
        for key in (name for name in subject.own if name in ours):  # lists of maps are no tensors
            found = first_half(ours[key]) if subject.paired else ours[key]
            worst = max(worst, _relative(found, expected[key]))
    return worst


def first_half(rows: Array) -> Array:
    """x0 of [x0; x1]."""
    return rows[: len(rows) // 2]


def _baseline(subject: Subject) -> onnx.ModelProto:
    if subject.source is not None:
        return subject.source.model
    if subject.paired:
        raise NotApplicable("the nodes of the model are replaced; give the original model to compare with")
    if loop_of(subject.model) is not None:
        raise NotApplicable(
            f"the forward pass is inside the node {LOOP!r}; give the original model to compare with"
        )
    part = forward_part(subject.model, subject.own)
    extra = {value.name for value in part.graph.input} - {slot.name for slot in subject.slots}
    if extra:
        raise AssertionError(
            f"the model's outputs depend on {', '.join(sorted(extra))}, which the explanation added"
        )
    return part


def _relative(a: Array, b: Array) -> float:
    """max |a - b| / max |b|; infinite where type, shape or the places of NaN differ."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return float("inf")
    if np.array_equal(a, b, equal_nan=a.dtype.kind in "fc"):
        return 0.0
    if a.dtype.kind not in "fc":
        return float("inf")
    return distance(a.astype(np.float64), b.astype(np.float64))


def distance(a: Floats, b: Floats) -> float:
    """max |a - b| / max |b|, absolute where b is 0; over the finite elements. Infinite where others differ."""
    if a.shape != b.shape:
        return float("inf")
    finite = np.isfinite(a) & np.isfinite(b)
    if not finite.all():
        if not np.array_equal(a[~finite], b[~finite], equal_nan=True):
            return float("inf")
        a, b = a[finite], b[finite]
    off = float(np.max(np.abs(a - b), initial=0.0))
    size = float(np.max(np.abs(b), initial=0.0))
    return off / size if size > 0 else off


@check("batch independence")
def batch(subject: Subject) -> Outcome:
    """A batch of three inputs, of three classes, equals three single runs, sample by sample and in another order too.
    Where the batch is fixed its samples are put in another order. Relative to each sample's largest element."""
    if subject.lead == 1:
        raise NotApplicable("the batch is fixed at 1")
    _vet_batch(subject)
    if not subject.free:
        return within(
            _permuted(subject), _same(subject), f"the samples of a batch of {subject.lead} permuted"
        )
    cases = _alike(subject)
    joint = {key: np.concatenate([c.feeds[key] for c in cases]) for key in cases[0].feeds}
    joint = {key: value if _batched(subject, key) else cases[0].feeds[key] for key, value in joint.items()}
    singles = []
    beside = [subject.beside(case) for case in cases]
    size = int(subject.card.target.get("size") or 1)
    targets = [i % size for i in range(len(cases))]
    for i, case in enumerate(cases):
        feeds = {key: v if _batched(subject, key) else joint[key] for key, v in case.feeds.items()}
        singles.append(_parts(subject.call(feeds, [targets[i]], **beside[i])))
    worst = 0.0
    for order in ([0, 1, 2], [2, 0, 1]):
        feeds = {key: v[order] if _batched(subject, key) else v for key, v in joint.items()}
        more = {
            key: np.concatenate([beside[i][key] for i in order], subject.row_axis(key)) for key in beside[0]
        }
        found = _parts(subject.call(feeds, [targets[i] for i in order], **more))
        worst = max(worst, _rowwise(found, [singles[i] for i in order]))
    return within(worst, _same(subject), "three inputs together and alone")


def _vet_batch(subject: Subject) -> None:
    """NotApplicable for a file whose rows are no samples."""
    if subject.paired:
        raise NotApplicable("the rows are pairs [x0; x1]")
    if subject.probes_fixed:
        raise NotApplicable(f"{subject.probes_fixed} probes of one sample are built in")
    for value in subject.model.graph.output:
        shape = tensor_type(value).shape or (1,)
        if value.name not in subject.own and isinstance(shape[0], int) and shape[0] != subject.lead:
            raise NotApplicable(f"{value.name!r} has no row for every sample")


def _alike(subject: Subject) -> list[Case]:
    """Three different inputs of one size."""
    first = subject.probes[0]
    shapes = {key: value.shape for key, value in first.feeds.items()}
    fits = [c for c in subject.cases if {k: v.shape for k, v in c.feeds.items()} == shapes]
    if len(fits) < 3:
        raise NotApplicable("three inputs of one size are needed")
    return fits[:3]


def _batched(subject: Subject, key: str) -> bool:
    slot = next(slot for slot in subject.slots if slot.name == key)
    return slot.explained or (bool(slot.shape) and slot.shape[0] == subject.lead)


def _parts(result: Result) -> dict[str, Floats]:
    heat = {f"heat/{key}": value for key, value in result.heatmaps.items()}
    found = {**result.outputs, **result.attributions, **heat, **result.results}
    return {key: value.astype(np.float64) for key, value in found.items()}


def _rowwise(found: Mapping[str, Floats], singles: list[dict[str, Floats]]) -> float:
    """The rows of each result lie along the first axis on which the single ones add up to it."""
    worst = 0.0
    for key, value in found.items():
        parts = [single[key] for single in singles]
        grown = [i for i, size in enumerate(value.shape) if size == sum(part.shape[i] for part in parts)]
        if not grown or any(part.ndim != value.ndim for part in parts):
            return float("inf")
        axis = grown[0]
        ends = np.cumsum([part.shape[axis] for part in parts])[:-1]
        pairs = zip(np.split(value, ends, axis), parts, strict=True)
        worst = max(worst, *(distance(mine, part) for mine, part in pairs))
    return worst


def _permuted(subject: Subject) -> float:
    """The samples of a fixed batch in reverse order: so are the maps."""
    case = subject.probes[0]
    turned = {key: v[::-1] if _batched(subject, key) else v for key, v in case.feeds.items()}
    more = subject.beside(case)
    there = _parts(subject.call(case.feeds, **more))
    back = _parts(subject.call(turned, **{key: v[::-1] for key, v in more.items()}))
    rows = len(case.feeds[subject.explained[0]])
    return max(
        distance(_reversed(back[key], rows), value) for key, value in there.items() if len(value) % rows == 0
    )


def _reversed(value: Floats, rows: int) -> Floats:
    """Samples in reverse order, the rows of one together."""
    return np.asarray(value.reshape(rows, -1)[::-1].reshape(value.shape))


def _same(subject: Subject) -> float:
    return subject.bound(BLURRED if subject.card.method.startswith(("lrp.", "deep-taylor")) else SAME)


@check("no NaN or infinity")
def finite(subject: Subject) -> Outcome:
    """No NaN and no infinity in any output, on every input: all zeros, a constant and an extreme one too. Where the
    model itself has no finite value or slope nothing can be asked of its explanation: that input is left out."""
    bad, fine, left = list[str](), list[str](), list[str]()
    for case in subject.cases:
        parts = _parts(subject.call(case.feeds, **subject.beside(case)))
        counts = {key: int(np.count_nonzero(~np.isfinite(value))) for key, value in parts.items()}
        reason = unsound(subject, case) if any(counts.values()) else ""
        if reason:
            left.append(f"{case.name}: {reason}")
            continue
        fine.append(case.name)
        why = _why(subject, case, NOT_FINITE) if any(counts.values()) else ""
        bad += [f"{count} in {key!r} on {case.name}{why}" for key, count in counts.items() if count]
    if not fine:
        raise NotApplicable("; ".join(left))
    return judged(bad, ", ".join(fine) + (f"; left out {'; '.join(left)}" if left else ""))


@check("the maps say something")
def says_something(subject: Subject) -> Outcome:
    """No map is zero everywhere, and where one is, at which node. A zero may be right, so it is no failure; zeros and
    constants, of which many are, are left out."""
    zero: list[str] = []
    for case in subject.probes:
        why = _why(subject, case, ZERO)
        zero += [f"{case.name}{why}"] if why else []
    names = ", ".join(case.name for case in subject.probes)
    return reported(len(zero), "; ".join(zero)) if zero else judged([], names)


def _why(subject: Subject, case: Case, kind: str) -> str:
    """What is told of the file's results, with the node; "" where nothing is."""
    explainer = subject.explainer
    explainer.tells = True
    try:
        result = subject.call(case.feeds, **subject.beside(case))
    finally:
        explainer.tells = False
    told = "; ".join(str(finding) for finding in result.findings if finding.kind == kind)
    return f": {told}" if told else ""


@check("class -1 is the top class")
def top_class(subject: Subject) -> Outcome:
    """Class -1 gives the map of the largest element of the explained tensor."""
    if subject.aim != "input":
        raise NotApplicable("the class is not an input of this file")
    worst = 0.0
    for case in subject.probes:
        asked = subject.shoot(case, -1)
        for row, chosen in enumerate(asked.z.argmax(axis=1)):
            named = subject.shoot(case, int(chosen))
            for key, value in subject.maps(asked.result).items():
                worst = max(worst, distance(value[row], subject.maps(named.result)[key][row]))
    # The same session on the same numbers; kernels of a GPU may add up in another order.
    return within(worst, 1e-6, f"{len(subject.probes)} inputs")


GENERAL = (
    forward_exact,
    forward_optimised,
    batch,
    finite,
    says_something,
    top_class,
    standard,
    checked,
    shapes,
)

ANYWHERE = frozenset(
    {forward_exact, forward_optimised, batch, finite, says_something, standard, checked, shapes}
)
"""Those that also hold where the model is no number."""
