"""What lies in the folder of a result: the manifest, the records of shards that are done, the list of bad pictures."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...rewriter.errors import OptionError, StaleError
from ..atomic import write_bytes
from .job import Job
from .rows import digest, names_of
from .shard import RECORDS, Record

MANIFEST, BAD = "manifest.json", "bad.csv"
KIND = "onnxplain batch 1"


def begin(job: Job, resume: bool, names: Sequence[str]) -> dict[int, Record]:
    """Make the folder, or look at what is in it: the shards that are done, whole and unchanged. names: of all pictures.

    Raises OptionError for a folder with something else in it, one that is not to be resumed, and one whose manifest or
    records are damaged; StaleError where it was begun with another file, other pictures or other options.
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
        done = _whole(job, folder, known, names)
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


def _whole(job: Job, folder: Path, known: Mapping[str, Any], names: Sequence[str]) -> dict[int, Record]:
    """Shards whose every file has the bytes it was written with; the others are done again. Raises OptionError for a
    record that cannot be one of this job, and for two of one shard that differ."""
    for name in (name for index in range(job.shards) for name in names_of(job, index)):
        if (folder / name).exists() and not (folder / name).is_file():
            raise OptionError(f"{str(folder / name)!r} is no regular file; delete it, or give another folder")
    found: dict[int, Record] = {}
    for place, text in _records(folder, known):
        try:
            record = Record.from_record(text)
            record.vet(job, names)
            if found.setdefault(record.index, record) != record:
                raise ValueError(f"shard {record.index} has two records that differ")
        except ValueError as error:
            raise OptionError(
                f"{str(place)!r} is damaged: {error}; delete it to have its shards done again, or give another folder"
            ) from error
    return {index: record for index, record in found.items() if _unchanged(folder, record)}


def _unchanged(folder: Path, record: Record) -> bool:
    return all(
        (folder / name).is_file() and digest(folder / name) == sha for name, sha in record.files.items()
    )


def _records(folder: Path, known: Mapping[str, Any]) -> Iterator[tuple[Path, object]]:
    """Every record, and the file it stands in."""
    shards = known.get("shards", [])
    if not isinstance(shards, list):
        raise OptionError(f"{str(folder / MANIFEST)!r} is damaged: shards is no list; give another folder")
    for one in shards:
        yield folder / MANIFEST, one
    for path in sorted((folder / RECORDS).glob("[0-9]*.json")):
        yield path, _json(path, "delete it to have its shard done again, or give another folder")


def _json(path: Path, advice: str) -> object:
    """Raises OptionError for what is no file, no JSON, or nested without end."""
    try:
        if not path.is_file():
            raise ValueError("it is no file")
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise OptionError(f"{str(path)!r} cannot be read: {error}; {advice}") from error


def _read(path: Path) -> dict[str, Any]:
    known, advice = _json(path, "give another folder"), "; give another folder"
    if not isinstance(known, dict) or known.get("kind") != KIND:
        kind = known.get("kind") if isinstance(known, dict) else type(known).__name__
        raise OptionError(f"{str(path)!r} cannot be read: it is of kind {kind!r}{advice}")
    if not isinstance(known.get("job"), dict):
        raise OptionError(f"{str(path)!r} cannot be read: it does not say of which job it is{advice}")
    return known


def _must_match(theirs: Mapping[str, Any], mine: Mapping[str, Any], folder: Path) -> None:
    mine = json.loads(json.dumps(mine))
    other = [key for key in mine if key not in theirs or theirs[key] != mine[key]]
    other += [key for key in theirs if key not in mine]
    if other:
        raise StaleError(
            f"{str(folder)!r} was begun with another {', '.join(other)}; resume it as it was, or give another folder"
        )


def _write(folder: Path, manifest: Mapping[str, Any]) -> None:
    text = json.dumps(manifest, indent=1)
    write_bytes(folder / MANIFEST, text.encode())
