"""Every number type of the model, at every opset: the emitted operators have kernels, and the maps are right.

onnxruntime drops kernels of doubles from one opset to the next, and has half-precision kernels that load and refuse to
run. What a model of doubles needs (no convolution has a kernel there) is checked on a net of its own.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import onnxplain
from tests.rules.forward import session

pytestmark = pytest.mark.filterwarnings("default::onnxplain.ExplainWarning")
"""Some of these maps are zero, and rightly so."""

OPSETS = (18, 19, 20, 21, 22, 23, 24, 25, 26)
TYPES = {"half": np.float16, "float": np.float32, "double": np.float64}
CLOSE = {"half": 2e-2, "float": 1e-5, "double": 1e-5}
"""Of the largest element; of a double the epsilon of LRP and its float32 seed are left."""

METHODS = (
    "saliency",
    "input-x-gradient",
    "integrated-gradients",
    "guided-backprop",
    "deeplift.rescale",
    "deeplift.reveal-cancel",
    "lrp.zero",
    "lrp.epsilon",
    "lrp.epsilon-plus",
    "lrp.alpha-beta",
    "lrp.preset-a",
    "deep-taylor",
)


def dense(dtype: type, opset: int) -> onnx.ModelProto:
    """y = (relu(x v + b) + x) w."""
    rng = np.random.default_rng(3)
    weights = {"v": rng.normal(size=(3, 3)), "b": rng.normal(size=3), "w": rng.normal(size=(3, 2))}
    nodes = [
        helper.make_node("Gemm", ["x", "v", "b"], ["a"]),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("Add", ["r", "x"], ["s"]),
        helper.make_node("Gemm", ["s", "w"], ["y"]),
    ]
    return built(nodes, ["N", 3], ["N", 2], {k: v.astype(dtype) for k, v in weights.items()}, dtype, opset)


def built(
    nodes: list[onnx.NodeProto],
    ins: list[int | str],
    outs: list[int | str | None],
    weights: dict[str, np.ndarray],
    dtype: type,
    opset: int,
) -> onnx.ModelProto:
    element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", element, ins)],
        [helper.make_tensor_value_info("y", element, outs)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


@cache
def dense_map(dtype: type, opset: int, method: str) -> np.ndarray:
    x: np.ndarray = np.random.default_rng(5).normal(size=(2, 3)).astype(dtype)
    return np.asarray(onnxplain.compile(dense(dtype, opset), method)(x, target=0).attribution)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("opset", OPSETS)
def test_methods_of_a_dense_net(kind: str, opset: int) -> None:
    """Against the same net in float32 at opset 18."""
    for name in METHODS:
        got, want = dense_map(TYPES[kind], opset, name), dense_map(np.float32, 18, name)
        assert got.dtype == TYPES[kind], name
        assert np.abs(got - want).max() <= CLOSE[kind] * np.abs(want).max(), name


INDEX = np.array([2, 0, 2])
TAKES = {
    "Gather": ([helper.make_node("Gather", ["x", "i"], ["y"], axis=1)], {"i": INDEX}),
    "one slice": ([helper.make_node("Gather", ["x", "i"], ["y"], axis=1)], {"i": np.array(1)}),
    "negative": ([helper.make_node("Gather", ["x", "i"], ["y"], axis=-2)], {"i": np.array([[-1], [0]])}),
    "GatherElements": (
        [helper.make_node("GatherElements", ["x", "i"], ["y"], axis=1)],
        {"i": np.array([[[0, 1, 2, 2], [0, 0, 2, 1]]])},
    ),
    "GatherND": ([helper.make_node("GatherND", ["x", "i"], ["y"])], {"i": np.array([[0, 1], [0, 1]])}),
    "TopK": ([helper.make_node("TopK", ["x", "k"], ["y", "n"], axis=2)], {"k": np.array([2])}),
    "steps": (
        [helper.make_node("Slice", ["x", "b", "e", "a", "s"], ["y"])],
        {"b": np.array([2]), "e": np.array([-9]), "a": np.array([1]), "s": np.array([-2])},
    ),
    "MaxPool": ([helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[2])], {}),
    "ReduceMax": ([helper.make_node("ReduceMax", ["x", "a"], ["y"])], {"a": np.array([2])}),
    "edge": (
        [helper.make_node("Pad", ["x", "p"], ["y"], mode="edge")],
        {"p": np.array([0, 0, 2, 0, 0, 1])},
    ),
}


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("case", TAKES)
def test_what_is_taken_goes_back_to_its_place(case: str, kind: str) -> None:
    """All of these are linear near x, with derivatives of whole numbers: differences are exact in powers of 2."""
    nodes, weights = TAKES[case]
    rng = np.random.default_rng(7)
    x = rng.permutation(12).reshape(1, 3, 4).astype(TYPES[kind])
    for opset in (18, 22, 26):
        dims: list[int | str | None] = [None] * {"one slice": 2, "GatherND": 2, "negative": 4}.get(case, 3)
        rows: int | str = 1 if case == "GatherND" else "N"  # it picks from all samples
        model = built(nodes, [rows, 3, 4], dims, weights, TYPES[kind], opset)
        forward = session(model)

        def y(at: np.ndarray, forward: Any = forward) -> np.ndarray:
            return np.asarray(forward.run(["y"], {"x": at})[0], float)

        c = rng.integers(-3, 4, y(x).shape)
        want = [
            (c * (y(x + 0.25 * e) - y(x))).sum() / 0.25
            for e in np.eye(12, dtype=x.dtype).reshape(-1, 1, 3, 4)
        ]
        explainer = onnxplain.compile(model, "saliency", target="cotangent", head="prob")
        got = explainer(x, cotangent=c.astype(TYPES[kind])).attribution
        assert got.dtype == TYPES[kind]
        assert np.array_equal(got.ravel().astype(float), want), opset
