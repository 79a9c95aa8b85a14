"""How much memory a graph will take in onnxruntime, computed from its shapes before anything runs.

Weights: every convolution and matrix product keeps a packed copy of its own of the constants that it reads (blocked
layout, panels of MLAS), so a weight that the backward pass reads too counts twice; what is computed from constants
alone (flipped kernels) is folded at load and counts as a constant. Working memory: a tensor lives from the node that
makes it to the last node that reads it; views share the memory of what they view, pointwise operators write over an
input that ends there. The peak is the largest sum over the nodes in the order of the file. The body of a loop counts
once, with the lanes of a trip.

Not counted: the arrays that are fed, what the allocator rounds up, and what the program and every session take (10 to
30 MB). Measured memory over the estimate (CPU, one thread, batches of 1 and 8, without onnxruntime's memory pattern):
saliency 1.01 to 1.23, LRP epsilon 1.01 to 1.28, integrated gradients in a loop 1.1 to 1.35, the forward pass alone 1.05
to 1.7, of EfficientNet-Lite0, ResNet-50 and VGG-16. With the memory pattern the working part is up to twice as large.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from .draft import Draft, captured, heavy
from .errors import OptionError
from .passes.constants import fold, fold_sizes
from .passes.shapes import UNKNOWN, TensorType, infer, set_shape, tensor_type

SAMPLED = frozenset({("noise", "samples"), ("references", "M")})
"""Inputs (and their first axis) that hold samples and not rows; 64 of them are assumed, the most that a trip takes."""

MANY = "K"
"""What an emitted file calls the rows of a cotangent, wherever their axis is."""

VIEWS = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout"})
POINTWISE = frozenset(
    "Abs Add BatchNormalization Ceil Clip Div Elu Erf Exp Floor HardSigmoid HardSwish LeakyRelu Log Mul Neg Pow "
    "Reciprocal Relu Selu Sigmoid Sign Softplus Sqrt Sub Sum Tanh".split()
)
"""Written over an input that ends there; BatchNormalization is folded into the convolution before it."""
PACKED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})


@dataclass(frozen=True)
class Memory:
    """Bytes: of the weights, of each row of the batch, and of what is there once whatever the batch. unknown: tensors
    whose size no inference tells; they are not counted."""

    weights: int
    per_row: int
    fixed: int
    unknown: tuple[str, ...] = ()

    def at(self, rows: int) -> int:
        """Bytes for a batch of that many rows."""
        return self.weights + self.fixed + self.per_row * rows

    def rows(self, budget: int) -> int:
        """The largest batch within a budget; 0 when not even one row fits."""
        room = budget - self.weights - self.fixed
        return max(0, room // max(1, self.per_row))


def estimate(model: onnx.ModelProto, batch: int = 1, sizes: Mapping[str, int] | None = None) -> Memory:
    """The memory of a model: exact in the shapes at 1 row and at `batch` rows, a straight line in between (which
    over-estimates there, as the peak is the largest of several lines).

    sizes: symbol -> size; an unnamed dimension is called by `dimensions`. Symbols of a first axis that are not
    given stand for the batch. Raises OptionError for a symbol of another axis without a size, and for a batch below
    1; ModelError when the shapes do not fit together.
    """
    if batch < 1:
        raise OptionError(f"batch is {batch}; it must be at least 1")
    return _line(lightened(model), batch, sizes or {})


def dimensions(model: onnx.ModelProto) -> dict[str, tuple[int | str, ...]]:
    """The shape of every input; an unnamed dimension is called `input[axis]`."""
    parameters = {tensor.name for tensor in model.graph.initializer}
    return {x.name: _named(x) for x in model.graph.input if x.name not in parameters}


AUTO_LANES = (2, 4)
"""Samples a trip, for large networks and for small ones."""
SMALL = 2**20
"""Bytes of working memory of one row below which a network is small: its time goes into starting operators."""


def choose_lanes(
    inner: onnx.ModelProto,
    weights: Mapping[str, TensorProto],
    *,
    budget: int | None = None,
    sizes: Mapping[str, int] | None = None,
) -> int:
    """Samples of a trip of the loop around the graph `inner`, whose large weights are apart.

    Measured (integrated gradients in the loop, 1 thread, process time of 1, 2, 4 and 8 lanes relative to the best):
    LeNet 1.15 1.05 1.00 1.00, MobileNetV2 1.04 1.00 1.04 1.15, EfficientNet-Lite0 1.02 1.00 1.04 1.08, ResNet-50
    1.01 1.01 1.00 1.03. So 2 for large networks, 4 for small ones; more take memory and no less time.

    budget: bytes that must hold the weights and the lanes of one row of the batch. Raises OptionError when one lane
    does not fit, or when sizes that the file leaves open keep it from being computed.
    """
    work = Draft(_copied(inner), dict(weights))
    try:
        memory = _line(work, max(AUTO_LANES), sizes or {})
    except OptionError:
        if budget is not None:
            raise
        return AUTO_LANES[0]  # sizes are only known when it runs
    wanted = AUTO_LANES[1] if memory.per_row < SMALL else AUTO_LANES[0]
    if budget is None:
        return wanted
    fitting = memory.rows(budget)
    if not fitting:
        raise OptionError(
            f"memory={budget}: one sample takes about {memory.at(1)} bytes, {memory.weights} of them weights; give more"
        )
    return min(wanted, fitting)


def _line(work: Draft, batch: int, sizes: Mapping[str, int]) -> Memory:
    many = max(batch, 2)
    one, more = (_Count.of(work, fed_shapes(work.model, rows, sizes)) for rows in (1, many))
    slope = max(0, -(-(more.peak - one.peak) // (many - 1)))
    return Memory(one.weights, slope, max(0, one.peak - slope), tuple(one.unknown))


def _named(x: onnx.ValueInfoProto) -> tuple[int | str, ...]:
    shape = tensor_type(x).shape or ()
    return tuple(f"{x.name}[{i}]" if dim is None else dim for i, dim in enumerate(shape))


def fed_shapes(model: onnx.ModelProto, batch: int, sizes: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    found = {}
    for name, dims in dimensions(model).items():
        found[name] = tuple(_size(dim, axis, name, batch, sizes) for axis, dim in enumerate(dims))
    return found


def _size(dim: int | str, axis: int, name: str, batch: int, sizes: Mapping[str, int]) -> int:
    if isinstance(dim, int):
        return dim
    if dim in sizes:
        return sizes[dim]
    if axis == 0 or dim == MANY:
        return 64 if (name.split("/")[0], dim) in SAMPLED else batch
    raise OptionError(f"input {name!r}: the size {dim!r} of axis {axis} is free; give it, {{{dim!r}: ...}}")


def _copied(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def lightened(model: onnx.ModelProto) -> Draft:
    """The model with the data of its heavy weights left out, also those in subgraphs: they are then read from
    outside."""
    weights: dict[str, TensorProto] = {}
    light = onnx.ModelProto(ir_version=model.ir_version)
    light.opset_import.extend(model.opset_import)
    light.functions.extend(model.functions)
    light.graph.CopyFrom(_light_graph(model.graph, weights))
    return Draft(light, weights)


def _light_graph(graph: onnx.GraphProto, weights: dict[str, TensorProto]) -> onnx.GraphProto:
    parameters = {tensor.name for tensor in graph.initializer}
    copy = onnx.GraphProto(name=graph.name)
    copy.input.extend(x for x in graph.input if x.name not in parameters)
    copy.output.extend(graph.output)
    for tensor in graph.initializer:
        if heavy(tensor):
            weights[tensor.name] = TensorProto(name=tensor.name, dims=tensor.dims, data_type=tensor.data_type)
        else:
            copy.initializer.append(tensor)
    for node in graph.node:
        if not any(attribute.HasField("g") for attribute in node.attribute):
            copy.node.append(node)
            continue
        made = copy.node.add(op_type=node.op_type, name=node.name, domain=node.domain)
        made.input.extend(node.input)
        made.output.extend(node.output)
        for attribute in node.attribute:
            if attribute.HasField("g"):
                inner = _light_graph(attribute.g, weights)
                made.attribute.append(helper.make_attribute(attribute.name, inner))
            else:
                made.attribute.append(attribute)
    return copy


def bytes_of(known: TensorType | None) -> int | None:
    """None when the size is not known."""
    if known is None or known.shape is None or known.dtype is None:
        return None
    sizes = [dim for dim in known.shape if isinstance(dim, int)]
    return None if len(sizes) != len(known.shape) else math.prod(sizes) * known.dtype.itemsize


@dataclass
class _Count:
    """Of one graph at given shapes."""

    types: Mapping[str, TensorType]
    constants: set[str]
    weights: int = 0
    peak: int = 0
    unknown: list[str] = field(default_factory=list)
    _size: dict[int, int] = field(default_factory=dict)
    _left: dict[int, int] = field(default_factory=dict)
    _home: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, source: Draft, shapes: Mapping[str, tuple[int, ...]]) -> _Count:
        work = Draft(_copied(source.model), dict(source.weights))
        for value in work.graph.input:
            if value.name in shapes:
                set_shape(value, shapes[value.name])
        fold(work)
        types = infer(work)
        for _ in range(4):  # sizes that follow from sizes that follow from ...
            if not fold_sizes(work, types):
                break
            types = infer(work)
        return cls(types, work.constants())._counted(work)

    def _counted(self, work: Draft) -> _Count:
        nodes = [node for node in work.graph.node if not self._folds(node)]
        self._count_weights(nodes)
        last = _readers(nodes, (value.name for value in work.graph.output))
        held = 0
        for node in nodes:
            inner = self._inside(node, work)
            held += self._open(node, last)
            self.peak = max(self.peak, held + inner + self._workspace(node))
            held -= self._close(node, last)
        return self

    def _folds(self, node: onnx.NodeProto) -> bool:
        """Whether onnxruntime computes the node when it loads the file."""
        if not node.input or not all(name in self.constants for name in node.input if name):
            return False
        if any(attribute.HasField("g") for attribute in node.attribute):
            return False
        self.constants.update(node.output)
        return True

    def _count_weights(self, nodes: Iterable[onnx.NodeProto]) -> None:
        shared: set[str] = set()
        for node in nodes:
            for name in node.input:
                if name in self.constants and (node.op_type in PACKED or name not in shared):
                    self.weights += bytes_of(self.types.get(name)) or 0
                    shared.add(name)

    def _inside(self, node: onnx.NodeProto, work: Draft) -> int:
        """Bytes that the subgraphs of a node work with; their weights stay."""
        most = 0
        for attribute in node.attribute:
            if attribute.HasField("g"):
                body = body_of(node, attribute.g, work, self.types)
                inner = _Count.of(body, {})
                # onnxruntime keeps the body as it was read, besides the packed copies.
                own = sum(bytes_of(inner.types.get(name)) or 0 for name in body.weights)
                self.weights += inner.weights + own
                self.unknown += inner.unknown
                most = max(most, inner.peak)
        return most

    def _open(self, node: onnx.NodeProto, last: Mapping[str, int]) -> int:
        """Bytes that the outputs add."""
        added = 0
        for name in filter(None, node.output):
            source = self._reused(node, name, last)
            if source is None:
                source = len(self._size)
                size = bytes_of(self.types.get(name))
                if size is None:
                    self.unknown.append(name)
                self._size[source], self._left[source] = size or 0, 0
                added += self._size[source]
            self._home[name] = source
            self._left[source] += last.get(name, 0)
        return added

    def _reused(self, node: onnx.NodeProto, name: str, last: Mapping[str, int]) -> int | None:
        """The memory of an input, where the output takes it over."""
        if node.op_type in VIEWS and name == node.output[0]:
            return self._home.get(node.input[0])
        if node.op_type not in POINTWISE or name != node.output[0]:
            return None
        for x in node.input:
            home = self._home.get(x)
            ends = home is not None and self._left[home] == list(node.input).count(x)
            if home is not None and ends and self._size[home] == bytes_of(self.types.get(name)):
                return home
        return None

    def _close(self, node: onnx.NodeProto, last: Mapping[str, int]) -> int:
        """Bytes that end with this node: inputs read for the last time, outputs that nobody reads."""
        touched = {
            self._home[name] for name in (*node.input, *captured(node), *node.output) if name in self._home
        }
        for name in _reads(node):
            if name in self._home:
                self._left[self._home[name]] -= 1
        gone = [home for home in touched if self._left[home] <= 0]
        freed = sum(self._size[home] for home in gone)
        for home in gone:
            self._size[home] = 0
        return freed

    def _workspace(self, node: onnx.NodeProto) -> int:
        """ConvTranspose multiplies first and adds up the columns after: kernel × output channels of a group, for every
        position of one sample."""
        if node.op_type != "ConvTranspose":
            return 0
        x, w = (self.types.get(name) for name in node.input[:2])
        if x is None or w is None or not x.shape or not w.shape or x.dtype is None:
            return 0
        sizes = (*x.shape[2:], *w.shape[1:])
        known = [dim for dim in sizes if isinstance(dim, int)]
        return math.prod(known) * x.dtype.itemsize if len(known) == len(sizes) else 0


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    yield from filter(None, node.input)
    yield from captured(node)


def _readers(nodes: Iterable[onnx.NodeProto], outputs: Iterable[str]) -> dict[str, int]:
    """How often each tensor is read; an output of the graph is read at the end too."""
    counts: dict[str, int] = {}
    for name in (*(name for node in nodes for name in _reads(node)), *outputs):
        counts[name] = counts.get(name, 0) + 1
    return counts


def body_of(
    node: onnx.NodeProto, graph: onnx.GraphProto, work: Draft, types: Mapping[str, TensorType]
) -> Draft:
    """A subgraph as a model: what it reads from outside becomes inputs, or constants where they are known. A Loop is
    in its trip number 1, the first one that has all its lanes."""
    model = onnx.ModelProto(ir_version=work.model.ir_version)
    model.opset_import.extend(work.model.opset_import)
    model.functions.extend(work.model.functions)
    model.graph.CopyFrom(graph)
    del model.graph.input[:]
    if node.op_type == "Loop":
        fixed = (np.asarray(1, np.int64), np.asarray(True))
        for x, value in zip(graph.input, fixed, strict=False):
            model.graph.initializer.append(numpy_helper.from_array(value, x.name))
        model.graph.input.extend(_states(graph.input[2:], node.input[2:], types))
    elif node.op_type == "Scan":
        model.graph.input.extend(graph.input)
    light, weights = work.light(), {}
    for name in sorted(captured(node)):
        if name in work.weights:
            weights[name] = work.weights[name]
        elif name in light:
            model.graph.initializer.append(light[name])
        elif types.get(name, UNKNOWN) != UNKNOWN:
            model.graph.input.append(_info(name, types[name]))
    return Draft(model, weights)


def _states(
    inside: Iterable[onnx.ValueInfoProto], outside: Iterable[str], types: Mapping[str, TensorType]
) -> Iterator[onnx.ValueInfoProto]:
    """What a loop carries: of the type that enters it first. A scalar may be what a sum starts with: its shape is left
    open."""
    for x, name in zip(inside, outside, strict=False):
        own, first = tensor_type(x), types.get(name, UNKNOWN)
        shape = own.shape if own.shape is not None else first.shape or None
        yield _info(x.name, TensorType(own.dtype if own.dtype is not None else first.dtype, shape))


def _info(name: str, known: TensorType) -> onnx.ValueInfoProto:
    element = TensorProto.UNDEFINED if known.dtype is None else helper.np_dtype_to_tensor_dtype(known.dtype)
    return helper.make_tensor_value_info(name, element, known.shape)


__all__ = ["AUTO_LANES", "MANY", "Memory", "choose_lanes", "dimensions", "estimate"]
