"""Windows of one image through the cone: only what a window reaches is computed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ...rewriter.cone.emit import COLUMN, ROW, Cone
from ...rewriter.scores import FILL
from ..subnormal import flushed

MOST_GROUPS = 10
"""Of places along an axis: beyond that hardly a multiplication is saved (VGG-16: 9.99 times fewer with 8, 10.4 with
all)."""
FULL_RUNS = 2
"""Runs of a whole batch that a pair of groups should have."""

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

Ints = npt.NDArray[np.int64]


@dataclass
class Incremental:
    """The cone of one size of window at one image. open: a file -> its session."""

    cone: Cone
    image: npt.NDArray[Any]
    open: Callable[[Any], InferenceSession]
    batch: int

    @cached_property
    def session(self) -> InferenceSession:
        return self.open(self.cone.probe())

    @cached_property
    def cells(self) -> dict[str, npt.NDArray[Any]]:
        """The tables of the image. Its session is let go afterwards: it holds all weights once more."""
        session = self.open(self.cone.record())
        names = [output.name for output in session.get_outputs()]
        with flushed():
            values = session.run(names, {self.cone.of.x.name: self.image})
        return {name: np.asarray(value) for name, value in zip(names, values, strict=True)}

    def runs(self, places: Ints) -> Iterator[Ints]:
        """Indices of the windows that go through together: of one group of rows and one of columns."""
        rows, columns = (g.label[places[:, i]] for i, g in enumerate(self.cone.plan.groups))
        key = rows * (int(columns.max()) + 1) + columns if len(places) else rows
        for group in np.unique(key):
            (members,) = np.nonzero(key == group)
            for start in range(0, len(members), self.batch):
                yield members[start : start + self.batch]

    def feeds(self, places: Ints, fill: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
        return {ROW: places[:, 0], COLUMN: places[:, 1], FILL: fill, **self.cells}


def groups_for(count: int, batch: int) -> tuple[int, int]:
    """Groups along rows and columns for so many windows: more of them save multiplications, and fill fewer batches."""
    side = max(1, min(int((count / (FULL_RUNS * batch)) ** 0.5), MOST_GROUPS))
    return side, side


__all__ = ["Incremental", "groups_for"]
