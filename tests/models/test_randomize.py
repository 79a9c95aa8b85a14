"""The onnx wheel's weightless topologies become nets that answer differently to different images."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from onnxplain.models.randomize import randomize_constants

LIGHT = Path(str(onnx.__file__)).parent / "backend" / "test" / "data" / "light"
SMALL = ["squeezenet", "shufflenet"]


@cache
def source(name: str) -> onnx.ModelProto:
    return onnx.load(LIGHT / f"light_{name}.onnx")


@cache
def randomized(name: str) -> onnx.ModelProto:
    return randomize_constants(source(name), seed=3)


def tensors(model: onnx.ModelProto) -> dict[str, NDArray[np.float32]]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


@pytest.mark.parametrize("name", SMALL)
def test_probabilities_are_finite_differ_and_do_not_saturate(name: str) -> None:
    model = randomized(name)
    onnx.checker.check_model(model, full_check=True)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (image,) = session.get_inputs()
    x = np.random.default_rng(0).standard_normal((2, 1, 3, 224, 224), np.float32)
    x[1] *= np.linspace(0, 2, 224, dtype=np.float32)  # another picture in kind, not only in its noise
    first, second = (np.asarray(session.run(None, {image.name: entry})[0]).ravel() for entry in x)
    assert np.isfinite(first).all() and np.isfinite(second).all()
    assert first.max() < 0.5
    assert first.std() > 0.1 * first.mean()
    assert np.abs(first - second).max() > 0.01 * first.max()


@pytest.mark.parametrize("name", SMALL)
def test_only_the_constant_nodes_go(name: str) -> None:
    before, after = source(name).graph, randomized(name).graph
    kept = [node for node in before.node if node.op_type != "ConstantOfShape"]
    assert [node.SerializeToString() for node in after.node] == [node.SerializeToString() for node in kept]
    assert len(after.input) == 1
    assert after.output[0] == before.output[0]


@pytest.mark.parametrize("name", SMALL)
def test_stored_tensors_in_use_stay(name: str) -> None:
    before, after = tensors(source(name)), tensors(randomized(name))
    used = {tensor for node in randomized(name).graph.node for tensor in node.input}
    stored = used & set(before)
    assert any(before[tensor].dtype == np.float32 for tensor in stored)
    for tensor in stored:
        np.testing.assert_array_equal(after[tensor], before[tensor])


def test_seed_decides_every_byte_and_the_source_is_left_alone() -> None:
    before = source("squeezenet").SerializeToString(deterministic=True)
    models = [randomize_constants(source("squeezenet"), seed) for seed in (3, 3, 4)]
    first, again, other = (model.SerializeToString(deterministic=True) for model in models)
    assert first == again and first != other
    assert source("squeezenet").SerializeToString(deterministic=True) == before


def test_every_drawn_statistic_of_batch_norm_is_near_the_identity() -> None:
    model, stored = randomized("shufflenet"), tensors(source("shufflenet"))
    values = tensors(model)
    norms = [node for node in model.graph.node if node.op_type == "BatchNormalization"]
    drawn = [node for node in norms if node.input[1] not in stored]
    assert (len(norms), len(drawn)) == (49, 48)
    for node in drawn:
        scale, bias, mean, variance = (values[name] for name in list(node.input)[1:])
        assert 0.8 <= scale.min() and scale.max() <= 1.2
        assert 0.7 <= variance.min() and variance.max() <= 1.3
        assert np.abs(bias).max() < 1 and np.abs(mean).max() < 1  # ten standard deviations


def scaled_net() -> onnx.ModelProto:
    """Conv, Caffe scale layer behind Unsqueeze, Gemm with its weight behind Reshape, constant as data."""
    shapes = {"w": [8, 3, 3, 3], "s": [8], "t": [8], "v": [4, 8], "n": [4], "c": [1, 8, 1, 1]}
    sizes = [helper.make_tensor(f"{key}_shape", TensorProto.INT64, [len(v)], v) for key, v in shapes.items()]
    sizes.append(helper.make_tensor("matrix", TensorProto.INT64, [2], [8, 4]))
    value = helper.make_tensor("value", TensorProto.FLOAT, [1], [0.02])
    nodes = [helper.make_node("ConstantOfShape", [f"{key}_shape"], [key], value=value) for key in shapes]
    nodes += [
        helper.make_node("Conv", ["x", "w"], ["a"], kernel_shape=[3, 3]),
        helper.make_node("Unsqueeze", ["s"], ["s3"], axes=[1, 2]),
        helper.make_node("Unsqueeze", ["t"], ["t3"], axes=[1, 2]),
        helper.make_node("Mul", ["a", "s3"], ["b"]),
        helper.make_node("Add", ["b", "t3"], ["d"]),
        helper.make_node("Max", ["d", "c"], ["e"]),
        helper.make_node("GlobalAveragePool", ["e"], ["f"]),
        helper.make_node("Flatten", ["f"], ["g"]),
        helper.make_node("Reshape", ["v", "matrix"], ["m"]),
        helper.make_node("Gemm", ["g", "m", "n"], ["y"]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])
    graph = helper.make_graph(nodes, "scaled", [x], [y], sizes)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 9)], ir_version=4)


def test_the_consumer_is_found_through_unsqueeze_and_reshape() -> None:
    model = randomize_constants(scaled_net(), seed=1)
    onnx.checker.check_model(model, full_check=True)
    values = tensors(model)
    assert 0.8 <= values["s"].min() < values["s"].max() <= 1.2
    assert 0 < np.abs(values["t"]).max() < 1
    # 216 draws of the variance 2 / 27 and 32 of the variance 1 / 8 over the growth 2: within four standard
    # errors.
    np.testing.assert_allclose(values["w"].std(), np.sqrt(2 / 27), rtol=0.2)
    np.testing.assert_allclose(values["v"].std(), np.sqrt(1 / 16), rtol=0.5)


def test_a_constant_of_another_consumer_stays_a_node() -> None:
    model = randomize_constants(scaled_net(), seed=1)
    left = [node.output[0] for node in model.graph.node if node.op_type == "ConstantOfShape"]
    assert left == ["c"]
    assert {"c_shape", "matrix"} <= set(tensors(model))
    assert "w_shape" not in tensors(model)
