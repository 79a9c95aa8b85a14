"""Which nodes are linearised, by which rule, and how cotangents meet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnxplain.rewriter.compile import Request, compile_model, compile_source
from onnxplain.rewriter.errors import NotLinearError, OptionError, TargetError, UnsupportedError
from onnxplain.rewriter.load import load
from onnxplain.rewriter.tape import pull, push
from onnxplain.rules.registry import find

from .nets import explained, floats, net, run, tape_of

COTANGENT = Request(target="cotangent", head="prob")


def gradient(body: str, feeds: Mapping[str, np.ndarray], opset: int = 18) -> np.ndarray:
    """Gradient of the sum of y with respect to x."""
    model = net(body, opset=opset)
    y = run(model, feeds)["y"]
    return explained(model, {**feeds, "cotangent": np.ones_like(y)}, replace(COTANGENT, inputs=("x",)))[
        "attribution"
    ]


# Sums of what comes back


def test_a_tensor_that_several_nodes_read_receives_the_sum() -> None:
    """y = x^3 + 2 x + x, every term by its own path."""
    x = floats(2, 3)
    body = """g (float[N,3] x) => (float[N,3] y) <float two = {2}> {
      s = Mul(x, x) c = Mul(s, x) d = Mul(x, two) e = Add(c, d) y = Add(e, x) }"""
    assert np.allclose(gradient(body, {"x": x}), 3 * x**2 + 3, rtol=1e-6)


def test_a_node_that_reads_a_tensor_twice() -> None:
    x = floats(2, 3)
    assert np.array_equal(
        gradient("g (float[N,3] x) => (float[N,3] y) { y = Add(x, x) }", {"x": x}), np.full((2, 3), 2)
    )
    assert np.allclose(gradient("g (float[N,3] x) => (float[N,3] y) { y = Mul(x, x) }", {"x": x}), 2 * x)
    three = "g (float[N,3] x) => (float[N,9] y) { y = Concat <axis = 1> (x, x, x) }"
    assert np.array_equal(gradient(three, {"x": x}), np.full((2, 3), 3))


@pytest.mark.parametrize("dims", ["N,1,1", "N,C,1", "N,1,W", "N,C,W"])
@pytest.mark.parametrize("sizes", ["3,4", "C2,W2"])
def test_broadcast_inputs_are_summed_back(dims: str, sizes: str) -> None:
    """y = x * b with b (2, 3, 4) and x of size 1 along some axes, its sizes known at compile time or not."""
    shape = [{"N": 2, "1": 1, "C": 3, "W": 4}[dim] for dim in dims.split(",")]
    x, b = floats(*shape), floats(2, 3, 4, seed=1)
    declared = dims if sizes != "3,4" else dims.replace("C", "3").replace("W", "4")
    got = gradient(
        f"g (float[{declared}] x, float[N,{sizes}] b) => (float[N,{sizes}] y) {{ y = Mul(x, b) }}",
        {"x": x, "b": b},
    )
    axes = tuple(i for i in (1, 2) if shape[i] == 1)
    assert got.shape == x.shape
    assert np.allclose(got, b.sum(axes, keepdims=True), rtol=1e-5)


def test_dynamic_sizes_that_turn_out_to_be_one_are_summed_back() -> None:
    """Declared by symbols only; 1 at run time, then not."""
    body = "g (float[N,C,W] x, float[N,D,V] b) => (float[N,E,U] y) { y = Mul(x, b) }"
    b = floats(2, 3, 4, seed=1)
    assert np.allclose(
        gradient(body, {"x": floats(2, 1, 1), "b": b}), b.sum((1, 2), keepdims=True), rtol=1e-5
    )
    assert np.allclose(gradient(body, {"x": floats(2, 3, 1), "b": b}), b.sum(2, keepdims=True), rtol=1e-5)
    assert np.allclose(gradient(body, {"x": floats(2, 3, 4), "b": b}), b, rtol=1e-6)


def test_lower_ranks_are_summed_back() -> None:
    x, m = floats(2, 4), floats(5, 3, 2, 4, seed=1)
    body = "g (float[2,4] x, float[5,3,2,4] m) => (float[5,3,2,4] y) { y = Mul(x, m) }"
    assert np.allclose(gradient(body, {"x": x, "m": m}), m.sum((0, 1)), rtol=1e-5)


def test_a_graph_with_several_inputs_and_shared_parts() -> None:
    """y = relu(x w) b + relu(x w)^2, only x explained."""
    x, b, w = floats(2, 3), floats(2, 4, seed=1), floats(3, 4, seed=2)
    model = net(
        """g (float[N,3] x, float[N,4] b) => (float[N,4] y) {
          h = MatMul(x, w) r = Relu(h) p = Mul(r, b) q = Mul(r, r) y = Add(p, q) }"""
    )
    model.graph.initializer.append(numpy_helper.from_array(w, "w"))
    c = floats(2, 4, seed=3)
    r = np.maximum(x @ w, 0)
    want = ((b + 2 * r) * (r > 0) * c) @ w.T
    got = explained(model, {"x": x, "b": b, "cotangent": c}, COTANGENT)["attribution"]
    assert np.allclose(got, want, rtol=1e-4, atol=1e-6)


def test_two_inputs_at_once() -> None:
    a, b, c = floats(2, 3), floats(2, 3, seed=1), floats(2, 3, seed=2)
    model = net("g (float[N,3] a, float[N,3] b) => (float[N,3] y) { p = Mul(a, b) y = Add(p, a) }")
    got = explained(model, {"a": a, "b": b, "cotangent": c}, replace(COTANGENT, inputs=("b", "a")))
    assert np.allclose(got["attribution/b"], a * c, rtol=1e-6)
    assert np.allclose(got["attribution/a"], (b + 1) * c, rtol=1e-6)
    assert list(got) == ["y", "attribution/b", "attribution/a"]


def test_inputs_that_are_not_there() -> None:
    model = net(
        "g (float[N,3] image, int64[N,3] mask) => (float[N,3] y) { m = Cast <to = 1> (mask) y = Mul(image, m) }"
    )
    with pytest.raises(OptionError, match="no floating-point input 'imge' \\(did you mean 'image'\\?\\)"):
        compile_model(model, find("saliency"), Request(inputs=("imge",)))
    with pytest.raises(OptionError, match="no floating-point input 'masks'"):
        compile_model(model, find("saliency"), Request(inputs=("masks",)))


@pytest.mark.parametrize(
    "body",
    [
        "g (float[N,3] x, float[N,3] z) => (float[N,3] y) { y = Relu(z) }",
        "g (float[N,3] x, float[N,3] z) => (float[N,3] y) { s = Sign(x) y = Mul(s, z) }",
        "g (float[N,3] x, float[N,3] z) => (float[N,3] y) { s = Shape(x) y = Expand(z, s) }",
        """g (float[N,3] x, float[N,3] z) => (float[N,3] y) {
          i = Cast <to = 7> (x) f = Cast <to = 1> (i) y = Mul(f, z) }""",
    ],
)
def test_an_output_that_x_does_not_move_is_an_error(body: str) -> None:
    with pytest.raises(TargetError, match="'y' does not depend on input 'x'"):
        compile_model(net(body), find("saliency"), Request(inputs=("x",)))


# Nodes without a rule


def obstacles(model: onnx.ModelProto, domains: tuple[str, ...] = (), **request: object) -> UnsupportedError:
    with pytest.raises(UnsupportedError) as caught:
        compile_source(load(model, domains=domains), find("saliency"), Request(**request))  # type: ignore[arg-type]
    return caught.value


def test_every_obstacle_is_listed_at_once() -> None:
    model = net(
        """g (float[N,3] x) => (float[N,3] y) {
          [first] a = com.acme.Gate(x) [fine] b = Relu(a) [second] c = com.acme.Twist(b)
          [third] d = Det2(c) y = Neg(c) [dead] e = com.acme.Dead(x) }""".replace("[third] d = Det2(c) ", ""),
        more='"com.acme" : 1',
    )
    error = obstacles(model, ("com.acme",))
    assert [(site.op, site.name) for site in error.sites] == [
        ("com.acme:Gate", "first"),
        ("com.acme:Twist", "second"),
    ]
    assert all(site.reason == "no rule for this operator" for site in error.sites)
    for text in ("2 nodes", "com.acme:Gate at 'first'", "com.acme:Twist at 'second'", "onnxplain check"):
        assert text in str(error)


def test_a_refusal_carries_the_reason_of_the_rule() -> None:
    model = net(
        """g (float[N,3] x, float r, bool t) => (float[N,6] y) {
          [drop] d = Dropout(x, r, t) [join] y = Concat <axis = 1> (d, x) }"""
    )
    (site,) = obstacles(model).sites
    assert (site.op, site.name) == ("Dropout", "drop")
    assert "training mode" in site.reason


def test_unsupported_nodes_off_the_path_do_not_matter() -> None:
    """Behind the target, beside it, on another input, and where only integers flow."""
    model = net(
        """g (float[N,3] x, float[N,3] z) => (float[N,3] y, float[N,3] late, float[N,3] side) {
          q = com.acme.Gate(z) r = Relu(x) y = Mul(r, q) late = com.acme.Gate(y) side = com.acme.Gate(x) }""",
        more='"com.acme" : 1',
    )
    for name in ("q", "r", "y", "late", "side"):
        model.graph.value_info.append(
            onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", 3])
        )
    del model.graph.value_info[2:]
    made, card = compile_source(load(model, domains=["com.acme"]), find("saliency"), Request(inputs=("x",)))
    assert [node.op_type for node in made.graph.node].count("Gate") == 3
    assert sorted(card.rules.values()) == ["mul", "relu"]


def test_an_operator_in_an_integer_branch_needs_no_derivative_but_a_name() -> None:
    """ArgMax carries nothing and is known; an operator that nobody knows might carry something."""
    fine = (
        "g (float[N,3] x) => (float[N,3] y) { i = ArgMax <axis = 1> (x) f = Cast <to = 1> (i) y = Add(x, f) }"
    )
    x = floats(2, 3)
    assert np.array_equal(gradient(fine, {"x": x}), np.ones((2, 3)))
    strange = net(
        "g (float[N,3] x) => (float[N,3] y) { i = com.acme.Rank(x) f = Cast <to = 1> (i) y = Add(x, f) }",
        more='"com.acme" : 1',
    )
    for name, kind in (("i", onnx.TensorProto.INT64), ("f", onnx.TensorProto.FLOAT)):
        strange.graph.value_info.append(onnx.helper.make_tensor_value_info(name, kind, ["N", 1]))
    (site,) = obstacles(strange, ("com.acme",)).sites
    assert site.op == "com.acme:Rank"


IF = """g (float[N,3] x, bool c) => (float[N,3] y) {
  [choice] y = If (c) <then_branch = a () => (float[N,3] p) { p = Relu(x) },
                       else_branch = b () => (float[N,3] q) { q = Neg(x) }> }"""
LOOP = """g (float[N,3] x) => (float[N,3] y) <int64 n = {3}, bool t = {1}> {
  [again] y = Loop(n, t, x) <body = b (int64 i, bool ti, float[N,3] s) => (bool to, float[N,3] so)
    { to = Identity(ti) so = Mul(s, x) }> }"""


@pytest.mark.parametrize(("body", "op", "name"), [(IF, "If", "choice"), (LOOP, "Loop", "again")])
def test_subgraphs_that_read_the_input_are_refused(body: str, op: str, name: str) -> None:
    (site,) = obstacles(net(body), inputs=("x",)).sites
    assert (site.op, site.name) == (op, name)
    assert site.reason == "its subgraph reads the explained input"


def test_subgraphs_that_do_not_read_the_input_are_parameters() -> None:
    body = """g (float[N,3] x, float[N,3] z, bool c) => (float[N,3] y) {
      w = If (c) <then_branch = a () => (float[N,3] p) { p = Relu(z) },
                  else_branch = b () => (float[N,3] q) { q = Neg(z) }>
      y = Mul(x, w) }"""
    x, z = floats(2, 3), floats(2, 3, seed=1)
    assert np.array_equal(gradient(body, {"x": x, "z": z, "c": np.asarray(False)}), -z)


def test_a_weighted_node_of_unknown_rank_is_refused_by_the_name_of_the_tensor() -> None:
    model = net(
        "g (float[N,3] x) => (float[M,3] y) { h = com.acme.Gate(x) y = MatMul(h, w) }", more='"com.acme" : 1'
    )
    model.graph.initializer.append(numpy_helper.from_array(floats(3, 3), "w"))
    reasons = {site.op: site.reason for site in obstacles(model, ("com.acme",)).sites}
    assert set(reasons) == {"com.acme:Gate", "MatMul"}
    assert "rank of 'h' is unknown" in reasons["MatMul"]


# Names


def test_nodes_without_a_name_or_with_one_in_common_get_their_own() -> None:
    model = net(
        "g (float[N,3] x) => (float[N,3] y) { [a] p = Relu(x) [a] q = Neg(p) r = Relu(q) y = Neg(r) }"
    )
    tape, graph, _ = tape_of(model)
    names = [node.name for node in graph.nodes]
    assert len(set(names)) == 4
    assert names[0] == "a"
    assert [step.site.name for step in tape.steps] == names
    assert tape.rules() == dict(zip(names, ["relu", "neg", "relu", "neg"], strict=True))


def test_emitted_names_do_not_meet_those_of_the_model() -> None:
    model = net("g (float[N,3] x) => (float[N,3] y) { [bwd] a = Relu(x) y = Neg(a) }")
    model.graph.node[0].output[0] = model.graph.node[1].input[0] = "bwd/a/Relu_0"
    made, _ = compile_model(model, find("saliency"))
    outputs = [name for node in made.graph.node for name in node.output]
    assert len(set(outputs)) == len(outputs)
    x = floats(2, 3)
    got = run(made, {"x": x, "target": np.asarray([[0], [1]], np.int64)})["attribution"]
    assert np.array_equal(got, -np.eye(3)[:2] * (x > 0))


# Directions


def test_gated_maps_pull_but_do_not_push() -> None:
    method = find("guided-backprop")
    tape, graph, g = tape_of(
        net("g (float[N,3] x) => (float[N,3] y) { y = Relu(x) }"), method.rules(method.settle({}))
    )
    x = graph.values["x"]
    assert "x" in pull(tape, {"y": x}, g)
    with pytest.raises(NotLinearError, match="no forward form"):
        push(tape, {"x": x}, g)


def test_offsets_are_added_only_when_asked_for() -> None:
    model = net(
        "g (float[N,3] x) => (float[N,3] y) <float[3] b = {1, 2, 3}> { p = MatMul(x, w) y = Gemm(p, w, b) }"
    )
    model.graph.initializer.append(numpy_helper.from_array(floats(3, 3), "w"))
    tape, graph, g = tape_of(model)
    before = len(g.nodes)
    push(tape, {"x": graph.values["x"]}, g)
    plain = [node.op for node in g.nodes[before:]]
    before = len(g.nodes)
    push(tape, {"x": graph.values["x"]}, g, affine=True)
    assert [node.op for node in g.nodes[before:]] == [*plain, "Add"]
