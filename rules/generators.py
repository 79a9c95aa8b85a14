"""Explanation by two generators: one makes a picture of the same class, one of another class; the map is where the
two pictures differ. Ayyar et al. 2021 Eq. 27."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx

from ..rewriter.errors import OptionError, TargetError
from ..rewriter.graft import Part, again, graft, part, vet_opsets
from ..rewriter.graph import Value, assemble, variable
from ..rewriter.load import Source, load
from ..rewriter.method import Option
from ..rewriter.results import ATTRIBUTION, Result
from ..rewriter.scene import Stage
from ..rewriter.target import Target, start, vet_leading
from .probability import PROBABILITY, classes_of, ending

SIMILAR, ADVERSARIAL, KEPT, FLIPPED = "similar", "adversarial", "kept", "flipped"
BOTH = (SIMILAR, ADVERSARIAL)


@dataclass(frozen=True, eq=False)
class Generator:
    """An ONNX model from pictures to pictures."""

    source: Source

    def to_record(self) -> dict[str, Any]:
        path = self.source.path
        return {
            "sha256": self.source.sha256,
            "bytes": self.source.size,
            "name": None if path is None else path.name,
        }


def check(name: str, value: Any) -> Generator | None:
    """A Source, a ModelProto or a model's bytes; None. Files are opened by whoever calls the compiler."""
    if value is None or isinstance(value, Generator):
        return value
    if not isinstance(value, (Source, bytes, onnx.ModelProto)):
        raise OptionError(f"{name}: an ONNX model is needed (its bytes or a ModelProto), not {value!r:.80}")
    return Generator(load(value))


OPTIONS = MappingProxyType(
    {
        SIMILAR: Option(None, None, "g_s, a model that gives a picture of the same class", check),
        ADVERSARIAL: Option(None, None, "g_a, a model that gives a picture of another class", check),
    }
)


def explanation(stage: Stage, target: Target) -> list[Result]:
    """`attribution` R = |g_s(x) - g_a(x)|, `similar` g_s(x), `adversarial` g_a(x), all of the input's shape, and the
    checks `kept`, whether f says of g_s(x) that it is of class c, and `flipped`, whether it says of g_a(x) that it is
    not; bool (N, 1). c: the class of f(x) for -1, or the one named.

    A model with one output has two classes: above and below 0, or ½ where it is a probability; c is then that of f(x).
    Raises OptionError without two generators, ModelError for one that does not fit, TargetError for another target
    than one class.
    """
    if len(stage.wrt) != 1:
        raise OptionError("adversarial: a generator makes one picture; explain one input with inputs=")
    if target == "cotangent" or not isinstance(target, (str, int)):
        raise TargetError(
            "adversarial: kept and flipped are about one class; give target='input' or an index"
        )
    g, (x,) = stage.g, stage.wrt
    made: dict[str, Value] = {}
    answers: dict[str, Value] = {}
    parts: dict[str, Part] = {}
    for kind in BOTH:
        given = stage.options[kind]
        if given is None:
            raise OptionError(f"adversarial: {kind}= is missing: an ONNX model from pictures to pictures")
        parts[kind] = part(given.source, f"the generator {kind!r}", x)
        prefix = prefix_of(stage, kind)
        made[kind] = variable(f"{prefix}{parts[kind].output.name}", x.dtype, x.shape)
        answers[kind] = variable(f"{prefix}model/{stage.head.name}", stage.head.dtype, stage.head.shape)
    stage.extras["parts"] = parts
    kept, flipped = _checks(stage, target, answers)
    lead = x.shape[0]
    return [
        (ATTRIBUTION, g.Abs(g.Sub(made[SIMILAR], made[ADVERSARIAL])), list(x.shape)),
        *((kind, made[kind], list(x.shape)) for kind in BOTH),
        (KEPT, kept, [lead, 1]),
        (FLIPPED, flipped, [lead, 1]),
    ]


def prefix_of(stage: Stage, kind: str) -> str:
    """In front of every name of a generator; no name of the model begins with it."""
    prefix = f"{kind}/"
    while any(name.startswith(prefix) for name in stage.graph.values):
        prefix = f"_{prefix}"
    return prefix


def _checks(stage: Stage, target: Target, answers: dict[str, Value]) -> tuple[Value, Value]:
    g, head = stage.g, stage.head
    vet_leading(stage.graph, head, "adversarial")
    with g.at("checks"):
        begin = start(stage.graph, head, target, g, stage.wrt[0].shape[0])
        stage.inputs += begin.inputs
        if classes_of(stage.graph, head) == 1:
            chosen = _answer(stage, head)
        elif begin.chosen is not None:
            chosen = begin.chosen
        else:
            chosen = _answer(stage, head) if target == -1 else g.constant(np.full((1, 1), target, np.int64))
        same = [g.Equal(_answer(stage, answers[kind]), chosen) for kind in BOTH]
        return same[0], g.Not(same[1])


def _answer(stage: Stage, z: Value) -> Value:
    """The class, (N, 1)."""
    g = stage.g
    flat = g.Reshape(z, g.ints(0, -1)) if len(z.shape) > 1 else g.Reshape(z, g.ints(-1, 1))
    if classes_of(stage.graph, stage.head) != 1:
        return g.ArgMax(flat, axis=1, keepdims=1)
    behind = [output for output in stage.graph.outputs if output is stage.head and _probable(stage)]
    return g.Cast(g.Greater(flat, 0.5 if behind else 0.0), to=onnx.TensorProto.INT64)


def _probable(stage: Stage) -> bool:
    """Whether the head has a Sigmoid or Softmax in front of it."""
    try:
        return ending(stage.graph, stage.head).kind == PROBABILITY
    except OptionError:  # a score with nothing behind or before it
        return False


def assembly(stage: Stage, infos: Sequence[onnx.ValueInfoProto]) -> onnx.ModelProto:
    """The file: the model's nodes, those of either generator, the model's once more behind each, then what compares
    them. The three models' nodes and weights are what they were; weights of the model are there once."""
    parts: dict[str, Part] = stage.extras["parts"]
    (x,), graph = stage.wrt, stage.graph
    model = assemble(graph, stage.g.nodes, infos, stage.g.stated)
    vet_opsets(model, {p.title: p.graph.draft.model for p in parts.values()})
    own = len(graph.draft.graph.node)
    emitted = list(model.graph.node[own:])
    del model.graph.node[own:]
    for kind, of in parts.items():
        prefix = prefix_of(stage, kind)
        graft(model, of, prefix, x.name)
        again(model, graph, x, stage.head, f"{prefix}model/", f"{prefix}{of.output.name}")
    model.graph.node.extend(emitted)
    return model


__all__ = ["OPTIONS", "Generator", "assembly", "explanation"]
