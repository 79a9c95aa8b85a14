"""Which rule a node gets, and what becomes of the emitted nodes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from onnx import numpy_helper

from onnxplain.rewriter.compile import Request, compile_model, compile_source
from onnxplain.rewriter.emit import Emit
from onnxplain.rewriter.errors import ModelError, OptionError, UnsupportedError
from onnxplain.rewriter.graph import prepare
from onnxplain.rewriter.linear import Keep, Local, Scale
from onnxplain.rewriter.load import load
from onnxplain.rewriter.passes.lower import lower
from onnxplain.rewriter.passes.share import share
from onnxplain.rewriter.rules import Match, Rule, Rules, named
from onnxplain.rewriter.site import Refuse, Site
from onnxplain.rules.gradient import GRADIENT
from onnxplain.rules.registry import find

from .nets import floats, net, run, tape_of


def half(site: Site, g: Emit) -> Local:
    return Local(Scale(0.5))


def double(site: Site, g: Emit) -> Local:
    return Local(Scale(2.0))


def test_an_operator_of_another_domain_with_a_rule_of_the_user() -> None:
    """Compiled by `GRADIENT | {...}` and domains=; onnxruntime has no kernel for it, so a stand-in computes it."""
    model = net(
        "g (float[N,3] x) => (float[N,3] y) { h = com.acme.Gate(x) y = Neg(h) }", more='"com.acme" : 1'
    )
    method = replace(find("saliency"), rules=lambda options: GRADIENT | {"com.acme:Gate": half})
    with pytest.raises(ModelError, match=r"com\.acme\.Gate"):
        compile_model(model, method)
    made, card = compile_source(load(model, domains=["com.acme"]), method, Request(target=1))
    assert list(card.rules.values()) == ["half", "neg"]
    gate = next(node for node in made.graph.node if node.domain == "com.acme")
    gate.domain, gate.op_type = "", "Identity"
    assert np.array_equal(run(made, {"x": floats(2, 3)})["attribution"], [[0, -0.5, 0]] * 2)


def chosen(
    rules: Rules, body: str = "[conv1_relu] p = Relu(x) [conv2_relu] q = Relu(p) [head] y = Neg(q)"
) -> dict[str, str]:
    return tape_of(net(f"g (float[N,3] x) => (float[N,3] y) {{ {body} }}"), rules)[0].rules()


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        ({}, ["relu", "relu", "neg"]),
        ({"Relu": half}, ["half", "half", "neg"]),
        ({named("conv1_*"): half}, ["half", "relu", "neg"]),
        ({named("*relu"): half, "Relu": double}, ["double", "double", "neg"]),
        ({"Relu": double, named("*relu"): half}, ["half", "half", "neg"]),
        ({frozenset({"Relu", "Neg"}): half, named("head"): double}, ["half", "half", "double"]),
        ({lambda site: site.op == "Neg": double}, ["relu", "relu", "double"]),
        ({named("CONV1_*"): half}, ["relu", "relu", "neg"]),
    ],
)
def test_the_last_match_wins(pairs: dict[Match, Rule], expected: list[str]) -> None:
    assert list(chosen(GRADIENT | pairs).values()) == expected


def test_an_outer_set_wins_over_its_base() -> None:
    assert set(chosen((GRADIENT | {"Relu": half, "Neg": half}) | {"Relu": double}).values()) == {
        "double",
        "half",
    }


def test_the_base_is_looked_up_late() -> None:
    base = Rules()
    grown = base | {"Neg": double}
    base.on("Relu")(half)
    assert chosen(grown) == {"conv1_relu": "half", "conv2_relu": "half", "head": "double"}
    assert list(grown.ops()) == ["Relu", "Neg"]


def test_two_rules_for_one_operator_are_a_mistake() -> None:
    rules = Rules()
    rules.on("Relu", "Neg")(half)
    with pytest.raises(ValueError, match="Neg has a rule already: half"):
        rules.on("Neg")(double)


def test_first_marks_what_no_weighted_node_precedes() -> None:
    """The box rule of LRP asks for it."""
    seen: dict[str, bool] = {}

    def spy(site: Site, g: Emit) -> Local:
        seen[site.name] = site.first
        return Local(*(Keep() for _ in site.x))

    body = """g (float[N,3] x) => (float[N,3] y) {
      [a] p = Relu(x) [b] q = MatMul(p, w) [c] r = Relu(q) [d] s = MatMul(r, w) [e] t = Neg(p) [f] u = MatMul(t, w)
      v = Add(s, u) [g] y = Relu(v) }"""
    model = net(body)
    model.graph.initializer.append(numpy_helper.from_array(floats(3, 3), "w"))
    tape_of(model, GRADIENT | {frozenset({"Relu", "Neg", "MatMul"}): spy})
    assert seen == {"a": True, "b": True, "c": False, "d": False, "e": True, "f": True, "g": False}


def test_a_rule_may_refuse_a_node_that_another_set_takes() -> None:
    def picky(site: Site, g: Emit) -> Local:
        raise Refuse("not today")

    with pytest.raises(UnsupportedError) as caught:
        chosen(GRADIENT | {"Relu": picky})
    assert [str(site) for site in caught.value.sites] == [
        "Relu at 'conv1_relu': not today",
        "Relu at 'conv2_relu': not today",
    ]


# Sharing and lowering


def test_equal_nodes_are_merged_and_unused_ones_dropped() -> None:
    graph = prepare(net("g (float[N,3] x) => (float[N,3] y) { y = Relu(x) }"))
    g, x = Emit(graph), graph.values["x"]
    a, b = g.Greater(x, 0.0), g.Greater(x, 0.0)
    other = g.Greater(x, 1.0)
    p, q = g.Cast(a, to=1), g.Cast(b, to=1)
    total = g.Add(g.Mul(p, q), g.Cast(other, to=1))
    g.Neg(total)
    twice, thrice = g.Softmax(x, axis=0), g.Softmax(x, axis=1)
    nodes, (out, left, right) = share(g.nodes, [total, twice, thrice])
    assert [node.op for node in nodes] == [
        "Greater",
        "Greater",
        "Cast",
        "Mul",
        "Cast",
        "Add",
        "Softmax",
        "Softmax",
    ]
    product = next(node for node in nodes if node.op == "Mul")
    assert product.inputs[0] is product.inputs[1]
    assert out is total
    assert left is not right


def test_two_outputs_that_are_equal_are_two_all_the_same() -> None:
    """Each has a name of its own in the file."""
    graph = prepare(net("g (float[N,3] x) => (float[N,3] y) { y = Relu(x) }"))
    g, x = Emit(graph), graph.values["x"]
    one, other = g.Neg(x), g.Neg(x)
    nodes, (first, second) = share(g.nodes, [one, other])
    assert [node.op for node in nodes] == ["Neg", "Neg"]
    assert first is not second
    nodes, (first, second) = share(g.nodes, [one, g.Abs(other)])
    assert [node.op for node in nodes] == ["Neg", "Abs"]
    assert nodes[1].inputs[0] is first


def test_masks_of_several_seeds_are_shared() -> None:
    model = net("g (float[N,3] x) => (float[N,3] y) { y = Relu(x) }")
    one, three = (compile_model(model, find("saliency"), Request(target=t))[0] for t in ([0], [0, 1, 2]))
    count = [[node.op_type for node in made.graph.node].count("Greater") for made in (one, three)]
    assert count[0] == count[1]


def test_an_unknown_lowering_is_named_with_its_neighbour() -> None:
    graph = prepare(net("g (float[N,3] x) => (float[N,3] y) { y = Relu(x) }"))
    with pytest.raises(
        OptionError, match=r"no lowering for 'portabel' \(did you mean 'portable'\?\); known: portable"
    ):
        lower(Emit(graph), [], "portabel")
    with pytest.raises(OptionError, match="no lowering for 'hexagon'; known"):
        compile_model(
            net("g (float[N,3] x) => (float[N,3] y) { y = Relu(x) }"),
            find("saliency"),
            Request(provider="hexagon"),
        )
