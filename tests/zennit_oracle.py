"""zennit's relevance for an ONNX model: its nodes as torch modules in float64, normalisation merged by hand."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

torch = pytest.importorskip("torch")


def _zennit() -> Any:
    """zennit.layer. zennit imports classes of torchvision for its canonizers, which are not used here: empty ones stand
    in while zennit is imported, since a torchvision for CUDA cannot be imported beside a torch for the CPU."""
    blocks = {"models.resnet": ("Bottleneck", "BasicBlock"), "models.vgg": ("VGG",)}
    made = {
        f"torchvision{path}": ModuleType(path) for path in ("", ".models", *(f".{name}" for name in blocks))
    }
    for name, classes in blocks.items():
        for kind in classes:
            setattr(made[f"torchvision.{name}"], kind, type(kind, (torch.nn.Module,), {}))
    before = {name: sys.modules.pop(name) for name in made if name in sys.modules}
    sys.modules.update(made)
    try:
        return pytest.importorskip("zennit.layer")
    finally:
        for name in made:
            del sys.modules[name]
        sys.modules.update(before)


layer = _zennit()


class Net(torch.nn.Module):  # type: ignore[misc, name-defined]
    """The nodes of the builders' nets, one module each. A BatchNormalization goes into the convolution before it:
    W' = s W, b' = s (b - μ) + β, s = γ/√(v + ε)."""

    def __init__(self, model: onnx.ModelProto) -> None:
        super().__init__()
        self.known = {t.name: numpy_helper.to_array(t).astype(np.float64) for t in model.graph.initializer}
        norms = {n.input[0]: n for n in model.graph.node if n.op_type == "BatchNormalization"}
        self.steps: list[tuple[str, list[str], str]] = []
        self.made = torch.nn.ModuleDict()
        self.ends = model.graph.input[0].name, model.graph.output[0].name
        for i, node in enumerate(model.graph.node):
            if node.op_type == "BatchNormalization":
                continue
            norm, key = norms.get(node.output[0]), f"{node.op_type}_{i}"
            self.made[key] = self._module(node, norm)
            inputs = [name for name in node.input if name not in self.known]
            self.steps.append((key, inputs, (norm or node).output[0]))
        self.double().eval()

    def _module(self, node: onnx.NodeProto, norm: onnx.NodeProto | None) -> Any:
        at = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        match node.op_type:
            case "Conv":
                return self._conv(node, at, norm)
            case "Gemm":
                weight = self.known[node.input[1]]
                made = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=len(node.input) > 2)
                return self._filled(made, weight, self.known[node.input[2]] if len(node.input) > 2 else None)
            case "MaxPool":
                return torch.nn.MaxPool2d(at["kernel_shape"], at["strides"], at["pads"][:2])
            case "Clip":
                return torch.nn.ReLU6()
        return {
            "Relu": torch.nn.ReLU(),
            "GlobalAveragePool": torch.nn.AdaptiveAvgPool2d(1),
            "Flatten": torch.nn.Flatten(),
            "Add": layer.Sum(),
        }[node.op_type]

    def _conv(self, node: onnx.NodeProto, at: dict[str, Any], norm: onnx.NodeProto | None) -> Any:
        weight = self.known[node.input[1]]
        bias = self.known[node.input[2]] if len(node.input) > 2 else np.zeros(len(weight))
        if norm is not None:
            gamma, beta, mean, variance = (self.known[name] for name in norm.input[1:])
            s = gamma / np.sqrt(variance + 1e-5)
            weight, bias = weight * s[:, None, None, None], (bias - mean) * s + beta
        low, high = at["pads"][:2], at["pads"][2:]
        made = torch.nn.Conv2d(
            weight.shape[1] * at["group"],
            len(weight),
            at["kernel_shape"],
            at["strides"],
            padding=tuple(low),
            groups=at["group"],
        )
        assert low == high, "torch pads alike on both sides"
        return self._filled(made, weight, bias)

    @staticmethod
    def _filled(made: Any, weight: NDArray[np.float64], bias: NDArray[np.float64] | None) -> Any:
        made.weight.data = torch.tensor(weight)
        if bias is not None:
            made.bias.data = torch.tensor(bias)
        return made

    def forward(self, x: Any) -> Any:
        values = {self.ends[0]: x}
        for key, inputs, output in self.steps:
            given = [values[name] for name in inputs]
            values[output] = self.made[key](torch.stack(given, -1) if len(given) > 1 else given[0])
        return values[self.ends[1]]


def relevance(net: Net, composite: Any, x: NDArray[Any], target: int) -> NDArray[np.float64]:
    """Relevance of x for the logit of a class, starting with its value."""
    image = torch.tensor(x, dtype=next(net.parameters()).dtype, requires_grad=True)
    with composite.context(net) as changed:
        y = changed(image)
        start = torch.zeros_like(y)
        start[:, target] = y[:, target].detach()
        (found,) = torch.autograd.grad(y, image, start)
    return np.asarray(found.detach().numpy())
