"""The smallest step that changes the class."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

from onnxplain import ExplainWarning, ImageError, OptionError, models
from onnxplain.rewriter.load import load
from onnxplain.runtime.perturb.fgsm import SWEEP, smallest_flip
from tests.runtime.small import model_of


def two(scale: float = 1.0) -> onnx.ModelProto:
    """y = x scale: the class is that of the larger of two numbers."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    return model_of(nodes, {"x": ["N", 2]}, {"y": ["N", 2]}, {"w": scale * np.eye(2, dtype=np.float32)})


def test_the_first_step_that_crosses_the_boundary() -> None:
    """A margin m is crossed by steps above m / 2, or there, where the tie goes to the other class."""
    x = np.array([[0.25, 0.0], [0.0, 1.0], [0.0, 9.0]])
    found = smallest_flip(two(), x, [0.5, 0.125, 0.2, 1.0])
    assert found.eps == (0.125, 0.2, 0.5, 1.0)
    assert found.before.tolist() == [0, 1, 1]
    assert found.smallest.tolist() == [0.2, 0.5, np.inf]
    assert found.after.T.tolist() == [[0, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 1]]  # a tie is the first class
    assert found.pictures[2].tolist() == [1.0, 8.0]


def test_the_label_decides_the_direction() -> None:
    x = np.array([[0.25, 0.0]])
    assert smallest_flip(two(), x, [1.0], label=1).smallest.tolist() == [np.inf]
    assert smallest_flip(two(), x, [1.0], label=[0]).smallest.tolist() == [1.0]


def test_a_model_that_is_sure_of_itself() -> None:
    """z_0 - z_1 = 500: the gradient of the cross-entropy is 0 in float32, its sign is not."""
    assert smallest_flip(two(1000.0), np.array([[0.5, 0.0]]), [0.1, 0.3]).smallest.tolist() == [0.3]


def test_pictures_that_no_step_moves_are_told() -> None:
    with pytest.warns(ExplainWarning, match="step is zero everywhere in rows 0, 1 of 2"):
        found = smallest_flip(two(0.0), np.eye(2), [0.1, 0.3])
    assert np.isinf(found.smallest).all() and np.array_equal(found.pictures, np.eye(2))


def test_digits() -> None:
    """Steps are grey levels and pictures stay pixels, by the record beside the model; LeNet's input is 0 to 1 too, so
    that nothing changes where the record is unknown and the bounds are given."""
    images, labels = models.digits()
    x = (images[:8, None] / 255).astype(np.float32)
    path = models.path("mnist_lenet")
    found = smallest_flip(path, x, [step / 255 for step in (1, 32, 64, 128)], threads=1)
    assert found.before.tolist() == labels[:8].tolist()
    assert (found.after[0] == found.before).all() and np.isfinite(found.smallest).any()
    assert found.pictures.min() >= 0 and found.pictures.max() <= 1
    flipped = np.isfinite(found.smallest)
    moved = np.abs(found.pictures - x).max(axis=(1, 2, 3))
    assert moved[flipped] == pytest.approx(found.smallest[flipped], abs=1e-6)
    same = smallest_flip(load(path), x[:2], [64 / 255], lo=0.0, hi=1.0, threads=1)
    assert same.after.tolist() == [found.after[2][:2].tolist()]


def test_the_sweep() -> None:
    assert [step * 255 for step in SWEEP] == pytest.approx([0.25, 0.5, 1, 2, 4, 8])


def test_what_does_not_fit() -> None:
    x = np.zeros((1, 2))
    for eps in ([], [-0.1, 0.5], [float("nan")], [float("inf")]):
        with pytest.raises(OptionError, match="give at least one step, none of them below 0"):
            smallest_flip(two(), x, eps)
    with pytest.raises(ImageError, match=r"shape \[0, 2\]; give at least one picture"):
        smallest_flip(two(), x[:0])
    with pytest.raises(OptionError, match=r"input .x. takes \[N, 2\]|axes instead of 2"):
        smallest_flip(two(), np.zeros((1, 2, 2)))
