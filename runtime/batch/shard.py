"""The work on one shard, in whatever process it takes place."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...rewriter.compile import HEATMAP
from ...rewriter.errors import ImageError, ModelError, StaleError
from ...rewriter.load import load as load_source
from ..atomic import write_bytes
from ..explainer import Explainer, Result, load
from ..images import prepare, read_image
from .job import Job
from .pool import check_stop
from .rows import FORMATS, Files, Floats, Rows

RECORDS = ".shards"
"""Folder of the shards that are done, below the result; the manifest takes its place in the end."""


@dataclass(frozen=True)
class Bad:
    """A picture that has no row, and why."""

    id: int
    path: str
    reason: str


@dataclass(frozen=True)
class Record:
    """One shard that is done: pictures [first, last), rows of them explained, the others bad; files: with sha256."""

    index: int
    first: int
    last: int
    rows: int
    bad: tuple[Bad, ...]
    files: Files

    def to_record(self) -> dict[str, object]:
        return {**asdict(self), "bad": [asdict(one) for one in self.bad]}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Record:
        """Raises TypeError, KeyError for what is no record."""
        return cls(
            **{**record, "bad": tuple(Bad(**one) for one in record["bad"]), "files": dict(record["files"])}
        )


@dataclass(frozen=True)
class Task:
    """A shard with its pictures: all that a worker needs."""

    job: Job
    index: int
    files: tuple[str, ...]
    names: tuple[str, ...]


def explain_shard(task: Task) -> Record:
    """Explain the pictures of a shard one by one, write the rows, then the record that says that it is done.

    One picture a run: its map then does not depend on its neighbours, nor the number of rows of a run on the memory
    that happens to be free. Repeating it writes the same files. Raises ImageError for a bad picture where the job says
    stop; StaleError, ModelError, OptionError.
    """
    job = task.job
    explainer = _opened(job.file, job.sha256)
    first, last = job.bounds(task.index)
    rows, bad = Rows(first, last - first), []
    for i, (file, name) in enumerate(zip(task.files, task.names, strict=True), first):
        check_stop()
        try:
            top, score, heat = explain_one(job, explainer, file)
        except ImageError as error:
            if job.bad == "stop":
                raise ImageError(f"picture {i} is bad: {error}") from error
            bad.append(Bad(i, name, str(error).replace(file, name)))
        else:
            rows.add(i, name, top, score, heat)
    files = FORMATS[job.format](job, task.index, rows)
    record = Record(task.index, first, last, len(rows.ids), tuple(bad), files)
    text = json.dumps(record.to_record())
    write_bytes(Path(job.out) / RECORDS / f"{task.index}.json", text.encode())
    return record


def explain_one(
    job: Job, explainer: Explainer | Callable[..., Result], file: str
) -> tuple[int, float, Floats]:
    """Top class, its score, and the map. ImageError where the picture cannot be read or explained, or where its
    result is not finite."""
    x, _ = prepare(read_image(file), job.preprocessing)
    found = explainer(x) if job.target is None else explainer(x, target=job.target)
    values = np.asarray(found.outputs[job.output], np.float64).reshape(-1)
    heat = found.heatmap if job.map == HEATMAP else found.attribution
    assert heat is not None
    if heat.shape[0] != 1 or (job.shape is not None and heat.shape[1:] != job.shape):
        wanted = "of one row" if job.shape is None else f"of shape {[1, *job.shape]}"
        raise ModelError(
            f"the {job.map} has shape {list(heat.shape)}, not one {wanted}; compile the file again"
        )
    one = np.ascontiguousarray(heat[0], np.float32)
    top = int(values.argmax())
    if not np.isfinite(one).all() or not np.isfinite(values[top]):
        raise ImageError(f"{file!r}: its explanation holds NaN or infinity")
    return top, float(values[top]), one


@functools.lru_cache(maxsize=1)
def _opened(file: str, sha256: str) -> Explainer:
    """One session a process, of one thread: the processes are what fills the machine. Raises StaleError where the
    file is another one than the run was started with."""
    source = load_source(file)
    if source.sha256 != sha256:
        raise StaleError(
            f"{file!r} is not the file this run was started with; leave it alone until the run is done"
        )
    return load(file, threads=1)
