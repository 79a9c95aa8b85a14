"""What the proof of a file runs: the model on the first random input that it takes, and the file on the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from threading import Timer
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx

from ..rewriter.card import Card
from ..rewriter.errors import ExplainError, ModelError, ProviderError
from ..rewriter.memory import estimate
from ..rewriter.passes.shapes import tensor_type
from .explainer import Explainer
from .lanes import say_bytes, sizes_of
from .loading import load_onnxruntime
from .opening import serialize
from .providers import create_session
from .verify.cases import Maker, Slot
from .verify.surgery import first_trip, forward_part, loop_of

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

    from ..rewriter.draft import Dim

Array = npt.NDArray[Any]
Arrays = Mapping[str, Array]

SEED = 0
SIZES = (32, 8, 64, 16, 4, 128, 224, 1)
"""Of free axes behind the batch, tried in this order until the model runs."""

MEMORY = 2 * 2**30
"""Bytes that the model may be estimated to take; above, or after SECONDS, it is not proved: a file from elsewhere may
ask for terabytes, or never end."""
SECONDS = 60.0
INPUT = MEMORY // 8
"""Bytes of an input, of which a few copies are made."""

PAIRED = "linearscope.dual"
"""The method whose file is the model itself, for rows [x0; x1]."""


class Unproved(Exception):
    """Why nothing can be said."""


def short(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]


def _session(model: onnx.ModelProto) -> InferenceSession:
    return create_session(
        serialize(model),
        optimization="disabled",
        deterministic=True,
        log_severity=4,
        memory_pattern=False,
        cache="",
    )


@dataclass(frozen=True)
class Run:
    """A model that is run as it is."""

    model: onnx.ModelProto
    session: InferenceSession

    @classmethod
    def of(cls, model: onnx.ModelProto) -> Run:
        """Raises Unproved where onnxruntime is missing, or does not take the model."""
        try:
            return cls(model, _session(model))
        except ProviderError as error:
            raise Unproved(str(error)) from error
        except ModelError as error:
            raise Unproved(f"onnxruntime does not run the model at its own opset: {short(error)}") from error

    def __call__(self, feeds: Arrays) -> dict[str, Array]:
        """The outputs that are arrays, by name."""
        wanted = {node.name for node in self.session.get_inputs()}
        names = [value.name for value in self.model.graph.output]
        options = load_onnxruntime().RunOptions()
        timer = Timer(SECONDS, setattr, (options, "terminate", True))
        timer.start()
        try:
            made = self.session.run(names, {n: array for n, array in feeds.items() if n in wanted}, options)
        except Exception as error:
            if options.terminate:
                raise Unproved(f"the model runs for more than {SECONDS:g} s on one input") from error
            raise
        finally:
            timer.cancel()
        return {name: value for name, value in zip(names, made, strict=True) if isinstance(value, np.ndarray)}


def first_run(
    run: Run, shapes: Mapping[str, Sequence[Dim]], rows: int
) -> tuple[dict[str, Array], dict[str, Array]]:
    """The first random input, of the sizes in turn, that the model can be run on, and its outputs. rows: of an input;
    where they are pairs the model gets the first half."""
    reasons = []
    for feeds in _inputs(_slots(run.model, shapes), rows):
        _vet_memory(run.model, feeds)
        own = {name: array[: len(array) // rows] if rows > 1 else array for name, array in feeds.items()}
        try:
            outputs = run(own)
        except Unproved:
            raise
        except Exception as error:  # onnxruntime's own errors have no common type
            reasons.append(short(error))
            continue
        if not outputs:
            raise Unproved("the model has no output that is an array")
        return feeds, outputs
    raise Unproved(f"the model fails on random inputs: {reasons[0]}")


def _vet_memory(model: onnx.ModelProto, feeds: Arrays) -> None:
    try:
        needed = estimate(model, 1, sizes_of(model, feeds, {})).at(1)
    except ExplainError:
        return  # shapes that do not fit together are said where the model is prepared
    if needed > MEMORY:
        raise Unproved(f"a run of it would take about {say_bytes(needed)}")


def _slots(model: onnx.ModelProto, shapes: Mapping[str, Sequence[Dim]]) -> list[Slot]:
    sparse = {tensor.values.name for tensor in model.graph.sparse_initializer}
    parameters = {tensor.name for tensor in model.graph.initializer} | sparse
    slots = []
    for value in model.graph.input:
        if value.name in parameters:
            continue
        kind = tensor_type(value)
        if kind.dtype is None or kind.shape is None or kind.dtype.kind not in "fiub":
            raise Unproved(f"input {value.name!r} is no array of numbers with a known number of axes")
        asked = shapes.get(value.name, kind.shape)
        if len(asked) != len(kind.shape):
            raise Unproved(f"input {value.name!r} has other axes than it was asked for")
        # What the model fixes stays, a batch of 64 that the file frees above all.
        sizes = (own if isinstance(own, int) else dim for own, dim in zip(kind.shape, asked, strict=True))
        slots.append(Slot(value.name, kind.dtype, tuple(sizes), False))
    return slots


def _inputs(slots: Sequence[Slot], rows: int) -> Iterator[dict[str, Array]]:
    """Unit normal numbers, integers 0 or 1. The first axis is the batch, and so is every axis of its name."""
    lead = {slot.shape[0] for slot in slots if slot.shape}
    free = any(not isinstance(dim, int) for slot in slots for dim in slot.shape[1:])
    for size in SIZES if free else SIZES[:1]:

        def sized(slot: Slot, size: int = size) -> Slot:
            shape = tuple(_size(dim, i, lead, rows, size) for i, dim in enumerate(slot.shape))
            return Slot(slot.name, slot.dtype, shape, False)

        needed = sum(prod(_known(sized(slot))) * slot.dtype.itemsize for slot in slots)
        if needed > INPUT:
            raise Unproved(f"a random input of it would take {say_bytes(needed)}")
        case = Maker([sized(slot) for slot in slots], SEED).random(1)[0]
        yield {name: np.asarray(array) for name, array in case.feeds.items()}


def _known(slot: Slot) -> list[int]:
    return [dim for dim in slot.shape if isinstance(dim, int)]


def _size(dim: Dim, axis: int, lead: set[Dim], rows: int, size: int) -> int:
    if isinstance(dim, int):
        return dim
    return rows if axis == 0 or (dim is not None and dim in lead) else size


class _Plain(Explainer):
    """The file as it is written, without optimisation: opened in a fraction of the time."""

    @cached_property
    def session(self) -> InferenceSession:
        return _session(self.model)


class File:
    """The file, to be run for the model's own outputs: its forward part alone, or the whole of it where that cannot be
    cut out, being inside a loop, or made of other nodes.

    Raises ModelError where an output is lost, depends on what the explanation added, or cannot be run.
    """

    def __init__(self, model: onnx.ModelProto, card: Card, outputs: Sequence[str]) -> None:
        self.model, self.card, self.outputs = model, card, outputs
        self.paired = card.method == PAIRED
        self.part: Run | None = None
        lost = [name for name in outputs if name not in {value.name for value in model.graph.output}]
        if lost:
            raise ModelError(f"the file has lost the model's output {lost[0]!r}; report it")
        self._explainer = _Plain(first_trip(model), card)
        self._explainer.whole = True
        self._explainer.tells = False  # a map of the first trip alone may well be zero
        if not self.paired and loop_of(model) is None:
            try:
                self.part = Run.of(self._forward())
            except Unproved as reason:
                raise ModelError(
                    f"the file cannot be opened where the model can: {reason}; report it"
                ) from reason

    def _forward(self) -> onnx.ModelProto:
        part = forward_part(self.model, self.outputs)
        added = {value.name for value in part.graph.input} & set(self.card.inputs)
        if added:
            raise ModelError(
                f"the model's outputs depend on {min(added)!r}, which the explanation added; report it"
            )
        return part

    def forward(self, feeds: Arrays) -> dict[str, Array]:
        """The model's own outputs; of pairs those of the first half."""
        try:
            found = self.ask(feeds) if self.part is None else self.part(feeds)
        except ExplainError:
            raise
        except Unproved as reason:
            raise ModelError(f"of the file, {reason}") from reason
        except Exception as error:  # onnxruntime's own errors have no common type
            raise ModelError(
                f"the file cannot be run where the model can: {short(error)}; report it"
            ) from error
        rows = len(next(iter(feeds.values()))) // 2
        return {name: found[name][:rows] if self.paired else found[name] for name in self.outputs}

    def lead(self, feeds: Arrays) -> str | None:
        """The name of the batch axis, which target and maps have; None where it is fixed."""
        inputs: dict[str, tuple[Dim, ...]] = {
            value.name: tensor_type(value).shape or () for value in self.model.graph.input
        }
        outputs: dict[str, tuple[Dim, ...]] = {
            value.name: tensor_type(value).shape or () for value in self.model.graph.output
        }
        free = [inputs[name][0] for name in feeds if inputs[name] and isinstance(inputs[name][0], str)]
        told = [inputs.get("target", ()), *(outputs[name] for name in self.card.outputs if name in outputs)]
        chosen = next((shape[0] for shape in told if shape and shape[0] in free), free[0] if free else None)
        return chosen if isinstance(chosen, str) else None

    @property
    def guessed(self) -> list[str]:
        """Inputs of which only name and shape are known here."""
        return [name for name in self.card.inputs if name.split("/")[0] not in ("target", "noise")]

    def ask(self, feeds: Arrays) -> dict[str, Array]:
        """All outputs. What the file takes besides is class 0, ones, and the noise of its seed."""
        lead = self.lead(feeds)
        declared = {value.name: tensor_type(value).shape or () for value in self.model.graph.input}
        counted = [array for name, array in feeds.items() if lead is None or declared[name][:1] == (lead,)]
        rows = max(len(array) for array in counted if array.ndim)
        more = {
            value.name: _ones(value, feeds, self.model, rows)
            for value in self.model.graph.input
            if value.name in self.guessed
        }
        target = 0 if self.card.target.get("target") == "input" else None
        return self._explainer.outputs(dict(feeds), target, **more)


def _ones(value: onnx.ValueInfoProto, feeds: Arrays, model: onnx.ModelProto, rows: int) -> Array:
    """Ones of the declared shape: axes that are named as an input's have its size, the first one a row a sample."""
    kind = tensor_type(value)
    named = {
        dim: size
        for x in model.graph.input
        if x.name in feeds
        for dim, size in zip(tensor_type(x).shape or (), feeds[x.name].shape, strict=True)
    }
    first = 1 if value.name.startswith("references") else rows
    shape = [
        dim if isinstance(dim, int) else int(named.get(dim, first if i == 0 else 1))
        for i, dim in enumerate(kind.shape or ())
    ]
    return np.ones(shape, kind.dtype or np.float32)
