"""What the sessions of a run compute on, in a form that travels to the workers and stands in the manifest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

from ...rewriter.errors import OptionError
from ..providers import is_auto, resolve, short_name

if TYPE_CHECKING:
    from ..providers import Option, Provider

Engine: TypeAlias = "tuple[tuple[str, tuple[tuple[str, Option], ...]], ...]"
"""Execution providers in order of preference: short name, options. It can be hashed, unlike what callers give."""

CPU: Engine = (("cpu", ()),)
AUTO: Engine = (("auto", ()),)


def engine_of(providers: str | Sequence[Provider] | None) -> Engine:
    """None is the CPU, as for a session. Raises OptionError for an unknown name; the rest that can be wrong is said
    when a session is opened."""
    if providers is None:
        return CPU
    if is_auto(providers):
        return AUTO
    entries = [providers] if isinstance(providers, str) else providers
    pairs = [(entry, {}) if isinstance(entry, str) else entry for entry in entries]
    if any(name.lower() == "auto" for name, _ in pairs):
        raise OptionError('"auto" chooses the provider itself and takes no options; give it alone')
    return tuple((short_name(resolve(name)), tuple(sorted(options.items()))) for name, options in pairs)


def providers_of(engine: Engine) -> list[Provider]:
    """As `load` takes them."""
    return [(name, dict(options)) if options else name for name, options in engine]


def record_of(engine: Engine) -> list[object]:
    """For JSON: "cuda", or ["cuda", {"use_tf32": 0}]."""
    return [[name, dict(options)] if options else name for name, options in engine]
