"""What must hold for relevance whatever the weights: conservation, signs, batches, heads, finite numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from onnxplain.rewriter.compile import Request, compile_model
from onnxplain.rewriter.load import load
from onnxplain.rules.registry import find
from onnxplain.runtime.verify import Balance
from onnxplain.runtime.verify import balances as node_balances
from tests.rules.forward import Runner, session
from tests.rules.test_relevance_golden import DATA, METHODS, NETS, RANGE, stored

UNBIASED = ("mlp_nobias", "cnn_nobias")
RELU_NETS = ("mlp_nobias", "mlp_bias", "cnn_nobias", "cnn_bias", "resnet")
OPTIONS: Mapping[str, dict[str, Any]] = {
    name: RANGE if name in ("lrp.z-box", "lrp.epsilon-gamma-box", "deep-taylor") else {} for name in METHODS
}
CONSERVING = ("lrp.epsilon", "lrp.gamma", "lrp.z-plus", "lrp.w-square", "lrp.flat", "lrp.epsilon-plus-flat")


def model(name: str) -> onnx.ModelProto:
    return onnx.load(DATA / f"{name}.onnx")


def score(name: str) -> float:
    """z_c of the stored input."""
    return float(stored(name)["y"][0, int(stored(name)["class"])])


def explain(
    net: onnx.ModelProto, method: Any, x: NDArray[Any], target: Any, **options: Any
) -> NDArray[np.float64]:
    made, _ = compile_model(net, method, Request(target=target, options=options))
    return np.asarray(session(made).run(["attribution"], {"x": x.astype(np.float32)})[0], np.float64)


def at(name: str, method: str, **options: Any) -> NDArray[np.float64]:
    return explain(model(name), METHODS[method], stored(name)["x"], int(stored(name)["class"]), **options)


def balances(name: str, method: str, **options: Any) -> tuple[Balance, ...]:
    feeds = {"x": stored(name)["x"].astype(np.float32)}
    request = Request(target=int(stored(name)["class"]), options=options)
    return node_balances(load(model(name)), METHODS[method], request, feeds, run=Runner())


@pytest.mark.parametrize("name", UNBIASED)
def test_lrp_0_is_input_times_gradient_without_biases(name: str) -> None:
    want = explain(model(name), find("input-x-gradient"), stored(name)["x"], int(stored(name)["class"]))
    got = at(name, "lrp.zero")
    # The gradient of the logit times x is its value, e_c z_c and e_c differ by what LRP divides by.
    assert np.abs(got - want).max() <= 1e-5 * np.abs(want).max()


@pytest.mark.parametrize(
    "method", ["lrp.zero", "lrp.epsilon", "lrp.gamma", "lrp.z-plus", "lrp.epsilon-plus-flat"]
)
@pytest.mark.parametrize("name", UNBIASED)
def test_the_sum_is_the_logit_without_biases(name: str, method: str) -> None:
    assert at(name, method).sum() == pytest.approx(score(name), rel=1e-4)


@pytest.mark.parametrize("name", RELU_NETS)
def test_z_plus_without_its_biases_gives_the_whole_logit(name: str) -> None:
    assert at(name, "lrp.z-plus", bias="ignore").sum() == pytest.approx(score(name), rel=1e-4)


@pytest.mark.parametrize("name", RELU_NETS)
def test_distributed_biases_lose_nothing(name: str) -> None:
    assert at(name, "lrp.epsilon", bias="distribute").sum() == pytest.approx(score(name), rel=1e-4)


@pytest.mark.parametrize("domain", ["bounded", "unbounded", "positive"])
@pytest.mark.parametrize("name", NETS)
def test_deep_taylor_is_never_negative(name: str, domain: str) -> None:
    got = at(name, "deep-taylor", input=domain, **(RANGE if domain == "bounded" else {}))
    assert got.min() >= 0
    if name in RELU_NETS:
        assert got.sum() == pytest.approx(max(score(name), 0), rel=1e-4)


def test_alpha_2_beta_1_does_not_conserve() -> None:
    """A neuron without negative contributions passes on twice what it gets: of z_c here all arrives twice."""
    assert at("mlp_nobias", "lrp.alpha-beta").sum() / score("mlp_nobias") == pytest.approx(2.0, abs=5e-3)


def test_epsilon_absorbs_relevance() -> None:
    assert at("mlp_nobias", "lrp.epsilon", epsilon=0.25).sum() / score("mlp_nobias") == pytest.approx(
        0.48, abs=5e-3
    )


@pytest.mark.parametrize("method", CONSERVING)
@pytest.mark.parametrize("name", RELU_NETS)
def test_every_node_passes_on_what_arrives_but_for_its_bias(name: str, method: str) -> None:
    found = balances(name, method)
    assert found and found[-1].arrived == pytest.approx(score(name), rel=1e-6)
    for balance in found:
        size = max(abs(balance.arrived), abs(balance.passed), abs(score(name)))
        assert abs(balance.residual) <= 1e-4 * size, balance
    assert sum(b.offset for b in found) == pytest.approx(score(name) - at(name, method).sum(), abs=1e-3)


@pytest.mark.parametrize("name", ["mlp_bias", "cnn_bias"])
def test_the_report_names_the_nodes_that_do_not_conserve(name: str) -> None:
    assert all(abs(b.offset) == 0 for b in balances(name, "lrp.epsilon", bias="ignore"))
    found = {b.node: b for b in balances(name, "lrp.epsilon", epsilon=0.25)}
    lossy = [b for b in found.values() if abs(b.residual) > 1e-3]
    assert lossy and all(b.rule == "epsilon" for b in lossy)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", NETS)
def test_constant_inputs_give_finite_maps(name: str, method: str) -> None:
    x = stored(name)["x"]
    flat = np.concatenate([np.zeros_like(x), np.full_like(x, 0.5), np.full_like(x, -3.0)])
    assert np.isfinite(explain(model(name), METHODS[method], flat, "top", **OPTIONS[method])).all()


@pytest.mark.parametrize("mode", ["ignore", "distribute"])
@pytest.mark.parametrize("method", ["lrp.zero", "lrp.epsilon", "lrp.gamma", "lrp.alpha-beta"])
def test_so_do_the_other_ways_to_treat_biases(method: str, mode: str) -> None:
    x = np.concatenate([np.zeros((1, 4, 9, 9)), np.full((1, 4, 9, 9), -3.0)])
    assert np.isfinite(explain(model("cnn_odd"), METHODS[method], x, "top", bias=mode)).all()


def test_relative_epsilon_is_finite_where_everything_is_zero() -> None:
    x = np.zeros((2, 2, 8, 8))
    assert np.isfinite(
        explain(model("cnn_nobias"), METHODS["lrp.epsilon"], x, "top", eps_mode="relative")
    ).all()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["mlp_bias", "cnn_odd", "resnet", "concat"])
def test_a_batch_equals_its_samples_in_any_order(name: str, method: str) -> None:
    rng = np.random.default_rng(5)
    x = stored(name)["x"]
    x = np.concatenate([rng.normal(size=x.shape), x, -2 * x]).astype(np.float32)
    made, _ = compile_model(model(name), METHODS[method], Request(options=OPTIONS[method]))
    run, target = session(made), np.array([[0], [-1], [2]], np.int64)
    whole = np.asarray(run.run(["attribution"], {"x": x, "target": target})[0])
    backwards = np.asarray(run.run(["attribution"], {"x": x[::-1].copy(), "target": target[::-1].copy()})[0])
    # The same float32 arithmetic, perhaps in another order; kept apart from 0/0 by ε.
    size = np.abs(whole).reshape(3, -1).max(1)
    for i in range(3):
        one = np.asarray(run.run(["attribution"], {"x": x[i : i + 1], "target": target[i : i + 1]})[0])
        assert np.abs(one[0] - whole[i]).max() <= 1e-4 * size[i]
        assert np.abs(backwards[2 - i] - whole[i]).max() <= 1e-4 * size[i]


@pytest.mark.parametrize("method", ["lrp.epsilon", "lrp.epsilon-plus-flat", "deep-taylor"])
@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax", "Sigmoid"])
def test_a_squashed_head_is_explained_in_front_of_it(op: str, method: str) -> None:
    longer, name = model("resnet"), "resnet"
    last = longer.graph.output[0].name
    longer.graph.node.append(helper.make_node(op, [last], ["scores"], "squash"))
    del longer.graph.output[:]
    longer.graph.output.append(helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 3]))
    c = int(stored(name)["class"])
    got = explain(longer, METHODS[method], stored(name)["x"], c, **OPTIONS[method])
    assert np.array_equal(got, at(name, method, **OPTIONS[method]))


def test_a_negative_logit_turns_the_signs_and_leaves_deep_taylor_nothing() -> None:
    y, x = stored("cnn_bias")["y"][0], stored("cnn_bias")["x"]
    c = int(y.argmin())
    assert y[c] < 0
    assert explain(model("cnn_bias"), METHODS["lrp.z-plus"], x, c, bias="ignore").sum() < 0
    assert not explain(model("cnn_bias"), METHODS["deep-taylor"], x, c).any()


def test_the_file_holds_each_weight_once() -> None:
    """W⁺ and W⁻ are computed from W, when the file is loaded."""
    net = model("cnn_bias")
    made, _ = compile_model(net, METHODS["lrp.alpha-beta"], Request())
    kept = {tensor.name for tensor in net.graph.initializer}
    more = sum(int(np.prod(t.dims)) for t in made.graph.initializer if t.name not in kept)
    assert kept <= {tensor.name for tensor in made.graph.initializer} and more < 100
