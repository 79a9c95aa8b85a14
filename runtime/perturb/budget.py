"""How long a perturbation method will take, measured before the work, and what would fit a budget.

A fixed number of forward passes is all that these methods cost, so time is that number times the time of one, and a
trial of two chunks of the real work says the latter. Nothing is ever made smaller unasked: what does not fit is
refused, with the setting that would.
"""

from __future__ import annotations

import dataclasses
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ...rewriter.errors import OptionError
from ..lanes import Progress
from .incremental import Incremental
from .probing import Array, Fills, Places, Prober
from .technique import Knob, Technique

_UNITS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
TRIAL = 0.5
"""Seconds: a trial that cannot choose its chunks goes on so long after the first."""


@dataclass(frozen=True)
class Budget:
    """Seconds, or forward passes; one of the two."""

    seconds: float | None = None
    forwards: int | None = None

    def __str__(self) -> str:
        return self.said(self.most)

    def said(self, amount: float) -> str:
        """An amount in the unit of the budget."""
        return f"{round(amount)} forwards" if self.seconds is None else say_time(amount)

    def used(self, of: Estimate) -> float:
        """What a run takes, in the unit of the budget."""
        return of.forwards if self.seconds is None else of.total

    @property
    def most(self) -> float:
        return float(self.forwards or 0) if self.seconds is None else self.seconds


@dataclass(frozen=True)
class Estimate:
    """forwards of a run, and the seconds of one of them; NaN before they are measured."""

    forwards: int
    each: float = math.nan

    @property
    def total(self) -> float:
        return self.forwards * self.each

    def __str__(self) -> str:
        if math.isnan(self.each):
            return f"{self.forwards} forwards"
        return f"{self.forwards} forwards, {1000 * self.each:.3g} ms each: about {say_time(self.total)}"


@dataclass(frozen=True)
class Job:
    """A technique with its settings, and what it is expected to take for so many classes. changed: the settings that a
    budget changed, name -> (asked for, taken)."""

    technique: Technique
    settings: Any
    classes: int
    estimate: Estimate
    changed: Mapping[str, tuple[int, int]] = dataclasses.field(default_factory=dict)


def parse_budget(given: str | float | int | Budget) -> Budget:
    """ "60s", "5m", "1.5h" are times, a bare number is forward passes. Raises OptionError."""
    if isinstance(given, Budget):
        return given
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(s|m|min|h|)\s*", str(given).lower())
    if match is None or not float(match[1]) or (not match[2] and "." in match[1]):
        raise OptionError(
            f"budget={given!r}: write a time, 60s, 5m or 1h, or a number of forward passes, 2000"
        )
    if match[2]:
        return Budget(seconds=float(match[1]) * _UNITS[match[2]])
    return Budget(forwards=int(match[1]))


def say_time(seconds: float) -> str:
    """75 -> "1 min 15 s"."""
    if seconds < 0.095:
        return f"{seconds:.1g} s"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min" + (f" {whole % 60} s" if whole % 60 else "")
    return f"{whole // 3600} h {whole % 3600 // 60} min"


class _Enough(Exception):
    """Ends a trial: seconds of one forward pass."""

    def __init__(self, each: float) -> None:
        super().__init__()
        self.each = each


class _Trial(Prober):
    """Stands in for a prober, with its sessions, and times the bulk of the work instead of doing it: one run to warm
    up, then two, from a quarter and from five eighths of it, as what a window costs may depend on where it is."""

    __slots__ = ("bulk", "timed")  # all else is the prober's own

    def __init__(self, of: Prober, bulk: float) -> None:
        self.__dict__ = of.__dict__
        self.bulk, self.timed = bulk, False

    def masked(
        self,
        masks: Array | Callable[[npt.NDArray[np.int64]], Array],
        count: int,
        fill: Array,
        classes: Sequence[int] | None = None,
        tell: Progress | None = None,
    ) -> Array:
        if count < self.bulk:
            return super().masked(masks, count, fill, classes, tell)
        make = masks if callable(masks) else masks.__getitem__
        starts = range(0, count, self.chunk)
        every = [np.arange(start, min(start + self.chunk, count)) for start in starts]
        for part in self._chosen(every):
            super().masked(lambda i, part=part: make(part[i]), len(part), fill, classes)  # type: ignore[misc]
        raise AssertionError("a trial ends itself")

    def windows(
        self,
        places: Places,
        size: tuple[int, int],
        fills: Fills,
        classes: Sequence[int] | None = None,
        tell: Progress | None = None,
        cone: Incremental | None = None,
    ) -> Array:
        self.timed = len(places) >= self.bulk
        return super().windows(places, size, fills, classes, None if self.timed else tell, cone)

    def _runs(self, places: Places, cone: Incremental | None) -> Iterator[npt.NDArray[np.int64]]:
        runs = super()._runs(places, cone)
        return self._chosen(list(runs)) if self.timed else runs

    def _chosen(self, every: Sequence[npt.NDArray[np.int64]]) -> Iterator[npt.NDArray[np.int64]]:
        """What is run, until it has been."""
        yield every[len(every) // 8]
        parts = [every[len(every) // 4], every[5 * len(every) // 8]]
        started = time.perf_counter()
        yield from parts
        raise _Enough((time.perf_counter() - started) / sum(map(len, parts)))


def estimate(job: Job, prober: Prober, classes: Sequence[int]) -> Estimate:
    """Try a technique at this image. A technique that does not go through `windows` or `masked` with at least half of
    its forwards is run for a moment, by the steps that it tells of. Not counted in `prober.forwards`."""
    technique, settings = job.technique, job.settings
    if technique.trial is not None:
        settings = technique.trial(settings)
    forwards, before = max(1, technique.count(prober, settings, len(classes))), prober.forwards
    steps: list[tuple[float, int]] = []
    started = time.perf_counter()

    def tell(done: int, total: int) -> None:
        steps.append((time.perf_counter(), done))
        (first, at), (now, there) = steps[0], steps[-1]
        if there > at and now - first >= TRIAL:
            raise _Enough((now - first) / (there - at) * total / forwards)

    try:
        technique.run(_Trial(prober, forwards / 2), settings, classes, tell)
        each = (time.perf_counter() - started) / forwards  # over before a step could be measured
    except _Enough as enough:
        each = enough.each
    finally:
        prober.forwards = before
    return Estimate(job.estimate.forwards, each)


def fitting(prober: Prober, job: Job, forwards: float) -> list[Job]:
    """The job made to take no more than so many forwards, by each knob alone that can do it; by several, each at its
    end but the last, where none can. Empty where nothing helps."""
    alone = [_turned(prober, job, knob, forwards) for knob in job.technique.lighter]
    found = [made for made in alone if made is not None]
    for knob in () if found else job.technique.lighter:
        turned = _turned(prober, job, knob, forwards)
        if turned is not None:
            return [turned]
        job = _lightest(prober, job, knob) or job
    return found


def _turned(prober: Prober, job: Job, knob: Knob, forwards: float) -> Job | None:
    """The knob turned as little as that takes. None where its end is not enough."""
    now, end = knob.now(job.settings), knob.lightest(job.settings)
    least = _lightest(prober, job, knob)
    if least is None or least.estimate.forwards > forwards:
        return None
    step = 1 if end > now else -1
    few, many = 0, abs(end - now)
    while few < many:
        middle = (few + many) // 2
        if _set(prober, job, knob, now + step * middle).estimate.forwards <= forwards:
            many = middle
        else:
            few = middle + 1
    return _set(prober, job, knob, now + step * many)


def _lightest(prober: Prober, job: Job, knob: Knob) -> Job | None:
    """With a knob at its end, which is a guess where the image decides, as on the number of segments: None where the
    technique does not take it."""
    try:
        return _set(prober, job, knob, knob.lightest(job.settings))
    except OptionError:
        return None


def _set(prober: Prober, job: Job, knob: Knob, value: int) -> Job:
    taken = knob.taken(job.settings, value)
    settings = dataclasses.replace(job.settings, **{knob.name: taken})
    count = Estimate(job.technique.count(prober, settings, job.classes), job.estimate.each)
    asked, _ = job.changed.get(knob.name, (getattr(job.settings, knob.name), 0))
    changed = {**job.changed, knob.name: (asked, taken)}
    return dataclasses.replace(job, settings=settings, estimate=count, changed=changed)


def within(prober: Prober, jobs: Sequence[Job], budget: Budget, change: bool = False) -> list[Job]:
    """The jobs, where together they fit the budget. Else, with `change`, those with knobs are made lighter, all by the
    same factor. Raises OptionError for what does not fit, naming the settings that would."""
    asked = [budget.used(job.estimate) for job in jobs]
    if sum(asked) <= budget.most:
        return list(jobs)
    names = ", ".join(job.technique.name for job in jobs)
    over = f"{names} would take {budget.said(sum(asked))}, over the budget of {budget}"
    fixed = sum(used for used, job in zip(asked, jobs, strict=True) if not job.technique.lighter)
    share = max(0.0, budget.most - fixed) / ((sum(asked) - fixed) or 1.0)
    found: list[Job] = []
    advice: list[str] = []
    for job in jobs:
        ways = fitting(prober, job, job.estimate.forwards * share) if job.technique.lighter else [job]
        if not ways:
            raise OptionError(
                f"{over}, and no setting makes it fit{_least(prober, job)}; give a larger budget"
            )
        found.append(ways[0])
        if job.technique.lighter:
            advice.append(" or ".join(_say(way, several=len(jobs) > 1) for way in ways))
    if fixed > budget.most:
        raise OptionError(f"{over}, and no setting makes it fit; give a larger budget")
    if change:
        return found
    raise OptionError(
        f"{over}; {'; '.join(advice)}. Set that, or take it with --fit-budget (fit_budget=True)"
    )


def _least(prober: Prober, job: Job) -> str:
    """What the job takes with every knob at its end, for an error."""
    for knob in job.technique.lighter:
        job = _lightest(prober, job, knob) or job
    return f" (even {_say(job)})" if job.changed else ""


def _say(job: Job, several: bool = False) -> str:
    """ "stride=3 would take 48 s (1369 forwards)"."""
    front = f"{job.technique.name}." if several else ""
    words = ", ".join(f"{front}{name}={taken}" for name, (_, taken) in job.changed.items())
    total, forwards = job.estimate.total, f"{job.estimate.forwards} forwards"
    return f"{words} would take " + (forwards if math.isnan(total) else f"{say_time(total)} ({forwards})")


__all__ = ["Budget", "Estimate", "Job", "estimate", "fitting", "parse_budget", "say_time", "within"]
