"""What a check found: a number, and the bound that it has to keep."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, TypeAlias

from ...rewriter.errors import ExplainError

if TYPE_CHECKING:
    from .subject import Subject


class Status(StrEnum):
    PASSED = "passed"
    FAILED = "failed"
    NOT_APPLICABLE = "not applicable"
    REPORTED = "reported"
    """Measured, but the method promises no bound."""


class NotApplicable(Exception):
    """Raised by a check that says nothing about this file; the text is the reason."""


@dataclass(frozen=True)
class Outcome:
    """What one check found. measured and bound: None where there is no number. note: what was measured, or why it was
    not. check: its title, which the check fills in where the outcome has none of its own."""

    status: Status
    measured: float | None = None
    bound: float | None = None
    note: str = ""
    check: str = ""

    @property
    def failed(self) -> bool:
        return self.status is Status.FAILED


Measure: TypeAlias = "Callable[[Subject], Outcome]"


@dataclass(frozen=True)
class Check:
    """One thing that a file is held to. measure: raises NotApplicable with the reason where it says nothing."""

    title: str
    measure: Measure

    def __call__(self, subject: Subject) -> Outcome:
        """What goes wrong inside the check is a failure of the file, and the note says why."""
        try:
            outcome = self.measure(subject)
        except NotApplicable as reason:
            outcome = Outcome(Status.NOT_APPLICABLE, note=str(reason))
        except (ExplainError, AssertionError) as error:
            outcome = Outcome(Status.FAILED, note=" ".join(str(error).split()))
        return replace(outcome, check=outcome.check or self.title)


def check(title: str) -> Callable[[Measure], Check]:
    """Make a function a check of this title."""
    return lambda measure: Check(title, measure)


def skipped(check: Check, reason: str) -> Outcome:
    """A check that was not made."""
    return Outcome(Status.NOT_APPLICABLE, note=reason, check=check.title)


def within(measured: float, bound: float, note: str = "") -> Outcome:
    """Passed iff measured <= bound; a NaN fails."""
    status = Status.PASSED if measured <= bound else Status.FAILED
    return Outcome(status, float(measured), float(bound), note)


def reported(measured: float, note: str) -> Outcome:
    return Outcome(Status.REPORTED, float(measured), None, note)


def judged(failures: list[str], passed: str) -> Outcome:
    """A check that counts what is wrong, and names it."""
    return within(len(failures), 0, "; ".join(failures) or passed)


def number(value: float | None) -> float | str | None:
    """Two digits, so that rounding of the last bits does not show; NaN and infinity as text, which JSON lacks."""
    if value is None:
        return None
    return float(f"{value:.1e}") if math.isfinite(value) else str(value)
