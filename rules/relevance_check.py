"""Where relevance is kept and where it is lost, node by node."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import onnx

from ..rewriter.compile import Request, open_stage
from ..rewriter.emit import Emit
from ..rewriter.errors import OptionError
from ..rewriter.graph import Value, assemble, with_weights
from ..rewriter.load import load
from ..rewriter.method import Method
from ..rewriter.results import Result, finish, info
from ..rewriter.tape import Step, Tape
from ..rewriter.target import settle, start
from ..rewriter.testing import Run

Floats: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Balance:
    """The relevance at one output of one node, summed over its elements: an entry a sample.

    arrived: at the output. passed: to all inputs together. bias: taken by the bias, and dropped.
    """

    node: str
    op: str
    rule: str
    arrived: Floats
    passed: Floats
    bias: Floats

    @property
    def residual(self) -> Floats:
        """What is unaccounted for: taken by ε or by dead inputs; or made, by a rule that does not conserve."""
        return self.arrived - self.passed - self.bias


def conservation(
    model: str | os.PathLike[str] | bytes | onnx.ModelProto,
    method: Method,
    feeds: Mapping[str, np.ndarray],
    *,
    run: Run,
    request: Request | None = None,
) -> tuple[Balance, ...]:
    """One balance for each node between input and target, in forward order. Nodes that no relevance reaches are left
    out.

    feeds: as the emitted file takes them, with `target` where the request says so. A node whose rule conserves has
    arrived = passed + bias; where all do, and there are no biases, z_c arrives at the input.

    Raises what compile raises, and OptionError for a method that samples.
    """
    request = request or Request()
    method, options = method.concrete(request.options)
    if method.sampling is not None:
        raise OptionError(f"{method.name} samples; its maps are no share of one output")
    request = replace(request, target=settle(request.target), options=options)
    stage, _ = open_stage(load(model), method, request)
    g = stage.g
    begin = start(stage.graph, stage.head, request.target, g, stage.wrt[0].shape[0])
    seed = begin.seeds[0] if request.target == "cotangent" else method.seed(g, stage.head, begin.seeds[0])
    tape = stage.tape(stage.rules, stage.wrt)
    steps, sums = _balances(tape, stage.head.name, seed, g)
    results: list[Result] = [(f"balance/{i}", value, [None]) for i, value in enumerate(sums)]
    infos = finish(g, results, set(stage.graph.values), request.provider)
    made = assemble(stage.graph, g.nodes, infos)
    made.graph.input.extend(info(value) for value in (*begin.inputs, *stage.inputs))
    numbers = run(with_weights(made, stage.graph), feeds)[-len(sums) :]
    found = [
        Balance(
            step.site.name, step.site.op, step.rule, *(np.atleast_1d(v) for v in numbers[3 * i : 3 * i + 3])
        )
        for i, step in enumerate(steps)
    ]
    return tuple(reversed(found))


def _balances(tape: Tape, head: str, seed: Value, g: Emit) -> tuple[list[Step], list[Value]]:
    """The steps that relevance reaches, last one first, and for each the sums arrived, passed and bias."""
    relevance, steps, sums = {head: seed}, list[Step](), list[Value]()
    for step in reversed(tape.steps):
        ct = relevance.get(step.site.y.name)
        if ct is None:
            continue
        parts = [
            (x.name, part.pull(g, ct))
            for x, part in zip(step.site.node.inputs, step.local.maps, strict=False)
            if part is not None
        ]
        for name, mine in parts:
            relevance[name] = g.Add(relevance[name], mine) if name in relevance else mine
        arrived, offset = _sum(g, ct), step.local.offset
        lost = g.Mul(arrived, 0.0) if offset is None else _sum(g, g.Mul(ct, offset))
        steps.append(step)
        sums += [arrived, g.total([_sum(g, mine) for _, mine in parts]), lost]
    return steps, sums


def _sum(g: Emit, v: Value) -> Value:
    """Over everything but the first axis, in float64: (N,)."""
    flat = g.Flatten(g.Cast(v, to=onnx.TensorProto.DOUBLE), axis=1)
    value: Value = g.ReduceSum(flat, g.ints(1), keepdims=0)
    return value
