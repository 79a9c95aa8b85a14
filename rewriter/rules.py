"""Rule sets: which rule linearises which node."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterator, Mapping
from typing import TypeAlias

from .emit import Emit
from .linear import Local
from .site import Site

Rule: TypeAlias = Callable[[Site, Emit], Local]
Match: TypeAlias = str | frozenset[str] | Callable[[Site], bool]
# A Mapping is invariant in its keys: spell out the literal dicts that people write.
Pairs: TypeAlias = Mapping[str, Rule] | Mapping[frozenset[str], Rule] | Mapping[Match, Rule]


class Rules:
    """Ordered (match, rule) pairs over a base set. The last match wins; the base is looked up late, so it may
    still grow.

    A match is an operator name ("Relu", "com.acme:Gate"), a frozenset of names, or a predicate of the site.
    """

    def __init__(self, pairs: Pairs | None = None, base: Rules | None = None) -> None:
        self._pairs: dict[Match, Rule] = {match: rule for match, rule in pairs.items()} if pairs else {}
        self._base = base

    def on(self, *ops: str) -> Callable[[Rule], Rule]:
        """Register a rule for operators. A second rule for the same operator is a mistake: ValueError."""

        def register(rule: Rule) -> Rule:
            for op in ops:
                if op in self._pairs:
                    raise ValueError(f"{op} has a rule already: {_name(self._pairs[op])}")
                self._pairs[op] = rule
            return rule

        return register

    def __or__(self, more: Pairs) -> Rules:
        return Rules(more, base=self)

    def find(self, site: Site) -> Rule | None:
        for match, rule in reversed(self._pairs.items()):
            if matches(match, site):
                return rule
        return self._base.find(site) if self._base is not None else None

    def ops(self) -> Iterator[str]:
        """Operator names with a rule of their own, base first."""
        if self._base is not None:
            yield from self._base.ops()
        for match in self._pairs:
            if isinstance(match, str):
                yield match
            elif isinstance(match, frozenset):
                yield from sorted(match)


def matches(match: Match, site: Site) -> bool:
    if isinstance(match, str):
        return site.op == match
    if isinstance(match, frozenset):
        return site.op in match
    return match(site)


def named(glob: str) -> Match:
    """Sites whose node name matches a shell pattern."""
    return lambda site: fnmatch.fnmatch(site.name, glob)


def _name(rule: Rule) -> str:
    return getattr(rule, "__name__", repr(rule))


rule_name = _name
