"""Every method on one model: compiled, weighed, timed beside the forward pass."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from ...rewriter.card import is_explanation
from ...rewriter.cost import Cost, count, floor_of, roofline
from ...rewriter.draft import Dim
from ...rewriter.errors import (
    ExplainError,
    ModelError,
    NotLinearError,
    OptionError,
    ProviderError,
    UnsupportedError,
)
from ...rewriter.load import Source, load
from ...rewriter.memory import estimate
from ...rules.registry import find, methods
from ..atomic import write_bytes
from ..compiling import Model, compile, description, package_version
from ..describe import Description
from ..explainer import Explainer
from ..lanes import available_memory, needed, sizes_of
from ..opening import serialize, table_for
from ..providers import Provider, create_session, short_name
from ..settings import for_method
from .inputs import Array, Inputs, completed, inputs_of
from .machine import Machine, probe
from .report import FORWARD, Report, Row
from .timing import Floats, Spread, interleave
from .weigh import Weight, weigh

Tell = Callable[[str, float], None]
"""(what is done now, how much of all is done)."""

GROUP = 4
"""Methods whose sessions are open side by side, beside the forward pass."""
SHARE = 0.5
"""Of the available memory that they may take."""
BUDGET = 60.0
"""Seconds that the rounds of a group may take."""


@dataclass(frozen=True)
class Setup:
    """How to measure. options: for the methods that have them. repeats: rounds at most. quick: a tiny probe and short
    samples, whose figures mean nothing."""

    batch: int | None = None
    threads: int | None = None
    providers: str | Sequence[Provider] | None = None
    repeats: int = 9
    images: Sequence[str | os.PathLike[str]] = ()
    seed: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)
    shapes: Mapping[str, Sequence[Dim]] | None = None
    output: str | None = None
    head: str = "logits"
    preprocessing: str | os.PathLike[str] | Mapping[str, Any] | None = None
    external_data: bool = False
    quick: bool = False


@dataclass
class _Prepared:
    """A method that is compiled and weighed, and waits for its group."""

    method: str
    samples: int
    file: Path
    nodes: int
    cost: Cost
    weight: Weight
    feeds: Mapping[str, Array]
    bytes: int


def bench(
    model: Model,
    names: Sequence[str] | None = None,
    setup: Setup | None = None,
    *,
    machine: Machine | None = None,
    progress: Tell | None = None,
) -> Report:
    """What explanations of a model cost, method by method; all methods by default.

    Each is compiled for the top class, opened in a process of its own (memory, session creation), and timed in this
    process, side by side with the forward pass, a few at a time. A method that is not defined for the model, or that
    cannot run, is listed with the reason. machine: one that was probed before (same provider and threads).

    Raises ModelError, OptionError, TargetError, ImageError, ProviderError for what concerns the model or the setup.
    """
    how = setup or Setup()
    source = load(model, external_data=how.external_data)
    if is_explanation(source.model):
        raise OptionError("this file is an explanation already; give the model that it was made from")
    every = [name for name, method in methods().items() if method.maps]
    chosen = {name: find(name) for name in dict.fromkeys(every if names is None else names)}
    for name, method in chosen.items():
        if not method.maps:
            raise OptionError(f"{name} gives no map: it is not measured beside the others")
    if not chosen or how.repeats < 1:
        raise OptionError("give at least one method, and at least one round (repeats)")
    options = {name: for_method(method, how.options, chosen) for name, method in chosen.items()}
    about = description(model, source.model, how.preprocessing)
    own = inputs_of(source.model, about, how.images, how.batch, how.seed, how.shapes)
    tell = progress or (lambda text, done: None)
    with tempfile.TemporaryDirectory(prefix="onnxplain-bench-") as folder:
        return _Bench(source, about, how, own, Path(folder), tell, machine).run(options)


class _Bench:
    def __init__(
        self,
        source: Source,
        about: Description | None,
        how: Setup,
        own: Inputs,
        folder: Path,
        tell: Tell,
        machine: Machine | None,
    ) -> None:
        self.source, self.about, self.how, self.own = source, about, how, own
        self.folder, self.tell = folder, tell
        self.load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
        self.model = source.path or folder / "model.onnx"
        if source.path is None:
            write_bytes(self.model, serialize(source.model))
        tell("opening the model", 0.0)
        plain = create_session(self.model, how.providers, threads=how.threads)
        self.provider = short_name(plain.get_providers()[0])
        self.lowering = table_for(self.provider)
        self.call: Callable[[], object] = partial(plain.run, None, dict(own.feeds))
        _try(self.call, "the model")
        tell("measuring the machine", 0.0)
        kind = own.feeds[own.explained].dtype
        self.machine = machine or probe(how.providers, how.threads, kind, how.quick)
        tell("weighing the forward pass", 0.0)
        self.forward = self._weighed(FORWARD, 1, self.model, source.model, own.feeds, memory_pattern=True)
        self.times: dict[str, tuple[Floats, Floats]] = {}
        """Method -> its seconds and those of the forward pass in the same rounds."""
        self.refused: dict[str, str] = {}

    def run(self, options: Mapping[str, Mapping[str, Any]]) -> Report:
        done: list[_Prepared] = []
        group: list[_Prepared] = []
        room = (available_memory() or 2**62) * SHARE
        taken = 0.0
        for i, (name, given) in enumerate(options.items()):
            self.tell(f"compiling and weighing {name}", i / len(options))
            try:
                one, need = self._prepared(name, given)
            except (UnsupportedError, OptionError, NotLinearError, ModelError, ProviderError) as error:
                self.refused[name] = _reason(error)
                self._file(name).unlink(missing_ok=True)
                continue
            if group and (taken + need > room or len(group) == GROUP):
                self._time(group, i / len(options))
                group, taken = [], 0.0
            group.append(one)
            done.append(one)
            taken += need
        self._time(group, 1.0)
        rows = tuple(self._row(one) for one in done if one.method in self.times)
        return Report(
            self.model.name if self.source.path is not None else self.source.model.graph.name or "a model",
            self.machine,
            self._forward_row(),
            rows,
            self.refused,
            {name: array.shape for name, array in self.own.feeds.items()},
            self.own.source,
            self.how.repeats,
            self.lowering,
            self.load,
            {"onnxplain": package_version(), "onnx": str(onnx.__version__)},
        )

    def _prepared(self, name: str, given: Mapping[str, Any]) -> tuple[_Prepared, float]:
        """And the bytes that its session will take, about."""
        how, about = self.how, self.about
        explainer = compile(
            self.source,
            name,
            target="top",
            output=how.output,
            head=how.head,
            shapes=how.shapes,
            preprocessing=None if about is None or about.guessed else about.preprocessing.to_record(),
            labels=None if about is None else about.labels,
            lowering=self.lowering,
            providers=how.providers,
            threads=how.threads,
            **given,
        )
        file = explainer.save(self._file(name))
        feeds = completed(explainer.model, self.own.feeds, explainer.card.options, how.seed)
        one = self._weighed(name, _samples(explainer), file, explainer.model, feeds, memory_pattern=False)
        sizes = sizes_of(explainer.model, feeds, {})
        return one, needed(estimate(explainer.model, self.own.batch, sizes), self.own.batch)

    def _file(self, method: str) -> Path:
        return self.folder / f"{method}.onnx"

    def _weighed(
        self,
        name: str,
        samples: int,
        file: Path,
        model: onnx.ModelProto,
        feeds: Mapping[str, Array],
        memory_pattern: bool,
    ) -> _Prepared:
        cost = count(model, self.own.batch, sizes_of(model, feeds, {}))
        weight = weigh(file, feeds, self.how.providers, self.how.threads, memory_pattern)
        return _Prepared(name, samples, file, len(model.graph.node), cost, weight, feeds, file.stat().st_size)

    def _opened(self, file: Path) -> Any:
        return create_session(file, self.how.providers, threads=self.how.threads, memory_pattern=False)

    def _time(self, group: Sequence[_Prepared], done: float) -> None:
        """Side by side with the forward pass. The files are removed: all methods at once may fill a disk."""
        if not group:
            return
        self.tell(f"timing {', '.join(one.method for one in group)}", done)
        runs: dict[str, Callable[[], object]] = {FORWARD: self.call}
        for one in group:
            try:
                call = partial(self._opened(one.file).run, None, dict(one.feeds))
                _try(call, one.method)
            except (ModelError, ProviderError) as error:
                self.refused[one.method] = _reason(error)
            else:
                runs[one.method] = call
            one.file.unlink()
        sample = {"sample": 0.0} if self.how.quick else {}
        times = interleave(runs, self.how.repeats, BUDGET, **sample)
        plain = times.pop(FORWARD)
        self.times |= {name: (own, plain) for name, own in times.items()}

    def _row(self, one: _Prepared) -> Row:
        own, plain = self.times[one.method]
        return self._figures(one, own, own / plain)

    def _forward_row(self) -> Row:
        """Of all rounds of all groups; each of which is shared by several methods."""
        rounds = {id(plain): plain for _, plain in self.times.values()}
        if not rounds:
            rounds = {0: interleave({FORWARD: self.call}, self.how.repeats, BUDGET)[FORWARD]}
        all_rounds = np.concatenate(list(rounds.values()))
        return self._figures(self.forward, all_rounds, np.ones_like(all_rounds))

    def _figures(self, one: _Prepared, seconds: Floats, ratio: Floats) -> Row:
        return Row(
            method=one.method,
            samples=one.samples,
            seconds=Spread.of(seconds),
            ratio=Spread.of(ratio),
            rounds=len(seconds),
            memory=one.weight.memory,
            bytes=one.bytes,
            session=one.weight.session,
            nodes=one.nodes,
            flops=one.cost.weighted,
            traffic=one.cost.traffic,
            floor=floor_of(self.forward.cost, one.cost),
            least=roofline(one.cost, self.machine.peak, self.machine.bandwidth),
            uncounted=one.cost.unknown,
        )


def _samples(explainer: Explainer) -> int:
    """How many maps a call averages."""
    options = explainer.card.options
    return int(options.get("steps") or options.get("samples") or 1)


def _reason(error: ExplainError) -> str:
    """In one line; of many nodes the first."""
    if isinstance(error, UnsupportedError) and error.sites:
        more = len(error.sites) - 1
        return str(error.sites[0]) + (f" (and {more} more nodes)" if more else "")
    return " ".join(str(error).split())[:300]


def _try(call: Callable[[], object], name: str) -> None:
    try:
        call()
    except Exception as error:
        raise ModelError(
            f"onnxruntime failed while running {name}: {' '.join(str(error).split())}"
        ) from error
