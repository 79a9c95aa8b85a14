"""The protocol, and the maps that combine others.

Rows: the first axis of a tangent or cotangent counts rows. It equals the batch N of the forward pass, or is
any K while N = 1: recorded values then broadcast over the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from ..emit import Emit
from ..errors import NotLinearError
from ..graph import Value
from ..site import Refuse, Site


class Linear(Protocol):
    """A linear map A between the tensors x and y of a node, at the recorded activations."""

    def push(self, g: Emit, t: Value, /) -> Value:
        """y-tangent A t of an x-tangent t (JVP)."""
        ...

    def pull(self, g: Emit, ct: Value, /) -> Value:
        """x-cotangent A' ct of a y-cotangent ct (VJP)."""
        ...


@dataclass(frozen=True)
class Keep:
    """The identity."""

    def push(self, g: Emit, t: Value) -> Value:
        return t

    def pull(self, g: Emit, ct: Value) -> Value:
        return ct


@dataclass(frozen=True)
class Scale:
    """Elementwise product with d, which may broadcast."""

    d: Value | float

    def push(self, g: Emit, t: Value) -> Value:
        return g.times(t, self.d)

    pull = push


class Chain:
    """Composition, in forward order: Chain(a, b) pushes through a, then b."""

    def __init__(self, *maps: Linear) -> None:
        self.maps = maps

    def push(self, g: Emit, t: Value) -> Value:
        for part in self.maps:
            t = part.push(g, t)
        return t

    def pull(self, g: Emit, ct: Value) -> Value:
        for part in reversed(self.maps):
            ct = part.pull(g, ct)
        return ct


class Sum:
    """Sum of maps between the same two tensors; a part may leave axes of size 1 for the others to fill."""

    def __init__(self, *maps: Linear) -> None:
        self.maps = maps

    def push(self, g: Emit, t: Value) -> Value:
        return g.total([part.push(g, t) for part in self.maps])

    def pull(self, g: Emit, ct: Value) -> Value:
        return g.total([part.pull(g, ct) for part in self.maps])


@dataclass(frozen=True)
class Adjoint:
    """The transpose of another map."""

    inner: Linear

    def push(self, g: Emit, t: Value) -> Value:
        return self.inner.pull(g, t)

    def pull(self, g: Emit, ct: Value) -> Value:
        return self.inner.push(g, ct)


@dataclass(frozen=True)
class Gated:
    """`by` applied to the cotangent, then the inner map's pull. Not linear: there is no forward form."""

    inner: Linear
    by: Callable[[Emit, Value], Value]

    def push(self, g: Emit, t: Value) -> Value:
        raise NotLinearError(
            "the rule changes the cotangent on its way (a gate, a rescaling): its map has no forward form"
        )

    def pull(self, g: Emit, ct: Value) -> Value:
        return self.inner.pull(g, self.by(g, ct))


@dataclass(frozen=True)
class Broadcast:
    """x repeated to the shape of y by ONNX's broadcasting; the transpose sums over what was repeated."""

    x: Value
    y: Value

    def push(self, g: Emit, t: Value) -> Value:
        first, wide = self.x.shape[:1], self.y.shape[:1]
        repeated = first == [1] and isinstance(wide[0], int) and wide[0] != 1
        if repeated or len(self.x.shape) < len(self.y.shape):
            return g.Expand(t, g.Shape(self.y))
        return g.spread(t, self.y)

    def pull(self, g: Emit, ct: Value) -> Value:
        return reduce_to(g, ct, self.y.shape, self.x, g.axis(self.y))


def reduce_to(g: Emit, ct: Value, shape: Sequence[int | str | None], x: Value, rows: int | None = 0) -> Value:
    """Sum ct, of the given broadcast shape, over the axes that x does not have or has with size 1.

    Sizes not known at compile time are compared at run time. The axis that counts rows is summed only where x lacks it
    or has it statically 1 under a static larger size.
    """
    lead = len(shape) - len(x.shape)
    static = list(range(lead))
    dynamic: list[int] = []
    for i, dim in enumerate(x.shape):
        wide = shape[lead + i]
        if lead + i == rows:
            if dim == 1 and isinstance(wide, int) and wide != 1:
                static.append(lead + i)
        elif dim == wide and dim is not None:
            continue
        elif dim == 1:
            static.append(lead + i)
        elif not isinstance(dim, int):
            dynamic.append(lead + i)
    if static:
        ct = g.ReduceSum(ct, g.ints(*static), keepdims=1)
    if dynamic:
        ct = _reduce_dynamic(g, ct, x, lead, dynamic)
    if lead:
        ct = g.Squeeze(ct, g.ints(*range(lead)))
    return ct


def _reduce_dynamic(g: Emit, ct: Value, x: Value, lead: int, axes: list[int]) -> Value:
    candidates = g.ints(*axes)
    mine = g.Gather(g.Shape(x), g.ints(*(axis - lead for axis in axes)), axis=0)
    theirs = g.Gather(g.Shape(ct), candidates, axis=0)
    repeated = g.Compress(candidates, g.Not(g.Equal(mine, theirs)), axis=0)
    return g.ReduceSum(ct, repeated, keepdims=1, noop_with_empty_axes=1)


class Local:
    """A node, linearised: one map per input (None: nothing flows), and the offset that the maps leave out.

    y = Σ maps(x) + offset, where the rule freezes the node exactly; offset is None where it is not known or 0.
    """

    def __init__(self, *maps: Linear | None, offset: Value | None = None) -> None:
        self.maps = maps
        self.offset = offset

    @classmethod
    def elementwise(cls, site: Site, *maps: Linear | None, offset: Value | None = None) -> Local:
        """A Local whose inputs ONNX broadcasts against each other."""
        return cls(*(_broadcast(site, i, part) for i, part in enumerate(maps)), offset=offset)

    @property
    def map(self) -> Linear:
        """The only map."""
        (only,) = (part for part in self.maps if part is not None)
        return only


def _broadcast(site: Site, i: int, part: Linear | None) -> Linear | None:
    x, y = site.x[i], site.y
    if part is None or x is None or not (i < len(site.active) and site.active[i]):
        return None
    if x.shape is None or y.shape is None:
        raise Refuse(f"the rank of {x.name!r} or {y.name!r} is unknown; fix the input shape with shapes=")
    same = len(x.shape) == len(y.shape) and all(
        a == b and a is not None for a, b in zip(x.shape[1:], y.shape[1:], strict=True)
    )
    lead = x.shape[:1] == y.shape[:1] or not all(isinstance(dim, int) for dim in (*x.shape[:1], *y.shape[:1]))
    return part if same and lead else Chain(Broadcast(x, y), part)
