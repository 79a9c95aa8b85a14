"""Where the samples of a batch are: for every tensor the axis that counts them, or why none does.

Theory. A model of N samples is N copies of one function if every tensor that depends on the input holds one part a
sample. Write the elements of a tensor in row-major order. Its samples are *counted along an axis* if that axis has the
size b N a and element ((p, β), n, (α, q)) of the tensor, split as

    axes before | b · N · a | axes behind

belongs to sample n alone, and depends on that sample as element (p, β, α, q) does on a model of one. b and a are 1 in
most tensors; N frames of T pictures as one long batch have a = T, and T steps of N samples b = T. A tensor is then in
one of three places: `Along(axis, b, a)`; shared (None), when it depends on no sample; `Mixed`, when an operator has
brought samples together, and no axis counts them any more.

Every operator carries places of its inputs to places of its outputs (`passes.batch_axis`): pointwise ones keep them,
a Transpose moves the axis, a reduction, product or softmax *along* it mixes. A reshape keeps the order of elements, so
that its output has the samples along the axis j for which the digits agree,

    prod(out[:j]) · b' = prod(in[:i]) · b,    out[j] = b' N a',    b' and a' whole numbers,

for two sizes N: sizes that a file has baked in for one N do not agree. Two numbers of samples give the sizes, where the
file leaves them to be computed: the shapes of everything are inferred for either.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import TypeAlias

from .draft import Dim


@dataclass(frozen=True)
class Along:
    """Samples are counted along an axis of size before · N · after."""

    axis: int
    before: int = 1
    after: int = 1

    def at(self, axis: int) -> Along:
        """The same digits along another axis."""
        return Along(axis, self.before, self.after)

    def __str__(self) -> str:
        return f"along axis {self.axis}"


@dataclass(frozen=True)
class Mixed:
    """Samples were brought together, by the node named, which has done what `why` says."""

    node: str
    why: str
    window: bool = False
    """The operator slides along an axis of the picture or the steps of a sequence: no one has batches there."""
    single: bool = False
    """The operator takes one sample, whatever number the input has by its declaration."""

    def __str__(self) -> str:
        return f"{self.node} {self.why}"


Place: TypeAlias = Along | Mixed | None
"""None: the tensor depends on no sample, or the whole of it is about the one there is."""


@dataclass(frozen=True)
class Rows:
    """The place of every tensor of a graph; of one that nobody followed, axis 0.

    source: the input whose first axis is the batch. whole: no input has a batch axis; together they are one sample.
    single: the model takes one sample. open: sizes besides the batch are open, so that `after` is but an example where
    it is above 1.
    """

    places: Mapping[str, Place] = field(default_factory=dict)
    source: str = ""
    whole: bool = False
    single: bool = False
    open: bool = False

    def place(self, name: str) -> Along | None:
        place = self.places.get(name, None if self.whole else Along(0))
        return place if isinstance(place, Along) else None

    def axis(self, name: str) -> int | None:
        """The axis that counts the samples of a tensor, None where none does."""
        place = self.place(name)
        return None if place is None else place.axis

    def record(self, name: str) -> dict[str, int | bool | None] | None:
        """What a card says of a head; None of one whose axis 0 counts samples one by one. axis: which one does, or
        None. each: how many of its places belong to a sample, None where that is not known. one: the model takes one
        sample at a time. whole: the input has no batch axis."""
        place, one = self.place(name), self.whole or self.single
        if place == Along(0) and not one:
            return None
        plain = place is not None and place == Along(place.axis)
        each = 1 if plain else None if place is None or self.open else place.before * place.after
        return {"axis": None if place is None else place.axis, "each": each, "one": one, "whole": self.whole}

    def elements(self, name: str, shape: Sequence[Dim]) -> int | None:
        """How many elements of a tensor belong to one sample; None where that is known at run time only."""
        place = self.place(name)
        own = [dim for axis, dim in enumerate(shape) if place is None or axis != place.axis]
        sizes = [dim for dim in own if isinstance(dim, int)]
        if len(sizes) < len(own) or (place is not None and place.after > 1 and self.open):
            return None
        return prod(sizes) * (1 if place is None else place.before * place.after)


def digits(source: Sequence[int], place: Along, target: Sequence[int], n: int) -> Along | None:
    """Where n samples are once `source` has become `target`, elements in the same order; None where a sample does not
    begin and end at an axis."""
    ahead = prod(source[: place.axis]) * place.before
    behind = place.after * prod(source[place.axis + 1 :])
    done = 1
    if 0 in (*source, *target):
        return None
    for axis, size in enumerate(target):
        if ahead % done == 0:
            before = ahead // done
            if size % (before * n) == 0 and before * n > 1:
                after = size // (before * n)
                if after * prod(target[axis + 1 :]) == behind:
                    return Along(axis, before, after)
        done *= size
    return None


__all__ = ["Along", "Mixed", "Place", "Rows", "digits"]
