"""A run over many pictures: plan, spread the shards over workers, and say what has come of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ...rewriter.errors import OptionError
from . import manifest
from .engine import CPU
from .job import Asked, Images, Job, Pictures, plan
from .pool import Workers, dask_workers, local_workers, spread
from .rows import begin
from .shard import Bad, Record, Task, explain_shard, take_engine

if TYPE_CHECKING:
    from ..providers import Provider

Progress = Callable[[int, int], None]
"""(pictures done, pictures in all), called after every shard."""


@dataclass(frozen=True)
class Report:
    """What a run has come to: pictures = explained + bad. resumed: shards that were there already. zero: numbers of the
    pictures whose map is zero everywhere; they are among the explained."""

    out: Path
    pictures: int
    explained: int
    bad: tuple[Bad, ...]
    shards: int
    resumed: int
    zero: tuple[int, ...] = ()


def run(
    file: str | os.PathLike[str],
    images: Images,
    out: str | os.PathLike[str],
    *,
    workers: int | None = None,
    dask: str | None = None,
    executor: Executor | None = None,
    shard: int = 250,
    format: str = "parquet",
    map: str | None = None,
    target: int | None = None,
    bad: str = "skip",
    resume: bool = False,
    preprocessing: str | os.PathLike[str] | Mapping[str, object] | None = None,
    providers: str | Sequence[Provider] | None = None,
    rows: int = 1,
    progress: Progress | None = None,
) -> Report:
    """Explain pictures with an emitted file, and write the maps into the folder `out`.

    The pictures are cut into shards of `shard`, whatever works on them, and run `rows` at a time on one thread: the
    files have the same bytes for any number of workers and on any executor (of one version of the packages, on one
    kind of machine; on a graphics card, of one machine at best, for kernels that add in no fixed order need not repeat
    themselves). A shard is written under another name and then renamed; what is killed is done again, what was done
    before is kept with resume.

    file: made by `onnxplain compile`, with target="input" (then `target` is the class, -1 or None for the top one),
        "top" or one class. images: a folder, a text list, or a sequence of paths.
    workers: processes of this machine, one a core by default (start them from under `if __name__ == "__main__":`, as
        for any process that is spawned). dask: address of a scheduler. executor: any other, whose workers see the same
        folders; `workers` then says how many it has.
    format: "parquet", "zarr" (one size of maps only) or "npz", see `rows`. map: "heatmap" or "attribution"; by default
        the heat map where the file has one.
    bad: "skip" leaves pictures out that cannot be read or explained and lists them in bad.csv; "stop" ends the run.
    providers: of every worker's session, as for `load`; a worker opens one before anything is written. "auto" is
        looked up there once, and every worker then takes that one. The manifest says which.
    rows: neighbours of one shard that share a run (the last run of a shard is shorter), whatever memory is free. A map
        then equals that of rows=1 to the rounding of the kernels. More than 1 takes pictures of one size and a model
        with a free batch.

    Raises OptionError, TargetError, ModelError, ProviderError (a provider that a worker cannot take), ImageError
    (bad="stop"), StaleError (a resumed run that was begun with something else), ExplainError (workers that die again
    and again).
    """
    if sum(given is not None for given in (dask, executor)) > 1 or (dask is not None and workers is not None):
        raise OptionError("give one of workers, dask and executor: a dask cluster has its own workers")
    asked = Asked(file, images, out, shard, format, map, bad, target, preprocessing, providers, rows)
    job, pictures = plan(asked)
    with _workers(workers, dask, executor) as crew:
        job = _on_engine(job, crew)
        records = manifest.begin(job, resume, pictures.names)
        begin(job, pictures)
        resumed = len(records)
        _work(job, pictures, crew, records, progress)
    manifest.finish(job, records)
    return _report(job, records, resumed)


def _workers(
    count: int | None, dask: str | None, executor: Executor | None
) -> AbstractContextManager[Workers]:
    if executor is not None:
        return nullcontext(Workers(count or 1, executor))
    return local_workers(count) if dask is None else dask_workers(dask)


def _on_engine(job: Job, crew: Workers) -> Job:
    """The job on the providers that a worker took. One of the workers is asked, not this process: they may be on other
    machines, and whatever is opened here would hold the card's memory to the end."""
    if job.engine == CPU:
        return job
    (taken,) = spread(crew, take_engine, [job])
    return replace(job, engine=taken)


def _work(
    job: Job, pictures: Pictures, crew: Workers, records: dict[int, Record], progress: Progress | None
) -> None:
    tasks = []
    for index in range(job.shards):
        if index not in records:
            first, last = job.bounds(index)
            tasks.append(Task(job, index, pictures.files[first:last], pictures.names[first:last]))
    done = sum(record.last - record.first for record in records.values())
    if progress is not None:
        progress(done, job.total)
    for record in spread(crew, explain_shard, tasks):
        records[record.index] = record
        done += record.last - record.first
        if progress is not None:
            progress(done, job.total)


def _report(job: Job, records: Mapping[int, Record], resumed: int) -> Report:
    bad = tuple(one for index in sorted(records) for one in records[index].bad)
    zero = tuple(i for index in sorted(records) for i in records[index].zero)
    return Report(Path(job.out), job.total, job.total - len(bad), bad, job.shards, resumed, zero)
