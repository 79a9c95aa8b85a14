"""The compiler as a method sees it: a stage for each compilation, and a scene for each start of the backward pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from .draft import Dim
from .emit import Emit
from .errors import TargetError
from .graph import Graph, Value, variable
from .inputs import Front
from .layers import channel_axis, find_layer
from .method import Options
from .rules import Rules
from .tape import Tape, linearize, pull


@dataclass
class Stage:
    """One compilation. inputs: what the method adds to the inputs of the file. wrt: the explained inputs."""

    graph: Graph
    g: Emit
    wrt: tuple[Value, ...]
    head: Value
    options: Options
    rules: Rules
    preprocessing: Mapping[str, Any]
    inputs: list[Value] = field(default_factory=list)
    extras: dict[str, Any] = field(default_factory=dict)
    front: Front | None = None
    """What lies before the explained tensors, where these are no inputs of the model."""
    _tapes: dict[tuple[int, tuple[str, ...]], tuple[Rules, Tape]] = field(default_factory=dict)

    def tape(self, rules: Rules, wrt: tuple[Value, ...]) -> Tape:
        """The tape of a rule set, made once."""
        key = (id(rules), tuple(x.name for x in wrt))
        if key not in self._tapes:  # the rules are kept, so that no other set gets their id
            self._tapes[key] = rules, linearize(self.graph, wrt, self.head, rules, self.g)
        return self._tapes[key][1]

    @property
    def tapes(self) -> list[Tape]:
        return [tape for _, tape in self._tapes.values()]

    def add_input(self, name: str, like: Value, shape: list[Dim]) -> Value:
        """Another input of the file, in the type of `like`."""
        if name in self.graph.values:
            raise TargetError(f"the model already has a tensor named {name!r}; rename it")
        for known in self.inputs:
            if known.name == name:
                return known
        made = variable(name, dtype=like.dtype, shape=shape)
        self.inputs.append(made)
        return made

    def label(self, x: Value) -> str:
        """The name of an explained input: of an integer one, where the tensor made of it is explained."""
        places = {} if self.front is None else self.front.places
        name = places.get(x.name, x.name)
        return x.name if list(places.values()).count(name) > 1 else name

    def vet_batch(self, what: str) -> None:
        """TargetError where the input is one sample as a whole. what: what needs samples along its axis 0."""
        if self.graph.rows.whole:
            raise TargetError(
                f"{what} takes an input (N, ...), and {self.graph.rows.source!r} has no batch axis: axis 0 counts no "
                "samples; put an Unsqueeze in front of the model, or choose another method"
            )

    def channel_axis(self, x: Value) -> int:
        """Of the channels of an input: as its description says, or else as the operators that read it tell; of an
        embedding the last."""
        self.vet_batch("what depends on channels")
        if self.front is not None and x.name in self.front.entries and self.front.entries[x.name].table:
            return len(x.shape) - 1
        if "layout" in self.preprocessing:
            return len(x.shape) - 1 if self.preprocessing["layout"] == "NHWC" else 1
        return channel_axis(self.graph, self.wrt, self.head, x) or 1

    def spatial_axes(self, x: Value) -> list[int]:
        """All but those of samples and channels."""
        return [axis for axis in range(1, len(x.shape)) if axis != self.channel_axis(x)]

    @cached_property
    def layer(self) -> Value:
        """The activation that the option `layer` names, or the last spatial one before the head."""
        return find_layer(self.graph, self.wrt, self.head, self.options.get("layer"))


@dataclass
class Scene:
    """One start of the backward pass, read for the input x."""

    stage: Stage
    seed: Value
    x: Value
    _cotangents: dict[tuple[int, tuple[str, ...]], dict[str, Value]] = field(default_factory=dict)

    @property
    def g(self) -> Emit:
        return self.stage.g

    @property
    def options(self) -> Options:
        return self.stage.options

    def of(self, x: Value) -> Scene:
        """The same start, read for another explained input."""
        return replace(self, x=x)

    @property
    def cotangent(self) -> Value:
        """Of the input, under the method's rules."""
        return self.pull(self.stage.rules)

    @property
    def reference(self) -> Value:
        """The reference input."""
        value: Value = self.stage.extras["references"][self.x.name]
        return value

    def pull(self, rules: Rules, to: Value | None = None) -> Value:
        """The cotangent of a tensor (default: the input x) under a rule set; nothing below it is visited."""
        wrt = self.stage.wrt if to is None else (to,)
        key = (id(rules), tuple(value.name for value in wrt))
        if key not in self._cotangents:
            head = self.stage.head.name
            self._cotangents[key] = pull(self.stage.tape(rules, wrt), {head: self.seed}, self.g)
        found = self._cotangents[key].get((to or self.x).name)
        if found is None:
            what = "input" if to is None else "layer"
            raise TargetError(
                f"{self.stage.head.name!r} does not depend on {what} {(to or self.x).name!r}: under these "
                "rules nothing flows back to it"
            )
        return found

    def resized(self, m: Value) -> Value:
        """A map (N, 1, spatial...) brought to the size of the input, bilinear with half-pixel centres, and
        repeated over its channels: an attribution has the shape of the input."""
        g, x, stage = self.g, self.x, self.stage
        axes = stage.spatial_axes(x)
        spatial = g.join(*(g.size(x, axis) for axis in axes))
        sizes = g.Concat(g.Shape(m, start=0, end=2), spatial, axis=0)
        up = g.Resize(m, None, None, sizes, mode="linear", coordinate_transformation_mode="half_pixel")
        if stage.channel_axis(x) != 1:
            rank = len(x.shape)
            up = g.Transpose(up, perm=[0, *range(2, rank), 1])
        return g.spread(up, x)


def is_float(value: Value) -> bool:
    return value.dtype is not None and np.dtype(value.dtype).kind == "f"
