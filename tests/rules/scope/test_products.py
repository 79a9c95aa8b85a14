"""Products of activations, gates, attention, denominators and other smooth nodes frozen at x0, in float64.
docs/methods/linearscope.md. Tolerance: 1e-5 of the largest slope and offset, float32 (measured: 3e-7)."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from onnxplain.rewriter.errors import UnsupportedError
from onnxplain.rules.scope.freeze import FROZEN, HOMOGENEOUS, LINEAR, PRODUCTS, TERMS
from tests.rules.scope.frozen import EDGE, Doubles, Frozen, LineOf, line, net, node, normal
from tests.rules.scope.test_freeze import LINEAR_CASES, MASKS

SINGLE = ("GatherND", "Gemm of two", "Einsum of three")
"""Where an operand has no axis for several tangents of one sample, or (Einsum) onnxruntime plans memory for one."""


def sigmoid(x: Doubles) -> Doubles:
    return np.asarray((1 + np.tanh(x / 2)) / 2)


def softmax(x: Doubles) -> Doubles:
    e = np.exp(x - x.max(-1, keepdims=True))
    return np.asarray(e / e.sum(-1, keepdims=True))


SQUEEZE: dict[str, Any] = {"w1": normal(4, 2, seed=5), "w2": normal(2, 4, seed=6), "s": [0, 4, 1, 1]}


def squeezed(x0: Doubles) -> Doubles:
    hidden = np.maximum(x0.mean((2, 3)) @ SQUEEZE["w1"].astype(float), 0)
    return sigmoid(hidden @ SQUEEZE["w2"].astype(float))[:, :, None, None]


SE = [
    node("ReduceMean", "x", "a", y="m", keepdims=0),
    node("MatMul", "m", "w1", y="h"),
    node("Relu", "h", y="p"),
    node("MatMul", "p", "w2", y="l"),
    node("Sigmoid", "l", y="q"),
    node("Reshape", "q", "s", y="gate"),
    node("Mul", "x", "gate"),
]
QKV = {"q": normal(4, 4, seed=7), "k": normal(4, 4, seed=8), "v": normal(4, 4, seed=9)}
ATTENTION = [
    *(node("MatMul", "x", name, y=f"{name}x") for name in QKV),
    node("Transpose", "kx", y="kt", perm=[0, 2, 1]),
    node("MatMul", "qx", "kt", y="scores"),
    node("Softmax", "scores", y="p"),
    node("MatMul", "p", "vx"),
]


def attended(x0: Doubles, x1: Doubles) -> Doubles:
    q, k, v = (QKV[name].astype(float) for name in QKV)
    return np.asarray(softmax((x0 @ q) @ (x0 @ k).transpose(0, 2, 1)) @ (x1 @ v))


PAIR = normal(2, 3, seed=11)
PRODUCT_CASES: dict[str, tuple[onnx.ModelProto, np.ndarray, LineOf]] = {
    "a square": (net([node("Mul", "x", "x")], [12]), EDGE / 100, lambda x0, x1: x0 * x1),
    "no gate": (
        net(
            [node("Neg", "x", y="n"), node("Add", "n", "b", y="p"), node("Mul", "x", "p")],
            [3],
            {"b": np.asarray(2.0)},
        ),
        PAIR,
        lambda x0, x1: (x0 * (2 - x1) + x1 * (2 - x0)) / 2,
    ),
    "a sigmoid": (
        net([node("Sigmoid", "x", y="s"), node("Mul", "x", "s")], [3]),
        PAIR,
        lambda x0, x1: x1 * sigmoid(x0),
    ),
    "a sigmoid first": (
        net([node("Neg", "x", y="n"), node("Sigmoid", "x", y="s"), node("Mul", "s", "n")], [3]),
        PAIR,
        lambda x0, x1: -x1 * sigmoid(x0),
    ),
    "two sigmoids": (  # neither is the gate: half each
        net(
            [
                node("Sigmoid", "x", y="s"),
                node("Neg", "x", y="n"),
                node("Sigmoid", "n", y="t"),
                node("Mul", "s", "t"),
            ],
            [3],
        ),
        PAIR,
        lambda x0, x1: (
            (
                sigmoid(-x0) * (0.5 + np.tanh(x0 / 2) / 2 / x0 * x1)
                + sigmoid(x0) * (0.5 - np.tanh(x0 / 2) / 2 / x0 * x1)
            )
            / 2
        ),
    ),
    "a hard sigmoid": (
        net([node("HardSigmoid", "x", y="s"), node("Mul", "x", "s")], [3]),
        PAIR,
        lambda x0, x1: x1 * np.clip(0.2 * x0 + 0.5, 0, 1),
    ),
    "Clip(0, 6) / 6": (
        net(
            [
                node("Add", "x", "three", y="p"),
                node("Clip", "p", "zero", "six", y="c"),
                node("Div", "c", "six", y="s"),
                node("Mul", "x", "s"),
            ],
            [3],
            {"three": np.asarray(3.0), "zero": np.asarray(0.0), "six": np.asarray(6.0)},
        ),
        PAIR,
        lambda x0, x1: x1 * np.clip(x0 / 6 + 0.5, 0, 1),
    ),
    "squeeze and excitation": (
        net(SE, [4, 2, 3], {**SQUEEZE, "a": [2, 3]}),
        normal(2, 4, 2, 3),
        lambda x0, x1: x1 * squeezed(x0),
    ),
    "attention": (net(ATTENTION, [3, 4], QKV), normal(2, 3, 4), attended),
    "a gram matrix": (
        net([node("Transpose", "x", y="t", perm=[0, 2, 1]), node("MatMul", "x", "t")], [3, 4]),
        normal(2, 3, 4),
        lambda x0, x1: (x0 @ x1.transpose(0, 2, 1) + x1 @ x0.transpose(0, 2, 1)) / 2,
    ),
    "Gemm of two": (
        net(
            [node("Transpose", "x", y="t", perm=[1, 0]), node("Gemm", "x", "t", "c", alpha=0.5, beta=3.0)],
            [4],
            {"c": np.asarray([[2.0]])},
        ),
        normal(1, 4),
        lambda x0, x1: 0.5 * (x0 @ x1.T) + 6.0,
    ),
    "Einsum of three": (
        net([node("Neg", "x", y="n"), node("Einsum", "x", "n", "x", equation="ni,ni,ni->ni")], [4]),
        normal(2, 4),
        lambda x0, x1: -x0 * x0 * x1,
    ),
    "a softmax beside x": (
        net([node("Softmax", "x", y="s"), node("Add", "s", "x")], [4]),
        normal(2, 4),
        lambda x0, x1: softmax(x0) + x1,
    ),
    "a log softmax beside x": (
        net([node("LogSoftmax", "x", y="s"), node("Sub", "x", "s")], [4]),
        normal(2, 4),
        lambda x0, x1: x1 - np.log(softmax(x0)),
    ),
    "a denominator": (
        net(
            [node("Exp", "x", y="e"), node("ReduceSum", "e", "a", y="s"), node("Div", "e", "s")],
            [4],
            {"a": [1]},
        ),
        normal(2, 4),
        lambda x0, x1: (1 + np.expm1(x0) / x0 * x1) / np.exp(x0).sum(1),
    ),
    "only a denominator": (
        net(
            [node("Exp", "x", y="e"), node("Div", "b", "e", y="q"), node("Add", "q", "x")],
            [4],
            {"b": np.asarray(2.0)},
        ),
        normal(2, 4),
        lambda x0, x1: 2 / np.exp(x0) + x1,
    ),
    "a reciprocal": (  # the same as a Div
        net([node("Exp", "x", y="e"), node("Reciprocal", "e", y="i"), node("Mul", "x", "i")], [4]),
        normal(2, 4),
        lambda x0, x1: x1 * np.exp(-x0),
    ),
}


@pytest.mark.parametrize("name", PRODUCT_CASES)
def test_products_and_denominators(name: str) -> None:
    model, x0, f = PRODUCT_CASES[name]
    Frozen(model, x0, rows=name not in SINGLE).agrees(*line(f, x0))


SMOOTH: dict[str, tuple[onnx.ModelProto, np.ndarray, LineOf]] = {
    "Log": (
        net([node("Log", "x")], [3]),
        np.asarray([[0.5, 1e-3, 20.0]], np.float32),
        lambda x0, x1: np.log(x0) + x1 / x0 - 1,
    ),
    "Acosh": (
        net([node("Acosh", "x")], [2]),
        np.asarray([[1.5, 20.0]], np.float32),
        lambda x0, x1: np.arccosh(x0) + (x1 - x0) / np.sqrt(x0**2 - 1),
    ),
    "Mod": (
        net([node("Mod", "x", "b", fmod=1)], [3], {"b": np.asarray(2.0)}),
        np.asarray([[0.5, 3.0, 5.5]], np.float32),
        lambda x0, x1: np.mod(x0, 2) + x1 - x0,
    ),
    "ReduceProd": (
        net([node("ReduceProd", "x", "a")], [3], {"a": [1]}),
        np.asarray([[0.5, 3.0, 0.0]], np.float32),
        lambda x0, x1: 1.5 * x1[:, 2:],
    ),
    "ReduceLogSum": (
        net([node("ReduceLogSum", "x", "a", keepdims=0)], [3], {"a": [1]}),
        np.asarray([[0.5, 3.0, 1.0]], np.float32),
        lambda x0, x1: np.log(x0.sum(1)) + (x1 - x0).sum(1) / x0.sum(1),
    ),
    "ReduceLogSumExp": (
        net([node("ReduceLogSumExp", "x", "a")], [3], {"a": [1]}),
        normal(2, 3),
        lambda x0, x1: np.log(np.exp(x0).sum(1)) + (softmax(x0) * (x1 - x0)).sum(1),
    ),
}


@pytest.mark.parametrize("freeze", ["offset", "mask", "taylor"])
@pytest.mark.parametrize("name", SMOOTH)
def test_other_smooth_nodes_are_tangents(name: str, freeze: str) -> None:
    model, x0, f = SMOOTH[name]
    Frozen(model, x0, freeze=freeze).agrees(*line(f, x0))


@pytest.mark.parametrize("op", ["Sqrt", "Acosh"])
def test_where_the_derivative_is_infinite_the_node_is_constant(op: str) -> None:
    x0 = np.asarray([[0.0 if op == "Sqrt" else 1.0, 4.0]], np.float32)
    found = Frozen(net([node(op, "x")], [2]), x0, freeze="taylor")
    assert found.F[0, 0] == 0 and found.r[0] == 0 and found.F[1, 1] > 0


def test_every_operator_of_the_tables_has_a_case() -> None:
    models = [case[0] for table in (LINEAR_CASES, MASKS, PRODUCT_CASES) for case in table.values()]
    tested = {made.op_type for model in models for made in model.graph.node}
    assert tested >= (LINEAR | HOMOGENEOUS | TERMS | PRODUCTS | FROZEN)


def test_an_unknown_operator_is_named() -> None:
    """... as with every other method."""
    made = helper.make_node("Gate", ["x"], ["z"], "mine", domain="com.acme")
    model = net([node("Relu", "x", y="h")], [3], y="h")
    model.graph.node.append(made)
    model.graph.node[1].input[0] = "h"
    model.graph.node.append(node("Add", "z", "h"))
    model.graph.output[0].name = "y"
    model.opset_import.append(helper.make_opsetid("com.acme", 1))
    with pytest.raises(UnsupportedError, match="Gate"):
        Frozen(model, normal(1, 3))


def test_parameters_that_depend_on_x_are_refused() -> None:
    for nodes in (
        [node("ReduceMax", "x", "a", y="h", keepdims=0), node("Clip", "x", "", "h")],
        [node("Pow", "x", "x")],
    ):
        with pytest.raises(UnsupportedError, match="depend"):
            Frozen(net(nodes, [3], {"a": [0, 1]} if len(nodes) > 1 else {}), np.abs(normal(1, 3)))
