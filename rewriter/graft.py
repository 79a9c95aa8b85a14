"""Put a second model into an emitted file: nodes and weights under names of their own, nothing else changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from .draft import Draft, draft, rename_inputs
from .errors import ModelError, TargetError
from .graph import Graph, Value, prepare
from .load import Source
from .passes.functions import inline
from .passes.opset import FLOOR, lift
from .tape import touched


@dataclass(frozen=True)
class Part:
    """A prepared model of one input and one output, to be put into another. title: what messages call it."""

    title: str
    graph: Graph

    @property
    def input(self) -> Value:
        return self.graph.inputs[0]

    @property
    def output(self) -> Value:
        return self.graph.outputs[0]


def part(source: Source, title: str, x: Value) -> Part:
    """A model from x's space into the same: it must take and give tensors of the type and the shape of x. Raises
    ModelError."""
    found = Part(title, prepare(source.model))
    for kind, values in (("input", found.graph.inputs), ("output", found.graph.outputs)):
        if len(values) != 1:
            names = ", ".join(repr(value.name) for value in values)
            raise ModelError(f"{title} has {len(values)} {kind}s ({names}); cut it down to one picture each")
        (value,) = values
        if value.dtype is None or np.dtype(value.dtype) != np.dtype(x.dtype) or not _fits(value, x):
            raise ModelError(
                f"{title}: its {kind} {value.name!r} is {value.dtype} {value.shape}, the model's input {x.name!r} is "
                f"{x.dtype} {x.shape}; a generator works in the model's input space"
            )
    return found


def _fits(value: Value, x: Value) -> bool:
    """Same rank, no fixed size that is another; the batch as free as that of x."""
    if value.shape is None or len(value.shape) != len(x.shape):
        return False
    if isinstance(value.shape[0], int) and value.shape[0] != x.shape[0]:
        return False
    pairs = zip(value.shape[1:], x.shape[1:], strict=True)
    return all(a == b or not (isinstance(a, int) and isinstance(b, int)) for a, b in pairs)


def vet_opsets(model: onnx.ModelProto, parts: Mapping[str, onnx.ModelProto]) -> None:
    """Raises ModelError where a part imports another version of an operator set than the model: one file has one."""
    known = {entry.domain: entry.version for entry in model.opset_import}
    for title, other in parts.items():
        for entry in other.opset_import:
            if known.setdefault(entry.domain, entry.version) != entry.version:
                raise ModelError(
                    f"{title} has opset {entry.version} of {entry.domain or 'ai.onnx'!r}, the model "
                    f"{known[entry.domain]}; export both with the same (or let `explain_by_generators` lift them)"
                )


def graft(model: onnx.ModelProto, of: Part, prefix: str, feed: str) -> None:
    """Append the part's nodes and weights, all names behind the prefix, its input the tensor `feed`; its output is
    then f"{prefix}{of.output.name}"."""
    work = of.graph.draft
    names = {name: prefix + name for name in _names(work)} | {of.input.name: feed}
    _copy(model, work.graph, names, prefix)
    for tensor in (*work.graph.initializer, *work.weights.values()):
        mine = model.graph.initializer.add()
        mine.CopyFrom(tensor)
        mine.name = names[tensor.name]
    for sparse in work.graph.sparse_initializer:
        own = model.graph.sparse_initializer.add()
        own.CopyFrom(sparse)
        own.values.name = names[sparse.values.name]
    model.ir_version = max(model.ir_version, work.model.ir_version)
    imported = {entry.domain for entry in model.opset_import}
    model.opset_import.extend(e for e in work.model.opset_import if e.domain not in imported)


def again(model: onnx.ModelProto, graph: Graph, x: Value, upto: Value, prefix: str, feed: str) -> None:
    """Append the forward nodes from x to `upto` once more, reading the tensor `feed` in place of x. What they make is
    named behind the prefix; weights, and what does not depend on x, are shared. TargetError where nothing does."""
    depending = {y.name for node in touched(graph, (x,), upto) for y in node.outputs if y.name}
    if upto.name not in depending:
        raise TargetError(f"{upto.name!r} does not depend on input {x.name!r}")
    chosen = onnx.GraphProto()
    chosen.node.extend(node for node in graph.draft.graph.node if set(node.output) & depending)
    names = {name: prefix + name for node in chosen.node for name in node.output if name} | {x.name: feed}
    _copy(model, chosen, names, prefix)


def _copy(model: onnx.ModelProto, graph: onnx.GraphProto, names: Mapping[str, str], prefix: str) -> None:
    copied = onnx.GraphProto()
    copied.node.extend(graph.node)
    rename_inputs(copied, dict(names))
    for node in copied.node:
        node.name = prefix + node.name
        for i, name in enumerate(node.output):
            node.output[i] = names.get(name, name)
    model.graph.node.extend(copied.node)


def _names(work: Draft) -> set[str]:
    """Every tensor of a graph, those inside subgraphs left out."""
    made = {name for node in work.graph.node for name in node.output if name}
    sparse = {tensor.values.name for tensor in work.graph.sparse_initializer}
    return made | sparse | work.constants() | {value.name for value in work.graph.input}


def opset_of(model: onnx.ModelProto) -> int:
    """Of the default operator set, as the compiler would have it: FLOOR at least. ModelError for one that the
    installed onnx does not know."""
    version = max(FLOOR, *(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")))
    newest = onnx.defs.onnx_opset_version()
    if version > newest:
        raise ModelError(
            f"the model has opset {version}; onnx {onnx.__version__} knows them up to {newest}: install a newer onnx"
        )
    return int(version)


def raised(model: onnx.ModelProto, version: int) -> onnx.ModelProto:
    """The model in a later default opset; the model itself where it has that one. Raises ModelError for a node that
    the later opset cannot say."""
    if max(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")) >= version:
        return model
    work = draft(model)
    inline(work)
    lift(work, version)
    work.graph.initializer.extend(work.weights.values())
    return work.model


__all__ = ["Part", "again", "graft", "opset_of", "part", "raised", "vet_opsets"]
