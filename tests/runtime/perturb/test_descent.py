"""Adam against its formula and torch, and files cut down to a few tensors."""

from __future__ import annotations

import logging

import numpy as np
import pytest

import onnxplain
from onnxplain import models
from onnxplain.runtime.opening import open_session
from onnxplain.runtime.perturb.descent import Adam, trimmed
from tests.runtime.small import gradient, picture


def test_the_first_step_of_adam_is_its_rate() -> None:
    x, _ = Adam(0.25).step(np.zeros(3), [2.0, -1e-3, 0.0], None)
    np.testing.assert_allclose(x, [-0.25, 0.25, 0.0], rtol=1e-4)


def test_adam_is_that_of_torch() -> None:
    torch = pytest.importorskip("torch")
    known = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.Adam([known], lr=0.1, betas=(0.9, 0.999), eps=1e-8)
    x, moments, scale = np.array([1.0, -2.0, 0.5]), None, np.array([1.0, 20.0, 0.1])
    for _ in range(50):
        optimiser.zero_grad()
        (torch.from_numpy(scale) * known**4).sum().backward()
        optimiser.step()
        x, moments = Adam().step(x, 4 * scale * x**3, moments)
    np.testing.assert_allclose(x, known.detach().numpy(), rtol=1e-9)


def test_a_trimmed_file_says_the_same(caplog: pytest.LogCaptureFixture) -> None:
    explainer = onnxplain.compile(models.path("mnist_lenet"), "saliency", target=3, threads=1)
    head = str(explainer.card.target["head"])
    small = trimmed(explainer.model, ["attribution", head])
    x = np.random.default_rng(0).random((2, 1, 28, 28), np.float32)
    name = explainer.model.graph.input[0].name
    with caplog.at_level(logging.WARNING):
        found = open_session(small, threads=1).run(None, {name: x})
    assert not caplog.records  # the metadata on primitives fits what is left
    np.testing.assert_array_equal(found[0], explainer(x).attribution)
    assert [value.name for value in small.graph.output] == ["attribution", head]


def test_what_is_not_needed_is_gone() -> None:
    explainer = onnxplain.compile(picture(squash="Softmax"), "saliency", target=1, reduce="maxabs", threads=1)
    small = trimmed(explainer.model, ["attribution"])
    assert "heatmap" in {value.name for value in explainer.model.graph.output}
    assert len(small.graph.node) < len(explainer.model.graph.node)
    assert not {"Softmax"} & {node.op_type for node in small.graph.node}
    read = {name for node in small.graph.node for name in node.input}
    assert {tensor.name for tensor in small.graph.initializer} <= read
    x = np.zeros((1, 2, 3, 4), np.float32)
    (found,) = open_session(small, threads=1).run(None, {"x": x})
    np.testing.assert_array_equal(found, gradient(1))
