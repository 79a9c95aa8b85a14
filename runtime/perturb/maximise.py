"""Activation maximisation on the host: the input, or the code of a generator, that one unit answers to most."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ...rewriter.compose import composed
from ...rewriter.draft import Dim
from ...rewriter.emit import tail_of
from ...rewriter.errors import ImageError, ModelError, OptionError, TargetError
from ...rewriter.load import Source, load
from ...rewriter.results import ATTRIBUTION
from ...rewriter.scores import Scored, scored
from ...rules.checks import number, whole
from ..compiling import Model, compile
from ..lanes import Progress
from ..opening import open_session
from ..session import run
from .backdrop import blurred
from .descent import Floats, trimmed

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

    from ..providers import Provider

Unit: TypeAlias = int | Sequence[int]
"""An element of one sample of the head: its number in row-major order, or its place along each axis."""


@dataclass(frozen=True)
class Ascent:
    """How to climb. With g = ∂a / ∂x a step is, in this order,

        x ← x + η (g - 2 λ x)                    eta, decay; unit: g / ‖g‖ in place of g
        x ← p x / ‖x‖                            norm (0: off)
        x ← (1 - θ) x                            shrink
        x ← Gaussian blur of x, every T steps     blur (σ in pixels, 0: off), every
        x_i ← 0 for pixels of small norm          small_norm, percent of all pixels
        x_i ← 0 for pixels of small |Σ_c x g|     small_share, percent of all pixels

    Lengths are those of one sample, and one of 0 is not divided by. Gu 2017 Eq. 1 is norm=p, decay=0, Eq. 2 decay=λ,
    Eq. 3 the rest (the operator r_θ), and Eq. 4 is Eq. 2 for the code of a generator. The papers give no numbers
    (docs/methods/perturbed.md).
    """

    steps: int = 200
    eta: float = 1.0
    unit: bool = True
    decay: float = 1e-2
    norm: float = 0.0
    shrink: float = 0.0
    blur: float = 0.5
    every: int = 4
    small_norm: float = 0.0
    small_share: float = 0.0
    seed: int = 0
    spread: float = 0.1
    """Standard deviation of the first image where none is given."""

    def __post_init__(self) -> None:
        whole(1, 1 << 30)("steps", self.steps)
        number(0.0, above=True)("eta", self.eta)
        for name in ("decay", "norm", "blur"):
            number(0.0)(name, getattr(self, name))
        number(0.0, above=True)("spread", self.spread)
        number(0.0, 1.0)("shrink", self.shrink)
        whole(1, 1 << 30)("every", self.every)
        for name in ("small_norm", "small_share"):
            number(0.0, 100.0)(name, getattr(self, name))
        whole(0, (1 << 63) - 1)("seed", self.seed)

    @property
    def spatial(self) -> list[str]:
        """What asks for a picture."""
        return [name for name in ("blur", "small_norm", "small_share") if getattr(self, name)]


CODE = Ascent(blur=0.0)
"""For the code of a generator."""


@dataclass(frozen=True)
class Maximised:
    """image (rows, *x); score (rows,) of the unit at it; history (steps + 1, rows), the scores from the first image to
    the last; code (rows, *code) of the generator, None without one."""

    image: npt.NDArray[Any]
    score: Floats
    history: Floats
    code: npt.NDArray[Any] | None = None


def maximise(
    model: Model,
    unit: Unit,
    start: npt.ArrayLike | None = None,
    *,
    ascent: Ascent | None = None,
    head: str = "logits",
    output: str | None = None,
    generator: Model | None = None,
    shapes: Mapping[str, Sequence[Dim]] | None = None,
    preprocessing: Mapping[str, Any] | None = None,
    providers: str | Sequence[Provider] | None = None,
    threads: int | None = None,
    cache: str | os.PathLike[str] | None = None,
    tell: Progress | None = None,
) -> Maximised:
    """Gradient ascent on one unit a of a model.

    unit: an element of the head (logits, unless `head` names another tensor; see `onnxplain.compile`). start: first
    image, (rows, *x), or first code; normal numbers of `ascent.seed` by default. generator: a model whose first output
    is the model's input; its code is then climbed, and `image` is what it makes of it. ascent: see `Ascent`; with a
    generator without blur. preprocessing: of the model, for its "layout". tell: (steps done, steps), after each.

    Raises TargetError for a unit that is not there or does not depend on the input, OptionError for settings and for a
    generator that does not fit, ImageError for blur or clipped pixels where the input is no picture, and for a start of
    another shape; ModelError where a score or a gradient is not finite; and what the compiler raises.
    """
    source, s = load(model), ascent or (Ascent() if generator is None else CODE)
    of = scored(source, "output", output=output, shapes=_shapes(shapes), preprocessing=preprocessing)
    made = None
    if generator is not None:
        if s.spatial:
            raise OptionError(f"{', '.join(s.spatial)}: a code has no pixels; set them to 0 with a generator")
        merged, made = composed(load(generator), source, of.x.name)
        source = load(merged)
        of = scored(source, "output", output=output, shapes=_shapes(shapes))
    elif s.spatial and len(of.spatial_axes) != 2:
        raise ImageError(
            f"{', '.join(s.spatial)}: the input {of.x.name!r} of shape {of.x.shape} is no picture; set 0"
        )
    climber = _open(source, unit, of, made, head=head, output=output, shapes=shapes, providers=providers,
                    threads=threads, cache=cache)  # fmt: skip
    x = _first(of, start, s)
    return _climbed(climber, s, x, tell)


def _shapes(shapes: Mapping[str, Sequence[Dim]] | None) -> dict[str, tuple[Dim, ...]] | None:
    return None if shapes is None else {name: tuple(shape) for name, shape in shapes.items()}


@dataclass(frozen=True)
class _Climber:
    """The gradient file of a unit. image: the tensor to return, where it is not the input."""

    session: InferenceSession
    of: Scored
    head: str
    index: int
    image: str | None

    def look(self, x: npt.NDArray[Any]) -> tuple[Floats, Floats, npt.NDArray[Any]]:
        """Scores (rows,), gradient and image at x."""
        found = run(self.session, {self.of.x.name: x})
        z = np.asarray(found[self.head], np.float64).reshape(len(x), -1)
        if self.index >= z.shape[1]:
            raise TargetError(
                f"unit {self.index} is out of range: {self.head!r} has {z.shape[1]} elements a sample"
            )
        g = np.asarray(found[ATTRIBUTION], np.float64)
        score = z[:, self.index]
        if not np.isfinite(g).all() or not np.isfinite(score).all():
            raise ModelError("the score of the unit, or its gradient, is NaN or Inf; take a smaller eta")
        return score, g, x if self.image is None else np.asarray(found[self.image])


def _open(source: Source, unit: Unit, of: Scored, image: str | None, **options: Any) -> _Climber:
    index = _index(unit, source, options)
    explainer = compile(source, "saliency", target=index, inputs=(of.x.name,), **options)
    name = str(explainer.card.target["head"])
    outputs = [ATTRIBUTION, name, *([] if image is None or image == name else [image])]
    session = open_session(
        trimmed(explainer.model, outputs),
        None,
        options["providers"],
        threads=options["threads"],
        cache=options["cache"],
    )
    return _Climber(session, of, name, index, image)


def _index(unit: Unit, source: Source, options: Mapping[str, Any]) -> int:
    """In row-major order. TargetError for a place that is not there."""
    if isinstance(unit, (int, np.integer)) and not isinstance(unit, bool):
        if unit < 0:
            raise TargetError(f"unit {unit} is negative; units count from 0")
        return int(unit)
    try:
        place = tuple(int(i) for i in unit)  # type: ignore[union-attr]
    except (TypeError, ValueError):
        raise TargetError(f"a unit is a number, or one along each axis, not {unit!r}") from None
    graph = scored(
        source, _score_of(options["head"]), output=options["output"], shapes=_shapes(options["shapes"])
    )
    tail = tail_of(graph.read)
    if tail is None:
        raise TargetError(f"the size of {graph.read.name!r} is not known; fix the input with shapes=")
    if len(place) != len(tail) or not all(0 <= i < n for i, n in zip(place, tail, strict=True)):
        raise TargetError(f"unit {place} is out of range: a sample of {graph.read.name!r} has shape {tail}")
    return int(np.ravel_multi_index(place, tail))


def _score_of(head: str) -> str:
    return {"logits": "logit", "prob": "output", "logprob": "output"}.get(head, head)


def _first(of: Scored, start: npt.ArrayLike | None, s: Ascent) -> npt.NDArray[Any]:
    dtype, shape = np.dtype(of.x.dtype), list(of.x.shape)
    if start is not None:
        x = np.asarray(start, dtype)
        fits = x.ndim == len(shape) and len(x) > 0
        if not fits or any(isinstance(n, int) and n != m for n, m in zip(shape, x.shape, strict=True)):
            raise ImageError(f"start has shape {list(x.shape)}; {of.x.name!r} takes {shape}")
        if not np.isfinite(x).all():
            raise ImageError("start holds NaN or Inf")
        return x
    tail = tail_of(of.x)
    if tail is None:
        raise OptionError(f"{of.x.name!r} takes {shape}; give start=, or fix its size with shapes=")
    rows = shape[0] if isinstance(shape[0], int) else 1
    draw = np.random.default_rng(s.seed).standard_normal((rows, *tail))
    return np.asarray(s.spread * draw, dtype)


def _climbed(climber: _Climber, s: Ascent, x: npt.NDArray[Any], tell: Progress | None) -> Maximised:
    history = []
    for step in range(1, s.steps + 1):
        score, g, _ = climber.look(x)
        history.append(score)
        x = np.asarray(_stepped(x.astype(np.float64), g, s, step, climber.of), x.dtype)
        if tell is not None:
            tell(step, s.steps)
    score, _, image = climber.look(x)
    history.append(score)
    return Maximised(image, score, np.stack(history), None if climber.image is None else x)


def _stepped(x: Floats, g: Floats, s: Ascent, step: int, of: Scored) -> Floats:
    """One step of `Ascent`."""
    uphill = g / _length(g) if s.unit else g
    # The decay is not divided: near a flat unit x would grow without bound.
    x = x + s.eta * (uphill - 2 * s.decay * x)
    if s.norm:
        x = s.norm * x / _length(x)
    x = (1 - s.shrink) * x
    if s.blur and step % s.every == 0:
        planes = np.moveaxis(x, of.channel_axis, 1)
        x = np.moveaxis(np.stack([blurred(one, s.blur) for one in planes]), 1, of.channel_axis)
    if s.small_norm:
        x = _clipped(x, np.sqrt((x * x).sum(axis=of.channel_axis, keepdims=True)), s.small_norm)
    if s.small_share:
        x = _clipped(x, np.abs((x * g).sum(axis=of.channel_axis, keepdims=True)), s.small_share)
    return x


def _length(v: Floats) -> Floats:
    """‖v‖ of each row, 1 for 0, broadcastable to v."""
    length = np.sqrt((v * v).sum(axis=tuple(range(1, v.ndim)), keepdims=True))
    return np.where(length == 0, 1.0, length)


def _clipped(x: Floats, weight: Floats, percent: float) -> Floats:
    """Zeros at the pixels whose weight lies below the percentile of the sample."""
    bound = np.percentile(weight, percent, axis=tuple(range(1, weight.ndim)), keepdims=True)
    return np.where(weight < bound, 0.0, x)


__all__ = ["CODE", "Ascent", "Maximised", "Unit", "maximise"]
