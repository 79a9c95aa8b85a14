"""Compile by name: methods, readouts, preprocessing and labels looked up, an Explainer returned."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, TypeAlias

import onnx

from ..rewriter.card import Card, add_proof
from ..rewriter.compile import Request, compile_source
from ..rewriter.errors import ModelError, OptionError
from ..rewriter.load import PROTOBUF_LIMIT, Source, load
from ..rewriter.method import Method
from ..rewriter.passes.shapes import tensor_type
from ..rewriter.target import Target
from ..rules.readouts import readout
from ..rules.registry import find
from .arguments import vet_arguments
from .describe import Description, describe, find_labels, sized
from .explainer import Explainer
from .lanes import parse_bytes
from .settings import resolved, vet_overrides

if TYPE_CHECKING:
    from ..rewriter.draft import Dim
    from .providers import Provider

Model: TypeAlias = str | os.PathLike[str] | bytes | onnx.ModelProto | Source


def package_version() -> str:
    try:
        return version("onnxplain")
    except PackageNotFoundError:  # a source tree that was never installed
        return "0"


def compile(
    model: Model,
    method: str | Method = "saliency",
    *,
    target: Target = "input",
    output: str | None = None,
    head: str = "logits",
    inputs: Sequence[str] | None = None,
    reduce: str | None = None,
    shapes: Mapping[str, Sequence[Dim]] | None = None,
    preprocessing: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    labels: str | os.PathLike[str] | Sequence[str] | None = None,
    lowering: str = "portable",
    precision: str = "float32",
    memory: int | str | None = None,
    cache: str | os.PathLike[str] | None = None,
    external_data: bool = False,
    max_bytes: int = PROTOBUF_LIMIT,
    domains: Sequence[str] = (),
    providers: str | Sequence[Provider] | None = None,
    threads: int | None = None,
    **options: Any,
) -> Explainer:
    """Compile a model and a method into an explanation graph: a second ONNX model, ready to save or call.

    model: path, bytes or ModelProto. method: a name of `onnxplain.methods()`, or a Method.
    target: "input" (the class is a graph input; -1 is the top class), "top", a class, a list of classes (rows),
        or "cotangent" (a graph input of the shape of the explained output).
    output: which of several outputs, by name; the first with floating-point numbers by default. head: "logits" (looked
        for behind a trailing Softmax, LogSoftmax or Sigmoid), "prob", "logprob", or the name of any tensor.
    inputs: which inputs get an attribution; the first floating-point one of the highest rank by default. Of an
        integer input the floating-point tensor is explained that a Cast, Gather or OneHot makes of it.
    reduce: adds a `heatmap`: readouts joined by commas, such as "maxabs" or "sum,sym" (docs/methods/README.md).
    shapes: fixes symbolic sizes of inputs, {"image": ["N", 3, 224, 224]}; photos are brought to them.
    preprocessing, labels: stored in the file for whoever feeds it pictures; see `describe`.
    lowering: the forms that the file is written in: "portable", or those of one provider ("cpu", "cuda", "tensorrt",
        "web"). A session opened here spells a portable file for its own provider anyway.
    precision: "float16" computes in half precision inside, for accelerators; the card says so.
    memory, cache: see `Explainer`; memory also bounds the samples that a loop runs at a time.
    options: the method's own.

    The forward pass of the file is compared with the model's on a random input, and rows of a batch with single rows
    (`runtime.proof`); the card keeps what was found.

    Raises ModelError, UnsupportedError (every node without a rule), TargetError, OptionError.
    """
    vet_arguments(output=output, head=head, inputs=inputs, reduce=reduce, shapes=shapes, labels=labels)
    vet_arguments(preprocessing=preprocessing, providers=providers, threads=threads, cache=cache)
    source = load(model, external_data=external_data, max_bytes=max_bytes, domains=domains)
    about = description(model, source.model, preprocessing, labels, shapes)
    request = Request(
        target=target,
        output=output,
        head=head,
        reduce=None if reduce is None else (reduce, readout(reduce, _channels_last(about))),
        provider=lowering,
        precision=precision,
        options=resolved(options, source),
        **_fixed(inputs, shapes, memory),
        **_told(model, source, about, labels),
    )
    emitted, card = _proved(source, find(method), request)
    return Explainer(emitted, card, providers=providers, threads=threads, memory=memory, cache=cache)


def _proved(source: Source, method: Method, request: Request) -> tuple[onnx.ModelProto, Card]:
    """The emitted file, whose forward pass was held against the model's."""
    from .proof import prove  # here, because it takes its inputs and cuts from `verify`, which compiles too

    emitted, card = compile_source(source, method, request)
    vet_overrides(card)
    proof = prove(source, emitted, card, request.shapes, half=request.precision != "float32")
    return emitted, add_proof(emitted, card, proof)


def _fixed(
    inputs: Sequence[str] | None, shapes: Mapping[str, Sequence[Dim]] | None, memory: int | str | None
) -> dict[str, Any]:
    return {
        "inputs": None if inputs is None else tuple(inputs),
        "shapes": None if shapes is None else {name: tuple(shape) for name, shape in shapes.items()},
        "memory": None if memory is None else parse_bytes(memory),
    }


def _told(
    model: Model,
    source: Source,
    about: Description | None,
    labels: str | os.PathLike[str] | Sequence[str] | None,
) -> dict[str, Any]:
    """What the file says about the pictures it takes, the classes it knows, and who wrote it."""
    known = about.labels if about is not None else find_labels(model, metadata_of(source.model), labels)
    record = None if about is None or about.guessed else about.preprocessing.to_record()
    return {"preprocessing": record, "labels": known, "version": package_version()}


def _channels_last(about: Description | None) -> bool:
    # Also where the rest of the preprocessing is only guessed: the layout shows in the shape of the input.
    return about is not None and about.preprocessing.layout == "NHWC"


def description(
    model: Model,
    proto: onnx.ModelProto,
    preprocessing: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    labels: str | os.PathLike[str] | Sequence[str] | None = None,
    shapes: Mapping[str, Sequence[Dim]] | None = None,
) -> Description | None:
    """The description of a model; None when its input is no picture and nobody said it was. shapes: sizes that inputs
    are given, which photos are then brought to."""
    found = picture_input(proto)
    asked = None if found is None else (shapes or {}).get(found.name)
    kind = None if found is None else tensor_type(found)
    shape = picture_shape(proto) if asked is None else tuple(asked)
    try:
        about = describe(model, shape, metadata_of(proto), preprocessing=preprocessing, labels=labels)
    except ModelError:
        if preprocessing is not None:
            raise OptionError("preprocessing was given, but the model's input is not a picture") from None
        return None
    if about.guessed and kind is not None and kind.dtype is not None and kind.dtype.kind in "iu":
        about = replace(about, preprocessing=about.preprocessing.scaled("raw"))  # pixels as they are
    return about if asked is None else sized(about, shape)


def metadata_of(proto: onnx.ModelProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in proto.metadata_props}


def picture_shape(proto: onnx.ModelProto) -> tuple[Dim, ...]:
    """Shape of the first input of four axes, else of the first input."""
    found = picture_input(proto)
    return () if found is None else tensor_type(found).shape or ()


def picture_input(proto: onnx.ModelProto) -> onnx.ValueInfoProto | None:
    """The first input of four axes, else the first input."""
    parameters = {tensor.name for tensor in proto.graph.initializer}
    inputs = [value for value in proto.graph.input if value.name not in parameters]
    return next((x for x in inputs if len(tensor_type(x).shape or ()) == 4), inputs[0] if inputs else None)
