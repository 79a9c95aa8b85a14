"""What compiling proves of the forward pass: equal outputs, rows that are what they are alone, and what is told."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import onnxplain
from onnxplain import ExplainWarning, ModelError, TargetError, models
from onnxplain.rewriter.card import PREFIX, read_card
from onnxplain.rewriter.load import load
from onnxplain.runtime.proof import distance, prove
from tests.rewriter.nets import net

IMAGE = "g (float[N,2,4,4] x) => (float[N,A,B,C] y)"


def proof_of(model: onnx.ModelProto | Path, method: str = "saliency", **options: Any) -> dict[str, Any]:
    return dict(onnxplain.compile(model, method, **options).card.proof or {})


def test_the_card_says_what_was_compared_on_what() -> None:
    explainer = onnxplain.compile(models.path("mnist_lenet"))
    found = dict(explainer.card.proof or {})
    assert found["error"] == 0.0 and found["seed"] == 0 and found["rows"] == 2
    assert list(found["shapes"].values()) == [[1, 1, 28, 28]] and len(found["outputs"]) == 1
    assert 0 <= found["rows_error"] < 1e-5 and 0 <= found["maps_error"] < 1e-3
    assert read_card(explainer.model).proof == found


def test_a_file_from_before_opens() -> None:
    model = onnxplain.compile(models.path("mnist_lenet")).model
    kept = [entry for entry in model.metadata_props if entry.key != PREFIX + "proof"]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    assert read_card(model).proof is None


@pytest.mark.parametrize(
    ("opset", "text"),
    [
        (7, 'y = Upsample <mode = "linear", scales = [1.0, 1.0, 2.0, 1.5]> (x)'),
        (9, "s = Constant <value = float[4] {1, 1, 3, 1.5}> () y = Upsample (x, s)"),
        (10, "s = Constant <value = float[4] {1, 1, 0.6, 0.5}> () y = Resize (x, s)"),
        (11, "r = Relu(x) y = Softmax <axis = 1> (r)"),
        (12, "r = Hardmax <axis = 1> (x) y = Mul(r, x)"),
    ],
)
def test_a_raised_opset_gives_the_outputs_of_the_own_one(opset: int, text: str) -> None:
    found = proof_of(net(f"{IMAGE} {{ {text} }}", opset=opset), target="cotangent")
    assert found["error"] == 0.0 and found["rows"] == 2


@pytest.mark.parametrize(
    "method", ["integrated-gradients", "smoothgrad", "linearscope.dual", "linearscope.residual"]
)
def test_files_whose_forward_pass_is_not_alone(method: str) -> None:
    """In a loop, or made of other nodes: the whole file runs."""
    found = proof_of(onnx.load(models.path("mnist_lenet")), method)
    assert found["error"] < 1e-5, found


def test_half_precision_is_near() -> None:
    found = proof_of(onnx.load(models.path("mnist_lenet")), precision="float16")
    assert 0 < found["error"] < 1e-2


def tampered(node: str) -> tuple[onnx.ModelProto, onnxplain.Explainer]:
    """A model, and its file after somebody put another operator in the place of one."""
    model = net("g (float[N,3] x) => (float[N,3] y, float[N,3] z) { y = Relu(x) z = Tanh(y) }")
    explainer = onnxplain.compile(model)
    changed = next(entry for entry in explainer.model.graph.node if entry.op_type == node)
    changed.op_type = "Sigmoid"
    return model, explainer


@pytest.mark.parametrize(("node", "output"), [("Relu", "y"), ("Tanh", "z")])
def test_the_first_output_that_differs_is_named(node: str, output: str) -> None:
    model, explainer = tampered(node)
    with pytest.raises(
        ModelError, match=rf"output '{output}' of the file is off by 0\.\d+ of its largest value"
    ):
        prove(load(model), explainer.model, explainer.card)


def test_rows_that_depend_on_each_other_are_refused() -> None:
    """y = x - the mean over the batch."""
    model = net("g (float[N,3] x) => (float[N,3] y) { r = Relu(x) y = Neg(r) }")
    explainer = onnxplain.compile(model)
    mixed = net(
        """g (float[N,3] x) => (float[N,3] y) <int64[1] a = {0}> {
        m = ReduceMean(x, a) r = Sub(x, m) y = Neg(r) }"""
    )
    explainer.model.graph.CopyFrom(mixed.graph)
    with pytest.raises(
        TargetError, match=r"'y' of a batch of 2 is not what a row gives alone \(off by .* shapes="
    ):
        prove(load(mixed), explainer.model, explainer.card)


def test_a_model_that_cannot_be_run_is_told() -> None:
    body = "<int64[2] k = {5, 5}> { j = Add(i, k) y = Reshape(x, j) }"
    model = net(f"g (float[N,3] x, int64[2] i) => (float[N,3] y) {body}")
    with pytest.warns(
        ExplainWarning, match="the forward pass is not proved: the model fails on random inputs"
    ):
        explainer = onnxplain.compile(model, target="cotangent")
    assert set(explainer.card.proof or {}) == {"unproved"}


def test_a_model_that_takes_too_much_is_not_run() -> None:
    pads = "<int64[8] p = {0, 0, 0, 0, 0, 0, 60000, 60000}, int64[2] a = {2, 3}>"
    model = net(f"g (float[N,1,4,4] x) => (float[N,1,A,B] y) {pads} {{ r = Pad(x, p) y = ReduceMean(r, a) }}")
    with pytest.warns(ExplainWarning, match="not proved: a run of it would take about 14"):
        found = proof_of(model, target="cotangent")
    assert set(found) == {"unproved"}


@pytest.mark.parametrize("channels", (10**7, 2**31))
def test_an_input_that_takes_too_much_is_not_made(channels: int) -> None:
    model = net(
        f"g (float[N,{channels},6,6] x) => (float[N,{channels},1,1] y) {{ y = GlobalAveragePool(x) }}"
    )
    with pytest.warns(ExplainWarning, match="not proved: a random input of it would take"):
        found = proof_of(model)
    assert set(found) == {"unproved"}


def test_a_loop_is_proved_without_a_word(caplog: pytest.LogCaptureFixture) -> None:
    """The proof runs a shorter loop than the file's: nobody has changed the file."""
    found = proof_of(models.path("mnist_lenet"), "integrated-gradients")
    assert found["outputs"] and not caplog.records


def test_a_model_that_does_not_end_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxplain.runtime.proof_runs.SECONDS", 0.2)
    body = "b (int64 i, bool c, float[N,3] v) => (bool d, float[N,3] w) { d = Identity(c) w = Tanh(v) }"
    model = net(
        f"""g (float[N,3] x) => (float[N,3] y, float[N,3] t) <int64 m = {{1000000000}}, bool yes = {{1}}> {{
        y = Relu(x) t = Loop(m, yes, x) <body = {body}> }}"""
    )
    with pytest.warns(ExplainWarning, match="not proved: the model runs for more than 0.2 s"):
        found = proof_of(model, output="y")
    assert set(found) == {"unproved"}


def test_a_model_that_onnxruntime_does_not_take_is_told() -> None:
    model = net("g (float[N,3] x) => (float[N,3] y) { a = Add(x, x) y = Relu(a) }", opset=6)
    with pytest.warns(ExplainWarning, match="onnxruntime does not run the model at its own opset"):
        explainer = onnxplain.compile(model)
    assert explainer(np.ones((1, 3), np.float32), 1).attribution.tolist() == [[0, 2, 0]]


def test_sizes_are_tried_until_the_model_runs() -> None:
    """Twelve positions: 32 steps are too many, 8 are not."""
    model = net(
        """g (float[N,S,2] x) => (float[N,S,2] y) <int64[1] zero = {0}, int64[1] one = {1}, int64[1] two = {2}> {
        s = Shape(x) n = Slice(s, one, two) p = Slice(w, zero, n) y = Add(x, p) }"""
    )
    model.graph.initializer.append(numpy_helper.from_array(np.ones((12, 2), np.float32), "w"))
    found = proof_of(model, target="cotangent")
    assert found["shapes"] == {"x": [1, 8, 2]}


def test_a_fixed_batch_promises_no_rows() -> None:
    model = net("g (float[2,3] x) => (float[2,3] y) { y = Relu(x) }")
    assert "rows" not in proof_of(model) and proof_of(model)["shapes"] == {"x": [2, 3]}


def test_distance() -> None:
    a = np.array([1.0, np.nan, np.inf, -2.0], np.float32)
    assert distance(a, a) == 0.0
    assert distance(a, np.array([1.0, np.nan, np.inf, -4.0], np.float32)) == pytest.approx(0.5)
    assert distance(a, np.array([1.0, 3.0, np.inf, -2.0], np.float32)) == np.inf
    assert distance(a, np.array([1.0, np.nan, -np.inf, -2.0], np.float32)) == np.inf
    assert distance(np.array([1, 2]), np.array([1, 3])) == np.inf
    assert distance(np.array([], np.float32), np.array([], np.float32)) == 0.0
    assert distance(np.zeros(2, np.float32), np.zeros(3, np.float32)) == np.inf


def test_the_proof_is_plain_json_and_the_same_twice() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first, second = (onnxplain.compile(models.path("mnist_lenet")).card.proof for _ in range(2))
    assert json.loads(json.dumps(first)) == second
