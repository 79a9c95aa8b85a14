"""How far a change reaches along one axis: spans of cells, for every place that a window can have.

A window of the input at place r changes the cells low[r] to high[r] of a value; the others keep what they were. Places
are sorted into groups, and within a group every value has one size, so that windows of a group make one batch: the
cells [start[r], start[r] + size[r]) are computed. They may be more than what changes, never less: a cell that is
computed again gets the value that it had.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Span:
    """start, size, low, high (places,), of an axis of `length` cells; a canvas may begin before 0 and end behind
    length."""

    start: Ints
    size: Ints
    length: int
    low: Ints
    high: Ints

    @property
    def end(self) -> Ints:
        return self.start + self.size

    @property
    def key(self) -> tuple[bytes, bytes, int]:
        return self.start.tobytes(), self.size.tobytes(), self.length

    @property
    def coverage(self) -> npt.NDArray[np.float64]:
        """Share of the axis, by place."""
        return np.asarray(self.size / self.length, np.float64)


@dataclass(frozen=True)
class Window:
    """Geometry of a Conv, a pool or a Pad along one axis. reach: (kernel - 1) dilation."""

    reach: int = 0
    stride: int = 1
    begin: int = 0

    @property
    def plain(self) -> bool:
        return self == Window()


@dataclass(frozen=True)
class Groups:
    """label (places,): the group of each place."""

    label: Ints

    @property
    def count(self) -> int:
        return int(self.label.max()) + 1

    def largest(self, values: Ints) -> Ints:
        """The largest value of each group, at all its places."""
        top = np.full(self.count, np.iinfo(np.int64).min)
        np.maximum.at(top, self.label, values)
        return top[self.label]


def input_span(length: int, window: int) -> Span:
    """Every place of a window of the input."""
    places = length - window + 1
    start = np.arange(places)
    return Span(start, np.full(places, window), length, start, start + window - 1)


def whole(like: Span, length: int) -> Span:
    start, size = np.zeros_like(like.start), np.full_like(like.size, length)
    return Span(start, size, length, like.low, like.high)


def through(span: Span, window: Window, length: int, groups: Groups) -> tuple[Span, Span]:
    """What a sliding window makes of a span: (canvas of the input, span of the output of `length` cells).

    Output cell i reads the input cells [i stride - begin, i stride - begin + reach]. The span of the output has every
    cell that reads a changed one; the canvas has every cell that those read, and all of the input's span.
    """
    stride, reach = window.stride, window.reach
    low = (-(-(span.low + window.begin - reach) // stride)).clip(0, length - 1)
    high = ((span.high + window.begin) // stride).clip(low, length - 1)
    start, size = low, groups.largest(high - low + 1)
    for _ in range(4 * length):
        start = np.minimum(start, (span.start + window.begin) // stride)
        size = groups.largest(np.maximum(size, high - start + 1))
        start = np.minimum(start, length - size)
        begin = start * stride - window.begin
        cells = groups.largest(np.maximum((size - 1) * stride + reach + 1, span.end - begin))
        made = (cells - reach - 1) // stride + 1
        if (made == size).all() and (high < start + size).all():
            break
        size = made
    else:
        raise AssertionError(f"no span of {length} cells holds what {window} makes")
    return Span(begin, cells, span.length, span.low, span.high), Span(start, size, length, low, high)


def union(spans: Sequence[Span], groups: Groups) -> Span:
    """The least span that holds all of them."""
    start = reduce(np.minimum, (span.start for span in spans))
    end = reduce(np.maximum, (span.end for span in spans))
    low = reduce(np.minimum, (span.low for span in spans))
    high = reduce(np.maximum, (span.high for span in spans))
    size = groups.largest(end - start)
    length = spans[0].length
    return Span(np.minimum(start, length - size), size, length, low, high)


def grouped(sizes: Ints, weights: npt.NDArray[np.float64], count: int) -> Groups:
    """Places in at most `count` groups. sizes (places, values), weights (values,): what a cell of each value costs.

    A group pays, at each of its places, the largest size of each value. Beginning with one group for each different
    row of `sizes`, the two are joined that cost the least more, until few enough are left.
    """
    tops, member, places = np.unique(sizes, axis=0, return_inverse=True, return_counts=True)
    label = member.ravel()
    cost = places * (tops @ weights)

    def joined(i: int) -> npt.NDArray[np.float64]:
        together = np.maximum(tops, tops[i]) @ weights * (places + places[i]) - cost - cost[i]
        together[i] = np.inf
        return np.asarray(np.where(places > 0, together, np.inf), np.float64)

    more = np.stack([joined(i) for i in range(len(tops))])
    for _ in range(len(tops) - count):
        i, j = divmod(int(more.argmin()), len(tops))
        tops[i] = np.maximum(tops[i], tops[j])
        places[i], places[j] = places[i] + places[j], 0
        cost[i] = places[i] * (tops[i] @ weights)
        label[label == j] = i
        more[j, :] = more[:, j] = np.inf
        more[i, :] = more[:, i] = joined(i)
    return Groups(np.unique(label, return_inverse=True)[1].ravel())


__all__ = ["Groups", "Span", "Window", "grouped", "input_span", "through", "union", "whole"]
