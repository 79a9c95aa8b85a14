"""Rescale beside captum's DeepLift, on networks without max pooling.

With it captum is no oracle: its windows overwrite one another, and a ReLU in front of a pool keeps stale gradients.

torch computes in float64, onnxruntime in float32. Where an activation hardly changes, Δy / Δx is a quotient of rounding
errors: measured up to 5e-5 of the largest element (softplus), below 1e-5 with the others; 1e-4 is accepted.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper

pytest.importorskip("captum")
torch = pytest.importorskip("torch")
from captum.attr import DeepLift  # noqa: E402

from tests.deeplift import explained, noise, run  # noqa: E402

TOLERANCE = 1e-4
Floats = NDArray[np.float32]


def network(name: str) -> Any:
    """A chain of torch modules over (N, 3, 12, 12) or (N, 6)."""
    nn = torch.nn
    torch.manual_seed(7)
    act = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh, "elu": nn.ELU, "softplus": nn.Softplus}
    kind, _, which = name.partition(" ")
    f = act[which or "relu"]
    if kind == "mlp":
        layers = [nn.Linear(6, 16), f(), nn.Linear(16, 12), f(), nn.Linear(12, 5)]
    elif kind == "cnn":
        layers = [
            nn.Conv2d(3, 8, 3, padding=1), f(), nn.Conv2d(8, 8, 3, stride=2), f(), nn.AvgPool2d(2),
            nn.Conv2d(8, 6, 2, groups=2), f(), nn.Flatten(), nn.Linear(6, 5),
        ]  # fmt: skip
    else:
        layers = [
            nn.Conv2d(3, 8, 3, dilation=2, bias=False), nn.BatchNorm2d(8), f(),
            nn.ConvTranspose2d(8, 4, 3, stride=2), nn.LeakyReLU(0.2), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            nn.Linear(4, 5),
        ]  # fmt: skip
    net = nn.Sequential(*layers)
    for module in net:
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            torch.nn.init.normal_(module.weight)
    return net.eval()


OPS = {"ReLU": "Relu", "Sigmoid": "Sigmoid", "Tanh": "Tanh", "ELU": "Elu", "Softplus": "Softplus"}


def node(module: Any, x: str, y: str, at: str) -> tuple[onnx.NodeProto, dict[str, Any]]:
    """The ONNX node of a module, with the module's own weights."""
    kind = type(module).__name__
    weights = [(f"{at}.{key}", value) for key, value in module.state_dict().items() if value.dim()]
    names = [name for name, _ in weights]
    both = dict(weights)
    if kind == "Linear":
        return helper.make_node("Gemm", [x, *names], [y], transB=1), both
    if kind.startswith("Conv"):
        attributes = {
            "strides": module.stride,
            "pads": [*module.padding] * 2,
            "dilations": module.dilation,
            "group": module.groups,
        }
        op = "ConvTranspose" if "Transpose" in kind else "Conv"
        return helper.make_node(op, [x, *names], [y], **attributes), both
    if kind == "BatchNorm2d":
        return helper.make_node("BatchNormalization", [x, *names], [y], epsilon=module.eps), both
    if kind == "AvgPool2d":
        return helper.make_node("AveragePool", [x], [y], kernel_shape=[2, 2], strides=[2, 2]), both
    if kind == "LeakyReLU":
        return helper.make_node("LeakyRelu", [x], [y], alpha=module.negative_slope), both
    plain = {"Flatten": "Flatten", "AdaptiveAvgPool2d": "GlobalAveragePool", **OPS}
    return helper.make_node(plain[kind], [x], [y]), both


def exported(net: Any, shape: Sequence[int]) -> onnx.ModelProto:
    nodes, x = [], "x"
    stored: dict[str, Any] = {}
    for i, module in enumerate(net):
        y = "y" if i == len(net) - 1 else f"h{i}"
        made, weights = node(module, x, y, f"m{i}")
        nodes.append(made)
        stored |= weights
        x = y
    ends = [
        helper.make_tensor_value_info("x", 1, ["N", *shape]),
        helper.make_tensor_value_info("y", 1, ["N", 5]),
    ]
    kept = [numpy_helper.from_array(value.numpy().astype(np.float32), name) for name, value in stored.items()]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], kept)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def captums(net: Any, x: Floats, x0: Floats, c: int) -> NDArray[np.float64]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # captum warns that it registers hooks
        values = [torch.tensor(v, dtype=torch.float64) for v in (x, x0)]
        found = DeepLift(net).attribute(values[0], baselines=values[1], target=c)
    return np.asarray(found.detach().numpy(), np.float64)


NAMES = [
    "mlp relu",
    "mlp sigmoid",
    "mlp tanh",
    "cnn relu",
    "cnn elu",
    "cnn softplus",
    "norm relu",
    "norm tanh",
]


@pytest.mark.parametrize("reference", ["zeros", "a row each"])
@pytest.mark.parametrize("name", NAMES)
def test_captum_gives_the_same_map(name: str, reference: str) -> None:
    net, shape = network(name), ((6,) if name.startswith("mlp") else (3, 12, 12))
    model = exported(net, shape)
    x = noise(3, *shape, seed=1)
    x0 = np.zeros_like(x) if reference == "zeros" else noise(3, *shape, seed=2)
    with torch.no_grad():
        seen = net(torch.tensor(x)).numpy()
    assert np.abs(run(model, {"x": x})["y"] - seen).max() < 1e-4, "the two networks differ"
    want = captums(net.double(), x, x0, 3)
    got = explained(model, x, target=3, more={"baseline": x0}, baseline="input")
    assert np.abs(got - want).max() < TOLERANCE * np.abs(want).max()
