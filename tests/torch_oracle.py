"""An independent executor of ONNX graphs in torch, whose backward pass at rectifiers can be exchanged.

It shares no code with the compiler: operators are torch's, the backward pass is autograd's. Gated methods differ
from the gradient only where a rectifier (Relu, Clip from 0) sends the cotangent back: see `torch_ops.Rectify`.

Kinks. A float32 activation within rounding of a kink may fall on the other side in float64, and one flipped mask
changes the map visibly in a deep net. `observe` therefore reads, from the float32 forward pass of onnxruntime, the
input of every node with kinks; given to `Oracle` as `seen`, it decides which piece of a piecewise function is taken
and which cell wins a MaxPool, while all arithmetic stays in float64.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

pytest.importorskip("torch")
import torch

from .torch_ops import OPS, Call, Rule, tensor

Array = NDArray[Any]
Feeds = Mapping[str, Array]

KINKED = ("Relu", "Clip", "LeakyRelu", "HardSwish", "HardSigmoid", "MaxPool")
PASSING = ("Identity", "Dropout", "Reshape", "Flatten")
SQUASHING = ("Softmax", "LogSoftmax", "Sigmoid")


def observe(model: onnx.ModelProto, feeds: Feeds) -> dict[str, Array]:
    """The outputs and the inputs of all kinked nodes, as onnxruntime computes them without graph optimisation."""
    initial = {value.name for value in model.graph.input}
    names = {node.input[0] for node in model.graph.node if node.op_type in KINKED} - initial
    own = [value.name for value in model.graph.output]
    added = sorted(names - set(own))
    model.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in added)
    try:
        data = model.SerializeToString()
    finally:
        del model.graph.output[len(own) :]
    values = [np.asarray(value) for value in session(data).run(None, dict(feeds))]
    return dict(zip([*own, *added], values, strict=True))


def session(data: bytes) -> ort.InferenceSession:
    """onnxruntime without graph optimisation: no fusion, so the forward pass rounds alike in every file."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    # Packing the weights costs more time and memory than a single run gives back.
    options.add_session_config_entry("session.disable_prepacking", "1")
    return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def logits(model: onnx.ModelProto) -> str:
    """The tensor in front of a final Softmax, LogSoftmax or Sigmoid, else the first output."""
    makers = {name: node for node in model.graph.node for name in node.output}
    name: str = model.graph.output[0].name
    node = makers.get(name)
    while node is not None and node.op_type in PASSING:
        node = makers.get(node.input[0])
    return node.input[0] if node is not None and node.op_type in SQUASHING else name


class Oracle:
    """The forward pass of a model in float64, kept for backward passes.

    feeds: every input. wrt: the input to differentiate. head: the tensor to start from. seen: from `observe`.
    Raises NotImplementedError for an operator it does not know.
    """

    def __init__(
        self, model: onnx.ModelProto, feeds: Feeds, wrt: str, head: str, seen: Feeds | None = None
    ) -> None:
        self.rule = Rule()
        self.values: dict[str, Any] = {name: tensor(array) for name, array in feeds.items()}
        self.x = self.values[wrt].requires_grad_()
        weights = {entry.name: entry for entry in model.graph.initializer}
        opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
        last = {name: i for i, node in enumerate(model.graph.node) for name in node.input}
        for i, node in enumerate(model.graph.node):
            self._run(node, opset, weights, seen or {})
            for name in node.input:
                # autograd keeps what the backward pass needs; the rest would fill the memory.
                if last[name] == i and name in self.values and name not in (wrt, head):
                    del self.values[name]
        self.head = self.values[head]

    def _run(self, node: onnx.NodeProto, opset: int, weights: Mapping[str, TensorProto], seen: Feeds) -> None:
        if node.op_type not in OPS:
            raise NotImplementedError(f"the oracle has no {node.op_type}")
        x: list[Any] = [
            None if not name else self.values[name] if name in self.values else _weight(weights[name])
            for name in node.input
        ]
        attrs = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
        as_seen = seen.get(node.input[0]) if node.input else None
        reference = torch.from_numpy(as_seen) if as_seen is not None else x[0].detach() if x else None
        result = OPS[node.op_type](Call(node, x, attrs, opset, self.rule, reference))
        results = result if isinstance(result, tuple) else (result,)
        self.values.update(zip(node.output, results, strict=False))

    def pull(self, cotangent: Array, rule: str = "plain") -> Array:
        """The cotangent of the explained input, float64, for that of the head."""
        self.rule.name = rule
        (gradient,) = torch.autograd.grad(self.head, self.x, tensor(cotangent), retain_graph=True)
        return np.asarray(gradient.numpy())

    def one_hot(self) -> Array:
        """A cotangent that picks the largest element of the head, per sample."""
        flat = self.head.detach().reshape(self.head.shape[0], -1)
        hot = torch.zeros_like(flat).scatter_(1, flat.argmax(1, keepdim=True), 1.0)
        return np.asarray(hot.reshape(self.head.shape).numpy())


def _weight(entry: TensorProto) -> Any:
    return tensor(numpy_helper.to_array(entry))
