"""Node by node: balances by hand, and rules that lose something or are not transposed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

import onnxplain
from onnxplain import Method
from onnxplain.rewriter.compile import Request
from onnxplain.rewriter.emit import Emit
from onnxplain.rewriter.graph import Value
from onnxplain.rewriter.linear import Chain, Local, Scale
from onnxplain.rewriter.load import load
from onnxplain.rewriter.rules import Rules
from onnxplain.rewriter.site import Site
from onnxplain.runtime.opening import serialize
from onnxplain.runtime.providers import create_session
from onnxplain.runtime.verify import adjointness, again, balances, verify
from onnxplain.runtime.verify.nodes import change
from tests.runtime.small import model_of
from tests.runtime.tampering import net


def run(model: onnx.ModelProto, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    return [np.asarray(value) for value in create_session(serialize(model)).run(None, dict(feeds))]


def layer() -> onnx.ModelProto:
    """y = x (1, 3)ᵀ + 1."""
    nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["y"], "layer")]
    weights = {"w": np.asarray([[1.0], [3.0]], np.float32), "b": np.asarray([1.0], np.float32)}
    return model_of(nodes, {"x": ["N", 2]}, {"y": ["N", 1]}, weights)


FEEDS: dict[str, np.ndarray] = {
    "x": np.asarray([[1.0, 2.0]], np.float32),
    "target": np.asarray([[0]], np.int64),
}


def test_relevance_by_hand() -> None:
    """z = 1 + 6 + 1 = 8: the inputs get 7, the bias 1."""
    (found,) = balances(load(layer()), onnxplain.methods()["lrp.epsilon"], Request(), FEEDS, run=run)
    assert (found.node, found.op, found.rule) == ("layer", "Gemm", "epsilon")
    np.testing.assert_allclose(
        (found.arrived, found.passed, found.offset, found.mass, found.start), (8, 7, 1, 8, 8), rtol=1e-6
    )
    assert abs(found.residual) < 1e-5 and abs(found.share) < 1e-6 and found.error < 1e-6


def test_change_by_hand() -> None:
    """Against 0: Δz = 7."""
    method = onnxplain.methods()["deeplift.rescale"]
    (found,) = balances(load(layer()), method, Request(), FEEDS, run=run, weigh=change)
    np.testing.assert_allclose((found.arrived, found.passed, found.offset), (7, 7, 0), rtol=1e-6)


def test_both_directions_of_every_map() -> None:
    method = onnxplain.methods()["saliency"]
    feeds = {"x": np.random.default_rng(0).normal(size=(2, 2, 8, 8)).astype(np.float32)}
    found = adjointness(load(net("cnn_bias")), method, Request(target="top"), feeds, run=run)
    assert [a.op for a in found] == ["Conv", "Relu", "MaxPool", "Conv", "Relu", "Flatten", "Gemm"]
    assert all(abs(a.pushed) > 1e-3 and a.error < 1e-6 for a in found)


def test_gated_maps_have_no_forward_form() -> None:
    method = onnxplain.methods()["guided-backprop"]
    feeds = {"x": np.ones((1, 2, 8, 8), np.float32)}
    found = adjointness(load(net("cnn_bias")), method, Request(target="top"), feeds, run=run)
    assert [a.op for a in found] == ["Conv", "MaxPool", "Conv", "Flatten", "Gemm"]


class Skewed:
    """A map whose pull is not the transpose of its push."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def push(self, g: Emit, t: Value) -> Value:
        value: Value = self.inner.push(g, t)
        return value

    def pull(self, g: Emit, ct: Value) -> Value:
        value: Value = g.Mul(self.inner.pull(g, ct), 1.01)
        return value


def broken(name: str, wrap: Any) -> Method:
    """A method with another map at its dense layers."""
    method = onnxplain.methods()[name]

    def rules(options: Mapping[str, Any]) -> Rules:
        mine = method.rules(options)

        def gemm(site: Site, g: Emit) -> Local:
            rule = mine.find(site)
            assert rule is not None
            local = rule(site, g)
            return Local(*(None if part is None else wrap(part) for part in local.maps), offset=local.offset)

        return mine | {"Gemm": gemm}

    return replace(method, rules=rules)


@pytest.mark.parametrize(
    ("method", "wrap", "check"),
    [
        ("saliency", Skewed, "per node: pull is the transpose of push"),
        ("lrp.epsilon", lambda part: Chain(part, Scale(1.01)), "per node: relevance is kept"),
        ("deeplift.rescale", lambda part: Chain(part, Scale(1.01)), "per node: the change is kept"),
    ],
)
def test_a_wrong_rule_fails_at_its_node(
    method: str, wrap: Any, check: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    explainer = onnxplain.compile(net("cnn_bias"), method)
    assert not [o for o in verify(explainer, model=net("cnn_bias")).outcomes if o.failed]
    monkeypatch.setattr(again, "find", lambda name: broken(method, wrap))
    (failed,) = (o for o in verify(explainer, model=net("cnn_bias")).outcomes if o.failed)
    assert failed.check == check and "Gemm" in failed.note
    assert failed.measured is not None and failed.measured > 1e-3
