"""The builder's layers against numpy, on sizes small enough to see."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from onnxplain.models.blocks import Net

Array = NDArray[np.float32]


def run(model: onnx.ModelProto, x: Array) -> Array:
    onnx.checker.check_model(model, full_check=True)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {"image": x})
    return np.asarray(y, np.float32)


def tensors(model: onnx.ModelProto) -> dict[str, Array]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def images(*shape: int) -> Array:
    return np.random.default_rng(3).standard_normal(shape, np.float32)


def test_gemm_is_x_times_transposed_weight_plus_bias() -> None:
    net = Net("net", (5,))
    model = net.model(net.gemm(net.image, 4))
    x, w = images(2, 5), tensors(model)
    np.testing.assert_allclose(run(model, x), x @ w["gemm1/weight"].T + w["gemm1/bias"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("padding", "pads"), [("SAME", (1, 1)), ("VALID", (0, 0)), (2, (2, 2))])
def test_conv_sums_over_its_padded_window(padding: int, pads: tuple[int, int]) -> None:
    net = Net("net", (2, 5, 6))
    y = net.conv(net.image, 3, 3, padding=padding)
    model = net.model(y)
    x, w = images(1, 2, 5, 6), tensors(model)
    padded = np.pad(x[0], ((0, 0), pads, pads))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    want = np.einsum("chwij,fcij->fhw", windows, w["conv1/weight"]) + w["conv1/bias"][:, None, None]
    assert want.shape == y.shape
    np.testing.assert_allclose(run(model, x)[0], want, rtol=1e-5, atol=1e-5)


def test_batch_norm_uses_the_stored_statistics() -> None:
    net = Net("net", (3, 2, 2))
    model = net.model(net.bn(net.image))
    x, w = images(2, 3, 2, 2), {key: value[:, None, None] for key, value in tensors(model).items()}
    want = (x - w["bn1/mean"]) / np.sqrt(w["bn1/variance"] + 1e-5) * w["bn1/scale"] + w["bn1/bias"]
    np.testing.assert_allclose(run(model, x), want, rtol=1e-5, atol=1e-5)


def test_conv_transpose_of_stride_two_spreads_every_pixel_over_its_square() -> None:
    net = Net("net", (2, 3, 3))
    model = net.model(net.conv_transpose(net.image, 4, 2, stride=2))
    x, w = images(1, 2, 3, 3), tensors(model)
    spread = np.einsum("chw,cfij->fhiwj", x[0], w["conv_transpose1/weight"]).reshape(4, 6, 6)
    want = spread + w["conv_transpose1/bias"][:, None, None]
    np.testing.assert_allclose(run(model, x)[0], want, rtol=1e-5, atol=1e-5)


def test_join_layers_keep_track_of_shapes_and_names() -> None:
    net = Net("net", (2, 4, 4))
    with net.scope("a"):
        left = net.relu(net.image)
        with net.scope("b"):
            right = net.clip(net.image, -1.0, 1.0)
    joined = net.concat(left, right, net.add(left, right))
    assert joined.shape == (6, 4, 4)
    model = net.model(net.flatten(net.max_pool(joined, 3, stride=2, padding="SAME")))
    assert [node.name for node in model.graph.node] == [
        "a/relu1",
        "a/b/clip1",
        "add1",
        "concat1",
        "max_pool1",
        "flatten1",
    ]
    x = images(2, 2, 4, 4)
    rectified, clipped = np.maximum(x, 0), np.clip(x, -1, 1)
    stack = np.concatenate([rectified, clipped, rectified + clipped], axis=1)
    padded = np.pad(stack, ((0, 0), (0, 0), (0, 1), (0, 1)), constant_values=-np.inf)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))[:, :, ::2, ::2]
    np.testing.assert_array_equal(run(model, x), windows.max(axis=(-1, -2)).reshape(2, -1))


def test_shapes_that_do_not_meet_are_refused() -> None:
    net = Net("net", (2, 4, 4))
    pooled = net.max_pool(net.image, 2, stride=2)
    with pytest.raises(ValueError, match="cannot add"):
        net.add(net.image, pooled)
    with pytest.raises(ValueError, match="cannot concatenate"):
        net.concat(net.image, pooled)
    with pytest.raises(ValueError, match="flatten first"):
        net.gemm(net.image, 2)
