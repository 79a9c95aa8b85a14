"""Results that say nothing are told of, with the node at which they came to be so.

The models are made so that one known node lets nothing through, or is the first to be not finite.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper
from PIL import Image

import onnxplain
from onnxplain import Explainer, ExplainWarning
from onnxplain.runtime.pictures import figure
from onnxplain.runtime.telling import NOT_FINITE, ZERO, Finding, look, look_at_maps

Array = NDArray[Any]


def net(
    nodes: Sequence[NodeProto], weights: Mapping[str, Array], shape: Sequence[int], classes: int = 4
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *shape])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", classes])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def dead(bias: float = -100.0) -> onnx.ModelProto:
    """conv, relu, head: no unit of relu is on."""
    nodes = [
        helper.make_node("Conv", ["x", "k", "b"], ["c"], "conv"),
        helper.make_node("Relu", ["c"], ["r"], "relu"),
        helper.make_node("Flatten", ["r"], ["f"], "flat"),
        helper.make_node("Gemm", ["f", "v", "w"], ["y"], "head"),
    ]
    weights = {"k": normal(3, 2, 3, 3), "b": np.full(3, bias, np.float32)}
    return net(
        nodes, {**weights, "v": normal(48, 4, seed=1), "w": np.arange(1, 5, dtype=np.float32)}, (2, 6, 6)
    )


def root() -> onnx.ModelProto:
    """y = V sqrt(x): infinite slopes at 0, which V mixes into NaN."""
    nodes = [
        helper.make_node("Sqrt", ["x"], ["s"], "root"),
        helper.make_node("Gemm", ["s", "v"], ["y"], "head"),
    ]
    return net(nodes, {"v": normal(5, 4)}, (5,))


def told(explainer: Explainer, x: Array, **more: Any) -> tuple[list[str], tuple[Finding, ...]]:
    """The warnings of a call, and its findings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = explainer(x, **more)
    assert all(one.category is ExplainWarning and one.filename == __file__ for one in caught)
    texts = [str(one.message) for one in caught]
    assert texts == [f"{explainer.card.method}: {finding}" for finding in result.findings]
    return texts, result.findings


X = normal(2, 2, 6, 6, seed=2)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("saliency", {}),
        ("guided-backprop", {}),
        ("integrated-gradients", {"steps": 4}),
        ("smoothgrad", {"samples": 3}),
        ("grad-cam", {}),
        ("fem", {}),
        ("deeplift.rescale", {}),
        ("lrp.epsilon", {"bias": "ignore"}),
        ("linearscope.rows", {}),
    ],
)
def test_the_node_where_it_ends_is_named(method: str, options: dict[str, Any]) -> None:
    """Of samples too, which are trips of a loop."""
    texts, findings = told(onnxplain.compile(dead(), method, **options), X, target=1)
    assert [(f.kind, f.rows, f.of) for f in findings] == [(ZERO, (0, 1), 2)]
    assert "rows 0, 1 of 2" in texts[0]
    assert "'relu'" in texts[0] or (method.startswith("lrp") and "'conv'" in texts[0])


def test_only_the_rows_that_say_nothing_are_told() -> None:
    """Row 1 has a unit that is on; the heat map repeats what is told of the attribution."""
    x = X.copy()
    explainer = onnxplain.compile(dead(), "saliency", reduce="max")
    x[1] = 100 * np.sign(normal(3, 2, 3, 3)[0]).mean()
    x[1, :, :3, :3] = 100 * np.sign(normal(3, 2, 3, 3)[0])
    _, findings = told(explainer, x, target=1)
    assert [(f.output, f.rows) for f in findings] == [("attribution", (0,))]
    assert np.abs(explainer.outputs(x[1:], 1)["attribution"]).max() > 0


def test_a_map_that_says_something_is_silent() -> None:
    assert told(onnxplain.compile(dead(bias=1.0), "saliency", reduce="sum"), X, target=1) == ([], ())


def test_a_start_of_zero() -> None:
    """LRP shares out the score, which is 0."""
    nodes = [helper.make_node("Gemm", ["x", "v"], ["y"], "head")]
    explainer = onnxplain.compile(net(nodes, {"v": np.zeros((5, 4), np.float32)}, (5,)), "lrp.epsilon")
    texts, _ = told(explainer, normal(1, 5), target=1)
    assert "it starts with zero" in texts[0]


def test_an_input_of_zero() -> None:
    nodes = [
        helper.make_node("Mul", ["x", "half"], ["h"], "half"),
        helper.make_node("Gemm", ["h", "v"], ["y"], "head"),
    ]
    model = net(nodes, {"v": normal(5, 4), "half": np.asarray(0.5, np.float32)}, (5,))
    for method in ("input-x-gradient", "lrp.epsilon", "lrp.z-plus"):
        texts, _ = told(onnxplain.compile(model, method), np.zeros((1, 5), np.float32), target=0)
        assert "the input 'x' is zero" in texts[0] or "it starts with zero" in texts[0], texts


def test_a_node_that_stops_relevance_by_design_is_named() -> None:
    """A softmax over bins, as box heads have it, whose probabilities LRP takes as constants."""
    nodes = [
        helper.make_node("Gemm", ["x", "v"], ["a"], "bins"),
        helper.make_node("Softmax", ["a"], ["p"], "dfl"),
        helper.make_node("Gemm", ["p", "w"], ["box"], "box"),
        helper.make_node("Gemm", ["x", "u"], ["cls"], "cls"),
        helper.make_node("Concat", ["box", "cls"], ["y"], "both", axis=1),
    ]
    weights = {"v": normal(5, 6), "w": normal(6, 2, seed=1), "u": normal(5, 2, seed=2)}
    explainer = onnxplain.compile(net(nodes, weights, (5,)), "lrp.epsilon-plus")
    texts, _ = told(explainer, normal(1, 5, seed=3), target=0)
    assert "'both'" in texts[0] and "Softmax at dfl: its probabilities are taken as constants" in texts[0]
    assert told(explainer, normal(1, 5, seed=3), target=2) == ([], ())


@pytest.mark.parametrize("method", ["saliency", "integrated-gradients"])
def test_what_is_not_finite_is_told_with_the_node_where_it_begins(method: str) -> None:
    x = np.abs(normal(3, 5))
    x[1] = 0.0
    texts, findings = told(onnxplain.compile(root(), method), x, target=1)
    assert [(f.kind, f.rows, f.of) for f in findings] == [(NOT_FINITE, (1,), 3)]
    assert "begins at" in texts[0] and "at 'root'" in texts[0]


def test_an_input_that_is_not_finite_is_blamed() -> None:
    x = normal(1, 5)
    x[0, 2] = np.nan
    texts, _ = told(onnxplain.compile(root(), "saliency"), x, target=1)
    assert "the input 'x' holds NaN or infinity" in texts[0]


def test_a_model_that_is_not_finite_is_blamed() -> None:
    texts, _ = told(onnxplain.compile(root(), "lrp.epsilon"), -np.abs(normal(1, 5)), target=1)
    assert "at 'root' of the model itself" in texts[0]


def test_without_telling_the_findings_stay() -> None:
    explainer = onnxplain.compile(dead(), "saliency")
    explainer.tells = False
    texts, findings = told_quietly(explainer)
    assert texts == [] and [f.why for f in findings] == [""]


def told_quietly(explainer: Explainer) -> tuple[list[str], tuple[Finding, ...]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = explainer(X, target=1)
    return [str(one.message) for one in caught], result.findings


def test_cotangents_that_f_sends_to_zero_are_no_news_among_others() -> None:
    """F has a zero row; with all rows zero it is told."""
    v = normal(5, 4)
    v[:, 2] = 0.0
    model = net([helper.make_node("Gemm", ["x", "v"], ["y"], "head")], {"v": v}, (5,))
    explainer = onnxplain.compile(model, "saliency", target="cotangent")
    eye = np.eye(4, dtype=np.float32)
    assert told(explainer, normal(1, 5), cotangent=eye) == ([], ())
    texts, _ = told(explainer, normal(1, 5), cotangent=eye[2:3])
    assert "attribution is zero everywhere" in texts[0]


def test_look() -> None:
    outputs = {
        "y": np.zeros((2, 3)),
        "attribution": np.array([[0.0, np.nan], [0.0, 0.0], [1.0, 0.0]]),
        "heatmap": np.array([[np.nan, 0.0], [0.0, 0.0], [np.inf, 0.0]]),
        "residual": np.zeros((1, 4)),
        "votes": np.zeros((2, 2), np.int64),
        "response": np.zeros((3, 2)),
    }
    found = look(outputs, set(outputs) - {"y"})
    assert [(f.output, f.kind, f.rows, f.of) for f in found] == [
        ("attribution", NOT_FINITE, (0,), 3),
        ("attribution", ZERO, (1,), 3),
        ("heatmap", NOT_FINITE, (0, 2), 3),
        ("response", ZERO, (0,), 1),
    ]
    assert look({"attribution": np.zeros((0, 3))}, ("attribution",)) == ()
    one = {"attribution": np.eye(2)[:, :1]}
    assert look(one, ("attribution",), [np.ones((2, 3))]) == ()
    none = {"attribution": np.zeros((2, 1))}
    assert look(none, ("attribution",), [np.zeros((2, 3))]) == ()
    assert [f.rows for f in look(none, ("attribution",), [np.ones((2, 3))])] == [(0, 1)]
    assert [f.rows for f in look_at_maps(np.eye(2)[:, :1])] == [(1,)]


def test_text_of_many_rows() -> None:
    assert str(Finding("attribution", ZERO, tuple(range(9)), 20)) == (
        "attribution is zero everywhere in rows 0, 1, 2, 3, 4, 5, 6, 7, ... (9) of 20"
    )


def test_a_panel_says_it_under_the_map(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "k", "b"], ["c"], "conv"),
        helper.make_node("Relu", ["c"], ["r"], "relu"),
        helper.make_node("GlobalAveragePool", ["r"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["y"], "flat"),
    ]
    weights = {"k": normal(4, 3, 3, 3), "b": np.full(4, -100, np.float32)}
    path = tmp_path / "dead.onnx"
    onnx.save(net(nodes, weights, (3, 8, 8)), path)
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 255, (8, 8, 3), dtype=np.uint8))
    with pytest.warns(ExplainWarning, match="saliency: attribution is zero everywhere"):
        found = onnxplain.explain(path, photo, "saliency", target=1)
    assert "'relu'" in found[0].note
    plain = figure([replace(found[0], note="")])
    below = np.asarray(found.figure())[plain.height - 30 :, plain.width // 2 :]
    assert found.figure().height > plain.height and (below < 128).any(), "the note stands below the map"


def test_perturbation_tells_too() -> None:
    """The score does not depend on the image."""
    nodes = [
        helper.make_node("Flatten", ["x"], ["f"], "flat"),
        helper.make_node("Gemm", ["f", "v", "w"], ["y"], "head"),
    ]
    model = net(nodes, {"v": np.zeros((108, 4), np.float32), "w": normal(4)}, (3, 6, 6))
    with pytest.warns(ExplainWarning, match="occlusion: map is zero everywhere"):
        found = onnxplain.perturb(model, normal(1, 3, 6, 6), "occlusion", score="logit", k=2)
    assert found.record["warnings"] == ["map is zero everywhere"]


def test_verify_reports_the_node() -> None:
    """Random inputs leave all units off; it is reported, and no failure."""
    report = onnxplain.verify(onnxplain.compile(dead(), "saliency"), threads=1)
    (found,) = [one for one in report.outcomes if one.check == "the maps say something"]
    assert found.status == "reported" and found.measured == 3 and "'relu'" in found.note
