"""The numbers that perturbation methods compare, as one output (rows, K) of the model itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import onnx

from .draft import Dim, rename_inputs
from .emit import Emit
from .errors import OptionError, TargetError
from .graph import Graph, Value, assemble, declared, prepare, proto, variable, with_weights
from .inputs import enter
from .layers import channel_axis
from .load import Source
from .passes.batch_axis import locate
from .results import finish, vet
from .rows import Along
from .target import Samples, find_head, find_output

SCORES = "onnxplain/scores"
FILL, MASK = "fill", "mask"
KINDS = ("probability", "logit", "output")


@dataclass(frozen=True)
class Scored:
    """A prepared model, the input that is perturbed, and what is read.

    score: "probability" (the output behind a Softmax or Sigmoid; the softmax of the logits where the model ends in
    a row of them), "logit" (before it), "output" (as the model gives it), or the name of a tensor: the hidden-unit
    variant of prediction differences, one score an element. The probability of a single number (a regression, a binary
    logit) is "output".
    """

    graph: Graph
    x: Value
    score: str
    read: Value
    squash: str | None
    channel_axis: int
    source: str = ""
    """The model's input: x itself, or the integers that it is made of."""

    @property
    def spatial_axes(self) -> tuple[int, ...]:
        return tuple(axis for axis in range(1, len(self.x.shape)) if axis != self.channel_axis)

    @property
    def size(self) -> int | None:
        """K, the scores of one sample; None where it is known at run time only."""
        return self.graph.rows.elements(self.read.name, self.read.shape)

    @property
    def softmaxed(self) -> bool:
        """Whether the scores are the softmax of logits, as the model has none of its own."""
        return self.score == "probability" and self.squash is None

    def emit(self, g: Emit, read: Value | None = None) -> Value:
        """The scores (rows, K), from `read` or another value that took its place."""
        value = read or self.read
        if self.score == "probability" and self.squash == "LogSoftmax":
            value = g.Exp(value)
        table = self.graph.rows.place(self.read.name) == Along(0) and len(self.read.shape) == 2
        flat: Value = value if table else Samples(self.graph, self.read, g, value).flat
        if self.softmaxed:
            flat = g.Softmax(flat, axis=-1)
        flat.shape = [None, self.size]
        return flat


def scored(
    source: Source,
    score: str = "probability",
    *,
    output: str | None = None,
    x: str | None = None,
    shapes: Mapping[str, tuple[Dim, ...]] | None = None,
    preprocessing: Mapping[str, Any] | None = None,
) -> Scored:
    """Prepare a model. Raises ModelError, OptionError (no such input, several inputs), TargetError (no such tensor)."""
    graph, wrt, name = _opened(source, x, shapes)
    ends = find_output(graph, output)
    logits, squash = find_head(graph, ends, "logits")
    if score in KINDS:
        read = logits if score == "logit" or (score == "probability" and squash is None) else ends
    elif score in graph.values:
        read, squash = graph.values[score], None
    else:
        raise TargetError(
            f"score: {score!r} is none of {', '.join(KINDS)} and no tensor of the model; `onnxplain check` lists names"
        )
    if read.shape is None:
        raise TargetError(f"{read.name!r} has no known rank; choose another score= or output=")
    graph = replace(graph, rows=locate(graph, (wrt,), read))
    score = _meant(graph, read, score, squash)
    layout = (preprocessing or {}).get("layout")
    if layout is not None:
        axis = len(wrt.shape) - 1 if layout == "NHWC" else 1
    else:
        axis = channel_axis(graph, (wrt,), read, wrt) or 1
    return Scored(graph, wrt, score, read, squash if score == "probability" else None, axis, name)


def _meant(graph: Graph, read: Value, score: str, squash: str | None) -> str:
    """The score, "output" for the probability of a single number (a regression, a binary logit): it speaks for itself.
    TargetError where nothing tells which elements are the classes of one softmax."""
    if score != "probability" or squash is not None:
        return score
    place = graph.rows.place(read.name)
    own = [dim for axis, dim in enumerate(read.shape) if place is None or axis != place.axis]
    if graph.rows.elements(read.name, read.shape) == 1:
        return "output"
    if sum(dim != 1 for dim in own) > 1 or (place is not None and place.before * place.after > 1):
        raise TargetError(
            f"score: {read.name!r} of shape {read.shape} has no Softmax or Sigmoid behind it, and is no row of "
            "classes: nothing tells along which axis their probabilities add up to 1; take score='output'"
        )
    return score


def _opened(
    source: Source, x: str | None, shapes: Mapping[str, tuple[Dim, ...]] | None
) -> tuple[Graph, Value, str]:
    """The prepared model, the input that is perturbed, and the model's name for it: pixels may be integers."""
    graph, (wrt,), front = enter(prepare(source.model, shapes), None if x is None else (x,))
    name = wrt.name if front is None else front.places[wrt.name]
    if front is not None and front.entries[wrt.name].table:
        raise OptionError(
            f"input {name!r} holds tokens or categories; perturbation changes pictures: take a gradient method, "
            "which explains the embedding"
        )
    if len(graph.inputs) > 1:
        others = ", ".join(repr(value.name) for value in graph.inputs if value is not wrt)
        raise OptionError(
            f"the model has other inputs ({others}); perturbation takes models with one input: fix the others "
            "as constants"
        )
    return graph, wrt, name


def masked_model(of: Scored) -> onnx.ModelProto:
    """Scores of masked copies: x m + fill (1 - m).

    Inputs: the model's own with one row; `fill` (1 or P, *x); `mask` (P, *x with 1 channel), 1 keeps. Output:
    `scores` (P, K).
    """
    g = Emit(of.graph)
    x = of.x
    tail = [1 if axis == of.channel_axis else n for axis, n in enumerate(x.shape)][1:]
    fill = variable(FILL, dtype=x.dtype, shape=["F", *x.shape[1:]])
    mask = variable(MASK, dtype=x.dtype, shape=["P", *tail])
    for value in (fill, mask):
        if value.name in of.graph.values:
            raise OptionError(f"the model already has a tensor named {value.name!r}; rename it")
    blended = g.Add(fill, g.Mul(mask, g.Sub(x, fill)))
    front = [proto(node) for node in g.nodes]
    g.nodes = []
    model = _file(of, g)
    rename_inputs(model.graph, {x.name: blended.name})
    nodes = [*front, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    model.graph.input.extend(declared(value) for value in (fill, mask))
    vet(model, of.graph)
    return with_weights(model, of.graph)


def score_model(of: Scored) -> onnx.ModelProto:
    """Input: the model's. Output: `scores` float (rows, K)."""
    model = _file(of, Emit(of.graph))
    vet(model, of.graph)
    return with_weights(model, of.graph)


def _file(of: Scored, g: Emit) -> onnx.ModelProto:
    """The forward model with the scores as its only output."""
    infos = finish(g, [(SCORES, of.emit(g), ["P", None])], set(of.graph.values), "portable")
    model = assemble(of.graph, g.nodes, infos, g.stated)
    del model.graph.output[:]
    model.graph.output.extend(infos)
    return model


__all__ = ["FILL", "KINDS", "MASK", "SCORES", "Scored", "masked_model", "score_model", "scored"]
