"""Fitting patterns: one pass over the pictures, in shards and pieces where it must be."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

import numpy as np
import numpy.typing as npt

from ...rewriter.errors import ModelError, OptionError, nearest
from ...rules.patterns import Patterns
from ..arguments import vet_arguments
from ..compiling import Model, description, package_version
from ..opening import serialize
from ..providers import create_session
from ..session import Arrays, run
from .files import load_statistics, save_statistics
from .graph import Survey, survey
from .samples import Images, Samples, samples
from .solve import ESTIMATORS, patterns_of
from .statistics import Moments, Statistics

if TYPE_CHECKING:
    from ..providers import Provider

Progress = Callable[[int, int], None]
"""Called with (pictures done, pictures to do)."""


@dataclass(frozen=True)
class Plan:
    """How the pictures are gone through; none of it changes the result.

    limit: only the first pictures of the list. shard (i, n): of those, numbers i - 1, i - 1 + n, ... batch: pictures
    read ahead of the one that is run. partial: file for what was counted so far, written every `seconds` and when the
    run is stopped; resume: go on from there.
    """

    limit: int | None = None
    shard: tuple[int, int] | None = None
    batch: int = 16
    partial: Path | None = None
    resume: bool = False
    seconds: float = 60.0

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise OptionError(f"limit is {self.limit}; at least 1 picture is needed")
        if self.shard is not None and not 1 <= self.shard[0] <= self.shard[1]:
            raise OptionError(f"shard {self.shard[0]}/{self.shard[1]}: write it as 1/4, 2/4, 3/4, 4/4")
        if self.batch < 1:
            raise OptionError(f"batch is {self.batch}; it must be at least 1")
        if self.resume and self.partial is None:
            raise OptionError("resume needs the file to resume from")

    def indices(self, count: int) -> list[int]:
        found = range(count if self.limit is None else min(count, self.limit))
        return list(found) if self.shard is None else list(found[self.shard[0] - 1 :: self.shard[1]])


class Reading(TypedDict, total=False):
    """How the model and the pictures are read.

    raw_input: arrays are model inputs, no preprocessing. preprocessing, external_data: as in `compile`. output, head:
    what is to be explained with the patterns, as in `compile`. providers, threads: of onnxruntime. progress: called
    after every picture.
    """

    raw_input: bool
    preprocessing: str | os.PathLike[str] | Mapping[str, Any] | None
    output: str | None
    head: str
    providers: str | Sequence[Provider] | None
    threads: int | None
    external_data: bool
    progress: Progress | None


def fit_patterns(
    model: Model,
    images: Images,
    *,
    estimators: Sequence[str] = ESTIMATORS,
    plan: Plan | None = None,
    **reading: Unpack[Reading],
) -> Patterns:
    """Estimate the patterns of a model on pictures, for `pattern-net` and `pattern-attribution`.

    images: a folder, a list, an array (`estimate.samples.samples`). estimators: which patterns to keep, of "plus",
    "linear", "plus-within" and "minus". Everything else as `gather`.

    Raises what `gather` and `patterns_of` raise.
    """
    unknown = [name for name in estimators if name not in ESTIMATORS]
    if unknown or not estimators:
        raise OptionError(f"estimators={unknown or list(estimators)}: choose from {', '.join(ESTIMATORS)}")
    return patterns_of(gather(model, images, plan=plan, **reading), estimators)


def gather(
    model: Model, images: Images, *, plan: Plan | None = None, **reading: Unpack[Reading]
) -> Statistics:
    """The sufficient statistics of every weighted node over the pictures, in one pass (docs/methods/patterns.md).

    Pictures are run one at a time: the forward pass of a picture then does not depend on its neighbours, down to the
    last bit. Its float32 activations are summed in float64 inside the graph, and the pictures' sums in about 106 bits
    (`Total`), so that neither batch nor shards nor their order change the patterns. Another number of threads or
    another machine may round the forward pass otherwise. Memory: about 9 float64 numbers a weight.

    Raises ModelError (nothing to fit, a batch that is fixed), OptionError (no pictures, a partial file in the way),
    ImageError (a picture that cannot be read), StaleError (resuming with something else), ProviderError.
    """
    unknown = set(reading) - set(Reading.__annotations__)
    if unknown:
        raise OptionError(
            f"unknown argument {min(unknown)!r}{nearest(min(unknown), Reading.__annotations__)}"
        )
    vet_arguments(
        output=reading.get("output"),
        head=reading.get("head"),
        preprocessing=reading.get("preprocessing"),
        providers=reading.get("providers"),
        threads=reading.get("threads"),
    )
    plan = plan or Plan()
    aim = {"output": reading.get("output"), "head": reading.get("head", "logits")}
    graph = survey(
        model,
        output=aim["output"],
        head=aim["head"] or "logits",
        external_data=reading.get("external_data", False),
    )
    about = description(model, graph.source.model, reading.get("preprocessing"))
    prepared = None if about is None else about.preprocessing
    pictures = samples(images, prepared, reading.get("raw_input", False), graph.dtype)
    statistics = _begin(plan, graph, pictures, aim)
    session = create_session(
        serialize(graph.model), reading.get("providers"), threads=reading.get("threads"), deterministic=True
    )
    todo = np.setdiff1d(np.asarray(plan.indices(len(pictures)), np.int64), statistics.indices).tolist()
    whole, tell = statistics.images + len(todo), reading.get("progress")
    count = _Count(graph, statistics, plan.partial, plan.seconds)
    with count:
        for index, array in ahead(pictures, todo, plan.batch):
            done = count.add(index, run(session, {graph.input: array}))
            if tell is not None:
                tell(done, whole)
    return statistics


class _Count:
    """Adds results up in a thread of its own, while the next picture runs. An interrupt reaches the main thread
    alone, so what is written on the way out always holds whole pictures."""

    def __init__(self, graph: Survey, statistics: Statistics, partial: Path | None, seconds: float) -> None:
        self.graph, self.statistics, self.partial, self.seconds = graph, statistics, partial, seconds
        self._done: list[int] = []
        self._adder = ThreadPoolExecutor(1)
        self._last: Future[None] | None = None
        self._saved = time.monotonic()

    def __enter__(self) -> _Count:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._adder.shutdown(wait=True)
        if kind is None and self._last is not None:
            self._last.result()
        self._settle()
        whole = self._last is None or self._last.exception() is None
        if kind is not None and whole and self.statistics.images:
            self._save()

    def add(self, index: int, results: Arrays) -> int:
        """Returns the number of pictures counted, this one included."""
        if self._last is not None:
            self._last.result()
        if self.partial is not None and time.monotonic() - self._saved > self.seconds:
            self._settle()
            self._save()
        before = self.statistics.images + len(self._done)
        self._last = self._adder.submit(self._sum, index, results)
        return before + 1

    def _sum(self, index: int, results: Arrays) -> None:
        for i, moments in enumerate(self.statistics.nodes.values()):
            moments.add(_double(results[self.graph.sums(i)]), _double(results[self.graph.squares(i)]))
        self._done.append(index)

    def _settle(self) -> None:
        done, self._done = self._done, []
        self.statistics.indices = np.union1d(self.statistics.indices, np.asarray(done, np.int64))

    def _save(self) -> None:
        if self.partial is not None:
            save_statistics(self.statistics, self.partial)
            self._saved = time.monotonic()


def _begin(plan: Plan, graph: Survey, pictures: Samples, aim: dict[str, Any]) -> Statistics:
    """Empty sums, or those of the partial file."""
    preprocessing = None if pictures.preprocessing is None else pictures.preprocessing.to_record()
    about = {
        "sha256": graph.source.sha256,
        "model": None if graph.source.path is None else graph.source.path.name,
        "list": pictures.digest,
        "total": len(pictures if plan.limit is None else pictures.items[: plan.limit]),
        "preprocessing": preprocessing,
        "version": package_version(),
        **aim,
    }
    if plan.partial is not None and plan.partial.exists():
        known = load_statistics(plan.partial)
        if not plan.resume:
            raise OptionError(
                f"{str(plan.partial)!r} holds {known.images} pictures of a fit that was stopped; go on with --resume, "
                "or delete it"
            )
        known.must_match(about, repr(str(plan.partial)))
        if not set(known.indices.tolist()) <= set(plan.indices(len(pictures))):
            raise OptionError(
                f"{str(plan.partial)!r} belongs to another shard; resume with the one it was made with"
            )
        return known
    names = [f"{graph.scope}/weight/{i}" for i in range(len(graph.nodes))]
    weights = run(create_session(serialize(graph.weights)), {}, names)
    nodes = {
        node: Moments.empty(layout, _double(weights[name]))
        for (node, layout), name in zip(graph.nodes.items(), names, strict=True)
    }
    return Statistics(about, nodes, graph.skipped)


def ahead(pictures: Samples, indices: Sequence[int], batch: int) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    """Pictures in order, up to `batch` of them read while another one runs."""
    with ThreadPoolExecutor(1) as reader:
        waiting = []
        try:
            for index in indices:
                waiting.append((index, reader.submit(pictures.__getitem__, index)))
                if len(waiting) > batch:
                    first, future = waiting.pop(0)
                    yield first, future.result()
            for first, future in waiting:
                yield first, future.result()
        finally:
            for _, future in waiting:
                future.cancel()


def _double(array: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    if array.dtype != np.float64:
        raise ModelError(f"the statistics graph gave {array.dtype} instead of float64")
    return array
