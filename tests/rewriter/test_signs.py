"""Tensors that are provably >= 0, and ones that only happen to be."""

from __future__ import annotations

import numpy as np
import pytest

from onnxplain.rewriter.canonical import canonise
from onnxplain.rewriter.emit import Emit
from onnxplain.rewriter.graph import prepare
from onnxplain.rewriter.signs import nonnegative
from tests.rewriter.nets import net, run

HEAD = (
    "g (float[N,2,4,4] x) => (float[N,a,b,c] y) <float[1,2,1,1] two = {2, 0.5}, float[1,2,1,1] mixed = {1, -1}, "
    "float zero = {0}, float low = {-1}, float one = {1}, int64[1] at = {1}, int64[2] spatial = {2, 3}, "
    "float exponent = {2}, float odd = {3}> {"
)
POSITIVE = [
    "y = Relu(x)",
    "y = Clip(x, zero)",
    "y = Clip(x, zero, one)",
    "y = Sigmoid(x)",
    "y = Softmax <axis = 1> (x)",
    "y = Abs(x)",
    "y = Exp(x)",
    "y = Softplus(x)",
    "y = Mul(x, x)",
    "y = Pow(x, exponent)",
    "y = ReduceL2(x, spatial)",
    "p = Relu(x) y = Mul(p, two)",
    "p = Relu(x) y = Add(p, two)",
    "p = Relu(x) q = Sigmoid(x) y = Mul(p, q)",
    "p = Relu(x) q = Exp(x) y = Div(p, q)",
    "p = Relu(x) y = Max(x, p)",
    "p = Relu(x) q = Abs(x) y = Min(p, q)",
    "p = Relu(x) q = Abs(x) y = Concat <axis = 1> (p, q)",
    "p = Relu(x) y = MaxPool <kernel_shape = [2, 2], pads = [1, 1, 1, 1]> (p)",
    "p = Relu(x) y = AveragePool <kernel_shape = [2, 2]> (p)",
    "p = Relu(x) y = GlobalAveragePool(p)",
    "p = Relu(x) y = ReduceMean(p, spatial)",
    "p = Relu(x) y = Transpose <perm = [0, 2, 3, 1]> (p)",
    "p = Relu(x) y, q = Split <axis = 1, num_outputs = 2> (p)",
    "p = Relu(x) y = Gather <axis = 1> (p, at)",
    "p = Relu(x) y = LRN <size = 3> (p)",
    "p = Relu(x) y = LeakyRelu(p)",
    "p = Relu(x) y = Pow(p, odd)",
    "p = Relu(x) q = Greater(x, zero) y = Where(q, p, two)",
]
UNKNOWN = [
    "y = Neg(x)",
    "y = Clip(x, low)",
    "y = Clip(x, low, one)",
    "y = LeakyRelu(x)",
    "y = Tanh(x)",
    "y = Pow(x, odd)",
    "y = Mul(x, two)",
    "p = Relu(x) y = Mul(p, mixed)",
    "p = Relu(x) y = Add(p, mixed)",
    "p = Relu(x) y = Sub(p, one)",
    "p = Relu(x) y = Add(p, x)",
    "p = Relu(x) y = Min(p, x)",
    "p = Relu(x) y = Concat <axis = 1> (p, x)",
    "p = Relu(x) y = Neg(p)",
    "p = Relu(x) y = Log(p)",
    "p = Relu(x) q = Greater(x, zero) y = Where(q, p, x)",
    "p = Relu(x) y = LRN <size = 3, alpha = -9.0> (p)",
]


@pytest.mark.parametrize("body", POSITIVE)
def test_known_to_be_positive(body: str) -> None:
    model = net(f"{HEAD} {body} }}")
    assert "y" in nonnegative(prepare(model))
    x = np.random.default_rng(0).normal(size=(8, 2, 4, 4)).astype(np.float32)
    assert (run(model, {"x": x})["y"] >= 0).all()


@pytest.mark.parametrize("body", UNKNOWN)
def test_not_known_to_be_positive(body: str) -> None:
    assert "y" not in nonnegative(prepare(net(f"{HEAD} {body} }}")))


def test_the_input_is_not_known_to_be_positive() -> None:
    assert not nonnegative(prepare(net(f"{HEAD} y = Identity(x) }}"))) & {"x", "y"}


def test_in_the_canonical_view_too() -> None:
    graph = prepare(net(f"{HEAD} p = Max(x, zero) y = Mul(p, two) }}"))
    assert nonnegative(canonise(graph, Emit(graph))) == {"p", "y"}
