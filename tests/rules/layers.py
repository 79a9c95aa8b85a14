"""Single layers with weights, as models and as dense matrices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tests.rules.forward import session

Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class Case:
    """y = A x + b: an operator with its weight and attributes. x: the shape of one sample. b: length of the bias, 0 for
    none. left: the weight is the first operand. turned: x is transposed in front of the node, which turns it back."""

    op: str
    x: tuple[int, ...]
    w: tuple[int, ...]
    b: int = 0
    attrs: tuple[tuple[str, Any], ...] = ()
    left: bool = False
    turned: bool = False

    def model(self, *, bias: bool, rectified: bool = False, seed: int = 0) -> onnx.ModelProto:
        rng = np.random.default_rng(seed)
        known = {"w": rng.normal(size=self.w).astype(np.float32)}
        known["b"] = rng.normal(size=self.b).astype(np.float32)
        if not bias or not self.b:
            del known["b"]
        at, nodes = "x", []
        if rectified:
            nodes.append(helper.make_node("Relu", [at], ["positive"], "relu"))
            at = "positive"
        if self.turned:
            nodes.append(helper.make_node("Transpose", [at], ["t"], "turn", perm=[1, 0]))
            at = "t"
        operands, added = (["w", at] if self.left else [at, "w"]), self.op == "MatMul" and "b" in known
        operands += ["b"] if "b" in known and not added else []
        made = "product" if added else "y"
        nodes.append(helper.make_node(self.op, operands, [made], "layer", **dict(self.attrs)))
        if added:
            nodes.append(helper.make_node("Add", [made, "b"], ["y"], "plus"))
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *self.x])
        return self._wrap(nodes, x, ["N", *self.tail(nodes, known)], known)

    def tail(self, nodes: list[onnx.NodeProto], known: dict[str, np.ndarray]) -> tuple[int, ...]:
        """The shape of one sample of y."""
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, *self.x])
        probe = session(self._wrap(nodes, x, None, known))
        return tuple(np.asarray(probe.run(None, {"x": np.zeros((1, *self.x), np.float32)})[0]).shape[1:])

    @staticmethod
    def _wrap(
        nodes: list[onnx.NodeProto],
        x: onnx.ValueInfoProto,
        y: list[Any] | None,
        known: dict[str, np.ndarray],
    ) -> onnx.ModelProto:
        out = helper.make_tensor_value_info("y", TensorProto.FLOAT, y)
        weights = [numpy_helper.from_array(value, name) for name, value in known.items()]
        graph = helper.make_graph(nodes, "layer", [x], [out], weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def dense(case: Case) -> tuple[Doubles, Doubles]:
    """(A, b) with y = x A + b on flattened samples, by pushing the identity. Every element of A is one weight, or 0
    where no weight connects the two, so float32 gives it exactly."""
    size = int(np.prod(case.x))
    eye = np.eye(size, dtype=np.float32).reshape(size, *case.x)
    a = np.asarray(session(case.model(bias=False)).run(None, {"x": eye})[0], np.float64).reshape(size, -1)
    zero = np.zeros((1, *case.x), np.float32)
    b = np.asarray(session(case.model(bias=True)).run(None, {"x": zero})[0], np.float64).reshape(-1)
    return a, b


def _attrs(**attrs: Any) -> tuple[tuple[str, Any], ...]:
    return tuple(attrs.items())


CASES = {
    "conv": Case("Conv", (3, 5, 5), (4, 3, 3, 3), 4, _attrs(pads=[1, 1, 1, 1])),
    "conv-strided": Case("Conv", (2, 6, 7), (4, 2, 3, 2), 4, _attrs(strides=[2, 3], pads=[1, 0, 0, 1])),
    "conv-dilated": Case("Conv", (2, 7, 7), (3, 2, 3, 3), 3, _attrs(dilations=[2, 2], pads=[2, 1, 2, 1])),
    "conv-groups": Case("Conv", (4, 5, 5), (6, 2, 3, 3), 6, _attrs(group=2, pads=[1, 1, 0, 0])),
    "conv-depthwise": Case("Conv", (3, 5, 5), (6, 1, 3, 3), 6, _attrs(group=3)),
    "conv-1d": Case("Conv", (2, 9), (3, 2, 4), 3, _attrs(strides=[2], pads=[1, 2])),
    "transposed": Case(
        "ConvTranspose", (3, 4, 4), (3, 2, 3, 3), 2, _attrs(strides=[2, 2], pads=[1, 1, 1, 1])
    ),
    "transposed-groups": Case(
        "ConvTranspose",
        (4, 3, 4),
        (4, 3, 3, 2),
        6,
        _attrs(strides=[2, 1], group=2, dilations=[1, 2], output_padding=[1, 0]),
    ),
    "gemm": Case("Gemm", (7,), (7, 5), 5),
    "gemm-alpha": Case("Gemm", (6,), (5, 6), 5, _attrs(alpha=-1.7, beta=0.6, transB=1)),
    "gemm-turned": Case("Gemm", (6,), (6, 4), 4, _attrs(transA=1, alpha=0.5), turned=True),
    "matmul": Case("MatMul", (6,), (6, 5), 5),
    "matmul-tokens": Case("MatMul", (3, 5), (5, 4), 4),
    "matmul-vector": Case("MatMul", (3, 5), (5,)),
    "matmul-batched": Case("MatMul", (2, 3, 4), (1, 2, 4, 3)),
    "matmul-left": Case("MatMul", (4, 3), (5, 4), left=True),
}
