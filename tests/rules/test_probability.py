"""Cotangents of probabilities and of the cross-entropy, against torch in float64 and where float32 runs out."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import helper

import onnxplain
from onnxplain import OptionError
from tests.runtime.small import model_of

torch = pytest.importorskip("torch")

Array = npt.NDArray[Any]
WEIGHT = np.random.default_rng(3).normal(size=(6, 4)).astype(np.float32)
X = np.random.default_rng(4).normal(size=(3, 6)).astype(np.float32)
CLASSES = [0, 2, 3]
EXACT = 2e-6
"""Of the largest element: some ten float32 operations."""


def layer(
    squash: str | None, scale: float = 1.0, tail: tuple[int, ...] = (4,), axis: int = -1
) -> onnx.ModelProto:
    """z = x W scale, of shape (N, *tail), behind Softmax, ... if asked for."""
    last = "scores" if squash is None else "z"
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["flat" if len(tail) > 1 else last]),
        *([helper.make_node("Reshape", ["flat", "shape"], [last])] if len(tail) > 1 else []),
    ]
    if squash is not None:
        more: dict[str, Any] = {} if squash == "Sigmoid" else {"axis": axis}
        nodes.append(helper.make_node(squash, ["z"], ["scores"], **more))
    size = int(np.prod(tail))
    parameters: dict[str, Array] = {
        "w": (scale * np.tile(WEIGHT, (1, -(-size // 4)))[:, :size]).astype(np.float32)
    }
    if len(tail) > 1:
        parameters["shape"] = np.asarray([-1, *tail], np.int64)
    return model_of(nodes, {"x": ["N", 6]}, {"scores": ["N", *tail]}, parameters)


def gradients(squash: str | None, kind: str) -> Array:
    """∂p_c/∂x or ∂CE(z, c)/∂x of the three rows, by autograd."""
    x = torch.tensor(X, dtype=torch.float64, requires_grad=True)
    z = x @ torch.tensor(WEIGHT, dtype=torch.float64)
    hot = torch.eye(4, dtype=torch.float64)[CLASSES]
    if kind == "probability":
        p = torch.sigmoid(z) if squash == "Sigmoid" else torch.softmax(z, dim=1)
        (p * hot).sum().backward()
    elif squash == "Sigmoid":
        torch.nn.functional.binary_cross_entropy_with_logits(z, hot, reduction="sum").backward()
    else:
        torch.nn.functional.cross_entropy(z, torch.tensor(CLASSES), reduction="sum").backward()
    assert x.grad is not None
    return np.asarray(x.grad.numpy())


def error(got: Array, want: Array) -> float:
    return float(np.abs(got - want).max() / np.abs(want).max())


@pytest.mark.parametrize("squash", [None, "Softmax", "LogSoftmax", "Sigmoid"])
def test_the_gradient_of_the_cross_entropy(squash: str | None) -> None:
    found = onnxplain.compile(layer(squash), "fgsm")(X, target=CLASSES).results["gradient"]
    assert error(found, gradients(squash, "cross-entropy")) < EXACT


@pytest.mark.parametrize("head", ["logits", "prob"])
@pytest.mark.parametrize("squash", [None, "Softmax", "LogSoftmax", "Sigmoid"])
def test_the_gradient_of_the_probability(squash: str | None, head: str) -> None:
    """Read off a window of one pixel, whose deviation from 0 is x itself: the map is x ∂p_c/∂x."""
    nodes = layer(squash)
    inner = nodes.graph.node
    inner.insert(0, helper.make_node("Flatten", ["picture"], ["x"], axis=1))
    del nodes.graph.input[:]
    nodes.graph.input.append(helper.make_tensor_value_info("picture", onnx.TensorProto.FLOAT, ["N", 1, 2, 3]))
    made = onnxplain.compile(nodes, "pda.gradient", k=1, head=head)
    found = made(X.reshape(3, 1, 2, 3), target=CLASSES).attribution.reshape(3, 6)
    assert error(found, X * gradients(squash, "probability")) < EXACT


@pytest.mark.filterwarnings("default::onnxplain.ExplainWarning")
def test_a_confident_model_keeps_its_direction() -> None:
    """At p_c = 1 - 1e-40 the cross-entropy's gradient is 0 in float32; its sign is that of z_c - z_next."""
    w = np.array([[90.0, -90.0, -300.0], [1.0, 3.0, -2.0]], np.float32)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    model = model_of(nodes, {"x": ["N", 2]}, {"y": ["N", 3]}, {"w": w})
    result = onnxplain.compile(model, "fgsm", eps=0.5)(np.array([[1.0, 0.0]]))
    assert np.abs(result.results["gradient"]).max() < 1e-30
    assert result.results["adversarial"].tolist() == [[0.5, 0.5]]  # away from class 0, towards 1


def test_a_confident_probability_keeps_its_size() -> None:
    """p_c (1 - p_c) at p_c = 1 - e^-30: e^-30, not the rounding of p_c."""
    model = model_of(
        [helper.make_node("Flatten", ["x"], ["y"], axis=1)], {"x": ["N", 1, 1, 2]}, {"y": ["N", 2]}, {}
    )
    found = onnxplain.compile(model, "pda.gradient", k=1)(np.array([[[[30.0, 0.0]]]])).attribution
    assert found.ravel() == pytest.approx([30 * np.exp(-30.0), 0.0], rel=1e-5)


def test_ties_and_equal_logits() -> None:
    model = model_of(
        [helper.make_node("Flatten", ["x"], ["y"], axis=1)], {"x": ["N", 1, 1, 3]}, {"y": ["N", 3]}, {}
    )
    made = onnxplain.compile(model, "pda.gradient", k=1, baseline=-1.0)
    found = made(np.zeros((1, 1, 1, 3)), target=1).attribution.ravel()
    assert found == pytest.approx([-1 / 9, 2 / 9, -1 / 9], rel=1e-6)


def test_classes_along_another_axis() -> None:
    """A softmax over axis 1 of (N, 2, 3): only the cell of the class counts."""
    model = layer("Softmax", tail=(2, 3), axis=1)
    found = onnxplain.compile(model, "fgsm")(X[:1], target=4).results["gradient"]
    x = torch.tensor(X[:1], dtype=torch.float64, requires_grad=True)
    z = (x @ torch.tensor(np.tile(WEIGHT, (1, 2))[:, :6], dtype=torch.float64)).reshape(2, 3)
    (-torch.log_softmax(z, dim=0)[1, 1]).backward()
    assert x.grad is not None
    assert error(found, x.grad.numpy()) < EXACT


@pytest.mark.parametrize("method", ["fgsm", "pda.gradient"])
def test_where_no_class_can_be_told(method: str) -> None:
    with pytest.raises(OptionError, match=r"has shape \['N', 2, 2\] and no Softmax or Sigmoid behind it"):
        _image(method, layer(None, tail=(2, 2)))


def test_a_single_number_stands_for_itself() -> None:
    """No softmax is taken over one class: pda.gradient of "probability" is that of the number; fgsm wants classes."""
    with pytest.raises(OptionError, match="two classes or more"):
        _image("fgsm", layer(None, tail=(1,)))
    model = model_of(
        [helper.make_node("Flatten", ["x"], ["f"], axis=1), helper.make_node("MatMul", ["f", "w"], ["y"])],
        {"x": ["N", 1, 1, 3]},
        {"y": ["N", 1]},
        {"w": np.array([[1.0], [-2.0], [3.0]], np.float32)},
    )
    found = [
        onnxplain.compile(model, "pda.gradient", k=1, score=score)(np.ones((1, 1, 1, 3))).attribution
        for score in ("probability", "logit")
    ]
    assert np.abs(found[0]).max() > 0.5
    np.testing.assert_array_equal(found[0], found[1])


def _image(method: str, model: onnx.ModelProto) -> None:
    model.graph.node.insert(0, helper.make_node("Flatten", ["picture"], ["x"], axis=1))
    del model.graph.input[:]
    model.graph.input.append(helper.make_tensor_value_info("picture", onnx.TensorProto.FLOAT, ["N", 1, 2, 3]))
    options: dict[str, Any] = {"k": 1} if method == "pda.gradient" else {}
    onnxplain.compile(model, method, **options)


def test_the_cross_entropy_is_taken_of_logits() -> None:
    with pytest.raises(OptionError, match="taken of logits; leave head="):
        onnxplain.compile(layer("Softmax"), "fgsm", head="prob")
