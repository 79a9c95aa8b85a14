"""Which rule works where: composites, the option `rules`, the range for the z-box, options that make no sense."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxplain.rewriter.card import Card
from onnxplain.rewriter.compile import Request, compile_model
from onnxplain.rewriter.errors import OptionError, UnsupportedError
from onnxplain.rules.bounds import pixel_range
from tests.rules.forward import session
from tests.rules.test_relevance_golden import METHODS

PIXELS = {"mean": [0.0, 127.5], "std": [255.0, -127.5], "layout": "NCHW"}


def model() -> onnx.ModelProto:
    """Two stems, a block, a head of two dense layers: stem_a, stem_b, block, hidden, out."""
    rng = np.random.default_rng(3)
    shapes = {"a": (3, 2, 3, 3), "b": (3, 2, 3, 3), "c": (4, 6, 3, 3), "d": (4, 5), "e": (5, 3)}
    known = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    same = [1, 1, 1, 1]
    nodes = [
        helper.make_node("Conv", ["x", "a"], ["t1"], "stem_a", pads=same),
        helper.make_node("Conv", ["x", "b"], ["t2"], "stem_b", pads=same),
        helper.make_node("Concat", ["t1", "t2"], ["t3"], "join", axis=1),
        helper.make_node("Relu", ["t3"], ["t4"], "act1"),
        helper.make_node("Conv", ["t4", "c"], ["t5"], "block", pads=same),
        helper.make_node("Relu", ["t5"], ["t6"], "act2"),
        helper.make_node("GlobalAveragePool", ["t6"], ["t7"], "pool"),
        helper.make_node("Flatten", ["t7"], ["t8"], "flat"),
        helper.make_node("Gemm", ["t8", "d"], ["t9"], "hidden"),
        helper.make_node("Relu", ["t9"], ["t10"], "act3"),
        helper.make_node("Gemm", ["t10", "e"], ["y"], "out"),
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, dims)
        for name, dims in (("x", ["N", 2, 6, 6]), ("y", ["N", 3]))
    ]
    weights = [numpy_helper.from_array(value, name) for name, value in known.items()]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


WEIGHTED = ("stem_a", "stem_b", "block", "hidden", "out")
X = np.random.default_rng(4).normal(size=(2, 2, 6, 6)).astype(np.float32)


def compiled(method: str, preprocessing: dict[str, Any] | None = None, **options: Any) -> tuple[Any, Card]:
    request = Request(target=1, options=options, preprocessing=preprocessing)
    return compile_model(model(), METHODS[method], request)


def rules(method: str, **options: Any) -> tuple[str, ...]:
    _, card = compiled(method, **options)
    return tuple(card.rules[name] for name in WEIGHTED)


def explained(method: str, preprocessing: dict[str, Any] | None = None, **options: Any) -> np.ndarray:
    made, _ = compiled(method, preprocessing, **options)
    return np.asarray(session(made).run(["attribution"], {"x": X})[0])


E_, P, A, F, G, B, W = "epsilon", "z-plus", "alpha-beta", "flat", "gamma", "z-box", "w-square"
TABLE = {
    "lrp.epsilon-plus": (P, P, P, E_, E_),
    "lrp.epsilon-plus-flat": (F, F, P, E_, E_),
    "lrp.epsilon-alpha2-beta1": (A, A, A, E_, E_),
    "lrp.epsilon-alpha2-beta1-flat": (F, F, A, E_, E_),
    "lrp.preset-a": (P, P, P, E_, E_),
    "lrp.preset-b": (A, A, A, E_, E_),
    "lrp.zero": ("zero",) * 5,
    "lrp.epsilon": (E_,) * 5,
    "lrp.gamma": (G,) * 5,
    "lrp.alpha-beta": (A,) * 5,
    "lrp.z-plus": (P,) * 5,
    "lrp.w-square": (W,) * 5,
    "lrp.flat": (F,) * 5,
}


@pytest.mark.parametrize("method", TABLE)
def test_a_composite_gives_each_layer_its_rule(method: str) -> None:
    assert rules(method) == TABLE[method]


def test_composites_with_a_box() -> None:
    box = {"low": -3.0, "high": 3.0}
    assert rules("lrp.epsilon-gamma-box", **box) == (B, B, G, E_, E_)
    assert rules("lrp.z-box", **box) == (B, B, B, B, B)
    assert rules("lrp.z-box", hidden="z-plus", **box) == (B, B, P, P, P)
    assert rules("deep-taylor", **box) == (B, B, P, P, P)


def test_deep_taylor_goes_by_what_is_known_of_the_input() -> None:
    assert rules("deep-taylor") == (W, W, P, P, P)
    assert rules("deep-taylor", input="positive") == (P,) * 5
    with pytest.raises(OptionError, match=r"low= and high="):
        rules("deep-taylor", input="bounded")


def test_presets_take_another_rule_for_the_first_layers_and_a_larger_epsilon() -> None:
    assert rules("lrp.preset-a", first="flat") == (F, F, P, E_, E_)
    assert rules("lrp.preset-b", first="flat") == (F, F, A, E_, E_)
    want = explained("lrp.epsilon-plus", epsilon=0.1)
    assert np.array_equal(explained("lrp.preset-a"), want)
    assert np.abs(explained("lrp.epsilon-plus") - want).max() > 1e-3 * np.abs(want).max()


@pytest.mark.parametrize(
    ("given", "want"),
    [
        ({"first": "flat"}, (F, F, E_, E_, E_)),
        ({"last": "z-plus"}, (E_, E_, E_, E_, P)),
        ({"Conv": "gamma"}, (G, G, G, E_, E_)),
        ({"stem_*": "w-square"}, (W, W, E_, E_, E_)),
        ({"Conv": "gamma", "stem_b": "flat"}, (G, F, G, E_, E_)),
        ({"stem_b": "flat", "Conv": "gamma"}, (G, G, G, E_, E_)),
        ({"block": {"rule": "alpha-beta", "alpha": 3.0}}, (E_, E_, A, E_, E_)),
        ({"first": "z-box:low=-3,high=3"}, (B, B, E_, E_, E_)),
        ({"out": "zero"}, (E_, E_, E_, E_, "zero")),
    ],
)
def test_the_option_rules_overrides_and_later_entries_win(
    given: dict[str, Any], want: tuple[str, ...]
) -> None:
    assert rules("lrp.epsilon", rules=given) == want


@pytest.mark.parametrize(
    ("given", "method", "options"),
    [
        ({"*": "gamma:gamma=0.1"}, "lrp.gamma", {"gamma": 0.1}),
        (
            {"*": {"rule": "gamma", "gamma": 0.1, "variant": "plain"}},
            "lrp.gamma",
            {"gamma": 0.1, "variant": "plain"},
        ),
        ({"*": "alpha-beta:alpha=1,epsilon=0.01"}, "lrp.alpha-beta", {"alpha": 1.0, "epsilon": 0.01}),
        ({"*": "z-plus:bias=ignore"}, "lrp.z-plus", {"bias": "ignore"}),
    ],
)
def test_the_settings_of_an_override_are_those_of_the_method(
    given: dict[str, Any], method: str, options: dict[str, Any]
) -> None:
    assert np.array_equal(explained("lrp.epsilon", rules=given), explained(method, **options))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"first": "gama"}, r"no rule 'gama' \(did you mean 'gamma'\?\); there is zero, epsilon"),
        ({"first": "gamma:gama=0.1"}, r"no setting 'gama' \(did you mean 'gamma'\?\)"),
        ({"first": "gamma:gamma=-1"}, r"gamma=-1"),
        ({"first": "gamma:gamma=much"}, r"gamma='much'"),
        ({"first": "flat:gamma=1"}, r"flat has no setting 'gamma'"),
        ({"first": {"rule": "gamma", "variant": "odd"}}, r"variant='odd' is not one of generalised, plain"),
        ({"first": {"gamma": 0.1}}, r"is no rule"),
        ({"first": 3}, r"is no rule"),
        ({"Relu": "flat"}, r"Relu has no weights"),
        ({"": "flat"}, r"neither first, last"),
        ("flat", r"no mapping"),
    ],
)
def test_a_bad_override_is_an_error(given: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        rules("lrp.epsilon", rules=given)


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("lrp.alpha-beta", {"alpha": 2.0, "beta": 0.5}, "alpha - beta must be 1"),
        ("lrp.alpha-beta", {"alpha": 0.5}, "alpha"),
        ("lrp.epsilon", {"epsilon": -1e-3}, "epsilon"),
        ("lrp.epsilon", {"gamma": 0.1}, "no option 'gamma'"),
        ("lrp.zero", {"epsilon": 0.1}, "no option 'epsilon'"),
        ("lrp.epsilon", {"bias": "drop"}, "denominator"),
        ("lrp.z-box", {}, r"low= and high="),
        ("lrp.z-box", {"low": 0.0}, "belong together"),
        ("lrp.z-box", {"low": 1.0, "high": 0.0}, "above"),
        ("lrp.z-box", {"low": [0.0, 0.0, 0.0], "high": [1.0, 1.0]}, "3 channels"),
        ("lrp.z-box", {"low": "zero", "high": 1.0}, "neither a number"),
        ("lrp.epsilon-gamma-box", {}, r"low= and high="),
    ],
)
def test_options_that_make_no_sense_are_errors(method: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        compiled(method, **options)


def test_the_range_of_pixels_is_the_default_box() -> None:
    assert pixel_range(PIXELS) == ((0.0, -1.0), (1.0, 1.0))
    assert pixel_range({}) is None and pixel_range(None) is None
    for method in ("lrp.z-box", "deep-taylor", "lrp.epsilon-gamma-box"):
        want = explained(method, low=[0.0, -1.0], high=[1.0, 1.0])
        assert np.array_equal(explained(method, PIXELS), want)
    _, card = compiled("deep-taylor", PIXELS)
    assert card.rules["stem_a"] == B


def test_given_bounds_go_before_those_of_the_pixels() -> None:
    want = explained("lrp.z-box", low=-3.0, high=3.0)
    assert np.array_equal(explained("lrp.z-box", PIXELS, low=-3.0, high=3.0), want)


def test_bounds_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UnsupportedError, match=r"stem_a.*3 channels.*has 2"):
        compiled("lrp.z-box", low=[0.0, 0.0, 0.0], high=[1.0, 2.0, 3.0])


def test_the_range_of_pixels_is_not_that_of_what_is_computed_from_them() -> None:
    net = model()
    net.graph.node.insert(0, helper.make_node("Tanh", ["x"], ["squeezed"], "squeeze"))
    for node in net.graph.node[1:3]:
        node.input[0] = "squeezed"
    with pytest.raises(UnsupportedError, match=r"stem_a.*give low= and high="):
        compile_model(net, METHODS["lrp.z-box"], Request(target=1, preprocessing=PIXELS))
    compile_model(net, METHODS["lrp.z-box"], Request(target=1, options={"low": -1.0, "high": 1.0}))
