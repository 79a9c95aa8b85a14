"""Operators of the gradient under every family: its own rule, listed as right, or recorded. Nothing is taken
silently."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxplain
from onnxplain import UnsupportedError
from onnxplain.rewriter.emit import Emit
from onnxplain.rewriter.graph import Graph, operator, variable
from onnxplain.rewriter.linear import Local, Scale
from onnxplain.rewriter.rules import Rules
from onnxplain.rewriter.site import Site
from onnxplain.rules import composites, gates, patterns
from onnxplain.rules.borrowed import SILENT, is_linear
from onnxplain.rules.chord import LINEAR as SUMMED
from onnxplain.rules.gradient import GRADIENT
from onnxplain.rules.registry import methods

GATE = "com.acme:Gate"
EXACT = {
    *("gradient", "path", "noise", "activation map", "occlusion"),
    *("perturbation", "optimisation", "prediction difference", "adversarial"),
}
"""Families whose maps are made of derivatives: that is what their papers say at every operator."""
RIGHT = {
    "gated gradient": gates.RIGHT,
    "relevance": composites.RIGHT,
    "patterns": patterns.RIGHT,
    "deeplift": SUMMED,
    "linearscope": frozenset[str](),
}
"""Family -> operators at which the gradient is its rule."""
OPTIONS: dict[str, dict[str, Any]] = {
    "lrp.z-box": {"low": 0.0, "high": 1.0},
    "lrp.epsilon-gamma-box": {"low": 0.0, "high": 1.0},
    "pattern-net": {"estimator": "weights"},
    "pattern-attribution": {"estimator": "weights"},
}
FAMILIES = sorted({method.family for method in methods().values()})


@pytest.fixture(autouse=True)
def gate() -> Iterator[None]:
    """An operator of a user's own domain, with a gradient."""
    GRADIENT.on(GATE)(lambda site, g: Local(Scale(g.Sigmoid(site.data))))
    yield
    del GRADIENT._pairs[GATE]


def rule_sets() -> Iterator[tuple[str, str, Rules]]:
    """(method, family, rules) of every method with rules other than the gradient."""
    for name, method in methods().items():
        made, options = method.concrete(OPTIONS.get(name, {}))
        rules = made.rules({**options, "preprocessing": {}})
        family = "gated gradient" if name == "guided-grad-cam" else method.family
        if rules is not GRADIENT:
            yield name, family, rules
        else:
            assert family in EXACT, f"{name} is the gradient at every operator"


def site(op: str, active: tuple[bool, bool]) -> Site:
    domain, _, name = op.rpartition(":")
    node = operator(name, "n", {}, [variable("a"), variable("b")], [variable("y")], domain)
    graph = SimpleNamespace(constant=lambda value: None, opset=21)
    return Site(node, cast("Graph", graph), active=active)


def test_every_family_says_where_the_gradient_is_right() -> None:
    assert set(FAMILIES) <= EXACT | set(RIGHT), "a new family: list what it takes from the gradient"
    for family, listed in RIGHT.items():
        assert listed <= set(GRADIENT.ops()), family


@pytest.mark.parametrize("active", [(True, False), (False, True), (True, True)])
def test_every_operator_has_a_rule_is_listed_or_recorded(active: tuple[bool, bool]) -> None:
    checked = 0
    for name, family, rules in rule_sets():
        for op in sorted(set(GRADIENT.ops())):
            at = site(op, active)
            taken, plain = rules.find(at), GRADIENT.find(at)
            assert taken is not None, f"{name}: no rule for {op}"
            if taken is plain:
                linear = family in ("gated gradient", "patterns") and is_linear(at)
                assert op in RIGHT[family] | SILENT or linear, f"{name} takes the gradient at {op} silently"
            checked += 1
    assert checked > 20 * 130


def net(op: str, domain: str = "") -> onnx.ModelProto:
    """y = V op(W x)."""
    rng = np.random.default_rng(0)
    weights = {"w": rng.standard_normal((5, 4)), "v": rng.standard_normal((4, 3))}
    nodes = [
        helper.make_node("Gemm", ["x", "w"], ["q"]),
        helper.make_node(op, ["q"], ["p"], "middle", domain=domain),
        helper.make_node("Gemm", ["p", "v"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 5])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(value.astype(np.float32), key) for key, value in weights.items()],
        value_info=[helper.make_tensor_value_info("p", TensorProto.FLOAT, ["N", 4])],
    )
    imports = [helper.make_opsetid("", 20), *([helper.make_opsetid(domain, 1)] if domain else [])]
    return helper.make_model(graph, opset_imports=imports, ir_version=10)


NAMES = sorted(name for name, method in methods().items() if method.family in RIGHT)


@pytest.mark.filterwarnings("ignore::onnxplain.ExplainWarning")
@pytest.mark.parametrize("name", NAMES)
def test_an_operator_of_a_users_own_is_refused_or_recorded(name: str) -> None:
    model, options = net("Gate", "com.acme"), OPTIONS.get(name, {})
    try:
        card = onnxplain.compile(model, name, domains=("com.acme",), **options).card
    except (UnsupportedError, onnxplain.TargetError) as error:  # votes: no picture; DeepLIFT: no rule
        assert "votes" in name or GATE in str(error)
        return
    assert any(note.startswith(f"{GATE} at middle: ") for note in card.approximations)


@pytest.mark.parametrize(
    ("name", "op", "told"),
    [
        ("guided-backprop", "Softmax", True),
        ("guided-backprop", "Exp", True),
        ("deconvnet", "Shrink", True),
        ("deconvnet", "Relu", False),
        ("guided-backprop", "Neg", False),
        ("pattern-net", "Softmax", True),
        ("pattern-net", "Tanh", False),
        ("lrp.epsilon", "Neg", False),
        ("linearscope.rows", "Shrink", True),
        ("linearscope.rows", "Relu", False),
        ("saliency", "Softmax", False),
    ],
)
def test_what_is_told_of_operators(name: str, op: str, told: bool) -> None:
    card = onnxplain.compile(net(op), name, **OPTIONS.get(name, {})).card
    assert any(f"{op} at middle" in note for note in card.approximations) == told


def test_one_note_an_operator() -> None:
    g = Emit(cast("Graph", SimpleNamespace(values={}, draft=SimpleNamespace(notes=[], weights={}))))
    for node in ("a", "b", "a"):
        g.approximate("Exp", node, "why")
    assert g.approximated == {("Exp", "why"): ["a", "b"]}


def test_a_users_own_rule_is_no_approximation() -> None:
    rules = gates.guided({"gate": "relu", "lrn": "gradient"}) | {GATE: gates.keep}
    assert rules.find(site(GATE, (True, False))) is gates.keep
