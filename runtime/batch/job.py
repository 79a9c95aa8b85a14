"""What a run over many pictures is: everything that its bytes depend on, and nothing else."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from ...rewriter.card import Card, read_card
from ...rewriter.compile import ATTRIBUTION, HEATMAP
from ...rewriter.errors import ModelError, OptionError, TargetError, nearest
from ...rewriter.load import Source, load
from ...rewriter.memory import dimensions
from ..compiling import description, package_version
from ..estimate.samples import samples
from ..explainer import vet_classes
from ..preprocess import Preprocessing
from .engine import Engine, engine_of, record_of
from .rows import FORMATS, PACKAGES, need

if TYPE_CHECKING:
    from ..providers import Provider

Images: TypeAlias = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
MAPS = (HEATMAP, ATTRIBUTION)
RULES = ("skip", "stop")


@dataclass(frozen=True)
class Pictures:
    """files: where each picture lies. names: what it is called in the result, its path from the folder, or from the
    list's folder, so that the same pictures elsewhere give the same bytes. digest: of names and sizes."""

    files: tuple[str, ...]
    names: tuple[str, ...]
    digest: str


@dataclass(frozen=True)
class Job:
    """One explanation file (`file`, checked by its sha256) over `total` pictures in shards of `shard`, written to the
    folder `out`. map: HEATMAP or ATTRIBUTION. shape: of one map, or None where pictures keep their own size. target:
    class for files that take one, else None. output: the explained output of the model, which top class and score are
    read from. engine: the execution providers of every session. rows: pictures in one run."""

    file: str
    sha256: str
    out: str
    total: int
    pictures: str
    shard: int
    format: str
    map: str
    bad: str
    target: int | None
    output: str
    shape: tuple[int, ...] | None
    preprocessing: Preprocessing
    method: str
    engine: Engine
    rows: int

    @property
    def shards(self) -> int:
        return -(-self.total // self.shard)

    def bounds(self, index: int) -> tuple[int, int]:
        """First picture of a shard, and the one after its last."""
        return index * self.shard, min((index + 1) * self.shard, self.total)

    def to_record(self) -> dict[str, object]:
        """The JSON object of the manifest: without folders, so that it is the same wherever the run takes place."""
        return {
            "version": package_version(),
            "explanation": {"sha256": self.sha256, "method": self.method, "output": self.output},
            "pictures": {"total": self.total, "digest": self.pictures},
            "preprocessing": self.preprocessing.to_record(),
            "shard": self.shard,
            "format": self.format,
            "map": {"kind": self.map, "shape": None if self.shape is None else list(self.shape)},
            "bad": self.bad,
            "target": self.target,
            "provider": record_of(self.engine),
            "rows": self.rows,
        }


@dataclass(frozen=True)
class Asked:
    """What a run is asked for: the arguments of `batch.run`. Raises OptionError for a word that is unknown."""

    file: str | os.PathLike[str]
    images: Images
    out: str | os.PathLike[str]
    shard: int = 250
    format: str = "parquet"
    map: str | None = None
    bad: str = "skip"
    target: int | None = None
    preprocessing: str | os.PathLike[str] | Mapping[str, object] | None = None
    providers: str | Sequence[Provider] | None = None
    rows: int = 1

    def __post_init__(self) -> None:
        words = (
            ("format", self.format, FORMATS),
            ("bad", self.bad, RULES),
            ("map", self.map or HEATMAP, MAPS),
        )
        for name, value, known in words:
            if value not in known:
                raise OptionError(f"{name}={value!r}{nearest(value, known)}: choose from {', '.join(known)}")
        if self.shard < 1:
            raise OptionError(f"shard is {self.shard}; a shard holds at least 1 picture")
        if self.rows < 1:
            raise OptionError(f"rows is {self.rows}; a run takes at least 1 picture")


def plan(asked: Asked) -> tuple[Job, Pictures]:
    """Look at everything before any work is done. Raises OptionError, ModelError, TargetError, ImageError."""
    if asked.format in PACKAGES:
        need(*PACKAGES[asked.format])
    file, source = os.fspath(asked.file), load(asked.file)
    card = read_card(source.model)
    _refuse(card, [node.name for node in source.model.graph.input if node.name not in card.inputs])
    about = description(asked.file, source.model, asked.preprocessing)
    if about is None:
        raise ModelError(f"the input of {file!r} is no picture; call the explainer with arrays")
    kind = _kind(asked.map, card, file)
    pictures = list_pictures(asked.images, about.preprocessing)
    shape = _shape(about.preprocessing, kind)
    _vet_sizes(asked, shape, card, source)
    job = Job(
        file=str(Path(file).absolute()),
        sha256=source.sha256,
        out=str(Path(asked.out).absolute()),
        total=len(pictures.files),
        pictures=pictures.digest,
        shard=asked.shard,
        format=asked.format,
        map=kind,
        bad=asked.bad,
        target=_aim(card, asked.target),
        output=_explained(card, source),
        shape=shape,
        preprocessing=about.preprocessing,
        method=card.method,
        engine=engine_of(asked.providers),
        rows=asked.rows,
    )
    return job, pictures


def list_pictures(images: Images, preprocessing: Preprocessing) -> Pictures:
    """The files of a folder, of a text list, or of a sequence of paths. OptionError for arrays, or for none."""
    found = samples(images, preprocessing, False, np.dtype(np.float32))
    items = list(found.items)
    if not all(isinstance(item, (str, os.PathLike)) for item in items):
        raise OptionError(
            "give files of pictures, as a folder or a list: arrays are what the explainer takes"
        )
    files = [Path(item).absolute() for item in items]
    if isinstance(images, (str, os.PathLike)):
        path = Path(images).absolute()
        root = path if path.is_dir() else path.parent
    else:
        root = Path(os.path.commonpath([str(file.parent) for file in files]))
    names = tuple(_text(Path(os.path.relpath(file, root)).as_posix()) for file in files)
    return Pictures(tuple(map(str, files)), names, found.digest)


def _text(name: str) -> str:
    """Bytes of a file name that are no UTF-8 are spelt out: \\xff."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _refuse(card: Card, own: Sequence[str]) -> None:
    """What this command cannot feed, or cannot lay out in a row a picture."""
    if len(own) != 1:
        raise ModelError(f"the model has {len(own)} inputs ({', '.join(own)}); a run over pictures feeds one")
    aim = card.target.get("target")
    if aim == "cotangent" or (isinstance(aim, list) and len(aim) > 1):
        raise TargetError(
            f"this file was compiled with target={aim!r} and has not one map a picture; compile it with "
            "target='input', 'top' or one class"
        )
    more = [name for name in card.inputs if name != "target" and name.split("/")[0] != "noise"]
    if more:
        raise OptionError(f"this file also takes {', '.join(more)}, which a run over pictures cannot give")


def _vet_sizes(asked: Asked, shape: tuple[int, ...] | None, card: Card, source: Source) -> None:
    """What needs maps, or pictures, of one size."""
    if shape is None and asked.format == "zarr":
        raise OptionError(
            "zarr takes maps of one size, and here pictures keep theirs; take parquet or npz, or a preprocessing "
            "with a size"
        )
    if asked.rows == 1:
        return
    if shape is None:
        raise OptionError(
            f"rows={asked.rows} takes pictures of one size, and here they keep theirs; take rows=1, or a "
            "preprocessing with a size"
        )
    for name, (lead, *_) in dimensions(source.model).items():
        if name not in card.inputs and isinstance(lead, int):
            raise OptionError(
                f"rows={asked.rows}: the first axis of the input {name!r} is fixed at {lead}, so pictures cannot "
                "share a run; take rows=1, or export the model with a free batch"
            )


def _kind(asked: str | None, card: Card, file: str) -> str:
    kind = asked or (HEATMAP if HEATMAP in card.outputs else ATTRIBUTION)
    if kind not in card.outputs:
        remedy = "; compile it with --reduce, or take the attribution" if kind == HEATMAP else ""
        raise OptionError(f"{file!r} has no {kind}; its method gives {', '.join(card.outputs)}{remedy}")
    return kind


def _aim(card: Card, target: int | None) -> int | None:
    """The class that is fed, -1 for the top one; None where the file takes no class."""
    if card.target.get("target") != "input":
        if target is not None:
            raise TargetError(
                f"this file explains a fixed target ({card.target.get('target')!r}); compile it with target='input'"
            )
        return None
    chosen = -1 if target is None else target
    vet_classes([chosen], card.target.get("size"))
    return chosen


def _explained(card: Card, source: Source) -> str:
    names: list[str] = [node.name for node in source.model.graph.output if node.name not in card.outputs]
    name = card.target.get("output")
    if name in names:
        return str(name)
    if not names:
        raise ModelError("the file has no output of the model besides the explanation; compile it again")
    return names[0]


def _shape(preprocessing: Preprocessing, kind: str) -> tuple[int, ...] | None:
    if preprocessing.size is None:
        return None
    if kind == HEATMAP:
        return preprocessing.size
    if preprocessing.layout == "NCHW":
        return (preprocessing.channels, *preprocessing.size)
    return (*preprocessing.size, preprocessing.channels)


__all__ = ["MAPS", "RULES", "Asked", "Images", "Job", "Pictures", "list_pictures", "plan"]
