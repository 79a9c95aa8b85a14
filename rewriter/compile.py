"""Model and method in, explanation graph out: a pure function, same input same bytes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx

from .card import Card, read_card
from .draft import Dim
from .emit import Emit
from .errors import OptionError, TargetError
from .graph import Value, append, assemble, declared, prepare, with_weights
from .inputs import enter, explained_inputs, without_lists
from .load import PROTOBUF_LIMIT, Source, load
from .loop import Inner, Loop, Sampling
from .memory import choose_lanes
from .method import Method, Reduce
from .mirror import mirror
from .passes.accelerators import LIMITS, told, vet_ops
from .passes.batch_axis import locate
from .precision import with_precision
from .respell import Spelling, spelling
from .results import ATTRIBUTION, HEATMAP, Result, finish, vet
from .rows import Rows
from .scene import Scene, Stage
from .target import (
    HEADS,
    Start,
    Target,
    branches,
    find_head,
    find_output,
    interleaved,
    leading,
    settle,
    start,
)


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
    memory: int | None = None
    """Bytes that the lanes of a loop may take, where their number is left to the compiler."""
    precision: str = "float32"
    version: str = "0"


def compile_source(source: Source, method: Method, request: Request) -> tuple[onnx.ModelProto, Card]:
    """The whole flow. Raises ModelError, UnsupportedError, TargetError, OptionError."""
    method, options = method.concrete(request.options)
    request = replace(request, target=_settled(method, request), options=options)
    stage, aim = open_stage(source, method, request)
    sampling = None if method.sampling is None else method.sampling(options)
    if sampling is None:
        model, spelt = _once(stage, method, request)
    else:
        model, spelt = _sampled(stage, method, request, sampling)
    vet(model, stage.graph)
    model = with_weights(model, stage.graph)
    if stage.front is not None:
        stage.front.restore(model)
    limits = (
        vet_ops(model, request.provider) if request.provider in LIMITS else []
    )  # a table may be tried out
    for problem in told(limits):
        stage.g.note(f"on {request.provider}, {problem}")
    card = _card(model, source, stage, aim, method, request, sampled=sampling is not None)
    card.stamp(model)
    spelt.stamp(model)
    made = with_precision(model, request.precision)
    return made, card if request.precision == "float32" else read_card(made)


def _settled(method: Method, request: Request) -> Target:
    """The target; "output" for a method that explains all of it."""
    if method.outputs is not None and request.reduce is not None:
        raise OptionError(
            f"{method.name} gives no attribution that reduce={request.reduce[0]!r} could be made of"
        )
    if method.aimed:
        target = settle(request.target)
        if request.options.get("probes") and target != "cotangent":
            raise OptionError("probes= is a number of cotangents; compile with target='cotangent'")
        return target
    if request.target not in ("input", "output"):
        raise TargetError(
            f"{method.name} is about the whole output; target={request.target!r} has no meaning"
        )
    return "output"


def open_stage(source: Source, method: Method, request: Request) -> tuple[Stage, dict[str, Any]]:
    """The prepared model with the method's views and reference, and the card's entry on what is explained."""
    graph = prepare(source.model, request.shapes)
    explained = find_output(graph, request.output).name
    if method.sampling is not None:
        graph = without_lists(graph)
    graph, wrt, front = enter(graph, request.inputs)
    output = graph.values[explained]
    head, squash = find_head(graph, output, request.head)
    _vet_head(head)
    graph = replace(graph, rows=locate(graph, wrt, head))
    g = Emit(graph)
    if graph.rows.whole:
        g.note(f"axis 0 of {wrt[0].name!r} counts no samples: the input is one sample")
    about = request.preprocessing or {}
    rules = method.rules({**request.options, "preprocessing": about})
    stage = Stage(graph, g, wrt, head, request.options, rules, about, front=front)
    _tell(stage, request, output)
    if method.reference is not None:
        references = {x.name: method.reference(stage, x) for x in wrt}
        stage.extras["references"] = references
        stage.graph = mirror(graph, g, references, head)
    for view in method.views(request.options):
        stage.graph = view(stage.graph, g, (head.name,))
    listed = output.name in {value.name for value in graph.outputs}
    return stage, _aim(request.target, output, head, squash if listed else None, stage.graph.rows)


def _tell(stage: Stage, request: Request, output: Value) -> None:
    """What is explained in place of what one would take for it."""
    for entry in () if stage.front is None else stage.front.entries.values():
        stage.g.note(entry.note)
    asked = request.output or stage.graph.outputs[0].name
    if request.head in HEADS and output.name != asked:
        stage.g.note(f"output {asked!r} holds no floating-point numbers: explained is {output.name!r}")


def _once(stage: Stage, method: Method, request: Request) -> tuple[onnx.ModelProto, Spelling]:
    """The input itself, explained."""
    if method.outputs is None:
        begin, maps = _maps(stage, method, request.target)
        results: Sequence[Result] = _outputs(_joined(maps, stage), stage, request, stage.g)
        stage.inputs[:0] = begin.inputs
    else:
        results = method.outputs(stage, request.target)
    infos = finish(stage.g, results, _taken(stage), request.provider)
    if method.assembly is None:
        model = assemble(stage.graph, stage.g.nodes, infos, stage.g.stated)
    else:
        model = method.assembly(stage, infos)
    model.graph.input.extend(declared(value) for value in stage.inputs)
    return model, spelling(stage.g, request.provider)


def _sampled(
    stage: Stage, method: Method, request: Request, sampling: Sampling
) -> tuple[onnx.ModelProto, Spelling]:
    """The method's map averaged over samples, in a loop around its graph."""
    top = request.target in ("top", -1, (-1,))  # the class of the input, not of its samples
    if isinstance(request.target, tuple) and -1 in request.target and not top:
        raise TargetError(
            "a list of classes with -1 among them cannot be followed over samples; name the class"
        )
    begin, maps = _maps(stage, method, "input" if top else request.target)
    results: list[Result] = [
        (f"{stage.g.scope}/map_{i}", m, [None, *_tail(m, x)])
        for i, (m, x) in enumerate((m, x) for row in maps for m, x in zip(row, stage.wrt, strict=True))
    ]
    names = tuple(name for name, _, _ in results)
    classes = f"{stage.g.scope}/class"
    if begin.chosen is not None:
        results.append((classes, begin.chosen, [None, 1]))
    infos = finish(stage.g, results, _taken(stage, begin), request.provider)
    inner = assemble(stage.graph, stage.g.nodes, infos, stage.g.stated)
    added = () if top else begin.inputs
    if not sampling.lanes:
        sampling = replace(
            sampling, lanes=choose_lanes(inner, stage.graph.draft.weights, budget=request.memory)
        )
        stage.extras["chosen"] = {"lanes": sampling.lanes}
    loop = Loop(stage, sampling, Inner(inner, names, classes if begin.chosen else None, added))
    model, flat = loop.run()
    count = len(stage.wrt)
    rows = [flat[i : i + count] for i in range(0, len(flat), count)]
    results = _outputs(_joined(rows, stage, loop.g), stage, request, loop.g)
    model.graph.output.extend(finish(loop.g, results, _taken(stage, begin), request.provider))
    append(model.graph, stage.graph, loop.g.nodes)
    model.graph.input.extend(declared(value) for value in (*added, *stage.inputs))
    return model, spelling(stage.g, request.provider).renamed(loop.renamed, loop.rows)


def _maps(stage: Stage, method: Method, target: Target) -> tuple[Start, list[list[Value]]]:
    """The attributions: a row a seed, a column an explained input."""
    g = stage.g
    with g.at("target"):
        begin = start(stage.graph, stage.head, target, g, stage.wrt[0].shape[0])
        seeds = begin.seeds
        if target == "cotangent" and stage.options.get("probes"):
            seeds = branches(
                g, seeds[0], int(stage.options["probes"]), stage.graph.rows.axis(stage.head.name)
            )
        if target != "cotangent":
            seeds = tuple(method.seed(g, stage.head, seed) for seed in seeds)
    g.seeds += seeds
    many = target == "cotangent" and not stage.options.get("probes")  # a branch has the rows of the input
    g.lead = (
        "K" if many and not stage.graph.rows.whole else stage.wrt[0].shape[0] if stage.wrt[0].shape else None
    )
    scenes = [Scene(stage, seed, stage.wrt[0]) for seed in seeds]
    return begin, [[method.read(scene.of(x)) for x in stage.wrt] for scene in scenes]


def _taken(stage: Stage, begin: Start | None = None) -> set[str]:
    added = (*(begin.inputs if begin is not None else ()), *stage.inputs)
    return {value.name for value in added} | set(stage.graph.values)


def _vet_head(head: Value) -> None:
    if head.shape is None:
        raise TargetError(f"{head.name!r} has no known rank; choose another head= or output=")
    if head.dtype is None or np.dtype(head.dtype).kind != "f":
        raise TargetError(f"{head.name!r} is not a floating-point tensor; choose another head= or output=")


def _joined(rows: Sequence[Sequence[Value]], stage: Stage, g: Emit | None = None) -> list[Value]:
    """One attribution an input. Several seeds are several backward passes over shared masks; their rows are
    laid out sample by sample: (N * rows, ...)."""
    g = g or stage.g
    return [interleaved(g, values, _tail(values[0], x)) for x, *values in zip(stage.wrt, *rows, strict=True)]


def _outputs(raw: Sequence[Value], stage: Stage, request: Request, g: Emit) -> list[Result]:
    """The outputs that the explanation adds."""
    wrt = stage.wrt
    whole = stage.graph.rows.whole
    lead = wrt[0].shape[0] if whole else leading(request.target, wrt[0].shape[0])
    found: list[Result] = []
    for x, value in zip(wrt, raw, strict=True):
        name = ATTRIBUTION if len(wrt) == 1 else f"{ATTRIBUTION}/{stage.label(x)}"
        found.append((name, value, [x.shape[0] if whole else lead, *_tail(value, x)] if x.shape else []))
    if request.reduce is not None:
        for x, value in zip(wrt, raw, strict=True):
            name = HEATMAP if len(wrt) == 1 else f"{HEATMAP}/{stage.label(x)}"
            value.shape = [lead, *_tail(value, x)]
            heat = request.reduce[1](g, value, stage.channel_axis(x))
            shape = [lead, *(heat.shape or [])]
            if np.dtype(x.dtype) != np.float32:
                heat = g.Cast(heat, to=onnx.TensorProto.FLOAT)
            found.append((name, heat, shape))
    return found


def _tail(value: Value, x: Value) -> list[Dim]:
    """Sizes behind the rows: those of the input, unless the readout says otherwise (a map left small)."""
    return list(x.shape[1:] if value.shape is None else value.shape[1:])


def _aim(target: Target, output: Value, head: Value, squash: str | None, rows: Rows) -> dict[str, Any]:
    """The card's entry on what is explained. size: elements of one sample of the head, None when dynamic. rows: see
    `Rows.record`."""
    located = rows.record(head.name)
    return {
        "target": target if isinstance(target, (str, int)) else [int(i) for i in target],
        "output": output.name,
        "head": head.name,
        "size": rows.elements(head.name, head.shape),
        "squash": squash,
        **({} if located is None else {"rows": located}),
    }


def _card(
    model: onnx.ModelProto,
    source: Source,
    stage: Stage,
    aim: Mapping[str, Any],
    method: Method,
    request: Request,
    *,
    sampled: bool,
) -> Card:
    options = {name: recorded(value) for name, value in request.options.items()}
    options |= stage.extras.get("chosen", {})
    if request.reduce is not None:
        options["reduce"] = request.reduce[0]
    opset = next(entry.version for entry in source.model.opset_import if entry.domain in ("", "ai.onnx"))
    lanes = ("primal", *(["reference"] * bool(method.reference)), *(["samples"] * sampled))
    front, rules = stage.front, dict[str, str]()
    for tape in stage.tapes:
        rules |= tape.rules()
    return Card(
        version=request.version,
        method=method.name,
        options=options,
        target=aim if front is None else {**aim, "at": front.places},
        rules=rules,
        lanes=lanes,
        source={
            "sha256": source.sha256,
            "bytes": source.size,
            "opset": opset,
            "producer": source.model.producer_name,
            "name": None if source.path is None else source.path.name,
        },
        approximations=(*stage.g.notes, *_approximations(stage, method)),
        citation=method.source,
        preprocessing=request.preprocessing,
        labels=request.labels,
        inputs=_beyond(model.graph.input, [*stage.graph.inputs, *(front.inputs if front else ())]),
        outputs=_beyond(model.graph.output, stage.graph.outputs),
    )


def _beyond(
    values: Iterable[onnx.ValueInfoProto], known: Iterable[Value | onnx.ValueInfoProto]
) -> tuple[str, ...]:
    names = {value.name for value in known}
    return tuple(value.name for value in values if value.name not in names)


def recorded(value: Any) -> Any:
    """An option as the card keeps it: an array by its shape and hash, a method by its name, an object by its own
    record."""
    if isinstance(value, np.ndarray):
        digest = hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
        return {"shape": list(value.shape), "dtype": value.dtype.name, "sha256": digest}
    if isinstance(value, Method):
        return value.name
    record = getattr(value, "to_record", None)
    return value if record is None else record()


def _approximations(stage: Stage, method: Method) -> list[str]:
    """One note an operator for which the method's paper has no rule, with its nodes: those that the method lists, and
    those at which its rules said so."""
    for step in (step for tape in stage.tapes for step in tape.steps):
        if step.site.op in method.approximates:
            stage.g.approximate(step.site.op, step.site.name, method.approximates[step.site.op])
    return [f"{op} at {', '.join(names)}: {why}" for (op, why), names in sorted(stage.g.approximated.items())]


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
