"""Checks that compile the original model again: node by node."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx

from ...rewriter.compile import Request
from ...rewriter.draft import Dim
from ...rewriter.load import Source
from ...rewriter.method import Method
from ...rewriter.passes.shapes import tensor_type
from ...rules.registry import find
from ..session import run
from .cases import Array, Case
from .nodes import adjointness, balances, change, relevance
from .outcome import NotApplicable, Outcome, check, reported, within
from .subject import Subject
from .sums import CONSERVED, DELTA, lossy

HASHED = ("baseline", "references", "patterns")
"""Options that the card only has a record of, where they are arrays."""

RECORDED = ("reduce", "terms", "explained")
"""Entries of the card's options that are none of the method's."""

ADJOINT = 1e-4
"""Of ⟨push t, c⟩ and ⟨t, pull c⟩, relative to the sum of their absolute terms: float32."""


@check("per node: pull is the transpose of push")
def adjoint(subject: Subject) -> Outcome:
    """Every pull is the transpose of its push, at every node; the worst one."""
    source, method, request = recompiled(subject)
    found = adjointness(source, method, request, _fed(subject, subject.probes[0]), run=_run(subject))
    if not found:
        raise NotApplicable("no map of this method has a forward form")
    worst = max(found, key=lambda a: _nan_last(a.error))
    note = f"{len(found)} maps, worst {worst.op} at {worst.node!r} ({worst.rule})"
    return within(worst.error, subject.bound(ADJOINT), note)


@check("per node: relevance is kept")
def relevance_kept(subject: Subject) -> Outcome:
    """LRP: what arrives at a node is passed on, or taken by its bias. Bounded for rules that keep the sum."""
    source, method, request = recompiled(subject)
    found = balances(
        source, method, request, _fed(subject, subject.probes[0]), run=_run(subject), weigh=relevance
    )
    if not found:
        raise NotApplicable("no relevance reaches any node")
    worst = max(found, key=lambda b: _nan_last(b.error))
    lost = f"{worst.share:.2g} of the start unaccounted for"
    note = f"{len(found)} nodes, worst {worst.op} at {worst.node!r} ({worst.rule}): {lost}"
    reason = lossy(subject)
    if reason:
        return reported(worst.error, f"{note}; no bound: {reason}")
    return within(worst.error, subject.bound(CONSERVED), note)


@check("per node: the change is kept")
def change_kept(subject: Subject) -> Outcome:
    """DeepLIFT: Σ m Δ is the same at the output of a node and over its inputs."""
    if subject.options.get("references") is not None:
        raise NotApplicable("of a set of references; each is a reference of its own")
    source, method, request = recompiled(subject)
    found = balances(
        source, method, request, _fed(subject, subject.probes[0]), run=_run(subject), weigh=change
    )
    if not found:
        raise NotApplicable("no change reaches any node")
    worst = max(found, key=lambda b: _nan_last(b.error))
    note = f"{len(found)} nodes, worst {worst.op} at {worst.node!r} ({worst.rule})"
    return within(worst.error, subject.bound(DELTA), note)


def _nan_last(error: float) -> float:
    return error if error == error else float("inf")


def recompiled(subject: Subject) -> tuple[Source, Method, Request]:
    """What the file was compiled from."""
    if subject.source is None:
        raise NotApplicable("needs the original model (--model)")
    options = {name: value for name, value in subject.options.items() if name not in RECORDED}
    stored = [name for name in HASHED if isinstance(options.get(name), Mapping)]
    if stored:
        raise NotApplicable(
            f"the card does not hold {', '.join(stored)}; give it with --set {stored[0]}=FILE"
        )
    card, names = subject.card, tuple(subject.explained)
    request = Request(
        target=subject.aim if isinstance(subject.aim, (str, int)) else tuple(subject.aim),
        output=card.target.get("output"),
        head=subject.head,
        inputs=names,
        shapes=_shapes(subject, subject.source),
        preprocessing=card.preprocessing,
        options=options,
    )
    return subject.source, find(card.method), request


def _shapes(subject: Subject, source: Source) -> Mapping[str, tuple[Dim, ...]] | None:
    """The sizes that the file fixes and its source does not."""
    theirs = {value.name: tensor_type(value).shape or () for value in source.model.graph.input}
    mine = {slot.name: slot.shape for slot in subject.slots}
    fixed = {
        name: shape
        for name, shape in mine.items()
        if any(
            isinstance(a, int) and not isinstance(b, int)
            for a, b in zip(shape, theirs.get(name, ()), strict=False)
        )
    }
    return fixed or None


def _fed(subject: Subject, case: Case) -> dict[str, Array]:
    feeds: dict[str, Any] = {**case.feeds, **subject.more, **subject.beside(case)}
    if subject.aim == "input":
        feeds["target"] = np.full((len(case.feeds[subject.explained[0]]), 1), -1, np.int64)
    return feeds


def _run(subject: Subject) -> Any:
    def runner(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> list[Array]:
        return list(run(subject.session(model), feeds).values())

    return runner
