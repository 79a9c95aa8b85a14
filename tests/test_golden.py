"""The four methods against stored float64 results on small nets with random weights.

data/golden holds twelve nets (float32) and, in float64, an input x, the class explained and what each method gives
for it (captum's convention for the gated ones). onnxruntime computes in float32: measured errors are 3e-8 to 4e-7
of the largest element. Up to 1e-4 is accepted, which no wrong mask, weight or border gets through.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from onnxplain.rewriter.compile import Request, compile_model
from onnxplain.rewriter.errors import TargetError
from onnxplain.rewriter.target import Target
from onnxplain.rules.readouts import readout
from onnxplain.rules.registry import find

DATA = Path(__file__).parent / "data" / "golden"
INDEX: dict[str, dict[str, dict[str, list[int]]]] = json.loads((DATA / "index.json").read_text())
KEYS = {
    "saliency": "saliency",
    "input-x-gradient": "input_x_gradient",
    "deconvnet": "deconvnet",
    "guided-backprop": "guided_backprop",
}
METHODS = list(KEYS)
CLASSIFIERS = [name for name, entry in INDEX.items() if "saliency" in entry["arrays"]]
IMAGES = [name for name in CLASSIFIERS if len(INDEX[name]["arrays"]["x"]) == 4]
TOLERANCE = 1e-4
EXACT = 1e-6
"""Of the largest element: two runs of the same float32 arithmetic, perhaps in another order."""

Floats = NDArray[np.float32]
Feeds = Mapping[str, NDArray[np.generic]]


@cache
def golden(name: str) -> dict[str, NDArray[np.float64]]:
    with np.load(DATA / f"{name}.npz") as stored:
        return {key: stored[key] for key in stored.files}


@cache
def model(name: str) -> onnx.ModelProto:
    return onnx.load(DATA / f"{name}.onnx")


def image(name: str) -> Floats:
    return golden(name)["x"].astype(np.float32)


def chosen(name: str) -> int:
    return int(golden(name)["class"])


def run(emitted: onnx.ModelProto, feeds: Feeds) -> dict[str, Floats]:
    session = ort.InferenceSession(emitted.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, map(np.asarray, session.run(None, dict(feeds))), strict=True))


def explain(net: onnx.ModelProto, method: str, feeds: Feeds, request: Request | None = None) -> Floats:
    emitted, _ = compile_model(net, find(method), request)
    return run(emitted, feeds)["attribution"]


def at(name: str, method: str, target: Target, x: Floats | None = None, more: Feeds | None = None) -> Floats:
    feeds = {"x": image(name) if x is None else x, **(more or {})}
    return explain(model(name), method, feeds, Request(target=target))


def error(got: NDArray[np.floating], want: NDArray[np.floating]) -> float:
    """Largest difference, relative to the largest element."""
    assert got.shape == want.shape, f"{got.shape} instead of {want.shape}"
    size = float(np.abs(want).max())
    assert size > 0, "an expected map of zeros proves nothing"
    return float(np.abs(got - want).max()) / size


def gates(name: str) -> dict[str, str]:
    """captum hooks torch.nn.ReLU and leaves Clip(0, 6) its plain derivative."""
    return {"gate": "relu"} if name == "smooth_acts" else {}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_methods_equal_the_stored_float64_results(name: str, method: str) -> None:
    options = gates(name) if method in ("deconvnet", "guided-backprop") else {}
    got = explain(model(name), method, {"x": image(name)}, Request(target=chosen(name), options=options))
    assert error(got, golden(name)[KEYS[method]]) < TOLERANCE


@pytest.mark.parametrize("method", ["deconvnet", "guided-backprop"])
def test_relu6_is_a_rectifier_unless_told_otherwise(method: str) -> None:
    got = at("smooth_acts", method, chosen("smooth_acts"))
    assert error(got, golden("smooth_acts")[KEYS[method]]) > 0.01


@pytest.mark.parametrize("name", list(INDEX))
def test_outputs_equal_the_stored_forward_pass(name: str) -> None:
    emitted, _ = compile_model(model(name), find("saliency"), Request(target="top"))
    got = run(emitted, {"x": image(name)})
    assert error(got[model(name).graph.output[0].name], golden(name)["y"]) < TOLERANCE


def test_cotangent_rows_give_the_jacobian_of_an_image_net() -> None:
    """sr is piecewise linear: its stored matrix F, y = F x + r, is the Jacobian, one row an output pixel."""
    rows = np.eye(100, dtype=np.float32).reshape(100, 1, 10, 10)
    got = at("sr", "saliency", "cotangent", more={"cotangent": rows})
    assert error(got.reshape(100, 25), golden("sr")["scope_F"]) < TOLERANCE


def batch(name: str) -> Floats:
    """The stored input between two others of its kind; a class each is not the same in all three."""
    rng = np.random.default_rng(5)
    x = image(name)
    return np.concatenate([rng.standard_normal(x.shape), x, -2 * x]).astype(np.float32)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_batch_of_three_equals_three_single_runs(name: str, method: str) -> None:
    emitted, _ = compile_model(model(name), find(method))
    x, target = batch(name), np.array([[0], [-1], [2]], np.int64)
    together = run(emitted, {"x": x, "target": target})["attribution"]
    singles = [run(emitted, {"x": x[i : i + 1], "target": target[i : i + 1]}) for i in range(3)]
    assert error(together, np.concatenate([single["attribution"] for single in singles])) < EXACT


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_minus_one_is_the_top_class(name: str) -> None:
    emitted, _ = compile_model(model(name), find("saliency"))
    x = batch(name)
    first = run(emitted, {"x": x, "target": np.full((3, 1), -1, np.int64)})
    top = first[model(name).graph.output[0].name].argmax(axis=1)[:, None]
    explicit = run(emitted, {"x": x, "target": top})
    assert np.array_equal(first["attribution"], explicit["attribution"])
    assert np.array_equal(at(name, "saliency", "top", x), first["attribution"])
    assert np.array_equal(at(name, "saliency", -1, x), first["attribution"])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_every_way_to_name_a_target_gives_the_same_map(name: str, method: str) -> None:
    x, eye = batch(name), np.eye(3, dtype=np.float32)
    by_class = [at(name, method, i, x) for i in range(3)]
    fed = [at(name, method, "input", x, {"target": np.full((3, 1), i, np.int64)}) for i in range(3)]
    assert error(np.stack(fed), np.stack(by_class)) < EXACT
    rows = at(name, method, [2, 0, 1], x)
    assert rows.shape == (9, *x.shape[1:])
    # Sample by sample: the rows of one sample stay together, in the order of the list.
    want = np.stack([by_class[2], by_class[0], by_class[1]], axis=1).reshape(rows.shape)
    assert error(rows, want) < EXACT
    one = at(name, method, "cotangent", x[:1], {"cotangent": eye})
    assert error(one, np.concatenate([of_class[:1] for of_class in by_class])) < EXACT
    each = at(name, method, "cotangent", x, {"cotangent": eye[[1, 0, 2]]})
    assert error(each, np.stack([by_class[1][0], by_class[0][1], by_class[2][2]])) < EXACT


def with_node(net: onnx.ModelProto, op: str) -> onnx.ModelProto:
    """The net with one more node behind its output."""
    longer = onnx.ModelProto()
    longer.CopyFrom(net)
    last = longer.graph.output[0]
    longer.graph.node.append(helper.make_node(op, [last.name], ["scores"], "squash"))
    value = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 3])
    del longer.graph.output[:]
    longer.graph.output.append(value)
    return longer


def slope(op: str, logits: NDArray[np.float64], i: int) -> NDArray[np.float64]:
    """d op(z)_i / dz for one row of logits."""
    one = np.eye(3)[i]
    if op == "Sigmoid":
        s = 1 / (1 + np.exp(-logits[i]))
        return np.asarray(s * (1 - s) * one)
    p = np.exp(logits - logits.max())
    p /= p.sum()
    return np.asarray(one - p if op == "LogSoftmax" else p[i] * (one - p))


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax", "Sigmoid"])
@pytest.mark.parametrize("name", ["mlp_bias", "resnet", "attention"])
def test_a_squashed_head_is_explained_in_front_of_it(name: str, op: str) -> None:
    longer, x = with_node(model(name), op), {"x": image(name)}
    plain = at(name, "saliency", chosen(name))
    assert np.array_equal(explain(longer, "saliency", x, Request(target=chosen(name))), plain)


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax", "Sigmoid"])
@pytest.mark.parametrize("name", ["mlp_bias", "resnet", "attention"])
def test_prob_explains_behind_the_squashing(name: str, op: str) -> None:
    """d p_i / dx = Σ_k (d p_i / d z_k) (d z_k / dx), the logits' own gradients taken as given."""
    i = chosen(name)
    rows = np.stack([at(name, "saliency", k) for k in range(3)])
    weights = slope(op, golden(name)["y"][0], i)
    got = explain(with_node(model(name), op), "saliency", {"x": image(name)}, Request(target=i, head="prob"))
    assert error(got, np.tensordot(weights, rows, 1)) < TOLERANCE


def two_heads(name: str) -> onnx.ModelProto:
    """The net with a second output: minus twice the first."""
    net = onnx.ModelProto()
    net.CopyFrom(model(name))
    net.graph.initializer.append(helper.make_tensor("factor", TensorProto.FLOAT, [], [-2.0]))
    net.graph.node.append(helper.make_node("Mul", [net.graph.output[0].name, "factor"], ["second"]))
    net.graph.output.append(helper.make_tensor_value_info("second", TensorProto.FLOAT, ["N", 3]))
    return net


def test_an_output_is_chosen_by_name() -> None:
    net, x, i = two_heads("cnn_bias"), {"x": image("cnn_bias")}, 1
    first = explain(net, "saliency", x, Request(target=i))
    assert np.array_equal(first, at("cnn_bias", "saliency", i))
    second = explain(net, "saliency", x, Request(target=i, output="second"))
    assert np.array_equal(second, -2 * first)
    with pytest.raises(TargetError, match="second"):
        compile_model(net, find("saliency"), Request(output="secnd"))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_constant_inputs_give_finite_maps(name: str, method: str) -> None:
    x = image(name)
    flat = np.concatenate([np.zeros_like(x), np.full_like(x, 0.5), np.full_like(x, -3.0)])
    got = at(name, method, "top", flat)
    assert np.isfinite(got).all()


@pytest.mark.parametrize("reduce", ["maxabs,minmax", "abssum_p99", "sum,sym", "maxabs,unit"])
@pytest.mark.parametrize("name", IMAGES)
def test_heat_maps_of_constant_inputs_are_finite(name: str, reduce: str) -> None:
    request = Request(target="top", reduce=(reduce, readout(reduce)))
    emitted, _ = compile_model(model(name), find("input-x-gradient"), request)
    heat = run(emitted, {"x": np.zeros_like(image(name))})["heatmap"]
    assert heat.shape == (1, *image(name).shape[2:])
    # x = 0 makes x times its gradient 0 everywhere: every normalisation has to divide 0 by 0.
    assert np.array_equal(heat, np.zeros_like(heat))
