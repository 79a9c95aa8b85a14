"""Every way to say what is explained, and every way to say it wrongly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxplain.rewriter.compile import Request, compile_model
from onnxplain.rewriter.errors import ExplainError, ModelError, TargetError
from onnxplain.rewriter.graph import prepare
from onnxplain.rewriter.target import MAX_ROWS, Target, find_head, find_output
from onnxplain.rules.registry import find

from .nets import explained, floats, net, run

WEIGHT = floats(4, 3, seed=9)


def linear(tail: str = "") -> onnx.ModelProto:
    """y = x W of three classes; tail: nodes that make y from the logits z."""
    model = net(f"g (float[N,4] x) => (float[N,3] y) {{ z = MatMul(x, w) {tail or 'y = Identity(z)'} }}")
    model.graph.initializer.append(numpy_helper.from_array(WEIGHT, "w"))
    return model


def attribution(
    model: onnx.ModelProto, target: Target, more: Mapping[str, np.ndarray] | None = None, **request: Any
) -> np.ndarray:
    feeds = {"x": floats(2, 4), **(more or {})}
    return explained(model, feeds, Request(target=target, **request))["attribution"]


def wrong(model: onnx.ModelProto, kind: type[ExplainError] = TargetError, **request: Any) -> str:
    with pytest.raises(kind) as caught:
        compile_model(model, find("saliency"), Request(**request))
    return str(caught.value)


# The kinds of target


def test_a_class_by_number() -> None:
    for i in range(3):
        assert np.array_equal(attribution(linear(), i), np.stack([WEIGHT[:, i]] * 2))


def test_numbers_of_numpy_are_numbers() -> None:
    assert np.array_equal(attribution(linear(), np.int32(2)), attribution(linear(), 2))  # type: ignore[arg-type]


def test_the_top_class_of_each_sample() -> None:
    top = (floats(2, 4) @ WEIGHT).argmax(1)
    want = WEIGHT.T[top]
    assert np.array_equal(attribution(linear(), "top"), want)
    assert np.array_equal(attribution(linear(), -1), want)
    fed = {"target": np.full((2, 1), -1, np.int64)}
    assert np.array_equal(attribution(linear(), "input", fed), want)


def test_the_first_of_equal_classes_is_the_top() -> None:
    got = explained(linear(), {"x": np.zeros((2, 4), np.float32)}, Request(target="top"))["attribution"]
    assert np.array_equal(got, np.stack([WEIGHT[:, 0]] * 2))


def test_a_class_fed_for_each_sample() -> None:
    got = attribution(linear(), "input", {"target": np.asarray([[2], [0]], np.int64)})
    assert np.array_equal(got, WEIGHT.T[[2, 0]])


def test_several_classes_are_rows_sample_by_sample() -> None:
    assert np.array_equal(attribution(linear(), [2, 0]), np.concatenate([WEIGHT.T[[2, 0]]] * 2))
    made, _ = compile_model(linear(), find("saliency"), Request(target=[2, 0]))
    assert made.graph.output[-1].type.tensor_type.shape.dim[0].dim_param == "rows"


def test_one_class_in_a_list_is_that_class() -> None:
    assert np.array_equal(attribution(linear(), [1]), attribution(linear(), 1))


def test_the_top_class_may_be_one_of_several() -> None:
    top = (floats(2, 4) @ WEIGHT).argmax(1)
    want = np.stack([WEIGHT.T[top], WEIGHT.T[[1, 1]]], axis=1).reshape(4, 4)
    assert np.array_equal(attribution(linear(), [-1, 1]), want)


def test_any_cotangent() -> None:
    c = floats(2, 3, seed=4)
    assert np.allclose(
        attribution(linear(), "cotangent", {"cotangent": c}), c @ WEIGHT.T, rtol=1e-5, atol=1e-6
    )


def test_the_inputs_that_a_target_adds() -> None:
    for target, name, kind, dims in (
        ("input", "target", TensorProto.INT64, ["N", 1]),
        ("cotangent", "cotangent", TensorProto.FLOAT, ["K", 3]),
    ):
        made, _ = compile_model(linear(), find("saliency"), Request(target=target))
        assert [value.name for value in made.graph.input] == ["x", name]
        tensor = made.graph.input[1].type.tensor_type
        assert tensor.elem_type == kind
        assert [dim.dim_param or dim.dim_value for dim in tensor.shape.dim] == dims
    for fixed in ("top", 1, [0, 1]):
        made, _ = compile_model(linear(), find("saliency"), Request(target=fixed))
        assert [value.name for value in made.graph.input] == ["x"]


# Heads of other ranks


def test_an_image_of_classes() -> None:
    """(N, C, H, W): elements of one sample are counted row-major, the top one is the largest of all."""
    model = net("g (float[N,2,2,3] x) => (float[N,2,2,3] y) { y = Mul(x, x) }")
    x = np.abs(floats(2, 2, 2, 3))
    for target, flat in ((7, [7, 7]), ("top", x.reshape(2, -1).argmax(1).tolist())):
        want = np.zeros((2, 12), np.float32)
        want[[0, 1], flat] = 2 * x.reshape(2, -1)[[0, 1], flat]
        got = explained(model, {"x": x}, Request(target=target))["attribution"]
        assert np.allclose(got, want.reshape(x.shape))
    rows = np.eye(12, dtype=np.float32).reshape(12, 2, 2, 3)
    got = explained(model, {"x": x[:1], "cotangent": rows}, Request(target="cotangent"))["attribution"]
    assert np.allclose(got, 2 * x[:1] * rows)


def test_one_number_a_sample() -> None:
    """(N,): the only element is 0."""
    model = net(
        "g (float[N,3] x) => (float[N] y) <int64[1] a = {1}> { s = Mul(x, x) y = ReduceSum <keepdims = 0> (s, a) }"
    )
    x = floats(2, 3)
    for target in (0, "top", [0]):
        got = explained(model, {"x": x}, Request(target=target))["attribution"]
        assert np.allclose(got, 2 * x)
    c = floats(2, seed=1)
    got = explained(model, {"x": x, "cotangent": c}, Request(target="cotangent"))["attribution"]
    assert np.allclose(got, 2 * x * c[:, None])
    assert "class 1 is out of range: 'y' has 1 elements" in wrong(model, target=1)


def test_a_single_number_has_no_samples() -> None:
    model = net("g (float[N,3] x) => (float y) { y = ReduceSum <keepdims = 0> (x) }")
    assert "no batch axis" in wrong(model)


def test_a_head_of_dynamic_size_takes_any_class() -> None:
    model = net("g (float[N,C] x) => (float[N,C] y) { y = Relu(x) }")
    x = np.abs(floats(2, 5)) + 1
    assert np.array_equal(explained(model, {"x": x}, Request(target=4))["attribution"], np.eye(5)[[4, 4]])


def test_integers_have_no_attribution() -> None:
    model = net("g (float[N,3] x) => (int64[N,1] y) { y = ArgMax <axis = 1> (x) }")
    assert "'y' is not a floating-point tensor" in wrong(model)


# Heads and outputs by name


@pytest.mark.parametrize(
    ("tail", "squash"),
    [
        ("y = Softmax(z)", "Softmax"),
        ("y = LogSoftmax(z)", "LogSoftmax"),
        ("y = Sigmoid(z)", "Sigmoid"),
        ("p = Softmax(z) q = Identity(p) y = Flatten(q)", "Softmax"),
        ("p = Flatten(z) q = Softmax(p) y = Cast <to = 1> (q)", "Softmax"),
        ("y = Identity(z)", None),
        ("y = Relu(z)", None),
    ],
)
def test_logits_are_looked_for_behind_a_squashing_output(tail: str, squash: str | None) -> None:
    _, card = compile_model(linear(tail), find("saliency"))
    assert card.target["squash"] == squash
    assert card.target["output"] == "y"
    for head in ("prob", "logprob"):
        _, card = compile_model(linear(tail), find("saliency"), Request(head=head))
        assert (card.target["head"], card.target["squash"]) == ("y", None)


def test_logits_give_the_weights_whatever_squashes_them() -> None:
    for tail in ("y = Softmax(z)", "y = LogSoftmax(z)", "y = Sigmoid(z)"):
        assert np.array_equal(attribution(linear(tail), 1), np.stack([WEIGHT[:, 1]] * 2))


def test_any_tensor_may_be_the_head() -> None:
    model = linear("r = Relu(z) y = Neg(r)")
    assert np.array_equal(attribution(model, 2, head="z"), np.stack([WEIGHT[:, 2]] * 2))
    _, card = compile_model(model, find("saliency"), Request(head="z"))
    assert card.target == {"target": "input", "output": "y", "head": "z", "size": 3, "squash": None}


def test_the_second_output_of_a_node_is_not_walked_through() -> None:
    graph = prepare(
        net(
            "g (float[N,4] x) => (float[N,2] y, float[N,2] v) { u, v = Split <axis = 1, num_outputs = 2> (x)"
            " y = Softmax(u) }"
        )
    )
    assert find_head(graph, find_output(graph, "v"), "logits")[0].name == "v"
    assert find_head(graph, find_output(graph, None), "logits")[0].name == "u"


def test_unknown_outputs_and_heads_name_the_nearest() -> None:
    assert "no output 'yy' (did you mean 'y'?); the model has y" in wrong(linear(), output="yy")
    assert "no tensor 'logit' (did you mean 'logits'?)" in wrong(linear(), head="logit")
    model = linear("hidden_units = Relu(z) y = Neg(hidden_units)")
    assert "did you mean 'hidden_units'" in wrong(model, head="hidden_unit")
    assert wrong(linear(), head="qqqq") == "head: no tensor 'qqqq'"


# Wrong targets


def test_unknown_targets_name_the_nearest() -> None:
    message = wrong(linear(), target="cotangnt")
    assert message.startswith(
        "unknown target 'cotangnt' (did you mean 'cotangent'?); input, top, cotangent or a class"
    )
    assert wrong(linear(), target="zebra") == "unknown target 'zebra'; input, top, cotangent or a class index"


@pytest.mark.parametrize("target", [3, 1000, -2, [0, 3], [0, -5]])
def test_classes_out_of_range(target: Target) -> None:
    worst = target if isinstance(target, int) else target[1]
    assert f"class {worst} is out of range: 'y' has 3 elements a sample" in wrong(
        linear("y = Relu(z)"), target=target
    )


def test_no_target_or_too_many() -> None:
    assert f"0 targets; give 1 to {MAX_ROWS}" in wrong(linear(), target=[])
    message = wrong(linear(), target=[0] * (MAX_ROWS + 1))
    assert f"{MAX_ROWS + 1} targets; give 1 to {MAX_ROWS}, or use target='cotangent'" in message
    made, _ = compile_model(linear(), find("saliency"), Request(target=[0] * MAX_ROWS))
    assert made.graph.output


@pytest.mark.parametrize("target", [1.5, None, [0.5], ["top"], {"a": 1}, True])
def test_targets_of_other_types(target: Any) -> None:
    assert "target" in wrong(linear(), target=target)


# Names that are taken


@pytest.mark.parametrize(
    ("target", "name"),
    [("input", "target"), ("cotangent", "cotangent"), ("top", "attribution"), ("input", "attribution")],
)
def test_a_tensor_of_the_model_has_the_name_already(target: str, name: str) -> None:
    model = linear(f"{name} = Relu(z) y = Neg({name})")
    assert f"already has a tensor named '{name}'" in wrong(model, ExplainError, target=target)


@pytest.mark.parametrize("name", ["target", "attribution", "heatmap", "cotangent"])
def test_names_that_this_target_does_not_need_are_free(name: str) -> None:
    if name != "attribution":
        model = linear(f"{name} = Relu(z) y = Neg({name})")
        assert attribution(model, 1).shape == (2, 4)
    weight = net(f"g (float[N,4] x) => (float[N,3] y) {{ y = MatMul(x, {name}) }}")
    weight.graph.initializer.append(numpy_helper.from_array(floats(4, 3), name))
    if name == "attribution":
        assert "already" in wrong(weight, ModelError, target=1)
    else:
        assert attribution(weight, 1).shape == (2, 4)


def test_explaining_an_explanation_is_refused() -> None:
    for target in ("input", "top"):
        made, _ = compile_model(linear(), find("saliency"), Request(target=target))
        assert "already has a tensor named" in wrong(made, ExplainError, target=target)


def test_the_forward_outputs_come_first_and_unchanged() -> None:
    model, x = linear("y = Softmax(z)"), floats(2, 4)
    model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, ["N", 3]))
    made, _ = compile_model(model, find("saliency"), Request(target="top"))
    assert [value.name for value in made.graph.output] == ["y", "z", "attribution"]
    before, after = run(model, {"x": x}), run(made, {"x": x})
    for name, value in before.items():
        assert np.array_equal(value, after[name])
