"""Estimates come from the real work, and nothing is made smaller unasked."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from onnxplain.rewriter.errors import OptionError
from onnxplain.runtime.lanes import Progress
from onnxplain.runtime.perturb import budget
from onnxplain.runtime.perturb.budget import Budget, Estimate, Job, estimate, fitting, parse_budget, within
from onnxplain.runtime.perturb.probing import ENGINES, Array, Asked, Prober
from onnxplain.runtime.perturb.technique import Technique
from tests.runtime.perturb.slabs import SLABS, Settings, run
from tests.runtime.small import picture

X = np.random.default_rng(3).normal(size=(1, 2, 3, 4)).astype(np.float32)


def prober(batch: int = 4, engine: str = "full") -> Prober:
    return Prober(picture(), X, Asked("output", batch=batch, engine=engine))


def job(of: Prober, each: float = 1.0, technique: Technique = SLABS, **settings: Any) -> Job:
    chosen = technique.settle(settings)
    return Job(technique, chosen, 1, Estimate(technique.forwards(of, chosen), each))


def tried(of: Prober, technique: Technique = SLABS, **settings: Any) -> Estimate:
    return estimate(job(of, math.nan, technique, **settings), of, (0,))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("60s", Budget(seconds=60.0)),
        (" 5 M ", Budget(seconds=300.0)),
        ("2min", Budget(seconds=120.0)),
        ("1.5h", Budget(seconds=5400.0)),
        ("2000", Budget(forwards=2000)),
        (2000, Budget(forwards=2000)),
    ],
)
def test_budgets_are_times_or_forwards(text: str | int, expected: Budget) -> None:
    assert parse_budget(text) == expected == parse_budget(expected)


@pytest.mark.parametrize("text", ["", "0", "0s", "-5s", "5 weeks", "2.5", "s", "1e3", "nan", 1.5, True])
def test_other_words_are_refused(text: Any) -> None:
    with pytest.raises(OptionError, match="write a time, 60s, 5m or 1h, or a number"):
        parse_budget(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.004, "0.004 s"), (0.0961, "0.1 s"), (9.94, "9.9 s"), (9.96, "10 s"), (59.4, "59 s"), (59.6, "1 min"),
     (75, "1 min 15 s"), (3599.7, "1 h 0 min"), (7265, "2 h 1 min")],
)  # fmt: skip
def test_times_in_words(seconds: float, text: str) -> None:
    assert budget.say_time(seconds) == text


class Clock:
    """Time goes by only when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(budget, "time", made)
    return made


def watched(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> list[int]:
    """The sizes of the runs; the first takes a second longer, a copy 1 ms."""
    sizes: list[int] = []
    real = Prober._run

    def count(self: Prober, session: Any, feeds: Any) -> Array:
        found = real(self, session, feeds)
        sizes.append(len(found))
        clock.sleep(0.001 * sizes[-1] + (len(sizes) == 1))
        return found

    monkeypatch.setattr(Prober, "_run", count)
    return sizes


@pytest.mark.parametrize("engine", ENGINES)
def test_a_trial_runs_three_chunks_and_counts_none(
    monkeypatch: pytest.MonkeyPatch, clock: Clock, engine: str
) -> None:
    of = prober(engine=engine)
    of.base  # noqa: B018 - not part of the trial
    sizes = watched(monkeypatch, clock)
    found = tried(of)
    assert sizes == [4, 4, 4] and of.forwards == 0
    assert found.forwards == 48 and found.total == pytest.approx(0.048)
    assert found.each == pytest.approx(0.001), "the first chunk warms up"


def test_a_trial_uses_what_the_work_will_use() -> None:
    """Sessions that it opens are those of the run, for as many windows."""
    of = prober(engine="incremental")
    tried(of)
    held = dict(of._cones)
    assert held and run(of, Settings(), (0,), None).shape == (1, 3, 4)
    assert of._cones == held


def test_a_trial_of_work_that_fits_one_run(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    of = prober(batch=64)
    of.base  # noqa: B018
    sizes = watched(monkeypatch, clock)
    assert tried(of, samples=1).each == pytest.approx(0.001) and sizes == [12, 12, 12]


def test_masks_are_tried_alike(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    sizes = watched(monkeypatch, clock)
    asked: list[int] = []

    def run(of: Prober, s: Settings, classes: Sequence[int], tell: Progress | None) -> Array:
        def masks(index: npt.NDArray[np.int64]) -> Array:
            asked.extend(index.tolist())
            return np.ones((len(index), *of.size), np.float32)

        of.masked(masks, 40, np.zeros((2, 1, 1), np.float32), classes, tell)
        raise AssertionError("a trial does not do all of the work")

    technique = dataclasses.replace(SLABS, forwards=lambda of, s: 40, run=run)
    found = tried(prober(), technique)
    assert found.forwards == 40 and found.each == pytest.approx(0.001)
    assert sizes == [4, 4, 4] and asked == [4, 5, 6, 7, 8, 9, 10, 11, 24, 25, 26, 27]


def test_work_in_many_calls_is_timed_by_its_steps(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    """One mask a step, as an optimisation does it: stopped after TRIAL seconds, and the first step does not count."""
    monkeypatch.setattr(budget, "TRIAL", 0.05)
    steps = []

    def run(of: Prober, s: Settings, classes: Sequence[int], tell: Progress | None) -> Array:
        assert tell is not None
        for i in range(100):
            clock.sleep(0.3 if i == 0 else 0.01)
            steps.append(i)
            tell(i + 1, 100)
        return np.zeros((len(classes), *of.size), np.float32)

    technique = dataclasses.replace(SLABS, forwards=lambda of, s: 200, run=run)
    found = tried(prober(), technique)
    assert found.forwards == 200 and 1 + 5 <= len(steps) <= 1 + 6  # the sum of five times 10 ms is rounded
    assert found.each == pytest.approx(0.005), "100 steps of 10 ms are 200 forwards of 5 ms"


def test_work_too_short_for_a_trial_is_done_once(clock: Clock) -> None:
    def run(of: Prober, s: Settings, classes: Sequence[int], tell: Progress | None) -> Array:
        clock.sleep(0.48)
        return np.zeros((len(classes), *of.size), np.float32)

    found = tried(prober(), dataclasses.replace(SLABS, run=run))
    assert found.forwards == 48 and found.each == pytest.approx(0.01)


def test_errors_of_a_trial_are_raised_and_nothing_is_counted() -> None:
    def run(of: Prober, s: Settings, classes: Sequence[int], tell: Progress | None) -> Array:
        of.masked(np.ones((1, *of.size), np.float32), 1, np.zeros((2, 1, 1), np.float32))
        raise OptionError("no")

    of = prober()
    with pytest.raises(OptionError, match="no"):
        tried(of, dataclasses.replace(SLABS, run=run))
    assert of.forwards == 0


def test_what_fits_is_left_alone() -> None:
    of = prober()
    jobs = [job(of), job(of, samples=2)]
    assert within(of, jobs, Budget(forwards=72)) == jobs == within(of, jobs, Budget(seconds=72.0))
    with pytest.raises(OptionError):
        within(of, jobs, Budget(forwards=71))


def test_a_knob_is_turned_as_little_as_that_takes() -> None:
    """12 pixels: samples s and stride 1 are 12 s copies, stride 2 leaves half of them."""
    of = prober()
    ways = fitting(of, job(of), 47)
    assert [(w.settings.samples, w.settings.stride, w.estimate.forwards) for w in ways] == [
        (3, 1, 36),
        (4, 2, 24),
    ]
    assert [w.changed for w in ways] == [{"samples": (4, 3)}, {"stride": (1, 2)}]
    (both,) = fitting(of, job(of), 6)
    assert (both.settings.samples, both.settings.stride) == (1, 2)
    assert both.changed == {"samples": (4, 1), "stride": (1, 2)}
    assert fitting(of, job(of), 5) == []


def test_a_refusal_names_settings_that_fit() -> None:
    of = prober()
    with pytest.raises(OptionError) as caught:
        within(of, [job(of)], Budget(seconds=30.0))
    text = str(caught.value)
    assert "slabs would take 48 s, over the budget of 30 s" in text
    assert "samples=2 would take 24 s (24 forwards) or stride=2 would take 24 s (24 forwards)" in text
    assert "--fit-budget" in text
    with pytest.raises(
        OptionError, match=r"no setting makes it fit \(even samples=1, stride=2 would take 6.0 s"
    ):
        within(of, [job(of)], Budget(seconds=5.0))
    unmeasured = [dataclasses.replace(job(of), estimate=Estimate(48))]
    with pytest.raises(
        OptionError, match=r"48 forwards, over the budget of 40 forwards; samples=3 would take 36 f"
    ):
        within(of, unmeasured, Budget(forwards=40))


def test_a_budget_may_be_fitted_when_asked() -> None:
    of = prober()
    (made,) = within(of, [job(of)], Budget(seconds=40.0), change=True)
    assert made.settings == Settings(samples=3) and made.estimate == Estimate(36, 1.0)
    assert made.changed == {"samples": (4, 3)}


def test_several_methods_share_a_budget() -> None:
    """48 + 48 forwards in 60: half and half, and one without knobs keeps its own."""
    of = prober()
    found = within(of, [job(of), job(of)], Budget(forwards=60), change=True)
    assert [one.settings.samples for one in found] == [2, 2]
    fixed = job(of, technique=dataclasses.replace(SLABS, name="fixed", lighter=()))
    found = within(of, [fixed, job(of)], Budget(forwards=60), change=True)
    assert found[0] == fixed and found[1].settings.samples == 1
    with pytest.raises(OptionError, match=r"slabs\.samples=1 would take"):
        within(of, [fixed, job(of)], Budget(forwards=60))
    with pytest.raises(OptionError, match="give a larger budget"):
        within(of, [fixed], Budget(forwards=47), change=True)
    with pytest.raises(OptionError, match="give a larger budget"):
        within(of, [fixed, job(of)], Budget(forwards=48), change=True)


def test_an_end_that_the_image_does_not_bear_is_no_suggestion() -> None:
    def forwards(of: Prober, s: Settings) -> int:
        if s.samples < 3:
            raise OptionError("too few samples")
        return 12 * s.samples

    of = prober()
    technique = dataclasses.replace(SLABS, forwards=forwards, lighter=SLABS.lighter[:1])
    with pytest.raises(OptionError, match="no setting makes it fit; give a larger budget"):
        within(of, [job(of, technique=technique)], Budget(forwards=40))


def test_a_technique_may_count_by_classes_and_be_tried_with_other_settings(
    monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    monkeypatch.setattr(budget, "TRIAL", 0.0)
    seen = []

    def run(of: Prober, s: Settings, classes: Sequence[int], tell: Progress | None) -> Array:
        assert tell is not None
        seen.append(s.samples)
        for i in range(24):
            clock.sleep(0.01)
            tell(i + 1, 24)
        raise AssertionError("a trial ends by itself")

    of = prober()
    technique = dataclasses.replace(
        SLABS, run=run, per_class=True, trial=lambda s: dataclasses.replace(s, samples=1)
    )
    assert technique.count(of, Settings(), 2) == 96
    two = Job(technique, Settings(), 2, Estimate(96))
    found = estimate(two, of, (0, 1))
    assert seen == [1] and found.forwards == 96
    assert found.each == pytest.approx(0.01), "the trial's own 24 forwards took 24 steps of 10 ms"
    (fewer,) = within(of, [dataclasses.replace(two, estimate=Estimate(96, 1.0))], Budget(seconds=72.0), True)
    assert fewer.settings.samples == 3 and fewer.estimate.forwards == 72
