"""Singular triplets of the frozen network in one file: power iteration in an ONNX Loop.

Navarrete et al. Algorithm 1 for a block of k vectors, corrected (docs/methods/linearscope.md, "Decisions"):

    W = F'F V - m P;   V = Q R^-1, P = V R^-1, where W = Q R by Gram-Schmidt;   σ = ‖F v‖

The primal pass runs once, before the loop. Its masks, and the weights, which are in the file once, are read by the body
from the enclosing graph: onnxruntime then keeps no blocked layout in the body, and a trip takes 1.1 (ResNet-50) to 2
times (MobileNetV2) as long as it would with weights of its own. Weights in the body would mean a primal pass each trip,
or a second copy of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
import onnx
from onnx import TensorProto, helper

from ...rewriter.emit import Emit, tail_of
from ...rewriter.errors import OptionError, TargetError
from ...rewriter.graph import Node, Value, append, assemble, declared, proto, variable
from ...rewriter.method import Option
from ...rewriter.results import Result
from ...rewriter.scene import Stage
from ...rewriter.tape import pull, push
from ...rewriter.target import Target, vet_leading
from ..checks import number, whole
from .results import frozen, reached

START = "start"
VALUES, INPUTS, OUTPUTS, RESIDUALS = "singular_values", "eigen_inputs", "eigen_outputs", "residuals"
LOOP = "onnxplain/svd"

OPTIONS = MappingProxyType(
    {
        "k": Option(1, None, "number of singular triplets", whole(1, 16)),
        "steps": Option(50, None, "applications of F'F, each 1 push and 1 pull of k rows", whole(1, 100_000)),
        "momentum": Option(
            0.0,
            None,
            "m, in units of σ⁴: best σ⁴/4 of the first value that is not asked for; it has to be below σ⁴/4 of all "
            "that are, or they never converge",
            number(0.0),
        ),
        "start": Option(
            "seed", ("seed", "input"), "the first vectors: normal numbers in the file, or its input `start`"
        ),
        "seed": Option(0, None, "of the first vectors", whole(0, 2**31 - 1)),
    }
)


@dataclass
class _Plan:
    """What the loop carries, by name. before: as it enters the body, of what the body reads. behind: as the loop leaves
    it. All but v start as the scalar 0."""

    before: dict[str, Value] = field(default_factory=dict)
    behind: dict[str, Value] = field(default_factory=dict)
    zero: Value | None = None
    trips: Value | None = None


def svd(stage: Stage, target: Target) -> list[Result]:
    """`singular_values` (k, 1) descending, `eigen_inputs` v (k, *x) and `eigen_outputs` u (k, *y) with F v = σ u and
    F'u = σ v, all of unit length, and `residuals` (k, 1) ‖F'u - σ v‖ / σ, which say how far it has come; u = 0 and
    residual 0 where σ = 0. The entry of u with the largest magnitude is positive.

    One picture a run. They are the vectors that `steps` - 1 applications of F'F have made of the first ones: without
    momentum the error of v_j shrinks by (σ_(k+1)/σ_j)² a step, that of neighbours by (σ_(j+1)/σ_j)². Of (nearly) equal
    values the vectors are any basis of their space. A momentum that is too large, too few steps and k above the rank
    of F show in `residuals`. Rounding keeps that of v_j from falling below some 1e-7 (σ_1/σ_j)².

    OptionError for several explained inputs and for k above the number of elements; TargetError where the size of
    the input is not known and start="seed".
    """
    g, k, x = stage.g, int(stage.options["k"]), stage.wrt[0]
    vet_leading(stage.graph, stage.head, "the decomposition")
    _vet(stage, k)
    plan = _Plan(zero=g.number(0.0, x), trips=g.scalar(int(stage.options["steps"])))
    stage.extras["svd"] = plan
    momentum = float(stage.options["momentum"])
    tape = frozen(stage)
    g.lead = k
    with g.at("svd"):
        first = _first(stage, k)
    rows = [k, *x.shape[1:]]
    v = plan.before["v"] = variable(f"{g.scope}/svd/v", x.dtype, rows)
    u = reached(stage, push(tape, {x.name: v}, g))
    w = pull(tape, {stage.head.name: u}, g)[x.name]
    with g.at("svd"):
        sigma = g.ReduceL2(_flat(g, u), g.ints(1), keepdims=1)
        residual = _residual(g, sigma, v, w)
        old = None
        if momentum:
            old = plan.before["p"] = variable(f"{g.scope}/svd/p", x.dtype, rows)
            w = g.Sub(w, g.Mul(old, momentum))
        new, past = _orthonormal(g, _flat(g, w), k, None if old is None else _flat(g, v))
        kept: dict[str, Value] = {"v": g.shaped(new, v)}
        if past is not None:
            kept["p"] = g.shaped(past, v)
        kept |= {"vectors": v, "images": u, "sigma": sigma, "residual": residual}
        for name, value in kept.items():
            plan.behind[name] = variable(f"{g.scope}/svd/last/{name}", value.dtype, None)
        results = [(f"{g.scope}/svd/first", first, rows)]
        results += [
            (f"{g.scope}/svd/next/{name}", value, _shape(stage, name, k)) for name, value in kept.items()
        ]
        return results + _sorted(stage, plan, k)


def _vet(stage: Stage, k: int) -> None:
    x = stage.wrt[0]
    if len(stage.wrt) > 1:
        raise OptionError(f"singular vectors are those of one input; choose one with inputs=({x.name!r},)")
    for value in (x, stage.head):
        tail = tail_of(value)
        if tail is not None and k > math.prod(tail):
            raise OptionError(f"k={k} singular values, but {value.name!r} has {math.prod(tail)} elements")


def _first(stage: Stage, k: int) -> Value:
    """The orthonormal first vectors."""
    g, x, options = stage.g, stage.wrt[0], stage.options
    if options["start"] == "input":
        given = stage.add_input(START, x, [k, *x.shape[1:]])
    else:
        tail = tail_of(x)
        if tail is None:
            raise TargetError(
                f"the first vectors are kept in the file, but {x.name!r} of shape {list(x.shape)} has no fixed size; "
                "fix it with shapes=, or feed them with start='input'"
            )
        draw = np.random.default_rng(int(options["seed"])).standard_normal((k, *tail))
        given = g.constant(draw.astype(x.dtype))
    return g.shaped(_orthonormal(g, _flat(g, given), k, None)[0], x)


def _flat(g: Emit, v: Value) -> Value:
    """(k, ...) -> (k, elements)."""
    value: Value = g.Reshape(v, g.ints(0, -1))
    return value


def _residual(g: Emit, sigma: Value, v: Value, w: Value) -> Value:
    """‖w - σ² v‖ / σ² of each row, w = F'F v; 0 where σ = 0."""
    square = g.Mul(sigma, sigma)
    none = g.Equal(square, 0.0)
    apart = g.ReduceL2(g.Sub(_flat(g, w), g.Mul(square, _flat(g, v))), g.ints(1), keepdims=1)
    value: Value = g.Where(none, g.number(0.0, v), g.Div(apart, g.Where(none, g.number(1.0, v), square)))
    return value


def _orthonormal(g: Emit, w: Value, k: int, past: Value | None) -> tuple[Value, Value | None]:
    """Rows w (k, n) = L q with q orthonormal and L lower triangular, by Gram-Schmidt, every row twice: in float32 once
    is not enough. Also L^-1 past. A row of zeros stays one."""
    rows = g.ops("Split", w, outputs=k, axis=0, num_outputs=k) if k > 1 else (w,)
    olds: Sequence[Value] = ()
    if past is not None:
        olds = g.ops("Split", past, outputs=k, axis=0, num_outputs=k) if k > 1 else (past,)
    done: list[Value] = []
    pasts: list[Value] = []
    for j, row in enumerate(rows):
        old = olds[j] if olds else None
        if done:
            basis = done[0] if j == 1 else g.Concat(*done, axis=0)
            ahead = None if old is None else pasts[0] if j == 1 else g.Concat(*pasts, axis=0)
            for _ in range(2):
                share = g.Gemm(row, basis, transB=1)
                row = g.Sub(row, g.MatMul(share, basis))
                old = None if old is None or ahead is None else g.Sub(old, g.MatMul(share, ahead))
        length = g.ReduceL2(row, g.ints(1), keepdims=1)
        length = g.Where(g.Equal(length, 0.0), g.number(1.0, w), length)
        done.append(g.Div(row, length))
        if old is not None:
            pasts.append(g.Div(old, length))
    joined = [parts[0] if k == 1 else g.Concat(*parts, axis=0) for parts in (done, pasts) if parts]
    return joined[0], joined[1] if pasts else None


def _shape(stage: Stage, name: str, k: int) -> list[int | str | None]:
    if name in ("sigma", "residual"):
        return [k, 1]
    like = stage.head if name == "images" else stage.wrt[0]
    return [k, *like.shape[1:]]


def _sorted(stage: Stage, plan: _Plan, k: int) -> list[Result]:
    """What the last trip left, by falling σ and with the sign that is agreed on."""
    g, x, head, last = stage.g, stage.wrt[0], stage.head, plan.behind
    sigma, order = g.ops("TopK", last["sigma"], g.ints(k), outputs=2, axis=0)
    at = g.Reshape(order, g.ints(-1))
    v, u, residual = (g.Gather(last[name], at, axis=0) for name in ("vectors", "images", "residual"))
    flat = _flat(g, u)
    top = g.GatherElements(flat, g.ArgMax(g.Abs(flat), axis=1, keepdims=1), axis=1)
    sign = g.Where(g.Less(top, 0.0), g.number(-1.0, x), g.number(1.0, x))
    none = g.Equal(sigma, 0.0)
    unit = g.Div(sign, g.Where(none, g.number(1.0, x), sigma))
    u = g.Mul(u, g.Reshape(unit, g.ints(k, *[1] * (len(head.shape) - 1))))
    v = g.Mul(v, g.Reshape(sign, g.ints(k, *[1] * (len(x.shape) - 1))))
    return [
        (VALUES, sigma, [k, 1]),
        (INPUTS, v, [k, *x.shape[1:]]),
        (OUTPUTS, u, [k, *head.shape[1:]]),
        (RESIDUALS, residual, [k, 1]),
    ]


def assemble_svd(stage: Stage, infos: Sequence[onnx.ValueInfoProto]) -> onnx.ModelProto:
    """The forward pass, what the frozen network keeps of it, the loop, and what becomes of its last trip."""
    g, graph = stage.g, stage.graph
    plan: _Plan = stage.extras["svd"]
    count = len(plan.behind)
    first, following, results = infos[0], infos[1 : 1 + count], infos[1 + count :]
    body = depending(g.nodes, plan.before.values())
    behind = depending(g.nodes, plan.behind.values())
    moved = {id(node) for node in (*body, *behind)}
    outside = [node for node in g.nodes if id(node) not in moved]
    inner = {id(y) for node in body for y in node.outputs}
    model = assemble(graph, outside, results, [value for value in g.stated if id(value) not in inner])
    assert plan.zero is not None and plan.trips is not None
    reads = [x for node in body for x in node.inputs]
    append(model.graph, graph, [], reads=[*reads, plan.zero, plan.trips])
    firsts = {"v": first.name}
    node = helper.make_node(
        "Loop",
        [plan.trips.name, "", *(firsts.get(name, plan.zero.name) for name in plan.behind)],
        [value.name for value in plan.behind.values()],
        LOOP,
        body=_body(stage, plan, body, [info.name for info in following]),
    )
    model.graph.node.append(node)
    append(model.graph, graph, behind)
    return model


def depending(nodes: Sequence[Node], values: Iterable[Value]) -> list[Node]:
    """The nodes behind some values."""
    live = {value.name for value in values}
    found: list[Node] = []
    for node in nodes:
        if any(x.name in live for x in node.inputs):
            live.update(y.name for y in node.outputs)
            found.append(node)
    return found


def _body(stage: Stage, plan: _Plan, nodes: Sequence[Node], following: Sequence[str]) -> onnx.GraphProto:
    scope = f"{stage.g.scope}/svd"
    made = onnx.GraphProto(name="svd")
    made.node.extend(proto(node) for node in nodes)
    made.node.append(helper.make_node("Identity", [f"{scope}/go"], [f"{scope}/go_on"]))
    made.input.append(helper.make_tensor_value_info(f"{scope}/trip", TensorProto.INT64, []))
    made.input.append(helper.make_tensor_value_info(f"{scope}/go", TensorProto.BOOL, []))
    made.output.append(helper.make_tensor_value_info(f"{scope}/go_on", TensorProto.BOOL, []))
    for (name, last), after in zip(plan.behind.items(), following, strict=True):
        entering = plan.before.get(name, variable(f"{scope}/unread/{name}", last.dtype, None))
        known = entering.shape if name == "v" else None  # the others start as a scalar
        made.input.append(declared(variable(entering.name, last.dtype, known)))
        made.output.append(declared(variable(after, last.dtype, known)))
    inner = {y.name for node in nodes for y in node.outputs}
    made.value_info.extend(declared(value) for value in stage.g.stated if value.name in inner)
    return made


__all__ = ["OPTIONS", "assemble_svd", "depending", "svd"]
