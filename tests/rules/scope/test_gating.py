"""Activations that an exporter spelled out freeze as the operators do."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import parser

import onnxplain

HEAD = '<ir_version: 10, opset_import: ["" : 20]> g (float[N,6] x) => (float[N,6] y) '
GELU = "{ y = Gelu(x) }"
TANH = '{ y = Gelu<approximate="tanh">(x) }'
HARD = "{ y = HardSwish(x) }"
SPELLED = {
    "gelu, halved behind": (
        """<float r = {1.4142135}, float one = {1.0}, float half = {0.5}>
        { a = Div(x, r) b = Erf(a) c = Add(b, one) d = Mul(x, c) y = Mul(d, half) }""",
        GELU,
    ),
    "gelu, halved before": (
        """<float r = {0.70710677}, float one = {1.0}, float half = {0.5}>
        { a = Mul(x, r) b = Erf(a) c = Add(one, b) h = Mul(half, x) y = Mul(h, c) }""",
        GELU,
    ),
    "tanh gelu": (
        """<float k = {0.044715}, float r = {0.7978846}, float one = {1.0}, float half = {0.5}, float three = {3.0}>
        { p = Pow(x, three) q = Mul(p, k) s = Add(x, q) t = Mul(s, r) u = Tanh(t) c = Add(u, one)
          d = Mul(x, c) y = Mul(d, half) }""",
        TANH,
    ),
    "hard swish, divided behind": (
        """<float three = {3.0}, float zero = {0.0}, float six = {6.0}>
        { a = Add(x, three) b = Clip(a, zero, six) c = Mul(x, b) y = Div(c, six) }""",
        HARD,
    ),
    "hard swish, divided before": (
        """<float three = {3.0}, float zero = {0.0}, float six = {6.0}>
        { a = Add(x, three) b = Clip(a, zero, six) c = Div(b, six) y = Mul(c, x) }""",
        HARD,
    ),
}


def model(body: str) -> onnx.ModelProto:
    return parser.parse_model(HEAD + body)


@pytest.mark.parametrize("name", SPELLED)
def test_as_the_operator(name: str) -> None:
    """F (a diagonal) and r; 1e-6 of values up to 1."""
    spelled, whole = SPELLED[name]
    x0 = np.asarray([[-4.0, -1.5, -0.1, 0.2, 1.0, 5.0]], np.float32)
    one, two = onnxplain.Interpreter(model(spelled), x0), onnxplain.Interpreter(model(whole), x0)
    np.testing.assert_allclose(one.dense(), two.dense(), atol=1e-6)
    np.testing.assert_allclose(one.residual, two.residual, atol=1e-6)
    np.testing.assert_allclose(one.dense() @ x0[0] + one.residual, one.value, atol=1e-6)


def test_two_gates_are_none() -> None:
    """σ(x) tanh(x) + ... of gates alone: half each."""
    a = onnxplain.Interpreter(model("{ a = Sigmoid(x) b = Sigmoid(x) y = Mul(a, b) }"), np.ones((1, 6)))
    s = 1 / (1 + np.exp(-1.0))
    np.testing.assert_allclose(np.diag(a.dense()), s * (s - 0.5), rtol=1e-5)
