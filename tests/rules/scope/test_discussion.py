"""Pixel discussions and votes against stored float64 results, and what must hold for any network.

onnxruntime computes in float32. Measured errors are up to 1e-5 of the largest element, where the sum that a map is
scaled by is 300 times smaller than the map; up to 1e-4 is accepted.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from onnxplain.rewriter.compile import Request, compile_model
from onnxplain.rewriter.errors import ExplainWarning, OptionError, TargetError
from onnxplain.rewriter.graph import Value
from onnxplain.rewriter.method import Method
from onnxplain.rewriter.results import Result
from onnxplain.rewriter.scene import Stage
from onnxplain.rewriter.tape import pull
from onnxplain.rewriter.target import Target
from onnxplain.rules.methods_scope import OPTIONS
from onnxplain.rules.readouts import keep
from onnxplain.rules.registry import find
from onnxplain.rules.scope import freeze
from onnxplain.rules.scope.flow import bias_images
from onnxplain.rules.scope.results import begin, frozen
from tests.rules.scope.golden import image, model, run, stored

NETS = ["mlp_nobias", "mlp_bias", "cnn_nobias", "cnn_bias", "cnn_odd", "resnet", "overlap_pool"]
IMAGES = [name for name in NETS if not name.startswith("mlp")]
VARIANTS = ["classwise", "paper", "eq18"]
TOLERANCE = 1e-4
PD = "linearscope.pixel-discussion"

Array = NDArray[Any]

pytestmark = pytest.mark.filterwarnings("ignore:variant=:onnxplain.ExplainWarning")


def explain(
    net: onnx.ModelProto, feeds: Mapping[str, Array], target: Target, method: str = PD, **options: Any
) -> dict[str, Array]:
    emitted, _ = compile_model(net, find(method), Request(target=target, options=options))
    return run(emitted, feeds)


def cast(name: str, classes: Array, **options: Any) -> dict[str, Array]:
    feeds = {"x": image(name), "classes": classes.reshape(-1, 1)}
    return explain(model(name), feeds, "input", "linearscope.votes", **options)


def close(got: Array, want: Array) -> None:
    assert got.shape == want.shape
    size = np.abs(want).max()
    assert size > 0
    assert np.abs(got - want).max() <= TOLERANCE * size


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", NETS)
def test_discussions_equal_the_stored_results(name: str, variant: str) -> None:
    got = explain(model(name), {"x": image(name)}, (0, 1, 2), variant=variant)["attribution"]
    close(got, stored(name)[f"pd_{variant}"])


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", IMAGES)
def test_votes_equal_the_stored_results(name: str, variant: str) -> None:
    got = cast(name, np.arange(3), variant=variant)
    maps = stored(name)[f"pd_{variant}"].sum(axis=1)
    close(got["discussion"], maps)
    low, high = np.sort(maps, axis=0)[-2:]
    clear = high - low >= 1e-5 * np.abs(maps).max()
    assert clear.mean() > 0.2  # strides and poolings leave pixels out: all discussions are 0 there
    assert got["votes"].dtype == np.int64
    np.testing.assert_array_equal(got["votes"][0][clear], stored(name)[f"votes_{variant}"][clear])


def test_votes_name_classes_and_portions_can_be_merged() -> None:
    whole = cast("cnn_bias", np.arange(3))
    parts = [cast("cnn_bias", np.array(classes)) for classes in ([2], [0, 1])]
    talk = np.concatenate([part["discussion"] for part in parts])
    # Another number of rows sums in another order.
    np.testing.assert_allclose(talk, whole["discussion"][[2, 0, 1]], rtol=1e-4, atol=1e-5)
    assert set(np.unique(parts[0]["votes"])) == {2}
    best = np.argmax([part["discussion"].max(axis=0) for part in parts], axis=0)
    merged = np.where(best == 0, parts[0]["votes"], parts[1]["votes"])
    np.testing.assert_array_equal(merged, whole["votes"])


def test_the_top_class_by_minus_one_and_the_first_of_equals() -> None:
    top = int(stored("resnet")["class"])
    got = cast("resnet", np.array([-1, top]))
    assert (got["votes"] == top).all()
    others = [c for c in range(3) if c != top]
    a, b = (cast("resnet", np.array(order)) for order in (others, others[::-1]))
    np.testing.assert_array_equal(a["votes"], b["votes"])  # without ties the order is nothing


def test_votes_need_pixels_and_one_picture() -> None:
    with pytest.raises(TargetError, match="no pixels"):
        cast("mlp_bias", np.arange(3))
    two = np.repeat(image("resnet"), 2, axis=0)
    emitted, _ = compile_model(model("resnet"), find("linearscope.votes"), Request())
    with pytest.raises(Exception, match="Dimension of input 0 must be 1"):
        run(emitted, {"x": two, "classes": np.arange(2).reshape(-1, 1)})


@pytest.mark.parametrize("name", ["mlp_bias", "cnn_odd", "attention", "smooth_acts", "concat"])
@pytest.mark.parametrize("scale", ["score", "shift"])
def test_the_sum_is_the_score(name: str, scale: str) -> None:
    raw = explain(model(name), {"x": image(name)}, (0, 1, 2), scale="none")["attribution"]
    got = explain(model(name), {"x": image(name)}, (0, 1, 2), scale=scale)["attribution"]
    sums, y = got.reshape(3, -1).sum(axis=1), stored(name)["y"][0]
    np.testing.assert_allclose(sums, y, rtol=1e-4, atol=1e-4 * np.abs(got).max())
    apart = got - raw if scale == "shift" else got / np.where(raw == 0, 1, raw)
    for row, part in zip(apart.reshape(3, -1), raw.reshape(3, -1), strict=True):
        seen = row[np.abs(part) > 1e-3 * np.abs(part).max()]
        assert np.ptp(seen) <= 1e-3 * np.abs(seen).max() + 1e-6


def cancelling(weights: list[float], bias: float) -> onnx.ModelProto:
    """y = w x + b."""
    w = np.asarray([weights], np.float32)
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w", "b"], ["y"], transB=1)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", len(weights)])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 1])],
        [numpy_helper.from_array(w, "w"), numpy_helper.from_array(np.asarray([bias], np.float32), "b")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_a_sum_next_to_nothing_does_not_blow_the_map_up() -> None:
    """x F = (1, -1) and b F = 2 (1, -1): ΣPD = 0, Σ|PD| = 6, y = 2."""
    x = np.ones((1, 2), np.float32)
    got = explain(cancelling([1.0, -1.0], 2.0), {"x": x}, 0)["attribution"]
    np.testing.assert_allclose(got, np.array([[3.0, -3.0]]) * 2.0 / 6e-3, rtol=1e-5)
    got = explain(cancelling([1.0, -1.0], 2.0), {"x": x}, 0, scale="shift")["attribution"]
    np.testing.assert_allclose(got, [[4.0, -2.0]], rtol=1e-6)
    got = explain(cancelling([0.0, 0.0], 0.0), {"x": x}, 0)["attribution"]
    np.testing.assert_array_equal(got, np.zeros((1, 2)))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("method", [PD, "linearscope.votes"])
def test_variants_as_printed_warn(method: str, variant: str) -> None:
    """classwise is the default, and says nothing; the others tell it once, and in the card."""
    assert find(method).options["variant"].default == VARIANTS[0]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        target = "input" if method == "linearscope.votes" else (0, 1)
        options = {"variant": variant}
        card = compile_model(model("cnn_bias"), find(method), Request(target=target, options=options))[1]
    told = [str(one.message) for one in caught if one.category is ExplainWarning]
    assert len(told) == (variant != VARIANTS[0])
    assert all("the same for every class" in text for text in told)
    assert [note for note in card.approximations if note.startswith("variant=")] == told


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_picture_of_a_batch_has_its_own(variant: str) -> None:
    one = image("cnn_bias")
    other = one[:, :, ::-1].copy()
    both = explain(model("cnn_bias"), {"x": np.concatenate([one, other])}, (0, 2), variant=variant)
    rows = both["attribution"].reshape(2, 2, *one.shape[1:])
    for got, x in zip(rows, (one, other), strict=True):
        close(got, explain(model("cnn_bias"), {"x": x}, (0, 2), variant=variant)["attribution"])


@pytest.mark.parametrize("variant", VARIANTS)
def test_cotangents_weigh_the_outputs(variant: str) -> None:
    """A one-hot cotangent is a class; unscaled, the part of the class is linear in the cotangent."""
    x = image("cnn_bias")
    eye = np.eye(3, dtype=np.float32)
    rows = np.concatenate([eye, [[1.0, -2.0, 0.0]], np.zeros((1, 3))]).astype(np.float32)
    feeds = {"x": x, "cotangent": rows}
    got = explain(model("cnn_bias"), feeds, "cotangent", variant=variant)["attribution"]
    close(got[:3], explain(model("cnn_bias"), {"x": x}, (0, 1, 2), variant=variant)["attribution"])
    raw = explain(model("cnn_bias"), feeds, "cotangent", variant=variant, scale="none")["attribution"]
    if variant == "classwise":  # quadratic in the sensitivities
        return
    own = raw - raw[4]
    np.testing.assert_allclose(own[3], own[0] - 2 * own[1], atol=1e-4 * np.abs(own).max())


def reached(stage: Stage, target: Target) -> list[Result]:
    """Σ_i ⟨q_i, b̂_i⟩: the bias images, sent on to the scores."""
    g = stage.g
    terms: list[Value] = []
    for seed in begin(stage, target).seeds:
        q = pull(frozen(stage), {stage.head.name: seed}, g)
        sums = [
            g.ReduceSum(g.Reshape(g.Mul(q[name], image), g.ints(0, -1)), g.ints(1), keepdims=1)
            for name, image in bias_images(stage).items()
        ]
        terms.append(g.total(sums))
    return [("reached", g.Concat(*terms, axis=1), [None, len(terms)])]


@pytest.mark.parametrize(
    "name",
    ["mlp_bias", "cnn_bias", "cnn_odd", "resnet", "overlap_pool", "concat", "smooth_acts", "attention"],
)
def test_bias_images_add_up_to_the_residual(name: str) -> None:
    """No constant is lost, and none counts twice, whatever lies between it and its gate."""
    method = Method("test", "", "", freeze, keep, "", "", options=OPTIONS, outputs=reached)
    emitted, _ = compile_model(model(name), method, Request(target=(0, 1, 2)))
    close(run(emitted, {"x": image(name)})["reached"], stored(name)["scope_r"][None])


def test_options_are_checked() -> None:
    with pytest.raises(OptionError, match="variant"):
        explain(model("mlp_bias"), {"x": image("mlp_bias")}, 0, variant="eq17")
