"""Two models as one: what runs is both, one after the other."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper

from onnxplain import OptionError
from onnxplain.rewriter.compose import composed
from onnxplain.rewriter.load import load
from tests.runtime.small import model_of, picture

SHAPE = ("N", 2, 3, 4)


def tanh(opset: int = 18, ir: int = 10, dtype: type = np.float32) -> onnx.ModelProto:
    """x -> scores = tanh(x), and its double, under the names of `picture`."""
    nodes = [
        helper.make_node("Tanh", ["x"], ["scores"], name="one"),
        helper.make_node("Add", ["scores", "scores"], ["flat"]),
    ]
    made = model_of(nodes, {"x": SHAPE}, {"scores": SHAPE, "flat": SHAPE}, dtype=dtype)
    made.opset_import[0].version, made.ir_version = opset, ir
    return made


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found = session.run(None, {session.get_inputs()[0].name: x})
    assert len(found) == 1 or len(session.get_outputs()) == 2
    return np.asarray(found[0])


@pytest.mark.parametrize(("first", "second"), ((18, 18), (13, 18), (20, 18), (18, 21)))
def test_both_run_one_after_the_other(first: int, second: int) -> None:
    x = np.random.default_rng(0).normal(size=(3, 2, 3, 4)).astype(np.float32)
    one, two = tanh(first, 8 if first < 18 else 10), picture(squash="Softmax")
    two.opset_import[0].version = second
    before = one.SerializeToString(), two.SerializeToString()
    whole, image = composed(load(one), load(two), "x")
    onnx.checker.check_model(whole, full_check=True)
    assert (one.SerializeToString(), two.SerializeToString()) == before
    assert [value.name for value in whole.graph.output] == ["scores"]
    assert image == "generator/scores" and [value.name for value in whole.graph.input] == ["generator/x"]
    np.testing.assert_allclose(run(whole, x), run(two, run(one, x)), rtol=1e-6)


def test_names_that_are_taken() -> None:
    two = picture()
    two.graph.node[0].output[0] = two.graph.node[1].input[0] = "generator/x"
    whole, image = composed(load(tanh()), load(two), "x")
    assert image == "_generator/scores"
    x = np.ones((1, 2, 3, 4), np.float32)
    np.testing.assert_allclose(run(whole, x), run(picture(), np.tanh(x)), rtol=1e-5)


def test_what_does_not_fit() -> None:
    with pytest.raises(OptionError, match="gives float64, the model's input 'x' takes float32"):
        composed(load(tanh(dtype=np.float64)), load(picture()), "x")
    flat = model_of([helper.make_node("Relu", ["a"], ["b"])], {"a": ["N", 24]}, {"b": ["N", 24]})
    with pytest.raises(
        OptionError, match=r"output 'b' has shape \[N, 24\], the model's input 'x' takes \[N, 2, 3, 4\]"
    ):
        composed(load(flat), load(picture()), "x")
