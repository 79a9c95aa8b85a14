"""That the forward pass is untouched, proved when a file is compiled: model and file run on the same random input."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from ..rewriter.card import Card
from ..rewriter.errors import ExplainError, ExplainWarning, ModelError, TargetError
from ..rewriter.load import Source
from ..rewriter.passes.shapes import tensor_type
from ..rewriter.results import ATTRIBUTION
from .loading import load_onnxruntime
from .proof_runs import PAIRED, SEED, Array, Arrays, File, Run, Unproved, first_run, short

if TYPE_CHECKING:
    from ..rewriter.draft import Dim

LARGE = 512 * 2**20
"""Bytes of a model from which on nothing but its own batch is run."""

SMALL = 8 * 2**20
"""Bytes of a model up to which maps are compared too, and the forward pass of loops."""

BOUNDS = {"float64": 1e-10, "float32": 1e-5, "float16": 1e-2}
"""max |a - b| / max |b|. The same nodes give the same bits; what a raised opset spells out may round once more."""

ROWS = {"float64": 1e-8, "float32": 1e-4, "float16": 2e-2}
"""The same between a row in a batch and alone: kernels may add up in another order."""

MAPS = dict.fromkeys(ROWS, 1e-2)
"""Of maps: a unit that is next to its threshold may switch by rounding. A map that mixes rows is far off."""


def prove(
    source: Source,
    emitted: onnx.ModelProto,
    card: Card,
    shapes: Mapping[str, Sequence[Dim]] | None = None,
    half: bool = False,
) -> dict[str, Any]:
    """Run the model, and the file's forward pass, on one random input, without graph optimisation, and compare every
    output; then a row in a batch of two with the row alone, where the file's batch is free. half: the file computes in
    float16.

    Gives what the card keeps: outputs and errors, the input by its seed and shapes. A model that cannot be run on a
    random input is not proved: the record says why, and an ExplainWarning too.

    Raises ModelError naming the first output that differs, TargetError where rows of a batch depend on each other.
    """
    try:
        feeds, expected = first_run(Run.of(source.model), shapes or {}, 2 if card.method == PAIRED else 1)
    except Unproved as reason:
        warnings.warn(f"the forward pass is not proved: {reason}", ExplainWarning, stacklevel=3)
        return {"unproved": str(reason)}
    file = File(emitted, card, list(expected))
    found = file.forward(feeds)
    record: dict[str, Any] = {
        "forward": "the model against the file, each run without optimisation",
        "outputs": list(expected),
        "seed": SEED,
        "shapes": {name: list(array.shape) for name, array in feeds.items()},
        "error": _compared(found, expected, half),
        "onnxruntime": str(load_onnxruntime().__version__),
    }
    if source.size <= (LARGE if file.part is not None else SMALL):
        record |= _rows(file, feeds, found, maps=source.size <= SMALL)
    return record


def _compared(found: Arrays, expected: Arrays, half: bool) -> float:
    """The largest relative error. ModelError for the first output that is another."""
    worst = 0.0
    for name, want in expected.items():
        got = found[name]
        if got.shape != want.shape or (got.dtype != want.dtype and not half):
            raise ModelError(
                f"output {name!r} of the file is {got.dtype} {list(got.shape)}, of the model {want.dtype} "
                f"{list(want.shape)}: the forward pass would not be the model's; export the model with opset 18, and "
                "report it"
            )
        off = distance(got, want)
        if not off <= (BOUNDS["float16"] if half else BOUNDS.get(want.dtype.name, 0.0)):
            raise ModelError(
                f"output {name!r} of the file is off by {off:.2g} of its largest value from the model's own: the "
                "forward pass would not be the model's; export the model with opset 18, and report it"
            )
        worst = max(worst, off)
    return float(f"{worst:.1e}")


BLOCK = 2**20
"""Elements that are compared at a time."""


def distance(a: Array, b: Array) -> float:
    """max |a - b| / max |b| over what is finite, absolute where b is 0; infinite where NaN and infinities lie in
    other places, and for texts and whole numbers that differ."""
    if a.shape != b.shape:
        return float("inf")
    if a.dtype.kind not in "fc" or b.dtype.kind not in "fc":
        return 0.0 if np.array_equal(a, b) else float("inf")
    x, y = a.reshape(-1), b.reshape(-1)
    off = size = 0.0
    for start in range(0, x.size, BLOCK):  # a wide copy of all of it may not fit
        u, v = (
            part[start : start + BLOCK].astype(np.complex128 if a.dtype.kind == "c" else np.float64)
            for part in (x, y)
        )
        fine = np.isfinite(v)
        if not np.array_equal(np.isfinite(u), fine) or not np.array_equal(u[~fine], v[~fine], equal_nan=True):
            return float("inf")
        off = max(off, float(np.max(np.abs(u[fine] - v[fine]), initial=0.0)))
        size = max(size, float(np.max(np.abs(v[fine]), initial=0.0)))
    return off / size if size > 0 else off


def _rows(file: File, feeds: Arrays, found: Arrays, *, maps: bool) -> dict[str, Any]:
    """The last row of a batch against the row alone: forward, and maps. A batch of one gets a row in front of it.
    Nothing where the file's batch is fixed, or its rows are no samples."""
    declared = {value.name: tensor_type(value).shape or () for value in file.model.graph.input}
    lead = file.lead(feeds)
    if lead is None or file.paired:
        return {}
    batched = {name: array for name, array in feeds.items() if declared[name][:1] == (lead,)}
    count = len(next(iter(batched.values())))
    whole: Arrays
    row: Arrays
    if count == 1:
        joined = {name: np.concatenate([_other(array), array]) for name, array in batched.items()}
        whole, row = {**feeds, **joined}, feeds
    else:
        whole, row = feeds, {**feeds, **{name: array[-1:] for name, array in batched.items()}}
    try:
        batch, alone = (file.forward(whole), found) if count == 1 else (found, file.forward(row))
    except ModelError as error:
        return {"rows": f"not compared: another batch cannot be run: {short(error)}"}
    count = max(count, 2)
    record: dict[str, Any] = {"rows": count, "rows_error": _last_row(file, lead, count, batch, alone, ROWS)}
    if maps and not file.card.options.get("probes"):
        record |= _maps_of(file, lead, count, whole, row)
    return record


def _maps_of(file: File, lead: str, count: int, whole: Arrays, row: Arrays) -> dict[str, Any]:
    """The map of the last row of a batch against that of the row alone."""
    try:
        alone = _maps(file.ask(row))
    except ExplainError as error:  # a type without a kernel here, or an input that is only guessed
        return {"maps": f"not compared: {short(error)}"}
    try:
        batch = _maps(file.ask(whole))
    except ExplainError as error:
        if file.guessed:
            return {"maps": f"not compared: {short(error)}"}
        raise TargetError(
            f"one row can be explained, a batch of {count} cannot ({short(error)}). Compile it for one row, with "
            "shapes= and a first axis of 1"
        ) from error
    return {"maps_error": _last_row(file, lead, count, batch, alone, MAPS)}


def _other(array: Array) -> Array:
    """Another row like it: the numbers in reverse order."""
    return np.ascontiguousarray(array.reshape(-1)[::-1].reshape(array.shape))


def _maps(outputs: Arrays) -> dict[str, Array]:
    return {name: value for name, value in outputs.items() if name.split("/")[0] == ATTRIBUTION}


def _last_row(
    file: File, lead: str, count: int, batch: Arrays, alone: Arrays, bounds: Mapping[str, float]
) -> float:
    """The largest error of the last row of a batch against the run of it alone, along the axis that counts rows."""
    worst = 0.0
    declared = {value.name: tensor_type(value).shape for value in file.model.graph.output}
    for name, values in batch.items():
        shape = declared[name]
        if shape is None or lead not in shape:
            continue  # it does not say that it has a row a sample
        axis, rows, off = shape.index(lead), alone[name].shape, float("inf")
        if values.shape == (*rows[:axis], count * rows[axis], *rows[axis + 1 :]):
            off = distance(np.split(values, count, axis)[-1], alone[name])
        if not off <= bounds.get(values.dtype.name, 0.0):
            raise TargetError(
                f"{name!r} of a batch of {count} is not what a row gives alone (off by {off:.2g} of the largest "
                "value): rows of this model depend on each other. Compile it for one row, with shapes= and a first "
                "axis of 1"
            )
        worst = max(worst, off)
    return float(f"{worst:.1e}")
