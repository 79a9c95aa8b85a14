"""A method is data: rules, a start, a readout."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from .emit import Emit
from .errors import OptionError, nearest
from .graph import Value
from .rules import Rules

Read: TypeAlias = Callable[[Emit, Value, Value], Value]
"""(g, cotangent of the input, the input) -> attribution, of the shape of the input."""

Reduce: TypeAlias = Callable[[Emit, Value, int], Value]
"""(g, attribution, channel axis) -> heat map."""


Options: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True)
class Option:
    """A setting of a method: its default, what it may be, and what it does."""

    default: Any
    choices: tuple[Any, ...] | None
    help: str


@dataclass(frozen=True)
class Method:
    """An explanation method. The compiler reads these fields and knows nothing else of it.

    rules: options -> rule set. read: what the attribution is, given the input's cotangent. display: the
    readout its papers show (METHODS 0.7). approximates: operator -> what is done there for want of a rule in
    the paper; recorded in the emitted file's card.
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
        return {name: given.get(name, option.default) for name, option in self.options.items()}
