"""Small seeded nets on which a check of a certificate could be wrong though the file is right."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import numpy_helper, parser

CONVOLVED = "c = Conv <pads = [1, 1, 1, 1]> (x, k, kb) r = Relu (c) m = GlobalAveragePool (r) f = Flatten (m)"
NETS: Mapping[str, tuple[str, str, str]] = {
    "pad of one": (
        "float[N,2,6,6] x",
        "float[N,5] y",
        "one = Constant <value = float {1.0}> () by = Constant <value = int64[8] {0,0,1,1,0,0,1,1}> () "
        "p = Pad (x, by, one) c = Conv (p, k, kb) r = Relu (c) m = GlobalAveragePool (r) f = Flatten (m) "
        "y = Gemm (f, w, b)",
    ),
    "constants beside": (
        "float[N,4] x",
        "float[N,5] y",
        "h = Gemm (x, v, b4) m = Max (h, b4) s = Constant <value = float[1,1] {1.0}> () "
        "n = Shape <start = 0, end = 1> (x) i = Constant <value = int64[1] {1}> () e = Concat <axis = 0> (n, i) "
        "o = Expand (s, e) j = Concat <axis = 1> (m, o) y = Gemm (j, w5, b)",
    ),
    "log": ("float[N,4] x", "float[N,5] y", "l = Log (x) y = Gemm (l, w, b)"),
    "square root": ("float[N,4] x", "float[N,5] y", "h = Gemm (x, v, b4) s = Sqrt (h) y = Gemm (s, w, b)"),
    "not a number anywhere": (
        "float[N,4] x",
        "float[N,5] y",
        "a = Abs (x) one = Constant <value = float {1.0}> () n = Neg (a) d = Sub (n, one) l = Log (d) "
        "y = Gemm (l, w, b)",
    ),
    "reciprocal": ("float[N,4] x", "float[N,5] y", "i = Reciprocal (x) y = Gemm (i, w, b)"),
    "steps": ("float[N,4] x", "float[N,5] y", "s = Floor (x) y = Gemm (s, w, b)"),
    "an unused input": ("float[N,4] x, float[N,3] beside", "float[N,5] y", "y = Gemm (x, w, b)"),
    "a second input": (
        "float[N,4] x, float[N,4] beside",
        "float[N,5] y",
        "s = Mul (x, beside) y = Gemm (s, w, b)",
    ),
    "kinks at zero": ("float[N,4] x", "float[N,5] y", "r = Relu (x) y = MatMul (r, w)"),
    "kinks at the probes": (
        "float[N,4] x",
        "float[N,5] y",
        "q = Round (x) d = Sub (x, q) r = Abs (d) y = Gemm (r, w, b)",
    ),
    "many kinks": (
        "float[N,4] x",
        "float[N,5] y",
        "h = Gemm (x, v64, b64) s = Constant <value = float {40.0}> () i = Mul (h, s) r = Relu (i) t = MatMul (r, u64) "
        "r2 = Relu (t) y = Gemm (r2, w64, b)",
    ),
    "pool of equals": (
        "float[N,2,6,6] x",
        "float[N,5] y",
        "r = Relu (x) p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (r) c = Conv (p, k, kb) "
        "m = GlobalMaxPool (c) f = Flatten (m) y = Gemm (f, w, b)",
    ),
    "residual": (
        "float[N,4] x",
        "float[N,5] y",
        "h = Gemm (x, v, b4) r = Relu (h) s = Add (x, r) g = Gemm (s, v, b4) q = Relu (g) t = Add (s, q) "
        "y = Gemm (t, w, b)",
    ),
    "softmax head": (
        "float[N,2,6,6] x",
        "float[N,5] y",
        CONVOLVED + " z = Gemm (f, w, b) y = Softmax <axis = -1> (z)",
    ),
    "sigmoid head": ("float[N,2,6,6] x", "float[N,5] y", CONVOLVED + " z = Gemm (f, w, b) y = Sigmoid (z)"),
    "softmax inside": (
        "float[N,4] x",
        "float[N,5] y",
        "h = Gemm (x, v, b4) s = Softmax <axis = -1> (h) t = Mul (s, x) y = Gemm (t, w, b)",
    ),
    "regression": ("float[N,2,6,6] x", "float[N,1] y", CONVOLVED + " y = Gemm (f, w1, b1)"),
    "regression to pictures": (
        "float[N,2,6,6] x",
        "float[N,4,6,6] y",
        "y = Conv <pads = [1, 1, 1, 1]> (x, k, kb)",
    ),
    "a saturated head": (
        "float[N,4] x",
        "float[N,5] y",
        "s = Constant <value = float {1000.0}> () h = Gemm (x, w, b) i = Mul (h, s) y = Tanh (i)",
    ),
    "dead": (
        "float[N,4] x",
        "float[N,5] y",
        "s = Constant <value = float {100000.0}> () h = Gemm (x, v, b4) i = Sub (h, s) r = Relu (i) y = Gemm (r, w, b)",
    ),
    "large numbers": (
        "float[N,4] x",
        "float[N,5] y",
        "s = Constant <value = float {1000000.0}> () h = Gemm (x, v, b4) r = Relu (h) t = MatMul (r, w) y = Add (t, s)",
    ),
    "one sample": ("float[1,4] x", "float[1,5] y", "h = Gemm (x, v, b4) r = Relu (h) y = Gemm (r, w, b)"),
    "three samples": ("float[3,4] x", "float[3,5] y", "h = Gemm (x, v, b4) r = Relu (h) y = Gemm (r, w, b)"),
    "double": ("double[N,4] x", "double[N,5] y", "h = Gemm (x, v, b4) r = Relu (h) y = Gemm (r, w, b)"),
    "half": ("float16[N,4] x", "float16[N,5] y", "h = Gemm (x, v, b4) r = Relu (h) y = Gemm (r, w, b)"),
}
"""Name -> (inputs, outputs, nodes) in the text form of ONNX."""
SHAPES: Mapping[str, tuple[int, ...]] = {
    "k": (4, 2, 3, 3), "kb": (4,), "w": (4, 5), "b": (5,), "v": (4, 4), "b4": (4,), "w1": (4, 1), "b1": (1,),
    "v64": (4, 64), "b64": (64,), "u64": (64, 64), "w64": (64, 5), "w5": (5, 5),
}  # fmt: skip


def awkward(name: str, seed: int = 0) -> onnx.ModelProto:
    """One of `NETS`, with unit normal weights over the root of what a unit adds up, in the type of its input."""
    inputs, outputs, nodes = NETS[name]
    text = f'<ir_version: 10, opset_import: ["" : 18]> net ({inputs}) => ({outputs}) {{ {nodes} }}'
    model = parser.parse_model(text)
    kind = {"d": np.float64, "float16": np.float16}.get(
        inputs[0] if inputs[0] == "d" else inputs[:7], np.float32
    )
    read = {tensor for node in model.graph.node for tensor in node.input}
    rng = np.random.default_rng(seed)
    for key, shape in SHAPES.items():
        values = rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:] if key == "k" else shape[:1]))
        if key in read:
            model.graph.initializer.append(numpy_helper.from_array(values.astype(kind), key))
    for i, node in enumerate(model.graph.node):
        node.name = f"{node.op_type}_{i}"
    return model
