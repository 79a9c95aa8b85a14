"""Perturbation methods by name, for arrays and for photos."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt
from PIL import Image

from ...rewriter.errors import ModelError, OptionError
from ...rewriter.load import load
from ...rewriter.scores import KINDS
from ..arguments import vet_arguments
from ..compiling import Model, description, metadata_of
from ..describe import Description, find_labels
from ..images import Picture, opened, prepare, vet_pixels
from ..lanes import Progress
from ..pictures import class_index
from .budget import Budget, Estimate, Job, estimate, parse_budget, within
from .figure import figure
from .probing import Asked, Prober
from .registry import find_technique
from .technique import Found, Technique, class_of, perform
from .values import settled, shared_out

Target: TypeAlias = int | str | Sequence[int | str]
Photo: TypeAlias = str | os.PathLike[str] | Image.Image


def perturb(
    model: Model,
    image: npt.ArrayLike | Photo,
    method: str | Technique = "occlusion",
    *,
    target: Target = "top",
    score: str = "probability",
    output: str | None = None,
    budget: str | float | Budget | None = None,
    fit_budget: bool = False,
    engine: str = "auto",
    batch: int = 32,
    preprocessing: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    labels: str | os.PathLike[str] | Sequence[str] | None = None,
    providers: str | Sequence[Any] | None = None,
    threads: int | None = None,
    cache: str | os.PathLike[str] | None = None,
    external_data: bool = False,
    progress: Progress | None = None,
    **settings: Any,
) -> Found:
    """Explain one image by what a model says of changed copies of it.

    image: a model input (1, *x), or a photo (path, Pillow image or 8-bit pixels (H, W, 3)), prepared as the model's
    description says.
    method: a technique, or its name; see `onnxplain methods`. target: "top", a class, a name of the labels, or several
    of them: a map each. score: "probability", "logit", "output" or the name of a tensor, whose elements are then the
    classes. budget: what may be spent, "60s", "5m", or a number of forward passes; a short trial comes first, and what
    does not fit raises, unless fit_budget lets settings be changed (`found.record["changed"]`). engine: "full" runs
    whole copies, "incremental" only what a window reaches, "auto" chooses. batch: copies of a run. settings: the
    technique's own; `images`, `gaussian` and arrays may be files.

    Returns maps (classes, height, width), positive where pixels speak for the class; see `Found`.
    Raises OptionError, TargetError, ImageError, ModelError.
    """
    vet_arguments(score=score, output=output, batch=batch, preprocessing=preprocessing, labels=labels)
    vet_arguments(providers=providers, threads=threads, cache=cache)
    if not isinstance(method, (str, Technique)):
        raise OptionError(f"method is {method!r}; give one technique, or its name")
    technique = find_technique(method)
    asked = Asked(score, output, batch, engine, None, providers, threads, cache)
    opened = open_probe(model, image, asked, preprocessing, labels, external_data)
    classes = opened.classes([target] if isinstance(target, (int, str)) else target)
    jobs = opened.jobs([technique], settings, len(classes))
    if budget is not None:
        given = parse_budget(budget)
        tried = jobs if given.seconds is None else opened.tried(jobs, classes)
        jobs = within(opened.prober, tried, given, fit_budget)
    found = opened.run(jobs[0], classes, progress)
    return dataclasses.replace(found, record={**found.record, "windows": opened.engines})


@dataclass(frozen=True)
class Opened:
    """A model at one image. about: how photos are prepared, None for inputs that are none. labels: names of the
    scores. shown: the photo as the model sees it, None for an array."""

    prober: Prober
    about: Description | None
    labels: tuple[str, ...] | None
    shown: Image.Image | None

    def classes(self, targets: Sequence[int | str]) -> tuple[int, ...]:
        """Indices of scores, each once. "top" and -1 are the largest. TargetError for what is none."""
        found = []
        for target in targets:
            index = -1 if target == "top" else class_index(target, self._names())
            found.append(class_of(index, self.prober))
        return tuple(dict.fromkeys(found))

    def _names(self) -> tuple[str, ...] | None:
        """Labels, where the scores are those of classes."""
        fits = self.labels is not None and len(self.labels) == len(self.prober.base)
        return self.labels if fits and self.prober.of.score in KINDS else None

    @property
    def engines(self) -> dict[str, str]:
        """Size of windows -> how they were evaluated, and why."""
        return {f"{height} x {width}": how for (height, width), how in self.prober.engines.items()}

    def name(self, index: int) -> str:
        known = self._names()
        if known is not None:
            return known[index]
        score = self.prober.of.score
        return f"class {index}" if score in KINDS else f"{score}[{index}]"

    def jobs(self, techniques: Sequence[Technique], given: Mapping[str, Any], classes: int) -> list[Job]:
        """The techniques with their settings and forwards; no time is measured. OptionError, ImageError."""
        preprocessing = None if self.about is None else self.about.preprocessing
        jobs = []
        for technique, own in zip(techniques, shared_out(techniques, given), strict=True):
            settings = settled(technique, own, self.prober, preprocessing)
            forwards = technique.count(self.prober, settings, classes)
            jobs.append(Job(technique, settings, classes, Estimate(forwards)))
        return jobs

    def tried(self, jobs: Sequence[Job], classes: Sequence[int]) -> list[Job]:
        """The jobs with measured times."""
        return [dataclasses.replace(job, estimate=estimate(job, self.prober, classes)) for job in jobs]

    def run(self, job: Job, classes: Sequence[int], progress: Progress | None = None) -> Found:
        """Do it. The record says what model it was, and which settings a budget changed."""
        settings = {name: getattr(job.settings, name) for name in job.technique.names}
        found = perform(self.prober, job.technique, classes, progress, **settings)
        asked, each = self.prober.asked, job.estimate.each
        more = {
            "sha256": self.prober.source.sha256,
            "engine": asked.engine,
            "batch": self.prober.chunk,
            "seconds": found.seconds,
            "estimated_seconds": None if np.isnan(each) else job.estimate.total,
            "changed": {name: {"asked": was, "taken": now} for name, (was, now) in job.changed.items()},
        }
        return dataclasses.replace(found, record={**found.record, **more})

    def figure(self, found: Sequence[Found], displays: Sequence[str]) -> Image.Image:
        """A row a class; displays: of the techniques. ModelError without a photo."""
        if self.shown is None:
            raise ModelError(
                "the model's input is not a picture; use the maps that onnxplain.perturb returns"
            )
        scores = self.prober.base
        captions = [f"{self.name(c)}  {scores[c]:.3g}" for c in found[0].classes]
        return figure(self.shown, found, captions, displays)


def open_probe(
    model: Model,
    image: npt.ArrayLike | Photo,
    asked: Asked,
    preprocessing: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    labels: str | os.PathLike[str] | Sequence[str] | None = None,
    external_data: bool = False,
) -> Opened:
    """Read a model and an image. Raises ModelError for a photo where the model takes none, and what `Prober` raises."""
    source = load(model, external_data=external_data)
    about = description(model, source.model, preprocessing, labels)
    names = about.labels if about is not None else find_labels(model, metadata_of(source.model), labels)
    shown = None
    pixels = (
        isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and about is not None
    )
    if pixels or isinstance(image, (str, os.PathLike, Image.Image)):
        if about is None:
            raise ModelError("the model's input is not a picture; give onnxplain.perturb an array")
        image, shown = prepare(opened(cast("Picture", image)), about.preprocessing)
    elif about is not None and not about.guessed:
        vet_pixels(np.asarray(image), about.preprocessing.to_record(), "the image")
    told = about is not None and (shown is not None or not about.guessed)
    record = about.preprocessing.to_record() if about is not None and told else None
    return Opened(
        Prober(source, image, dataclasses.replace(asked, preprocessing=record)), about, names, shown
    )


__all__ = ["Opened", "open_probe", "perturb"]
