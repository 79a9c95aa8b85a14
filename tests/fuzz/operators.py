"""A way to draw each operator with a gradient rule: (graph so far) -> a new node; ValueError where none fits."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tests.fuzz.growing import Array, Growing, one

Grow = Callable[[Growing], str]

PLAIN = (
    "Relu LeakyRelu Sigmoid Tanh Softplus Softsign Elu Celu Selu HardSigmoid HardSwish Mish Gelu Erf Exp Abs Neg Sin "
    "Cos Atan Asinh Sinh Cosh ThresholdedRelu Shrink Identity Floor Sign Round Ceil"
).split()
BOUNDED = "Asin Acos Atanh Tan".split()
POSITIVE = "Log Sqrt Reciprocal".split()
REDUCED = "Sum Mean L1 L2 SumSquare LogSumExp Prod Max Min LogSum".split()


def _deep(array: Array) -> bool:
    return array.ndim >= 2


def _picture(array: Array) -> bool:
    return 3 <= array.ndim <= 5 and min(array.shape[2:]) >= 2


def _inner(g: Growing, x: str) -> int:
    """An axis; rarely that of the samples."""
    rank = g.value(x).ndim
    low = 1 if rank > 1 and g.draw.random() < 0.95 else 0
    axis = int(g.draw.integers(low, rank))
    return axis - rank if g.draw.random() < 0.3 else axis


def _positive(g: Growing, x: str) -> str:
    if g.value(x).min() > 0.05:
        return x
    return g.add("Add", g.add("Mul", x, x), g.weight([0.5]))


def _plain(op: str) -> Grow:
    return lambda g: g.add(op, g.some())


def _within(op: str) -> Grow:
    return lambda g: g.add(op, g.add("Mul", g.add("Tanh", g.some()), g.weight(0.8)))


def _above(op: str) -> Grow:
    return lambda g: g.add(op, _positive(g, g.some()))


def _reduced(op: str) -> Grow:
    def grow(g: Growing) -> str:
        x = g.some(_deep)
        if op == "LogSum":
            x = _positive(g, x)
        return g.add(f"Reduce{op}", x, g.weight([_inner(g, x)], np.int64), keepdims=int(g.draw.integers(2)))

    return grow


def _pair(op: str) -> Grow:
    """A second operand: the tensor itself, another that broadcasts, or a constant."""

    def grow(g: Growing) -> str:
        x = g.some()
        shape = g.value(x).shape
        kind = int(g.draw.integers(4))
        if kind == 0:
            y = g.normal(*shape[int(g.draw.integers(1, len(shape) + 1)) :])
        else:
            y = g.some(lambda v: _broadcasts(shape, v.shape))
        if op == "Div":
            y = _positive(g, y)
        if op == "Pow":
            x, y = _positive(g, x), g.weight(one((2.0, 0.5, -1.0, 3.0), g.draw)) if kind else y
        if op == "Mod":
            return g.add(op, x, g.weight(np.full(shape[-1:], 1.7)), fmod=1)
        return g.add(op, *((y, x) if g.draw.random() < 0.3 and op != "Pow" else (x, y)))

    return grow


def _broadcasts(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    try:
        np.broadcast_shapes(a, b)
    except ValueError:
        return False
    return a[0] == b[0] if len(a) == len(b) else True


def clip(g: Growing) -> str:
    return g.add("Clip", g.some(), g.weight(-0.7), g.weight(0.9))


def prelu(g: Growing) -> str:
    x = g.some()
    return g.add("PRelu", x, g.weight(g.draw.uniform(0.1, 0.5, g.value(x).shape[-1:])))


def where(g: Growing) -> str:
    x = g.some()
    y = g.some(lambda v: v.shape == g.value(x).shape)
    return g.add("Where", g.add("Greater", x, g.weight(0.1)), g.add("Mul", x, x), y)


def matmul(g: Growing) -> str:
    x = g.some(_deep)
    return g.add("MatMul", x, g.normal(g.value(x).shape[-1], int(g.draw.integers(1, 5))))


def attention(g: Growing) -> str:
    x = g.some(lambda v: v.ndim == 3)
    scores = g.add("MatMul", x, g.add("Transpose", x, perm=[0, 2, 1]))
    return g.add("MatMul", g.add("Softmax", scores, axis=-1), x)


def gemm(g: Growing) -> str:
    x, out = g.some(lambda v: v.ndim == 2), int(g.draw.integers(1, 5))
    w = g.normal(out, g.value(x).shape[1])
    return g.add("Gemm", x, w, g.normal(out), transB=1, alpha=0.5, beta=2.0)


def einsum(g: Growing) -> str:
    x = g.some(lambda v: v.ndim == 3)
    return g.add(
        "Einsum",
        x,
        g.normal(g.value(x).shape[2], 3),
        equation=one(("bij,jk->bik", "bij,jk->bki", "bij,jk->bk"), g.draw),
    )


def conv(g: Growing) -> str:
    x = g.some(_picture)
    shape = g.value(x).shape
    sides = [int(g.draw.integers(1, min(3, n) + 1)) for n in shape[2:]]
    grouped = g.draw.random() < 0.3
    w = g.normal(shape[1] if grouped else int(g.draw.integers(1, 4)), 1 if grouped else shape[1], *sides)
    stride = int(g.draw.integers(1, 3))
    return g.add("Conv", x, w, strides=[stride] * len(sides), group=shape[1] if grouped else 1,
                 pads=[int(g.draw.integers(0, k)) for k in sides] * 2)  # fmt: skip


def transposed(g: Growing) -> str:
    x = g.some(lambda v: _picture(v) and v.ndim == 4)
    return g.add(
        "ConvTranspose", x, g.normal(g.value(x).shape[1], 2, 2, 2), strides=[int(g.draw.integers(1, 3))] * 2
    )


def pool(g: Growing) -> str:
    x = g.some(_picture)
    rank = g.value(x).ndim - 2
    op = one(("MaxPool", "AveragePool"), g.draw)
    more = {"count_include_pad": int(g.draw.integers(2))} if op == "AveragePool" else {}
    return g.add(op, x, kernel_shape=[2] * rank, strides=[int(g.draw.integers(1, 3))] * rank,
                 pads=[int(g.draw.integers(2))] * 2 * rank, ceil_mode=int(g.draw.integers(2)), **more)  # fmt: skip


def whole_pool(g: Growing) -> str:
    return g.add(one(("GlobalAveragePool", "GlobalMaxPool"), g.draw), g.some(_picture))


def norm(g: Growing) -> str:
    kind = one(("Batch", "Instance", "Layer", "Group", "LRN", "MVN", "Lp"), g.draw)
    if kind in ("Layer", "Lp"):
        x = g.some(_deep)
        last = g.value(x).shape[-1]
        if kind == "Lp":
            return g.add("LpNormalization", x, axis=-1, p=2)
        return g.add("LayerNormalization", x, g.normal(last), g.normal(last), axis=-1)
    x = g.some(lambda v: 3 <= v.ndim <= 4 and v[0, 0].size > 2)
    c = g.value(x).shape[1]
    if kind == "Batch":
        return g.add(
            "BatchNormalization",
            x,
            g.normal(c),
            g.normal(c),
            g.normal(c),
            g.weight(g.draw.uniform(0.5, 2, c)),
        )
    if kind == "Instance":
        return g.add("InstanceNormalization", x, g.normal(c), g.normal(c))
    if kind == "Group":
        return g.add("GroupNormalization", x, g.normal(c), g.normal(c), num_groups=1)
    if kind == "MVN":
        return g.add("MeanVarianceNormalization", x, axes=list(range(2, g.value(x).ndim)))
    return g.add("LRN", x, size=3, alpha=0.1)


def softmax(g: Growing) -> str:
    x = g.some(_deep)
    return g.add(one(("Softmax", "LogSoftmax"), g.draw), x, axis=_inner(g, x))


def reshape(g: Growing) -> str:
    x = g.some(_deep)
    shape = g.value(x).shape
    kind = int(g.draw.integers(5))
    if kind == 0:
        return g.add("Flatten", x, axis=1)
    if kind == 1:
        return g.add("Unsqueeze", x, g.weight([int(g.draw.integers(1, len(shape) + 1))], np.int64))
    if kind == 2 and 1 in shape[1:]:
        return g.add("Squeeze", x, g.weight([shape.index(1, 1)], np.int64))
    if kind == 3 and len(shape) > 2:
        return g.add("Reshape", x, g.weight([0, -1, shape[1]], np.int64))
    return g.add("Reshape", x, g.weight([0, 1, -1], np.int64))


def transpose(g: Growing) -> str:
    x = g.some(_deep)
    rank = g.value(x).ndim
    return g.add("Transpose", x, perm=[0, *(1 + g.draw.permutation(rank - 1)).tolist()])


def expand(g: Growing) -> str:
    x = g.some(_deep)
    rank = g.value(x).ndim
    if g.draw.random() < 0.5:
        return g.add("Tile", x, g.weight([1, *g.draw.integers(1, 3, rank - 1)], np.int64))
    x = g.add("Unsqueeze", x, g.weight([1], np.int64))
    return g.add("Expand", x, g.weight([1, 3, *[1] * (rank - 1)], np.int64))


def concat(g: Growing) -> str:
    x = g.some(_deep)
    y = g.some(lambda v: v.shape == g.value(x).shape)
    return g.add("Concat", x, y, axis=_inner(g, x))


def split(g: Growing) -> str:
    x = g.some(lambda v: v.ndim >= 2 and v.shape[1] >= 2)
    return g.add("Split", x, axis=1, num_outputs=2, count=2)


def cut(g: Growing) -> str:
    x = g.some(_deep)
    axis = _inner(g, x)
    ends = one(((0, 2, 1), (-1, -(2**31), -1), (0, 2**31, 2), (-2, 2**31, 1)), g.draw)
    return g.add("Slice", x, *(g.weight([i], np.int64) for i in (ends[0], ends[1], axis, ends[2])))


def gather(g: Growing) -> str:
    x = g.some(_deep)
    axis = _inner(g, x)
    index = g.draw.integers(0, g.value(x).shape[axis], one(((), (2,), (3, 2)), g.draw))
    return g.add("Gather", x, g.weight(index, np.int64), axis=axis)


def elements(g: Growing) -> str:
    x = g.some(_deep)
    shape = g.value(x).shape
    if g.free and g.draw.random() < 0.8:
        first = g.add("TopK", x, g.weight([1], np.int64), axis=-1, count=2)
        return g.add("GatherElements", g.add("Tanh", x), first.replace("_0", "_1"), axis=-1)
    return g.add("GatherElements", x, g.weight(g.draw.integers(0, shape[-1], shape), np.int64), axis=-1)


def topk(g: Growing) -> str:
    x = g.some(lambda v: v.ndim >= 2 and v.shape[-1] >= 2)
    return g.add("TopK", x, g.weight([2], np.int64), axis=-1, largest=int(g.draw.integers(2)), count=2)


def pad(g: Growing) -> str:
    x = g.some(lambda v: v.ndim >= 2 and v.shape[-1] >= 2)
    rank = g.value(x).ndim
    widths = [*[0] * (rank - 1), 1, *[0] * (rank - 1), 1]
    return g.add(
        "Pad", x, g.weight(widths, np.int64), mode=one(("constant", "reflect", "edge", "wrap"), g.draw)
    )


def resize(g: Growing) -> str:
    x = g.some(lambda v: _picture(v) and v.ndim == 4)
    mode = one(("nearest", "linear", "cubic"), g.draw)
    place = one(("half_pixel", "asymmetric", "align_corners"), g.draw)
    scales = g.weight([1, 1, *one(((2, 2), (1.5, 1), (0.5, 2)), g.draw)])
    return g.add("Resize", x, "", scales, mode=mode, coordinate_transformation_mode=place)


def depth(g: Growing) -> str:
    if g.draw.random() < 0.5:
        x = g.some(lambda v: v.ndim == 4 and v.shape[1] % 4 == 0)
        return g.add("DepthToSpace", x, blocksize=2, mode=one(("DCR", "CRD"), g.draw))
    return g.add(
        "SpaceToDepth", g.some(lambda v: v.ndim == 4 and not any(n % 2 for n in v.shape[2:])), blocksize=2
    )


def running(g: Growing) -> str:
    x = g.some(_deep)
    axis = g.weight(_inner(g, x), np.int64)
    return g.add("CumSum", x, axis, exclusive=int(g.draw.integers(2)), reverse=int(g.draw.integers(2)))


def triangle(g: Growing) -> str:
    return g.add("Trilu", g.some(lambda v: v.ndim >= 3), upper=int(g.draw.integers(2)))


def mean(g: Growing) -> str:
    x = g.some()
    return g.add(
        one(("Mean", "Sum", "Max", "Min"), g.draw),
        x,
        g.some(lambda v: v.shape == g.value(x).shape),
        g.normal(1),
    )


GROW: tuple[Grow, ...] = (
    *map(_plain, PLAIN),
    *map(_within, BOUNDED),
    *map(_above, POSITIVE),
    *map(_reduced, REDUCED),
    *[_pair(op) for op in ("Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Mod")] * 2,
    *[clip, prelu, where, attention, gemm, einsum, whole_pool, softmax, triangle, mean, running, elements]
    * 2,
    *[matmul, conv, transposed, pool, norm, reshape, transpose, expand, concat, split, cut, gather, topk, pad]
    * 3,
    *[resize, depth] * 3,
)
