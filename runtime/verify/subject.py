"""The file under test, and what can be asked of it: its maps, the explained value, both at many points."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from ...rewriter.card import Card
from ...rewriter.draft import Dim
from ...rewriter.errors import ModelError
from ...rewriter.load import Source
from ...rewriter.passes.shapes import tensor_type
from ...rewriter.results import ATTRIBUTION
from ..explainer import Explainer, Result
from ..opening import serialize
from ..providers import Provider, create_session
from ..session import run
from .cases import Array, Case, Slot
from .outcome import NotApplicable
from .surgery import exposed, first_trip, forward_part, loop_of

Floats = npt.NDArray[np.float64]
SAMPLES = 4
"""Noisy copies that a check feeds: what a mean keeps does not depend on how many."""
CHUNK = 8
PAIRED = "linearscope.dual"


@dataclass(frozen=True)
class Shot:
    """One run. z: the explained tensor, (N, elements), in float64. start: what is explained, (rows, elements): one-hot,
    or the cotangent fed; rows of one sample lie together."""

    case: Case
    result: Result
    z: Floats
    start: Floats

    def score(self, z: Floats) -> Floats:
        """The explained value of every row, (rows,), at values z of the explained tensor."""
        return np.asarray((self.start * np.repeat(z, len(self.start) // len(z), axis=0)).sum(axis=1))

    @property
    def value(self) -> Floats:
        return self.score(self.z)


@dataclass
class Subject:
    """probes: the inputs for what a method promises. corners: zeros, a constant, an extreme one. options: those of the
    card, completed by the caller."""

    explainer: Explainer
    slots: tuple[Slot, ...]
    options: Mapping[str, Any]
    probes: tuple[Case, ...] = ()
    corners: tuple[Case, ...] = ()
    source: Source | None = None
    seed: int = 0
    providers: str | Sequence[Provider] | None = None
    threads: int | None = None
    more: Mapping[str, Array] = field(default_factory=dict)
    """What the method takes besides the model's inputs: noise, a baseline."""

    @property
    def model(self) -> onnx.ModelProto:
        return self.explainer.model

    @property
    def card(self) -> Card:
        return self.explainer.card

    @property
    def cases(self) -> tuple[Case, ...]:
        return (*self.probes, *self.corners)

    @property
    def aim(self) -> Any:
        """The target: "input", "top", "cotangent", a class or a list of them."""
        return self.card.target.get("target")

    @property
    def head(self) -> str:
        return str(self.card.target.get("head"))

    @property
    def own(self) -> list[str]:
        """The model's own outputs, in order: those before what the method adds."""
        names = [value.name for value in self.model.graph.output]
        if self.paired:
            return names
        added = set(self.card.outputs)
        end = next(
            (i for i, name in enumerate(names) if name in added or name.split("/")[0] == ATTRIBUTION), None
        )
        if not end:
            wanted = ", ".join(f"`{name}`" for name in self.card.outputs) or f"`{ATTRIBUTION}`"
            raise ModelError(f"the file has no output {wanted} behind the model's own; compile it again")
        return names[:end]

    @property
    def paired(self) -> bool:
        """Whether the file is the model itself, for rows [x0; x1]."""
        return self.card.method == PAIRED

    @property
    def probes_fixed(self) -> int:
        """The rows that the cotangents or tangents of one sample must have; 0 for any number."""
        return int(self.options.get("probes") or 0)

    @property
    def explained(self) -> list[str]:
        return [slot.name for slot in self.slots if slot.explained]

    @property
    def lead(self) -> Dim:
        """The batch axis: a number where the file fixes it."""
        return next(slot.shape[0] for slot in self.slots if slot.explained)

    @property
    def free(self) -> bool:
        return not isinstance(self.lead, int)

    def bound(self, least: float) -> float:
        """A bound for numbers of the file's type: stated for float32, and 8 units in the last place at least. In
        float16, which onnxruntime's CPU kernels compute in float32, a tensor that is kept is rounded once more."""
        kinds = [slot.dtype for slot in self.slots if slot.explained]
        return max(least, *(8 * float(np.finfo(kind).eps) for kind in kinds if kind.itemsize == 2), least)

    def rng(self) -> np.random.Generator:
        return np.random.default_rng(self.seed)

    def session(self, model: onnx.ModelProto, optimization: str = "all") -> Any:
        """Without optimisation the order of summation is fixed too: for outputs that are equal to the bit."""
        return create_session(
            serialize(model),
            self.providers,
            threads=self.threads,
            optimization=optimization,
            deterministic=optimization == "disabled",
        )

    @cached_property
    def _probe(self) -> tuple[Explainer, str]:
        model, name = exposed(self.model, self.head, len(self.own), self.explained[0])
        return self._quiet(model), name

    def _quiet(self, model: onnx.ModelProto) -> Explainer:
        """A copy of the file that is run for z: what its maps say is told by a check."""
        explainer = Explainer(model, self.card, providers=self.providers, threads=self.threads)
        explainer.tells = False
        return explainer

    @cached_property
    def _values(self) -> Any:
        """Something to run for z alone: a session of the forward part, or the file cut to its first trip."""
        if loop_of(self.model) is None:
            return self.session(forward_part(self.model, [self.head]))
        model = first_trip(self._probe[0].model)
        return self._quiet(model)

    def attributions(self, result: Result) -> dict[str, Floats]:
        """By the name of the explained input, in float64."""
        maps = result.attributions
        if len(self.explained) == 1:
            return {self.explained[0]: next(iter(maps.values())).astype(np.float64)}
        return {name: maps[name].astype(np.float64) for name in self.explained}

    def maps(self, result: Result) -> dict[str, Floats]:
        """Attributions, and results of other kinds, in float64."""
        found = self.attributions(result) if result.attributions else {}
        return {**found, **{name: value.astype(np.float64) for name, value in result.results.items()}}

    def beside(self, case: Case) -> dict[str, Array]:
        """What the file takes besides the model's inputs and the class: the cotangent, and what the method wants of
        its own (tangents), unit normal, other numbers for every input."""
        found = {"cotangent": self.cotangent(case)} if self.aim == "cotangent" else {}
        for value in self.model.graph.input:
            if self.explainer._of_method(value.name) and value.name not in self.more:
                found[value.name] = self._drawn(value, case)
        return found

    def _drawn(self, value: onnx.ValueInfoProto, case: Case) -> Array:
        """Sizes that the file leaves free are those of the inputs: by name, or of the explained one of that rank."""
        kind = tensor_type(value)
        if kind.dtype is None or kind.shape is None:
            raise ModelError(f"input {value.name!r} has no type or rank; the file cannot be checked")
        sizes = {
            dim: size
            for slot in self.slots
            for dim, size in zip(slot.shape, case.feeds[slot.name].shape, strict=False)
        }
        like = case.feeds[self.explained[0]]
        rows = self.probes_fixed or len(like)
        tail = like.shape if like.ndim == len(kind.shape) else (1,) * len(kind.shape)
        shape = tuple(
            dim if isinstance(dim, int) else rows if axis == 0 else int(sizes.get(dim, tail[axis]) or 1)
            for axis, dim in enumerate(kind.shape)
        )
        if kind.dtype.kind != "f":
            return np.asarray(np.indices(shape).sum(0) % 2, kind.dtype)
        rng = np.random.default_rng([self.seed + 3, zlib.crc32(f"{case.name} {value.name}".encode())])
        return rng.standard_normal(shape).astype(kind.dtype)

    def call(self, feeds: Mapping[str, Array], target: Any = -1, **more: Any) -> Result:
        """The file as it is. target: for files that take one."""
        return self._ask(self.explainer, feeds, target, {**self.more, **more})

    def _ask(
        self, explainer: Explainer, feeds: Mapping[str, Array], target: Any, more: Mapping[str, Any]
    ) -> Result:
        known = {value.name for value in self.model.graph.input}
        taken = {name: value for name, value in more.items() if name in known}
        return explainer(feeds, target=target if self.aim == "input" else None, **taken)

    def cotangent(self, case: Case) -> Array:
        """A random one, of the shape of the explained tensor."""
        z = self.tensor(case.feeds)
        shape = (self.probes_fixed or len(z), *z.shape[1:])
        values = np.random.default_rng(self.seed + 1).standard_normal(shape).astype(z.dtype)
        axis = self._head_axis
        return values if axis == 0 else values[0] if axis is None else np.moveaxis(values, 0, axis)

    @property
    def _head_axis(self) -> int | None:
        """Which axis of the explained tensor counts samples; None where it is of one sample."""
        located = self.card.target.get("rows") or {"axis": 0, "each": 1, "whole": False}
        if located["whole"] or (located["axis"] is not None and located["each"] != 1):
            raise NotApplicable("no axis of the input and the explained tensor counts samples one by one")
        return located["axis"]  # type: ignore[no-any-return]

    def row_axis(self, name: str) -> int:
        """Which axis of an input that the explanation adds counts samples."""
        return (self._head_axis or 0) if name == "cotangent" else 0

    def _front(self, z: Array) -> Array:
        """The explained tensor, or a cotangent of it, with its samples along axis 0."""
        axis = self._head_axis
        return z if axis == 0 else z[None] if axis is None else np.moveaxis(z, axis, 0)

    def shoot(self, case: Case, target: int = -1, **more: Any) -> Shot:
        """Run the file and read the explained tensor with it."""
        explainer, name = self._probe
        more = {**self.beside(case), **more} if "cotangent" not in more else more
        result = self._ask(explainer, case.feeds, target, {**self.more, **more})
        z = self._flat(result.outputs[name])
        return Shot(case, result, z, self._start(z, target, more.get("cotangent")))

    def shots(self) -> list[Shot]:
        return [self.shoot(case) for case in self.probes]

    def _flat(self, tensor: Array) -> Floats:
        inner = loop_of(self.model) is not None and self._probe[1] != self.head
        values = self._front(np.asarray(tensor[0] if inner else tensor, np.float64))
        return values.reshape(len(values), -1)

    def _start(self, z: Floats, target: int, cotangent: Array | None) -> Floats:
        if cotangent is not None:
            values = self._front(np.asarray(cotangent, np.float64))
            return values.reshape(len(values), -1)
        top, aim = z.argmax(axis=1), self.aim
        wanted = {"input": [target], "top": [-1]}.get(aim) if isinstance(aim, str) else None
        classes = wanted or (aim if isinstance(aim, list) else [int(aim)])
        chosen = np.stack([top if c == -1 else np.full(len(z), c) for c in classes], axis=1).ravel()
        hot = np.zeros((len(chosen), z.shape[1]))
        hot[np.arange(len(chosen)), chosen] = 1.0
        return hot

    def tensor(self, feeds: Mapping[str, Array]) -> Array:
        """The explained tensor as the file computes it, samples along axis 0."""
        values = self._values
        if not isinstance(values, Explainer):
            wanted = {node.name for node in values.get_inputs()}
            extra = wanted - set(feeds)
            if extra:
                raise NotApplicable(f"the explained tensor depends on {', '.join(sorted(extra))}")
            found = run(values, {n: v for n, v in feeds.items() if n in wanted})
            return self._front(next(iter(found.values())))
        more = {name: value[:1] if name.startswith("noise") else value for name, value in self.more.items()}
        if self.aim == "cotangent":
            more["cotangent"] = self._unit(values, feeds)
        name = self._probe[1]
        outputs = self._ask(values, feeds, -1, more).outputs[name]
        return self._front(np.asarray(outputs if name == self.head else outputs[0]))

    def _unit(self, explainer: Explainer, feeds: Mapping[str, Array]) -> Array:
        """Any cotangent: the explained tensor does not depend on it, but the file wants one."""
        declared = next(value for value in self.model.graph.input if value.name == "cotangent")
        kind = tensor_type(declared)
        rows = self.probes_fixed or len(feeds[self.explained[0]])
        at = self._head_axis
        sizes = [
            rows if axis == at else dim if isinstance(dim, int) else 1
            for axis, dim in enumerate(kind.shape or ())
        ]
        return np.ones(sizes, kind.dtype)

    def values(self, feeds: Mapping[str, Array], points: Mapping[str, Array]) -> Floats:
        """The explained tensor of one sample at many points, (P, elements). points: explained input -> (P, ...); the
        other inputs stay as they are."""
        if not self.free and self.lead != 1:
            raise NotApplicable(f"the batch is fixed at {self.lead}: one sample cannot be moved alone")
        count = len(next(iter(points.values())))
        step = CHUNK if self.free else 1
        found = []
        for i in range(0, count, step):
            chunk = {name: at[i : i + step] for name, at in points.items()}
            rows = len(next(iter(chunk.values())))
            rest = {name: value for name, value in feeds.items() if name not in chunk}
            repeated = {name: self._repeated(name, value, rows) for name, value in rest.items()}
            z = self.tensor({**repeated, **chunk})
            found.append(np.asarray(z, np.float64).reshape(len(z), -1))
        return np.concatenate(found)

    def _repeated(self, name: str, value: Array, rows: int) -> Array:
        slot = next(slot for slot in self.slots if slot.name == name)
        fixed = not slot.shape or isinstance(slot.shape[0], int)
        return value if fixed else np.repeat(value, rows, axis=0)
