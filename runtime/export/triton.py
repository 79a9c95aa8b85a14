"""A model repository for Triton: NAME/config.pbtxt, NAME/1/model.onnx, NAME/labels.txt.

KServe serves the same folder. There is no ensemble: one emitted file already holds the model and its explanation, so
that nothing is left to chain; decoding photos is the client's work, as for the model itself.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import onnx
from onnx import TensorProto

from ...rewriter.card import Card, read_card
from ...rewriter.errors import ModelError, OptionError
from ...rewriter.load import load
from ..atomic import atomic_folder
from ..opening import serialize

TYPES: Mapping[int, str] = MappingProxyType(
    {
        TensorProto.BOOL: "TYPE_BOOL",
        TensorProto.UINT8: "TYPE_UINT8",
        TensorProto.UINT16: "TYPE_UINT16",
        TensorProto.UINT32: "TYPE_UINT32",
        TensorProto.UINT64: "TYPE_UINT64",
        TensorProto.INT8: "TYPE_INT8",
        TensorProto.INT16: "TYPE_INT16",
        TensorProto.INT32: "TYPE_INT32",
        TensorProto.INT64: "TYPE_INT64",
        TensorProto.FLOAT16: "TYPE_FP16",
        TensorProto.FLOAT: "TYPE_FP32",
        TensorProto.DOUBLE: "TYPE_FP64",
        TensorProto.STRING: "TYPE_STRING",
        TensorProto.BFLOAT16: "TYPE_BF16",
    }
)
LABELS = "labels.txt"


@dataclass(frozen=True)
class Serving:
    """max_batch: rows that Triton may put into one run. delay: microseconds a request may wait for others. warmup: run
    one row of zeros before the model is called ready."""

    max_batch: int = 16
    delay: int = 2000
    warmup: bool = False

    def __post_init__(self) -> None:
        if self.max_batch < 1:
            raise OptionError(
                f"max_batch is {self.max_batch}; Triton batches along the first axis, at least 1 row"
            )
        if self.delay < 0:
            raise OptionError(f"delay is {self.delay} microseconds; give 0 or more")


@dataclass(frozen=True)
class Port:
    """An input or output: its type in Triton's words, and its shape without the batch; -1 is any size."""

    name: str
    type: str
    dims: tuple[int, ...]
    labels: bool = False


def export_triton(
    files: Sequence[str | os.PathLike[str]],
    repository: str | os.PathLike[str],
    *,
    name: str | None = None,
    serving: Serving | None = None,
    replace: bool = False,
) -> list[Path]:
    """Put emitted files into a Triton model repository, a folder a file; returns these folders.

    name: of the only file's folder; by default that of the file, without its suffix. replace: take the place of a
    model that is there. Everything is checked before anything is written, and a model appears whole or not at all.
    Clients send `target` as [N, 1].

    Raises OptionError (names, a model in the way), ModelError for a file that cannot be served with batches: every
    input and output must have the batch as its first axis and at least one more.
    """
    serving = serving or Serving()
    if not files:
        raise OptionError("no file to export; give some that `onnxplain compile` wrote")
    if name is not None and len(files) > 1:
        raise OptionError(f"name={name!r} is for one file, and there are {len(files)}")
    root = Path(repository)
    names = [_name(Path(file).stem if name is None else name) for file in files]
    doubled = {one for one in names if names.count(one) > 1}
    if doubled:
        raise OptionError(
            f"two files would be called {min(doubled)!r}; export one of them with a name of its own"
        )
    there = [one for one in names if (root / one).exists()]
    if there and not replace:
        raise OptionError(f"{str(root)!r} holds {', '.join(there)} already; replace it, or give another name")
    built = [_build(file, one, serving) for file, one in zip(files, names, strict=True)]
    try:
        for one, contents in zip(names, built, strict=True):
            _place(root / one, contents)
    except OSError as error:
        raise OptionError(f"cannot write to {str(root)!r}: {error.strerror or error}") from error
    return [root / one for one in names]


def config(name: str, model: onnx.ModelProto, card: Card, serving: Serving) -> str:
    """The text of config.pbtxt. ModelError listing every input and output that does not fit, at once."""
    parameters = {tensor.name for tensor in model.graph.initializer}
    given = [value for value in model.graph.input if value.name not in parameters]
    wrong = [line for value in (*given, *model.graph.output) if (line := _misfit(value)) is not None]
    if wrong:
        raise ModelError(
            f"{name}: Triton batches along a free first axis that all inputs and outputs share, of at least 2 axes; "
            f"{'; '.join(wrong)}. Compile it with a free batch and target='input', 'top' or one class"
        )
    leads = {value.type.tensor_type.shape.dim[0].dim_param for value in (*given, *model.graph.output)}
    if len(leads) > 1:
        raise ModelError(
            f"{name}: its inputs and outputs have different first axes ({', '.join(sorted(leads))}), and Triton "
            "batches along one; compile it with target='input', 'top' or one class"
        )
    inputs, outputs = (
        [_port(value, card) for value in given],
        [_port(value, card) for value in model.graph.output],
    )
    parts = [
        f"name: {_quoted(name)}",
        'backend: "onnxruntime"',
        f"max_batch_size: {serving.max_batch}",
        *(_block("input", [_port_lines(port)]) for port in inputs),
        *(_block("output", [_port_lines(port)]) for port in outputs),
        _block("dynamic_batching", [[f"max_queue_delay_microseconds: {serving.delay}"]]),
        _block("instance_group", [["count: 1", "kind: KIND_AUTO"]]),
    ]
    if serving.warmup:
        parts.append(_warmup(name, inputs))
    return "\n".join(parts) + "\n"


def _build(file: str | os.PathLike[str], name: str, serving: Serving) -> dict[str, bytes]:
    """Path below the model's folder -> bytes."""
    source = load(file)
    card = read_card(source.model)
    contents = {
        "config.pbtxt": config(name, source.model, card, serving).encode(),
        "1/model.onnx": serialize(source.model) if source.path is None else source.path.read_bytes(),
    }
    if any(_labelled(value, card) for value in source.model.graph.output):
        lines = [" ".join(label.split()) for label in card.labels or ()]
        contents[LABELS] = ("\n".join(lines) + "\n").encode()
    return contents


def _place(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Written under a hidden name, which Triton does not take for a model's."""
    with atomic_folder(folder) as made:
        for path, data in contents.items():
            (made / path).parent.mkdir(parents=True, exist_ok=True)
            (made / path).write_bytes(data)


def _name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", text):
        raise OptionError(
            f"{text!r} is no name for a model: take letters, digits, dots, dashes and underscores, and give it with "
            "--name"
        )
    return text


def _misfit(value: onnx.ValueInfoProto) -> str | None:
    """Why a value cannot be batched, or None."""
    tensor = value.type.tensor_type
    if not value.type.HasField("tensor_type") or tensor.elem_type not in TYPES:
        return f"{value.name!r} has a type that Triton has no word for"
    if not tensor.HasField("shape") or len(tensor.shape.dim) < 2:
        axes = len(tensor.shape.dim) if tensor.HasField("shape") else "an unknown number of"
        return f"{value.name!r} has {axes} axes"
    first = tensor.shape.dim[0]
    return f"{value.name!r} has a batch fixed at {first.dim_value}" if first.HasField("dim_value") else None


def _port(value: onnx.ValueInfoProto, card: Card) -> Port:
    tensor = value.type.tensor_type
    dims = tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in tensor.shape.dim[1:])
    return Port(value.name, TYPES[tensor.elem_type], dims, _labelled(value, card))


def _labelled(value: onnx.ValueInfoProto, card: Card) -> bool:
    """Whether the labels are those of this output: the explained one, with a number a label."""
    sizes = [dim.dim_value for dim in value.type.tensor_type.shape.dim[1:]]
    return value.name == card.target.get("output") and bool(card.labels) and sizes == [len(card.labels or ())]


def _port_lines(port: Port) -> list[str]:
    lines = [f"name: {_quoted(port.name)}", f"data_type: {port.type}", f"dims: {list(port.dims)}"]
    return [*lines, f"label_filename: {_quoted(LABELS)}"] if port.labels else lines


def _warmup(name: str, inputs: Sequence[Port]) -> str:
    free = [port.name for port in inputs if -1 in port.dims]
    if free:
        raise OptionError(f"{name}: no warm-up, because {', '.join(free)} takes any size; leave it out")
    lines = ['name: "one row of zeros"', "batch_size: 1"]
    for port in inputs:
        lines += ["inputs {", f"  key: {_quoted(port.name)}"]
        lines += [f"  value {{ data_type: {port.type} dims: {list(port.dims)} zero_data: true }}", "}"]
    return _block("model_warmup", [lines])


def _block(key: str, items: Sequence[Sequence[str]]) -> str:
    return "\n".join("\n".join([f"{key} {{", *(f"  {line}" for line in lines), "}"]) for lines in items)


def _quoted(text: str) -> str:
    """A string of protobuf's text format: UTF-8 with quotes, backslashes and control characters escaped."""
    return '"' + re.sub(r'[\x00-\x1f"\\\x7f]', lambda found: f"\\{ord(found[0]):03o}", text) + '"'
