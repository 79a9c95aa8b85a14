"""Files as exporters write them: nodes in any order, sizes called "?", outputs without a type."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from onnxplain.rewriter.compile import Request
from onnxplain.rewriter.errors import ModelError
from onnxplain.rewriter.graph import prepare
from onnxplain.rewriter.passes.order import is_name

from .nets import explained, floats, net

BODY = "g (float[N,3] x) => (float[N,3] y) { a = Neg(x) b = Exp(a) y = Mul(b, a) }"


def shuffled(model: onnx.ModelProto) -> onnx.ModelProto:
    nodes = list(model.graph.node)[::-1]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def test_nodes_may_stand_in_any_order() -> None:
    """y = -x e^-x; dy/dx = (x - 1) e^-x."""
    x = floats(2, 3)
    found = explained(shuffled(net(BODY)), {"x": x}, Request(target=1))["attribution"]
    want = np.zeros((2, 3))
    want[:, 1] = ((x - 1) * np.exp(-x))[:, 1]
    np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-7)


def test_nodes_of_subgraphs_and_functions_are_sorted_too() -> None:
    branch = (
        "g (float[N,3] x, bool c) => (float[N,3] y) { y = If (c) <then_branch = t () => (float[N,3] p) "
        "{ a = Neg(x) p = Exp(a) }, else_branch = e () => (float[N,3] q) { q = Neg(x) }> }"
    )
    model = net(branch)
    inner = model.graph.node[0].attribute[0].g
    nodes = list(inner.node)[::-1]
    del inner.node[:]
    inner.node.extend(nodes)
    assert [node.op for node in prepare(model).nodes] == ["If"]
    called = net(
        "g (float[N,3] x) => (float[N,3] y) { y = own.F(x) }",
        more='"own" : 1',
        functions='<domain: "own", opset_import: ["" : 18]> F (x) => (y) { y = Exp(a) a = Neg(x) }',
    )
    assert [node.op for node in prepare(called).nodes] == ["Neg", "Exp"]


def test_what_is_in_order_stays_as_it_is() -> None:
    model = net("g (float[N,3] x) => (float[N,3] y) { b = Exp(x) a = Neg(x) y = Mul(b, a) }")
    assert [node.op for node in prepare(model).nodes] == ["Exp", "Neg", "Mul"]


@pytest.mark.parametrize("body", ["a = Add(x, b) b = Relu(a) y = Neg(b)", "b = Relu(b) y = Add(x, b)"])
def test_a_cycle_names_a_node(body: str) -> None:
    with pytest.raises(ModelError, match=r"(Add|Relu) at '[ab]' reads what is made of its own output"):
        prepare(net(f"g (float[N,3] x) => (float[N,3] y) {{ {body} }}"))


def test_what_names_a_size() -> None:
    assert all(map(is_name, ("N", "batch_size", "unk__12", "s0 + 1", "floor(H/2)", "_")))
    assert not any(map(is_name, ("?", "", "-1", "*", "None", "unknown", " ", "...")))


def test_two_question_marks_are_two_sizes() -> None:
    """The mean over 2 x 5 cells: 1 / 10 everywhere."""
    shape: list[int | str | None] = ["?", 3, "?", "?"]
    nodes = [helper.make_node("GlobalAveragePool", ["x"], ["p"]), helper.make_node("Flatten", ["p"], ["y"])]
    model = of(nodes, shape, helper.make_tensor_value_info("y", TensorProto.FLOAT, ["?", 3]))
    found = explained(model, {"x": floats(4, 3, 2, 5)}, Request(target=2))["attribution"]
    assert found.shape == (4, 3, 2, 5)
    np.testing.assert_allclose(found[:, 2], 0.1, rtol=1e-6)
    assert not found[:, :2].any()


def test_the_batch_of_the_only_input_has_a_name() -> None:
    node = helper.make_node("Relu", ["x"], ["y"])
    (x,) = prepare(
        of([node], ["?", "?"], helper.make_tensor_value_info("y", TensorProto.FLOAT, ["?", "?"]))
    ).inputs
    assert x.shape == ["N", None]


@pytest.mark.parametrize(
    "output", [onnx.ValueInfoProto(name="y"), helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
)
def test_an_output_without_a_type_or_shape_is_inferred(output: onnx.ValueInfoProto) -> None:
    model = of([helper.make_node("Neg", ["x"], ["y"])], ["N", 3], output)
    found = explained(model, {"x": floats(2, 3)}, Request(target=0))["attribution"]
    assert np.array_equal(found, np.tile(np.array([-1, 0, 0], np.float32), (2, 1)))


def of(
    nodes: list[onnx.NodeProto], shape: list[int | str | None], output: onnx.ValueInfoProto
) -> onnx.ModelProto:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    graph = helper.make_graph(nodes, "g", [x], [output])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
