"""What a graph computes and moves, counted from its shapes before anything runs: FLOPs, bytes, floors of its time.

FLOPs. One multiply-add is 2 FLOPs. With y the output, x the input, W the weight, # the number of elements:
Conv #y · #W[0], ConvTranspose #x · #W[0], Gemm and MatMul #y · K, Einsum of two operands the product of its letters, in
multiply-adds; a bias starts the sum and costs none, padded zeros are multiplied as kernels do. The rest is counted by
elements: a pool #y times its window, a reduction #x, softmax 5 #y (maximum, difference, exponential, sum, quotient), a
norm 7 #y, BatchNormalization 2 #y, any other operator #y (an exponential is one operation as an addition is), and
moving data nothing.

Bytes. A node reads its inputs and writes its outputs; views (Reshape, Identity, ...) move nothing, what picks (Slice,
Gather) reads as much as it gives. Constants are counted apart. What depends on constants alone (flipped kernels) is
computed when the file is loaded, and costs nothing.

Kernels. A runtime fuses operators. What it has to move is counted with a fusion that is hard to beat without running
one convolution inside another: an elementwise operator of one variable input is computed again wherever its result is
read, and costs nothing; one of several inputs runs in the kernel that makes the last of them; all others start a
kernel. A kernel reads each tensor that others made once, its constants once, and writes what others read.

A Loop is counted trip by trip (its first, its last, and those between as the second one is), where the number of trips
follows from the sizes; no condition ends it before. Of the branches of an If the one with more FLOPs is counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import onnx
from onnx import numpy_helper

from .arithmetic import PICKS, work_of
from .draft import Draft, captured
from .memory import VIEWS, body_of, bytes_of, fed_shapes, lightened
from .passes.functions import inline
from .passes.shapes import TensorType
from .sizes import settled

MOVED = VIEWS | {"Shape", "Size"}
"""Operators that move no data."""
POINTWISE = frozenset(
    "Abs Acos Acosh Add And Asin Asinh Atan Atanh BatchNormalization BitShift BitwiseAnd BitwiseNot BitwiseOr "
    "BitwiseXor Cast CastLike Ceil Celu Clip Cos Cosh DequantizeLinear Div Elu Equal Erf Exp Floor Gelu Greater "
    "GreaterOrEqual HardSigmoid HardSwish IsInf IsNaN LeakyRelu Less LessOrEqual Log Max Mean Min Mish Mod Mul Neg "
    "Not Or PRelu Pow QuantizeLinear Reciprocal Relu Round Selu Sigmoid Sign Sin Sinh Softplus Softsign Sqrt Sub Sum "
    "Tan Tanh ThresholdedRelu Where Xor".split()
)


@dataclass(frozen=True)
class NodeCost:
    """One node, all its trips together. macs: multiply-adds of a weighted operator, which are 2 FLOPs each. read,
    written, weights: bytes of the variable inputs, the outputs and the constants."""

    name: str
    op: str
    flops: int = 0
    read: int = 0
    written: int = 0
    weights: int = 0
    macs: int = 0

    def plus(self, other: NodeCost, times: int = 1) -> NodeCost:
        fields = ("flops", "read", "written", "weights", "macs")
        return replace(self, **{key: getattr(self, key) + times * getattr(other, key) for key in fields})


@dataclass(frozen=True)
class Kernel:
    """Operators that run as one: multiply-adds and bytes of one run, and how often it runs."""

    macs: int
    bytes: int
    times: int = 1


@dataclass(frozen=True)
class Cost:
    """Of a graph at given sizes. unknown: nodes that are not counted in full, and why."""

    nodes: tuple[NodeCost, ...]
    kernels: tuple[Kernel, ...]
    unknown: tuple[str, ...] = ()

    @property
    def flops(self) -> int:
        return sum(node.flops for node in self.nodes)

    @property
    def weighted(self) -> int:
        """FLOPs of convolutions and matrix products alone."""
        return 2 * sum(node.macs for node in self.nodes)

    @property
    def read(self) -> int:
        return sum(node.read for node in self.nodes)

    @property
    def written(self) -> int:
        return sum(node.written for node in self.nodes)

    @property
    def weights(self) -> int:
        return sum(node.weights for node in self.nodes)

    @property
    def traffic(self) -> int:
        """Bytes that the kernels move."""
        return sum(kernel.bytes * kernel.times for kernel in self.kernels)


@dataclass(frozen=True)
class Floor:
    """An explanation (which contains its forward pass) over the forward pass alone; see `floor`."""

    arithmetic: float
    traffic: float


def count(model: onnx.ModelProto, batch: int = 1, sizes: Mapping[str, int] | None = None) -> Cost:
    """The cost of one run of a model, an ordinary one or an emitted explanation; see the module for what is counted.

    sizes: symbol -> size; an unnamed dimension is called `input[axis]` (`rewriter.memory.dimensions`). Symbols of a
    first axis that are not given stand for the batch. Raises OptionError for a symbol of another axis without a size;
    ModelError when the shapes do not fit together.
    """
    work = lightened(model)
    inline(work)
    return _Counter.of(work, fed_shapes(work.model, batch, sizes or {})).cost()


def floor(
    model: onnx.ModelProto,
    explanation: onnx.ModelProto,
    batch: int = 1,
    sizes: Mapping[str, int] | None = None,
) -> Floor:
    """What an explanation cannot do without, as a multiple of its model's forward pass.

    arithmetic: FLOPs of the convolutions and matrix products of the explanation over those of the model. A gradient has
    about 2: each has a data gradient of equal size, and none for the weights (a flipped kernel over a small picture
    without padding takes more, for it multiplies zeros around it). It is what the time ratio comes to where both run
    at the same FLOPs a second.
    traffic: bytes that the kernels of the explanation move over those of the model (see the module): every activation
    that the backward pass reads again, every cotangent. It is the ratio where the memory limits both.
    Infinite where the model has nothing of the kind and the explanation has, 1 where neither has. Raises as `count`.
    """
    own, whole = count(model, batch, sizes), count(explanation, batch, sizes)
    return floor_of(own, whole)


def floor_of(forward: Cost, explanation: Cost) -> Floor:
    """`floor` of graphs that are counted already."""
    return Floor(_over(explanation.weighted, forward.weighted), _over(explanation.traffic, forward.traffic))


def roofline(cost: Cost, peak: float, bandwidth: Callable[[float], float]) -> float:
    """The least seconds a machine can take: Σ over kernels of max(2 macs / peak, bytes / bandwidth).

    peak: FLOPs a second of the fastest matrix product; bandwidth: bytes that a kernel moves -> bytes a second (caches
    make small ones fast). Kernels run one after another; starting them takes no time. An algorithm with fewer
    multiplications (Winograd) can go below.
    """
    return sum(
        kernel.times * max(2 * kernel.macs / peak, kernel.bytes / bandwidth(kernel.bytes))
        for kernel in cost.kernels
        if kernel.bytes
    )


def _over(a: int, b: int) -> float:
    if b:
        return a / b
    return math.inf if a else 1.0


@dataclass
class _Draws:
    """A kernel that is being put together: multiply-adds, bytes of its constants, root tensor -> bytes read."""

    macs: int = 0
    weights: int = 0
    reads: dict[str, int] = field(default_factory=dict)


@dataclass
class _Counter:
    """Of one graph at given shapes. The root of a tensor is what it is a view of, or computed from again."""

    types: dict[str, TensorType]
    constants: set[str]
    nodes: dict[str, NodeCost] = field(default_factory=dict)
    unknown: dict[str, str] = field(default_factory=dict)
    kernels: list[Kernel] = field(default_factory=list)
    _open: list[_Draws] = field(default_factory=list)
    _root: dict[str, str] = field(default_factory=dict)
    _maker: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, source: Draft, shapes: Mapping[str, tuple[int, ...]]) -> _Counter:
        work, types = settled(source, shapes)
        made = cls(types, work.constants())
        read_outside = {value.name for value in work.graph.output}
        for node in work.graph.node:
            if not made._folds(node):
                read_outside |= made._visit(node, work)
        made._close({made._root.get(name, name) for name in read_outside})
        return made

    def cost(self) -> Cost:
        return Cost(
            tuple(self.nodes.values()),
            tuple(self.kernels),
            tuple(f"{node}: {why}" for node, why in self.unknown.items()),
        )

    def _folds(self, node: onnx.NodeProto) -> bool:
        """Whether the runtime computes the node when it loads the file."""
        inner = any(attribute.HasField("g") for attribute in node.attribute)
        if inner or not node.input or not all(name in self.constants for name in node.input if name):
            return False
        self.constants.update(node.output)
        return True

    def _visit(self, node: onnx.NodeProto, work: Draft) -> set[str]:
        """Count a node. Returns the tensors that its subgraphs read."""
        if node.op_type == "Loop":
            self._loop(node, work)
        elif node.op_type == "If":
            counted = [_Counter.of(body_of(node, a.g, work, self.types), {}) for a in node.attribute]
            self._take(max(counted, key=lambda c: c.cost().flops), 1, node.output[0])
        else:
            self._complete(node)
            own = self._node(node)
            self.nodes[node.output[0]] = own
            self._place(node, own)
            return set()
        return captured(node) | set(node.input)

    def _node(self, node: onnx.NodeProto) -> NodeCost:
        name = node.name or node.output[0]
        if node.op_type in MOVED:
            return NodeCost(name, node.op_type)
        given = dict.fromkeys(filter(None, node.input))
        read = sum(self._size(x) for x in given if x not in self.constants)
        weights = sum(self._size(x) for x in given if x in self.constants)
        written = sum(self._size(y) for y in node.output if y)
        if node.op_type in PICKS:
            read, weights = min(read, written), min(weights, written)
        work = work_of(node, self._shape)
        if work.unknown:
            self._not(node, work.unknown)
        return NodeCost(name, node.op_type, work.flops, read, written, weights, work.macs)

    def _place(self, node: onnx.NodeProto, own: NodeCost) -> None:
        """Find the kernel that the node runs in."""
        roots = {
            self._root.get(x, x): self._size(self._root.get(x, x))
            for x in node.input
            if x and x not in self.constants
        }
        first, *others = node.output
        pointwise = node.op_type in POINTWISE
        again = pointwise and len(roots) == 1 and self._keeps(node, next(iter(roots)))
        if again or node.op_type in VIEWS:
            source = next(iter(roots)) if again else node.input[0]
            self._root[first] = self._root.get(source, source)
        if again or node.op_type in MOVED:
            return
        k = max((self._maker.get(root, -1) for root in roots), default=-1) if pointwise else -1
        if k < 0:
            k = len(self._open)
            self._open.append(_Draws())
        kernel = self._open[k]
        kernel.macs += own.macs
        kernel.weights += own.weights
        for root, size in roots.items():
            if self._maker.get(root) != k:
                kernel.reads[root] = min(size, own.written) if node.op_type in PICKS else size
        self._maker |= {name: k for name in (first, *others) if name}

    def _keeps(self, node: onnx.NodeProto, root: str) -> bool:
        """Whether the node has as many elements as its input; what quantizes is there to be read in its place."""
        sizes = [self._shape(name) for name in (root, node.output[0])]
        known = [math.prod(shape) for shape in sizes if shape is not None]
        return len(known) == 2 and known[0] == known[1] and node.op_type != "QuantizeLinear"

    def _close(self, outside: Iterable[str]) -> None:
        """Make kernels of what was put together."""
        needed = {root for kernel in self._open for root in kernel.reads} | set(outside)
        written = [0] * len(self._open)
        for name, k in self._maker.items():
            written[k] += self._size(name) if name in needed else 0
        for kernel, size in zip(self._open, written, strict=True):
            self.kernels.append(Kernel(kernel.macs, sum(kernel.reads.values()) + kernel.weights + size))

    def _loop(self, node: onnx.NodeProto, work: Draft) -> None:
        graph = next(attribute.g for attribute in node.attribute if attribute.name == "body")
        tensor = work.light().get(node.input[0])
        trips = None if tensor is None else int(numpy_helper.to_array(tensor).item())
        if trips is None:
            self._not(node, "the number of its trips is not known; one is counted")
        last = (trips or 0) - 1
        kinds = {1: 1} if trips is None else {i: 1 for i in (0, 1, last) if 0 <= i <= last}
        if last > 2:
            kinds[1] = last - 1
        for trip, times in kinds.items():
            body = body_of(node, graph, work, self.types)
            number = body.light()[graph.input[0].name]
            number.CopyFrom(numpy_helper.from_array(np.asarray(trip, np.int64), number.name))
            inner = _Counter.of(body, {})
            self._take(inner, times, node.output[0])
            for own, name in zip(graph.output[1:], node.output[: len(node.input) - 2], strict=False):
                if self._shape(name) is None and own.name in inner.types:
                    self.types[name] = inner.types[own.name]

    def _take(self, inner: _Counter, times: int, scope: str) -> None:
        for name, own in inner.nodes.items():
            key = f"{scope}/{name}"
            self.nodes[key] = self.nodes.get(key, NodeCost(own.name, own.op)).plus(own, times)
        self.kernels += [replace(kernel, times=kernel.times * times) for kernel in inner.kernels]
        self.unknown |= inner.unknown

    def _complete(self, node: onnx.NodeProto) -> None:
        """A sum that a loop carries starts as a number, and is then as large as what is added to it."""
        y = node.output[0]
        if bytes_of(self.types.get(y)) is not None:
            return
        known = [self.types[x] for x in node.input if bytes_of(self.types.get(x)) is not None]
        if node.op_type in POINTWISE and known:
            self.types[y] = max(known, key=lambda t: bytes_of(t) or 0)
        elif node.op_type not in MOVED:
            self._not(node, "the size of its output is not known")

    def _not(self, node: onnx.NodeProto, why: str) -> None:
        self.unknown.setdefault(f"{node.op_type} at {node.name or node.output[0]!r}", why)

    def _shape(self, name: str) -> tuple[int, ...] | None:
        known = self.types.get(name)
        if known is None or known.shape is None:
            return None
        sizes = tuple(dim for dim in known.shape if isinstance(dim, int))
        return sizes if len(sizes) == len(known.shape) else None

    def _size(self, name: str) -> int:
        return bytes_of(self.types.get(name)) or 0


__all__ = ["Cost", "Floor", "Kernel", "NodeCost", "count", "floor", "floor_of", "roofline"]
