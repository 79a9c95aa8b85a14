"""Model and method in, explanation graph out: a pure function, same input same bytes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
from onnx import helper

from .card import Card
from .draft import Dim
from .emit import Emit, tail_of
from .errors import ModelError, OptionError, TargetError, nearest
from .graph import Graph, Value, assemble, prepare, with_weights
from .load import PROTOBUF_LIMIT, Source, load
from .method import Method, Reduce
from .passes.lower import lower
from .passes.share import share
from .tape import Tape, linearize, pull
from .target import Start, Target, find_head, find_output, settle, start

ATTRIBUTION, HEATMAP = "attribution", "heatmap"


@dataclass(frozen=True)
class Request:
    """Everything that decides the emitted bytes, besides the model and the method."""

    target: Target = "input"
    output: str | None = None
    head: str = "logits"
    inputs: tuple[str, ...] | None = None
    reduce: tuple[str, Reduce] | None = None
    shapes: Mapping[str, tuple[Dim, ...]] | None = None
    provider: str = "portable"
    preprocessing: Mapping[str, Any] | None = None
    labels: tuple[str, ...] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    version: str = "0"


def compile_source(source: Source, method: Method, request: Request) -> tuple[onnx.ModelProto, Card]:
    """The whole flow. Raises ModelError, UnsupportedError, TargetError, OptionError."""
    options = method.settle(request.options)
    request = replace(request, target=settle(request.target))
    graph = prepare(source.model, request.shapes)
    g = Emit(graph)
    wrt = explained_inputs(graph, request.inputs)
    output = find_output(graph, request.output)
    head, squash = find_head(graph, output, request.head)
    _vet_head(head)
    tape = linearize(graph, wrt, head, method.rules(options), g)
    with g.at("target"):
        begin = start(graph, head, request.target, g, wrt[0].shape[0])
    raw = _attributions(tape, begin, wrt, method, g)
    results = _outputs(raw, wrt, request, g)
    model = _emit(graph, g, begin, results, request.provider)
    card = _card(source, tape, _aim(request.target, output, head, squash), method, request, g)
    card.stamp(model)
    _vet(model, graph)
    return with_weights(model, graph), card


def explained_inputs(graph: Graph, names: Sequence[str] | None) -> list[Value]:
    """The inputs to explain: by name, or the first floating-point one of the highest rank."""
    floats = {x.name: x for x in graph.inputs if x.dtype is not None and np.dtype(x.dtype).kind == "f"}
    if names is None:
        if not floats:
            raise TargetError("the model has no floating-point input; there is nothing to explain")
        return [max(floats.values(), key=lambda x: min(len(x.shape or ()), 4))]
    for name in names:
        if name not in floats:
            raise OptionError(
                f"no floating-point input {name!r}{nearest(name, floats)}; there is {', '.join(floats)}"
            )
        if floats[name].shape == []:
            raise TargetError(f"input {name!r} is a scalar: it has no batch axis to explain along")
    return [floats[name] for name in names]


def _vet_head(head: Value) -> None:
    if head.shape is None or not head.shape:
        raise TargetError(
            f"{head.name!r} has no known rank, or no batch axis; choose another head= or output="
        )
    if head.dtype is None or np.dtype(head.dtype).kind != "f":
        raise TargetError(f"{head.name!r} is not a floating-point tensor; choose another head= or output=")


def _attributions(tape: Tape, begin: Start, wrt: Sequence[Value], method: Method, g: Emit) -> list[Value]:
    """One attribution an input. Several seeds are several backward passes over shared masks; their rows are
    laid out sample by sample: (N * rows, ...)."""
    rows: list[list[Value]] = []
    for seed in begin.seeds:
        cotangents = pull(tape, {begin.head.name: seed}, g)
        for x in wrt:
            if x.name not in cotangents:
                raise TargetError(f"{begin.head.name!r} does not depend on input {x.name!r}")
        rows.append([method.read(g, cotangents[x.name], x) for x in wrt])
    if len(rows) == 1:
        return rows[0]
    return [
        g.shaped(g.Concat(*(g.Unsqueeze(row[i], g.ints(1)) for row in rows), axis=1), x)
        for i, x in enumerate(wrt)
    ]


def _outputs(
    raw: Sequence[Value], wrt: Sequence[Value], request: Request, g: Emit
) -> list[tuple[str, Value, list[Dim]]]:
    """(name, value, shape) of every output that the explanation adds."""
    lead: Dim = wrt[0].shape[0]
    if request.target == "cotangent":
        lead = "K"
    elif not isinstance(request.target, (str, int)) and len(request.target) > 1:
        lead = lead * len(request.target) if isinstance(lead, int) else "rows"
    found: list[tuple[str, Value, list[Dim]]] = []
    for x, value in zip(wrt, raw, strict=True):
        name = ATTRIBUTION if len(wrt) == 1 else f"{ATTRIBUTION}/{x.name}"
        found.append((name, value, [lead, *x.shape[1:]]))
    if request.reduce is not None:
        for x, value in zip(wrt, raw, strict=True):
            name = HEATMAP if len(wrt) == 1 else f"{HEATMAP}/{x.name}"
            axis = -1 if (request.preprocessing or {}).get("layout") == "NHWC" else 1
            if value.shape is None:
                value.shape = [lead, *x.shape[1:]]
            heat = request.reduce[1](g, value, axis)
            shape = [lead, *(heat.shape or [])]
            if np.dtype(x.dtype) != np.float32:
                heat = g.Cast(heat, to=onnx.TensorProto.FLOAT)
            found.append((name, heat, shape))
    return found


def _emit(
    graph: Graph,
    g: Emit,
    begin: Start,
    results: Sequence[tuple[str, Value, list[Dim]]],
    provider: str,
) -> onnx.ModelProto:
    taken = {value.name for value in (*graph.inputs, *graph.outputs)}
    for name in [name for name, _, _ in results] + [value.name for value in begin.inputs]:
        if name in taken or name in graph.values:
            raise ModelError(f"the model already has a tensor named {name!r}; is it an explanation itself?")
    named = []
    for name, value, shape in results:
        final = g.Identity(value)
        final.name, final.shape = name, shape
        named.append(final)
    nodes, finals = share(g.nodes, named)
    g.nodes = nodes
    nodes, finals = lower(g, finals, provider)
    nodes, finals = share(nodes, finals)
    infos = [_info(value) for value in finals]
    model = assemble(graph, nodes, infos)
    model.graph.input.extend(_info(value) for value in begin.inputs)
    return model


def _info(value: Value) -> onnx.ValueInfoProto:
    element = helper.np_dtype_to_tensor_dtype(np.dtype(value.dtype))
    return helper.make_tensor_value_info(value.name, element, value.shape)


def _vet(model: onnx.ModelProto, graph: Graph) -> None:
    """Full check of the emitted graph, weights standing in as inputs of their type and shape."""
    shell = onnx.ModelProto()
    shell.CopyFrom(model)
    for name, tensor in graph.draft.weights.items():
        shell.graph.input.append(helper.make_tensor_value_info(name, tensor.data_type, tensor.dims))
    try:
        onnx.checker.check_model(shell, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ModelError(
            f"the explanation graph does not pass the checker: {' '.join(str(error).split())[:400]}"
        ) from error


def _aim(target: Target, output: Value, head: Value, squash: str | None) -> dict[str, Any]:
    """The card's entry on what is explained. size: elements of one sample of the head, None when dynamic."""
    tail = tail_of(head)
    return {
        "target": target if isinstance(target, (str, int)) else [int(i) for i in target],
        "output": output.name,
        "head": head.name,
        "size": None if tail is None else int(np.prod(tail)),
        "squash": squash,
    }


def _card(
    source: Source, tape: Tape, aim: Mapping[str, Any], method: Method, request: Request, g: Emit
) -> Card:
    options = method.settle(request.options)
    if request.reduce is not None:
        options["reduce"] = request.reduce[0]
    opset = next(entry.version for entry in source.model.opset_import if entry.domain in ("", "ai.onnx"))
    return Card(
        version=request.version,
        method=method.name,
        options=options,
        target=aim,
        rules=tape.rules(),
        lanes=("primal",),
        source={
            "sha256": source.sha256,
            "bytes": source.size,
            "opset": opset,
            "producer": source.model.producer_name,
            "name": None if source.path is None else source.path.name,
        },
        approximations=(*g.notes, *_approximations(tape, method)),
        citation=method.source,
        preprocessing=request.preprocessing,
        labels=request.labels,
    )


def _approximations(tape: Tape, method: Method) -> list[str]:
    """One note an operator for which the method's paper has no rule, with its nodes."""
    nodes: dict[str, list[str]] = {}
    for step in tape.steps:
        if step.site.op in method.approximates:
            nodes.setdefault(step.site.op, []).append(step.site.name)
    return [f"{op} at {', '.join(names)}: {method.approximates[op]}" for op, names in sorted(nodes.items())]


def compile_model(
    model: str | os.PathLike[str] | bytes | onnx.ModelProto,
    method: Method,
    request: Request | None = None,
    *,
    external_data: bool = False,
    max_bytes: int = PROTOBUF_LIMIT,
) -> tuple[onnx.ModelProto, Card]:
    """Load and compile in one call."""
    return compile_source(
        load(model, external_data=external_data, max_bytes=max_bytes), method, request or Request()
    )


__all__ = ["ATTRIBUTION", "HEATMAP", "Request", "compile_model", "compile_source", "explained_inputs"]
