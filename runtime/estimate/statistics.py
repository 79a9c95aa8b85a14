"""Sums over pictures that do not depend on how the pictures were dealt out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ...rewriter.errors import OptionError, StaleError
from .layout import Layout

Array = npt.NDArray[np.float64]
BLOCK = 1 << 14
"""Numbers added at a time: small enough for the temporaries to stay in the cache."""


class Total:
    """A sum of arrays in about 106 bits: `high` is the rounded sum, `low` what was rounded off (Knuth's two-sum).

    Two orders of the same terms agree in `value` up to the last bit, so that merged shards give what one run gives.
    """

    def __init__(self, high: Array, low: Array) -> None:
        self.high, self.low = high, low

    @classmethod
    def zeros(cls, shape: tuple[int, ...]) -> Total:
        return cls(np.zeros(shape), np.zeros(shape))

    @property
    def value(self) -> Array:
        return self.high + self.low

    def add(self, term: Array) -> None:
        high, low, more = self.high.reshape(-1), self.low.reshape(-1), term.reshape(-1)
        with np.errstate(
            invalid="ignore", over="ignore"
        ):  # whoever reads the sums checks that they are finite
            for start in range(0, more.size, BLOCK):
                part = slice(start, start + BLOCK)
                a, b = high[part], more[part]
                total = a + b
                shadow = total - a
                low[part] += (a - (total - shadow)) + (b - shadow)
                high[part] = total

    def merge(self, other: Total) -> None:
        self.add(other.high)
        self.low += other.low


@dataclass
class Moments:
    """The sums of one node. sums (group, 3 O + 1, D + 1): rows y, y⁺, [y > 0] and 1 times columns x and 1, over all
    samples. squares (group, O): y². weight: in the shape of the model's."""

    layout: Layout
    weight: Array
    sums: Total
    squares: Total

    @classmethod
    def empty(cls, layout: Layout, weight: Array) -> Moments:
        return cls(layout, weight, Total.zeros(layout.sums), Total.zeros((layout.group, layout.neurons)))

    def add(self, sums: Array, squares: Array) -> None:
        self.sums.add(sums)
        self.squares.add(squares)


@dataclass
class Statistics:
    """Sufficient statistics of a model over pictures, of which `indices` are counted so far (docs/methods/patterns.md).

    about: what makes statistics comparable, equal in every shard: sha256 of the model, hash and number of the
    pictures, preprocessing, what is explained. skipped: node -> why it has no patterns.
    """

    about: Mapping[str, Any]
    nodes: dict[str, Moments]
    skipped: Mapping[str, str] = field(default_factory=dict)
    indices: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))

    @property
    def images(self) -> int:
        return int(self.indices.size)

    def must_match(self, about: Mapping[str, Any], name: str) -> None:
        """StaleError naming the first thing in which these statistics are others than `about`."""
        must_match(self.about, about, name)


def must_match(made: Mapping[str, Any], about: Mapping[str, Any], name: str) -> None:
    """StaleError naming the first thing in which `made`, of sums that are called `name`, is other than `about`."""
    for key in (*about, *made):
        if about.get(key) != made.get(key):
            raise StaleError(
                f"{name} was made with {WORDS.get(key, key)}; its sums cannot be continued or merged"
            )


WORDS = {
    "sha256": "another model",
    "list": "other pictures",
    "total": "another number of pictures",
    "preprocessing": "another preprocessing",
    "raw_input": "another preprocessing",
    "head": "another output or head",
    "output": "another output or head",
    "shard": "another shard",
    "layout": "another layout",
    "patch": "another size of patches",
    "patches": "another number of patches",
    "seed": "another seed",
    "joint": "channels together that are apart here, or the other way round",
    "version": "another version of onnxplain",
}


def merge(parts: Sequence[Statistics], names: Sequence[str] | None = None) -> Statistics:
    """One statistic of several shards, in any order. names: of the files, for messages.

    Raises StaleError for shards of other models or pictures, OptionError where two hold the same picture.
    """
    labels = list(names) if names is not None else [f"part {i + 1}" for i in range(len(parts))]
    if not parts:
        raise OptionError("nothing to merge: give the files that `onnxplain fit patterns --shard` wrote")
    first = parts[0]
    whole = Statistics(
        first.about, {k: Moments.empty(m.layout, m.weight) for k, m in first.nodes.items()}, first.skipped
    )
    for part, label in zip(parts, labels, strict=True):
        part.must_match(first.about, f"{label!r}")
        twice = np.intersect1d(whole.indices, part.indices)
        if twice.size:
            raise OptionError(f"{label!r} holds picture {int(twice[0])} a second time; give every shard once")
        whole.indices = np.union1d(whole.indices, part.indices)
        for node, moments in part.nodes.items():
            whole.nodes[node].sums.merge(moments.sums)
            whole.nodes[node].squares.merge(moments.squares)
    return whole
