"""A Gaussian model of image patches, and what it says of a window whose surroundings are known."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ...rewriter.errors import OptionError
from ..estimate.files import damaged, read_archive, write_archive
from .probing import Array, Places

Doubles: TypeAlias = npt.NDArray[np.float64]
Random: TypeAlias = Callable[[int, int], np.random.Generator]
"""Row and column of a window -> the generator of its samples."""

KIND = "onnxplain gaussian 1"
RIDGE = 1e-6


@dataclass(frozen=True, eq=False)
class Gaussian:
    """One normal distribution of patch × patch pixels, wherever they lie in a picture (Zintgraf 2017).

    mu (groups, D) and cov (groups, D, D), float64: one group a channel, D = patch², where channels are independent;
    one group of all, D = channels patch², where they are joint; pixels in the order channel, row, column. low, high:
    smallest and largest values of the data, of every pixel (channels, height, width) or of every channel (channels, 1,
    1): samples are clipped to them; None clips nothing. ridge: ridge tr(Σ)/D is added to the diagonal, for smooth
    pictures have a covariance that is all but singular. provenance: what it was fitted on; its `preprocessing` tells
    which model inputs it is about.

    Raises OptionError for arrays that do not fit together, are not finite, or a covariance that is none: not
    symmetric, or without any variance.
    """

    mu: Doubles
    cov: Doubles
    patch: int
    low: Doubles | None = None
    high: Doubles | None = None
    ridge: float = RIDGE
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("mu", "cov", "low", "high"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, _finite(name, value))
        self._vet_shapes()
        self._vet_bounds()
        if not 0.0 <= self.ridge < np.inf:
            raise OptionError(f"gaussian: ridge is {self.ridge}; give 0 or more")
        asymmetry = np.abs(self.cov - self.cov.transpose(0, 2, 1)).max()
        if asymmetry > 1e-9 * np.abs(self.cov).max():
            raise OptionError("gaussian: a covariance is not symmetric")
        if (np.diagonal(self.cov, axis1=1, axis2=2) < 0).any():
            raise OptionError("gaussian: a variance is negative")
        flat = np.flatnonzero(self.cov.trace(axis1=1, axis2=2) <= 0)
        if flat.size:
            where = "the pictures" if self.joint else f"channel {int(flat[0])}"
            raise OptionError(
                f"gaussian: {where} has no variance, so nothing can be sampled; fit on pictures that differ"
            )

    def _vet_shapes(self) -> None:
        pixels = self.patch * self.patch
        if self.patch < 1 or self.mu.ndim != 2 or not self.mu.size or self.mu.shape[1] % pixels:
            raise OptionError(
                f"gaussian: means of shape {list(self.mu.shape)} are not those of {self.patch} x {self.patch} patches"
            )
        groups, size = self.mu.shape
        if self.cov.shape != (groups, size, size):
            raise OptionError(
                f"gaussian: covariances of shape {list(self.cov.shape)} do not fit means of shape {[groups, size]}"
            )
        if groups > 1 and size != pixels:
            raise OptionError(
                f"gaussian: {groups} groups of {size} pixels are neither independent nor joint channels"
            )

    def _vet_bounds(self) -> None:
        if (self.low is None) != (self.high is None):
            raise OptionError("gaussian: low and high go together")
        if self.low is None or self.high is None:
            return
        if self.low.ndim != 3 or self.low.shape[0] != self.channels or self.low.shape != self.high.shape:
            raise OptionError(
                f"gaussian: bounds of shape {list(self.low.shape)} and {list(self.high.shape)} are not (channels, "
                f"height, width) of {self.channels} channels"
            )
        if (self.low > self.high).any():
            raise OptionError("gaussian: a lower bound is above the upper one")

    @property
    def channels(self) -> int:
        return self.mu.size // (self.patch * self.patch)

    @property
    def joint(self) -> bool:
        """Whether channels are correlated; the same for one channel."""
        return len(self.mu) < self.channels

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) of the pictures, where the bounds are those of every pixel."""
        if self.low is None or self.low.shape[1:] == (1, 1):
            return None
        return self.low.shape[1], self.low.shape[2]

    @cached_property
    def digest(self) -> str:
        """sha256 of all the numbers."""
        whole = hashlib.sha256(f"{self.patch} {self.ridge!r}".encode())
        for array in (self.mu, self.cov, self.low, self.high):
            if array is not None:
                whole.update(f"{array.shape}".encode() + np.ascontiguousarray(array).tobytes())
        return whole.hexdigest()

    def __str__(self) -> str:
        kind = "joint" if self.joint else "independent"
        channels = f"{self.channels} {kind} channels" if self.channels > 1 else "1 channel"
        return f"Gaussian of {self.patch} x {self.patch} patches, {channels}, sha256 {self.digest}"

    @cached_property
    def covariance(self) -> Doubles:
        """Σ with the ridge on its diagonal, (groups, D, D)."""
        size = self.cov.shape[1]
        ridge = self.ridge * self.cov.trace(axis1=1, axis2=2) / size
        return np.asarray(self.cov + ridge[:, None, None] * np.eye(size))


@dataclass(frozen=True)
class Offset:
    """A window at one place of its patch: inner are its pixels, outer the others. slope K = Σ_ab Σ_bb⁻¹, (groups,
    inner, outer); spread Σ_aa - K Σ_ba, (groups, inner, inner)."""

    inner: npt.NDArray[np.int64]
    outer: npt.NDArray[np.int64]
    slope: Doubles
    spread: Doubles

    @cached_property
    def root(self) -> Doubles:
        """The Cholesky factor of the spread. OptionError where it has none."""
        try:
            return np.asarray(np.linalg.cholesky(self.spread), np.float64)
        except np.linalg.LinAlgError as error:
            raise OptionError(
                "gaussian: a conditional covariance is not positive definite; give it a larger ridge"
            ) from error


class Surroundings:
    """p(window | the rest of its patch) at the windows of one picture, planes (channels, height, width).

    The patch lies around the window, ⌊(l - k)/2⌋ before it, and is shifted inside at borders, so that the window is
    then off its centre. Matrices are made once for every place of a window in its patch, at most (l - k + 1)².

    Raises OptionError for a window larger than the patch, a patch larger than the picture, other channels, or bounds
    of pictures of another size.
    """

    def __init__(self, gaussian: Gaussian, planes: Array, window: tuple[int, int]) -> None:
        self.gaussian, self.planes, self.window = gaussian, np.asarray(planes, np.float64), window
        vet_fit(gaussian, self.planes.shape, window)
        self._offsets: dict[tuple[int, int], Offset] = {}
        side = (gaussian.patch, gaussian.patch)
        self._patches = np.lib.stride_tricks.sliding_window_view(self.planes, side, axis=(1, 2))

    def corners(self, places: Places) -> Places:
        """Row and column of the patch of every window, (m, 2)."""
        patch = self.gaussian.patch
        before = (patch - np.asarray(self.window)) // 2
        last = np.asarray(self.planes.shape[1:]) - patch
        return np.asarray(np.clip(np.asarray(places) - before, 0, last))

    def offset(self, row: int, column: int) -> Offset:
        """The matrices of a window at (row, column) of its patch. OptionError for a singular covariance."""
        key = (row, column)
        if key not in self._offsets:
            self._offsets[key] = self._make(row, column)
        return self._offsets[key]

    def _make(self, row: int, column: int) -> Offset:
        of, (height, width) = self.gaussian, self.window
        mask = np.zeros((of.mu.shape[1] // of.patch**2, of.patch, of.patch), bool)
        mask[:, row : row + height, column : column + width] = True
        a, b = np.flatnonzero(mask), np.flatnonzero(~mask)
        sigma = of.covariance
        across = sigma[:, a[:, None], b]
        try:
            slope = np.linalg.solve(sigma[:, b[:, None], b], across.transpose(0, 2, 1)).transpose(0, 2, 1)
        except np.linalg.LinAlgError as error:
            raise OptionError("gaussian: the covariance is singular; give it a ridge above 0") from error
        spread = sigma[:, a[:, None], a] - slope @ across.transpose(0, 2, 1)
        return Offset(
            a,
            b,
            np.ascontiguousarray(slope, np.float64),
            np.asarray((spread + spread.transpose(0, 2, 1)) / 2),
        )

    def means(self, places: Places) -> Doubles:
        """Conditional means μ_a + K (x_b - μ_b) of windows (m, 2), as (m, channels, height, width). Not clipped."""
        places = np.asarray(places)
        inner = self.window[0] * self.window[1] * self.gaussian.channels
        found = np.empty((len(places), inner))
        for members, offset, corners in self._shared(places):
            x = self._patches[:, corners[:, 0], corners[:, 1]].transpose(1, 0, 2, 3)
            x = x.reshape(len(members), *self.gaussian.mu.shape)
            mu = self.gaussian.mu
            rest = x[:, :, offset.outer] - mu[:, offset.outer]
            mean = mu[:, offset.inner] + _each(offset.slope, rest)
            found[members] = mean.reshape(len(members), inner)
        return found.reshape(len(places), self.gaussian.channels, *self.window)

    def samples(self, places: Places, count: int, random: Random) -> Doubles:
        """Samples of windows (m, 2), as (m, count, channels, height, width), clipped to the bounds. Sample s of a
        window depends on its place and `random` alone, not on the count or the other windows."""
        places = np.asarray(places)
        groups = len(self.gaussian.mu)
        inner = self.window[0] * self.window[1] * self.gaussian.channels // groups
        normal = [random(int(r), int(c)).standard_normal((count, groups, inner)) for r, c in places]
        noise = np.stack(normal) if normal else np.empty((0, count, groups, inner))
        for members, offset, _ in self._shared(places):
            noise[members] = _each(offset.root, noise[members])
        shape = (len(places), count, self.gaussian.channels, *self.window)
        return self._clipped(self.means(places)[:, None] + noise.reshape(shape), places)

    def _shared(self, places: Places) -> list[tuple[npt.NDArray[np.int64], Offset, Places]]:
        """Windows by where they lie in their patch: their indices, the matrices, and the corners of their patches."""
        corners = self.corners(places)
        keys, which = np.unique(places - corners, axis=0, return_inverse=True)
        groups = [np.flatnonzero(which.reshape(-1) == i) for i in range(len(keys))]
        return [(m, self.offset(int(r), int(c)), corners[m]) for m, (r, c) in zip(groups, keys, strict=True)]

    def _clipped(self, values: Doubles, places: Places) -> Doubles:
        low, high = self.gaussian.low, self.gaussian.high
        if low is None or high is None:
            return values
        if self.gaussian.size is None:
            return np.clip(values, low, high)
        for value, (r, c) in zip(values, places, strict=True):
            part = (slice(None), slice(r, r + self.window[0]), slice(c, c + self.window[1]))
            np.clip(value, low[part], high[part], out=value)
        return values


def vet_fit(gaussian: Gaussian, shape: tuple[int, ...], window: tuple[int, int]) -> None:
    """Raises OptionError where a Gaussian and a window do not fit planes of a shape (channels, height, width)."""
    channels, height, width = shape
    patch = gaussian.patch
    if gaussian.channels != channels:
        raise OptionError(
            f"the Gaussian is one of {gaussian.channels} channels, the image has {channels}; fit one on its like"
        )
    if max(window) > patch:
        raise OptionError(
            f"a window of {window[0]} x {window[1]} does not fit the outer patch, {patch} x {patch}; give a smaller k, "
            "or fit a Gaussian of larger patches"
        )
    if patch > min(height, width):
        raise OptionError(
            f"the outer patch, {patch} x {patch}, does not fit the image, {height} x {width}; fit a Gaussian of "
            "smaller patches"
        )
    if gaussian.size not in (None, (height, width)):
        own = " x ".join(str(n) for n in gaussian.size or ())
        raise OptionError(
            f"the Gaussian was fitted on pictures of {own}, the image is {height} x {width}; fit one on its like"
        )


def save_gaussian(gaussian: Gaussian, path: str | os.PathLike[str]) -> Path:
    """Write a Gaussian, whole or not at all: plain arrays and a JSON text. Raises OptionError where it cannot be
    written."""
    arrays: dict[str, npt.NDArray[Any]] = {"mu": gaussian.mu, "cov": gaussian.cov}
    if gaussian.low is not None and gaussian.high is not None:
        arrays |= {"low": gaussian.low, "high": gaussian.high}
    about = {"patch": gaussian.patch, "ridge": gaussian.ridge, "provenance": dict(gaussian.provenance)}
    return write_archive(path, arrays, {"kind": KIND, **about})


def load_gaussian(path: str | os.PathLike[str]) -> Gaussian:
    """Read what `save_gaussian` wrote. Raises OptionError for a file that is missing, damaged, or something else."""
    arrays, meta = read_archive(path, KIND, "a Gaussian", "fit gaussian")
    try:
        patch, ridge = meta["patch"], float(meta["ridge"])
        if not isinstance(patch, int) or set(arrays) - {"mu", "cov", "low", "high"}:
            raise ValueError("it holds other things than a Gaussian")
        return Gaussian(patch=patch, ridge=ridge, provenance=dict(meta["provenance"]), **arrays)
    except (OptionError, ValueError, TypeError, LookupError) as error:
        raise damaged(path, "a Gaussian", error, "fit gaussian") from error


def _each(matrices: Doubles, vectors: Doubles) -> Doubles:
    """Matrices (groups, a, b) times vectors (..., groups, b), one product at a time: BLAS rounds a product of several
    at once otherwise, and a fill must not depend on its batch."""
    return np.asarray((matrices @ vectors[..., None])[..., 0])


def _finite(name: str, value: npt.ArrayLike) -> Doubles:
    array = np.asarray(value)
    if array.dtype.kind not in "fiu" or not np.isfinite(array).all():
        raise OptionError(f"gaussian: {name} is {array.dtype}, or holds NaN or infinity")
    return np.asarray(array, np.float64)


__all__ = ["Gaussian", "Offset", "Surroundings", "load_gaussian", "save_gaussian", "vet_fit"]
