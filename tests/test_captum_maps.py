"""Sampled maps and activation maps beside captum, live, on three families of convolutional nets; and the numbers that
captum's own tests publish.

torch computes in float64, onnxruntime in float32: where an activation lies within rounding of a kink the two take
different pieces, and single units switch. Relative L2 distances measured: 4e-8 to 3e-6, with a switch 7e-4; 2e-3 is
accepted, where other nodes on the path of integrated gradients are 0.09 apart.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from onnxplain.models.mobilenet import mobilenet_v2
from onnxplain.models.resnet import resnet
from onnxplain.models.vgg import vgg
from onnxplain.rewriter.compile import Request, compile_model
from onnxplain.rules.registry import find

pytest.importorskip("captum")
torch = pytest.importorskip("torch")
from captum.attr import (  # noqa: E402
    GuidedBackprop,
    GuidedGradCam,
    IntegratedGradients,
    LayerGradCam,
    NoiseTunnel,
    Saliency,
)

from tests.rewriter.nets import floats, run  # noqa: E402

Array = NDArray[Any]
TOLERANCE = 2e-3
SIZE, CLASS = 64, 3
BUILT: dict[str, Callable[[], onnx.ModelProto]] = {
    "vgg11": lambda: vgg(11, size=SIZE, classes=7, width=0.125),
    "resnet18": lambda: resnet(18, size=SIZE, classes=7, width=0.25),
    "mobilenet_v2": lambda: mobilenet_v2(size=SIZE, classes=7, width=0.25),
}
NETS = list(BUILT)


class Interpreted(torch.nn.Module):  # type: ignore[misc, name-defined]
    """An ONNX model, node by node; every activation a module of its own, for captum's hooks."""

    def __init__(self, model: onnx.ModelProto) -> None:
        super().__init__()
        self.graph = model.graph
        self.stored = {t.name: torch.tensor(numpy_helper.to_array(t)).double() for t in model.graph.initializer
                       if t.data_type == onnx.TensorProto.FLOAT}  # fmt: skip
        acts = {"Relu": torch.nn.ReLU, "Clip": torch.nn.ReLU6}
        self.acts = torch.nn.ModuleDict(
            {str(i): acts[node.op_type]() for i, node in enumerate(self.graph.node) if node.op_type in acts}
        )

    def forward(self, x: Any) -> Any:
        values = {**self.stored, self.graph.input[0].name: x}
        for i, node in enumerate(self.graph.node):
            inputs = [values.get(name) for name in node.input]
            if str(i) in self.acts:
                made = self.acts[str(i)](inputs[0])
            else:
                made = operator(node, inputs)
            values[node.output[0]] = made
        return values[self.graph.output[0].name]

    def maker(self, op: str) -> Any:
        """The module of the last activation in front of a pool, or of any other node of that operator."""
        i = max(i for i, node in enumerate(self.graph.node) if node.op_type == op and str(i) in self.acts)
        return self.acts[str(i)]


def operator(node: onnx.NodeProto, x: list[Any]) -> Any:
    given = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
    f = torch.nn.functional
    if node.op_type == "Conv":
        pads = given["pads"]
        assert pads[:2] == pads[2:]
        if given.get("group", 1) == x[1].shape[0] > 1:
            return depthwise(x[0], x[1][:, 0], x[2] if len(x) > 2 else None, given["strides"], pads[:2])
        return f.conv2d(x[0], x[1], x[2] if len(x) > 2 else None, stride=given["strides"], padding=pads[:2],
                        groups=given.get("group", 1))  # fmt: skip
    if node.op_type == "MaxPool":
        return f.max_pool2d(x[0], given["kernel_shape"], given["strides"], given.get("pads", [0, 0])[:2])
    if node.op_type == "BatchNormalization":
        return f.batch_norm(x[0], x[3], x[4], x[1], x[2], eps=given.get("epsilon", 1e-5))
    if node.op_type == "Gemm":
        return f.linear(x[0], x[1] if given.get("transB") else x[1].T, x[2])
    plain: dict[str, Callable[[], Any]] = {
        "Add": lambda: x[0] + x[1],
        "Flatten": lambda: x[0].flatten(1),
        "GlobalAveragePool": lambda: x[0].mean((2, 3), keepdim=True),
    }
    return plain[node.op_type]()


def depthwise(x: Any, w: Any, b: Any, strides: list[int], pads: list[int]) -> Any:
    """Tap by tap: in float64 torch's own takes a thousand times as long."""
    x = torch.nn.functional.pad(x, [pads[1], pads[1], pads[0], pads[0]])
    (h, k), (sy, sx) = w.shape[1:], strides
    rows, columns = (x.shape[2] - h) // sy + 1, (x.shape[3] - k) // sx + 1
    y: Any = 0
    for i in range(h):
        for j in range(k):
            part = x[:, :, i : i + sy * (rows - 1) + 1 : sy, j : j + sx * (columns - 1) + 1 : sx]
            y = y + part * w[:, i, j, None, None]
    return y if b is None else y + b[:, None, None]


@cache
def model(name: str) -> onnx.ModelProto:
    return BUILT[name]()


@cache
def oracle(name: str) -> Any:
    return Interpreted(model(name)).eval().double()


def picture() -> Array:
    return floats(1, 3, SIZE, SIZE, seed=21)


def wide(x: Array) -> Any:
    return torch.tensor(x, dtype=torch.float64)


def attributed(make: Callable[[], Any]) -> Array:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # captum warns that it registers hooks
        return np.asarray(make().detach().numpy())


def explained(source: onnx.ModelProto, method: str, x: Array, target: int = CLASS, **more: Any) -> Array:
    """`noise` is fed, the rest are options."""
    fed = {name: value for name, value in more.items() if name == "noise"}
    options = {name: value for name, value in more.items() if name not in fed}
    made, _ = compile_model(source, find(method), Request(target=target, options=options))
    return run(made, {source.graph.input[0].name: x, **fed})["attribution"]


def distance(got: Array, want: Array) -> float:
    """Relative L2."""
    assert got.shape == want.shape, f"{got.shape} instead of {want.shape}"
    size = float(np.linalg.norm(want.ravel()))
    assert size > 0, "an expected map of zeros proves nothing"
    return float(np.linalg.norm((got - want).ravel())) / size


@pytest.mark.parametrize("name", NETS)
def test_the_two_networks_agree(name: str) -> None:
    (z,) = run(model(name), {model(name).graph.input[0].name: picture()}).values()
    assert distance(z, attributed(lambda: oracle(name)(wide(picture())))) < 1e-5


@pytest.mark.parametrize(
    ("rule", "captums"), [("midpoint", "riemann_middle"), ("gauss-legendre", "gausslegendre")]
)
@pytest.mark.parametrize("name", NETS)
def test_integrated_gradients(name: str, rule: str, captums: str) -> None:
    x, base = picture(), floats(1, 3, SIZE, SIZE, seed=22) * np.float32(0.3)
    ig = IntegratedGradients(oracle(name))
    want = attributed(
        lambda: ig.attribute(wide(x), baselines=wide(base), target=CLASS, n_steps=16, method=captums)
    )
    got = explained(model(name), "integrated-gradients", x, steps=16, rule=rule, baseline=base)
    assert distance(got, want) < TOLERANCE
    other = explained(model(name), "integrated-gradients", x, steps=16, rule="trapezoid", baseline=base)
    assert distance(other, want) > 0.05


METHODS = {"smoothgrad": "smoothgrad", "smoothgrad-squared": "smoothgrad_sq", "vargrad": "vargrad"}


@pytest.mark.parametrize("inner", ["saliency", "guided-backprop"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", NETS)
def test_noise_tunnel(name: str, method: str, inner: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """captum's σ is absolute, its noise from torch.normal: it gets ours."""
    x, eps, sigma = picture(), floats(6, 3, SIZE, SIZE, seed=23), 0.1
    spread = float(x.max() - x.min())
    monkeypatch.setattr(torch, "normal", lambda mean, std, **_: mean + wide(eps).reshape(std.shape) * std)
    base = Saliency(oracle(name)) if inner == "saliency" else GuidedBackprop(oracle(name))
    more = {"abs": False} if inner == "saliency" else {}
    want = attributed(
        lambda: NoiseTunnel(base).attribute(
            wide(x), nt_type=METHODS[method], nt_samples=6, stdevs=sigma * spread, target=CLASS, **more
        )
    )
    gate: dict[str, Any] = {"gate": "relu"} if inner == "guided-backprop" else {}
    got = explained(model(name), method, x, noise=eps, sigma=sigma, inner=inner, **gate)
    assert distance(got, want) < TOLERANCE


LAST = {"vgg11": "Relu", "resnet18": "Relu", "mobilenet_v2": "Clip"}


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("name", NETS)
def test_grad_cam(name: str, relu: bool) -> None:
    x = picture()
    layer = last(name)
    for c in range(3):
        theirs = LayerGradCam(oracle(name), layer)
        want = attributed(partial(theirs.attribute, wide(x), target=c, relu_attributions=relu))
        if want.any():
            got = explained(model(name), "grad-cam", x, c, relu=relu, upsample=False)
            assert distance(got, want) < TOLERANCE


@pytest.mark.parametrize("name", NETS)
def test_guided_grad_cam(name: str) -> None:
    x, layer = picture(), last(name)
    seen = 0
    for c in range(3):
        theirs = GuidedGradCam(oracle(name), layer)
        want = attributed(partial(theirs.attribute, wide(x), target=c, interpolate_mode="bilinear"))
        if np.abs(want).max() > 0:
            seen += 1
            assert distance(explained(model(name), "guided-grad-cam", x, c, gate="relu"), want) < TOLERANCE
    assert seen > 1


def last(name: str) -> Any:
    """The module behind the default layer: the last activation of the features."""
    nodes = list(model(name).graph.node)
    pools = [i for i, node in enumerate(nodes) if node.op_type in ("MaxPool", "GlobalAveragePool", "Flatten")]
    end = pools[-1]
    while nodes[end].op_type == "Flatten" or nodes[end - 1].op_type in ("MaxPool", "GlobalAveragePool"):
        end -= 1
    assert nodes[end - 1].op_type == LAST[name]
    return oracle(name).acts[str(end - 1)]


def one_conv() -> onnx.ModelProto:
    """captum's BasicModel_ConvNet_One_Conv: a convolution of ones with biases -50 and -75, a product of 1 and -1."""
    weights = {
        "w": np.ones((2, 1, 3, 3), np.float32),
        "b": np.array([-50, -75], np.float32),
        "v": np.concatenate([np.ones((4, 5)), -np.ones((4, 3))], axis=1).astype(np.float32),
        "d": np.zeros(4, np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], "conv1"),
        helper.make_node("Relu", ["c"], ["r"], "relu1"),
        helper.make_node("Flatten", ["r"], ["f"]),
        helper.make_node("Gemm", ["f", "v", "d"], ["z"], "fc1", transB=1),
        helper.make_node("Relu", ["z"], ["y"], "relu2"),
    ]
    ends = [
        helper.make_tensor_value_info("x", 1, ["N", 1, 4, 4]),
        helper.make_tensor_value_info("y", 1, ["N", 4]),
    ]
    stored = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


COUNT = np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4)


def test_published_grad_cam() -> None:
    conv = explained(one_conv(), "grad-cam", COUNT, 0, layer="conv1", upsample=False, relu=False)
    assert conv.ravel().tolist() == [11.25, 13.5, 20.25, 22.5]
    relu = explained(one_conv(), "grad-cam", COUNT, 0, layer="relu1", upsample=False, relu=False)
    assert relu.ravel().tolist() == [0, 4, 28, 32.5]
    assert np.array_equal(explained(one_conv(), "grad-cam", COUNT, 0, upsample=False), relu)


def test_published_guided_backprop_and_guided_grad_cam() -> None:
    guided = explained(one_conv(), "guided-backprop", COUNT, 0)[0, 0]
    assert guided.tolist() == [[0, 1, 1, 1], [1, 3, 3, 2], [1, 3, 3, 2], [1, 2, 2, 1]]
    # captum's example repeats cells; its last row is [28, 56, 65, 32.5]. The corners are the same here.
    near = np.repeat(np.repeat([[0, 4], [28, 32.5]], 2, axis=0), 2, axis=1) * guided
    assert near[3].tolist() == [28, 56, 65, 32.5]
    got = explained(one_conv(), "guided-grad-cam", COUNT, 0)[0, 0]
    up = explained(one_conv(), "grad-cam", COUNT, 0)[0, 0]
    assert np.array_equal(got, up * guided)
    assert (got[3, 0], got[3, 3], got[0, 0], got[0, 3]) == (28, 32.5, 0, 4)
