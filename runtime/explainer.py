"""An explanation graph in use: a model, its card, and a session opened when it is first needed."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx

from ..rewriter.card import Card, read_card
from ..rewriter.compile import ATTRIBUTION, HEATMAP
from ..rewriter.errors import OptionError, StaleError, TargetError, nearest
from ..rewriter.load import Source
from ..rewriter.load import load as load_source
from ..rewriter.memory import Memory, estimate
from .arguments import vet_arguments
from .atomic import write_bytes
from .feeding import own_feeds, seeds, typed
from .lanes import Plan, Progress, Split, choose, find_split, parse_bytes, run_chunks, sizes_of
from .opening import open_session, serialize, table_for
from .providers import create_session, is_auto
from .session import check_feeds, run, tensors_of
from .telling import Finding, look, probes_of, warn
from .tracing import explained

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

    from .providers import Provider

Array = npt.NDArray[Any]

CLASSES = "classes"
"""Input of the votes: one class a row."""

PROBES = frozenset({"tangent", CLASSES, "start"})
"""Inputs of methods that ask several things of one sample, or one of each."""


@dataclass(frozen=True)
class Result:
    """One run. outputs: the model's own, by name. attributions and heatmaps: by input name where several inputs
    are explained, else under "attribution" and "heatmap". plan: in which chunks the rows were run."""

    outputs: Mapping[str, Array]
    attributions: Mapping[str, Array]
    heatmaps: Mapping[str, Array]
    plan: Plan | None = None
    results: Mapping[str, Array] = field(default_factory=dict)
    """Of methods that give something else than an attribution (LinearScope), by their names in the file."""
    findings: tuple[Finding, ...] = ()
    """What is zero everywhere or not finite, and at which node that begins; a warning says the same."""

    @property
    def attribution(self) -> Array:
        """The attribution of the only (or first) explained input: raw, signed, of its shape."""
        return next(iter(self.attributions.values()))

    @property
    def heatmap(self) -> Array | None:
        """float32 (N, H, W), or None when the file was compiled without reduce=."""
        return next(iter(self.heatmaps.values()), None)


class Explainer:
    """Runs an emitted file.

    `model` is its ModelProto, `card` its metadata. Called with x, an array or a dict of arrays by input name,
    and for files compiled with target="input" the class (an integer, or one a sample; -1 is the top class,
    which is the default). Arrays are converted to the type of their input where the numbers stay what they are; pixels
    that are not prepared are refused where the card says how pictures are.

    memory: bytes that weights and working memory may take together, as a number or "512MB"; by default half of what is
    available. More rows than fit (of the batch, or cotangents of one sample) are run in chunks: which ones is
    estimated before (`rewriter.memory`), logged, and kept as `plan`. Rows must not depend on each other. A run of one
    row is only estimated where `memory` is given. `progress(done, rows)` is called after every chunk.
    cache: folder of optimised graphs (`runtime.cache`); by default the one that ONNXPLAIN_CACHE names.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        card: Card,
        *,
        providers: str | Sequence[Provider] | None = None,
        threads: int | None = None,
        path: Path | None = None,
        memory: int | str | None = None,
        cache: str | os.PathLike[str] | None = None,
    ) -> None:
        self.model, self.card = model, card
        self._providers, self._threads, self._path = providers, threads, path
        self._budget = None if memory is None else parse_bytes(memory)
        self._cache = cache
        self._estimates: dict[tuple[tuple[str, int], ...], Memory] = {}
        self.plan: Plan | None = None
        """Of the last call."""
        self.progress: Progress | None = None
        self.whole = False
        """Run the rows of a call together, whatever memory is free: for those who count the rows themselves."""
        self.tells = True
        """Warn of results that are zero everywhere or not finite, and run the file once more to find out why;
        without it they are only in `Result.findings`."""

    @cached_property
    def session(self) -> InferenceSession:
        """The onnxruntime session, on the providers asked for. Raises ProviderError when one was not taken."""
        return open_session(self.model, self._path, self._providers, threads=self._threads, cache=self._cache)

    def open_like(self, model: onnx.ModelProto) -> InferenceSession:
        """Another model on the same providers, for a run or two: not optimised, which takes longer than to run it."""
        return create_session(
            serialize(model),
            self._providers,
            threads=self._threads,
            optimization="disabled",
            memory_pattern=False,
        )

    @property
    def table(self) -> str:
        """Of the forms that the session's file is spelled in."""
        return table_for("cpu" if is_auto(self._providers) else self._providers)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the file, whole or not at all. Raises OptionError when it cannot be written."""
        write_bytes(path, serialize(self.model))
        return Path(path)

    def check_source(self, model: str | os.PathLike[str] | bytes) -> None:
        """Raises StaleError unless this explanation was compiled from exactly that model file."""
        mine, theirs = self.card.source.get("sha256"), load_source(model).sha256
        if mine != theirs:
            raise StaleError(
                f"this explains a model with sha256 {str(mine)[:12]}..., not {theirs[:12]}...; compile it again"
            )

    def __call__(
        self,
        x: npt.ArrayLike | Mapping[str, npt.ArrayLike],
        target: int | Sequence[int] | Array | None = None,
        cotangent: npt.ArrayLike | None = None,
        **more: npt.ArrayLike,
    ) -> Result:
        """Explain a batch. more: what the method itself takes: `noise` (samples, ...), unit normal, drawn with the
        method's `seed` when it is not given; `baseline` (1 or N, ...) or `references` (K, ...) of files compiled with
        baseline="input" or references="input". Where several inputs are explained each has its own: `noise/NAME`.

        A result that is zero everywhere or not finite is told by an ExplainWarning, which names the node.

        Raises OptionError or ImageError (input that does not fit), TargetError (class)."""
        found, findings = self._run(x, target, cotangent, more)
        return replace(_result(found, self.card.outputs, self.plan), findings=findings)

    def outputs(
        self,
        x: npt.ArrayLike | Mapping[str, npt.ArrayLike],
        target: int | Sequence[int] | Array | None = None,
        cotangent: npt.ArrayLike | None = None,
        **more: npt.ArrayLike,
    ) -> dict[str, Array]:
        """As a call, but all outputs by their names in the file."""
        return self._run(x, target, cotangent, more)[0]

    def _run(
        self,
        x: npt.ArrayLike | Mapping[str, npt.ArrayLike],
        target: int | Sequence[int] | Array | None,
        cotangent: npt.ArrayLike | None,
        more: Mapping[str, npt.ArrayLike],
    ) -> tuple[dict[str, Array], tuple[Finding, ...]]:
        """The outputs, and what is to be told of them."""
        feeds, own, rows = self._fed(x, target, cotangent, more)
        self.plan, split = self._planned(feeds, own, rows)
        found = dict(run_chunks(lambda part: run(self.session, part), feeds, split, self.plan, self.progress))
        findings = look(found, self.card.outputs, probes_of(feeds))
        if findings and self.tells:
            findings = explained(self, findings, feeds, split)
            warn(self.card.method, findings, stacklevel=4)
        return found, findings

    def _fed(
        self,
        x: npt.ArrayLike | Mapping[str, npt.ArrayLike],
        target: int | Sequence[int] | Array | None,
        cotangent: npt.ArrayLike | None,
        more: Mapping[str, npt.ArrayLike],
    ) -> tuple[dict[str, Array], dict[str, str], int]:
        """What onnxruntime is given, the inputs that are not the method's, and the number of samples."""
        aim = self.card.target.get("target")
        declared = {node.name: node.type for node in self.session.get_inputs()}
        added = {"input": "target", "cotangent": "cotangent"}.get(str(aim))
        own = {name: kind for name, kind in declared.items() if not self._of_method(name)}
        feeds = own_feeds(x, own, added, self.card.preprocessing)
        feeds |= self._method_feeds(
            {name: kind for name, kind in declared.items() if name not in own}, more, feeds
        )
        rows = self._rows([name for name in own if name in feeds and feeds[name].ndim], feeds)
        if aim == "input":
            feeds["target"] = self._classes(-1 if target is None else target, rows)
        elif target is not None:
            raise TargetError(f"this file explains a fixed target ({aim!r}); compile it with target='input'")
        if aim == "cotangent":
            feeds["cotangent"] = seeds(cotangent, declared["cotangent"], rows, self.card.target.get("rows"))
        elif cotangent is not None:
            raise TargetError("this file takes no cotangent; compile it with target='cotangent'")
        check_feeds(self.session, feeds)  # of the whole: in a chunk the numbers of rows are others
        return feeds, own, rows

    def _planned(self, feeds: Mapping[str, Array], own: Collection[str], samples: int) -> tuple[Plan, Split]:
        """How many rows go into one run, and where the feeds are cut."""
        inputs, outputs = (
            {node.name: list(node.shape) for node in nodes}
            for nodes in (self.session.get_inputs(), tensors_of(self.session))
        )
        each = (self.card.target.get("rows") or {}).get("each", 1)
        rows, split = find_split(inputs, outputs, own, feeds, samples, each)
        if self.whole or (rows < 2 and self._budget is None):
            return Plan(rows, rows), split
        sizes = sizes_of(self.model, feeds, split.inputs)
        key = tuple(sorted(sizes.items()))
        if key not in self._estimates:
            self._estimates[key] = estimate(self.model, 8, sizes)
        return choose(self._estimates[key], rows, self._budget, opened=True, whole=split.obstacle), split

    def _rows(self, own: Sequence[str], feeds: Mapping[str, Array]) -> int:
        """Samples of the batch: rows of the inputs that share the leading dimension of `target`; without that, of
        the inputs that any number of rows may be fed to. One where the model has no batch axis. TargetError for
        several of a model that takes one."""
        located = self.card.target.get("rows") or {}
        if located.get("whole"):
            return 1
        lead = {node.name: node.shape[0] for node in self.session.get_inputs() if node.shape}
        batch = lead.get("target") if self.card.target.get("target") == "input" else None
        sharing = [name for name in own if batch is not None and lead.get(name) == batch]
        free = [name for name in own if not isinstance(lead.get(name), int)]
        rows = max((feeds[name].shape[0] for name in sharing or free or own), default=1)
        if located.get("one") and rows > 1:
            raise TargetError(
                f"this model takes one sample at a time, not {rows}: it brings several together"
            )
        return rows

    def _of_method(self, name: str) -> bool:
        """Whether an input is the method's: noise, a reference, tangents."""
        return name in self.card.inputs and name not in ("target", "cotangent")

    def _method_feeds(
        self, declared: Mapping[str, str], more: Mapping[str, npt.ArrayLike], own: Mapping[str, Array]
    ) -> dict[str, Array]:
        """own: the model's feeds, which the noise takes its sizes from."""
        for name in more:
            if name not in declared:
                raise OptionError(
                    f"this file takes no {name!r}{nearest(name, declared)}; see `onnxplain show`"
                )
        feeds = {name: typed(value, declared[name], name) for name, value in more.items()}
        if CLASSES in feeds and feeds[CLASSES].ndim == 1:
            feeds[CLASSES] = feeds[CLASSES].reshape(-1, 1)  # a list, as for `target`
        if CLASSES in feeds and feeds[CLASSES].dtype.kind in "iu":
            vet_classes(feeds[CLASSES].ravel().tolist(), self.card.target.get("size"))
        for i, (name, kind) in enumerate(declared.items()):
            if name in feeds:
                self._vet_rows(name, feeds[name], own)
                continue
            if name.split("/")[0] != "noise":
                raise OptionError(f"{name}= is missing: this file takes it besides the model's inputs")
            samples = next((feeds[other].shape[0] for other in declared if other in feeds), None)
            feeds[name] = typed(self._noise(name, i, own, samples), kind, name)
        return feeds

    def _vet_rows(self, name: str, array: Array, own: Mapping[str, Array]) -> None:
        shape = next(node.shape for node in self.session.get_inputs() if node.name == name)
        if array.ndim != len(shape):
            return  # said when all shapes are compared
        rows, given = self._rows([other for other in own if own[other].ndim], own), array.shape[0]
        kind = name.split("/")[0]
        if kind == "baseline" and given not in (1, rows):
            raise OptionError(f"{name}: {given} rows for {rows} samples; give one, or one a sample")
        if kind in PROBES and rows not in (1, given):
            raise OptionError(f"{name}: {given} rows for {rows} samples; give one sample, or a row for each")
        if not given:
            raise OptionError(f"{name}: an array of no rows, {list(array.shape)}; give at least one")

    def _noise(self, name: str, i: int, own: Mapping[str, Array], samples: int | None) -> Array:
        """Unit normal, for explained input number i: each draws its own."""
        shapes = {node.name: list(node.shape) for node in self.session.get_inputs()}
        explained = [name.partition("/")[2]] if "/" in name else list(own)
        fitting = [
            other for other in explained if shapes.get(other, [])[1:] == shapes[name][1:] and other in own
        ]
        # Explained behind an integer input: no input of the file has the noise's shape, but its sizes have names.
        known = {
            dim: size
            for other, x in own.items()
            for dim, size in zip(shapes.get(other, []), x.shape, strict=False)
            if isinstance(dim, str)
        }
        tail = own[fitting[0]].shape[1:] if fitting else tuple(known.get(n, n) for n in shapes[name][1:])
        if not all(isinstance(n, int) for n in tail):
            raise OptionError(
                f"{name}= is missing, and no input of the model tells its shape, {shapes[name]}"
            )
        seed, rows = int(self.card.options.get("seed", 0)), int(self.card.options.get("samples", 50))
        draw = np.random.default_rng([seed, i] if i else seed)
        return draw.standard_normal((rows if samples is None else samples, *tail), dtype=np.float32)

    def _classes(self, target: int | Sequence[int] | Array, rows: int) -> Array:
        try:
            classes = np.asarray(target)
        except ValueError as error:
            raise TargetError(f"target must be integers: {error}") from error
        if classes.dtype.kind not in "iu":
            raise TargetError(f"target must be integers, not {classes.dtype}")
        vet_classes(
            classes.ravel().tolist(), self.card.target.get("size")
        )  # unsigned ones would become negative
        classes = classes.astype(np.int64).reshape(-1, 1)
        if classes.shape[0] not in (1, rows):
            raise TargetError(f"{classes.shape[0]} targets for {rows} samples; give one, or one a sample")
        return np.ascontiguousarray(np.broadcast_to(classes, (rows, 1)))


_MOST = 2**63 - 1
"""A class is an int64 in the file."""


def vet_classes(classes: Iterable[int], size: int | None) -> None:
    """size: how many there are, None where nobody knows. Raises TargetError for one that is none, and is not -1."""
    for index in classes:
        if index < -1 or index > _MOST or (size is not None and index >= size):
            known = "0 and above" if size is None else f"0 to {size - 1}"
            raise TargetError(f"class {index} is out of range: {known}, or -1 for the top class")


def _result(outputs: Mapping[str, Array], added: Collection[str], plan: Plan | None) -> Result:
    kinds: dict[str, dict[str, Array]] = {ATTRIBUTION: {}, HEATMAP: {}}
    own: dict[str, Array] = {}
    more: dict[str, Array] = {}
    for name, value in outputs.items():
        kind, _, rest = name.partition("/")
        if name not in added:  # one of the model's may well be called "heatmap"
            own[name] = value
        elif kind in kinds:
            kinds[kind][rest or name] = value
        else:
            more[name] = value
    return Result(own, kinds[ATTRIBUTION], kinds[HEATMAP], plan, more)


def load(
    path: Source | str | os.PathLike[str] | bytes,
    *,
    providers: str | Sequence[Provider] | None = None,
    threads: int | None = None,
    memory: int | str | None = None,
    cache: str | os.PathLike[str] | None = None,
) -> Explainer:
    """Open an emitted file; the options are those of `Explainer`. Raises ModelError when it is none."""
    vet_arguments(providers=providers, threads=threads, cache=cache)
    source = load_source(path)
    return Explainer(
        source.model,
        read_card(source.model),
        providers=providers,
        threads=threads,
        path=source.path,
        memory=memory,
        cache=cache,
    )
