"""Tasks over an executor: a bounded number at a time, again where a worker died, and all stopped at a word."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    ProcessPoolExecutor,
    wait,
)
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event
from typing import TypeVar

from ...rewriter.errors import ExplainError, OptionError
from ..cores import available_cores
from .rows import need

T = TypeVar("T")
R = TypeVar("R")

BREAKS = 3
"""Times in a row that workers may die without one task done between them."""
AHEAD = 2
"""Tasks a worker that are handed out at a time: one it works on, one that waits for it."""

_stop: Event | None = None


class Stopped(Exception):
    """A task was told to stop; whoever told it so does not wait for its result."""


class Workers:
    """An executor with `count` workers. Processes of our own are started anew after a death; an executor that was
    given is used as it is."""

    def __init__(self, count: int, executor: Executor | None = None) -> None:
        self.count, self._given = count, executor
        # spawn: a process that is forked beside the threads of onnxruntime may hang
        self._spawn = multiprocessing.get_context("spawn")
        self._stop = self._spawn.Event()
        self._executor = executor

    @property
    def executor(self) -> Executor:
        if self._executor is None:
            self._executor = ProcessPoolExecutor(
                self.count, self._spawn, initializer=_begin, initargs=(self._stop,)
            )
        return self._executor

    def renew(self) -> bool:
        """After a death. False where the executor is not ours to start anew."""
        if self._given is not None:
            return False
        self.close(wait=False)
        self._executor = None
        return True

    def close(self, wait: bool = True) -> None:
        if self._given is None and self._executor is not None:
            self._executor.shutdown(wait=wait, cancel_futures=True)

    def stop(self) -> None:
        """Tell the tasks to stop where they can."""
        self._stop.set()


@contextmanager
def local_workers(count: int | None) -> Iterator[Workers]:
    """Processes of this machine; by default one for every core that this process may use. Raises OptionError."""
    if count is not None and count < 1:
        raise OptionError(f"workers is {count}; at least 1 process is needed")
    workers = Workers(count or available_cores())
    try:
        yield workers
    except BaseException:
        workers.stop()
        raise
    finally:
        workers.close()


@contextmanager
def dask_workers(address: str) -> Iterator[Workers]:
    """The workers of a dask cluster, through the interface of the standard library. They need this package, and the
    same folders under the same names. Raises OptionError where there is no scheduler, or no dask."""
    distributed = need("distributed", "dask")
    try:
        client = distributed.Client(address, set_as_default=False, timeout="10s")
    except (OSError, ValueError, TypeError) as error:
        raise OptionError(f"no dask scheduler answers at {address!r}: {error}") from error
    with client:
        threads = sum(client.nthreads().values())
        if not threads:
            raise OptionError(f"the dask scheduler at {address!r} has no workers; start some")
        # pure=False: a shard that is asked for again is to be written again, not remembered
        executor = client.get_executor(pure=False)
        try:
            yield Workers(threads, executor)
        except (distributed.KilledWorker, CancelledError) as error:
            raise ExplainError(f"the dask cluster lost its work ({error}); go on with resume") from error
        finally:
            executor.shutdown(wait=False)  # nothing is left to wait for, but after an error


def spread(workers: Workers, function: Callable[[T], R], tasks: Iterable[T]) -> Iterator[R]:
    """Results as they come. Tasks whose worker died are handed out again, so a task must be safe to repeat.

    Raises what a task raises; ExplainError after `BREAKS` deaths in a row.
    """
    waiting, running, breaks = deque(tasks), dict[Future[R], T](), 0
    while waiting or running:
        try:
            while waiting and len(running) < AHEAD * workers.count:
                running[workers.executor.submit(function, waiting[0])] = waiting[0]
                waiting.popleft()
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                result = future.result()
                del running[future]
                breaks = 0
                yield result
        except BrokenExecutor as error:
            breaks += 1
            waiting.extendleft(reversed(running.values()))
            running.clear()
            if breaks == BREAKS or not workers.renew():
                raise ExplainError(
                    f"worker processes died {breaks} times without finishing anything ({error}); give each more memory "
                    "(fewer workers, smaller shards), then go on with resume"
                ) from error


def check_stop() -> None:
    """In a task, wherever it can stop. Raises Stopped."""
    if _stop is not None and _stop.is_set():
        raise Stopped


def _begin(stop: Event) -> None:
    """In a new process: a Ctrl-C is the parent's to answer, and nobody outlives the parent."""
    global _stop
    _stop = stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_follow, args=(parent,), daemon=True).start()


def _follow(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)
