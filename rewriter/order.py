"""Topological order of nodes, however they are written."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Sequence


def ordered(reads: Sequence[Collection[str]], makes: Sequence[Collection[str]]) -> list[int] | None:
    """Positions of the nodes in topological order, otherwise as they are; None where there is a cycle. reads, makes:
    the tensors that each node reads and makes, "" for an omitted one; what no node makes is there already."""
    made = {name for names in makes for name in names if name}
    readers: dict[str, list[int]] = {}
    missing: list[int] = []
    for i, names in enumerate(reads):
        needs = {name for name in names if name in made}
        missing.append(len(needs))
        for name in needs:
            readers.setdefault(name, []).append(i)
    ready = [i for i, count in enumerate(missing) if not count]
    done: set[str] = set()
    found: list[int] = []
    while ready:
        i = heapq.heappop(ready)
        found.append(i)
        for name in set(makes[i]) - done - {""}:
            done.add(name)
            for reader in readers.get(name, ()):
                missing[reader] -= 1
                if not missing[reader]:
                    heapq.heappush(ready, reader)
    return found if len(found) == len(missing) else None


__all__ = ["ordered"]
