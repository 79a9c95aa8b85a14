"""What must not change patterns: batches, shards, order, interruptions."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from onnxplain import models
from onnxplain.rewriter.errors import OptionError, StaleError
from onnxplain.runtime.estimate import (
    Patterns,
    Plan,
    fit_patterns,
    gather,
    load_statistics,
    merge,
    patterns_of,
)
from onnxplain.runtime.estimate.statistics import Total

LENET = models.path("mnist_lenet")

Array = NDArray[Any]


@cache
def digits(count: int) -> Array:
    return models.digits()[0][:count]


def same(a: Patterns, b: Patterns, tolerance: float = 1e-12) -> None:
    assert a.arrays.keys() == b.arrays.keys()
    for node, arrays in a.arrays.items():
        for estimator, array in arrays.items():
            other = b.arrays[node][estimator]
            assert np.abs(array - other).max() <= tolerance * np.abs(array).max(), (node, estimator)


@cache
def whole(count: int) -> Patterns:
    return fit_patterns(LENET, digits(count))


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_the_batch_changes_nothing(batch: int) -> None:
    fitted = fit_patterns(LENET, digits(70), plan=Plan(batch=batch))
    same(fitted, whole(70), 0.0)
    assert fitted.provenance == whole(70).provenance


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 1, 2)])
def test_shards_in_any_order_change_nothing(order: tuple[int, ...]) -> None:
    parts = [gather(LENET, digits(70), plan=Plan(shard=(i, 3))) for i in order]
    assert [part.images for part in parts] == [len(range(i - 1, 70, 3)) for i in order]
    joined = patterns_of(merge(parts))
    same(joined, whole(70))
    assert joined.provenance == whole(70).provenance


def test_the_order_of_the_pictures_changes_nothing() -> None:
    same(fit_patterns(LENET, digits(70)[::-1].copy()), whole(70))


def test_a_limit_is_the_first_pictures() -> None:
    limited = fit_patterns(LENET, digits(70), plan=Plan(limit=20))
    same(limited, whole(20), 0.0)
    assert limited.provenance["images"] == limited.provenance["total"] == 20


def test_totals_do_not_forget() -> None:
    """10¹⁶ and 1 and -10¹⁶ in every order give 1, and merging is adding."""
    for order in ((1e16, 1.0, -1e16), (1.0, 1e16, -1e16), (1e16, -1e16, 1.0)):
        total = Total.zeros((2,))
        for term in order:
            total.add(np.asarray([term, 0.1]))
        assert total.value[0] == 1.0
        twice = Total.zeros((2,))
        twice.merge(total)
        twice.merge(total)
        assert twice.value[0] == 2.0 and twice.value[1] == pytest.approx(0.6, rel=1e-16)


def stop_after(count: int) -> Callable[[int, int], None]:
    def tell(done: int, total: int) -> None:
        if done == count:
            raise KeyboardInterrupt

    return tell


def test_a_stopped_fit_goes_on(tmp_path: Path) -> None:
    """What is kept holds whole pictures, and the end is the same as without the stop."""
    part = tmp_path / "fit.part"
    with pytest.raises(KeyboardInterrupt):
        gather(LENET, digits(70), plan=Plan(partial=part), progress=stop_after(23))
    kept = load_statistics(part)
    assert kept.indices.tolist() == list(range(23))
    np.testing.assert_array_equal(
        [moments.sums.value[0, -1, -1] for moments in kept.nodes.values()], [23 * 576, 23 * 64, 23, 23]
    )
    with pytest.raises(OptionError, match="holds 23 pictures of a fit that was stopped; go on with --resume"):
        gather(LENET, digits(70), plan=Plan(partial=part))
    seen: list[tuple[int, int]] = []
    again = gather(
        LENET, digits(70), plan=Plan(partial=part, resume=True), progress=lambda i, n: seen.append((i, n))
    )
    assert seen[0] == (24, 70) and seen[-1] == (70, 70) and len(seen) == 47
    same(patterns_of(again), whole(70), 0.0)


def test_what_was_counted_is_kept_now_and_then(tmp_path: Path) -> None:
    part = tmp_path / "fit.part"
    gather(LENET, digits(5), plan=Plan(partial=part, seconds=0.0))
    assert 1 <= load_statistics(part).images < 5


def test_resuming_with_something_else_is_refused(tmp_path: Path) -> None:
    part = tmp_path / "fit.part"
    with pytest.raises(KeyboardInterrupt):
        gather(LENET, digits(70), plan=Plan(partial=part, shard=(1, 2)), progress=stop_after(3))
    resume = Plan(partial=part, resume=True)
    with pytest.raises(StaleError, match="other pictures"):
        gather(LENET, digits(71), plan=Plan(partial=part, resume=True, shard=(1, 2)))
    with pytest.raises(OptionError, match="belongs to another shard"):
        gather(LENET, digits(70), plan=Plan(partial=part, resume=True, shard=(2, 2)))
    other = models.path("efficientnet_lite0")
    with pytest.raises(StaleError, match="another model"):
        gather(other, np.zeros((1, 224, 224, 3), np.uint8), plan=resume)
    with pytest.raises(StaleError, match="another output or head"):
        gather(
            LENET, digits(70), plan=Plan(partial=part, resume=True, shard=(1, 2)), head="/fc1/Gemm_output_0"
        )


def test_shards_that_do_not_belong_together() -> None:
    first = gather(LENET, digits(4), plan=Plan(shard=(1, 2)))
    with pytest.raises(OptionError, match="'b' holds picture 0 a second time"):
        merge([first, first], ["a", "b"])
    with pytest.raises(StaleError, match="'part 2' was made with other pictures"):
        merge([first, gather(LENET, digits(5), plan=Plan(shard=(2, 2)))])
    with pytest.raises(OptionError, match="nothing to merge"):
        merge([])
    assert patterns_of(merge([first])).provenance["images"] == 2


@pytest.mark.parametrize(
    "plan",
    [{"limit": 0}, {"shard": (0, 2)}, {"shard": (3, 2)}, {"batch": 0}, {"resume": True}],
)
def test_plans_that_make_no_sense(plan: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        Plan(**plan)
