"""One model put into another: names, weights, operator sets, and what does not fit."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from onnxplain.rewriter.errors import ModelError, TargetError
from onnxplain.rewriter.graft import again, graft, opset_of, part, raised, vet_opsets
from onnxplain.rewriter.graph import prepare, variable, with_weights
from onnxplain.rewriter.load import load
from tests.rewriter.nets import net, run

X = variable("x", np.dtype(np.float32), ["N", 3])
BODY = "g (float[N,3] x) => (float[N,3] y) <float[3] w = {1, 2, 3}> { h = Mul (x, w) y = Relu (h) }"
F = np.float32


def base() -> onnx.ModelProto:
    """The prepared form of BODY with its weights."""
    graph = prepare(net(BODY))
    model = onnx.ModelProto()
    model.CopyFrom(graph.draft.model)
    return with_weights(model, graph)


def add_output(model: onnx.ModelProto, name: str) -> None:
    model.graph.output.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", 3]))


def test_names_that_clash() -> None:
    """Both models have x, h, w and y; w differs."""
    other = net(BODY.replace("1, 2, 3", "-1, 5, -2"))
    model = base()
    found = part(load(other), "the other", X)
    graft(model, found, "other/", "x")
    add_output(model, "other/y")
    onnx.checker.check_model(model, full_check=True)
    x = np.array([[1, -1, 2]], F)
    got = run(model, {"x": x})
    assert got["y"].tolist() == [[1, 0, 6]]
    assert got["other/y"].tolist() == [[0, 0, 0]]
    assert run(model, {"x": -x})["other/y"].tolist() == [[1, 5, 4]]


def test_one_behind_the_other() -> None:
    model = base()
    graft(model, part(load(net(BODY)), "the second", X), "second/", "y")
    add_output(model, "second/y")
    assert run(model, {"x": np.array([[1, 2, 3]], F)})["second/y"].tolist() == [[1, 8, 27]]


def test_large_weights_come_along_once_each() -> None:
    w = np.random.default_rng(0).normal(size=(40, 40)).astype(F)
    nodes = [helper.make_node("MatMul", ["a", "weight"], ["b"])]
    graph = helper.make_graph(
        nodes,
        "m",
        [helper.make_tensor_value_info("a", 1, ["N", 40])],
        [helper.make_tensor_value_info("b", 1, ["N", 40])],
        [numpy_helper.from_array(w, "weight")],
    )
    source = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    prepared = prepare(source)
    model = onnx.ModelProto()
    model.CopyFrom(prepared.draft.model)
    with_weights(model, prepared)
    x = variable("a", np.dtype(F), ["N", 40])
    graft(model, part(load(source), "the other", x), "p/", "a")
    again(model, prepared, prepared.inputs[0], prepared.outputs[0], "p/again/", "p/b")
    assert [tensor.name for tensor in model.graph.initializer] == ["weight", "p/weight"]
    model.graph.output.append(helper.make_tensor_value_info("p/again/b", 1, ["N", 40]))
    a = np.ones((2, 40), F)
    assert np.allclose(run(model, {"a": a})["p/again/b"], a @ w @ w, rtol=1e-4, atol=1e-4)


def test_the_forward_nodes_again() -> None:
    """What does not depend on x is not copied; the rest reads the other tensor."""
    source = net(
        "g (float[N,3] x, float[3] s) => (float[N,3] y) { t = Exp (s) h = Mul (x, t) z = Neg (x) y = Add (h, z) }"
    )
    graph = prepare(source)
    model = onnx.ModelProto()
    model.CopyFrom(graph.draft.model)
    again(model, graph, graph.inputs[0], graph.outputs[0], "two/", "y")
    assert sorted(node.name for node in model.graph.node if node.name.startswith("two/")) == sorted(
        f"two/{node.name}" for node in graph.nodes if node.op != "Exp"
    )
    add_output(model, "two/y")
    got = run(model, {"x": np.array([[1, 2, 3]], F), "s": np.log(np.array([3, 2, 1], F))})
    assert np.allclose(got["two/y"], [[4, 2, 0]], atol=1e-6)
    with pytest.raises(TargetError, match="'y' does not depend on input 'other'"):
        again(model, graph, variable("other"), graph.outputs[0], "three/", "y")


def test_subgraphs_read_the_renamed_tensors() -> None:
    """An If whose branches read a tensor and a weight from outside."""
    branches = [
        helper.make_graph(
            [helper.make_node(op, ["h", "w"], ["made"])],
            name,
            [],
            [helper.make_tensor_value_info("made", 1, ["N", 3])],
        )
        for name, op in (("yes", "Add"), ("no", "Mul"))
    ]
    nodes = [
        helper.make_node("Neg", ["x"], ["h"]),
        helper.make_node("ReduceMax", ["h"], ["top"], keepdims=0),
        helper.make_node("Greater", ["top", "zero"], ["some"]),
        helper.make_node("If", ["some"], ["y"], then_branch=branches[0], else_branch=branches[1]),
    ]
    graph = helper.make_graph(
        nodes,
        "m",
        [helper.make_tensor_value_info("x", 1, ["N", 3])],
        [helper.make_tensor_value_info("y", 1, ["N", 3])],
        [
            numpy_helper.from_array(np.array([1, 2, 3], F), "w"),
            numpy_helper.from_array(np.array(0, F), "zero"),
        ],
    )
    source = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    model = base()
    graft(model, part(load(source), "the other", X), "p/", "x")
    add_output(model, "p/y")
    assert run(model, {"x": np.array([[1, 1, 1]], F)})["p/y"].tolist() == [[-1, -2, -3]]
    assert run(model, {"x": np.array([[-1, 1, 1]], F)})["p/y"].tolist() == [[2, 1, 2]]


def test_opsets() -> None:
    assert opset_of(net(BODY, opset=13)) == 18 and opset_of(net(BODY, opset=21)) == 21
    old, new = base(), prepare(net(BODY, opset=21)).draft.model
    with pytest.raises(ModelError, match=r"the other has opset 21 of 'ai.onnx', the model 18; export both"):
        vet_opsets(old, {"the other": new})
    lifted = raised(net(BODY, opset=18), 21)
    vet_opsets(prepare(lifted).draft.model, {"the other": new})
    x = np.array([[1, -1, 2]], F)
    assert run(lifted, {"x": x})["y"].tolist() == [[1, 0, 6]]
    same = net(BODY, opset=21)
    assert raised(same, 20) is same


def test_other_domains_come_along() -> None:
    other = net(
        "g (float[N,3] x) => (float[N,3] y) { y = com.microsoft.Gelu (x) }", more='"com.microsoft" : 1'
    )
    model = base()
    graft(model, part(load(other), "the other", X), "p/", "x")
    assert {entry.domain for entry in model.opset_import} == {"", "com.microsoft"}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("g (float[N,4] x) => (float[N,4] y) { y = Relu (x) }", r"its input 'x' is float32 \['N', 4\]"),
        (
            "g (float[N,3] x) => (float[N,6] y) { y = Concat<axis=1> (x, x) }",
            r"its output 'y' is .* \['N', 6\]",
        ),
        ("g (double[N,3] x) => (double[N,3] y) { y = Relu (x) }", "its input 'x' is float64"),
        (
            "g (float[N,3] x) => (float[N,1,3] y) <int64[1] a = {1}> { y = Unsqueeze (x, a) }",
            "its output 'y'",
        ),
        ("g (float[N,3] x, float[N,3] z) => (float[N,3] y) { y = Add (x, z) }", r"has 2 inputs \('x', 'z'\)"),
        ("g (float[N,3] x) => (float[N,3] y, float[N,3] z) { y = Relu (x) z = Neg (x) }", "has 2 outputs"),
        ("g (float[2,3] x) => (float[2,3] y) { y = Relu (x) }", r"its input 'x' is float32 \[2, 3\]"),
    ],
)
def test_what_does_not_fit(body: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        part(load(net(body)), "the generator", X)


def test_a_batch_of_one_is_freed() -> None:
    found = part(load(net("g (float[1,3] x) => (float[1,3] y) { y = Relu (x) }")), "the generator", X)
    assert found.input.shape == ["N", 3]
