"""The CycleGAN generator: equal to its layers written in numpy, and of the size that is published."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

import onnxplain
from onnxplain.models.cyclegan import cyclegan

Array = NDArray[np.float32]
Doubles = NDArray[np.float64]


def tiny(size: int | None = 8, seed: int = 0) -> onnx.ModelProto:
    return cyclegan(blocks=2, width=3, size=size, seed=seed)


def run(model: onnx.ModelProto, x: Array) -> Array:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {"image": x})
    return np.asarray(y, np.float32)


def images(count: int, height: int = 8, width: int = 8, seed: int = 0) -> Array:
    return np.random.default_rng(seed).uniform(-1, 1, (count, 3, height, width)).astype(np.float32)


def weights(model: onnx.ModelProto) -> dict[str, Array]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def parameters(blocks: int, width: int, channels: int) -> int:
    """Weights and biases of the convolutions: the normalisation has none that are learned."""
    ends = (49 * channels + 1) * width + (49 * width + 1) * channels
    down = (9 * width + 1) * 2 * width + (9 * 2 * width + 1) * 4 * width
    up = (9 * 4 * width + 1) * 2 * width + (9 * 2 * width + 1) * width
    return ends + down + up + 2 * blocks * (9 * 4 * width + 1) * 4 * width


def conv(x: Doubles, weight: Array, bias: Array, stride: int = 1) -> Doubles:
    kernel = weight.shape[2:]
    windows = np.lib.stride_tricks.sliding_window_view(x, kernel, axis=(2, 3))[:, :, ::stride, ::stride]
    return np.asarray(np.einsum("nchwij,fcij->nfhw", windows, weight) + bias[:, None, None])


def transposed(x: Doubles, weight: Array, bias: Array) -> Doubles:
    """Every pixel paints its 3×3 kernel at twice its place; the first row and column painted are cut off."""
    count, _, height, width = x.shape
    canvas = np.zeros((count, weight.shape[1], 2 * height + 1, 2 * width + 1))
    for i in range(height):
        for j in range(width):
            canvas[:, :, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3] += np.einsum(
                "nc,cfij->nfij", x[:, :, i, j], weight
            )
    return np.asarray(canvas[:, :, 1:, 1:] + bias[:, None, None])


def norm(x: Doubles, epsilon: float) -> Doubles:
    mean, variance = x.mean(axis=(2, 3), keepdims=True), x.var(axis=(2, 3), keepdims=True)
    return np.asarray((x - mean) / np.sqrt(variance + epsilon))


def generator(x: Doubles, stored: dict[str, Array], blocks: int, epsilon: float) -> Doubles:
    def layer(name: str) -> tuple[Array, Array]:
        return stored[f"{name}/weight"], stored[f"{name}/bias"]

    def edged(y: Doubles, edge: int, mode: str = "reflect") -> Doubles:
        return np.pad(y, ((0, 0), (0, 0), (edge, edge), (edge, edge)), mode)  # type: ignore[call-overload, no-any-return]

    def active(y: Doubles) -> Doubles:
        return np.maximum(norm(y, epsilon), 0)

    y = active(conv(edged(x, 3), *layer("stem/conv1")))
    for level in (1, 2):
        y = active(conv(edged(y, 1, "constant"), *layer(f"down{level}/conv1"), stride=2))
    for block in range(1, blocks + 1):
        inner = active(conv(edged(y, 1), *layer(f"block{block}/conv1")))
        y = y + norm(conv(edged(inner, 1), *layer(f"block{block}/conv2")), epsilon)
    for level in (1, 2):
        y = active(transposed(y, *layer(f"up{level}/conv_transpose1")))
    return np.tanh(conv(edged(y, 3), *layer("head/conv1")))


def test_model_is_valid_and_in_the_agreed_form() -> None:
    model = tiny()
    onnx.checker.check_model(model, full_check=True)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 18)]
    names = [node.name for node in model.graph.node]
    assert all(names) and len(set(names)) == len(names)
    for end, name in zip((model.graph.input[0], model.graph.output[0]), ("image", "logits"), strict=True):
        assert end.name == name
        assert [dim.dim_param or dim.dim_value for dim in end.type.tensor_type.shape.dim] == ["N", 3, 8, 8]
    ops = Counter(node.op_type for node in model.graph.node)
    assert ops == {
        "Pad": 6,
        "Conv": 8,
        "ConvTranspose": 2,
        "InstanceNormalization": 9,
        "Relu": 7,
        "Add": 2,
        "Tanh": 1,
    }


@pytest.mark.parametrize("epsilon", [1e-5, 1e-1])
def test_equals_its_layers_in_numpy(epsilon: float) -> None:
    model = cyclegan(blocks=2, width=3, size=12, epsilon=epsilon, seed=4)
    x = images(2, 12, 12)
    # float32 against float64, each layer normalised by the statistics of as few as 9 pixels.
    np.testing.assert_allclose(
        run(model, x), generator(x.astype(np.float64), weights(model), 2, epsilon), rtol=0, atol=1e-4
    )


@pytest.mark.parametrize(("blocks", "width", "channels"), [(1, 2, 3), (2, 3, 1)])
def test_has_the_parameters_of_its_formula(blocks: int, width: int, channels: int) -> None:
    stored = weights(cyclegan(blocks, width, channels, size=8))
    learned = (w.size for key, w in stored.items() if "/conv" in key and key.endswith(("/weight", "/bias")))
    assert sum(learned) == parameters(blocks, width, channels)


def test_formula_gives_the_published_11_million() -> None:
    assert parameters(blocks=9, width=64, channels=3) == 11_378_179


def test_free_size_computes_what_a_fixed_size_does() -> None:
    free = tiny(None, seed=3)
    onnx.checker.check_model(free, full_check=True)
    # onnxruntime picks its kernels by the shapes that it knows, and they may sum in another order.
    np.testing.assert_allclose(run(free, images(2)), run(tiny(seed=3), images(2)), rtol=0, atol=1e-5)
    assert run(free, images(1, 8, 12)).shape == (1, 3, 8, 12)


def test_seed_decides_every_byte() -> None:
    first, again, other = (tiny(seed=seed).SerializeToString(deterministic=True) for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_batch_equals_single_runs() -> None:
    model, x = tiny(), images(3)
    alone = np.concatenate([run(model, x[i : i + 1]) for i in range(3)])
    # float32 kernels may sum in another order for another batch size; the output is at most 1.
    np.testing.assert_allclose(run(model, x), alone, rtol=0, atol=1e-5)


def test_output_is_neither_flat_nor_saturated() -> None:
    y = run(cyclegan(width=8, size=16), images(2, 16, 16))
    assert 0.2 < y.std() < 0.9
    assert np.abs(y[0] - y[1]).max() > 0.1


def test_saliency_of_a_cotangent_is_the_directional_derivative() -> None:
    model = tiny()
    explainer = onnxplain.compile(model, "saliency", target="cotangent")
    x, t, ct = images(1), images(1, seed=1), images(1, seed=2)
    slope = float((explainer(x, cotangent=ct).attribution * t).sum())
    stored, step = weights(model), 1e-5
    # In float64, a step so short that it hardly crosses a kink of ReLU.
    there, back = (generator(x + sign * step * t.astype(np.float64), stored, 2, 1e-5) for sign in (1, -1))
    change = float((ct * (there - back)).sum()) / (2 * step)
    # float32 gradients through nine normalisations, five of them over four pixels.
    np.testing.assert_allclose(slope, change, rtol=1e-4)


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: cyclegan(size=4), "multiple of 4, at least 8"),
        (lambda: cyclegan(size=10), "multiple of 4, at least 8"),
        (lambda: cyclegan(blocks=0), "blocks must be at least 1"),
        (lambda: cyclegan(epsilon=0), "epsilon must be above 0"),
    ],
)
def test_impossible_nets_are_refused(build: Callable[[], onnx.ModelProto], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        build()
