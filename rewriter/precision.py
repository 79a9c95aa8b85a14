"""float16 inside, float32 at the boundary: for accelerators with half-precision units.

Weights and activations become float16, inputs and outputs stay float32 (casts at both ends). What half precision
cannot hold stays float32, with casts around it: sums and means, Softmax, exponentials, roots and logarithms, quotients
with the stabiliser added below them and the product above them (1e-6 is below the normal numbers of float16, and
1/1e-6 over its largest), and step masks by HardSigmoid (slope 2^100). Sums over samples in a loop are carried in
float32.

Largest number 65504, smallest normal one 6e-5, 11 bits. It is an approximation, and said in the card: masks flip where
an activation is within rounding of a kink, and gradients below 6e-8 become 0. Error against float32, as the L2 norm of
the difference over that of the map (EfficientNet-Lite0, two photos, kernels of the CPU): saliency 0.14 and 0.17, LRP
epsilon 0.11 and 0.16, integrated gradients of 8 steps 0.19 and 0.15, logits 0.003 and 0.005.

The conversion is that of onnxruntime (`onnxruntime.transformers.float16`); chosen here is what it leaves alone. On the
CPU it is only good for checking: most kernels convert back and forth, and it is slower than float32.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from importlib import import_module
from typing import Any

import onnx
from onnx import TensorProto, helper

from .card import PREFIX
from .draft import captured, rename_inputs
from .errors import ModelError, OptionError, ProviderError, nearest
from .graph import LOOP
from .order import ordered
from .respell import forget_spelling

PRECISIONS = ("float32", "float16")
OWN = "onnxplain/"
"""What the names of loops that this package writes begin with."""
NOTE = "computed in float16 but for sums, quotients and exponentials; inputs and outputs are float32"

WIDE = frozenset(
    "CumSum Div Elu Erf Exp GlobalAveragePool GroupNormalization HardSigmoid InstanceNormalization "
    "LayerNormalization Log LogSoftmax LpNormalization Pow Reciprocal ReduceL1 ReduceL2 ReduceLogSum "
    "ReduceLogSumExp ReduceMean ReduceProd ReduceSum ReduceSumSquare Selu Softmax Softplus Softsign Sqrt".split()
)
"""Operators that stay in float32."""
QUOTIENTS = frozenset({"Div", "Reciprocal", "Softsign"})
POINTWISE = frozenset(
    {"Abs", "Add", "Greater", "GreaterOrEqual", "Less", "Mul", "Neg", "Sign", "Sub", "Where"}
)


def with_precision(model: onnx.ModelProto, precision: str) -> onnx.ModelProto:
    """The emitted file computing in that precision: "float32" is the model itself, "float16" a new one with a note
    among the card's approximations.

    Raises OptionError for another word, and for a file with an iteration in it; ModelError for a model that has no
    float32 (nothing to convert) or that the conversion cannot follow; ProviderError when onnxruntime, which brings it,
    is missing.
    """
    if precision not in PRECISIONS:
        raise OptionError(
            f"precision={precision!r}{nearest(precision, PRECISIONS)} is not one of {', '.join(PRECISIONS)}"
        )
    if precision == "float32":
        return model
    kinds = {value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)}
    if TensorProto.FLOAT not in kinds:
        raise ModelError("precision='float16': the model has no input or output in float32 to start from")
    made = onnx.ModelProto()
    made.CopyFrom(model)
    loops = [node for node in made.graph.node if node.op_type == "Loop" and node.name.startswith(OWN)]
    if any(node.name != LOOP for node in loops):
        raise OptionError(
            "precision='float16': what this method iterates needs float32; leave precision= out"
        )
    if loops:
        _narrow_body(made, loops[0])
    else:
        made = _narrowed(made)
    _note(made)
    forget_spelling(made)  # casts come between, and primitives have other names now
    return made


def _narrow_body(model: onnx.ModelProto, loop: onnx.NodeProto) -> None:
    """In place. What the loop carries stays as it is: the casts are inside the body."""
    body = next(attribute.g for attribute in loop.attribute if attribute.name == "body")
    outside = _types(model)
    inner = onnx.ModelProto(ir_version=model.ir_version)
    inner.opset_import.extend(model.opset_import)
    inner.functions.extend(model.functions)
    inner.graph.CopyFrom(body)
    borrowed = sorted(captured(loop))
    for name in borrowed:
        inner.graph.input.append(helper.make_tensor_value_info(name, outside.get(name, 0), None))
    narrow = _narrowed(inner).graph
    kept = [value for value in narrow.input if value.name not in borrowed]
    body.CopyFrom(narrow)
    del body.input[:]
    body.input.extend(kept)
    del body.value_info[:]


def _types(model: onnx.ModelProto) -> dict[str, int]:
    graph = onnx.shape_inference.infer_shapes(model).graph
    values = (*graph.input, *graph.output, *graph.value_info)
    return {value.name: value.type.tensor_type.elem_type for value in values} | {
        tensor.name: tensor.data_type for tensor in graph.initializer
    }


def _narrowed(model: onnx.ModelProto) -> onnx.ModelProto:
    try:
        library: Any = import_module("onnxruntime.transformers.float16")
    except ImportError as error:
        raise ProviderError(
            f"precision='float16' needs onnxruntime ({error}); install onnxplain[gpu] or onnxplain[cpu]"
        ) from error
    _spell_names(model.graph)
    blocked = [*library.DEFAULT_OP_BLOCK_LIST, *sorted(WIDE)]
    try:
        made: onnx.ModelProto = library.convert_float_to_float16(
            model, keep_io_types=True, op_block_list=blocked, node_block_list=_quotients(model.graph.node)
        )
    except Exception as error:  # the library asserts and indexes; whatever it raises is about this model
        raise ModelError(f"precision='float16': the model cannot be converted: {error}") from error
    _tidy(made.graph)
    _sort(made.graph)
    del made.graph.value_info[:]  # of the types before
    return made


def _spell_names(graph: onnx.GraphProto) -> None:
    """The library tells nodes apart by name; those without one would all be the same."""
    for i, node in enumerate(graph.node):
        node.name = node.name or f"{node.op_type}/{i}"


def _quotients(nodes: Sequence[onnx.NodeProto]) -> list[str]:
    """Names of the nodes around a quotient that stay float32: pointwise ones that make the denominator, and products
    of the result."""
    makers = {name: node for node in nodes for name in node.output if name}
    found: dict[str, None] = {}
    wide: set[str] = set()
    for node in nodes:
        if node.op_type in QUOTIENTS:
            wide.update(node.output)
            for below in _below(node.input[-1], makers, depth=3):
                found[below.name] = None
        elif node.op_type == "Mul" and wide.intersection(node.input):
            found[node.name] = None
    return list(found)


def _below(name: str, makers: dict[str, onnx.NodeProto], depth: int) -> Iterable[onnx.NodeProto]:
    node = makers.get(name)
    if node is None or depth == 0 or node.op_type not in POINTWISE:
        return
    yield node
    for x in node.input:
        yield from _below(x, makers, depth - 1)


def _tidy(graph: onnx.GraphProto) -> None:
    """The library narrows the result of every node that stays wide, and widens it for each reader that does, under
    one name: what goes from wide to wide is read directly here, and the casts that are left are made once."""
    narrow = {node.output[0]: node.input[0] for node in graph.node if _casts(node, TensorProto.FLOAT16)}
    direct = {
        node.output[0]: narrow[node.input[0]]
        for node in graph.node
        if _casts(node, TensorProto.FLOAT) and node.input[0] in narrow
    }
    outputs = {value.name for value in graph.output}
    rename_inputs(graph, {name: source for name, source in direct.items() if name not in outputs})
    read = outputs | {name for node in graph.node for name in (*node.input, *captured(node))}
    last = {tuple(node.output): i for i, node in enumerate(graph.node)}
    kept = [
        node
        for i, node in enumerate(graph.node)
        if last[tuple(node.output)] == i and (node.op_type != "Cast" or node.output[0] in read)
    ]
    _replace(graph, kept)


def _casts(node: onnx.NodeProto, to: int) -> bool:
    return node.op_type == "Cast" and any(a.name == "to" and a.i == to for a in node.attribute)


def _replace(graph: onnx.GraphProto, nodes: Iterable[onnx.NodeProto]) -> None:
    # Copies: a repeated field owns its messages, and clearing it would take them along.
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def _sort(graph: onnx.GraphProto) -> None:
    """Topological order again, the order of the nodes otherwise kept; the casts were appended at the end."""
    nodes = list(graph.node)
    order = ordered([(*node.input, *captured(node)) for node in nodes], [node.output for node in nodes])
    if order is None:
        raise ModelError("precision='float16': the converted graph has a cycle")
    _replace(graph, [nodes[i] for i in order])


def _note(model: onnx.ModelProto) -> None:
    key = f"{PREFIX}approximations"
    entry = next((entry for entry in model.metadata_props if entry.key == key), None)
    if entry is None:
        entry = model.metadata_props.add(key=key, value="[]")
    entry.value = json.dumps([*json.loads(entry.value), NOTE], sort_keys=True, ensure_ascii=False)


__all__ = ["NOTE", "PRECISIONS", "with_precision"]
