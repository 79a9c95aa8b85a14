"""The sound models that the fuzzer damages: small, and between them every construct that a file may hold."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.rewriter.nets import net
from tests.rules.node_cases import load_cases

GOLDEN = Path(__file__).parent.parent / "data" / "golden"
IMAGE = "g (float[N,2,6,6] x) => (float[N,M] y)"
ROWS = "g (float[N,4] x) => (float[N,M] y)"

FUNCTION = """
<domain: "own", opset_import: ["" : 18]>
leak <alpha: float = 0.25> (a) => (b) { b = LeakyRelu <alpha: float = @alpha> (a) }
<domain: "own", opset_import: ["" : 18, "own" : 1]>
twice (a) => (c) { b = own.leak <alpha = 0.5> (a) c = own.leak (b) }
"""

TEXTS = {
    "windows": IMAGE
    + """ <float[3,2,3,3] w, int64[2] s = {0, -1}> {
        a = Conv <auto_pad = "SAME_UPPER", strides = [2, 2]> (x, w)
        b = MaxPool <kernel_shape = [2, 2], ceil_mode = 1> (a)
        c = AveragePool <kernel_shape = [2, 2], pads = [1, 1, 1, 1], count_include_pad = 0> (b)
        d = LRN <size = 3> (c) e = GlobalAveragePool (d) y = Flatten (e) }""",
    "resizing": IMAGE
    + """ <float[4] k = {1, 1, 2, 1.5}, int64[2] z = {5, 7}, int64[8] p = {0, 0, 1, 2, 0, 0, 0, 1}> {
        a = Resize <mode = "linear"> (x, , k) b = Resize <mode = "nearest", axes = [2, 3]> (a, , , z)
        c = Pad <mode = "reflect"> (b, p) d = DepthToSpace <blocksize = 1> (c) y = Flatten (d) }""",
    "moving": ROWS
    + """ <int64[3] i = {0, 3, 1}, int64[1] zero = {0}, int64[1] one = {1}, int64[1] three = {3},
        int64[2] t = {1, 2}, int64[2] h = {2, 2}, int64[3] r = {0, 2, -1}, int64 k = {1}> {
        a = Gather <axis = 1> (x, i) b = Slice (x, zero, three, one) c = Concat <axis = 1> (a, b, x)
        d, e = Split <axis = 1, num_outputs = 2> (c) f = Tile (d, t) g1 = Reshape (f, r)
        q = Transpose <perm = [0, 2, 1]> (g1) u = Unsqueeze (q, one) v = Squeeze (u, one)
        w = CumSum (v, k) m, n = TopK <axis = -1> (w, one) o = Trilu (w) s = ReduceSum (o, one)
        y1 = Flatten (s) y2 = Concat <axis = 1> (y1, e) y3 = Expand (y2, one) y = Softmax <axis = -1> (y3) }""",
    "sizes": ROWS
    + """ <int64[1] minus = {-1}, int64[1] one = {1}, int64 zero = {0}, int64 s1 = {1}> {
        a = Shape (x) b = Gather (a, zero) c = Unsqueeze (b, minus) c1 = Unsqueeze (b, minus)
        d = Concat <axis = 0> (c, minus, one) e = Reshape (x, d)
        n = ConstantOfShape <value = float[1] {2}> (one) k = Range (zero, s1, s1) kf = Cast <to = 1> (k)
        f = Mul (e, n) g1 = Add (f, kf) q = Constant <value_floats = [0.5]> () h = Where_placeholder (g1, q)
        y = Flatten (h) }""".replace("Where_placeholder", "Max"),
    "arithmetic": ROWS
    + """ <float[4,5] w, float[5] b, float[5] s, float eps = {0.001}, float[1] lo = {-1}, float[1] hi = {1}> {
        a = Gemm <alpha = 0.5> (x, w, b) m = ReduceMean <axes_n = 1> (a) c = Sub (a, m) d = Mul (c, c)
        e = Add (d, eps) f = Sqrt (e) h = Div (c, f) i = Mul (h, s) j = Erf (i) k = Clip (j, lo, hi)
        l = Tanh (k) n = LayerNormalization <axis = -1> (l, s, b) o = PRelu (n, s) p = Pow (o, hi)
        y = LogSoftmax (p) }""".replace(" <axes_n = 1>", " <keepdims = 1>"),
    "branches": """g (float[N,4] x, bool c) => (float[N,4] y) <int64 n = {3}, bool t = {1}, float one = {1}> {
        a = If (c) <then_branch = p () => (float[M,4] o) { o = Constant <value = float[1,4] {1, 2, 3, 4}> () },
                    else_branch = q () => (float[K,4] u) { u = Constant <value = float[1,4] {0, 1, 0, 1}> () }>
        b = Loop (n, t, one) <body = l (int64 i, bool ti, float s) => (bool to, float so)
            { to = Identity (ti) so = Add (s, s) }>
        d = Mul (x, a) y = Mul (d, b) }""",
    "product": """g (float[N,3,4] x) => (float[N,3,4] y) <float[4,4] w, float[1] k = {0.5}> {
        q = MatMul (x, w) t = Transpose <perm = [0, 2, 1]> (x) s = MatMul (q, t) u = Mul (s, k)
        a = Softmax <axis = -1> (u) v = MatMul (a, x) e = Einsum <equation = "bij,jk->bik"> (v, w)
        r = InstanceNormalization (e, i3, i3) y = Add (r, x) }""".replace(
        "float[1] k", "float[3] i3 = {1, 1, 1}, float[1] k"
    ),
    "recurrent": """g (float[5,N,4] x) => (float[N,3] y) <float[1,12,4] w, float[1,12,3] r, int64[1] zero = {0}> {
        a, h, c = LSTM <hidden_size = 3> (x, w, r) y = Squeeze (h, zero) }""",
    "quantised": """g (float[N,4] x) => (float[N,3] y)
        <float s = {0.1}, uint8 z = {128}, uint8[4,3] w, float t = {0.05}> {
        a = QuantizeLinear (x, s, z) b = DequantizeLinear (a, s, z) c = DequantizeLinear (w, t, z)
        y = MatMul (b, c) }""",
    "upward": """g (float[N,2,4,4] x) => (float[N,3,M,K] y) <float[2,3,2,2] w, float[3] s> {
        a = ConvTranspose <strides = [2, 2], output_padding = [1, 1]> (x, w) b = Sigmoid (a)
        c = BatchNormalization (b, s, s, s, v) d = HardSwish (c) y = Dropout (d) }""".replace(
        "float[3] s>", "float[3] s, float[3] v = {1, 2, 3}>"
    ),
}


@cache
def sound_models() -> dict[str, onnx.ModelProto]:
    """Name -> model, in a fixed order."""
    found = {path.stem: onnx.load(path) for path in sorted(GOLDEN.glob("*.onnx"))}
    found |= {name: _filled(net(text)) for name, text in TEXTS.items()}
    found["functions"] = net(
        "g (float[N,3] x) => (float[N,3] y) { a = own.twice (x) y = own.leak (a) }",
        more='"own" : 1',
        functions=FUNCTION,
    )
    found["older"] = net(
        "g (float[N,4] x) => (float[N,4] y) { a = Softmax (x) b = Unsqueeze <axes = [1]> (a) "
        "c = Squeeze <axes = [1]> (b) d = Clip <min = 0.0, max = 1.0> (c) y = Dropout <ratio = 0.5> (d) }",
        opset=9,
        ir=4,
    )
    found["sparse"] = _sparse()
    return found


LARGE = 8192
"""Bytes of a model above which damage would mostly meet weights."""


@cache
def operator_models() -> list[onnx.ModelProto]:
    """onnx's node tests, each twice: its operands as inputs, and as initializers where they are known."""
    found = []
    for case in load_cases():
        fed = onnx.ModelProto()
        fed.CopyFrom(case.model)
        stored = onnx.ModelProto()
        stored.CopyFrom(fed)
        values = list(zip(fed.graph.input, case.inputs, strict=False))[1:]
        for value, data in values:
            if isinstance(data, np.ndarray) and data.dtype.kind in "fiub":
                stored.graph.input.remove(value)
                stored.graph.initializer.append(numpy_helper.from_array(data, value.name))
        found += [
            model for model in (fed, stored)[: 1 + bool(stored.graph.initializer)] if model.ByteSize() < LARGE
        ]
    return found


def _filled(model: onnx.ModelProto) -> onnx.ModelProto:
    """What the text gives a type only is a weight: it gets numbers."""
    draw = np.random.default_rng(0)
    for value in model.graph.value_info:
        kind = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        numbers = draw.standard_normal(shape) if kind.kind == "f" else draw.integers(0, 9, shape)
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(numbers, kind), value.name))
    del model.graph.value_info[:]
    return model


def _sparse() -> onnx.ModelProto:
    values = numpy_helper.from_array(np.asarray([1.0, 2.0], np.float32), "w")
    indices = numpy_helper.from_array(np.asarray([0, 2], np.int64), "i")
    sparse = helper.make_sparse_tensor(values, indices, [3])
    nodes = [
        helper.make_node("Constant", [], ["c"], sparse_value=sparse),
        helper.make_node("Add", ["x", "c"], ["y"]),
    ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3]) for name in "xy")
    graph = helper.make_graph(nodes, "g", [x], [y])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
