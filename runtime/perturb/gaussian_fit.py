"""Fitting the Gaussian model of patches: one pass over the pictures, in shards and pieces where it must be."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...rewriter.errors import ImageError, OptionError
from ..compiling import package_version
from ..estimate.files import damaged, read_archive, write_archive
from ..estimate.fit import Plan, Progress, ahead
from ..estimate.samples import Images, Samples, samples
from ..estimate.statistics import Total, must_match
from ..preprocess import Preprocessing
from .gaussian import Doubles, Gaussian

KIND = "onnxplain gaussian statistics 1"
COMMAND = "fit gaussian --shard"
BLOCK = 1024
"""Patches of one product: fixed, so that the rounding of a picture's sums is."""
FLAT = 1e-12
"""A variance below this share of the mean square is what rounding leaves of none."""


@dataclass(frozen=True)
class Patches:
    """What is fitted. patch: side of a patch in pixels (18, as docs/methods/perturbed.md says). patches: how many,
    dealt evenly to the pictures, at random places in each. joint: one covariance of all channels instead of one a
    channel. OptionError for numbers that make no sense."""

    patch: int = 18
    patches: int = 20_000
    seed: int = 0
    joint: bool = False

    def __post_init__(self) -> None:
        if self.patch < 1:
            raise OptionError(f"patches of {self.patch} pixels; give at least 1")
        if self.patches < 2:
            raise OptionError(f"a covariance cannot be had from {self.patches} patches; give at least 2")
        if self.seed < 0:
            raise OptionError(f"seed is {self.seed}; give 0 or more")

    def count(self, picture: int, pictures: int) -> int:
        """How many patches of a picture, so that the sum over all is `patches`."""
        return (picture + 1) * self.patches // pictures - picture * self.patches // pictures

    def corners(self, picture: int, count: int, size: tuple[int, int]) -> npt.NDArray[np.int64]:
        """(count, 2) rows and columns, every place of equal chance, by the seed and the picture's number."""
        random = np.random.default_rng(np.random.SeedSequence((self.seed, picture)))
        places: npt.NDArray[np.int64] = random.integers(0, [n - self.patch + 1 for n in size], (count, 2))
        return places


@dataclass
class PatchSums:
    """Sums over the patches of the pictures `indices`: moments (groups, D + 1, D + 1) of (patch, 1) (patch, 1)ᵀ in
    about 106 bits, and the smallest and largest values, of every pixel or, where pictures differ in size, of every
    channel. about: what is equal in all shards. whole: False while, or after a failure while, a picture is added."""

    about: Mapping[str, Any]
    moments: Total
    low: Doubles
    high: Doubles
    indices: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    whole: bool = True

    @property
    def of(self) -> Patches:
        return Patches(**{name: self.about[name] for name in ("patch", "patches", "seed", "joint")})

    @property
    def images(self) -> int:
        return int(self.indices.size)

    @property
    def wanted(self) -> int:
        """Pictures that hold a patch."""
        return min(int(self.about["total"]), int(self.about["patches"]))

    @classmethod
    def empty(cls, about: Mapping[str, Any], planes: Doubles, fixed: bool) -> PatchSums:
        """planes: a picture (channels, height, width). fixed: whether all have its size."""
        channels, pixels = len(planes), about["patch"] ** 2
        groups, size = (1, channels * pixels) if about["joint"] else (channels, pixels)
        shape = planes.shape if fixed else (channels, 1, 1)
        moments = Total.zeros((groups, size + 1, size + 1))
        return cls(about, moments, np.full(shape, np.inf), np.full(shape, -np.inf))

    def add(self, index: int, planes: Doubles) -> None:
        of = self.of
        corners = of.corners(index, of.count(index, int(self.about["total"])), planes.shape[1:])
        term = _outer(planes, corners, of.patch, self.moments.high.shape)
        low, high = planes, planes
        if self.low.shape[1:] == (1, 1):
            low, high = planes.min((1, 2), keepdims=True), planes.max((1, 2), keepdims=True)
        self.whole = False
        self.moments.add(term)
        self.low, self.high = np.minimum(self.low, low), np.maximum(self.high, high)
        self.indices = np.union1d(self.indices, [index])
        self.whole = True

    def merge(self, other: PatchSums) -> None:
        self.moments.merge(other.moments)
        self.low, self.high = np.minimum(self.low, other.low), np.maximum(self.high, other.high)
        self.indices = np.union1d(self.indices, other.indices)


def fit_gaussian(
    images: Images,
    of: Patches | None = None,
    *,
    preprocessing: Preprocessing | None = None,
    raw_input: bool = False,
    plan: Plan | None = None,
    progress: Progress | None = None,
) -> Gaussian:
    """Fit a Gaussian to the patches of pictures. Arguments and errors: `gather_patches`, `gaussian_of`."""
    sums = gather_patches(
        images, of, preprocessing=preprocessing, raw_input=raw_input, plan=plan, progress=progress
    )
    return gaussian_of(sums)


def gather_patches(
    images: Images,
    of: Patches | None = None,
    *,
    preprocessing: Preprocessing | None = None,
    raw_input: bool = False,
    plan: Plan | None = None,
    progress: Progress | None = None,
) -> PatchSums:
    """Float64 sums over random patches of pictures, in one pass.

    images: as in `estimate.samples.samples`. preprocessing: how they become inputs of the model. raw_input: an array
    (N, channels, height, width) of model inputs (of (N, height, width, channels), where preprocessing says NHWC).
    plan: which pictures, and what happens when the run is stopped. Where a picture's patches lie depends on the seed
    and on its number in the list, and sums are added in about 106 bits: neither batch nor shards nor their order
    change the Gaussian. Pictures without a patch, where there are more pictures than patches, are not read.

    Raises OptionError (no pictures, no preprocessing, a partial file in the way), ImageError (a picture that cannot be
    read, or is smaller than a patch), StaleError (resuming with something else).
    """
    of, plan = of or Patches(), plan or Plan()
    if preprocessing is None and not raw_input:
        raise OptionError(
            "say how the pictures are prepared: give a model, a preset or a record (or raw_input)"
        )
    pictures = samples(images, preprocessing, raw_input, np.dtype(np.float32))
    last = preprocessing is not None and preprocessing.layout == "NHWC"
    about = _about(of, plan, pictures, preprocessing)
    chosen = [i for i in plan.indices(len(pictures)) if of.count(i, about["total"])]
    known = _partial(plan, about, chosen)
    done = () if known is None else known.indices
    todo = np.setdiff1d(np.asarray(chosen, np.int64), np.asarray(done, np.int64)).tolist()
    if known is None:
        if not todo:
            raise OptionError("this shard holds no patch; take fewer shards, or more patches")
        fixed = raw_input or (preprocessing is not None and preprocessing.size is not None)
        known = PatchSums.empty(about, _planes(pictures, todo[0], pictures[todo[0]], last, of.patch), fixed)
    _count(known, pictures, todo, last, plan, progress)
    return known


def _count(
    sums: PatchSums, pictures: Samples, todo: Sequence[int], last: bool, plan: Plan, progress: Progress | None
) -> None:
    """Adds in a thread of its own: an interrupt reaches the main thread alone, so that a picture is counted or is
    not."""
    expected, saved = sums.images + len(todo), time.monotonic()
    try:
        with ThreadPoolExecutor(1) as adder:
            for index, array in ahead(pictures, todo, plan.batch):
                planes = _planes(pictures, index, array, last, sums.of.patch)
                adder.submit(sums.add, index, planes).result()
                if progress is not None:
                    progress(sums.images, expected)
                if plan.partial is not None and time.monotonic() - saved > plan.seconds:
                    save_patch_sums(sums, plan.partial)
                    saved = time.monotonic()
    except BaseException:
        if plan.partial is not None and sums.images and sums.whole:
            save_patch_sums(sums, plan.partial)
        raise


def gaussian_of(sums: PatchSums) -> Gaussian:
    """μ = Σx / n, Σ = (Σxxᵀ - n μμᵀ) / (n - 1). Raises OptionError for fewer than two patches, or pictures that do not
    vary."""
    total = sums.moments.value
    n = total[0, -1, -1]
    if n < 2:
        raise OptionError(f"{int(n)} patches make no covariance; give more pictures or patches")
    mu = total[:, -1, :-1] / n
    cov = (total[:, :-1, :-1] - n * mu[:, :, None] * mu[:, None, :]) / (n - 1)
    cov = (cov + cov.transpose(0, 2, 1)) / 2
    variance = np.diagonal(cov, axis1=1, axis2=2)
    square = np.diagonal(total[:, :-1, :-1], axis1=1, axis2=2) / n
    flat = variance <= FLAT * square
    cov = np.where(
        flat[:, :, None] | flat[:, None, :], 0.0, cov
    )  # what is left of it is noise, and may be negative
    of, size = sums.of, cov.shape[1]
    notes = []
    if n <= size:
        notes.append(
            f"{int(n)} patches for {size} pixels: the covariance has not full rank and leans on its ridge; take more"
        )
    provenance = {**sums.about, "images": sums.images, "counted": int(n), "warnings": notes}
    return Gaussian(mu, cov, of.patch, sums.low, sums.high, provenance=provenance)


def merge_patch_sums(parts: Sequence[PatchSums], names: Sequence[str] | None = None) -> PatchSums:
    """The sums of several shards, in any order. names: of the files, for messages.

    Raises StaleError for shards of other pictures or patches, OptionError where two hold the same picture.
    """
    labels = list(names) if names is not None else [f"part {i + 1}" for i in range(len(parts))]
    if not parts:
        raise OptionError("nothing to merge: give the files that `onnxplain fit gaussian --shard` wrote")
    first = parts[0]
    whole = PatchSums(
        first.about,
        Total.zeros(first.moments.high.shape),
        np.full(first.low.shape, np.inf),
        np.full(first.high.shape, -np.inf),
    )
    for part, label in zip(parts, labels, strict=True):
        must_match(part.about, first.about, f"{label!r}")
        twice = np.intersect1d(whole.indices, part.indices)
        if twice.size:
            raise OptionError(f"{label!r} holds picture {int(twice[0])} a second time; give every shard once")
        if part.moments.high.shape != whole.moments.high.shape or part.low.shape != whole.low.shape:
            raise OptionError(f"{label!r} is about pictures of another size or other channels")
        whole.merge(part)
    return whole


def save_patch_sums(sums: PatchSums, path: str | os.PathLike[str]) -> Path:
    """Write sums, whole or not at all."""
    arrays = {
        "moments": sums.moments.high,
        "moments/low": sums.moments.low,
        "low": sums.low,
        "high": sums.high,
        "indices": sums.indices,
    }
    return write_archive(path, arrays, {"kind": KIND, "about": dict(sums.about)})


def load_patch_sums(path: str | os.PathLike[str]) -> PatchSums:
    """Read what `save_patch_sums` wrote. OptionError for a file that is missing, damaged, or something else."""
    arrays, meta = read_archive(path, KIND, "statistics of patches", COMMAND)
    try:
        doubles = [arrays[key] for key in ("moments", "moments/low", "low", "high")]
        moments, rounded, low, high = doubles
        if any(array.dtype != np.float64 or array.ndim != 3 for array in doubles):
            raise ValueError("an array is not float64 of 3 axes")
        if arrays["indices"].dtype != np.int64 or arrays["indices"].ndim != 1:
            raise ValueError("its list of pictures is no list of numbers")
        sums = PatchSums(dict(meta["about"]), Total(moments, rounded), low, high, arrays["indices"])
        size = sums.of.patch**2 * (len(low) if sums.of.joint else 1) + 1
        shape = (1 if sums.of.joint else len(low), size, size)
        if moments.shape != shape or rounded.shape != shape or low.shape != high.shape or not sums.wanted:
            raise ValueError(f"sums of shape {moments.shape} instead of {shape}")
        return sums
    except (OptionError, ValueError, TypeError, LookupError) as error:
        raise damaged(path, "statistics of patches", error, COMMAND) from error


def _about(of: Patches, plan: Plan, pictures: Samples, preprocessing: Preprocessing | None) -> dict[str, Any]:
    record = None if pictures.preprocessing is None else pictures.preprocessing.to_record()
    return {
        "list": pictures.digest,
        "total": len(pictures) if plan.limit is None else min(plan.limit, len(pictures)),
        "preprocessing": record,
        "layout": None if preprocessing is None else preprocessing.layout,
        "version": package_version(),
        **vars(of),
    }


def _partial(plan: Plan, about: Mapping[str, Any], chosen: Sequence[int]) -> PatchSums | None:
    """The sums of the partial file, if there is one."""
    if plan.partial is None or not plan.partial.exists():
        return None
    known = load_patch_sums(plan.partial)
    if not plan.resume:
        raise OptionError(
            f"{str(plan.partial)!r} holds {known.images} pictures of a fit that was stopped; go on with --resume, "
            "or delete it"
        )
    must_match(known.about, about, repr(str(plan.partial)))
    if not set(known.indices.tolist()) <= set(chosen):
        raise OptionError(
            f"{str(plan.partial)!r} belongs to another shard; resume with the one it was made with"
        )
    return known


def _planes(pictures: Samples, index: int, array: npt.NDArray[Any], last: bool, patch: int) -> Doubles:
    """A model input as (channels, height, width). ImageError where it is no picture, or holds no patch."""
    if array.ndim != 4 or 0 in array.shape:
        raise ImageError(
            f"{pictures.names[index]} has shape {list(array.shape[1:])}; patches need (channels, height, width)"
        )
    planes = np.asarray(np.moveaxis(array[0], -1, 0) if last else array[0], np.float64)
    if min(planes.shape[1:]) < patch:
        height, width = planes.shape[1:]
        raise ImageError(
            f"{pictures.names[index]}, {height} high and {width} wide, holds no patch of {patch} x {patch}; take "
            "smaller patches"
        )
    return planes


def _outer(planes: Doubles, corners: npt.NDArray[np.int64], patch: int, shape: tuple[int, ...]) -> Doubles:
    """Σ (p, 1) (p, 1)ᵀ over the patches at corners, (groups, D + 1, D + 1)."""
    groups, size = shape[0], shape[1] - 1
    views = np.lib.stride_tricks.sliding_window_view(planes, (patch, patch), axis=(1, 2))
    total = np.zeros(shape)
    for start in range(0, len(corners), BLOCK):
        part = corners[start : start + BLOCK]
        pixels = views[:, part[:, 0], part[:, 1]].reshape(len(planes), len(part), patch * patch)
        if groups != len(planes):
            pixels = pixels.transpose(1, 0, 2).reshape(1, len(part), size)
        ones = np.ones((groups, len(part), 1))
        rows = np.concatenate([pixels, ones], axis=2)
        total += rows.transpose(0, 2, 1) @ rows
    return total


__all__ = [
    "KIND",
    "PatchSums",
    "Patches",
    "fit_gaussian",
    "gather_patches",
    "gaussian_of",
    "load_patch_sums",
    "merge_patch_sums",
    "save_patch_sums",
]
