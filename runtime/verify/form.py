"""The form of a file: its operators, its types and shapes."""

from __future__ import annotations

import numpy as np
import onnx

from ...rewriter.passes.shapes import tensor_type
from ..opening import serialize
from ..session import run
from .cases import Array, Case
from .outcome import Outcome, check, judged
from .subject import Subject
from .surgery import foreign


def fed(subject: Subject, case: Case) -> dict[str, Array]:
    """Everything that the file takes."""
    feeds = dict(case.feeds) | dict(subject.more) | subject.beside(case)
    rows = len(case.feeds[subject.explained[0]])
    if subject.aim == "input":
        feeds["target"] = np.full((rows, 1), -1, np.int64)
    return feeds


@check("standard operators only")
def standard(subject: Subject) -> Outcome:
    """The explanation is made of ONNX's own operators."""
    return judged(foreign(subject.model, subject.own), "none of another domain")


@check("onnx.checker")
def checked(subject: Subject) -> Outcome:
    """onnx.checker with type and shape inference."""
    found: list[str] = []
    try:
        onnx.checker.check_model(serialize(subject.model), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError) as error:
        found.append(" ".join(str(error).split())[:200])
    return judged(found, "full check")


@check("declared shapes")
def shapes(subject: Subject) -> Outcome:
    """Every output has the type and the sizes that the file declares; a name stands for one size, everywhere."""
    wrong: list[str] = []
    for case in subject.probes[:1]:
        feeds = fed(subject, case)
        found = run(subject.explainer.session, feeds)
        named: dict[str, int] = {}
        graph = subject.model.graph
        for value in (*graph.input, *graph.output):
            array = feeds.get(value.name, found.get(value.name))
            if array is not None:
                wrong += _misfits(value, np.asarray(array), named)
    return judged(wrong, "as computed")


def _misfits(value: onnx.ValueInfoProto, array: Array, named: dict[str, int]) -> list[str]:
    kind = tensor_type(value)
    if kind.dtype is not None and kind.dtype != array.dtype:
        return [f"{value.name!r} is {array.dtype}, declared {kind.dtype}"]
    if kind.shape is None:
        return []
    wrong = len(kind.shape) != array.ndim
    for dim, size in zip(kind.shape, array.shape, strict=False):
        wrong |= (isinstance(dim, int) and dim != size) or (
            isinstance(dim, str) and named.setdefault(dim, size) != size
        )
    return [f"{value.name!r} is {list(array.shape)}, declared {list(kind.shape)}"] if wrong else []
