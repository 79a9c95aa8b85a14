"""How a picture becomes the input of a model: the record that travels with a model file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from types import MappingProxyType

from ..rewriter.errors import ModelError, OptionError, nearest

LAYOUTS = ("NCHW", "NHWC")
COLORS = ("RGB", "BGR", "GRAY")
RESIZES = ("shorter", "stretch", "letterbox", "none")
RESAMPLES = ("nearest", "bilinear", "bicubic", "lanczos")

Triple = tuple[float, float, float]

PRESETS: Mapping[str, tuple[Triple, Triple]] = MappingProxyType(
    {
        "raw": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
        "unit": ((0.0, 0.0, 0.0), (255.0, 255.0, 255.0)),
        "tf": ((127.5, 127.5, 127.5), (127.5, 127.5, 127.5)),
        "lite": ((127.0, 127.0, 127.0), (128.0, 128.0, 128.0)),
        "imagenet": ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
        "caffe": ((123.68, 116.779, 103.939), (1.0, 1.0, 1.0)),
        "clip": ((122.7709383, 116.7460125, 104.09373615), (68.5005327, 66.6321579, 70.32316305)),
    }
)
"""Mean and standard deviation in pixel units, in the order R, G, B.

raw: 0..255; unit: [0, 1]; tf: x/127.5 - 1; lite: (x - 127)/128 (EfficientNet-Lite); imagenet: torchvision's
ImageNet statistics times 255; caffe: ImageNet means alone; clip: the statistics of CLIP times 255.
"""


@dataclass(frozen=True)
class Preprocessing:
    """One picture -> one model input, `value = (pixel - mean) / std` with pixels in 0..255.

    layout     "NCHW" or "NHWC"
    color      "RGB", "BGR" or "GRAY" (ITU-R 601 luma, one channel)
    size       (H, W) of the input, or None: the picture keeps its own size
    resize     "shorter": scale the short side to `shorter`, then cut `size` out of the centre;
               "stretch": scale to `size`, the aspect is lost;
               "letterbox": scale to fit inside `size`, paste at the top left, zeros around;
               "none": the picture must already have `size` (any, if None)
    shorter    short side in pixels, for "shorter" only, at least as long as both sides of `size`
    multiple   with size None: height and width are cut down (centre) to a multiple of this
    resample   "nearest", "bilinear", "bicubic" or "lanczos"; all but the first average when they shrink
    mean, std  one number per channel of the tensor and in its order (BGR: blue first), in pixel units

    Raises OptionError, naming the field, for a value outside these or a combination without meaning.
    """

    layout: str = "NCHW"
    color: str = "RGB"
    size: tuple[int, int] | None = None
    resize: str = "none"
    shorter: int | None = None
    multiple: int = 1
    resample: str = "bilinear"
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (255.0, 255.0, 255.0)

    def __post_init__(self) -> None:
        _one_of("layout", self.layout, LAYOUTS)
        _one_of("color", self.color, COLORS)
        _one_of("resize", self.resize, RESIZES)
        _one_of("resample", self.resample, RESAMPLES)
        _check_geometry(self)
        for key, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != self.channels:
                raise _bad(key, f"{len(values)} numbers; {self.color} has {self.channels} channels")
            if not all(math.isfinite(value) for value in values):
                raise _bad(key, f"{list(values)}; every number must be finite")
        if 0.0 in self.std:
            raise _bad("std", f"{list(self.std)}; a division by 0 has no result")

    @property
    def channels(self) -> int:
        """1 for GRAY, else 3."""
        return 1 if self.color == "GRAY" else 3

    def scaled(self, preset: str) -> Preprocessing:
        """The same geometry with mean and std of one of `PRESETS`, put into this colour order.

        GRAY takes the average over the three channels. Raises OptionError for an unknown name.
        """
        if preset not in PRESETS:
            known = ", ".join(PRESETS)
            raise OptionError(f"unknown scaling {preset!r}{nearest(preset, PRESETS)}; known: {known}")
        mean, std = (_in_order(values, self.color) for values in PRESETS[preset])
        return replace(self, mean=mean, std=std)

    def to_record(self) -> dict[str, object]:
        """The JSON object that `from_record` reads back; "shorter" stands in it only where it is used."""
        record: dict[str, object] = {field.name: getattr(self, field.name) for field in fields(self)}
        record["size"] = None if self.size is None else list(self.size)
        record["mean"], record["std"] = list(self.mean), list(self.std)
        if self.shorter is None:
            del record["shorter"]
        return record


def from_record(record: Mapping[str, object]) -> Preprocessing:
    """Read the JSON object stored beside a model or in its metadata.

    layout, color, size, resize, mean and std must be there; shorter, multiple and resample may be left out.
    Raises OptionError naming the key that is missing, unknown, of the wrong type or out of range.
    """
    known = [field.name for field in fields(Preprocessing)]
    for key in record:
        if key not in known:
            hint = nearest(key, known)
            raise OptionError(f"preprocessing: unknown key {key!r}{hint}; known: {', '.join(known)}")
    for key in ("layout", "color", "size", "resize", "mean", "std"):
        if key not in record:
            raise OptionError(f"preprocessing: the key {key!r} is missing")
    size = record["size"]
    shorter = record.get("shorter")
    return Preprocessing(
        layout=_text(record, "layout", "NCHW"),
        color=_text(record, "color", "RGB"),
        size=None if size is None else _pair(size),
        resize=_text(record, "resize", "none"),
        shorter=None if shorter is None else _whole("shorter", shorter),
        multiple=_whole("multiple", record.get("multiple", 1)),
        resample=_text(record, "resample", "bilinear"),
        mean=_numbers(record, "mean"),
        std=_numbers(record, "std"),
    )


def for_input(shape: Sequence[int | str | None]) -> Preprocessing:
    """A first guess for a model input of `shape`, e.g. ["N", 3, 224, 224] or [None, 224, 224, 3].

    The layout follows from where 1 or 3 channels stand (axis 1 wins a tie); the scaling is [0, 1]; a picture
    is stretched to a fixed height and width and keeps its own size where both are free (None, a name, -1).
    The scaling cannot be read off a shape: prefer the record of the model where there is one.

    Raises ModelError when the input is not a batch of pictures with 1 or 3 channels.
    """
    if len(shape) != 4:
        raise _no_picture(shape, f"{len(shape)} axes instead of 4")
    layout = next((name for name, axis in (("NCHW", 1), ("NHWC", 3)) if shape[axis] in (1, 3)), None)
    if layout is None:
        raise _no_picture(shape, "neither axis 1 nor axis 3 has 1 or 3 channels")
    channels, sides = (shape[1], shape[2:]) if layout == "NCHW" else (shape[3], shape[1:3])
    fixed = [side for side in sides if isinstance(side, int) and side > 0]
    if len(fixed) == 1:
        raise _no_picture(shape, "only one of height and width is fixed")
    size = (fixed[0], fixed[1]) if fixed else None
    return Preprocessing(
        layout=layout,
        color="GRAY" if channels == 1 else "RGB",
        size=size,
        resize="stretch" if size else "none",
        mean=(0.0,) * (1 if channels == 1 else 3),
        std=(255.0,) * (1 if channels == 1 else 3),
    )


def _no_picture(shape: Sequence[int | str | None], reason: str) -> ModelError:
    return ModelError(
        f"the input of shape {list(shape)} is not a batch of pictures ({reason}); "
        "feed arrays, or give the preprocessing"
    )


def _check_geometry(p: Preprocessing) -> None:
    if p.size is not None and min(p.size) < 1:
        raise _bad("size", f"{list(p.size)}; height and width must be at least 1")
    if p.size is None and p.resize in ("stretch", "letterbox"):
        raise _bad("size", f"null; {p.resize!r} needs a height and a width")
    if (p.shorter is not None) != (p.resize == "shorter"):
        raise _bad("shorter", f'{p.shorter}; it goes with resize "shorter", and only with it')
    if p.shorter is not None and p.shorter < max(p.size or (1, 1)):
        raise _bad("shorter", f"{p.shorter}; it must not be less than a side of size {p.size or 'null'}")
    if p.multiple < 1:
        raise _bad("multiple", f"{p.multiple}; it must be at least 1")
    if p.size is not None and any(side % p.multiple for side in p.size):
        raise _bad("multiple", f"{p.multiple}; size {list(p.size)} is not a multiple of it")


def _bad(key: str, problem: str) -> OptionError:
    return OptionError(f"preprocessing: {key!r} is {problem}")


def _one_of(key: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise _bad(key, f"{value!r}{nearest(value, known)}; known: {', '.join(known)}")


def _in_order(values: Triple, color: str) -> tuple[float, ...]:
    if color == "GRAY":
        return (sum(values) / 3.0,)
    return values if color == "RGB" else values[::-1]


def _text(record: Mapping[str, object], key: str, default: str) -> str:
    value = record.get(key, default)
    if not isinstance(value, str):
        raise _bad(key, f"{value!r}; a text is needed")
    return value


def _whole(key: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise _bad(key, f"{value!r}; a whole number is needed")
    return value


def _pair(value: object) -> tuple[int, int]:
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise _bad("size", f"{value!r}; [height, width] or null is needed")
    return _whole("size", value[0]), _whole("size", value[1])


def _numbers(record: Mapping[str, object], key: str) -> tuple[float, ...]:
    values = record[key]
    if not isinstance(values, list | tuple):
        raise _bad(key, f"{values!r}; a list with one number per channel is needed")
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise _bad(key, f"{values!r}; every entry must be a number")
    return tuple(float(value) for value in values)
