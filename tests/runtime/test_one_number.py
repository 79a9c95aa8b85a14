"""Models with one number a sample, a regression or a binary logit: the number is what is explained and shown, and no
softmax is taken of it, over one class or over the copies of a batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from PIL import Image

import onnxplain
from onnxplain.rewriter.errors import TargetError
from onnxplain.runtime.perturb.probing import Asked, Prober
from onnxplain.runtime.pictures import places_of, probabilities
from tests.rewriter.nets import run
from tests.runtime.small import model_of

SIZE = 9
W = np.random.default_rng(3).standard_normal((3 * SIZE * SIZE, 1)).astype(np.float32)
X = np.random.default_rng(4).standard_normal((1, 3, SIZE, SIZE)).astype(np.float32)
EXACT = 1e-4
"""Of the largest value: one product of 243 terms less another, in float32."""


def regression(shape: str = "N1", end: str | None = None) -> onnx.ModelProto:
    """y = <w, x>, of shape (N, 1) or (N,), perhaps behind a sigmoid."""
    nodes = [helper.make_node("Flatten", ["x"], ["f"]), helper.make_node("MatMul", ["f", "w"], ["z"])]
    last = "z"
    if end is not None:
        nodes.append(helper.make_node(end, [last], ["p"]))
        last = "p"
    if shape == "N":
        nodes.append(helper.make_node("Squeeze", [last, "a"], ["y"]))
    else:
        nodes.append(helper.make_node("Identity", [last], ["y"]))
    weights = {"w": W, "a": np.array([1])} if shape == "N" else {"w": W}
    return model_of(nodes, {"x": ["N", 3, SIZE, SIZE]}, {"y": ["N"] if shape == "N" else ["N", 1]}, weights)


def value(model: onnx.ModelProto, x: np.ndarray) -> float:
    return float(run(model, {"x": x})["y"].ravel()[0])


@pytest.mark.parametrize("shape", ["N1", "N"])
@pytest.mark.parametrize("engine", ["full", "auto"])
def test_occlusion_takes_away_w_x(shape: str, engine: str) -> None:
    want = (W.reshape(3, SIZE, SIZE) * X[0]).sum(0)
    for batch in (1, 7, 32):
        found = onnxplain.perturb(
            regression(shape), X, "occlusion", k=1, stride=1, value=0.0, batch=batch, engine=engine
        )
        assert np.abs(found.maps[0] - want).max() <= EXACT * np.abs(want).max()
        assert found.record["score"] == "output"


@pytest.mark.parametrize("shape", ["N1", "N"])
def test_a_probability_only_where_a_sigmoid_ends_the_model(shape: str) -> None:
    model = regression(shape, "Sigmoid")
    found = onnxplain.perturb(model, X, "occlusion", k=1, stride=1, value=0.0)
    want = np.empty((SIZE, SIZE))
    for i, j in np.ndindex(SIZE, SIZE):
        copy = X.copy()
        copy[:, :, i, j] = 0
        want[i, j] = value(model, X) - value(model, copy)
    assert np.abs(found.maps[0] - want).max() <= EXACT * np.abs(want).max()
    assert found.record["score"] == "probability"


@pytest.mark.parametrize("method", ["rise", "kernel-shap", "lime", "meaningful-perturbation", "pda.mean"])
def test_maps_do_not_depend_on_the_batch(method: str) -> None:
    known: dict[str, dict[str, Any]] = {
        "rise": {"n": 40, "grid": 3},
        "meaningful-perturbation": {"iterations": 5, "cell": 3},
        "pda.mean": {"k": 3, "variant": "marginal", "images": np.concatenate([X, -X])},
    }
    settings = known.get(method, {})
    maps = [
        onnxplain.perturb(regression("N"), X, method, batch=batch, **settings).maps[0] for batch in (1, 8)
    ]
    assert np.isfinite(maps[0]).all()
    assert np.abs(maps[0] - maps[1]).max() <= 1e-4 * max(1.0, np.abs(maps[0]).max())


def test_a_single_score_that_shows_only_when_it_runs() -> None:
    """Of an output (N, K) whose K the file leaves open."""
    nodes = [
        helper.make_node("Flatten", ["x"], ["f"]),
        helper.make_node("Compress", ["f", "c"], ["y"], axis=1),
    ]
    inputs: dict[str, Any] = {"x": ["N", 1, 2, 2]}
    model = model_of(nodes, inputs, {"y": ["N", "K"]}, {"c": np.array([True, False, False, False])})
    with pytest.raises(TargetError, match="take score='output'"):
        _ = Prober(model, np.ones((1, 1, 2, 2), np.float32)).base
    assert Prober(model, np.ones((1, 1, 2, 2), np.float32), Asked(score="output")).base == pytest.approx(
        [1.0]
    )


def test_no_softmax_over_places() -> None:
    nodes = [helper.make_node("Relu", ["x"], ["y"])]
    model = model_of(nodes, {"x": ["N", 3, SIZE, SIZE]}, {"y": ["N", 3, SIZE, SIZE]}, {})
    with pytest.raises(TargetError, match="nothing tells along which axis"):
        onnxplain.perturb(model, X, "occlusion", k=3, target=5)
    at = int(X[0, 0, 0].argmax())
    assert X[0, 0, 0, at] > 0
    asked: dict[str, Any] = {"k": 1, "stride": 1, "value": 0.0, "score": "output"}
    (found,) = onnxplain.perturb(model, X, "occlusion", target=at, **asked).maps
    assert found[0, at] == pytest.approx(X[0, 0, 0, at]) and np.count_nonzero(found) == 1


@pytest.mark.parametrize("shape", ["N1", "N"])
def test_what_is_shown_of_a_photo(shape: str) -> None:
    photo = Image.fromarray(np.random.default_rng(5).integers(0, 255, (SIZE, SIZE, 3), dtype=np.uint8))
    pixels = np.asarray(photo, np.float32).transpose(2, 0, 1)[None] / 255
    model = regression(shape)
    item = onnxplain.explain(model, photo, "saliency", preprocessing="unit")[0]
    assert item.score == pytest.approx(value(model, pixels), rel=1e-5)
    assert (item.target, item.label) == (0, "y")
    likely = onnxplain.explain(regression(shape, "Sigmoid"), photo, "saliency", preprocessing="unit")[0]
    assert likely.score == pytest.approx(1 / (1 + np.exp(-item.score)), rel=1e-5)


def test_the_places_of_one_sample() -> None:
    plain: dict[str, Any] = {"output": "y"}
    assert places_of(np.zeros((1, 10)), plain) == (10,)
    assert places_of(np.zeros((1, 10, 1, 1)), plain) == (10,)
    assert places_of(np.zeros((1,)), plain) == (1,)
    assert places_of(np.zeros((1, 2, 3)), plain) == (2, 3)
    turned = plain | {"rows": {"axis": 1, "each": 1}}
    assert places_of(np.zeros((7, 1, 3)), turned) == (7, 3)
    assert places_of(np.zeros((3,)), plain | {"rows": {"axis": None, "each": None}}) == (3,)


def test_probabilities() -> None:
    assert probabilities(np.array([-2.5]), None) == pytest.approx([-2.5])
    assert probabilities(np.array([0.3]), "Sigmoid") == pytest.approx([0.3])
    assert probabilities(np.array([0.0, 0.0]), None) == pytest.approx([0.5, 0.5])
