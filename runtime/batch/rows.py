"""Rows of one shard in a file: Parquet, zarr or npz, with the same bytes for the same rows.

A row is a picture: `id` (its number in the list), `path`, `top` (the class on top of the explained output; of an
output with several axes the index in row-major order), `score` (the value of the output there) and `map`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ...rewriter.errors import OptionError
from ..atomic import atomic, write_bytes

if TYPE_CHECKING:
    from .job import Job, Pictures

Floats: TypeAlias = npt.NDArray[np.float32]
Files: TypeAlias = dict[str, str]
"""Path below the result's folder -> sha256 of the file."""

STORE = "maps.zarr"
"""The zarr group of a result."""
PATHS = "paths.json"
"""What the rows of the zarr arrays are about: a JSON list of paths."""


@dataclass
class Rows:
    """The pictures of a shard that could be explained, in order. first, count: bounds of the shard."""

    first: int
    count: int
    ids: list[int] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    top: list[int] = field(default_factory=list)
    score: list[float] = field(default_factory=list)
    maps: list[Floats] = field(default_factory=list)

    def add(self, index: int, path: str, top: int, score: float, heat: Floats) -> None:
        self.ids.append(index)
        self.paths.append(path)
        self.top.append(top)
        self.score.append(score)
        self.maps.append(heat)


def need(module: str, extra: str) -> ModuleType:
    """Import what an extra brings. Raises OptionError naming it."""
    try:
        return import_module(module)
    except ImportError as error:
        raise OptionError(
            f"{module.partition('.')[0]} cannot be imported ({error}); pip install 'onnxplain[{extra}]'"
        ) from error


WRITING: Mapping[str, Any] = MappingProxyType(
    {
        "version": "2.6",
        "data_page_version": "1.0",
        "compression": "zstd",
        "compression_level": 3,
        "use_dictionary": False,
        "write_statistics": ["id", "top", "score"],
        "write_batch_size": 1024,
        "data_page_size": 1 << 20,
    }
)
"""Of Parquet: every option that the bytes depend on is said, not left to a default."""


def _parquet(job: Job, index: int, rows: Rows) -> Files:
    """One file with one row group. `map` is a FixedSizeList of float32, row-major, its shape in the field's metadata;
    where pictures keep their own size it is a List, with its shape in a column."""
    arrow, parquet = need("pyarrow", "batch"), need(*PACKAGES["parquet"])
    flat = np.concatenate([heat.ravel() for heat in rows.maps]) if rows.maps else np.zeros(0, np.float32)
    values = arrow.array(flat, arrow.float32())
    columns: list[tuple[object, object]] = [
        (arrow.field("id", arrow.int64(), False), arrow.array(rows.ids, arrow.int64())),
        (arrow.field("path", arrow.string(), False), arrow.array(rows.paths, arrow.string())),
        (arrow.field("top", arrow.int64(), False), arrow.array(rows.top, arrow.int64())),
        (arrow.field("score", arrow.float32(), False), arrow.array(rows.score, arrow.float32())),
    ]
    if job.shape is not None:
        size = int(np.prod(job.shape))
        maps = arrow.FixedSizeListArray.from_arrays(values, size)
        about = {"shape": json.dumps(list(job.shape)), "kind": job.map}
        columns.append((arrow.field("map", maps.type, False, about), maps))
    else:
        ends = np.cumsum([0, *(heat.size for heat in rows.maps)])
        maps = arrow.LargeListArray.from_arrays(arrow.array(ends, arrow.int64()), values)
        shapes = arrow.array([list(heat.shape) for heat in rows.maps], arrow.list_(arrow.int64()))
        columns.append((arrow.field("shape", shapes.type, False), shapes))
        columns.append((arrow.field("map", maps.type, False, {"kind": job.map}), maps))
    schema = arrow.schema([about for about, _ in columns])
    table = arrow.Table.from_arrays([array for _, array in columns], schema=schema)

    def write(path: Path) -> None:
        parquet.write_table(table, path, row_group_size=max(1, table.num_rows), **WRITING)

    return _written(job, part_name(job, index), write)


def _npz(job: Job, index: int, rows: Rows) -> Files:
    """Arrays id, path, top, score, and map (n, ...); where pictures keep their size, map/0, map/1, ... instead."""
    arrays: dict[str, npt.NDArray[np.generic]] = {
        "id": np.asarray(rows.ids, np.int64),
        "path": np.asarray(rows.paths, np.str_),
        "top": np.asarray(rows.top, np.int64),
        "score": np.asarray(rows.score, np.float32),
    }
    if job.shape is not None:
        arrays["map"] = np.reshape(np.asarray(rows.maps, np.float32), (len(rows.maps), *job.shape))
    else:
        arrays |= {f"map/{i}": heat for i, heat in enumerate(rows.maps)}

    def write(path: Path) -> None:
        with open(path, "wb") as file:  # an open file: savez would add .npz to a name
            np.savez_compressed(file, allow_pickle=False, **arrays)

    return _written(job, part_name(job, index), write)


def _zarr(job: Job, index: int, rows: Rows) -> Files:
    """Row i of the arrays map, top and score is picture i; a bad one is NaN, -1 and NaN. A shard is one chunk of each
    array, so that no two processes write one file."""
    zarr = need(*PACKAGES["zarr"])
    assert job.shape is not None
    maps = np.full((rows.count, *job.shape), np.nan, np.float32)
    top, score = np.full(rows.count, -1, np.int64), np.full(rows.count, np.nan, np.float32)
    for i, at in enumerate(np.asarray(rows.ids, np.int64) - rows.first):
        maps[at], top[at], score[at] = rows.maps[i], rows.top[i], rows.score[i]
    group = zarr.open_group(Path(job.out) / STORE, mode="r+")
    for name, values in (("map", maps), ("top", top), ("score", score)):
        with zarr.config.set({"array.write_empty_chunks": True}):  # a chunk of bad pictures is a file as well
            array = group[name]
        array[rows.first : rows.first + rows.count] = values
    return {name: digest(Path(job.out) / name) for name in names_of(job, index)}


FORMATS: Mapping[str, Callable[[Job, int, Rows], Files]] = MappingProxyType(
    {"parquet": _parquet, "zarr": _zarr, "npz": _npz}
)
"""How the rows of one shard are written; each gives the files it wrote. Writing a shard again gives the same."""


PACKAGES = MappingProxyType({"parquet": ("pyarrow.parquet", "batch"), "zarr": ("zarr", "zarr")})
"""Format -> the module that writes it, and the extra that brings it."""


def begin(job: Job, pictures: Pictures) -> None:
    """What must be there before the first shard is written."""
    if job.format != "zarr":
        return
    zarr, folder = need(*PACKAGES["zarr"]), Path(job.out)
    assert job.shape is not None
    write_bytes(folder / PATHS, json.dumps(list(pictures.names), indent=0).encode())
    kinds: dict[str, tuple[tuple[int, ...], Any, float]] = {
        "map": (job.shape, np.float32, np.nan),
        "top": ((), np.int64, -1),
        "score": ((), np.float32, np.nan),
    }
    try:
        group = zarr.open_group(folder / STORE, mode="a", zarr_format=3)
        for name, (shape, dtype, fill) in kinds.items():
            wanted = ((job.total, *shape), (job.shard, *shape), np.dtype(dtype))
            if name not in group:
                group.create_array(name, shape=wanted[0], chunks=wanted[1], dtype=dtype, fill_value=fill)
            array = group[name]
            found = (tuple(array.shape), tuple(array.chunks), np.dtype(array.dtype))
            if found != wanted or not np.array_equal(array.fill_value, fill, equal_nan=True):
                raise ValueError(f"the array {name!r} is another one")
    except Exception as error:  # zarr and its stores raise their own
        raise OptionError(
            f"the arrays in {str(folder / STORE)!r} are damaged: {error}; give another folder"
        ) from error


def names_of(job: Job, index: int) -> list[str]:
    """The files of one shard, as they lie below the result's folder."""
    if job.format != "zarr":
        return [part_name(job, index)]
    assert job.shape is not None
    axes = {"map": len(job.shape), "top": 0, "score": 0}
    return [f"{STORE}/{name}/" + "/".join(["c", str(index), *["0"] * more]) for name, more in axes.items()]


def part_name(job: Job, index: int) -> str:
    """ "part-00003.parquet": the names sort in the order of the shards."""
    return f"part-{index:0{max(5, len(str(job.shards - 1)))}}.{job.format}"


def digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _written(job: Job, name: str, write: Callable[[Path], None]) -> Files:
    path = Path(job.out) / name
    place: AbstractContextManager[Path] = atomic(path)
    with place as temporary:
        try:
            write(temporary)
        except OSError as error:
            raise OptionError(f"cannot write {os.fspath(path)!r}: {error.strerror or error}") from error
    return {name: digest(path)}
