"""Rectifiers in every spelling, and results used more than once, against formulas in numpy.

The net: z = x U, r = rectifier(z), y = Σ_i r V_i (r is read once for each V_i). With the cotangent c of y, that of r is
ct = Σ_i c V_iᵀ, and that of x is gate(ct) Uᵀ:

saliency [0 < z < high] ct; guided [0 < z < high] max(ct, 0); deconv [z < high] max(ct, 0).

The gate is applied once, to the sum: what the branches return may cancel before it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from onnxplain.rewriter.compile import Request, compile_model
from onnxplain.rules.registry import find

INF = float("inf")
SPELLINGS: dict[str, tuple[NodeProto, dict[str, float], float]] = {
    "Relu": (helper.make_node("Relu", ["z"], ["r"]), {}, INF),
    "Max(x, 0)": (helper.make_node("Max", ["z", "zero"], ["r"]), {"zero": 0.0}, INF),
    "Max(0, x)": (helper.make_node("Max", ["zero", "z"], ["r"]), {"zero": 0.0}, INF),
    "Clip(0, 6)": (helper.make_node("Clip", ["z", "zero", "six"], ["r"]), {"zero": 0.0, "six": 6.0}, 6.0),
    "Clip(0, inf)": (helper.make_node("Clip", ["z", "zero", "top"], ["r"]), {"zero": 0.0, "top": INF}, INF),
    "Clip(0)": (helper.make_node("Clip", ["z", "zero"], ["r"]), {"zero": 0.0}, INF),
}
METHODS = ["saliency", "guided-backprop", "deconvnet"]
UNITS, INPUTS, OUTPUTS, USES = 40, 5, 3, 3


def draw(*shape: int, seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


X, U = draw(4, INPUTS, seed=0), 3 * draw(INPUTS, UNITS, seed=1)
VS = [draw(UNITS, OUTPUTS, seed=2 + i) for i in range(USES)]
C = draw(4, OUTPUTS, seed=9)


def net(between: list[NodeProto], constants: dict[str, float], reads: list[str]) -> onnx.ModelProto:
    """x -> z -> `between` -> y, the i-th product reading reads[i]."""
    made = [helper.make_node("MatMul", ["x", "U"], ["z"]), *between]
    made += [helper.make_node("MatMul", [name, f"V{i}"], [f"y{i}"]) for i, name in enumerate(reads)]
    made.append(helper.make_node("Sum", [f"y{i}" for i in range(len(reads))], ["y"]))
    weights = [numpy_helper.from_array(U, "U")]
    weights += [numpy_helper.from_array(v, f"V{i}") for i, v in enumerate(VS)]
    weights += [
        numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in constants.items()
    ]
    graph = helper.make_graph(
        made,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", INPUTS])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", OUTPUTS])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def explain(model: onnx.ModelProto, method: str, **options: Any) -> NDArray[np.float32]:
    made, _ = compile_model(model, find(method), Request(target="cotangent", options=options))
    session = ort.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["attribution"], {"x": X, "cotangent": C})[0])


def gate(method: str, z: NDArray[Any], ct: NDArray[Any], high: float) -> NDArray[Any]:
    if method != "saliency":
        ct = np.maximum(ct, 0)
    return ct * ((z < high) if method == "deconvnet" else (z > 0) & (z < high))


def check(got: NDArray[Any], want: NDArray[Any]) -> None:
    """float32 products of 40 terms; 1e-5 of the largest element leaves tenfold room."""
    assert np.abs(got - want).max() < 1e-5 * np.abs(want).max()


def wide() -> tuple[NDArray[np.float64], list[NDArray[np.float64]]]:
    """z, and the cotangent that each use of r returns."""
    return X.astype(np.float64) @ U, [C.astype(np.float64) @ v.T for v in VS]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_one_result_used_three_times(spelling: str, method: str) -> None:
    node, constants, high = SPELLINGS[spelling]
    z, parts = wide()
    assert (z < 0).any() and ((z > 0) & (z < 6)).any() and (z > 6).any()
    want = gate(method, z, np.sum(parts, axis=0), high) @ U.T
    check(explain(net([node], constants, ["r"] * USES), method), want)


@pytest.mark.parametrize("method", METHODS)
def test_the_spellings_of_relu_give_the_same_bits(method: str) -> None:
    maps = [
        explain(net([node], constants, ["r"] * USES), method)
        for node, constants, high in SPELLINGS.values()
        if high == INF
    ]
    assert all(np.array_equal(maps[0], other) for other in maps[1:])


@pytest.mark.parametrize("method", METHODS)
def test_three_nodes_that_compute_the_same_are_three_gates(method: str) -> None:
    """One gate a node: max(a, 0) + max(b, 0) is not max(a + b, 0), even where sharing merges equal masks."""
    between = [helper.make_node("Relu", ["z"], [f"r{i}"]) for i in range(USES)]
    z, parts = wide()
    want = sum(gate(method, z, part, INF) for part in parts) @ U.T
    check(explain(net(between, {}, ["r0", "r1", "r2"]), method), want)


@pytest.mark.parametrize("method", METHODS)
def test_a_result_that_is_read_before_and_after_another_rectifier(method: str) -> None:
    """r is read directly and through Clip(r, 0, 6): two gates on one path, one on the other."""
    between = [helper.make_node("Relu", ["z"], ["r"]), helper.make_node("Clip", ["r", "zero", "six"], ["s"])]
    z, parts = wide()
    r = np.maximum(z, 0)
    want = gate(method, z, parts[0] + gate(method, r, parts[1] + parts[2], 6.0), INF) @ U.T
    check(explain(net(between, {"zero": 0.0, "six": 6.0}, ["r", "s", "s"]), method), want)


@pytest.mark.parametrize("method", METHODS)
def test_the_pre_activation_is_used_too(method: str) -> None:
    """A skip around the rectifier is not gated."""
    z, parts = wide()
    want = (gate(method, z, parts[0] + parts[1], INF) + parts[2]) @ U.T
    check(explain(net([helper.make_node("Relu", ["z"], ["r"])], {}, ["r", "r", "z"]), method), want)


@pytest.mark.parametrize("method", ["guided-backprop", "deconvnet"])
def test_gate_relu_leaves_clip_its_derivative(method: str) -> None:
    node, constants, high = SPELLINGS["Clip(0, 6)"]
    z, parts = wide()
    want = gate("saliency", z, np.sum(parts, axis=0), high) @ U.T
    check(explain(net([node], constants, ["r"] * USES), method, gate="relu"), want)
    node, constants, _ = SPELLINGS["Max(x, 0)"]
    want = gate(method, z, np.sum(parts, axis=0), INF) @ U.T
    check(explain(net([node], constants, ["r"] * USES), method, gate="relu"), want)


@pytest.mark.parametrize("method", METHODS)
def test_a_clip_that_does_not_start_at_zero_is_no_rectifier(method: str) -> None:
    node = helper.make_node("Clip", ["z", "low", "six"], ["r"])
    z, parts = wide()
    want = (np.sum(parts, axis=0) * ((z > -1) & (z < 6))) @ U.T
    check(explain(net([node], {"low": -1.0, "six": 6.0}, ["r"] * USES), method), want)
