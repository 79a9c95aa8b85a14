"""The inputs that a file is checked on: photos, arrays, or drawn from a seed; and those that are hard on a graph."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from ...rewriter.draft import Dim
from ...rewriter.errors import OptionError
from ..images import prepare, read_image
from ..preprocess import Preprocessing

Array: TypeAlias = npt.NDArray[Any]
Given: TypeAlias = str | os.PathLike[str] | npt.NDArray[Any] | Mapping[str, npt.NDArray[Any]]

SIZE = 32
"""Of an axis that nothing gives a size."""

MOST = 2**28
"""Elements of an input: a file from elsewhere may declare any size."""


@dataclass(frozen=True)
class Case:
    """One input of the model, with as many samples as a fixed batch wants, else one (two where rows are pairs)."""

    name: str
    feeds: Mapping[str, Array]

    def record(self) -> dict[str, str]:
        digest = hashlib.sha256()
        for name in sorted(self.feeds):
            digest.update(name.encode() + np.ascontiguousarray(self.feeds[name]).tobytes())
        return {"name": self.name, "sha256": digest.hexdigest()}


@dataclass(frozen=True)
class Slot:
    """An input of the model: its type, its shape, and whether it is explained."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[Dim, ...]
    explained: bool


Fill: TypeAlias = Callable[[Slot, tuple[int, ...]], Array]
"""(input, shape) -> its values."""


@dataclass
class Maker:
    """Makes cases for the inputs of a file. low, high: the range of the explained inputs where it is known."""

    slots: Sequence[Slot]
    seed: int
    preprocessing: Preprocessing | None = None
    low: Any = None
    high: Any = None
    sizes: Mapping[str, Sequence[Dim]] = field(default_factory=dict)
    samples: int = 1
    """Of one case, where the batch is free."""

    def random(self, count: int) -> list[Case]:
        """Uniform where the range of the input is known, else unit normal; integers are 0 or 1."""
        rng = np.random.default_rng(self.seed)

        def draw(slot: Slot, shape: tuple[int, ...]) -> Array:
            ends = self._ends(slot, shape)
            if ends is None:
                return rng.standard_normal(shape)
            return np.asarray(ends[0] + (ends[1] - ends[0]) * rng.uniform(size=shape))

        return [self._case(f"random {i + 1}", draw, rng) for i in range(count)]

    def above(self, count: int) -> list[Case]:
        """Uniform from 0.1 to 1 where the range of the input is not known: for roots and logarithms."""
        rng = np.random.default_rng(self.seed)

        def draw(slot: Slot, shape: tuple[int, ...]) -> Array:
            low, high = self._ends(slot, shape) or (0.1, 1.0)
            return np.asarray(low + (high - low) * rng.uniform(size=shape))

        return [self._case(f"random above zero {i + 1}", draw, rng) for i in range(count)]

    def corners(self) -> list[Case]:
        """Zeros, a constant, and a chequerboard of the ends of the range (±100 where it is not known)."""

        def ends(slot: Slot, shape: tuple[int, ...]) -> Array:
            known = self._ends(slot, shape)
            low, high = (-100.0, 100.0) if known is None else known
            return np.where(np.indices(shape).sum(0) % 2 == 0, low, high)

        def middle(slot: Slot, shape: tuple[int, ...]) -> Array:
            known = self._ends(slot, shape)
            return np.full(shape, 0.5) if known is None else np.broadcast_to((known[0] + known[1]) / 2, shape)

        rng = np.random.default_rng(self.seed)
        return [
            self._case("zero", lambda slot, shape: np.zeros(shape), rng),
            self._case("constant", middle, rng),
            self._case("extreme", ends, rng),
        ]

    def given(self, item: Given) -> list[Case]:
        """The samples of a photo, an .npy file or an array, one case each; floats go in as they are, an 8-bit
        (H, W, 3) array is a picture. Raises ImageError and OptionError."""
        if isinstance(item, Mapping):
            return [Case("array", {name: np.asarray(value) for name, value in item.items()})]
        if not isinstance(item, np.ndarray):
            path = Path(item)
            if path.suffix.lower() != ".npy":
                return self._picture(path.name, read_image(path))
            return self._array(path.name, _load(path))
        return self._array("array", item)

    def _picture(self, name: str, image: Image.Image) -> list[Case]:
        if self.preprocessing is None:
            raise OptionError(f"{name!r}: the file does not take pictures; give .npy arrays of its input")
        return self._rows(name, prepare(image, self.preprocessing)[0])

    def _array(self, name: str, array: Array) -> list[Case]:
        if array.dtype == np.uint8 and array.ndim == 3 and array.shape[2] == 3:
            return self._picture(name, Image.fromarray(array))
        rank = len(self._explained.shape)
        if array.dtype.kind not in "fiu" or array.ndim not in (rank - 1, rank):
            raise OptionError(
                f"{name!r} holds {array.dtype} of shape {list(array.shape)}; the input "
                f"{self._explained.name!r} has {rank} axes"
            )
        return self._rows(name, array if array.ndim == rank else array[None])

    def _rows(self, name: str, array: Array) -> list[Case]:
        slot, rng = self._explained, np.random.default_rng(self.seed)
        if len([s for s in self.slots if s.explained]) > 1:
            raise OptionError(
                "several inputs are explained; give them together, as a dict of arrays in Python"
            )
        for dim, size in zip(slot.shape[1:], array.shape[1:], strict=True):
            if isinstance(dim, int) and dim != size:
                raise OptionError(
                    f"{name!r} has shape {list(array.shape)}, the input {slot.name!r} takes {list(slot.shape)}"
                )
        step = self.rows
        chunks = [array[i : i + step] for i in range(0, len(array), step)]
        chunks = [np.concatenate([c, *[c[-1:]] * (step - len(c))]) for c in chunks]
        many = len(chunks) > 1
        return [
            self._case(f"{name}[{i}]" if many else name, _always(chunk), rng)
            for i, chunk in enumerate(chunks)
        ]

    @property
    def _explained(self) -> Slot:
        return next(slot for slot in self.slots if slot.explained)

    @property
    def rows(self) -> int:
        """Samples of one case."""
        lead = self._explained.shape[0]
        return lead if isinstance(lead, int) else self.samples

    def _case(self, name: str, fill: Fill, rng: np.random.Generator) -> Case:
        feeds: dict[str, Array] = {}
        for slot in self.slots:
            shape = self._shape(slot)
            if slot.dtype.kind != "f":
                feeds[slot.name] = rng.integers(0, 2, shape).astype(slot.dtype)
            elif slot.explained:
                feeds[slot.name] = np.ascontiguousarray(fill(slot, shape), slot.dtype)
            else:
                feeds[slot.name] = rng.standard_normal(shape).astype(slot.dtype)
        return Case(name, feeds)

    def _shape(self, slot: Slot) -> tuple[int, ...]:
        known = [dim if isinstance(dim, int) else None for dim in self.sizes.get(slot.name, slot.shape)]
        if len(known) != len(slot.shape):
            raise OptionError(f"--shape {slot.name}: {len(known)} sizes for {len(slot.shape)} axes")
        size = None if self.preprocessing is None else self.preprocessing.size
        if size is not None and slot.explained and len(known) == 4:
            first = 2 if self.preprocessing is not None and self.preprocessing.layout == "NCHW" else 1
            for axis, side in zip((first, first + 1), size, strict=True):
                known[axis] = known[axis] or side
        shape = tuple(dim or (self.samples if i == 0 else SIZE) for i, dim in enumerate(known))
        if prod(shape) > MOST:
            raise OptionError(
                f"input {slot.name!r} of shape {list(shape)} has more than {MOST} elements: that many are not drawn; "
                "give smaller sizes with shapes= (--shape)"
            )
        return shape

    def _ends(self, slot: Slot, shape: tuple[int, ...]) -> tuple[Array, Array] | None:
        """The ends of the range, to broadcast against the input: the options low and high, else black and white."""
        about = self.preprocessing
        axis = len(shape) - 1 if about is not None and about.layout == "NHWC" else 1
        turned = [-1 if i == axis else 1 for i in range(len(shape))]
        if self.low is not None and self.high is not None:
            low, high = (np.asarray(end, np.float64) for end in (self.low, self.high))
        elif about is not None and len(shape) == 4:
            mean, std = np.asarray(about.mean), np.asarray(about.std)
            low, high = (0.0 - mean) / std, (255.0 - mean) / std
        else:
            return None
        if low.size not in (1, shape[axis]):
            return None
        return low.reshape(turned), high.reshape(turned)


def _always(array: Array) -> Fill:
    return lambda slot, shape: array


def _load(path: Path) -> Array:
    try:
        return np.asarray(np.load(path, allow_pickle=False))
    except (OSError, ValueError, EOFError) as error:
        raise OptionError(f"{str(path)!r} cannot be read as an array: {error}") from error
