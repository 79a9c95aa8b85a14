"""Spell the primitives of an emitted file again, for the provider that is going to run it.

A file travels in the portable form. Its metadata says which tensors are primitives, of what; so a runtime that knows
its provider puts that provider's forms in their place when it opens the file, and drops what nothing reads any more.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from .draft import Dim, Draft, captured, draft, heavy
from .emit import PRIVATE, Emit
from .errors import ModelError
from .graph import LOOP, Graph, Node, Value, declared, link, operator, proto, variable
from .passes.lower import TABLES, table_of
from .passes.shapes import TensorType, infer
from .split import behind

_LOG = logging.getLogger(__name__)

KEY = "onnxplain.primitives"

Entry = Mapping[str, Any]
"""{"op", "inputs": names, "output": name, "attrs"} of a primitive."""


@dataclass(frozen=True)
class Spelling:
    """The table that a file is written in, what its cotangents' rows are called, and its primitives."""

    provider: str
    lead: Dim
    entries: Sequence[Entry] = field(default=())
    digest: str = ""
    """Of the file's nodes as they were written. A file that somebody has changed since is run as it lies: its
    primitives may not be what the metadata says any more."""

    def renamed(self, names: Mapping[str, str], rows: Mapping[Dim, str]) -> Spelling:
        """For nodes that moved into a loop, where some tensors and the rows of a trip have other names."""
        moved = [
            {**entry, "inputs": [names.get(name, name) for name in entry["inputs"]]} for entry in self.entries
        ]
        return Spelling(self.provider, rows.get(self.lead, self.lead), moved)

    def stamp(self, model: onnx.ModelProto) -> None:
        """Write it into the metadata of the model, whose nodes are final."""
        entry = model.metadata_props.add()
        sealed = {**self.__dict__, "digest": digest(model.graph)}
        entry.key, entry.value = KEY, json.dumps(sealed, separators=(",", ":"), sort_keys=True)


def digest(graph: onnx.GraphProto) -> str:
    """Of nodes and small constants, those of bodies too; the weights are not read."""
    total = hashlib.blake2b(digest_size=16)
    for tensor in graph.initializer:
        if not heavy(tensor):
            total.update(tensor.SerializeToString(deterministic=True))
    for node in graph.node:
        parts = [node.domain, node.op_type, *node.input, "->", *node.output]
        total.update("\0".join(parts).encode())
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                total.update(digest(attribute.g).encode())
            else:
                total.update(attribute.SerializeToString(deterministic=True))
    return total.hexdigest()


def spelling(g: Emit, provider: str) -> Spelling:
    """What `lower` noted while it spelled g's primitives, in the names that the file uses."""
    made = {y.name for node in g.nodes for y in node.outputs}
    entries = [
        {
            "op": node.op,
            "inputs": [x.name for x in node.inputs],
            "output": value.name,
            "attrs": dict(node.attrs),
        }
        for node, value in g.spelled
        if value.name in made
    ]
    return Spelling(provider, g.lead, entries)


def read_spelling(model: onnx.ModelProto) -> Spelling | None:
    """The entry of the metadata; None where there is none. ModelError where it is damaged."""
    text = next((entry.value for entry in model.metadata_props if entry.key == KEY), None)
    if text is None:
        return None
    try:
        found = Spelling(**json.loads(text))
        sound = all(set(entry) == {"op", "inputs", "output", "attrs"} for entry in found.entries)
    except (ValueError, TypeError, RecursionError) as error:
        raise ModelError("the explanation's metadata is damaged: its primitives; compile it again") from error
    if not sound:
        raise ModelError("the explanation's metadata is damaged: its primitives; compile it again")
    return found


def reseal(copy: onnx.ModelProto, model: onnx.ModelProto) -> None:
    """In place: nodes were added to this copy beside the model's own. It counts as untouched where the model does."""
    found = read_spelling(model)
    if found is not None and found.digest == digest(model.graph):
        forget_spelling(copy)
        found.stamp(copy)


def forget_spelling(model: onnx.ModelProto) -> None:
    """In place: the file stays in the form that it has."""
    kept = [entry for entry in model.metadata_props if entry.key != KEY]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)


def respell(model: onnx.ModelProto, provider: str) -> onnx.ModelProto:
    """The model in the forms of a provider's table; the model itself where it is in them already, or says nothing of
    its primitives. OptionError for an unknown provider."""
    table_of(provider)
    found = read_spelling(model)
    if found is None or provider in (found.provider, "portable") or found.provider != "portable":
        return model
    if found.digest != digest(model.graph):
        _LOG.warning("the explanation was changed after it was compiled: it runs in its portable form")
        return model
    work = draft(model)
    _respell(work, found, provider)
    for node in work.graph.node:
        if node.op_type == "Loop" and node.name == LOOP:
            body = next(attribute.g for attribute in node.attribute if attribute.name == "body")
            _respell_body(body, node, work, found, provider)
    forget_spelling(work.model)
    Spelling(provider, found.lead).stamp(work.model)
    work.graph.initializer.extend(work.weights.values())
    return work.model


def _respell_body(
    body: onnx.GraphProto, loop: onnx.NodeProto, outer: Draft, found: Spelling, provider: str
) -> None:
    """The body as a model of its own: what it reads from outside is an input of it for the time being."""
    model = onnx.ModelProto(ir_version=outer.model.ir_version, opset_import=outer.model.opset_import)
    model.graph.CopyFrom(body)
    known = {tensor.name: tensor for tensor in outer.graph.initializer}
    types = infer(outer, trusting=True)
    for name in sorted(captured(loop)):
        if name in known:
            model.graph.initializer.append(known[name])
        else:
            model.graph.input.append(_typed(name, types.get(name)))
    work = draft(model)
    _respell(work, found, provider)
    mine = {tensor.name for tensor in body.initializer}
    fresh = [t for t in work.graph.initializer if t.name in mine or t.name not in known]
    for name, value in (("node", work.graph.node), ("value_info", work.graph.value_info)):
        body.ClearField(name)
        getattr(body, name).extend(value)
    body.ClearField("initializer")
    body.initializer.extend([*fresh, *work.weights.values()])


def _typed(name: str, known: TensorType | None) -> onnx.ValueInfoProto:
    if known is None or known.dtype is None:
        return onnx.ValueInfoProto(name=name)
    return declared(variable(name, known.dtype, known.shape))


def _respell(work: Draft, found: Spelling, provider: str) -> None:
    entries = {str(entry["output"]): entry for entry in found.entries}
    made = {name for node in work.graph.node for name in node.output}
    if not made & set(entries):
        return
    graph = link(work, infer(work, trusting=True))
    g = Emit(graph, "low")
    g.lead = found.lead
    nodes: list[onnx.NodeProto] = []
    for node in work.graph.node:
        output = next((name for name in node.output if name in entries), None)
        spelled = None if output is None else _form(g, graph, entries[output], provider)
        if output is None or spelled is None or len(node.output) != 1:
            nodes.append(node)
            continue
        nodes += _named(g, spelled, output)
    work.graph.ClearField("node")
    work.graph.node.extend(behind(nodes, [value.name for value in work.graph.output])[0])
    read = {name for node in work.graph.node for name in (*node.input, *captured(node))}
    read |= {value.name for value in work.graph.output}
    constants = [tensor for tensor in work.graph.initializer if tensor.name in read]
    work.graph.ClearField("initializer")
    work.graph.initializer.extend(constants)
    work.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(graph.constant(value)), value.name)
        for value in g.constants
        if value.name in read
    )
    left = {name for node in work.graph.node for name in node.output}
    known = {value.name for value in work.graph.value_info}
    fresh = [declared(value) for value in g.stated if value.name in left and value.name not in known]
    kept = [value for value in work.graph.value_info if value.name in left]
    work.graph.ClearField("value_info")
    work.graph.value_info.extend([*kept, *fresh])


def _form(g: Emit, graph: Graph, entry: Entry, provider: str) -> Value | None:
    """The primitive in the provider's form; None where a tensor that it names is not in the file any more."""
    lowering = TABLES[provider].get(str(entry["op"]))
    inputs = [graph.values.get(name) if name else variable() for name in entry["inputs"]]
    if lowering is None or any(x is None or (x.name and x.dtype is None) for x in inputs):
        return None
    # Not linked to its inputs: it is gone before the file is written.
    node = operator(str(entry["op"]), "", dict(entry["attrs"]), [], [], PRIVATE)
    node.inputs = [x for x in inputs if x is not None]
    with g.at(str(entry["output"]).rpartition("/")[0]):
        return lowering(g, node)


def _named(g: Emit, spelled: Value, output: str) -> list[onnx.NodeProto]:
    """g's new nodes, the result under the name that the file has for it."""
    made = [y for node in g.nodes for y in node.outputs]
    if not any(y is spelled for y in made):
        spelled = g.Identity(spelled)
    if any(value is spelled for value in g.stated):
        g.stated = [value for value in g.stated if value is not spelled]
    spelled.name = output
    nodes = [proto(node) for node in g.nodes]
    g.nodes = []
    return nodes


__all__ = [
    "KEY",
    "Node",
    "Spelling",
    "digest",
    "forget_spelling",
    "read_spelling",
    "reseal",
    "respell",
    "spelling",
]
