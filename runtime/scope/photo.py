"""A photo and a model brought together: the interpreter at that photo, and how its tensors are shown."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ... import models
from ...rewriter.errors import ModelError, OptionError
from ...rewriter.load import Source, load
from ..atomic import atomic, write_bytes
from ..compiling import description
from ..images import prepare, read_image, save_image, writable
from ..pictures import class_index
from .figures import Probe, View
from .interpreter import Interpreter
from .layout import Array, Layout


@dataclass(frozen=True)
class Place:
    """What of the photo is looked at. crop: (left, top, width, height) in its pixels; size: (width, height) that
    this is scaled to."""

    crop: tuple[int, int, int, int] | None = None
    size: tuple[int, int] | None = None

    def of(self, image: Image.Image) -> Image.Image:
        """OptionError for a crop that does not lie in the picture."""
        if self.crop is not None:
            left, top, width, height = self.crop
            if left + width > image.width or top + height > image.height:
                raise OptionError(
                    f"--crop {left},{top},{width},{height} does not lie in the photo, {image.width} x {image.height}"
                )
            image = image.crop((left, top, left + width, top + height))
        if self.size is not None:
            image = image.resize(self.size, Image.Resampling.LANCZOS)
        return image


@dataclass(frozen=True)
class Opened:
    """An interpreter at a photo. guessed: nothing said how the model wants its photos."""

    a: Interpreter
    view: View
    source: Source
    guessed: bool


def open_photo(
    model: Path,
    image: Path,
    place: Place,
    *,
    head: str = "logits",
    preprocessing: str | None = None,
    labels: Path | None = None,
    external_data: bool = False,
    **options: Any,
) -> Opened:
    """head, options: those of `Interpreter`. Raises ImageError, OptionError, ModelError and what `Interpreter`
    raises."""
    source = load(model, external_data=external_data)
    about = description(model, source.model, preprocessing, labels)
    if about is None:
        raise ModelError(
            "the model's input is not a picture; use the Python API: onnxplain.Interpreter(model, x0)"
        )
    array, shown = prepare(place.of(read_image(image)), about.preprocessing)
    a = Interpreter(source, array, head=head, **options)
    scale = _scale(model) if a.system.about["head"] == a.system.about["output"] else None
    return Opened(a, View(shown, about.preprocessing, scale, about.labels), source, about.guessed)


def _scale(model: Path) -> tuple[float, float] | None:
    """The range of output pictures, as the JSON file beside the model has it."""
    try:
        record = (models.record(model) or {}).get("output")
    except ValueError as error:
        raise OptionError(str(error)) from error
    if not isinstance(record, Mapping) or not {"low", "high"} <= set(record):
        return None
    return float(record["low"]), float(record["high"])


def probes(
    texts: Sequence[str], side: Layout, view: View, value: Array | None = None
) -> tuple[list[Probe], Array]:
    """What --at asks for, and the unit tensors (K, ...): "Y,X" is a pixel with all its channels, "C,Y,X" (in the
    tensor's own order) one entry, an integer a flat index, a word a class. Nothing: the middle of a picture, else the
    largest of `value`. OptionError, TargetError."""
    shape = side.parts[0][1]
    picture = view.is_picture(shape)
    if not texts:
        if picture:
            height, width = view.sides(shape)
            texts = [f"{height // 2},{width // 2}"]
        else:
            texts = [str(0 if value is None else int(value.argmax()))]
    made = [_probe(text, side, view, picture) for text in texts]
    return [probe for probe, _ in made], np.stack([unit for _, unit in made])


def _probe(text: str, side: Layout, view: View, picture: bool) -> tuple[Probe, Array]:
    shape = side.parts[0][1]
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        if picture or side.what == "input":
            raise OptionError(f"--at {text!r}: write it as Y,X or C,Y,X") from None
        numbers = (class_index(text, view.labels),)
    if picture and len(numbers) == 2:
        height, width = view.sides(shape)
        pixels = Layout(side.what, ((side.parts[0][0], (height, width)),))
        flat = np.zeros(height * width, np.float32)
        flat[pixels.index(numbers)] = 1.0
        plane = np.expand_dims(flat.reshape(height, width), view.channel_axis)
        unit = np.broadcast_to(plane, shape).astype(np.float32)
        return Probe(f"{side.what} pixel {numbers}, all channels", numbers), unit
    index = side.index(numbers[0] if len(numbers) == 1 else numbers)
    at = tuple(int(i) for i in np.unravel_index(index, shape))
    name = (
        f"{side.what} entry {at}"
        if len(shape) > 1
        else view.name(index)
        if side.what == "output"
        else f"{at[0]}"
    )
    point = tuple(i for axis, i in enumerate(at) if axis != view.channel_axis)
    unit = np.zeros(side.size, np.float32)
    unit[index] = 1.0
    return Probe(name, (point[0], point[1]) if picture else None), unit.reshape(shape)


def beside(out: Path) -> tuple[Path, Path]:
    """The files of numbers that belong to a picture. OptionError, before any work, where nothing can be written."""
    writable(out)
    numbers, words = out.with_suffix(".npz"), out.with_suffix(".json")
    for path in (numbers, words):
        if path.is_dir():
            raise OptionError(f"cannot write {str(path)!r}: it is a folder; give --out another name")
    return numbers, words


def save(out: Path, figure: Image.Image, arrays: Mapping[str, Array], record: Mapping[str, Any]) -> None:
    """The picture, .npz and .json of the same name, each whole or not at all."""
    numbers, words = beside(out)
    with atomic(numbers) as temporary:
        np.savez_compressed(temporary, **arrays)  # type: ignore[arg-type]
    write_bytes(words, (json.dumps(record, indent=1, allow_nan=False) + "\n").encode())
    save_image(figure, out)


__all__ = ["Opened", "Place", "beside", "open_photo", "probes", "save"]
