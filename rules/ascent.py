"""Activation maximisation in one file: gradient ascent in an ONNX Loop.

Its body is the forward and the backward pass at the image so far; the weights lie outside and are in the file once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType

import onnx
from onnx import TensorProto, helper

from ..rewriter.draft import Dim
from ..rewriter.emit import Emit
from ..rewriter.errors import TargetError
from ..rewriter.graph import Value, append, assemble, declared, proto, variable
from ..rewriter.method import Option
from ..rewriter.results import Result
from ..rewriter.scene import Stage
from ..rewriter.target import Target, vet_leading
from .checks import number, whole
from .optimised import climbed, elsewhere, only_input
from .scope.power import depending
from .scope.results import begin

IMAGE, SCORE, HISTORY = "maximised", "maximised_score", "maximised_history"
LOOP = "onnxplain/ascent"

OPTIONS = MappingProxyType(
    {
        "steps": Option(
            200, None, "steps of the ascent, each 1 forward and 1 backward pass", whole(1, 100_000)
        ),
        "eta": Option(1.0, None, "η, the length of a step", number(0.0)),
        "step": Option(
            "unit",
            ("unit", "plain"),
            "η counts in units of the input (the gradient's length is divided out), or is plain",
        ),
        "decay": Option(1e-2, None, "λ of Eq. 2, the weight of ‖x‖²", number(0.0)),
        "norm": Option(
            0.0, None, "p of Eq. 1: every step ends on the sphere ‖x‖ = p; 0: anywhere", number(0.0)
        ),
    }
)


@dataclass(frozen=True)
class _Plan:
    """image: as it enters the body. last: the one of the last trip. scores: of every trip, (trips, rows, 1)."""

    image: Value
    last: Value
    scores: Value
    trips: Value


def ascend(stage: Stage, target: Target) -> list[Result]:
    """From the model's input x as the first image, `steps` times

        x ← x + η (g / ‖g‖ - 2 λ x),  g = ∂a / ∂x         (step="plain": without ‖g‖)
        x ← p x / ‖x‖                                      (norm=p > 0)

    Gu 2017 Eq. 2 and 1; lengths are those of a sample, and one of 0 is not divided by. The decay is not divided by ‖g‖:
    where the unit is nearly flat it would grow without bound, and x with it. -> `maximised` of x's shape,
    `maximised_score` a (rows, 1) at it, `maximised_history` (rows, steps + 1), the scores from the first image to the
    last. The unit a is an element of the head; target -1 is the top one of the first image. "cotangent": K weighted
    sums of units, from one image or from K.

    OptionError for several explained inputs, TargetError for several units at a time.
    """
    g, x = stage.g, only_input(stage, "an ascent is that")
    vet_leading(stage.graph, stage.head, "an ascent")
    with g.at("ascent"):
        found = begin(stage, target)
        hot, *more = found.seeds
        if more:
            raise TargetError(
                f"an ascent climbs one unit; compile a file each, not {len(found.seeds)} targets in one"
            )
        fed = target == "cotangent"
        lead: Dim = "K" if fed else x.shape[0]
        ones = [g.ints(*[1] * (len(x.shape) - 1))] if len(x.shape) > 1 else []
        first = g.Expand(x, g.join(g.rows(hot), *ones)) if fed else g.Identity(x)
        image = variable(f"{g.scope}/ascent/image", x.dtype, [lead, *x.shape[1:]])
    there = elsewhere(stage, x, image)
    back = climbed(there, hot)
    with g.at("ascent"):
        score = g.ReduceSum(_flat(g, g.Mul(hot, there.head)), g.ints(1), keepdims=1)
        after = _stepped(stage, image, back)
        plan = _Plan(
            image,
            variable(f"{g.scope}/ascent/last", x.dtype, None),
            variable(f"{g.scope}/ascent/scores", stage.head.dtype, None),
            g.scalar(int(stage.options["steps"]) + 1),
        )
        stage.extras["ascent"] = plan
        history = g.Transpose(g.Squeeze(plan.scores, g.ints(2)), perm=[1, 0])
        newest = g.Slice(history, g.ints(-1), g.ints(2**62), g.ints(1))
    count = int(stage.options["steps"]) + 1
    return [
        (f"{g.scope}/ascent/first", first, [lead, *x.shape[1:]]),
        (f"{g.scope}/ascent/next", after, [lead, *x.shape[1:]]),
        (f"{g.scope}/ascent/kept", g.Identity(image), [lead, *x.shape[1:]]),
        (f"{g.scope}/ascent/score", score, [lead, 1]),
        (IMAGE, g.Identity(plan.last), [lead, *x.shape[1:]]),
        (SCORE, newest, [lead, 1]),
        (HISTORY, history, [lead, count]),
    ]


def _flat(g: Emit, v: Value) -> Value:
    value: Value = g.Reshape(v, g.join(g.rows(v), g.ints(-1)))
    return value


def _stepped(stage: Stage, image: Value, back: Value) -> Value:
    g, options = stage.g, stage.options
    eta, decay, norm = (float(options[key]) for key in ("eta", "decay", "norm"))
    uphill = g.Div(back, _length(g, back, image)) if options["step"] == "unit" else back
    if decay:
        uphill = g.Sub(uphill, g.Mul(image, 2.0 * decay))
    after = g.Add(image, g.Mul(uphill, eta))
    if norm:
        after = g.Mul(after, g.Div(norm, _length(g, after, image)))
    after.shape = list(image.shape)
    return after


def _length(g: Emit, v: Value, like: Value) -> Value:
    """‖v‖ of each row, 1 for 0, to be divided by."""
    length = g.ReduceL2(_flat(g, v), g.ints(1), keepdims=1)
    length = g.Where(g.Equal(length, 0.0), g.number(1.0, like), length)
    value: Value = g.Reshape(length, g.ints(-1, *[1] * (len(like.shape) - 1)))
    return value


def assemble_ascent(stage: Stage, infos: Sequence[onnx.ValueInfoProto]) -> onnx.ModelProto:
    """The forward pass, the loop, and what becomes of its last trip."""
    g, graph = stage.g, stage.graph
    plan: _Plan = stage.extras["ascent"]
    first, *inner, image, score, history = infos
    body = depending(g.nodes, [plan.image])
    behind = depending(g.nodes, [plan.last, plan.scores])
    moved = {id(node) for node in (*body, *behind)}
    made = {id(y) for node in body for y in node.outputs}
    outside = [node for node in g.nodes if id(node) not in moved]
    stated = [value for value in g.stated if id(value) not in made]
    model = assemble(graph, outside, [image, score, history], stated)
    append(model.graph, graph, [], reads=[*(x for node in body for x in node.inputs), plan.trips])
    unread = f"{g.scope}/ascent/over"
    node = helper.make_node(
        "Loop",
        [plan.trips.name, "", first.name, first.name],
        [unread, plan.last.name, plan.scores.name],
        LOOP,
        body=_body(stage, plan, [proto(node) for node in body], inner, made),
    )
    model.graph.node.append(node)
    append(model.graph, graph, behind)
    return model


def _body(
    stage: Stage,
    plan: _Plan,
    nodes: Sequence[onnx.NodeProto],
    results: Sequence[onnx.ValueInfoProto],
    made: set[int],
) -> onnx.GraphProto:
    """The states are the image to come, and the one that this trip has looked at."""
    scope = f"{stage.g.scope}/ascent"
    body = onnx.GraphProto(name="ascent")
    body.node.extend(nodes)
    body.node.append(helper.make_node("Identity", [f"{scope}/go"], [f"{scope}/go_on"]))
    body.input.append(helper.make_tensor_value_info(f"{scope}/trip", TensorProto.INT64, []))
    body.input.append(helper.make_tensor_value_info(f"{scope}/go", TensorProto.BOOL, []))
    body.output.append(helper.make_tensor_value_info(f"{scope}/go_on", TensorProto.BOOL, []))
    body.input.append(declared(plan.image))
    body.input.append(declared(variable(f"{scope}/unread", plan.image.dtype, plan.image.shape)))
    body.output.extend(results)
    body.value_info.extend(declared(value) for value in stage.g.stated if id(value) in made)
    return body


__all__ = ["HISTORY", "IMAGE", "OPTIONS", "SCORE", "ascend", "assemble_ascent"]
