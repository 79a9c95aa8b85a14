"""What lies in the folder of a result: the manifest, the records of shards that are done, the list of bad pictures."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ...rewriter.errors import OptionError, StaleError
from ..atomic import write_bytes
from .job import Job
from .rows import digest
from .shard import RECORDS, Record

MANIFEST, BAD = "manifest.json", "bad.csv"
KIND = "onnxplain batch 1"


def begin(job: Job, resume: bool) -> dict[int, Record]:
    """Make the folder, or look at what is in it: the shards that are done, whole and unchanged.

    Raises OptionError for a folder with something else in it, or one that is not to be resumed; StaleError where it
    was begun with another file, other pictures or other options.
    """
    folder = Path(job.out)
    if folder.is_dir() and any(folder.iterdir()):
        if not (folder / MANIFEST).is_file():
            raise OptionError(f"{str(folder)!r} holds something else; give an empty or a new folder")
        if not resume:
            raise OptionError(
                f"{str(folder)!r} holds a run; go on with resume (--resume), or give another folder"
            )
        known = _read(folder / MANIFEST)
        _must_match(known["job"], job.to_record(), folder)
        done = _whole(job, folder, known)
    else:
        done = {}
    try:
        (folder / RECORDS).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OptionError(f"cannot make the folder {str(folder)!r}: {error.strerror or error}") from error
    for left in (*folder.glob(".part-*"), *(folder / RECORDS).glob(".*")):
        left.unlink(missing_ok=True)  # of workers that were killed while they wrote
    for record in done.values():
        record.save(folder)  # until there is a manifest again
    _write(folder, {"kind": KIND, "complete": False, "job": job.to_record()})
    return done


def finish(job: Job, records: Mapping[int, Record]) -> None:
    """Write what the run has come to. The same job gives the same bytes. Raises OptionError where a shard is not
    there: then something is lost, and nothing says that it is complete."""
    folder = Path(job.out)
    ordered = [records[i] for i in sorted(records)]
    pictures = [record.rows + len(record.bad) for record in ordered]
    if len(ordered) != job.shards or sum(pictures) != job.total:
        raise OptionError(f"{sum(pictures)} of {job.total} pictures are there; go on with resume")
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["id", "path", "reason"])
    writer.writerows([one.id, one.path, one.reason] for record in ordered for one in record.bad)
    write_bytes(folder / BAD, table.getvalue().encode())
    counts = {
        "pictures": job.total,
        "explained": sum(record.rows for record in ordered),
        "bad": sum(len(record.bad) for record in ordered),
        "zero": sum(len(record.zero) for record in ordered),
        "shards": job.shards,
    }
    shards = [record.to_record() for record in ordered]
    _write(
        folder, {"kind": KIND, "complete": True, "job": job.to_record(), "counts": counts, "shards": shards}
    )
    shutil.rmtree(folder / RECORDS)


def _whole(job: Job, folder: Path, known: Mapping[str, Any]) -> dict[int, Record]:
    """Shards whose every file has the bytes it was written with; the others are done again."""
    found: dict[int, Record] = {}
    for record in _records(folder, known):
        bounds = (record.first, record.last)
        if (
            0 <= record.index < job.shards
            and bounds == job.bounds(record.index)
            and _unchanged(folder, record)
        ):
            found[record.index] = record
    return found


def _unchanged(folder: Path, record: Record) -> bool:
    return all(
        (folder / name).is_file() and digest(folder / name) == sha for name, sha in record.files.items()
    )


def _records(folder: Path, known: Mapping[str, Any]) -> Iterable[Record]:
    texts: list[Any] = list(known.get("shards", ()))
    for path in sorted((folder / RECORDS).glob("[0-9]*.json")):
        texts.append(json.loads(path.read_text(encoding="utf-8")))
    try:
        return [Record.from_record(text) for text in texts]
    except (TypeError, KeyError, ValueError) as error:
        raise OptionError(f"{str(folder)!r} is damaged: {error}; give another folder") from error


def _read(path: Path) -> dict[str, Any]:
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        if known["kind"] != KIND or not isinstance(known["job"], dict):
            raise ValueError(f"it is of kind {known['kind']!r}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OptionError(f"{str(path)!r} cannot be read: {error}; give another folder") from error
    return dict(known)


def _must_match(theirs: Mapping[str, Any], mine: Mapping[str, Any], folder: Path) -> None:
    mine = json.loads(json.dumps(mine))
    other = [key for key in mine if theirs.get(key) != mine[key]]
    if other:
        raise StaleError(
            f"{str(folder)!r} was begun with another {', '.join(other)}; resume it as it was, or give another folder"
        )


def _write(folder: Path, manifest: Mapping[str, Any]) -> None:
    text = json.dumps(manifest, indent=1)
    write_bytes(folder / MANIFEST, text.encode())
