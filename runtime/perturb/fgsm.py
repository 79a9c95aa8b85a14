"""How far a picture is from being taken for something else: a sweep of single gradient steps."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ...rewriter.errors import ImageError, OptionError
from ...rewriter.load import load
from ...rewriter.scores import score_model, scored
from ...rules.adversarial import ADVERSARIAL
from ..compiling import Model, compile, description
from ..explainer import Explainer
from ..opening import open_session
from ..session import run
from ..telling import ZERO, Finding, warn

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

    from ..providers import Provider

Floats = npt.NDArray[np.floating[Any]]

SWEEP = tuple(step / 255 for step in (0.25, 0.5, 1.0, 2.0, 4.0, 8.0))
"""Of the pixels' range: a quarter of a grey level to eight (docs/methods/perturbed.md)."""


@dataclass(frozen=True)
class Flips:
    """eps (E,): what was tried, rising. before (N,): the classes of the pictures; after (E, N): those one step away.
    smallest (N,): the first eps that changes the class, infinite where none does. pictures (N, *x): the picture at that
    eps, or at the largest one."""

    eps: tuple[float, ...]
    before: npt.NDArray[np.int64]
    after: npt.NDArray[np.int64]
    smallest: npt.NDArray[np.float64]
    pictures: Floats


def smallest_flip(
    model: Model,
    x: npt.ArrayLike,
    eps: Sequence[float] = SWEEP,
    *,
    label: int | Sequence[int] = -1,
    output: str | None = None,
    lo: float | None = None,
    hi: float | None = None,
    preprocessing: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    providers: str | Sequence[Provider] | None = None,
    threads: int | None = None,
) -> Flips:
    """The smallest ε of the sweep for which x' = clip(x + ε sign(∂CE(z, label)/∂x), lo, hi) has another class than x.

    x (N, ...): in the model's input space. eps, lo, hi: in units of the pixels' range where the preprocessing of the
    model is known, else of the input (see the method `fgsm`). label: what the loss is about, one or one a picture; -1
    is the predicted class. All ε are tried: a larger one need not flip what a smaller one does. Pictures that no step
    moves are told by an ExplainWarning.

    Raises OptionError for an empty sweep or an ε below 0, ImageError for an empty batch, and what `compile` raises.
    """
    steps, images = _vetted(eps, x)
    source = load(model)
    about = description(model, source.model, preprocessing)
    known = None if about is None or about.guessed else about.preprocessing.to_record()
    step_away = compile(
        source,
        "fgsm",
        output=output,
        preprocessing=known,
        providers=providers,
        threads=threads,
        eps="input",
        lo=lo,
        hi=hi,
    )
    step_away.tells = False  # a gradient below the smallest number still has signs
    of = scored(source, "logit", output=output)
    session = open_session(score_model(of), None, providers, threads=threads)
    images = np.ascontiguousarray(images, of.x.dtype)
    return _swept(steps, images, label, step_away, lambda pictures: _classes(session, of.x.name, pictures))


def _swept(
    steps: tuple[float, ...],
    images: Floats,
    label: int | Sequence[int],
    step_away: Explainer,
    classes: Callable[[Floats], npt.NDArray[np.int64]],
) -> Flips:
    """Every ε in turn."""
    before, after = classes(images), []
    last, smallest = images.copy(), np.full(len(images), np.inf)
    still = np.full(len(images), steps[-1] > 0)
    for step in steps:
        moved = step_away(images, target=label, eps=np.full((len(images), 1), step)).results[ADVERSARIAL]
        after.append(classes(moved))
        still &= (moved == images).reshape(len(images), -1).all(axis=1)
        going = np.isinf(smallest)
        last[going] = moved[going]
        smallest[going & (after[-1] != before)] = step
    if still.any():
        warn("fgsm", [Finding("step", ZERO, tuple(np.flatnonzero(still).tolist()), len(images))])
    return Flips(steps, before, np.stack(after), smallest, last)


def _vetted(eps: Sequence[float], x: npt.ArrayLike) -> tuple[tuple[float, ...], Floats]:
    steps, images = tuple(sorted(float(step) for step in eps)), np.asarray(x)
    if not steps or not np.isfinite(steps).all() or steps[0] < 0:
        raise OptionError(f"eps={list(eps)!r}: give at least one step, none of them below 0")
    if images.ndim < 1 or not len(images):
        raise ImageError(f"x has the shape {list(images.shape)}; give at least one picture")
    return steps, images


def _classes(session: InferenceSession, name: str, pictures: Floats) -> npt.NDArray[np.int64]:
    (found,) = run(session, {name: pictures}).values()
    return np.asarray(np.asarray(found, np.float64).argmax(axis=1), np.int64)


__all__ = ["SWEEP", "Flips", "smallest_flip"]
