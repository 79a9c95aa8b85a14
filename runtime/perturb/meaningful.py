"""Meaningful perturbation: the smallest smooth mask whose deletion takes the class away, by Adam on a compiled loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from ...rewriter.compile import Request, compile_source
from ...rewriter.errors import ModelError, OptionError
from ...rewriter.memory import MANY
from ...rules.checks import number, whole
from ...rules.methods_optimised import MEANINGFUL_PERTURBATION
from ...rules.optimised import DELETED, GRADIENT, LOSS, MASK, NULL, SCORE
from ..lanes import Progress
from ..opening import open_session
from ..session import run
from .backdrop import backdrop, check_backdrop
from .descent import Adam, Floats, trimmed
from .probing import Array, Prober
from .technique import Drawn, Knob, Technique, setting

ENOUGH = 0.99
"""Of what deleting all of the image takes away from the score: what the first disc has to take away (Fong 2017)."""
COTANGENT = "cotangent"

Shift: TypeAlias = tuple[int, int]
"""Rows and columns."""


@dataclass(frozen=True)
class MeaningfulSettings:
    iterations: int = setting(300, "steps of Adam, a forward and a backward pass each")
    rate: float = setting(0.1, "step size of Adam")
    lambda1: float = setting(1e-4, "weight of Σ|1 - m|, what is deleted")
    lambda2: float = setting(1e-2, "weight of Σ|∂m|^β, the roughness of the mask")
    beta: float = setting(3.0, "β, the power of the differences of neighbouring cells, at least 1")
    cell: int = setting(8, "pixels of a cell of the mask along each side")
    blur: float = setting(5.0, "σ in pixels of the blur of the mask; 0: none")
    value: float | str | tuple[float, ...] = setting(
        "blur:10", "what shows through, as the model sees it: a number, mean, blur or blur:SIGMA"
    )
    jitter: int = setting(
        4, "pixels that the image is moved over from step to step, half of them to each side"
    )
    discs: int = setting(10, "discs tried as first masks, the last one covers all; 0: begin with 1/2")
    start: npt.NDArray[np.float32] | None = field(
        default=None,
        metadata={
            "help": "first mask (height, width) in [0, 1], 1 keeps, in place of a disc: its size is the mask's"
        },
    )
    seed: int = setting(0, "of the jitter")

    def __post_init__(self) -> None:
        whole(1, 1 << 30)("iterations", self.iterations)
        number(0.0, above=True)("rate", self.rate)
        for name in ("lambda1", "lambda2", "blur"):
            number(0.0)(name, getattr(self, name))
        number(1.0)("beta", self.beta)
        whole(1, 1 << 16)("cell", self.cell)
        whole(0, 1 << 16)("jitter", self.jitter)
        whole(0, 1 << 16)("discs", self.discs)
        whole(0, (1 << 63) - 1)("seed", self.seed)
        check_backdrop(self.value)
        if self.start is not None:
            _vet_start(np.asarray(self.start))

    @property
    def tried(self) -> int:
        """Discs that are evaluated."""
        return 0 if self.start is not None else self.discs

    def cells(self, size: tuple[int, int]) -> tuple[int, int]:
        """Height and width of the mask. OptionError where it has more cells than the image has pixels, or the image is
        smaller than a cell."""
        if self.start is not None:
            high, wide = np.asarray(self.start).shape
            if high > size[0] or wide > size[1]:
                raise OptionError(
                    f"start: a mask of {high} x {wide} is larger than the image, {size[0]} x {size[1]}"
                )
            return high, wide
        if self.cell > min(size):
            raise OptionError(f"cell={self.cell} is larger than the image, {size[0]} x {size[1]}")
        return -(-size[0] // self.cell), -(-size[1] // self.cell)


def _vet_start(mask: npt.NDArray[np.float32]) -> None:
    fits = mask.ndim == 2 and mask.size and mask.dtype.kind == "f"
    if not fits or not bool(np.isfinite(mask).all()) or mask.min() < 0 or mask.max() > 1:
        raise OptionError(
            f"start: {mask.dtype} of shape {list(mask.shape)}; give floats from 0 to 1, (height, width)"
        )


@dataclass(frozen=True)
class Deletion:
    """mask m (h, w), its last one; deleted 1 - M (H, W); losses before every step; score p_c of the image behind the
    last mask, without jitter; disc: number of the first mask among the discs, smallest first, None for another one."""

    mask: Array
    deleted: Array
    losses: tuple[float, ...]
    score: float
    disc: int | None


class Objective:
    """The compiled loss of a mask at the prober's image: `rules.optimised.deletion`. planes: the image; null: what
    shows through. Raises OptionError for settings that do not fit the image, ImageError where it is no picture, and
    what the compiler raises."""

    def __init__(self, prober: Prober, s: MeaningfulSettings) -> None:
        self.prober, self.settings, self.x = prober, s, prober.of.x
        self.cells, self.planes = s.cells(prober.size), prober.planes
        self.null: Array = np.asarray(backdrop(self.planes, s.value), self.planes.dtype)
        score = prober.of.score
        head = {"probability": "logits", "logit": "logits", "output": "prob"}.get(score, score)
        options = {
            **{"lambda1": s.lambda1, "lambda2": s.lambda2, "beta": s.beta, "blur": s.blur},
            "score": "probability" if score == "probability" else "value",
        }
        request = Request(
            target=COTANGENT,
            output=prober.asked.output,
            head=head,
            shapes={self.x.name: tuple(self.x.shape)},
            preprocessing={"layout": "NCHW" if prober.of.channel_axis == 1 else "NHWC"},
            options=options,
        )
        model, card = compile_source(prober.source, MEANINGFUL_PERTURBATION, request)
        asked = prober.asked
        self.descending, self.looking = (
            open_session(
                trimmed(model, outputs), None, asked.providers, threads=asked.threads, cache=asked.cache
            )
            for outputs in ((LOSS, GRADIENT), (SCORE, DELETED))
        )
        like = next(node for node in self.descending.get_inputs() if node.name == COTANGENT)
        shape = [1 if dim == MANY else dim for dim in like.shape]
        if not all(isinstance(n, int) for n in shape):
            raise ModelError(
                f"the size of {card.target['head']!r} is not known; fix it with shapes of the model"
            )
        self.one = tuple(int(n) for n in shape)
        self.rows = self.x.shape[0] if isinstance(self.x.shape[0], int) else 1

    def slope(self, mask: Floats, c: int, by: Shift = (0, 0)) -> tuple[float, Floats]:
        """Loss and its gradient (h, w), the image and what shows through moved."""
        found = run(self.descending, self._feeds(mask, c, by))
        loss, gradient = float(found[LOSS][0, 0]), np.asarray(found[GRADIENT][0, 0], np.float64)
        if not np.isfinite(loss) or not np.isfinite(gradient).all():
            raise ModelError("the loss of a mask, or its gradient, is NaN or Inf")
        return loss, gradient

    def look(self, mask: Floats, c: int) -> tuple[float, Array]:
        """The score behind the mask, and 1 - M (H, W)."""
        found = run(self.looking, self._feeds(mask, c, (0, 0)))
        deleted = np.clip(np.asarray(found[DELETED][0, 0], np.float32), 0, 1)  # rounding of weights of sum 1
        return float(found[SCORE][0, 0]), np.asarray(deleted)

    def _feeds(self, mask: Floats, c: int, by: Shift) -> dict[str, npt.NDArray[np.generic]]:
        dtype = np.dtype(self.x.dtype)
        hot = np.zeros(self.one, dtype)
        hot.flat[c] = 1
        feeds = {
            self.x.name: self.prober.in_layout(moved(self.planes, by)[None]),
            NULL: self.prober.in_layout(moved(self.null, by)[None]),
            MASK: np.asarray(mask[None, None], dtype),
            COTANGENT: hot,
        }
        return {name: np.repeat(value, self.rows, axis=0) for name, value in feeds.items()}


def delete(of: Objective, c: int, tell: Callable[[], None] = lambda: None) -> Deletion:
    """Minimise the loss for element c of the scores.

    Adam from the smallest centred disc that takes away 99 % of what deleting everything does (from 1/2 where that
    takes nothing away), the mask clipped to [0, 1] after every step; at each the image and what shows through are moved
    by a random whole number of pixels, borders repeated, so that the mask fits no artefact of one position
    [Fong & Vedaldi 2017 section 4; docs/methods/perturbed.md]. tell: called after every forward pass.
    `prober.forwards` counts an iteration as one, and a disc as one. ModelError where the loss is not finite.
    """

    def counted() -> None:
        of.prober.forwards += 1
        tell()

    s, disc = of.settings, None
    if s.start is not None:
        mask = np.asarray(s.start, np.float64)
    else:
        disc, mask = _first(of, c, counted)
    adam, moments, losses = Adam(s.rate), None, list[float]()
    rng = np.random.default_rng(s.seed)
    for _ in range(s.iterations):
        by = rng.integers(-(s.jitter // 2), s.jitter - s.jitter // 2, size=2, endpoint=True)
        loss, gradient = of.slope(mask, c, (int(by[0]), int(by[1])))
        mask, moments = adam.step(mask, gradient, moments)
        mask = np.clip(mask, 0.0, 1.0)
        losses.append(loss)
        counted()
    score, deleted = of.look(mask, c)
    return Deletion(np.asarray(mask, np.float32), deleted, tuple(losses), score, disc)


def _first(of: Objective, c: int, counted: Callable[[], None]) -> tuple[int | None, Floats]:
    """The first mask, and which disc it is."""
    masks, scores = discs(of.cells, of.settings.discs), list[float]()
    for mask in masks:
        scores.append(of.look(mask, c)[0])
        counted()
    whole = float(of.prober.base[c])
    if scores and scores[-1] < whole:
        for i, score in enumerate(scores):
            if whole - score >= ENOUGH * (whole - scores[-1]):
                return i, masks[i]
    return None, np.full(of.cells, 0.5)


def discs(cells: tuple[int, int], count: int) -> Floats:
    """(count, h, w): 0 inside centred discs of growing radius, 1 outside, a ramp of one cell between; the last one is 0
    everywhere."""
    axes = [np.arange(n) - (n - 1) / 2 for n in cells]
    away = np.hypot(axes[0][:, None], axes[1])
    radii = np.arange(1, count + 1) / max(1, count) * (away.max() + 0.5)
    return np.asarray(np.clip(away - radii[:, None, None] + 0.5, 0.0, 1.0))


def moved(planes: Array, by: Shift) -> Array:
    """Planes (C, H, W) moved by so many rows and columns, the border pixels repeated."""
    for axis, shift in zip((1, 2), by, strict=True):
        if shift:
            n = planes.shape[axis]
            planes = planes.take(np.clip(np.arange(n) - shift, 0, n - 1), axis=axis)
    return planes


def count_meaningful(prober: Prober, s: MeaningfulSettings) -> int:
    """Of one class."""
    s.cells(prober.size)
    return s.iterations + s.tried


def run_meaningful(
    prober: Prober, s: MeaningfulSettings, classes: Sequence[int], tell: Progress | None
) -> Drawn:
    """1 - M of each class. The record keeps the first and last loss, and the score behind the mask."""
    of, total, done = Objective(prober, s), len(classes) * count_meaningful(prober, s), 0

    def step() -> None:
        nonlocal done
        done += 1
        if tell is not None:
            tell(done, total)

    found = [delete(of, c, step) for c in classes]
    notes = {
        "mask": list(of.cells),
        "first_losses": [one.losses[0] for one in found],
        "last_losses": [one.losses[-1] for one in found],
        "scores_behind_masks": [one.score for one in found],
        "first_discs": [one.disc for one in found],
    }
    return Drawn(np.stack([one.deleted for one in found]), notes)


MEANINGFUL = Technique(
    name="meaningful-perturbation",
    title="Meaningful perturbation: the smallest mask that deletes the class",
    source="Fong & Vedaldi 2017 section 4; Ayyar 2021 section 2.1",
    settings=MeaningfulSettings,
    forwards=count_meaningful,
    run=run_meaningful,
    display="max",
    cost="iterations + discs a class, an iteration with a backward pass",
    lighter=(Knob("iterations", lambda s: int(s.iterations), lambda s: min(int(s.iterations), 50)),),
    per_class=True,
    trial=lambda s: replace(s, discs=0),  # discs take no backward pass
)

__all__ = ["MEANINGFUL", "Deletion", "MeaningfulSettings", "Objective", "delete", "discs", "moved"]
