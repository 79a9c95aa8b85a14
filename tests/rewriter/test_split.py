"""A model cut in two gives what the whole gives, and the second part alone follows what comes late."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

import onnxplain
from onnxplain import models
from onnxplain.rewriter.errors import OptionError
from onnxplain.rewriter.split import behind, split, subgraph

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
Arrays = dict[str, NDArray[Any]]


def run(model: onnx.ModelProto, feeds: Arrays) -> Arrays:
    onnx.checker.check_model(model, full_check=True)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    inputs = {value.name for value in session.get_inputs()}
    outputs = [value.name for value in session.get_outputs()]
    found = session.run(outputs, {name: x for name, x in feeds.items() if name in inputs})
    return dict(zip(outputs, map(np.asarray, found), strict=True))


@pytest.mark.parametrize("method", ["linearscope.rows", "saliency", "lrp.epsilon-plus"])
@pytest.mark.parametrize("name", ["attention", "cnn_odd", "overlap_pool", "resnet", "smooth_acts"])
def test_the_parts_give_what_the_whole_gives(name: str, method: str) -> None:
    """Bit for bit, for two cotangents of one picture."""
    whole = onnxplain.compile(GOLDEN / f"{name}.onnx", method, target="cotangent").model
    before, after = split(whole, {"cotangent"})
    with np.load(GOLDEN / f"{name}.npz") as stored:
        x = stored["x"][:1].astype(np.float32)
    kept = run(before, {"x": x})
    assert set(kept) <= {value.name for value in after.graph.input} and "attribution" not in kept
    assert [value.name for value in after.graph.output] == ["attribution"]
    for seed in (1, 2):
        cotangent = np.random.default_rng(seed).standard_normal((1, 3)).astype(np.float32)
        feeds = {"x": x, "cotangent": cotangent}
        wanted = run(whole, feeds)["attribution"]
        assert np.abs(wanted).max() > 0
        np.testing.assert_array_equal(run(after, kept | feeds)["attribution"], wanted)


def test_nothing_is_computed_twice() -> None:
    whole = onnxplain.compile(models.path("efficientnet_lite0"), "linearscope.columns").model
    before, after = split(whole, {"tangent"})
    names = [{node.name for node in part.graph.node} for part in (before, after)]
    assert not names[0] & names[1]
    assert names[0] | names[1] <= {node.name for node in whole.graph.node}
    kinds = [[node.op_type for node in part.graph.node] for part in (before, after)]
    assert kinds[0].count("Conv") == kinds[1].count("Conv") > 40
    assert "tangent" not in {value.name for value in before.graph.input}


def inner(name: str, reads: str) -> onnx.GraphProto:
    return helper.make_graph(
        [helper.make_node("Identity", [reads], [name])],
        name,
        [],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2])],
    )


def branching() -> onnx.ModelProto:
    """y = x + x, or t where `go` does not hold: the branches read x2 and t from outside."""
    given = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in ("x", "t")]
    nodes = [
        helper.make_node("Add", ["x", "x"], ["x2"]),
        helper.make_node("If", ["go"], ["y"], then_branch=inner("a", "x2"), else_branch=inner("b", "t")),
        helper.make_node("Neg", ["x2"], ["z"]),
    ]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in ("y", "z")]
    go = helper.make_tensor_value_info("go", TensorProto.BOOL, [])
    graph = helper.make_graph(nodes, "branching", [*given, go], outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def test_what_a_branch_reads_is_kept() -> None:
    before, after = split(branching(), {"t"})
    feeds: Arrays = {
        "x": np.array([1, 2], np.float32),
        "t": np.array([5, 6], np.float32),
        "go": np.array(True),
    }
    kept = run(before, feeds)
    assert list(kept) == ["x2"]
    assert [value.name for value in after.graph.input] == ["t", "go", "x2"]
    for go, wanted in ((True, [2, 4]), (False, [5, 6])):
        found = run(after, {**feeds, **kept, "go": np.array(go)})
        assert list(found) == ["y"] and found["y"].tolist() == wanted


def test_a_part_has_what_its_outputs_need() -> None:
    model = branching()
    part = subgraph(model, [model.graph.output[1]])
    assert [node.op_type for node in part.graph.node] == ["Add", "Neg"]
    assert [value.name for value in part.graph.input] == ["x"]
    nodes, needed = behind(model.graph.node, ["y"], {"x2"})
    assert [node.op_type for node in nodes] == ["If"] and needed == {"y", "go", "t"}


@pytest.mark.parametrize(("late", "message"), [("u", "no input 'u'"), ("w", "no output depends on w")])
def test_what_cannot_be_cut(late: str, message: str) -> None:
    model = branching()
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [2]))
    with pytest.raises(OptionError, match=message):
        split(model, {late})
