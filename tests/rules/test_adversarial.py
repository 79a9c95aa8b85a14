"""The gradient's sign step: stored pictures, units, bounds, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import helper

import onnxplain
from onnxplain import OptionError, TargetError
from tests.runtime.small import model_of

Array = npt.NDArray[Any]
GOLDEN = Path(__file__).parents[1] / "data" / "golden"
NETS = sorted(path.stem.removeprefix("perturb_") for path in GOLDEN.glob("perturb_*.npz"))
RGB: dict[str, Any] = {
    "layout": "NCHW",
    "color": "RGB",
    "size": [2, 2],
    "resize": "stretch",
    "mean": [100.0, 50.0, 0.0],
    "std": [50.0, 100.0, 255.0],
}


def stored(name: str) -> dict[str, Array]:
    with np.load(GOLDEN / f"perturb_{name}.npz") as data:
        return {key: data[key] for key in data.files}


def scores(shape: tuple[int, ...], w: Array) -> onnx.ModelProto:
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"], axis=1),
        helper.make_node("MatMul", ["flat", "w"], ["y"]),
    ]
    return model_of(nodes, {"x": ["N", *shape]}, {"y": ["N", w.shape[1]]}, {"w": w.astype(np.float32)})


def picture() -> onnx.ModelProto:
    """Two scores of a (3, 2, 2) picture; the first falls with every pixel but one, which does not count."""
    w = np.zeros((12, 2))
    w[:11, 0] = -1.0
    return scores((3, 2, 2), w)


@pytest.mark.parametrize("name", NETS)
def test_golden(name: str) -> None:
    """ε = 0.1, no clipping, the label the predicted class: 1e-6 of an x of size 1, float32."""
    data = stored(name)
    made = onnxplain.compile(GOLDEN / f"{name}.onnx", "fgsm", eps=0.1)
    for target in (-1, int(data["class"])):
        found = made(data["x"], target=target)
        assert np.abs(found.results["adversarial"] - data["fgsm_0.1"]).max() < 1e-6
    assert not found.attributions and list(found.results) == ["gradient", "adversarial"]
    assert found.outputs.keys() == {value.name for value in onnx.load(GOLDEN / f"{name}.onnx").graph.output}


def test_the_nets_are_there() -> None:
    assert len(NETS) == 10


def test_a_label_that_is_not_predicted_is_left_too() -> None:
    """Away from the label, whatever is predicted."""
    model = scores((2,), np.eye(2))
    made = onnxplain.compile(model, "fgsm", eps=0.25)
    x = np.array([[1.0, 0.0], [1.0, 0.0]])
    moved = made(x, target=[0, 1]).results["adversarial"]
    assert moved.tolist() == [[0.75, 0.25], [1.25, -0.25]]


def test_steps_are_in_pixels_where_the_preprocessing_is_known() -> None:
    """One grey level of 255 is 1 / std in the input; the sign of 0 is 0."""
    made = onnxplain.compile(picture(), "fgsm", eps=2 / 255, preprocessing=RGB)
    moved = made(np.zeros((1, 3, 2, 2)), target=0).results["adversarial"][0]
    std = np.array(RGB["std"])[:, None, None]
    expected = np.broadcast_to(2 / std, (3, 2, 2)).copy()
    expected[2, 1, 1] = 0.0
    assert moved == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("bounds", [{}, {"lo": 0.2, "hi": 0.6}])
def test_results_stay_pixels(bounds: dict[str, Any]) -> None:
    made = onnxplain.compile(picture(), "fgsm", eps=1.0, preprocessing=RGB, **bounds)
    mean, std = (np.array(RGB[key])[:, None, None] for key in ("mean", "std"))
    x = (np.full((3, 2, 2), 127.0) - mean) / std
    for label, end in ((0, bounds.get("hi", 1.0)), (1, bounds.get("lo", 0.0))):
        moved = made(x[None], target=label).results["adversarial"][0] * std + mean
        expected = np.full((3, 2, 2), 255 * end)
        expected[2, 1, 1] = 127.0
        assert moved == pytest.approx(expected, abs=1e-3)


def test_bounds_without_a_preprocessing_are_those_of_the_input() -> None:
    model = scores((2,), np.eye(2))
    x = np.array([[1.0, 0.0]])
    assert onnxplain.compile(model, "fgsm", eps=3.0)(x).results["adversarial"].tolist() == [[-2.0, 3.0]]
    clipped = onnxplain.compile(model, "fgsm", eps=3.0, lo=-1.0, hi=1.0)(x)
    assert clipped.results["adversarial"].tolist() == [[-1.0, 1.0]]
    one_side = onnxplain.compile(model, "fgsm", eps=3.0, hi=1.0)(x)
    assert one_side.results["adversarial"].tolist() == [[-2.0, 1.0]]


def test_a_step_that_is_fed() -> None:
    made = onnxplain.compile(scores((2,), np.eye(2)), "fgsm", eps="input")
    x = np.array([[1.0, 0.0]] * 3)
    moved = made(x, eps=np.array([[0.0], [0.5], [2.0]])).results["adversarial"]
    assert moved.tolist() == [[1.0, 0.0], [0.5, 0.5], [-1.0, 2.0]]
    assert made.card.inputs == ("target", "eps")


def test_fixed_labels_and_rows() -> None:
    model, x = scores((2,), np.eye(2)), np.array([[1.0, 0.0], [0.0, 1.0]])
    for target, expected in (
        ("top", [[0.5, 0.5], [0.5, 0.5]]),
        (0, [[0.5, 0.5], [-0.5, 1.5]]),
        ([0, 1], [[0.5, 0.5], [1.5, -0.5], [-0.5, 1.5], [0.5, 0.5]]),
    ):
        made = onnxplain.compile(model, "fgsm", eps=0.5, target=target)
        assert made(x).results["adversarial"].tolist() == expected


def test_a_batch_equals_its_samples() -> None:
    data = stored("cnn_bias")
    made = onnxplain.compile(GOLDEN / "cnn_bias.onnx", "fgsm", eps=0.1)
    x = np.concatenate([data["x"], data["x_ref"]])
    together = made(x, target=[-1, 0]).results
    for i, target in enumerate((-1, 0)):
        alone = made(x[i : i + 1], target=target).results
        assert np.array_equal(together["adversarial"][i : i + 1], alone["adversarial"])
        scale = np.abs(alone["gradient"]).max()
        assert np.allclose(together["gradient"][i : i + 1], alone["gradient"], atol=1e-5 * scale, rtol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eps": -0.1}, "eps=-0.1 is not a number of at least 0"),
        ({"eps": "big"}, "eps='big' is not a number"),
        ({"eps": float("nan")}, "eps=nan is not a number"),
        ({"lo": 1.0, "hi": 0.5}, "lo=1 is not below hi=0.5"),
        ({"lo": 1.0, "preprocessing": RGB}, "lo=1 is not below hi=1"),
        ({"hi": "white"}, "hi='white' is not a number"),
        ({"reduce": "maxabs"}, "fgsm gives no attribution that reduce='maxabs' could be made of"),
    ],
)
def test_what_does_not_fit(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        onnxplain.compile(picture(), "fgsm", **options)


def test_what_has_no_label() -> None:
    with pytest.raises(TargetError, match="takes a label, not a cotangent"):
        onnxplain.compile(picture(), "fgsm", target="cotangent")
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["z"]),
        helper.make_node("Sigmoid", ["z"], ["y"]),
    ]
    single = model_of(nodes, {"x": ["N", 2]}, {"y": ["N", 1]}, {"w": np.ones((2, 1), np.float32)})
    with pytest.raises(OptionError, match="'z' is a single score"):
        onnxplain.compile(single, "fgsm")
