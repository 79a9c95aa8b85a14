"""What can go wrong, one type a cause. Every message says what, where (node or argument) and what to do.

ExplainError
├── ModelError        the file is unreadable, unsafe, malformed or of an opset that cannot be lifted
├── UnsupportedError  nodes without a rule; `.sites` lists every one of the model
├── TargetError       no such output, class or head
├── OptionError       unknown method, option or value
├── NotLinearError    the method's map has no forward form (push)
├── StaleError        the explanation belongs to another model than the one given
├── ImageError        a picture cannot be read or does not fit the model
└── ProviderError     an execution provider that was asked for was not taken

ExplainWarning        the answer stands, but it does not mean what one would think: a map that is zero or not finite
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches


class ExplainError(Exception):
    """Base of every error this package raises on purpose."""


class ModelError(ExplainError):
    """The model cannot be read, is unsafe, or cannot be brought to the form the compiler needs."""


class TargetError(ExplainError):
    """No such output, class index or head."""


class OptionError(ExplainError):
    """An unknown method or option, or a value outside its range."""


class NotLinearError(ExplainError):
    """A map that only pulls (DeconvNet, Guided Backprop) was asked to push."""


class StaleError(ExplainError):
    """The file explains another model than the one it is used with."""


class ImageError(ExplainError):
    """A picture cannot be read, or its shape does not fit the model."""


class ProviderError(ExplainError):
    """An execution provider that was asked for is not there or was not taken."""


class ExplainWarning(UserWarning):
    """An explanation that says nothing, or not what one would think: a map that is zero everywhere or not finite."""


@dataclass(frozen=True)
class Obstacle:
    """A node that stands in the way of an explanation."""

    op: str
    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.op} at {self.name!r}: {self.reason}"


class UnsupportedError(ExplainError):
    """Nodes on the path from input to target that the rule set cannot explain; all of them, at once."""

    def __init__(self, sites: Sequence[Obstacle], hint: str = "") -> None:
        self.sites = tuple(sites)
        nodes = "; ".join(str(site) for site in self.sites)
        count = "1 node has" if len(self.sites) == 1 else f"{len(self.sites)} nodes have"
        super().__init__(f"{count} no usable rule: {nodes}" + (f". {hint}" if hint else ""))


def nearest(name: str, known: Iterable[str]) -> str:
    """' (did you mean ...?)' for a misspelt name, or '' when nothing is near."""
    match = get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" (did you mean {match[0]!r}?)" if match else ""
