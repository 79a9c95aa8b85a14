"""A forward node as a rule sees it: read only, in the words of the ONNX specification."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from .graph import Graph, Node, Value


class Refuse(Exception):
    """Raised by a rule for a form of the operator it does not cover; the compiler collects all of them."""


@dataclass(frozen=True)
class Site:
    """One output of one forward node.

    x: the inputs, None where omitted. y: the output explained here (output number `port`).
    active: which inputs depend on the explained input, so need a map.
    first: no weighted node lies between the explained input and this one. last: none between it and the target.
    """

    node: Node
    graph: Graph
    port: int = 0
    active: tuple[bool, ...] = field(default=())
    first: bool = False
    last: bool = False

    @property
    def op(self) -> str:
        return f"{self.node.domain}:{self.node.op}" if self.node.domain else str(self.node.op)

    @property
    def name(self) -> str:
        return str(self.node.name)

    @property
    def x(self) -> tuple[Value | None, ...]:
        return tuple(value if value.name else None for value in self.node.inputs)

    @property
    def y(self) -> Value:
        return self.node.outputs[self.port]

    @property
    def data(self) -> Value:
        """The first input."""
        return self.node.inputs[0]

    def attr(self, key: str, default: Any = None) -> Any:
        return self.node.attrs.get(key, default)

    def input(self, i: int) -> Value | None:
        x = self.x
        return x[i] if i < len(x) else None

    def constant(self, i: int) -> np.ndarray | None:
        """Input i as an array when it is a parameter known at compile time."""
        return self.graph.constant(self.input(i))

    def required(self, i: int, what: str) -> np.ndarray:
        """Input i as an array; refuses the node when it is only known at run time."""
        array = self.constant(i)
        if array is None:
            raise Refuse(f"{what} is computed at run time; export the model with it constant")
        return array

    def fixed(self, i: int, what: str) -> Value:
        """Input i, which must be a parameter: a weight that depends on the picture has no rule here."""
        value = self.input(i)
        if value is None:
            raise Refuse(f"{what} is missing")
        if i < len(self.active) and self.active[i]:
            raise Refuse(f"{what} depends on the explained input")
        return value

    @property
    def reference(self) -> Site:
        """The same node at the reference input."""
        twin = None if self.graph.twin is None else self.graph.twin(self.node)
        if twin is None:
            raise Refuse("the method gives no reference input to compare with")
        return replace(self, node=twin)

    @property
    def parts(self) -> tuple[Site, Site]:
        """The affine node and the activation that a view has joined into this one."""
        affine, act = self.node.attrs["affine"], self.node.attrs["activation"]
        return replace(self, node=affine, port=0), replace(self, node=act, port=0, active=(True,))

    @property
    def rank(self) -> int:
        """Rank of the first input."""
        return rank_of(self.data)

    def axis(self, key: str = "axis", default: int = 0) -> int:
        """An axis attribute, counted from the front."""
        return int(self.attr(key, default)) % max(1, self.rank)


def rank_of(value: Value) -> int:
    if value.shape is None:
        raise Refuse(f"the rank of {value.name!r} is unknown; fix the input shape with shapes=")
    return len(value.shape)
