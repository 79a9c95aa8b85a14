"""LRP against captum: the numbers that its own tests state, and its epsilon rule run live.

captum's γ leaves biases out and its α1β0 the sign of inputs; where neither matters it computes what we do.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxplain.rewriter.compile import Request, compile_model
from tests.rules.forward import session
from tests.rules.test_relevance_golden import DATA, METHODS, stored


def simple(corner: float) -> onnx.ModelProto:
    """captum's SimpleLRPModel: 3 -> 3 -> 1 without biases, weights 2 and 3, but W[0][0] = corner in the first layer."""
    first, second = np.full((3, 3), 2, np.float32), np.full((1, 3), 3, np.float32)
    first[0, 0] = corner
    nodes = [
        helper.make_node("Gemm", ["x", "w1"], ["h"], "linear", transB=1),
        helper.make_node("Gemm", ["h", "w2"], ["y"], "linear2", transB=1),
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", n]) for name, n in (("x", 3), ("y", 1))
    ]
    weights = [numpy_helper.from_array(first, "w1"), numpy_helper.from_array(second, "w2")]
    graph = helper.make_graph(nodes, "simple", ends[:1], ends[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.mark.parametrize(
    ("corner", "method", "options", "want"),
    [
        (2.0, "lrp.epsilon", {}, [18, 36, 54]),
        (-2.0, "lrp.gamma", {"gamma": 1.0}, [28 / 3, 104 / 3, 52]),
        (
            -2.0,
            "lrp.gamma",
            {"rules": {"linear": "gamma:gamma=1", "linear2": "gamma"}},
            [28 / 3, 104 / 3, 52],
        ),
        (-2.0, "lrp.alpha-beta", {"alpha": 1.0}, [12, 33.6, 50.4]),
        (-2.0, "lrp.z-plus", {}, [12, 33.6, 50.4]),
    ],
)
def test_published_numbers(corner: float, method: str, options: dict[str, Any], want: list[float]) -> None:
    made, _ = compile_model(simple(corner), METHODS[method], Request(target=0, options=options))
    got = session(made).run(["attribution"], {"x": np.array([[1, 2, 3]], np.float32)})[0]
    assert np.asarray(got)[0] == pytest.approx(want, rel=1e-6)


@pytest.mark.parametrize("name", ["mlp_nobias", "mlp_bias", "cnn_nobias", "cnn_bias"])
def test_the_epsilon_rule_equals_that_of_captum(name: str) -> None:
    """In float64 there, float32 here: 1e-5 of the largest element. ε = 0.25, so that the sign of it counts."""
    torch = pytest.importorskip("torch")
    attr = pytest.importorskip("captum.attr")
    lrp_rules = pytest.importorskip("captum.attr._utils.lrp_rules")
    model, x, target = onnx.load(DATA / f"{name}.onnx"), stored(name)["x"], int(stored(name)["class"])
    twin = network(torch, model)
    for layer in twin.modules():
        if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d):
            layer.rule = lrp_rules.EpsilonRule(epsilon=0.25)
    want = attr.LRP(twin).attribute(torch.tensor(x, requires_grad=True), target=target).detach().numpy()
    made, _ = compile_model(model, METHODS["lrp.epsilon"], Request(target=target, options={"epsilon": 0.25}))
    got = session(made).run(["attribution"], {"x": x.astype(np.float32)})[0]
    assert np.abs(got - want).max() <= 1e-5 * np.abs(want).max()


def network(torch: Any, model: onnx.ModelProto) -> Any:
    """The layers on both sides of a Flatten, which captum takes as a function only; in float64."""
    parts: list[list[Any]] = [[]]
    for made in layers(torch, model):
        if made is None:
            parts.append([])
        else:
            parts[-1].append(made)

    class Network(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.parts = torch.nn.ModuleList(torch.nn.Sequential(*part) for part in parts)

        def forward(self, x: Any) -> Any:
            for i, part in enumerate(self.parts):
                x = part(x if i == 0 else x.flatten(1))
            return x

    return Network().double().eval()


def layers(torch: Any, model: onnx.ModelProto) -> list[Any]:
    """A chain of Gemm, Conv, Relu and MaxPool as torch modules, None for a Flatten."""
    known = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    made: list[Any] = []
    for node in model.graph.node:
        at = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        if node.op_type in ("Gemm", "Conv"):
            weight = known[node.input[1]]
            if node.op_type == "Gemm":
                weight = weight if at.get("transB") else weight.T
                layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=len(node.input) > 2)
            else:
                layer = torch.nn.Conv2d(
                    weight.shape[1],
                    weight.shape[0],
                    weight.shape[2:],
                    at.get("strides", 1),
                    tuple(at.get("pads", [0, 0])[:2]),
                    bias=len(node.input) > 2,
                )
            layer.weight.data = torch.tensor(weight.copy())
            if len(node.input) > 2:
                layer.bias.data = torch.tensor(known[node.input[2]].copy())
            made.append(layer)
        elif node.op_type == "MaxPool":
            made.append(torch.nn.MaxPool2d(at["kernel_shape"], at["strides"]))
        else:
            made.append({"Relu": torch.nn.ReLU(), "Flatten": None}[node.op_type])
    return made
