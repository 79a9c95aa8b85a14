"""Factors of cotangents meet before the convolutions, and change nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from onnxplain.models.resnet import resnet
from onnxplain.models.vgg import vgg
from onnxplain.rewriter import results
from onnxplain.rewriter.compile import Request, compile_model
from onnxplain.rewriter.emit import Emit
from onnxplain.rewriter.graph import Node, Value
from onnxplain.rules.registry import find

from .nets import floats
from .test_blocked import quiet

NETS: dict[str, Callable[[], onnx.ModelProto]] = {
    "vgg": lambda: vgg(11, size=32, width=0.125),
    "resnet": lambda: resnet(18, size=32, width=0.25, fold_batch_norm=True),
}
METHODS = (
    "saliency",
    "input-x-gradient",
    "guided-backprop",
    "lrp.zero",
    "lrp.epsilon",
    "lrp.alpha-beta",
    "lrp.epsilon-plus",
    "lrp.epsilon-plus-flat",
    "lrp.epsilon-gamma-box",
    "deep-taylor",
    "deeplift.rescale",
    "deeplift.reveal-cancel",
    "pattern-attribution",
)
OPTIONS: dict[str, dict[str, Any]] = {
    "lrp.epsilon-gamma-box": {"low": -3.0, "high": 3.0},
    "pattern-attribution": {"estimator": "weights"},
}


def made(name: str, method: str, target: str = "top") -> onnx.ModelProto:
    request = Request(target=target, options=OPTIONS.get(method, {}))
    return compile_model(NETS[name](), find(method), request)[0]


def attribution(model: onnx.ModelProto, **more: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(model.SerializeToString(), quiet())
    shape = [dim if isinstance(dim, int) else 1 for dim in session.get_inputs()[0].shape]
    feeds = {session.get_inputs()[0].name: floats(*shape), **more}
    return np.asarray(session.run(["attribution"], feeds)[0])


def untouched(g: Emit, outputs: Sequence[Value]) -> tuple[list[Node], list[Value]]:
    return g.nodes, list(outputs)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", NETS)
def test_maps_are_those_without_it(name: str, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    got = attribution(made(name, method))
    monkeypatch.setattr(results, "factor", untouched)
    want = attribution(made(name, method))
    assert np.abs(want).max() > 0
    # Quotients of sums that nearly cancel multiply the rounding of float32.
    assert np.linalg.norm(got - want) <= 1e-4 * np.linalg.norm(want)


@pytest.mark.parametrize("method", ["lrp.epsilon", "deeplift.rescale"])
def test_rows_of_cotangents(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """K rows against one sample: the factors have one row, and broadcast."""
    rows = floats(3, 1000, seed=4)
    got = attribution(made("vgg", method, "cotangent"), cotangent=rows)
    monkeypatch.setattr(results, "factor", untouched)
    want = attribution(made("vgg", method, "cotangent"), cotangent=rows)
    assert got.shape[0] == 3
    assert np.linalg.norm(got - want) <= 1e-4 * np.linalg.norm(want)


def added(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.name.startswith("bwd/")]


@pytest.mark.parametrize("method", ["lrp.zero", "lrp.epsilon"])
def test_what_a_rectifier_clips_is_not_read(method: str) -> None:
    """x / (z + ε) of x = max(z, 0) needs x alone: the forward Conv and Relu can stay one operator."""
    model = made("vgg", method)
    clipped = {node.input[0] for node in model.graph.node if node.op_type == "Relu"}
    assert clipped
    assert not clipped & {name for node in added(model) for name in node.input}


def test_zero_of_rectifiers_costs_what_the_gradient_costs() -> None:
    """LRP-0 without biases is x times the gradient: the same steps, one product more, and the quotient of the head."""
    steps = [
        sum(node.op_type == "Greater" for node in added(made("vgg", method)))
        for method in ("saliency", "lrp.zero")
    ]
    assert steps[0] == steps[1] > 0


def test_a_sum_of_relevance_is_one_product() -> None:
    """x p + x q is x (p + q): of a residual block no activation is multiplied twice."""
    model = made("resnet", "lrp.epsilon")
    reads = [name for node in added(model) if node.op_type == "Mul" for name in node.input]
    shortcuts = [node.output[0] for node in model.graph.node if node.op_type == "Relu"]
    assert all(reads.count(name) <= 1 for name in shortcuts)
