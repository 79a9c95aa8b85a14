"""The frozen network at one input, as compiled files that are opened when they are first needed."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ...rewriter.apart import apart
from ...rewriter.errors import OptionError
from ...rewriter.load import Source, load
from ...rewriter.memory import estimate
from ...rewriter.method import Method
from ...rewriter.results import Result as Added
from ...rewriter.scene import Stage
from ...rewriter.target import Target
from ...rules.methods_scope import LINEARSCOPE_RESIDUAL
from ...rules.scope.results import RESIDUAL, RESPONSE, residual
from ..compiling import Model, compile
from ..entering import entered
from ..explainer import Explainer, Result
from ..lanes import Progress, choose, parse_bytes, sizes_of
from .layout import Array, Given, Layout

if TYPE_CHECKING:
    from ..providers import Provider

VALUE, EXPLAINED = "value", "explained"

PROBES = 8
"""Probes of a run on the CPU: the forward pass and its masks are computed once for all of them."""
BATCHED = 64
"""The same on an accelerator, which wants large batches."""
WORTH = 4
"""Full chunks from which the unrolled file is compiled. Measured (2 threads): a row takes 1.2 to 1.6 times less on
EfficientNet-Lite0, 1.3 on style transfer, a column nothing less; opening it takes 1 to 9 seconds more."""


def opening(stage: Stage, target: Target) -> list[Added]:
    """The residual, the value y0 of the head (which need not be an output of the model), and which inputs are
    explained."""
    stage.extras.setdefault("chosen", {})[EXPLAINED] = [x.name for x in stage.wrt]
    return [(VALUE, stage.head, list(stage.head.shape)), *residual(stage, target)]


OPENING: Method = replace(LINEARSCOPE_RESIDUAL, outputs=opening)


@dataclass(frozen=True)
class Asked:
    """What decides the files besides the model. probes: of a run; None is the default, 0 unrolls none."""

    output: str | None = None
    inputs: Sequence[str] | None = None
    head: str = "logits"
    freeze: str = "offset"
    norm: str = "stats"
    probes: int | None = None
    providers: str | Sequence[Provider] | None = None
    threads: int | None = None
    memory: int | str | None = None
    cache: str | os.PathLike[str] | None = None


@dataclass
class System:
    """y = F x + r at x0. Raises what `onnxplain.compile` raises, and OptionError for a batch of several samples."""

    source: Source
    x0: Given
    asked: Asked
    _files: dict[tuple[object, ...], Explainer] = field(default_factory=dict)
    _limits: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, model: Model, x0: Given, asked: Asked) -> System:
        if not isinstance(x0, Mapping):
            _vet_batch(x0, "x0")
        source = model if isinstance(model, Source) else load(model)
        parts = apart(source, asked.inputs)
        if parts is None:
            return cls(source, x0, asked)
        inner = entered(parts.front, x0, [value.name for value in parts.rest.model.graph.input])
        return cls(parts.rest, inner, replace(asked, inputs=parts.names))

    @cached_property
    def _opened(self) -> tuple[Explainer, Result]:
        file = self.compiled(OPENING)
        for name in file.card.options[EXPLAINED]:
            if isinstance(self.x0, Mapping) and name in self.x0:
                _vet_batch(self.x0[name], repr(name))
        found = file(self.x0)
        if found.results[VALUE].shape[0] != 1:
            raise OptionError(
                f"the explained tensor has shape {list(found.results[VALUE].shape)}; its first axis must be a batch "
                "of 1: choose another output= or head="
            )
        return file, found

    @property
    def value(self) -> Array:
        """(1, *y)."""
        return self._opened[1].results[VALUE]

    @property
    def residual(self) -> Array:
        """(1, *y)."""
        return np.broadcast_to(self._opened[1].results[RESIDUAL], self.value.shape)

    @property
    def about(self) -> Mapping[str, Any]:
        """What is explained: the card's `target` entry (output, head, squash)."""
        return self._opened[0].card.target

    @property
    def outputs(self) -> Mapping[str, Array]:
        """The model's own, at x0."""
        return self._opened[1].outputs

    @cached_property
    def feeds(self) -> dict[str, Array]:
        """x0 by the names of the model's inputs."""
        if isinstance(self.x0, Mapping):
            return {name: np.asarray(value) for name, value in self.x0.items()}
        return {self.names[0]: np.asarray(self.x0)}

    @cached_property
    def names(self) -> list[str]:
        """The explained inputs, in order."""
        return list(self._opened[0].card.options[EXPLAINED])

    @cached_property
    def inward(self) -> Layout:
        return Layout("input", tuple((name, self.feeds[name].shape[1:]) for name in self.names))

    @cached_property
    def outward(self) -> Layout:
        return Layout("output", ((str(self.about["head"]), self.value.shape[1:]),))

    def compiled(self, method: str | Method, target: Target | None = None, **options: Any) -> Explainer:
        """A file of this system's network, options and session."""
        asked = self.asked
        return compile(
            self.source,
            method,
            target="input" if target is None else target,
            output=asked.output,
            head=asked.head,
            inputs=asked.inputs,
            memory=asked.memory,
            cache=asked.cache,
            providers=asked.providers,
            threads=asked.threads,
            freeze=asked.freeze,
            norm=asked.norm,
            **options,
        )

    def rows(self, cotangents: Array, progress: Progress | None = None) -> dict[str, Array]:
        """(K, *y) -> F'y by input, (K, *x) each."""
        return self._through("rows", {"cotangent": cotangents}, progress)

    def columns(self, tangents: Mapping[str, Array], progress: Progress | None = None) -> Array:
        """(K, *x) by input -> F x (K, *y)."""
        single = len(self.names) == 1
        feeds = {"tangent" if single else f"tangent/{name}": tangents[name] for name in self.names}
        return self._through("columns", feeds, progress)[RESPONSE]

    def _through(self, kind: str, probes: Mapping[str, Array], progress: Progress | None) -> dict[str, Array]:
        """Chunk after chunk; full ones through the unrolled file where that pays."""
        count = len(next(iter(probes.values())))
        chunk, unrolled = self._chunk(kind, probes, count)
        parts: list[dict[str, Array]] = []
        for start in range(0, count, chunk):
            part = {name: value[start : start + chunk] for name, value in probes.items()}
            parts.append(self._run(kind, part, chunk if unrolled else 0))
            if progress is not None:
                progress(min(start + chunk, count), count)
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _chunk(self, kind: str, probes: Mapping[str, Array], count: int) -> tuple[int, bool]:
        """How many probes go into one run, and whether through the unrolled file."""
        wanted = self.asked.probes or PROBES
        on_cpu = self._opened[0].session.get_providers()[0] == "CPUExecutionProvider"
        most = min(count, wanted if on_cpu else max(wanted, BATCHED))
        fitting = max(1, min(most, self._limit(kind, probes, most)))
        unrolled = on_cpu and self.asked.probes != 0 and count >= WORTH * wanted and fitting == wanted
        return fitting, unrolled

    def _limit(self, kind: str, probes: Mapping[str, Array], most: int) -> int:
        """Probes of a run that fit the memory (of the free-batch file: the unrolled one holds no more at a time)."""
        if most == 1:
            return 1
        if kind not in self._limits:
            self._limits[kind] = self.fitting(self._file(kind, 0), probes, max(BATCHED, most))
        return self._limits[kind]

    def fitting(self, file: Explainer, rows: Mapping[str, Array], most: int) -> int:
        """How many rows, up to `most`, one run of the file can take in the memory that it may use."""
        sizes = sizes_of(file.model, {**self.feeds, **rows}, dict.fromkeys(rows, 0))
        budget = None if self.asked.memory is None else parse_bytes(self.asked.memory)
        return choose(estimate(file.model, PROBES, sizes), most, budget, opened=True).chunk

    def _run(self, kind: str, probes: Mapping[str, Array], unrolled: int) -> dict[str, Array]:
        count = len(next(iter(probes.values())))
        if unrolled and count < unrolled and not self._is_open(kind):
            # A few probes of zeros cost less than another session.
            probes = {
                name: np.concatenate([v, np.zeros((unrolled - count, *v.shape[1:]), v.dtype)])
                for name, v in probes.items()
            }
        elif count < unrolled:
            unrolled = 0
        found = self._file(kind, unrolled)(self.x0, **probes)
        if kind == "columns":
            return {RESPONSE: found.results[RESPONSE][:count]}
        maps = dict(zip(self.names, found.attributions.values(), strict=True))
        return {name: value[:count] for name, value in maps.items()}

    def _is_open(self, kind: str) -> bool:
        return (kind, 0) in self._files and "session" in vars(self._files[kind, 0])

    def file(self, kind: str, **options: Any) -> Explainer:
        """The file of another method of the family, compiled once."""
        key = (kind, *sorted(options.items()))
        if key not in self._files:
            self._files[key] = self.compiled(f"linearscope.{kind}", **options)
        return self._files[key]

    def _file(self, kind: str, unrolled: int) -> Explainer:
        if (kind, unrolled) not in self._files:
            target = "cotangent" if kind == "rows" else None
            self._files[kind, unrolled] = self.compiled(f"linearscope.{kind}", target, probes=unrolled)
        return self._files[kind, unrolled]


def _vet_batch(x: npt.ArrayLike, what: str) -> None:
    shape = np.shape(x)
    if not shape or shape[0] != 1:
        raise OptionError(
            f"{what} has shape {list(shape)}: an interpreter belongs to one sample; give a batch of 1, x[None] or x[:1]"
        )


__all__ = ["Asked", "System"]
