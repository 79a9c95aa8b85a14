"""The network over [x0; x1]: the first half as before, the second F(x0) x1 + r(x0).

Stored F and r are float64, onnxruntime computes in float32: measured errors are up to 5e-7 of the largest element, and
1e-5 is accepted.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

import onnxplain
from onnxplain.rewriter.compile import Request, compile_model
from onnxplain.rewriter.errors import OptionError, TargetError
from onnxplain.rules.registry import find
from tests.rules.scope.golden import NETS, image, model, run, stored

TOLERANCE = 1e-5

Array = NDArray[Any]


@cache
def emitted(name: str) -> onnx.ModelProto:
    return compile_model(model(name), find("linearscope.dual"))[0]


def first(found: Mapping[str, Array]) -> Array:
    return next(iter(found.values()))


def picture(name: str, rows: int = 1, seed: int = 0) -> Array:
    """The stored input, and noise for more rows."""
    x = image(name)
    return np.concatenate([x, noise(x, rows - 1, seed)])


def noise(x: Array, rows: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal((rows, *x.shape[1:])).astype(np.float32)


def close(got: Array, want: Array) -> None:
    assert got.shape == want.shape
    assert np.abs(want).max() > 0
    assert np.abs(got - want).max() <= TOLERANCE * np.abs(want).max()


@pytest.mark.parametrize("name", NETS)
def test_twice_the_input_gives_twice_the_output(name: str) -> None:
    x = picture(name)
    y = first(run(emitted(name), {"x": np.concatenate([x, x])}))
    close(y[1:], y[:1])
    close(y[:1], stored(name)["y"])


@pytest.mark.parametrize("name", NETS)
def test_the_second_half_is_affine_in_x1(name: str) -> None:
    x, known = picture(name), stored(name)
    x1 = noise(x, 1)
    y = first(run(emitted(name), {"x": np.concatenate([x, x1])}))
    close(y[1].ravel(), known["scope_F"] @ x1.ravel() + known["scope_r"])
    zero = first(run(emitted(name), {"x": np.concatenate([x, np.zeros_like(x)])}))
    if np.abs(known["scope_r"]).max() > 0:
        close(zero[1].ravel(), known["scope_r"])
    else:
        np.testing.assert_array_equal(zero[1], 0)


@pytest.mark.parametrize("name", NETS)
def test_the_first_half_is_the_model_to_the_bit(name: str) -> None:
    """Without graph optimisation, which may round differently in the two files; whatever x1 is."""
    x = picture(name)
    both = run(emitted(name), {"x": np.concatenate([x, noise(x, 1)])}, optimise=False)
    want = run(model(name), {"x": x}, optimise=False)
    assert list(both) == list(want)
    np.testing.assert_array_equal(first(both)[:1], first(want))


@pytest.mark.parametrize("name", NETS)
def test_two_pictures_have_four_rows(name: str) -> None:
    x0, x1 = picture(name, 2), noise(picture(name), 2, seed=1)
    y = first(run(emitted(name), {"x": np.concatenate([x0, x1])}))
    close(y[:2], first(run(model(name), {"x": x0})))
    for i in range(2):
        alone = first(run(emitted(name), {"x": np.stack([x0[i], x1[i]])}))
        close(y[2 + i], alone[1])


@pytest.mark.parametrize("name", ["cnn_odd", "smooth_acts", "attention"])
def test_no_weight_is_there_twice_and_inputs_stay(name: str) -> None:
    made = emitted(name)
    assert [v.name for v in made.graph.input] == [v.name for v in model(name).graph.input]
    assert [v.name for v in made.graph.output] == [v.name for v in model(name).graph.output]
    weights = sorted(t.name for t in model(name).graph.initializer if np.prod(t.dims) > 1)
    kept = [t.name for t in made.graph.initializer]
    assert len(kept) == len(set(kept))
    assert set(weights) <= set(kept)


def net(
    nodes: list[onnx.NodeProto],
    tail: list[Any],
    weights: Mapping[str, Array],
    outputs: Mapping[str, list[Any]],
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *tail])],
        [helper.make_tensor_value_info(y, TensorProto.FLOAT, ["N", *dims]) for y, dims in outputs.items()],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(made, full_check=True)
    return made


def choices() -> onnx.ModelProto:
    """A condition of the input, a gate, a tensor read by a kept and by a replaced node, sizes, pooling with indices,
    and a softmax behind the head."""
    rng = np.random.default_rng(3)
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1]),
        node("Greater", ["c", "half"], ["on"]),
        node("Where", ["on", "c", "half"], ["d"]),
        node("GlobalAveragePool", ["d"], ["m"]),
        node("Sigmoid", ["m"], ["gate"]),
        node("Mul", ["d", "gate"], ["e"]),
        node("Add", ["e", "c"], ["f"]),
        node("MaxPool", ["f"], ["p", "where"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Shape", ["x"], ["sizes"]),
        node("Slice", ["sizes", "zero", "one"], ["rows"]),
        node("Concat", ["rows", "rest"], ["shape"], axis=0),
        node("Reshape", ["p", "shape"], ["q"]),
        node("Relu", ["q"], ["r"]),
        node("Gemm", ["r", "v"], ["z"]),
        node("Softmax", ["z"], ["y"]),
        node("Cast", ["where"], ["at"], to=TensorProto.FLOAT),
    ]
    weights: dict[str, Array] = {
        "w": rng.standard_normal((3, 2, 3, 3)).astype(np.float32),
        "b": rng.standard_normal(3).astype(np.float32),
        "half": np.asarray(0.5, np.float32),
        "zero": np.asarray([0]),
        "one": np.asarray([1]),
        "rest": np.asarray([-1]),
        "v": rng.standard_normal((12, 3)).astype(np.float32),
    }
    return net(nodes, [2, 4, 4], weights, {"y": [3], "z": [3], "at": [3, 2, 2]})


def test_choices_are_made_by_the_first_half() -> None:
    model = choices()
    made, card = compile_model(model, find("linearscope.dual"))
    x0, x1 = (noise(np.zeros((1, 2, 4, 4)), 2, seed) for seed in (4, 5))
    got = run(made, {"x": np.concatenate([x0, x1])})
    want = run(model, {"x": x0})
    for name in ("y", "z", "at"):
        close(got[name][:2], want[name])
    columns, _ = compile_model(model, find("linearscope.columns"))
    residual, _ = compile_model(model, find("linearscope.residual"))
    for i in range(2):
        response = run(columns, {"x": x0[i : i + 1], "tangent": x1[i : i + 1]})["response"]
        close(got["z"][2 + i], (response + run(residual, {"x": x0[i : i + 1]})["residual"])[0])
    e = np.exp(got["z"][2:] - got["z"][2:].max(axis=1, keepdims=True))
    close(got["y"][2:], e / e.sum(axis=1, keepdims=True))
    assert any("second" in note for note in card.approximations)


@pytest.mark.parametrize("options", [{"freeze": "taylor"}, {"freeze": "mask"}, {"norm": "std"}])
@pytest.mark.parametrize("name", ["smooth_acts", "attention"])
def test_options_freeze_as_they_do_elsewhere(name: str, options: dict[str, str]) -> None:
    made, _ = compile_model(model(name), find("linearscope.dual"), Request(options=options))
    x = picture(name)
    x1 = noise(x, 1)
    y = first(run(made, {"x": np.concatenate([x, x1])}))
    columns, _ = compile_model(model(name), find("linearscope.columns"), Request(options=options))
    residual, _ = compile_model(model(name), find("linearscope.residual"), Request(options=options))
    want = run(columns, {"x": x, "tangent": x1})["response"] + run(residual, {"x": x})["residual"]
    close(y[1:], want)


def test_the_cpu_forms_compute_the_same() -> None:
    """A session spells the file for its provider."""
    x = picture("overlap_pool")
    x1 = noise(x, 1)
    explainer = onnxplain.compile(model("overlap_pool"), "linearscope.dual")
    known = stored("overlap_pool")
    y = first(explainer(np.concatenate([x, x1])).outputs)
    close(y[1], known["scope_F"] @ x1.ravel() + known["scope_r"])


def gated(scale: list[int | str]) -> onnx.ModelProto:
    """y = sigmoid(relu(x s)), z before it, s a scale of each channel."""
    nodes = [
        helper.make_node("Reshape", ["s", "shape"], ["t"]),
        helper.make_node("Mul", ["x", "t"], ["m"]),
        helper.make_node("Relu", ["m"], ["z"]),
        helper.make_node("Sigmoid", ["z"], ["y"]),
    ]
    inputs = {"x": ["N", 2, 4, 4], "s": scale}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, dims) for name, dims in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 2, 4, 4]) for name in ("y", "z")],
        [numpy_helper.from_array(np.asarray([-1, 2, 1, 1]), "shape")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.mark.parametrize("scale", [[2], ["N", 2]])
def test_beside_another_input(scale: list[int | str]) -> None:
    """One scale for all rows is fed as it is; one a row has two halves, and the gates are those of the first."""
    made, _ = compile_model(gated(scale), find("linearscope.dual"), Request(inputs=("x",)))
    x, s = noise(np.zeros((1, 2, 4, 4)), 4), np.asarray([[1.0, -2.0]] * 2 + [[3.0, 0.5]] * 2, np.float32)
    s = s[0] if scale == [2] else s
    z = run(made, {"x": x, "s": s})["z"]
    t = np.broadcast_to(s, (4, 2))[:, :, None, None]
    close(z[:2], np.maximum(x[:2] * t[:2], 0))
    close(z[2:], (x[:2] * t[:2] > 0) * t[:2] * x[2:])


def test_two_fixed_batches_prove_nothing() -> None:
    shapes = {"x": (2, 2, 4, 4)}
    with pytest.raises(TargetError, match=r"'z' has no batch axis|first axis of input 's', 2"):
        compile_model(gated([2]), find("linearscope.dual"), Request(inputs=("x",), shapes=shapes))


def test_the_note_says_what_is_no_affine_map_of_x1() -> None:
    """z is, y is its sigmoid; with head="prob" the sigmoid is frozen as well."""
    x = noise(np.zeros((1, 2, 4, 4)), 4)
    x[3] = (x[1] + x[2]) / 2
    x0 = x[:1]
    for head in ("logits", "prob"):
        made, card = compile_model(gated([2]), find("linearscope.dual"), Request(inputs=("x",), head=head))
        s = np.asarray([1.0, -2.0], np.float32)
        half = {
            name: [run(made, {"x": np.concatenate([x0, v[None]]), "s": s})[name][1:] for v in x[1:]]
            for name in ("y", "z")
        }
        for name, (a, b, middle) in half.items():
            told = any(f"the second half of {name!r}" in note for note in card.approximations)
            assert told == (name == "y" and head == "logits")
            assert (np.abs((a + b) / 2 - middle).max() < 1e-5) != told


def test_rows_are_pairs() -> None:
    with pytest.raises(Exception, match="Split"):
        run(emitted("cnn_bias"), {"x": picture("cnn_bias", 3)})
    with pytest.raises(TargetError, match="no room"):
        compile_model(model("cnn_bias"), find("linearscope.dual"), Request(shapes={"x": (3, 2, 8, 8)}))
    fixed, _ = compile_model(model("cnn_bias"), find("linearscope.dual"), Request(shapes={"x": (2, 2, 8, 8)}))
    x = np.concatenate([picture("cnn_bias")] * 2)
    y = first(run(fixed, {"x": x}))
    close(y[1], y[0])


def test_no_class_and_no_reduction() -> None:
    with pytest.raises(TargetError, match="whole output"):
        compile_model(model("cnn_bias"), find("linearscope.dual"), Request(target=1))
    with pytest.raises(OptionError, match="no option"):
        compile_model(model("cnn_bias"), find("linearscope.dual"), Request(options={"probes": 2}))
