"""The shipped checkers pass what is right and stop what is wrong."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

from onnxplain.rewriter.compile import Request, compile_model
from onnxplain.rewriter.emit import Emit
from onnxplain.rewriter.errors import NotLinearError
from onnxplain.rewriter.graph import Value
from onnxplain.rewriter.linear import Local, Scale
from onnxplain.rewriter.rules import Rules
from onnxplain.rewriter.site import Site
from onnxplain.rewriter.testing import check_adjoint, check_forward_unchanged, check_tangent
from onnxplain.rules.gradient import GRADIENT
from onnxplain.rules.registry import find
from tests.rules.build import one_node
from tests.rules.forward import Runner

X = np.linspace(-2, 2, 12, dtype=np.float32).reshape(3, 4)
TANH = one_node("Tanh", {"x": (["N", 4], np.float32)}, rank=2)


class Lopsided:
    """push and pull differ: not a linear map and its transpose."""

    def push(self, g: Emit, t: Value) -> Value:
        return t

    def pull(self, g: Emit, ct: Value) -> Value:
        return g.Mul(ct, 1.1)


def _rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_the_gradient_passes() -> None:
    check_adjoint(TANH, GRADIENT, {"x": X}, _rng(), run=Runner())
    check_adjoint(TANH, find("saliency"), {"x": X[:1]}, _rng(), run=Runner(), rows=5)
    check_tangent(TANH, GRADIENT, {"x": X}, _rng(), run=Runner())


def test_a_map_that_is_not_the_transpose() -> None:
    def rule(site: Site, g: Emit) -> Local:
        return Local(Lopsided())

    with pytest.raises(AssertionError, match="<push t, c> = "):
        check_adjoint(TANH, GRADIENT | {"Tanh": rule}, {"x": X}, _rng(), run=Runner())


def test_a_map_that_is_not_the_derivative() -> None:
    def rule(site: Site, g: Emit) -> Local:
        return Local(Scale(1.0))

    rules: Rules = GRADIENT | {"Tanh": rule}
    check_adjoint(TANH, rules, {"x": X}, _rng(), run=Runner())
    with pytest.raises(AssertionError, match="push is off by"):
        check_tangent(TANH, rules, {"x": X}, _rng(), run=Runner())


def test_a_gated_method_has_no_push() -> None:
    relu = one_node("Relu", {"x": (["N", 4], np.float32)}, rank=2)
    with pytest.raises(NotLinearError):
        check_adjoint(relu, find("guided-backprop"), {"x": X}, _rng(), run=Runner())


def test_forward_outputs() -> None:
    explanation, _ = compile_model(TANH, find("saliency"), Request(target="cotangent", head="prob"))
    feeds = {"x": X, "cotangent": X}
    check_forward_unchanged(TANH, explanation, feeds, run=Runner())
    other = onnx.ModelProto()
    other.CopyFrom(TANH)
    other.graph.node[0].CopyFrom(helper.make_node("Sigmoid", ["x"], ["y"]))
    with pytest.raises(AssertionError, match="'y' changed"):
        check_forward_unchanged(other, explanation, feeds, run=Runner())
