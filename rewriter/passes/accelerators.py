"""Forms for accelerators, and what their operators cannot do.

Common to the three tables: MaxPool without Indices, sums in a fixed order instead of ScatterElements, transposed
convolutions with even pads only. Steps stay the portable comparison: a steep HardSigmoid overflows in half precision.
All operators are those of opset 18.

The limits of CUDA and TensorRT are read from kernel lists and issues of onnxruntime and TensorRT, not tried; those of
the WebGPU provider of onnxruntime-web 1.30 were seen with its software adapter. Check them again on upgrades.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from math import prod
from typing import Any

import onnx
from onnx import TensorProto

from ..draft import attributes
from ..emit import PRIVATE, Emit
from ..errors import OptionError, nearest
from ..graph import Node, Value, operator, variable
from .primitives import counts, data_gradient, static_shape, window_spread
from .windows import put_back, space, window_of
from .winners import MOST, winner_put_plain, winner_take_plain

Lowering = Callable[[Emit, Node], Value]


def gradient_even(g: Emit, node: Node) -> Value:
    """DataGradient whose ConvTranspose has the same pads on both sides; what it makes too much is cut off."""
    value, x, rank = data_gradient(g, node), node.inputs[2], len(node.attrs["strides"])
    made = value.inputs[0]
    deconv = made.inputs[0].inputs[0] if made.op == "Slice" else made
    begins, ends = list(node.attrs["pads"])[:rank], list(node.attrs["pads"])[rank:]
    if deconv.op != "ConvTranspose" or begins == ends:
        return value
    even = [min(pair) for pair in zip(begins, ends, strict=True)]
    deconv.attrs["pads"] = even * 2
    starts = [begin - pad for begin, pad in zip(begins, even, strict=True)]
    sizes = space(x)
    if sizes is not None:
        stops = g.ints(*(start + size for start, size in zip(starts, sizes, strict=True)))
    else:
        stops = g.Add(g.Shape(x, start=2), g.ints(*starts))
    return g.Slice(deconv.outputs[0], g.ints(*starts), stops, g.ints(*range(2, 2 + rank)))


def gradient_web(g: Emit, node: Node) -> Value:
    """DataGradient for WebGPU, which computes a grouped ConvTranspose of an even number of channels to a single one
    wrongly: a channel of zeros makes the number odd."""
    ct, w, x = node.inputs
    group, rank = int(node.attrs["group"]), len(node.attrs["strides"])
    sizes = static_shape(w)
    if sizes is None or group == 1 or sizes[1] != 1 or (sizes[0] // group) % 2:
        return gradient_even(g, node)
    each, kernel = sizes[0] // group, sizes[2:]
    planes = [g.size(ct, 2 + i) for i in range(rank)]
    zero, end = g.number(0.0, ct), [0] * rank
    pads = g.ints(0, 0, 0, *end, 0, 0, 1, *end)
    apart = g.Pad(g.Reshape(ct, g.join(g.ints(0, group, each), *planes)), pads, zero, mode="constant")
    more = g.Reshape(apart, g.join(g.ints(0, group * (each + 1)), *planes))
    weights = g.Reshape(w, g.ints(group, each, *kernel))
    weights = g.Pad(weights, g.ints(0, 0, *end, 0, 1, *end), g.number(0.0, w), mode="constant")
    weights = g.Reshape(weights, g.ints(group * (each + 1), 1, *kernel))
    weights.shape, weights.dtype = [group * (each + 1), 1, *kernel], w.dtype
    wider = operator(
        node.op, node.name, dict(node.attrs), [more, weights, x], [variable(dtype=ct.dtype)], PRIVATE
    )
    return gradient_even(g, wider)


def window_sum(g: Emit, node: Node) -> Value:
    """WindowSpread: ct / n put into every cell of the windows, along one axis after the other where sizes are static.
    No transposed convolution, whose pads would have to be uneven."""
    ct, x, y = node.inputs
    w = window_of(node.attrs, x, y)
    if (prod if w.x is None or w.y is None else sum)(w.kernel) + sum(w.strides) > MOST:
        return window_spread(g, node)
    value = g.Div(ct, counts(g, x, y, dict(node.attrs), list(w.dilations)))
    if w.x is None or w.y is None:
        return put_back(g, [value] * len(w.cells), x, y, w)
    for axis in range(w.rank):
        narrow = (*w.x[:axis], *w.y[axis:])
        wide = (*w.x[: axis + 1], *w.y[axis + 1 :])
        line = replace(w.along(axis), x=wide, y=narrow)
        value = put_back(g, [value] * w.kernel[axis], x, y, line)
    return value


CUDA: dict[str, Lowering] = {
    "DataGradient": gradient_even,
    "WinnerTake": winner_take_plain,
    "WinnerPut": winner_put_plain,
    "WindowSpread": window_sum,
}
"""What differs from the portable table; likewise the other two."""
TENSORRT: dict[str, Lowering] = dict(CUDA)
WEB: dict[str, Lowering] = CUDA | {"DataGradient": gradient_web}


class Effect(StrEnum):
    """What becomes of a node that its provider cannot run."""

    FAILS = "fails"
    """The session does not start, or the run stops."""
    WRONG = "wrong"
    """Results differ, and nothing says so."""
    UNORDERED = "unordered"
    """Right, but sums may round differently from run to run."""
    COPIES = "copies"
    """Right, but the node runs elsewhere: tensors are copied there and back."""


@dataclass(frozen=True)
class Problem:
    """A node (or, without a name, the file) that a provider cannot run as it stands."""

    op: str
    name: str
    effect: Effect
    reason: str

    def __str__(self) -> str:
        return f"{self.op} at {self.name!r} {self.effect}: {self.reason}"


@dataclass(frozen=True)
class Seen:
    """A node with what the limits ask about it."""

    node: onnx.NodeProto
    attrs: Mapping[str, Any]
    dims: Mapping[str, tuple[int, ...]]
    opset: int

    @property
    def weight(self) -> tuple[int, ...]:
        """Sizes of the second input, or () where the file does not state them."""
        return self.dims.get(self.node.input[1], ()) if len(self.node.input) > 1 else ()

    @property
    def uneven(self) -> bool:
        pads = list(self.attrs.get("pads", ()))
        return pads[: len(pads) // 2] != pads[len(pads) // 2 :]

    @property
    def adds(self) -> bool:
        return bool(self.attrs.get("reduction", b"none") != b"none")


@dataclass(frozen=True)
class Limit:
    ops: frozenset[str]
    effect: Effect
    reason: str
    when: Callable[[Seen], bool]


def _always(seen: Seen) -> bool:
    return True


def _limit(ops: str, effect: Effect, reason: str, when: Callable[[Seen], bool] = _always) -> Limit:
    return Limit(frozenset(ops.split()), effect, reason, when)


def _indices(seen: Seen) -> bool:
    return len(seen.node.output) > 1 and bool(seen.node.output[1])


def _dilated_behind_pads(seen: Seen) -> bool:
    pads = list(seen.attrs.get("pads", ()))
    return max(seen.attrs.get("dilations", (1,)), default=1) > 1 and any(pads[: len(pads) // 2])


def _even_to_one(seen: Seen) -> bool:
    group = int(seen.attrs.get("group", 1))
    known = len(seen.weight) > 2
    return group > 1 and known and seen.weight[1] == 1 and (seen.weight[0] // group) % 2 == 0


def _many_to_each(seen: Seen) -> bool:
    group = int(seen.attrs.get("group", 1))
    return group > 1 and len(seen.weight) > 2 and seen.weight[0] // group > 4 and seen.weight[1] == 1


ELSEWHERE = "the provider has no kernel for it"
NO_REDUCTION = (
    "TensorRT's scatter overwrites: older parsers drop the reduction, newer ones leave the node out"
)

LIMITS: Mapping[str, tuple[Limit, ...]] = {
    "cuda": (
        _limit("MaxUnpool Sinh Cosh Tan LpPool GlobalLpPool", Effect.COPIES, ELSEWHERE),
        _limit("ScatterElements ScatterND", Effect.UNORDERED, "it adds by atomics", lambda s: s.adds),
        _limit("ConvTranspose", Effect.COPIES, "its pads are uneven", lambda s: s.uneven),
        _limit(
            "MaxPool",
            Effect.WRONG,
            "dilation behind padding (microsoft/onnxruntime#29637)",
            _dilated_behind_pads,
        ),
        _limit(
            "Resize",
            Effect.COPIES,
            "opset 19 and later (before microsoft/onnxruntime#27415)",
            lambda s: s.opset >= 19,
        ),
    ),
    "tensorrt": (
        _limit("MaxUnpool Compress Det MaxRoiPool Multinomial Unique", Effect.COPIES, ELSEWHERE),
        _limit("MaxPool", Effect.COPIES, "TensorRT has no Indices", _indices),
        _limit("ScatterElements ScatterND", Effect.WRONG, NO_REDUCTION, lambda s: s.adds),
    ),
    "web": (
        _limit("MaxPool", Effect.FAILS, "WebGPU has no Indices", _indices),
        _limit("ConvTranspose", Effect.FAILS, "WebGPU has it up to rank 4", lambda s: len(s.weight) > 4),
        _limit(
            "ConvTranspose",
            Effect.WRONG,
            "WebGPU errs with an even number of channels to one in a group",
            _even_to_one,
        ),
        _limit("Conv", Effect.WRONG, "WebGPU errs with many outputs a group", _many_to_each),
        _limit(
            "MaxUnpool OneHot SpaceToDepth Or Xor Sign Round IsNaN Size ConstantOfShape LRN LpPool Mod EyeLike "
            "GroupNormalization LogSoftmax Col2Im NonZero Unique QuantizeLinear Attention Loop Scan",
            Effect.COPIES,
            ELSEWHERE,
        ),
    ),
    "cpu": (),
    "portable": (),
}
WIDE: Mapping[str, tuple[Effect, str]] = {
    "web": (Effect.FAILS, "WebGPU has no float64"),
    "tensorrt": (Effect.WRONG, "TensorRT computes float64 as float32"),
}
"""What float64 tensors come to."""


def vet_ops(model: onnx.ModelProto, provider: str) -> list[Problem]:
    """Every node of an emitted model, those of loops' bodies too, against the known limits of a provider: cuda,
    tensorrt, web; none for cpu and portable. An empty list is no promise: only known limits are looked up. Raises
    OptionError for an unknown provider."""
    if provider not in LIMITS:
        known = ", ".join(LIMITS)
        raise OptionError(f"no operator limits for {provider!r}{nearest(provider, LIMITS)}; known: {known}")
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    graphs = list(_graphs(model.graph))
    dims = {tensor.name: tuple(tensor.dims) for graph in graphs for tensor in graph.initializer}
    found: list[Problem] = []
    if provider in WIDE and any(_is_double(graph) for graph in graphs):
        found.append(Problem("float64", "", *WIDE[provider]))
    for node in (node for graph in graphs for node in graph.node):
        seen = Seen(node, attributes(node), dims, opset)
        found += [
            Problem(node.op_type, node.name, limit.effect, limit.reason)
            for limit in LIMITS[provider]
            if node.op_type in limit.ops and limit.when(seen)
        ]
    return found


def told(problems: Sequence[Problem]) -> list[str]:
    """One line an operator and reason, with the nodes that it is about."""
    names: dict[tuple[str, Effect, str], list[str]] = {}
    for problem in problems:
        names.setdefault((problem.op, problem.effect, problem.reason), []).append(repr(problem.name))
    return [
        f"{op} at {', '.join(at[:2])}{f' and {len(at) - 2} more' if len(at) > 2 else ''} {effect}: {reason}"
        for (op, effect, reason), at in names.items()
    ]


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for attribute in (attribute for node in graph.node for attribute in node.attribute):
        for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            yield from _graphs(inner)


def _is_double(graph: onnx.GraphProto) -> bool:
    values = (*graph.input, *graph.output)
    stated = any(value.type.tensor_type.elem_type == TensorProto.DOUBLE for value in values)
    return stated or any(tensor.data_type == TensorProto.DOUBLE for tensor in graph.initializer)
