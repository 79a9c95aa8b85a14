"""The work on one shard, in whatever process it takes place."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ...rewriter.compile import HEATMAP
from ...rewriter.errors import ImageError, ModelError, StaleError
from ...rewriter.load import load as load_source
from ..atomic import write_bytes
from ..explainer import Explainer, Result, load
from ..images import prepare, read_image
from ..providers import short_name
from .engine import AUTO, Engine, engine_of, providers_of
from .job import Job
from .pool import check_stop
from .rows import FORMATS, Files, Floats, Rows, names_of

Doubles: TypeAlias = npt.NDArray[np.float64]
Row: TypeAlias = tuple[int, float, Floats]
"""Top class, its score, and the map."""

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
    """One shard that is done: pictures [first, last), rows of them explained, the others bad; files: with sha256. zero:
    the explained ones whose map is zero everywhere, by their numbers."""

    index: int
    first: int
    last: int
    rows: int
    bad: tuple[Bad, ...]
    files: Files
    zero: tuple[int, ...] = ()

    def to_record(self) -> dict[str, object]:
        return {**asdict(self), "bad": [asdict(one) for one in self.bad], "zero": list(self.zero)}

    def save(self, folder: Path) -> None:
        """In the folder of a result, until its manifest is written."""
        write_bytes(folder / RECORDS / f"{self.index}.json", json.dumps(self.to_record()).encode())

    @classmethod
    def from_record(cls, record: object) -> Record:
        """Raises ValueError for what is no record: a key too few or too many, a value of another type."""
        found = _object(record, Record)
        bad = [Bad(**_object(one, Bad)) for one in found["bad"]]
        lists = {"bad": tuple(bad), "zero": tuple(found["zero"])}
        return cls(**{**found, **lists, "files": dict(found["files"])})

    def vet(self, job: Job, names: Sequence[str]) -> None:
        """Raises ValueError for a record that cannot be one of this job; names: of its pictures, all of them."""
        if not 0 <= self.index < job.shards:
            raise ValueError(f"there is no shard {self.index}")
        if (self.first, self.last) != job.bounds(self.index):
            raise ValueError(f"shard {self.index} has pictures [{self.first}, {self.last})")
        ids = [one.id for one in self.bad]
        if ids != sorted(set(ids)) or not all(self.first <= one < self.last for one in ids):
            raise ValueError(f"shard {self.index} has the bad pictures {ids}")
        if self.rows + len(ids) != self.last - self.first:
            raise ValueError(f"shard {self.index} has {self.rows} rows and {len(ids)} bad pictures")
        if not set(self.zero) <= set(range(self.first, self.last)) - set(ids):
            raise ValueError(f"shard {self.index} has the empty maps {list(self.zero)}")
        if any(one.path != names[one.id] for one in self.bad):
            raise ValueError(f"shard {self.index} has bad pictures of other names")
        if set(self.files) != set(names_of(job, self.index)):
            raise ValueError(f"shard {self.index} has the files {sorted(self.files)}")


_KINDS: Mapping[str, type] = MappingProxyType(
    {
        "id": int,
        "path": str,
        "reason": str,
        "index": int,
        "first": int,
        "last": int,
        "rows": int,
        "bad": list,
        "zero": list,
        "files": dict,
    }
)


def _object(value: object, of: type) -> dict[str, Any]:
    """A JSON object with the fields of a class. Raises ValueError."""
    wanted = {field.name for field in fields(of)}
    if not isinstance(value, dict) or set(value) != wanted:
        raise ValueError(f"an object with {', '.join(sorted(wanted))} is needed")
    for name, one in value.items():
        if type(one) is not _KINDS[name]:
            raise ValueError(f"{name} is {one!r}")
    if not all(type(one) is int for one in value.get("zero", [])):
        raise ValueError("an empty map has no number")
    if not all(isinstance(one, str) for one in value.get("files", {}).values()):
        raise ValueError("a file has no sha256")
    return value


@dataclass(frozen=True)
class Task:
    """A shard with its pictures: all that a worker needs."""

    job: Job
    index: int
    files: tuple[str, ...]
    names: tuple[str, ...]


def explain_shard(task: Task) -> Record:
    """Explain the pictures of a shard in order, write the rows, then the record that says that it is done.

    The bounds of a run come from the job alone: a map depends neither on who works on it nor on the memory that happens
    to be free. Repeating it writes the same files. Raises ImageError for a bad picture where the job says stop;
    StaleError, ModelError, ProviderError, OptionError.
    """
    job = task.job
    explained = explain_files(job, _opened(job.file, job.sha256, job.engine), task.files)
    first, last = job.bounds(task.index)
    rows, bad = Rows(first, last - first), []
    for i, (file, name, found) in enumerate(zip(task.files, task.names, explained, strict=True), first):
        if not isinstance(found, ImageError):
            rows.add(i, name, *found)
        elif job.bad == "stop":
            raise ImageError(f"picture {i} is bad: {found}") from found
        else:
            bad.append(Bad(i, name, str(found).replace(file, name)))
    files = FORMATS[job.format](job, task.index, rows)
    zero = tuple(i for i, heat in zip(rows.ids, rows.maps, strict=True) if not heat.any())
    record = Record(task.index, first, last, len(rows.ids), tuple(bad), files, zero)
    record.save(Path(job.out))
    return record


def take_engine(job: Job) -> Engine:
    """Open the session in this worker: what it runs on, with the provider that "auto" came to. Raises ProviderError,
    OptionError, ModelError, StaleError."""
    session = _opened(job.file, job.sha256, job.engine).session
    return engine_of(short_name(session.get_providers()[0])) if job.engine == AUTO else job.engine


def explain_files(
    job: Job, explainer: Explainer | Callable[..., Result], files: Sequence[str]
) -> Iterator[Row | ImageError]:
    """For every file in order its row, or why it has none: it cannot be read or explained, or its result is not finite.

    Each run takes the next `job.rows` files, less those that cannot be read. Raises ModelError, Stopped.
    """
    for start in range(0, len(files), job.rows):
        pictures = [(file, _read(job, file)) for file in files[start : start + job.rows]]
        good = [(file, x) for file, x in pictures if not isinstance(x, ImageError)]
        found = iter(_explained(job, explainer, good) if good else ())
        for _, x in pictures:
            yield x if isinstance(x, ImageError) else next(found)


def _read(job: Job, file: str) -> Floats | ImageError:
    check_stop()
    try:
        return prepare(read_image(file), job.preprocessing)[0]
    except ImageError as error:
        return error


def _explained(
    job: Job, explainer: Explainer | Callable[..., Result], good: Sequence[tuple[str, Floats]]
) -> list[Row | ImageError]:
    """One run; where it does not take its pictures, a run for each, so that only the culprit is bad."""
    try:
        return _run(job, explainer, good)
    except (ImageError, ModelError, MemoryError) as error:
        why = _culprit(job, error, good[0][0])
        if why is None:
            raise
    if len(good) == 1:
        return [why]
    return [found for one in good for found in _explained(job, explainer, [one])]


def _culprit(job: Job, error: Exception, file: str) -> ImageError | None:
    """The error as one of the picture, or None where it is the model's. A run that needs more memory than there is
    needs it for its picture; and where pictures keep their own size, so does onnxruntime's refusal of a size."""
    if isinstance(error, ImageError):
        return error
    memory = isinstance(error, MemoryError) or "allocate" in str(error) or "bad_alloc" in str(error)
    if memory:
        return ImageError(f"{file!r}: its explanation takes more memory than there is; scale it down first")
    if job.shape is None and error.__cause__ is not None:
        return ImageError(f"{file!r}: the model does not take its size: {error}")
    return None


def _run(
    job: Job, explainer: Explainer | Callable[..., Result], good: Sequence[tuple[str, Floats]]
) -> list[Row | ImageError]:
    count, x = len(good), np.concatenate([one for _, one in good])
    found = explainer(x) if job.target is None else explainer(x, target=job.target)
    values = np.asarray(found.outputs[job.output], np.float64)
    heat = found.heatmap if job.map == HEATMAP else found.attribution
    assert heat is not None
    if heat.shape[0] != count or (job.shape is not None and heat.shape[1:] != job.shape):
        wanted = "one row" if job.shape is None else str([count, *job.shape])
        raise ModelError(
            f"the {job.map} of {count} picture{'s' * (count != 1)} has shape {list(heat.shape)}, not {wanted}; "
            "compile the file again"
        )
    located = explainer.card.target.get("rows") if isinstance(explainer, Explainer) else None
    if count > 1 and (located or values.shape[:1] != (count,)):
        raise ModelError(
            f"output {job.output!r} has shape {list(values.shape)}, and not a row for each of {count} pictures; "
            "take rows=1"
        )
    scores = values.reshape(count, -1)
    return [_row(file, score, one) for (file, _), score, one in zip(good, scores, heat, strict=True)]


def _row(file: str, scores: Doubles, heat: Floats) -> Row | ImageError:
    one, top = np.ascontiguousarray(heat, np.float32), int(scores.argmax())
    if not np.isfinite(one).all() or not np.isfinite(scores[top]):
        return ImageError(f"{file!r}: its explanation holds NaN or infinity")
    return top, float(scores[top]), one


@functools.lru_cache(maxsize=1)
def _opened(file: str, sha256: str, engine: Engine) -> Explainer:
    """One session a process, of one thread: the processes are what fills the machine. Raises StaleError where the
    file is another one than the run was started with."""
    source = load_source(file)
    if source.sha256 != sha256:
        raise StaleError(
            f"{file!r} is not the file this run was started with; leave it alone until the run is done"
        )
    explainer = load(source, providers=providers_of(engine), threads=1)
    explainer.tells = False  # of a row that says nothing the record tells
    explainer.whole = True  # rows that were cut by free memory would not have the same bytes everywhere
    return explainer
