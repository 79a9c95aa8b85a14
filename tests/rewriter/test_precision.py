"""float16 inside: types, what stays wide, errors against float32, what cannot be converted."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

import onnxplain
from onnxplain import ModelError, OptionError, models
from onnxplain.rewriter.graph import LOOP
from onnxplain.rewriter.precision import NOTE, with_precision
from onnxplain.runtime.explainer import Explainer
from onnxplain.runtime.images import prepare, read_image
from onnxplain.runtime.preprocess import Preprocessing

RNG = np.random.default_rng(4)


def smooth(dtype: str = "float") -> onnx.ModelProto:
    """No kinks: half precision rounds, and no mask flips."""
    model = parser.parse_model(
        f"""<ir_version: 10, opset_import: ["": 18]>
        g ({dtype}[N,3,8,8] x) => ({dtype}[N,5] y) <int64[2] axes = {{2,3}}> {{
        a = Conv<pads=[1,1,1,1]>(x, w) b = Tanh(a) c = ReduceMean<keepdims=0>(b, axes) y = MatMul(c, v) }}"""
    )
    kind = np.float32 if dtype == "float" else np.float64
    for name, shape in (("w", (16, 3, 3, 3)), ("v", (16, 5))):
        values = RNG.normal(scale=0.3, size=shape).astype(kind)
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    return model


def half(made: Explainer) -> Explainer:
    return Explainer(with_precision(made.model, "float16"), made.card, threads=1)


def error(got: np.ndarray, want: np.ndarray) -> float:
    """L2 norm of the difference over that of the wanted map."""
    return float(np.linalg.norm(got.astype(np.float64) - want) / np.linalg.norm(want))


@pytest.mark.parametrize(
    "method", ["saliency", "guided-backprop", "lrp.epsilon", "integrated-gradients", "smoothgrad"]
)
@pytest.mark.parametrize("target", ["input", "top"])
def test_a_smooth_network(method: str, target: str) -> None:
    """11 bits, and sums of 27 and of 16 terms: 0.1 to 0.5 % seen."""
    made = onnxplain.compile(smooth(), method, target=target, threads=1)
    x = RNG.normal(size=(2, 3, 8, 8)).astype(np.float32)
    want, got = made(x), half(made)(x)
    assert got.attribution.dtype == got.outputs["y"].dtype == np.float32
    assert 0 < error(got.outputs["y"], want.outputs["y"]) < 5e-3
    assert 0 < error(got.attribution, want.attribution) < 2e-2


def test_rows_of_cotangents() -> None:
    made = onnxplain.compile(smooth(), "saliency", target="cotangent", threads=1)
    x, rows = RNG.normal(size=(1, 3, 8, 8)).astype(np.float32), np.eye(5, dtype=np.float32)
    assert error(half(made)(x, cotangent=rows).attribution, made(x, cotangent=rows).attribution) < 2e-2


def test_float32_is_the_model_itself() -> None:
    made = onnxplain.compile(smooth(), "saliency")
    assert with_precision(made.model, "float32") is made.model


def test_the_model_given_is_not_changed() -> None:
    for method in ("saliency", "integrated-gradients"):
        made = onnxplain.compile(smooth(), method)
        before = made.model.SerializeToString()
        with_precision(made.model, "float16")
        assert made.model.SerializeToString() == before


@pytest.mark.parametrize("method", ["saliency", "lrp.epsilon", "integrated-gradients"])
def test_the_file(method: str) -> None:
    made = onnxplain.compile(models.path("efficientnet_lite0"), method)
    narrow = with_precision(made.model, "float16")
    onnx.checker.check_model(narrow, full_check=True)
    assert [value.name for value in narrow.graph.output] == [value.name for value in made.model.graph.output]
    kinds = {value.type.tensor_type.elem_type for value in (*narrow.graph.input, *narrow.graph.output)}
    assert kinds == {TensorProto.FLOAT, TensorProto.INT64}
    assert len(narrow.SerializeToString()) < 0.52 * len(made.model.SerializeToString())
    loops = [node for node in narrow.graph.node if node.name == LOOP]
    weights = (loops[0].attribute[0].g if loops else narrow.graph).initializer
    large = Counter(tensor.data_type for tensor in weights if np.prod(tensor.dims) > 2000)
    assert large[TensorProto.FLOAT] == 0 and large[TensorProto.FLOAT16] > 20
    notes = json.loads(next(e.value for e in narrow.metadata_props if e.key == "onnxplain.approximations"))
    assert NOTE in notes


def test_quotients_stay_wide() -> None:
    """1 / (y + 1e-6) next to y = 0 is 1e6, 15 times the largest half."""
    made = onnxplain.compile(smooth(), "lrp.epsilon", threads=1)
    x = np.zeros((1, 3, 8, 8), np.float32)
    x[0, 0, 4, 4] = 1  # most pre-activations are exactly 0
    want, got = made(x).attribution, half(made)(x).attribution
    assert np.isfinite(got).all() and error(got, want) < 2e-2


@pytest.mark.slow
@pytest.mark.parametrize("method", ["saliency", "lrp.epsilon"])
@pytest.mark.parametrize("photo", ["cat_chelsea", "coffee"])
def test_a_deep_network(method: str, photo: str) -> None:
    """EfficientNet-Lite0: 0.14 to 0.17 for saliency, 0.11 to 0.16 for LRP, for masks of ReLU6 flip; logits 3e-3 to
    5e-3. The top class is the same."""
    about = Preprocessing(
        size=(224, 224),
        resize="shorter",
        shorter=256,
        resample="bicubic",
        mean=(127.0,) * 3,
        std=(128.0,) * 3,
    )
    x = prepare(read_image(models.photo(photo)), about)[0]
    made = onnxplain.compile(models.path("efficientnet_lite0"), method, threads=1)
    want, got = made(x), half(made)(x)
    logits, narrow = (next(iter(result.outputs.values())) for result in (want, got))
    assert logits.argmax() == narrow.argmax() and error(narrow, logits) < 2e-2
    assert error(got.attribution, want.attribution) < 0.3
    assert np.corrcoef(got.attribution.ravel(), want.attribution.ravel())[0, 1] > 0.95


@pytest.mark.filterwarnings("default::onnxplain.ExplainWarning")
def test_what_cannot_be_converted() -> None:
    made = onnxplain.compile(smooth(), "saliency")
    with pytest.raises(OptionError, match=r"precision='float61'.*did you mean 'float16'"):
        with_precision(made.model, "float61")
    with pytest.raises(ModelError, match="no input or output in float32"):
        with_precision(onnxplain.compile(smooth("double"), "saliency").model, "float16")


def test_step_masks_with_a_steep_slope_stay_wide() -> None:
    """HardSigmoid of slope 2^100 is no number of float16."""
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("HardSigmoid", ["a"], ["m"], alpha=2.0**100, beta=0.0),
        helper.make_node("Mul", ["m", "x"], ["y"]),
    ]
    shape: list[Any] = ["N", 4]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    made = with_precision(model, "float16")
    kinds = {
        v.name: v.type.tensor_type.elem_type for v in onnx.shape_inference.infer_shapes(made).graph.value_info
    }
    mask = next(node for node in made.graph.node if node.op_type == "HardSigmoid")
    assert kinds[mask.input[0]] == TensorProto.FLOAT
