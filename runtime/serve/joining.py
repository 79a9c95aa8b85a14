"""Requests that come within a short time share one run: their rows are put into one batch.

A batch is summed up in another order than a single row, so an answer may differ from that of the row alone in its last
bits (and by more where a derivative jumps, at a ReLU whose input is near 0). It equals, bit for bit, the same rows of
the same batch run at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import numpy as np

from ...rewriter.errors import ExplainError
from .datatypes import Array
from .engine import Engine, Ticket
from .refusal import late
from .served import TARGET, Served

Arrays = dict[str, Array]
Key = tuple[object, ...]


@dataclass(frozen=True, eq=False)
class Member:
    feeds: Arrays
    rows: int
    ticket: Ticket
    answer: asyncio.Future[Arrays]


@dataclass
class Group:
    """Requests of one model whose rows have the same types and shapes."""

    members: list[Member] = field(default_factory=list)
    rows: int = 0


class Joiner:
    """Belongs to one event loop."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._groups: dict[Key, Group] = {}
        self.runs = self.joined = 0

    def join(self, served: Served, feeds: Arrays, ticket: Ticket) -> asyncio.Future[Arrays]:
        """The outputs of these rows, some time later. The run starts when the window ends or the batch is full."""
        loop = asyncio.get_running_loop()
        feeds = completed(served, feeds)
        rows = max(array.shape[0] for array in feeds.values())
        member = Member(feeds, rows, ticket, loop.create_future())
        if any(array.shape[0] != rows for array in feeds.values()):
            self._submit(served, [member])  # refused, and not with rows of others
            return member.answer
        signature = sorted((name, str(array.dtype), array.shape[1:]) for name, array in feeds.items())
        key = (served.name, *signature)
        group = self._groups.get(key)
        if group is not None and group.rows + rows > self._engine.settings.max_batch:
            self._start(served, key, group)
            group = None
        if group is None:
            group = self._groups[key] = Group()
            loop.call_later(self._engine.settings.batching, self._start, served, key, group)
        group.members.append(member)
        group.rows += rows
        if group.rows >= self._engine.settings.max_batch:
            self._start(served, key, group)
        return member.answer

    def forget(self, answer: asyncio.Future[Arrays]) -> None:
        """Nobody waits for it any more: its rows leave the group, unless they run already."""
        for group in self._groups.values():
            for member in [member for member in group.members if member.answer is answer]:
                group.members.remove(member)
                group.rows -= member.rows
                answer.cancel()

    def _start(self, served: Served, key: Key, group: Group) -> None:
        if self._groups.get(key) is not group:
            return  # full, and started before its window ended
        del self._groups[key]
        if group.members:
            self._submit(served, group.members)

    def _submit(self, served: Served, members: Sequence[Member]) -> None:
        self.runs += 1
        self.joined += len(members)
        future = self._engine.submit(lambda: run_group(served, members))
        future.add_done_callback(lambda done: _deliver(members, done))


def _deliver(members: Sequence[Member], done: asyncio.Future[list[Arrays | Exception]]) -> None:
    for i, member in enumerate(members):
        if member.answer.done():
            continue
        if done.cancelled():
            member.answer.cancel()
            continue
        fault = done.exception()
        found = done.result()[i] if fault is None else fault
        if isinstance(found, BaseException):
            member.answer.set_exception(found)
            member.answer.exception()  # seen, also where nobody waits for it any more
        else:
            member.answer.set_result(found)


def completed(served: Served, feeds: Arrays) -> Arrays:
    """With the classes that were left out, so that requests with and without them can share a run."""
    rows = max(array.shape[0] for array in feeds.values())
    tensor = served.inputs.get(TARGET)
    given = feeds.get(TARGET, np.array([[-1]], np.int64))
    if tensor is not None and tensor.optional and given.shape == (1, 1):
        feeds = {**feeds, TARGET: np.ascontiguousarray(np.broadcast_to(given, (rows, 1)))}
    return feeds


def run_group(served: Served, members: Sequence[Member]) -> list[Arrays | Exception]:
    """In a worker. What fails together runs again one by one: a bad request spoils only its own answer."""
    alive = [member for member in members if not member.ticket.stopped and member.ticket.left]
    found: dict[Member, Arrays | Exception] = {
        member: late(member.ticket.seconds) for member in members if member not in alive
    }
    if len(alive) > 1:
        try:
            found |= zip(alive, _together(served, alive), strict=True)
            return [found[member] for member in members]
        except (ExplainError, ValueError):
            pass
    for member in alive:
        found[member] = _alone(served, member)
    return [found[member] for member in members]


def _together(served: Served, members: Sequence[Member]) -> list[Arrays]:
    """One run, until the last deadline of its members."""
    served.obey(max(members, key=lambda member: member.ticket.end).ticket.options)
    feeds = {name: np.concatenate([member.feeds[name] for member in members]) for name in members[0].feeds}
    outputs = served.run(feeds)
    ends = list(accumulate(member.rows for member in members))
    total = ends[-1]
    if any(array.shape[:1] != (total,) for array in outputs.values()):
        raise ValueError("an output has no row for each of the batch")
    return [
        {name: array[end - member.rows : end] for name, array in outputs.items()}
        for member, end in zip(members, ends, strict=True)
    ]


def _alone(served: Served, member: Member) -> Arrays | Exception:
    if member.ticket.stopped or not member.ticket.left:
        return late(member.ticket.seconds)
    served.obey(member.ticket.options)
    try:
        return served.run(member.feeds)
    except Exception as error:
        return error
