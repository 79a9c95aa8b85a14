"""Random sound graphs, explained: python -m tests.fuzz.graphs START STOP [WORKERS]. Prints as tests.fuzz.run does.

Saliency along a random direction of every explained input against the difference quotient of the model itself: in
float64 where onnxruntime has the kernels, else in float32. What comes of a graph: "agrees", "refused" (an
ExplainError), "skipped" (a kink or a jump on the way), or a find: a wrong number, or another error.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

import onnxplain
from onnxplain import ExplainError
from tests.fuzz import run as fuzz
from tests.fuzz.growing import Array, Draw, Growing, one, run
from tests.fuzz.operators import GROW
from tests.rules.forward import Runner, widened

METHODS = (
    "guided-backprop",
    "lrp.epsilon",
    "deeplift.rescale",
    "integrated-gradients",
    "linearscope.rows",
)
DIRECTIONS = 2
CLOSE = {np.dtype(np.float64): 1e-3, np.dtype(np.float32): 2e-2}
"""Of the sum of the absolute terms: maps are float32."""
KINK = 4e-3
"""Of the slope: what a corner between two steps may hide behind; the extrapolation makes four times as much of it."""
STEPS = {np.dtype(np.float64): 2.0**-14, np.dtype(np.float32): 2.0**-6}


@dataclass(frozen=True)
class Grown:
    """A graph, its input, and the inputs that the output depends on."""

    model: onnx.ModelProto
    feeds: dict[str, Array]
    explained: tuple[str, ...]
    output: Array


def grown(number: int) -> Grown:
    """The graph of a number."""
    draw = np.random.default_rng([number, 7])
    while True:
        g = Growing(draw, free=bool(draw.random() < 0.6))
        _inputs(g)
        wanted, tries = int(draw.integers(1, 13)), 0
        while len(g.nodes) < wanted and tries < 60:
            tries += 1
            kept = len(g.nodes), dict(g.values)
            try:
                one(GROW, draw)(g)
            except ValueError:
                del g.nodes[kept[0] :]
                g.values = kept[1]
        made = _finished(g) if g.nodes else None
        if made is not None:
            return made


def _inputs(g: Growing) -> None:
    rows = 2 if g.free else int(g.draw.integers(1, 3))
    shape = (rows, *g.draw.choice([1, 2, 3, 4, 5], int(g.draw.integers(0, 5))).tolist())
    for i in range(int(g.draw.choice([1, 1, 2, 3]))):
        if i and g.draw.random() < 0.3:
            shape = (rows, int(g.draw.integers(1, 5)))
        g.inputs[f"x{i}"] = g.values[f"x{i}"] = g.draw.normal(size=shape).astype(np.float32)


def _finished(g: Growing) -> Grown | None:
    """The last tensor is the output, in half of the graphs as (N, M). None where it depends on no input."""
    try:
        last = next(y for node in reversed(g.nodes) for y in node.output if g.values[y].dtype == np.float32)
        if g.values[last].ndim > 1 and g.draw.random() < 0.5:
            last = g.add("Flatten", last, axis=1)
    except (StopIteration, ValueError):
        return None
    live = {last}
    for node in reversed(g.nodes):
        if live & set(node.output):
            live |= set(node.input)
    explained = tuple(name for name in g.inputs if name in live)
    g.inputs = {name: array for name, array in g.inputs.items() if name in live}
    g.nodes = [node for node in g.nodes if live & set(node.output)]
    read = {name for node in g.nodes for name in node.input}
    g.weights = {name: array for name, array in g.weights.items() if name in read}
    if not explained:
        return None
    return Grown(g.model([last]), g.feeds, explained, g.values[last])


def explained(number: int) -> str:
    """What comes of the graph of a number."""
    case = grown(number)
    draw = np.random.default_rng([number, 8])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        np.seterr(all="ignore")
        said = _other(case, METHODS[number % len(METHODS)])
        try:
            made = onnxplain.compile(
                case.model, "saliency", target="cotangent", head="prob", inputs=case.explained
            )
            weights = draw.uniform(0.5, 1.5, case.output.shape) * draw.choice([-1, 1], case.output.shape)
            cotangent = weights.astype(np.float32)
            outputs = made.outputs(case.feeds, cotangent=cotangent)
        except ExplainError as error:
            return f"refused {type(error).__name__}: {error}"
        maps = {name: _map(outputs, name, len(case.explained)) for name in case.explained}
        compared = _compared(case, maps, cotangent, draw)
        if compared.startswith("find") and _compared(
            case, _wide_maps(case, made.model, cotangent), cotangent, draw
        ).startswith("agrees"):
            return "agrees in float64"
    return f"{compared} {said}"


def _map(outputs: dict[str, Array], name: str, count: int) -> Array:
    return outputs["attribution" if count == 1 else f"attribution/{name}"]


def _wide_maps(case: Grown, model: onnx.ModelProto, cotangent: Array) -> dict[str, Array]:
    """The maps of the same file in float64: what float32 rounds away is no mistake. Empty where it cannot be run."""
    feeds = {name: array.astype(np.float64) for name, array in case.feeds.items()}
    names = [value.name for value in model.graph.output]
    try:
        found = run(widened(model), feeds | {"cotangent": cotangent.astype(np.float64)})
    except Exception:  # onnxruntime has no kernel of this type
        return {}
    outputs = dict(zip(names, found, strict=True))
    return {name: _map(outputs, name, len(case.explained)) for name in case.explained}


def _other(case: Grown, method: str) -> str:
    """Another method compiles, runs and gives the shape of the input, or is refused."""
    try:
        made = onnxplain.compile(case.model, method, target="top", inputs=case.explained)
        outputs = made.outputs(case.feeds)
    except ExplainError as error:
        return f"({method} refused: {type(error).__name__})"
    if method != "linearscope.rows":
        for name in case.explained:
            got = _map(outputs, name, len(case.explained)).shape
            assert got == case.feeds[name].shape, f"{method} gives {got} for {name}"
    return f"({method} taken)"


def _compared(case: Grown, maps: dict[str, Array], cotangent: Array, draw: Draw) -> str:
    f, kind = _function(case, cotangent)
    if not maps or not all(np.isfinite(array).all() for array in maps.values()):
        return "skipped: not finite"
    worst = 0.0
    for name in case.explained:
        for _ in range(DIRECTIONS):
            t = draw.uniform(-1, 1, case.feeds[name].shape)
            want, fuzzy = _slope(f, name, t, case.feeds[name].astype(kind), STEPS[kind])
            if want is None:
                return "skipped: a kink"
            terms = maps[name].astype(np.float64) * t
            scale = max(float(np.abs(terms).sum()), abs(want))
            off = abs(float(terms.sum()) - want)
            if off > CLOSE[kind] * scale + fuzzy:
                return f"find wrong: {name} {float(terms.sum()):.6g} instead of {want:.6g} ({kind}, ±{fuzzy:.2g})"
            worst = max(worst, off / max(scale, 1e-30))
    return f"agrees ({kind})"


Function = Callable[[str, Array], float]

NARROW = frozenset({"Shrink"})
"""onnxruntime's kernel of doubles computes in float32."""


def _function(case: Grown, cotangent: Array) -> tuple[Function, np.dtype[np.generic]]:
    """<cotangent, model> of one input, the others fixed, and the type that it is computed in."""
    kind: np.dtype[Any] = np.dtype(np.float64)
    runner, model = Runner(), widened(case.model)
    try:
        if any(node.op_type in NARROW for node in model.graph.node):
            raise TypeError
        runner(model, {name: array.astype(np.float64) for name, array in case.feeds.items()})
    except Exception:  # onnxruntime has no kernel of this type
        model, kind = case.model, np.dtype(np.float32)

    def f(name: str, x: Array) -> float:
        feeds = {n: array.astype(kind) for n, array in case.feeds.items()} | {name: x.astype(kind)}
        return float((runner(model, feeds)[0].astype(np.float64) * cotangent).sum())

    return f, kind


def _slope(f: Function, name: str, t: Array, x: Array, step: float) -> tuple[float | None, float]:
    """The derivative along t, extrapolated from two steps, and what rounding may do to it; None where the slopes on
    both sides, or of the two steps, are not of one smooth function."""
    middle, found = f(name, x), []
    noise = 4 * float(np.finfo(x.dtype).eps) * max(1.0, abs(middle)) / step
    for h in (step, step / 2):
        ahead, behind = f(name, x + h * t) - middle, middle - f(name, x - h * t)
        found.append(((ahead + behind) / (2 * h), (ahead - behind) / h))
    (wide, bend), (narrow, less) = found
    slack = KINK * max(abs(wide), abs(narrow)) + noise
    if abs(wide - narrow) > slack or abs(less) > 0.75 * abs(bend) + slack:
        return None, noise
    return (4 * narrow - wide) / 3, 4 * noise + abs(wide - narrow)


if __name__ == "__main__":
    sys.exit(fuzz.main("graph", *map(int, sys.argv[1:])))
