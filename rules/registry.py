"""Methods by name: the built-in ones, and those that installed packages publish."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import metadata
from types import MappingProxyType

from ..rewriter.errors import OptionError, nearest
from ..rewriter.method import Method
from . import methods as methods_gradient
from . import (
    methods_adversarial,
    methods_deeplift,
    methods_difference,
    methods_lrp,
    methods_maps,
    methods_masks,
    methods_optimised,
    methods_patterns,
    methods_scope,
)

GROUP = "onnxplain.methods"
BUILT_IN = (
    methods_gradient,
    methods_maps,
    methods_lrp,
    methods_deeplift,
    methods_patterns,
    methods_scope,
    methods_optimised,
    methods_difference,
    methods_adversarial,
    methods_masks,
)
"""The modules whose Methods are listed, in this order."""


@cache
def methods() -> Mapping[str, Method]:
    """Every method, name -> Method, built-in ones first; a view that cannot be written to.

    Packages publish methods under the entry point group `onnxplain.methods`; they are imported on the first
    call. Raises OptionError for an entry that cannot be imported, is no Method, or has a name that is taken.
    """
    tables = (vars(module).values() for module in BUILT_IN)
    found = {value.name: value for table in tables for value in table if isinstance(value, Method)}
    for entry in metadata.entry_points(group=GROUP):
        method = _load(entry)
        if method.name in found and found[method.name] is not method:
            raise OptionError(f"two methods are named {method.name!r}; one comes from {entry.value!r}")
        found[method.name] = method
    return MappingProxyType(found)


def _load(entry: metadata.EntryPoint) -> Method:
    where = f"the entry point {entry.value!r} of {GROUP}"
    try:
        method = entry.load()
    except Exception as error:  # whatever a foreign module does while it is imported
        raise OptionError(f"{where} cannot be imported: {error}; mend or remove that package") from error
    if not isinstance(method, Method):
        raise OptionError(f"{where} is not a Method but a {type(method).__name__}; remove that package")
    return method


def find(name: str | Method) -> Method:
    """A method by its name; a Method passes. OptionError with the nearest name."""
    if isinstance(name, Method):
        return name
    if not isinstance(name, str):
        raise OptionError(f"a method is a name or a Method, not {name!r}")
    known = methods()
    if name not in known:
        raise OptionError(f"no method {name!r}{nearest(name, known)}; `onnxplain methods` lists {len(known)}")
    return known[name]
