"""What a model is fed while it is timed: photos, or numbers drawn from a seed."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from ...rewriter.draft import Dim
from ...rewriter.errors import OptionError, TargetError, nearest
from ...rewriter.passes.shapes import tensor_type
from ..describe import Description
from ..images import prepare, read_image
from ..verify.cases import Maker, Slot

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Inputs:
    """feeds: by input name, `batch` samples each. explained: the input that is. source: where they are from."""

    feeds: Mapping[str, Array]
    explained: str
    batch: int
    source: str


def inputs_of(
    model: onnx.ModelProto,
    about: Description | None,
    images: Sequence[str | os.PathLike[str]] = (),
    batch: int | None = None,
    seed: int = 0,
    shapes: Mapping[str, Sequence[Dim]] | None = None,
) -> Inputs:
    """Inputs for a model. Sizes come from `shapes`, the file, the size that photos are brought to; else a first axis
    is the batch (by default as many as there are photos, or 1) and any other axis 32 long. Photos are repeated until
    they fill the batch.

    Raises OptionError (no such input; a batch that the file does not take; photos for a model of something else),
    TargetError (no floating-point input), ImageError (a photo that cannot be read).
    """
    slots, chosen = _slots(model, shapes or {})
    rows = _batch(chosen, batch, len(images))
    symbol = chosen.shape[0] if chosen.shape else None
    sizes = {slot.name: [_fixed(dim, i, symbol, rows) for i, dim in enumerate(slot.shape)] for slot in slots}
    preprocessing = None if about is None else about.preprocessing
    case = Maker(slots, seed, preprocessing, sizes=sizes).random(1)[0]
    feeds = {name: np.ascontiguousarray(array) for name, array in case.feeds.items()}
    if not images:
        return Inputs(feeds, chosen.name, rows, f"random numbers, seed {seed}")
    photos = _photos(images, about, rows).astype(chosen.dtype)
    if photos.shape != feeds[chosen.name].shape:
        raise OptionError(
            f"a prepared photo is {list(photos.shape[1:])}, the input {chosen.name!r} takes "
            f"{list(feeds[chosen.name].shape[1:])}; say how photos are prepared with --preprocess"
        )
    names = ", ".join(Path(image).name for image in images)
    return Inputs(feeds | {chosen.name: np.ascontiguousarray(photos)}, chosen.name, rows, names)


def _slots(model: onnx.ModelProto, shapes: Mapping[str, Sequence[Dim]]) -> tuple[list[Slot], Slot]:
    """All inputs, and the one that is explained: the first floating-point one of the highest rank, up to 4."""
    parameters = {tensor.name for tensor in model.graph.initializer}
    found = {x.name: tensor_type(x) for x in model.graph.input if x.name not in parameters}
    for name in shapes:
        if name not in found:
            raise OptionError(
                f"the model has no input {name!r}{nearest(name, found)}; it has {', '.join(found)}"
            )
    for name, known in found.items():
        if known.dtype is None or known.shape is None or known.dtype.kind not in "fiub":
            raise OptionError(
                f"input {name!r} is no array of numbers with a known number of axes; it cannot be made up"
            )
    floats = [name for name, known in found.items() if known.dtype is not None and known.dtype.kind == "f"]
    if not floats:
        raise TargetError("the model has no floating-point input; there is nothing to explain")
    chosen = max(floats, key=lambda name: min(len(found[name].shape or ()), 4))
    slots = []
    for name, known in found.items():
        declared = known.shape or ()
        shape = tuple(shapes.get(name, declared))
        if len(shape) != len(declared):
            raise OptionError(f"--shape {name}: {len(shape)} sizes for {len(declared)} axes")
        slots.append(Slot(name, np.dtype(known.dtype), shape, name == chosen))
    return slots, next(slot for slot in slots if slot.explained)


def _batch(chosen: Slot, asked: int | None, photos: int) -> int:
    if asked is not None and asked < 1:
        raise OptionError(f"batch is {asked}; it must be at least 1")
    lead = chosen.shape[0] if chosen.shape else 1
    if isinstance(lead, int):
        if asked not in (None, lead):
            raise OptionError(
                f"a batch of {asked}: the input {chosen.name!r} of the model takes {lead} at a time; leave --batch out"
            )
        asked = lead
    if photos > (asked or photos):
        raise OptionError(
            f"{photos} photos are more than a batch of {asked}; leave --batch out, or give fewer"
        )
    return asked or photos or 1


def _fixed(dim: Dim, axis: int, symbol: Dim, rows: int) -> Dim:
    if isinstance(dim, int):
        return dim
    return rows if axis == 0 or (dim is not None and dim == symbol) else None


def _photos(images: Sequence[str | os.PathLike[str]], about: Description | None, rows: int) -> Array:
    if about is None:
        raise OptionError("photos were given, but the model's input is not a picture; leave --image out")
    prepared = [prepare(read_image(image), about.preprocessing)[0] for image in images]
    sizes = {array.shape for array in prepared}
    if len(sizes) > 1:
        raise OptionError("the photos have several sizes, and the model takes any; give photos of one size")
    return np.concatenate(list(islice(cycle(prepared), rows)))


def completed(
    model: onnx.ModelProto, own: Mapping[str, Array], options: Mapping[str, Any], seed: int
) -> dict[str, Array]:
    """Feeds of an emitted file: the model's, and unit normal numbers for what its method takes besides (noise, a
    baseline), in the sizes of the model's inputs and of the options of those names."""
    parameters = {tensor.name for tensor in model.graph.initializer}
    declared = {x.name: tensor_type(x) for x in model.graph.input if x.name not in parameters}
    sizes = {name: value for name, value in options.items() if isinstance(value, int)}
    for name, known in declared.items():
        dims = zip(known.shape or (), own[name].shape, strict=True) if name in own else ()
        sizes |= {dim: size for dim, size in dims if isinstance(dim, str)}
    rng = np.random.default_rng(seed)
    feeds = {}
    for name, known in declared.items():
        shape = [dim if isinstance(dim, int) else sizes.get(str(dim), 1) for dim in known.shape or ()]
        feeds[name] = (
            own[name] if name in own else rng.standard_normal(shape).astype(known.dtype or np.float32)
        )
    return feeds
