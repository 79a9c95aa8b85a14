"""Which class every pixel votes for. Navarrete et al. Figs. 3, 9 and 10; docs/methods/linearscope.md."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..lanes import Progress
from .layout import Array

PORTION = 16
"""Classes of one run, where the memory allows so many."""

Run = Callable[[Array], Array]
"""classes int64 (K,) -> discussions (K, *pixels)."""


@dataclass(frozen=True)
class Votes:
    """votes int64 (*pixels): of `classes` the one whose discussion is largest at that pixel, the first of equals.
    classes (K,), counts (K,): pixels that voted for each. strength (*pixels): the discussion that won."""

    classes: Array
    votes: Array
    counts: Array
    strength: Array

    @property
    def shares(self) -> Array:
        """Of all pixels, (K,)."""
        return self.counts / self.votes.size

    def popular(self, count: int) -> list[int]:
        """The classes with most votes, and at least one; of equals the first."""
        order = np.argsort(-self.counts, kind="stable")[:count]
        return [int(self.classes[i]) for i in order if self.counts[i]]


def count_votes(
    run: Run, classes: Sequence[int], portion: int = PORTION, progress: Progress | None = None
) -> Votes:
    """Portion after portion; of two portions the larger discussion wins a pixel."""
    every = np.asarray(classes, np.int64)
    best: Array | None = None
    winner: Array | None = None
    for start in range(0, len(every), portion):
        part = every[start : start + portion]
        talk = run(part)
        strongest, at = talk.max(axis=0), part[talk.argmax(axis=0)]
        if best is None or winner is None:
            best, winner = strongest, at
        else:
            better = strongest > best
            best, winner = np.where(better, strongest, best), np.where(better, at, winner)
        if progress is not None:
            progress(start + len(part), len(every))
    assert best is not None and winner is not None  # there is at least one class
    counts = np.asarray([np.count_nonzero(winner == c) for c in every], np.int64)
    return Votes(every, winner, counts, best)


__all__ = ["PORTION", "Votes", "count_votes"]
