"""Work in threads, within bounds: so many at a time, so many waiting, each until its deadline."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from ..loading import load_onnxruntime
from .refusal import Gone, busy, late
from .served import RunOptions
from .settings import Settings

T = TypeVar("T")


class Ticket:
    """One request's claim on the engine. `options` goes into its runs: setting terminate stops them at the next
    operator. `work` is what a thread still does for it, even when it has been answered already."""

    def __init__(self, start: float, seconds: float) -> None:
        self.seconds, self.end = seconds, start + seconds
        self.options: RunOptions = load_onnxruntime().RunOptions()
        self.stopped = False
        self.work: asyncio.Future[Any] | None = None

    @property
    def left(self) -> float:
        return max(0.0, self.end - time.monotonic())

    def stop(self) -> None:
        self.stopped = True
        self.options.terminate = True

    def vet(self) -> None:
        """Raises Refusal (504) when it is too late to begin."""
        if self.stopped or not self.left:
            raise late(self.seconds)


class Hold:
    """Bytes that one request keeps in memory."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self.size = engine, 0

    def add(self, size: int) -> None:
        """Raises Refusal (503) when all requests together would keep more than the server allows."""
        if self._engine.held + size > self._engine.settings.held:
            raise busy("the server holds as much data of requests as it may")
        self.size += size
        self._engine.held += size


class Engine:
    """Belongs to one event loop: its numbers are only touched there. taken: requests running or waiting."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.taken = self.running = self.held = 0
        self._threads = ThreadPoolExecutor(settings.workers, thread_name_prefix="onnxplain-run")

    @property
    def waiting(self) -> int:
        return max(0, self.taken - self.settings.workers)

    def vet(self) -> None:
        """Raises Refusal (503) when every worker is taken and the queue is full."""
        if self.taken >= self.settings.workers + self.settings.queue:
            raise busy(
                f"all {self.settings.workers} workers are busy and {self.settings.queue} requests wait"
            )

    @contextmanager
    def hold(self) -> Iterator[Hold]:
        hold = Hold(self)
        try:
            yield hold
        finally:
            self.held -= hold.size

    @contextmanager
    def slot(self, ticket: Ticket) -> Iterator[None]:
        """A place among the workers or in the queue; given back when no thread works for it any more."""
        self.vet()
        self.taken += 1
        try:
            yield
        finally:
            if ticket.work is None or ticket.work.done():
                self._leave()
            else:
                ticket.work.add_done_callback(self._leave)

    def _leave(self, _: object = None) -> None:
        self.taken -= 1

    def submit(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """Run in a worker."""
        future = asyncio.get_running_loop().run_in_executor(self._threads, work)
        self.running += 1
        future.add_done_callback(self._done)
        return future

    def _done(self, future: asyncio.Future[T]) -> None:
        self.running -= 1
        if not future.cancelled():
            future.exception()  # seen, also where nobody waits for it any more

    async def do(self, ticket: Ticket, work: Callable[[], T], gone: asyncio.Future[None]) -> T:
        """Run in a worker, until the deadline or until the client has gone."""

        def begin() -> T:
            ticket.vet()
            return work()

        return await self.wait(ticket, self.submit(begin), gone)

    async def wait(self, ticket: Ticket, future: asyncio.Future[T], gone: asyncio.Future[None]) -> T:
        """Raises Refusal (504) at the deadline and Gone without a client; the run is then told to stop."""
        ticket.work = future
        try:
            either: set[asyncio.Future[T] | asyncio.Future[None]] = {future, gone}
            await asyncio.wait(either, timeout=ticket.left, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            ticket.stop()
            raise
        if future.done():
            return future.result()
        ticket.stop()
        if gone.done():
            raise Gone
        raise late(ticket.seconds)

    def close(self) -> None:
        """Wait for the threads."""
        self._threads.shutdown(wait=True, cancel_futures=True)
