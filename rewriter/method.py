"""A method as data: rules, a start and a readout; some also have a reference, a layer or samples."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import onnx

from .emit import Emit
from .errors import OptionError, nearest
from .graph import Graph, Value
from .rules import Rules

if TYPE_CHECKING:
    from .loop import Sampling
    from .results import Result
    from .scene import Scene, Stage
    from .target import Target

Options: TypeAlias = Mapping[str, Any]

Read: TypeAlias = "Callable[[Scene], Value]"
"""What the attribution is, given a scene: the input, its cotangent, the layer. Of the shape of the input."""

Reduce: TypeAlias = Callable[[Emit, Value, int], Value]
"""(g, attribution, channel axis) -> heat map."""

Seed: TypeAlias = Callable[[Emit, Value, Value], Value]
"""(g, head z, one-hot e_c) -> what the backward pass starts with."""

View: TypeAlias = Callable[[Graph, Emit, Collection[str]], Graph]
"""(graph, g, tensors that must stay) -> the same function with other nodes for the rules to see."""


def one(g: Emit, z: Value, hot: Value) -> Value:
    """e_c: the gradient of the logit."""
    return hot


def value(g: Emit, z: Value, hot: Value) -> Value:
    """e_c z_c: the logit itself is shared out (docs/methods/README.md)."""
    return g.Mul(hot, z)


def positive_value(g: Emit, z: Value, hot: Value) -> Value:
    """e_c max(z_c, 0)."""
    return g.Mul(hot, g.Relu(z))


@dataclass(frozen=True)
class Option:
    """A setting of a method: its default, what it may be, and what it does. check: raises OptionError for a
    value that is no good, and returns the value as the method wants it."""

    default: Any
    choices: tuple[Any, ...] | None
    help: str
    check: Callable[[str, Any], Any] | None = None


@dataclass(frozen=True)
class Method:
    """An explanation method. The compiler reads these fields and knows nothing else of it.

    rules: options -> rule set. read: the attribution, from a scene. seed: what the pass starts with.
    views: options -> how the rules see the graph. reference: the input to compare with (its activations are then
    `site.reference`). sampling: options -> the samples that the map is averaged over, or None. of: options -> the
    method that is sampled, for methods around another one. display: the readout its papers show
    (docs/methods/README.md). outputs: (stage, target) -> results of other shapes than the input's, instead of `read`;
    what it needs besides the model's inputs it adds to `stage.inputs`. aimed: whether a class or a cotangent is
    explained. approximates: operator -> what is done there for want of a rule in the paper; recorded in the card.
    assembly: (stage, results as declared) -> the file without its weights, where emitted nodes do more than to follow
    the forward pass; `graph.assemble` otherwise.
    """

    name: str
    title: str
    family: str
    rules: Callable[[Options], Rules]
    read: Read
    cost: str
    source: str
    display: str = "maxabs"
    options: Mapping[str, Option] = field(default_factory=dict)
    approximates: Mapping[str, str] = field(default_factory=dict)
    seed: Seed = one
    views: Callable[[Options], tuple[View, ...]] = lambda options: ()
    reference: Callable[[Stage, Value], Value] | None = None
    sampling: Callable[[Options], Sampling | None] | None = None
    of: Callable[[Options], Method] | None = None
    starts_at_layer: bool = False
    outputs: Callable[[Stage, Target], Sequence[Result]] | None = None
    aimed: bool = True
    assembly: Callable[[Stage, Sequence[onnx.ValueInfoProto]], onnx.ModelProto] | None = None

    @property
    def maps(self) -> bool:
        """Whether it gives an attribution: a map of the input's shape."""
        return self.outputs is None

    def concrete(self, given: Options) -> tuple[Method, dict[str, Any]]:
        """The method with its inner one's rules and readout, and all options settled. An option that is not its
        own belongs to the inner method."""
        if self.of is None:
            return self, self.settle(given)
        mine = self.settle({name: v for name, v in given.items() if name in self.options})
        inner = self.of(mine)
        rest = {name: v for name, v in given.items() if name not in self.options}
        try:
            theirs = {} if inner.of is not None else inner.settle(rest)
        except OptionError as error:
            own = ", ".join(self.options)
            raise OptionError(f"{self.name} of {error}; its own options are {own}") from None
        if inner.of is not None or (inner.sampling is not None and inner.sampling(theirs) is not None):
            raise OptionError(f"{self.name} of {inner.name}: a method that samples cannot be sampled again")
        merged = replace(
            inner,
            name=self.name,
            title=self.title,
            sampling=self.sampling,
            source=f"{self.source}; {inner.source}",
        )
        return merged, {**theirs, **mine}

    def settle(self, given: Options) -> dict[str, Any]:
        """All options: the given ones over the defaults. OptionError for an unknown name or value."""
        for name, value in given.items():
            if name not in self.options:
                known = ", ".join(self.options) or "none"
                raise OptionError(
                    f"{self.name} has no option {name!r}{nearest(name, self.options)}; it has {known}"
                )
            choices = self.options[name].choices
            if choices is not None and value not in choices:
                raise OptionError(
                    f"{self.name}: {name}={value!r} is not one of {', '.join(map(repr, choices))}"
                )
        return {name: self._checked(name, given.get(name, o.default)) for name, o in self.options.items()}

    def _checked(self, name: str, value: Any) -> Any:
        check = self.options[name].check
        return value if check is None else check(f"{self.name}: {name}", value)
