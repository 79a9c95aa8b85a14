"""Spans hold all that a window changes: against connections drawn cell by cell."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from onnxplain.rewriter.cone.span import Groups, Span, Window, grouped, input_span, through, union

Bools = npt.NDArray[np.bool_]


def reads(window: Window, cells: int, outputs: int) -> Bools:
    """(outputs, cells): which input cell an output cell reads."""
    found = np.zeros((outputs, cells), bool)
    for i in range(outputs):
        for j in range(i * window.stride - window.begin, i * window.stride - window.begin + window.reach + 1):
            if 0 <= j < cells:
                found[i, j] = True
    return found


def marked(span: Span, place: int) -> Bools:
    found = np.zeros(span.length, bool)
    found[max(0, int(span.start[place])) : int(span.end[place])] = True
    return found


WINDOWS = [
    Window(2, 1, 1),
    Window(1, 2, 0),
    Window(2, 2, 1),
    Window(0, 2, 0),
    Window(6, 2, 3),
    Window(4, 1, 0),
    Window(0, 3, 0),
    Window(0, 1, 2),
]


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("count", [1, 3, 99])
def test_a_span_holds_every_cell_that_changes(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    length, k = int(rng.integers(17, 40)), int(rng.integers(1, 6))
    span = input_span(length, k)
    changed = [marked(span, r) for r in range(length - k + 1)]
    groups = grouped(span.start[:, None] % 4 + 1, np.ones(1), count)
    for _ in range(4):
        window = WINDOWS[rng.integers(len(WINDOWS))]
        behind = int(rng.integers(0, 2))
        outputs = (span.length + window.begin + behind - window.reach - 1) // window.stride + 1
        if outputs < 1:
            break
        canvas, after = through(span, window, outputs, groups)
        graph = reads(window, span.length, outputs)
        for r, old in enumerate(changed):
            new: Bools = np.asarray(graph[:, old].any(axis=1))
            assert not (new & ~marked(after, r)).any()
            assert canvas.start[r] <= span.start[r] and span.end[r] <= canvas.end[r]
            assert not (graph[marked(after, r)].any(axis=0) & ~marked(canvas, r)).any()
            changed[r] = new
        for sizes in (canvas.size, after.size):
            assert all(len(set(sizes[groups.label == i])) == 1 for i in range(groups.count))
        assert (after.start >= 0).all() and (after.end <= outputs).all()
        assert (canvas.start == after.start * window.stride - window.begin).all()
        span = after


def test_a_place_by_itself_pays_for_nothing_else() -> None:
    span = input_span(224, 10)
    alone = Groups(np.arange(215))
    _, first = through(span, Window(2, 1, 1), 224, alone)
    _, pooled = through(first, Window(1, 2, 0), 112, alone)
    assert pooled.size[0] == 6 and pooled.size[100] == 7 and pooled.size[101] == 6
    together = Groups(np.zeros(215, np.int64))
    _, pooled = through(through(span, Window(2, 1, 1), 224, together)[1], Window(1, 2, 0), 112, together)
    assert set(pooled.size) == {7}


def test_a_union_holds_both() -> None:
    groups = Groups(np.zeros(3, np.int64))
    one = Span(np.array([0, 2, 7]), np.full(3, 2), 10, np.array([0, 2, 7]), np.array([1, 3, 8]))
    two = Span(np.array([0, 5, 6]), np.full(3, 4), 10, np.array([0, 5, 6]), np.array([3, 8, 9]))
    both = union([one, two], groups)
    assert set(both.size) == {7} and (both.start == [0, 2, 3]).all()
    assert (both.low == [0, 2, 6]).all() and (both.high == [3, 8, 9]).all()


def test_groups_are_those_that_cost_least() -> None:
    sizes = np.array([[4, 9], [4, 9], [5, 2], [5, 3], [4, 8]])
    found = grouped(sizes, np.array([1.0, 1.0]), 2)
    assert found.count == 2
    assert found.label[0] == found.label[1] == found.label[4] != found.label[2] == found.label[3]
    assert grouped(sizes, np.ones(2), 99).count == 4
    assert grouped(sizes, np.ones(2), 1).count == 1
