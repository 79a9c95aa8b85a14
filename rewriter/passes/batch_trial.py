"""What the rules of `batch_rules` look at: places found so far, and the shape of every tensor for some numbers of
samples. `rewriter.rows` has the theory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, TypeAlias

from ..draft import Dim
from ..errors import ModelError
from ..rows import Along, Mixed, Place, digits
from ..sizes import settled

if TYPE_CHECKING:
    from ..graph import Graph, Node, Value

COUNTS = (2, 3)
"""Numbers of samples that are tried."""
FREE = 64
"""The size that any other open dimension has then."""

Sizes: TypeAlias = Sequence[tuple[int, ...]]
"""The shape of a tensor for each number of samples."""


@dataclass
class Trial:
    """A graph whose inputs `counted` have their samples along axis 0. places: what is known so far."""

    graph: Graph
    batch: Dim
    counted: frozenset[str]
    places: dict[str, Place] = field(default_factory=dict)

    @property
    def counts(self) -> tuple[int, ...]:
        return (self.batch,) if isinstance(self.batch, int) else COUNTS

    def place(self, value: Value | None) -> Place:
        return None if value is None else self.places.get(value.name)

    def rank(self, value: Value) -> int | None:
        """Axes of a tensor."""
        if value.shape is not None:
            return len(value.shape)
        sizes = self.sizes(value)
        return None if sizes is None else len(sizes[0])

    def sizes(self, value: Value) -> Sizes | None:
        """Its shape for every number of samples; None where no inference tells."""
        return self._written(value) or self._inferred(value)

    def _written(self, value: Value) -> Sizes | None:
        if value.shape is None or not all(
            isinstance(dim, int) or (dim == self.batch is not None) for dim in value.shape
        ):
            return None
        return [tuple(dim if isinstance(dim, int) else n for dim in value.shape) for n in self.counts]

    def _inferred(self, value: Value) -> Sizes | None:
        found = [types.get(value.name) for types in self._types]
        if not found or any(shape is None for shape in found):
            return None
        return [shape for shape in found if shape is not None]

    @cached_property
    def open(self) -> bool:
        """Whether sizes besides the number of samples are left open, so that inferred ones are but examples."""
        return any(
            not isinstance(dim, int)
            for x in self.graph.inputs
            for dim in (x.shape or [])[int(x.name in self.counted) :]
        )

    @cached_property
    def _types(self) -> list[Mapping[str, tuple[int, ...]]]:
        """Whole shapes by name, inferred once for each number of samples."""
        try:
            return [self._at(n) for n in self.counts]
        except ModelError:  # the samples, or the sizes that stand for open ones, do not go through
            return []

    def _at(self, n: int) -> Mapping[str, tuple[int, ...]]:
        shapes = {x.name: self._fed(x, n) for x in self.graph.inputs if x.shape is not None}
        _, types = settled(self.graph.draft, shapes)
        whole: dict[str, tuple[int, ...]] = {}
        for name, known in types.items():
            dims = tuple(dim for dim in known.shape or () if isinstance(dim, int))
            if known.shape is not None and len(dims) == len(known.shape):
                whole[name] = dims
        return whole

    def _fed(self, x: Value, n: int) -> tuple[int, ...]:
        """An input with n samples. An open first axis of another input may count them too, under another name."""
        return tuple(
            dim
            if isinstance(dim, int) and not (axis == 0 and x.name in self.counted)
            else n
            if not axis
            else FREE
            for axis, dim in enumerate(x.shape)
        )

    def moved(self, node: Node, source: Value, place: Along, target: Value) -> Place:
        """The place in a tensor that has the elements of `source` in the same order."""
        old, new = self.sizes(source), self.sizes(target)
        if old is None or new is None:
            return self._guessed(node, place, target)
        found = {digits(a, place, b, n) for a, b, n in zip(old, new, self.counts, strict=True)}
        one = found.pop() if len(found) == 1 else None
        if one is None or (one.before > 1 and self.open):
            why = f"makes {_said(source)} into {_said(target)}, where no axis counts them"
            baked = all(prod(a) == n * prod(b) for a, b, n in zip(old, new, self.counts, strict=True))
            return mixed(node, why, single=baked)
        return one

    def _guessed(self, node: Node, place: Along, target: Value) -> Place:
        """Where sizes are only known at run time: the axis that has the name of the batch, or the first one stays."""
        shape = target.shape
        named = [] if shape is None or not isinstance(self.batch, str) else _axes(shape, self.batch)
        if len(named) == 1:
            return Along(named[0])
        if place == Along(0) and (not shape or not isinstance(shape[0], int)):
            return place
        return mixed(node, f"makes a tensor of shape {_said(target)}, whose samples cannot be followed")

    def grown(self, node: Node, place: Along, target: Value) -> Place:
        """The place behind an operator that nobody knows."""
        sizes = self.sizes(target)
        if sizes is None or len(sizes) < 2:
            return self._guessed(node, place, target)
        axes = [
            axis
            for axis, all_ in enumerate(zip(*sizes, strict=True))
            if len({size / n for size, n in zip(all_, self.counts, strict=True)}) == 1
        ]
        if len(axes) == 1 and (axes[0] == place.axis or sizes[0][axes[0]] == self.counts[0]):
            return place if axes[0] == place.axis else Along(axes[0])
        return mixed(node, f"makes a tensor of shape {_said(target)}, where no one axis counts them")


Rule: TypeAlias = Callable[[Trial, "Node"], Sequence[Place] | Place]
"""Places of the outputs, or the one that all of them have."""

RULES: dict[str, Rule] = {}


def on(*ops: str) -> Callable[[Rule], Rule]:
    """Enter a rule for operators of the default domain."""

    def enter(rule: Rule) -> Rule:
        RULES.update(dict.fromkeys(ops, rule))
        return rule

    return enter


def mixed(node: Node, why: str, *, window: bool = False, single: bool = False) -> Mixed:
    return Mixed(f"{node.op} at {node.name!r}", why, window, single)


def _axes(shape: Sequence[Dim], name: Dim) -> list[int]:
    return [axis for axis, dim in enumerate(shape) if dim == name]


def _said(value: Value) -> str:
    if value.shape is None:
        return "an unknown shape"
    return str([dim if dim is not None else "?" for dim in value.shape]).replace("'", "")


__all__ = ["RULES", "Rule", "Trial", "mixed", "on"]
