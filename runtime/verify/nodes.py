"""Node by node, from the original model: is what arrives passed on, is each pull the transpose of its push?

Both need the tape, which an emitted file no longer has: the model is compiled again, with sums as outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from ...rewriter.compile import Request, open_stage
from ...rewriter.emit import Emit
from ...rewriter.errors import NotLinearError
from ...rewriter.graph import Value, assemble, declared, with_weights
from ...rewriter.linear import Linear
from ...rewriter.load import Source
from ...rewriter.method import Method
from ...rewriter.results import Result, finish
from ...rewriter.scene import Stage
from ...rewriter.site import Refuse, Site
from ...rewriter.tape import Step, Tape
from ...rewriter.target import settle, start
from ...rewriter.testing import Run

Weigh = Callable[[Emit, Site, int | None, Value], Value]
"""(g, node, operand or None for the output, cotangent) -> what is summed."""


@dataclass(frozen=True)
class Balance:
    """What goes through one node, summed over the batch and its elements. arrived: at its output. passed: to all its
    inputs together. offset: taken by its bias. mass: the sum of the absolute values at its output. rounding: what the
    tensors' type loses in it. start: what the backward pass began with."""

    node: str
    op: str
    rule: str
    arrived: float
    passed: float
    offset: float
    mass: float
    rounding: float
    start: float

    @property
    def residual(self) -> float:
        """What is unaccounted for."""
        return self.arrived - self.passed - self.offset

    @property
    def share(self) -> float:
        """The residual as a share of what the pass began with."""
        return self.residual / self.start if self.start else self.residual

    @property
    def error(self) -> float:
        """The residual, as far as it is more than rounding, relative to what there was to pass on."""
        off = abs(self.residual)
        off = max(0.0, off - self.rounding) if off == off else off
        return off / self.mass if self.mass else off


@dataclass(frozen=True)
class Adjointness:
    """⟨push t, c⟩ and ⟨t, pull c⟩ of one map, for fixed t and c. scale: the sum of the absolute terms of both."""

    node: str
    op: str
    rule: str
    operand: int
    pushed: float
    pulled: float
    scale: float

    @property
    def error(self) -> float:
        off = abs(self.pushed - self.pulled)
        return off / self.scale if self.scale else off


def relevance(g: Emit, site: Site, operand: int | None, ct: Value) -> Value:
    """LRP: the cotangent is the relevance."""
    return ct


def change(g: Emit, site: Site, operand: int | None, ct: Value) -> Value:
    """DeepLIFT: a multiplier times the change against the reference, m ⊙ (v - v⁰)."""
    mine, there = (s.y if operand is None else s.node.inputs[operand] for s in (site, site.reference))
    value: Value = g.Mul(ct, g.Sub(mine, there))
    return value


def rounded(g: Emit, site: Site, operand: int | None, ct: Value) -> Value:
    """Of `change`: Σ |m| (|v| + |v⁰|) units in the last place. Of large values that differ little the type keeps few
    digits of v - v⁰: 0.06 at 10⁶ in float32."""
    mine, there = (s.y if operand is None else s.node.inputs[operand] for s in (site, site.reference))
    unit = float(np.finfo(mine.dtype or np.float32).eps)
    value: Value = g.Mul(g.Mul(g.Abs(ct), g.Add(g.Abs(mine), g.Abs(there))), unit)
    return value


def balances(
    source: Source,
    method: Method,
    request: Request,
    feeds: Mapping[str, npt.NDArray[Any]],
    *,
    run: Run,
    weigh: Weigh = relevance,
) -> tuple[Balance, ...]:
    """One for every node that the backward pass reaches, in forward order; of the first row where the target has
    several. feeds: as the emitted file takes them.

    Σ arrived = Σ passed + offset at a node that keeps the sum: relevance for LRP (the offset is the share of the bias),
    `weigh=change` for DeepLIFT, whose offsets take nothing. Raises what compile raises.
    """
    stage, begin, tape = _opened(source, method, request)
    g = stage.g
    seed = begin.seeds[0] if request.target == "cotangent" else method.seed(g, stage.head, begin.seeds[0])
    steps, rows = _walked(tape, stage.head.name, seed, g, weigh)
    found = _numbers(stage, [*begin.inputs, *stage.inputs], request, rows, feeds, run)
    first = float(found[0][0]) if len(found) else 0.0
    return tuple(
        Balance(step.site.name, step.site.op, step.rule, *(float(v) for v in (*row, first)))
        for step, row in zip(steps, found, strict=True)
    )[::-1]


def adjointness(
    source: Source, method: Method, request: Request, feeds: Mapping[str, npt.NDArray[Any]], *, run: Run
) -> tuple[Adjointness, ...]:
    """One for every map that has a forward form, in forward order; those that only pull are left out. t and c are
    fixed sequences in [-1, 1] without a pattern, other ones for every node."""
    stage, _, tape = _opened(source, method, request)
    g, rows = stage.g, list[Value]()
    kept: list[tuple[Step, int]] = []
    for step in tape.steps:
        for i, part in enumerate(step.local.maps):
            if part is not None:
                with g.at(step.site.name):
                    row = _both_ways(g, step, i, part, len(kept))
                if row is not None:
                    rows.append(row)
                    kept.append((step, i))
    if not rows:
        return ()
    found = _numbers(stage, stage.inputs, request, rows, feeds, run)
    return tuple(
        Adjointness(step.site.name, step.site.op, step.rule, i, *(float(v) for v in row))
        for (step, i), row in zip(kept, found, strict=True)
    )


def _opened(source: Source, method: Method, request: Request) -> tuple[Stage, Any, Tape]:
    """The compilation up to the tape; the samples of a method are not drawn, the input itself is explained."""
    method, options = method.concrete(request.options)
    target = (
        settle(request.target) if method.aimed else "top"
    )  # which only the start of a backward pass depends on
    request = Request(**{**vars(request), "target": target, "options": options})
    stage, _ = open_stage(source, method, request)
    with stage.g.at("target"):
        begin = start(stage.graph, stage.head, request.target, stage.g, stage.wrt[0].shape[0])
    wrt = (stage.layer,) if method.starts_at_layer else stage.wrt
    return stage, begin, stage.tape(stage.rules, wrt)


def _walked(tape: Tape, head: str, seed: Value, g: Emit, weigh: Weigh) -> tuple[list[Step], list[Value]]:
    """The steps that are reached, last one first, and the sums of each: arrived, passed, offset, mass, rounding."""
    cotangents, steps, rows = {head: seed}, list[Step](), list[Value]()
    for step in reversed(tape.steps):
        site, ct = step.site, cotangents.get(step.site.y.name)
        if ct is None:
            continue
        with g.at(site.name):
            passed, blurs = [], []
            for i, (x, part) in enumerate(zip(site.node.inputs, step.local.maps, strict=False)):
                if part is None:
                    continue
                mine = part.pull(g, ct)
                passed.append(_sum(g, weigh(g, site, i, mine)))
                blurs += [_sum(g, rounded(g, site, i, mine))] if weigh is change else []
                cotangents[x.name] = g.Add(cotangents[x.name], mine) if x.name in cotangents else mine
            there = weigh(g, site, None, ct)
            offset = step.local.offset if weigh is relevance else None
            none = g.constant(np.zeros(1, np.float64))
            taken = none if offset is None else _sum(g, g.Mul(ct, offset))
            blurs += [_sum(g, rounded(g, site, None, ct))] if weigh is change else [none]
            numbers = _sum(g, there), g.total(passed), taken, _sum(g, g.Abs(there)), g.total(blurs)
            rows.append(g.Concat(*numbers, axis=0))
        steps.append(step)
    return steps, rows


def _both_ways(g: Emit, step: Step, i: int, part: Linear, number: int) -> Value | None:
    """[⟨push t, c⟩, ⟨t, pull c⟩, Σ of their absolute terms], or None for a map that only pulls."""
    x, y = step.site.node.inputs[i], step.site.y
    t, c = _wave(g, x, 2 * number), _wave(g, y, 2 * number + 1)
    try:
        there = g.Mul(part.push(g, t), c)
    except NotLinearError:
        return None
    back = g.Mul(t, part.pull(g, c))
    size = g.Add(_sum(g, g.Abs(there)), _sum(g, g.Abs(back)))
    value: Value = g.Concat(_sum(g, there), _sum(g, back), size, axis=0)
    return value


def _wave(g: Emit, like: Value, number: int) -> Value:
    """sin(7.31 j + number) for element j modulo a prime, in the shape of `like`."""
    index = g.Mod(g.Range(g.scalar(0), g.Size(like), g.scalar(1)), g.scalar(4093))
    wave = g.Sin(g.Add(g.Mul(g.Cast(index, to=onnx.TensorProto.FLOAT), 7.31), float(number % 89)))
    value: Value = g.Reshape(g.cast(wave, like), g.Shape(like))
    value.shape = like.shape
    return value


def _sum(g: Emit, v: Value) -> Value:
    """Of all elements, in float64: (1,)."""
    wide = g.Cast(v, to=onnx.TensorProto.DOUBLE)
    value: Value = g.Reshape(g.ReduceSum(wide, keepdims=0), g.ints(1))
    return value


def _numbers(
    stage: Stage,
    inputs: Sequence[Value],
    request: Request,
    rows: Sequence[Value],
    feeds: Mapping[str, npt.NDArray[Any]],
    run: Run,
) -> npt.NDArray[np.float64]:
    """Run the model with the rows as one more output: (rows, numbers)."""
    g = stage.g
    table = g.Concat(*(g.Unsqueeze(row, g.ints(0)) for row in rows), axis=0)
    results: list[Result] = [("verify/table", table, [len(rows), None])]
    taken = set(stage.graph.values) | {value.name for value in inputs}
    infos = finish(g, results, taken, request.provider)
    made = assemble(stage.graph, g.nodes, infos)
    made.graph.input.extend(declared(value) for value in inputs)
    del made.graph.output[: len(stage.graph.outputs)]
    model = with_weights(made, stage.graph)
    names = {value.name for value in model.graph.input}
    return np.asarray(run(model, {name: v for name, v in feeds.items() if name in names})[0], np.float64)


__all__ = ["Adjointness", "Balance", "Refuse", "adjointness", "balances", "change", "relevance"]
