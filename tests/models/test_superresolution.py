"""Nets that enlarge: valid, seeded, independent across the batch; bicubic and pixel shuffle against their formulas."""

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
from onnxplain.models.blocks import Value
from onnxplain.models.superresolution import Pictures, bicubic, edsr, pixel_shuffle

Array = NDArray[np.float32]
Build = Callable[[int | None, int], onnx.ModelProto]

TINY: dict[str, tuple[int, Build]] = {
    "bicubic": (4, lambda size, seed: bicubic(size=size)),
    "bicubic-x3": (3, lambda size, seed: bicubic(3, channels=1, size=size, cubic_coeff_a=-0.75)),
    "pixel_shuffle": (4, lambda size, seed: pixel_shuffle(width=8, size=size, seed=seed)),
    "pixel_shuffle-tanh": (
        3,
        lambda size, seed: pixel_shuffle(3, channels=1, width=6, size=size, activation="tanh", seed=seed),
    ),
    "edsr": (4, lambda size, seed: edsr(blocks=2, width=8, size=size, seed=seed)),
    "edsr-x3": (3, lambda size, seed: edsr(blocks=2, width=6, scale=3, channels=1, size=size, seed=seed)),
    "edsr-x2": (
        2,
        lambda size, seed: edsr(blocks=2, width=6, scale=2, size=size, residual_scale=1.0, seed=seed),
    ),
}
SEEDED = [name for name in TINY if not name.startswith("bicubic")]


def run(model: onnx.ModelProto, x: Array) -> Array:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {"image": x})
    return np.asarray(y, np.float32)


def sides(end: onnx.ValueInfoProto) -> list[int | str]:
    return [dim.dim_param or dim.dim_value for dim in end.type.tensor_type.shape.dim]


def images(model: onnx.ModelProto, count: int, height: int = 6, width: int = 6, seed: int = 0) -> Array:
    channels = model.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    return np.random.default_rng(seed).standard_normal((count, channels, height, width), np.float32)


def weights(model: onnx.ModelProto) -> dict[str, Array]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def learned(model: onnx.ModelProto) -> int:
    return sum(w.size for key, w in weights(model).items() if key.endswith(("/weight", "/bias")))


def edsr_parameters(blocks: int, width: int, scale: int, channels: int) -> int:
    def conv(inputs: int, filters: int) -> int:
        return (9 * inputs + 1) * filters

    up = {2: conv(width, 4 * width), 3: conv(width, 9 * width), 4: 2 * conv(width, 4 * width)}[scale]
    return conv(channels, width) + (2 * blocks + 1) * conv(width, width) + up + conv(width, channels)


@pytest.mark.parametrize("name", TINY)
def test_model_is_valid_and_in_the_agreed_form(name: str) -> None:
    scale, build = TINY[name]
    model = build(6, 0)
    onnx.checker.check_model(model, full_check=True)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 18)]
    names = [node.name for node in model.graph.node]
    assert all(names) and len(set(names)) == len(names)
    ends = (model.graph.input[0], model.graph.output[0])
    assert [end.name for end in ends] == ["image", "logits"]
    x = images(model, 2)
    assert sides(ends[0]) == ["N", *x.shape[1:]]
    assert sides(ends[1]) == ["N", x.shape[1], 6 * scale, 6 * scale]
    assert run(model, x).shape == (2, x.shape[1], 6 * scale, 6 * scale)


@pytest.mark.parametrize("name", TINY)
def test_free_size_computes_what_a_fixed_size_does(name: str) -> None:
    scale, build = TINY[name]
    free = build(None, 3)
    onnx.checker.check_model(free, full_check=True)
    assert sides(free.graph.input[0])[2:] == ["H", "W"]
    x = images(free, 2)
    fixed = run(build(6, 3), x)
    # onnxruntime picks its kernels by the shapes that it knows, and they may sum in another order.
    np.testing.assert_allclose(run(free, x), fixed, rtol=0, atol=1e-5 * np.abs(fixed).max())
    assert run(free, images(free, 1, 5, 7)).shape[2:] == (5 * scale, 7 * scale)


@pytest.mark.parametrize("name", SEEDED)
def test_seed_decides_every_byte(name: str) -> None:
    first, again, other = (TINY[name][1](6, seed).SerializeToString(deterministic=True) for seed in (0, 0, 1))
    assert first == again
    assert first != other


@pytest.mark.parametrize("name", TINY)
def test_batch_equals_single_runs(name: str) -> None:
    model = TINY[name][1](6, 0)
    x = images(model, 3)
    together, alone = run(model, x), np.concatenate([run(model, x[i : i + 1]) for i in range(3)])
    # float32 kernels may sum in another order for another batch size.
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-5 * np.abs(alone).max())


@pytest.mark.parametrize(
    "model",
    [
        lambda: pixel_shuffle(width=32, size=12),
        lambda: pixel_shuffle(width=32, size=12, activation="tanh"),
        lambda: edsr(blocks=16, width=16, size=12),
        lambda: edsr(blocks=16, width=16, size=12, residual_scale=1.0),
    ],
    ids=["pixel_shuffle", "pixel_shuffle-tanh", "edsr", "edsr-unscaled"],
)
def test_values_keep_their_size_over_the_depth(model: Callable[[], onnx.ModelProto]) -> None:
    built = model()
    assert 0.2 < run(built, images(built, 2, 12, 12)).std() < 5


@pytest.mark.parametrize("name", TINY)
def test_saliency_of_a_cotangent_is_the_directional_derivative(name: str) -> None:
    model = TINY[name][1](6, 0)
    explainer = onnxplain.compile(model, "saliency", target="cotangent")
    x, t, step = images(model, 1), images(model, 1, seed=1), 1e-2
    shift = (step * t).astype(np.float32)
    change = (run(model, x + shift) - run(model, x - shift)) / (2 * step)
    # With the change as its own cotangent, both sides are large: |change|².
    slope = (explainer(x, cotangent=change).attribution * t).sum()
    # The step crosses a few kinks of ReLU.
    np.testing.assert_allclose(slope, np.square(change).sum(), rtol=1e-2)


@pytest.mark.parametrize("a", [-0.5, -0.75])
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_bicubic_is_linear_with_rows_that_sum_to_one(scale: int, a: float) -> None:
    model = bicubic(scale, channels=1, size=5, cubic_coeff_a=a)
    columns = run(model, np.eye(25, dtype=np.float32).reshape(25, 1, 5, 5)).reshape(25, -1)
    # 16 products of float32 factors, cubics of float32 coordinates.
    np.testing.assert_allclose(columns.sum(axis=0), 1, rtol=0, atol=1e-5)
    x = images(model, 2, 5, 5)
    np.testing.assert_allclose(run(model, x).reshape(2, -1), x.reshape(2, -1) @ columns, rtol=0, atol=1e-5)


def test_bicubic_of_a_half_enlarges_a_ramp_exactly_inside() -> None:
    ramp = np.broadcast_to(np.arange(8, dtype=np.float32), (1, 1, 8, 8)).copy()
    want = (np.arange(32) + 0.5) / 4 - 0.5
    inside = slice(8, -8)  # the four taps of these places lie in the picture
    errors = [np.abs(run(bicubic(4, 1, 8, a), ramp)[0, 0, 16] - want)[inside].max() for a in (-0.5, -0.75)]
    assert errors[0] < 1e-5 < 1e-2 < errors[1]


def test_depth_to_space_orders_channel_row_column() -> None:
    net = Pictures("net", (8, 2, 3))
    y = net.depth_to_space(net.image, 2)
    assert y == Value("depth_to_space1/out", (2, 4, 6))
    model = net.model(y)
    onnx.checker.check_model(model, full_check=True)
    x = images(model, 2, 2, 3)
    want = x.reshape(2, 2, 2, 2, 2, 3).transpose(0, 1, 4, 2, 5, 3).reshape(2, 2, 4, 6)
    np.testing.assert_array_equal(run(model, x), want)


@pytest.mark.parametrize(("activation", "op"), [("relu", "Relu"), ("tanh", "Tanh")])
def test_pixel_shuffle_has_four_convolutions_at_low_resolution(activation: str, op: str) -> None:
    model = pixel_shuffle(3, channels=1, width=10, size=6, activation=activation)  # type: ignore[arg-type]
    assert [node.op_type for node in model.graph.node] == ["Conv", op] * 3 + ["Conv", "DepthToSpace"]
    shapes = [w.shape for key, w in weights(model).items() if key.endswith("/weight")]
    assert shapes == [(10, 1, 5, 5), (10, 10, 3, 3), (5, 10, 3, 3), (9, 5, 3, 3)]


@pytest.mark.parametrize(
    ("blocks", "width", "scale", "channels"), [(1, 4, 2, 3), (2, 6, 3, 1), (3, 5, 4, 3)], ids=str
)
def test_edsr_has_the_parameters_of_its_formula(blocks: int, width: int, scale: int, channels: int) -> None:
    model = edsr(blocks, width, scale, channels, size=4)
    assert learned(model) == edsr_parameters(blocks, width, scale, channels)
    ops = Counter(node.op_type for node in model.graph.node)
    steps = 2 if scale == 4 else 1
    assert ops == {
        "Conv": 2 * blocks + 3 + steps,
        "Relu": blocks,
        "Mul": blocks,
        "Add": blocks + 1,
        "DepthToSpace": steps,
    }


def test_edsr_formula_gives_the_papers_43_million() -> None:
    assert edsr_parameters(blocks=32, width=256, scale=4, channels=3) == 43_089_923


def test_edsr_adds_its_scaled_branches_to_the_skip() -> None:
    model = edsr(blocks=2, width=6, size=6)
    x = images(model, 2)
    plain, closed = run(model, x), run(edsr(blocks=2, width=6, size=6, residual_scale=0.0), x)
    for tensor in model.graph.initializer:
        if tensor.name.startswith("block") and "/conv2/" in tensor.name:
            tensor.CopyFrom(numpy_helper.from_array(np.zeros(tensor.dims, np.float32), tensor.name))
    np.testing.assert_allclose(run(model, x), closed, rtol=0, atol=1e-6)
    assert np.abs(plain - closed).max() > 1e-2


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: bicubic(scale=0), "scale must be at least 1"),
        (lambda: bicubic(size=0), "at least 1"),
        (lambda: pixel_shuffle(width=1), "width must be at least 2"),
        (lambda: pixel_shuffle(activation="gelu"), "one of relu, tanh"),  # type: ignore[arg-type]
        (lambda: edsr(scale=5), "scale must be one of 2, 3, 4"),
        (lambda: edsr(blocks=0), "blocks must be at least 1"),
        (lambda: edsr(residual_scale=-0.1), "residual_scale must be at least 0"),
    ],
)
def test_impossible_nets_are_refused(build: Callable[[], onnx.ModelProto], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        build()
