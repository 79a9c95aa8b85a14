"""Checks for authors of rules: is the pull the transpose of the push, and the push the derivative?

The rewriter runs nothing itself: every check takes `run(model, feeds) -> outputs`, a few lines around an
onnxruntime session. All raise AssertionError with the numbers when a check fails.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx

from .draft import Dim
from .emit import Emit
from .graph import Value, assemble, prepare, variable, with_weights
from .inputs import explained_inputs
from .method import Method
from .passes.lower import lower
from .passes.share import share
from .rules import Rules
from .tape import linearize, pull, push
from .target import find_head, find_output

Run = Callable[[onnx.ModelProto, Mapping[str, np.ndarray]], list[np.ndarray]]
"""Outputs of a model in graph order, for feeds by input name."""


@dataclass(frozen=True)
class Subject:
    """What is linearised: inputs (default: the first float one), output (default: the first), head, options
    of the method, input shapes to fix; as in compile."""

    inputs: tuple[str, ...] | None = None
    output: str | None = None
    head: str = "prob"
    options: Mapping[str, object] = field(default_factory=dict)
    shapes: Mapping[str, tuple[Dim, ...]] | None = None


@dataclass(frozen=True)
class Maps:
    """model: the forward pass with both directions. Inputs: the forward ones, `tangent/<x>` per explained
    input, `cotangent`. Outputs: `pushed`, and `pulled/<x>` per explained input. forward: the forward pass
    alone, its only output the explained tensor."""

    model: onnx.ModelProto
    forward: onnx.ModelProto
    inputs: tuple[str, ...]


def maps(model: onnx.ModelProto, method: Method | Rules, subject: Subject | None = None) -> Maps:
    """Linearise a model and emit both directions of the tape, through the passes that compile uses.

    Raises what compile raises, and NotLinearError for a method whose maps only pull.
    """
    subject = subject or Subject()
    rules = method if isinstance(method, Rules) else method.rules(method.settle(subject.options))
    graph = prepare(model, subject.shapes)
    g = Emit(graph)
    wrt = explained_inputs(graph, subject.inputs)
    head, _ = find_head(graph, find_output(graph, subject.output), subject.head)
    tape = linearize(graph, wrt, head, rules, g)
    tangents = {x.name: _row_input(f"tangent/{x.name}", x) for x in wrt}
    cotangent = _row_input("cotangent", head)
    pushed = push(tape, tangents, g)[head.name]
    pulled = pull(tape, {head.name: cotangent}, g)
    results = [_named(g, "pushed", pushed, head)]
    results += [_named(g, f"pulled/{x.name}", pulled[x.name], x) for x in wrt]
    g.nodes, finals = share(g.nodes, results)
    nodes, finals = lower(g, finals)
    nodes, finals = share(nodes, finals)
    made = assemble(graph, nodes, [_info(value) for value in finals])
    made.graph.input.extend(_info(value) for value in (*tangents.values(), cotangent))
    forward = assemble(graph, [], [_info(head)])
    for emitted in (made, forward):
        del emitted.graph.output[: len(graph.outputs)]
    return Maps(with_weights(made, graph), with_weights(forward, graph), tuple(x.name for x in wrt))


def _row_input(name: str, like: Value) -> Value:
    shape = None if like.shape is None else ["K", *like.shape[1:]][: len(like.shape)]
    return variable(name, like.dtype, shape)


def _named(g: Emit, name: str, value: Value, like: Value) -> Value:
    final = g.Identity(value)
    final.name, final.dtype = name, like.dtype
    return final


def _info(value: Value) -> onnx.ValueInfoProto:
    element = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(value.dtype))
    return onnx.helper.make_tensor_value_info(value.name, element, value.shape)


def check_adjoint(
    model: onnx.ModelProto,
    method: Method | Rules,
    feeds: Mapping[str, np.ndarray],
    rng: np.random.Generator,
    *,
    run: Run,
    subject: Subject | None = None,
    rows: int | None = None,
    rtol: float = 1e-4,
) -> None:
    """<push t, c> = <t, pull c> for random t and c.

    rows: K tangents and cotangents over a batch of one; by default as many as the batch has. The two numbers
    may differ by rtol times the sum of the absolute terms, plus 1e-7 of that for a map of gain 1: float32
    rounding.
    """
    both = maps(model, method, subject)
    y = primal(both, feeds, run)
    tangents = {name: _rows(rng, feeds[name], rows) for name in both.inputs}
    cotangent = _rows(rng, y, rows)
    pushed, pulled = apply(both, feeds, tangents, cotangent, run)
    assert pushed.shape == cotangent.shape, f"push gives {pushed.shape}, the output is {cotangent.shape}"
    for name, part in zip(both.inputs, pulled, strict=True):
        want = tangents[name].shape
        assert part.shape == want, f"pull gives {part.shape} for {name!r} of {want}"
    forward = _terms(pushed, cotangent)
    back = [_terms(tangents[name], part) for name, part in zip(both.inputs, pulled, strict=True)]
    left, right = float(forward.sum()), float(sum(terms.sum() for terms in back))
    scale = float(np.abs(forward).sum() + sum(np.abs(terms).sum() for terms in back))
    floor = 1e-7 * float(np.abs(cotangent).sum() + sum(np.abs(t).sum() for t in tangents.values()))
    assert abs(left - right) <= rtol * scale + floor, f"<push t, c> = {left}, <t, pull c> = {right}"


def check_tangent(
    model: onnx.ModelProto,
    method: Method | Rules,
    feeds: Mapping[str, np.ndarray],
    rng: np.random.Generator,
    *,
    run: Run,
    subject: Subject | None = None,
    step: float | None = None,
    rtol: float = 2e-3,
) -> None:
    """push t = (f(x + h t) - f(x - h t)) / 2h for a random t of unit size.

    h: 2^-6 for float32 (2^-18 for float64), and its half; the extrapolated value counts. rtol is relative to
    the largest element and allows for float32 differences. Feeds at a kink fail: choose others.
    """
    both = maps(model, method, subject)
    y = primal(both, feeds, run)
    tangents = {name: _rows(rng, feeds[name], None) for name in both.inputs}
    pushed, _ = apply(both, feeds, tangents, np.zeros_like(y), run)
    expected = difference(lambda at: primal(both, at, run), feeds, tangents, step)
    error = float(np.max(np.abs(pushed - expected), initial=0.0))
    size = float(np.max(np.abs(expected), initial=0.0))
    assert error <= rtol * max(size, 1e-3), f"push is off by {error}, the difference quotient is up to {size}"


def check_forward_unchanged(
    model: onnx.ModelProto, explanation: onnx.ModelProto, feeds: Mapping[str, np.ndarray], *, run: Run
) -> None:
    """The model's own outputs come first in the explanation, under their names, equal to the bit.

    `run` should not optimise graphs: fusions may round differently in the two files. feeds: inputs of both;
    those that only the explanation has are not given to the model.
    """
    names = [value.name for value in model.graph.output]
    assert [value.name for value in explanation.graph.output][: len(names)] == names
    own = {value.name for value in model.graph.input}
    before = run(model, {name: value for name, value in feeds.items() if name in own})
    after = run(explanation, feeds)
    for name, a, b in zip(names, before, after, strict=False):
        assert a.dtype == b.dtype and a.shape == b.shape, (
            f"{name!r}: {a.dtype}{a.shape} -> {b.dtype}{b.shape}"
        )
        assert np.array_equal(a, b, equal_nan=a.dtype.kind == "f"), f"{name!r} changed"


def primal(both: Maps, feeds: Mapping[str, np.ndarray], run: Run) -> np.ndarray:
    """The explained tensor."""
    return run(both.forward, feeds)[0]


def apply(
    both: Maps,
    feeds: Mapping[str, np.ndarray],
    tangents: Mapping[str, np.ndarray],
    cotangent: np.ndarray,
    run: Run,
) -> tuple[np.ndarray, list[np.ndarray]]:
    """(push of the tangents, pull of the cotangent per explained input)."""
    given = {**feeds, **{f"tangent/{name}": t for name, t in tangents.items()}, "cotangent": cotangent}
    pushed, *pulled = run(both.model, given)
    return pushed, pulled


def difference(
    f: Callable[[Mapping[str, np.ndarray]], np.ndarray],
    feeds: Mapping[str, np.ndarray],
    tangents: Mapping[str, np.ndarray],
    step: float | None = None,
) -> np.ndarray:
    """Central difference of f along the tangents in float64, extrapolated from two steps: error O(h^4)."""
    wide = all(feeds[name].dtype == np.float64 for name in tangents)
    h = step if step is not None else 2.0**-18 if wide else 2.0**-6

    def slope(size: float) -> np.ndarray:
        ends = []
        for sign in (1, -1):
            moved = {name: (feeds[name] + sign * size * t).astype(t.dtype) for name, t in tangents.items()}
            ends.append(f({**feeds, **moved}).astype(np.float64))
        return np.asarray((ends[0] - ends[1]) / (2 * size))

    return np.asarray((4 * slope(h / 2) - slope(h)) / 3)


def _rows(rng: np.random.Generator, like: np.ndarray, rows: int | None) -> np.ndarray:
    shape: Sequence[int] = like.shape if rows is None or not like.shape else (rows, *like.shape[1:])
    return rng.uniform(-1, 1, shape).astype(like.dtype)


def _terms(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.asarray(a.astype(np.float64) * b.astype(np.float64))
