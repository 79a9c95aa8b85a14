"""The scores of a model at changed copies of one image: what every perturbation method is made of."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from ...rewriter.cone.emit import compile_cone
from ...rewriter.errors import ImageError, ModelError, OptionError, TargetError
from ...rewriter.load import Source, load
from ...rewriter.rows import Along
from ...rewriter.scores import FILL, MASK, Scored, masked_model, score_model, scored
from ..compiling import Model
from ..lanes import Progress
from ..opening import open_session
from ..session import run
from .incremental import Incremental, groups_for

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

    from ..providers import Provider

Array: TypeAlias = npt.NDArray[np.float32]
Places: TypeAlias = npt.NDArray[np.int64]
Fills: TypeAlias = Callable[[npt.NDArray[np.int64]], Array]
"""Indices (b,) of windows -> what they are filled with, (b, channels, height, width), in the model's input space."""

ENGINES = ("auto", "full", "incremental")
WORTH = 1.3
"""Saving from which "auto" takes the incremental engine."""


@dataclass(frozen=True)
class Asked:
    """What decides the files and runs besides the model and the image. score: see `rewriter.scores.Scored`. batch:
    copies of a run. engine: how windows are evaluated; "incremental" recomputes only what a window reaches, "full"
    runs whole copies, "auto" takes the incremental one where it is expected to pay."""

    score: str = "probability"
    output: str | None = None
    batch: int = 32
    engine: str = "auto"
    preprocessing: Mapping[str, Any] | None = None
    providers: str | Sequence[Provider] | None = None
    threads: int | None = None
    cache: str | os.PathLike[str] | None = None


class Prober:
    """One model at one image (1, *x). `forwards` counts the copies that were evaluated: a window is one forward pass
    in the papers' count, however little of it was recomputed.

    Raises ImageError for a batch of several images or one of a wrong shape, OptionError for settings out of range, and
    what `rewriter.scores.scored` raises.
    """

    def __init__(self, model: Model, image: npt.ArrayLike, asked: Asked | None = None) -> None:
        self.asked = asked or Asked()
        if self.asked.batch < 1:
            raise OptionError(f"batch is {self.asked.batch}; give 1 or more")
        if self.asked.engine not in ENGINES:
            raise OptionError(f"engine {self.asked.engine!r} is none of {', '.join(ENGINES)}")
        self.source = model if isinstance(model, Source) else load(model)
        x = np.asarray(image)
        self.of = self._prepared(x)
        self.image: Array = np.ascontiguousarray(x, self.of.x.dtype)
        self.forwards = 0
        self.engines: dict[tuple[int, int], str] = {}
        """Size of window -> how it was evaluated, and why."""
        self._cones: dict[tuple[tuple[int, int], tuple[int, int]], Incremental | None] = {}

    def _prepared(self, x: npt.NDArray[Any]) -> Scored:
        """The model for images of this size; made a second time only where the model takes several."""
        if x.ndim < 2 or x.shape[0] != 1:
            raise ImageError(f"the image has shape {list(x.shape)}; give one image with a batch axis of 1")
        if not np.isfinite(x).all():
            raise ImageError("the image holds NaN or Inf")
        a = self.asked
        asked: dict[str, Any] = {"output": a.output, "preprocessing": a.preprocessing}
        of = scored(self.source, a.score, **asked)
        shape = of.x.shape
        if (
            shape is None
            or len(shape) != x.ndim
            or any(isinstance(n, int) and n != m for n, m in zip(shape[1:], x.shape[1:], strict=True))
        ):
            raise ImageError(f"input {of.x.name!r} takes {shape}, not {list(x.shape)}")
        if all(isinstance(n, int) for n in shape[1:]):
            return of
        return scored(self.source, a.score, shapes={of.source: (shape[0], *x.shape[1:])}, **asked)

    @property
    def spatial_axes(self) -> tuple[int, int]:
        """Rows and columns of the image. ImageError where it is no picture."""
        axes = self.of.spatial_axes
        if len(axes) != 2:
            raise ImageError(f"windows and segments need a picture, not an input of shape {self.of.x.shape}")
        return axes[0], axes[1]

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        rows, columns = self.spatial_axes
        return self.image.shape[rows], self.image.shape[columns]

    @property
    def channels(self) -> int:
        return int(self.image.shape[self.of.channel_axis])

    @cached_property
    def planes(self) -> Array:
        """The image channel first, (channels, height, width)."""
        return np.ascontiguousarray(np.moveaxis(self.image, self.of.channel_axis, 1)[0])

    def in_layout(self, planes: Array) -> Array:
        """(b, channels, height, width) -> the model's layout."""
        made: Array = np.moveaxis(planes, 1, self.of.channel_axis).astype(
            self.of.x.dtype, order="C", copy=False
        )
        return made

    @cached_property
    def session(self) -> InferenceSession:
        """Of the model with scores as its output."""
        a = self.asked
        return open_session(score_model(self.of), None, a.providers, threads=a.threads, cache=a.cache)

    @cached_property
    def masking(self) -> InferenceSession:
        a = self.asked
        return open_session(masked_model(self.of), None, a.providers, threads=a.threads, cache=a.cache)

    @property
    def chunk(self) -> int:
        """Copies of a run; a model whose batch is fixed takes no other number."""
        fixed = self.of.x.shape[0]
        return fixed if isinstance(fixed, int) else self.asked.batch

    @cached_property
    def base(self) -> Array:
        """The scores of the image itself, (K,)."""
        found: Array = self.scores(self.image)[0]
        if self.of.softmaxed and len(found) == 1:  # as is only known now
            raise TargetError(
                f"{self.of.read.name!r} is a single number and has no softmax; take score='output'"
            )
        return found

    @property
    def top(self) -> int:
        """The class with the largest score."""
        return int(self.base.argmax())

    def scores(self, copies: Array) -> Array:
        """Scores (b, K) of b inputs (b, *x); runs of `chunk`. Not counted in `forwards`. ModelError for NaN."""
        found = []
        for start in range(0, len(copies), self.chunk):
            part = copies[start : start + self.chunk]
            found.append(self._run(self.session, {self.of.x.name: self._filled(part)})[: len(part)])
        return np.concatenate(found)

    def _filled(self, part: Array) -> Array:
        """A part of a batch padded to the size that a model with a fixed batch takes."""
        fixed = self.of.x.shape[0]
        if not isinstance(fixed, int) or len(part) == fixed:
            return part
        return np.concatenate([part, np.repeat(part[-1:], fixed - len(part), axis=0)])

    def _run(self, session: InferenceSession, feeds: dict[str, npt.NDArray[Any]]) -> Array:
        (found,) = run(session, feeds).values()
        if not np.isfinite(found).all():
            raise ModelError("the scores of a changed copy hold NaN or Inf")
        return cast(Array, found)

    def masked(
        self,
        masks: Array | Callable[[npt.NDArray[np.int64]], Array],
        count: int,
        fill: Array,
        classes: Sequence[int] | None = None,
        tell: Progress | None = None,
    ) -> Array:
        """Scores (count, K or len(classes)) of x m + fill (1 - m).

        masks: (count, height, width) in [0, 1], or a function from indices to them, asked for a run at a time. fill:
        (channels, 1 or height, 1 or width). tell: called with (done, count) after every run.
        """
        make = masks if callable(masks) else masks.__getitem__
        whole = np.broadcast_to(fill, self.planes.shape)[None]
        filled = self.in_layout(np.asarray(whole, np.float32))
        found = []
        for start in range(0, count, self.chunk):
            index = np.arange(start, min(start + self.chunk, count))
            part = self._filled(self.in_layout(np.asarray(make(index), np.float32)[:, None]))
            feeds = {self.of.x.name: self.image, FILL: filled, MASK: part}
            found.append(_columns(self._run(self.masking, feeds)[: len(index)], classes))
            self._count(len(index), start, count, tell)
        return np.concatenate(found)

    def windows(
        self,
        places: Places,
        size: tuple[int, int],
        fills: Fills,
        classes: Sequence[int] | None = None,
        tell: Progress | None = None,
        cone: Incremental | None = None,
    ) -> Array:
        """Scores (P, K or len(classes)) of copies with one window filled.

        places: (P, 2), row and column of the top left corner; a place may come several times. size: (height, width) of
        the window. fills: see `Fills`; indices may come in any order. cone: of `incremental`, made for more windows
        than these; by default the one for their number. OptionError for a window that leaves the image.
        """
        self._vet(places, size)
        found = np.empty((len(places), len(self.base) if classes is None else len(classes)), np.float32)
        done, cone = 0, cone or self.incremental(size, len(places))
        for index in self._runs(places, cone):
            fill = np.asarray(fills(index), self.of.x.dtype, order="C")
            if cone is None:
                scores = self.scores(self.in_layout(self._pasted(places[index], size, fill)))
            else:
                scores = self._run(cone.session, cone.feeds(places[index], fill))
            found[index] = _columns(scores, classes)
            self._count(len(index), done, len(places), tell)
            done += len(index)
        return found

    def _runs(self, places: Places, cone: Incremental | None) -> Iterator[npt.NDArray[np.int64]]:
        """Indices of the windows of each run."""
        if cone is not None:
            yield from cone.runs(places)
            return
        for start in range(0, len(places), self.chunk):
            yield np.arange(start, min(start + self.chunk, len(places)))

    def _pasted(self, places: Places, size: tuple[int, int], fill: Array) -> Array:
        copies = np.repeat(self.planes[None], len(places), axis=0)
        for copy, (r, c), new in zip(copies, places, fill, strict=True):
            copy[:, r : r + size[0], c : c + size[1]] = new
        return copies

    def incremental(self, size: tuple[int, int], count: int) -> Incremental | None:
        """The incremental engine for so many windows of one size, made once; None where whole copies are run."""
        asked = self.asked.engine
        if asked == "full" or (asked == "auto" and count < self.chunk):
            return None
        key = (size, groups_for(count, self.asked.batch))
        if key not in self._cones:
            self._cones[key] = self._compiled(*key)
        return self._cones[key]

    def _compiled(self, size: tuple[int, int], groups: tuple[int, int]) -> Incremental | None:
        problem = ""
        place = self.of.graph.rows.place(self.of.read.name)
        if isinstance(self.of.x.shape[0], int) and self.of.x.shape[0] != 1:
            problem = f"its batch is fixed at {self.of.x.shape[0]}"
        elif place != Along(0):
            problem = f"samples of {self.of.read.name!r} are not counted along its axis 0"
        else:
            cone = compile_cone(self.of, size, groups)
            nested = cone.nested
            if nested:
                problem = f"{nested[0]} has a subgraph"
            elif self.asked.engine == "incremental" or cone.plan.saving > WORTH:
                self.engines[size] = f"incremental, {cone.plan.gain:.1f} times fewer multiplications"
                a = self.asked
                return Incremental(
                    cone,
                    self.image,
                    lambda model: open_session(model, None, a.providers, threads=a.threads, cache=a.cache),
                    a.batch,
                )
            else:
                problem = f"a cone saves only a factor of {cone.plan.saving:.1f}"
        if self.asked.engine == "incremental":
            raise OptionError(f"engine='incremental': {problem}; take engine='full'")
        self.engines[size] = f"full: {problem}"
        return None

    def _vet(self, places: Places, size: tuple[int, int]) -> None:
        for name, given, length in zip(("high", "wide"), size, self.size, strict=True):
            if not 1 <= given <= length:
                raise OptionError(
                    f"a window {given} {name} does not fit the image, {self.size[0]} x {self.size[1]}"
                )
        ends = np.asarray(places) + np.asarray(size)
        if len(places) and (np.min(places) < 0 or (ends > np.asarray(self.size)).any()):
            raise OptionError("a window lies outside of the image")

    def _count(self, made: int, start: int, count: int, tell: Progress | None) -> None:
        self.forwards += made
        if tell is not None:
            tell(start + made, count)


def _columns(scores: Array, classes: Sequence[int] | None) -> Array:
    return scores if classes is None else scores[:, list(classes)]


__all__ = ["ENGINES", "Array", "Asked", "Fills", "Places", "Prober"]
