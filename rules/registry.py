"""Methods by name: the built-in ones, and those that installed packages publish."""

from __future__ import annotations

from functools import cache
from importlib.metadata import entry_points

from ..rewriter.errors import OptionError, nearest
from ..rewriter.method import Method
from . import methods as built_in

GROUP = "onnxplain.methods"


@cache
def methods() -> dict[str, Method]:
    """Every method, name -> Method, built-in ones first. A published name that is taken raises OptionError."""
    found = {value.name: value for value in vars(built_in).values() if isinstance(value, Method)}
    for entry in entry_points(group=GROUP):
        method = entry.load()
        if not isinstance(method, Method):
            raise OptionError(f"the entry point {entry.value!r} of {GROUP} is not a Method")
        if method.name in found and found[method.name] is not method:
            raise OptionError(f"two methods are named {method.name!r}; one comes from {entry.value!r}")
        found[method.name] = method
    return found


def find(name: str | Method) -> Method:
    """A method by its name; a Method passes. OptionError with the nearest name."""
    if isinstance(name, Method):
        return name
    known = methods()
    if name not in known:
        raise OptionError(f"no method {name!r}{nearest(name, known)}; `onnxplain methods` lists {len(known)}")
    return known[name]
