"""Averages over samples: what the papers prove of them, and each against a plain loop in numpy."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from onnxplain.models import path
from onnxplain.rewriter.compile import Request, compile_model
from onnxplain.rewriter.errors import OptionError
from onnxplain.rules.registry import find, methods
from onnxplain.rules.sampling import NODES, path_nodes
from tests.rewriter.nets import floats, net, run
from tests.test_golden import golden, image, model

Array = NDArray[Any]
TOLERANCE = 1e-5
"""float32 sums in another order."""

PATH, SMOOTH, SQUARED, VARIANCE = "integrated-gradients", "smoothgrad", "smoothgrad-squared", "vargrad"
CURVED = ["smooth_acts", "attention"]
KINKED = ["mlp_bias", "cnn_bias", "cnn_odd", "resnet", "overlap_pool", "concat"]


def near(got: Array, want: Array, tolerance: float = TOLERANCE) -> None:
    assert got.shape == want.shape, f"{got.shape} instead of {want.shape}"
    size = float(np.abs(want).max())
    assert size > 0, "an expected map of zeros proves nothing"
    assert float(np.abs(got - want).max()) <= tolerance * size


def outputs(
    source: onnx.ModelProto, method: str, x: Array, target: Any = "top", **more: Any
) -> dict[str, Array]:
    """Arrays among `more` are fed, the rest are options."""
    fed = {name: value for name, value in more.items() if isinstance(value, np.ndarray)}
    options = {name: value for name, value in more.items() if name not in fed}
    (x_name,) = (value.name for value in source.graph.input)
    made, _ = compile_model(source, find(method), Request(target=target, options=options))
    return run(made, {x_name: x, **fed})


def mapped(source: onnx.ModelProto, method: str, x: Array, target: Any = "top", **more: Any) -> Array:
    return outputs(source, method, x, target, **more)["attribution"]


@pytest.mark.parametrize("m", [1, 2, 3, 16, 50, 333])
@pytest.mark.parametrize("kind", NODES)
def test_nodes_and_weights(kind: str, m: int) -> None:
    at, weight = path_nodes(kind, m)
    assert at.shape == weight.shape == (m,)
    assert abs(weight.sum() - 1) < 1e-12
    assert (weight > 0).all()
    assert (np.diff(at) > 0).all()
    assert 0 <= at[0] <= at[-1] <= 1
    assert np.allclose(at + at[::-1], 1)  # symmetric: straight lines are integrated exactly
    if kind == "gauss-legendre":  # and polynomials of degree 2 m - 1
        for degree in range(min(2 * m, 20)):
            assert abs((weight * at**degree).sum() - 1 / (degree + 1)) < 1e-12
    elif kind == "trapezoid" and m > 1:
        assert (at[0], at[-1]) == (0, 1)
        assert np.allclose(weight, np.trapezoid(np.eye(m), at, axis=1))


CUBE = "g (float[N,3] x) => (float[N,3] y) { s = Mul(x, x) y = Mul(s, x) }"


@pytest.mark.parametrize("m", [1, 2, 5])
@pytest.mark.parametrize("kind", NODES)
def test_the_weighted_sum_over_the_path(kind: str, m: int) -> None:
    """y = x³ from b: (x - b) Σ w_k 3 (b + α_k (x - b))²."""
    x, b = floats(2, 3), floats(1, 3, seed=1)
    made, _ = compile_model(
        net(CUBE), find(PATH), Request(target=1, options={"steps": m, "rule": kind, "baseline": "input"})
    )
    got = run(made, {"x": x, "baseline": b})["attribution"]
    at, weight = path_nodes(kind, m)
    points = b[None] + at[:, None, None] * (x - b)[None]
    want = (x - b) * np.tensordot(weight, 3 * points**2, 1)
    want[:, [0, 2]] = 0
    near(got, want)
    if m > 1 and kind == "gauss-legendre":
        near(got[:, 1], x[:, 1] ** 3 - b[:, 1] ** 3)


def logit(source: onnx.ModelProto, x: Array, c: int) -> float:
    (y,) = run(source, {source.graph.input[0].name: x}).values()
    return float(y.astype(np.float64)[0, c])


@cache
def gap(name: str, m: int, rule: str) -> float:
    """|Σ IG - (z_c(x) - z_c(0))| relative to the difference of the logits."""
    source, x, c = model(name), image(name), int(golden(name)["class"])
    got = mapped(source, PATH, x, c, steps=m, rule=rule, lanes=32)
    change = logit(source, x, c) - logit(source, np.zeros_like(x), c)
    return abs(float(got.astype(np.float64).sum()) - change) / abs(change)


@pytest.mark.parametrize("rule", NODES)
@pytest.mark.parametrize("name", KINKED + CURVED)
def test_completeness(name: str, rule: str) -> None:
    assert gap(name, 512, rule) < 0.02


@pytest.mark.parametrize("rule", NODES)
@pytest.mark.parametrize("name", CURVED)
def test_the_gap_of_smooth_nets_halves_at_least(name: str, rule: str) -> None:
    """From 64 to 512 steps: measured 10 to 80 times smaller. float32 has a floor below 1e-6."""
    assert gap(name, 512, rule) < max(gap(name, 64, rule) / 2, 1e-6)


def test_a_trained_net_is_complete() -> None:
    """LeNet on a bright square: 0.3 % off at 512 midpoints."""
    x = np.zeros((1, 1, 28, 28), np.float32)
    x[..., 6:22, 12:16] = 1.0
    source = onnx.load(path("mnist_lenet"))
    got = outputs(source, PATH, x, 1, steps=512, lanes=16)
    change = logit(source, x, 1) - logit(source, np.zeros_like(x), 1)
    assert abs(float(got["attribution"].sum()) - change) < 0.02 * abs(change)
    # Sensitivity: a pixel that does not change gets nothing.
    assert not got["attribution"][x == 0].any()


def linear() -> tuple[onnx.ModelProto, Array]:
    """Convolution, mean pool, product: no activation. And the gradient of class 2."""
    source = net(
        """g (float[N,2,6,6] x) => (float[N,5] y) <int64[2] axes = {2,3}> {
        a = Conv<pads=[1,1,1,1]>(x, w) b = ReduceMean<keepdims=0>(a, axes) y = MatMul(b, v) }"""
    )
    for name, array in (("w", floats(3, 2, 3, 3)), ("v", floats(3, 5))):
        source.graph.initializer.append(numpy_helper.from_array(array, name))
    return source, mapped(source, "saliency", floats(1, 2, 6, 6), 2)


@pytest.mark.parametrize("rule", NODES)
def test_a_linear_net_needs_one_step(rule: str) -> None:
    source, gradient = linear()
    x = floats(2, 2, 6, 6, seed=3)
    near(mapped(source, PATH, x, 2, steps=1, rule=rule, baseline=0.5), gradient * (x - np.float32(0.5)))
    near(mapped(source, PATH, x, 2, steps=7, rule=rule), gradient * x)


def test_noise_does_not_change_a_linear_net() -> None:
    source, gradient = linear()
    x, noise = floats(2, 2, 6, 6, seed=3), floats(9, 2, 6, 6, seed=4)
    both = np.repeat(gradient, 2, axis=0)
    near(mapped(source, SMOOTH, x, 2, noise=noise), both)
    near(mapped(source, SQUARED, x, 2, noise=noise), both**2)
    # Exactly: the variance is that of the differences to the map of x itself. Without graph optimisation equal
    # rows of a batch are computed equally, whatever the number of lanes.
    assert float(mapped(source, VARIANCE, x, 2, noise=noise).max()) <= 1e-12 * float((both**2).max())


@pytest.mark.parametrize("name", KINKED + CURVED)
def test_squares_are_the_square_and_the_variance(name: str) -> None:
    """SG² = SG ⊙ SG + Var, and Var >= 0."""
    source, x = model(name), image(name)
    noise = floats(7, *x.shape[1:], seed=4)
    mean, square, variance = (
        mapped(source, method, x, noise=noise, sigma=0.3).astype(np.float64)
        for method in (SMOOTH, SQUARED, VARIANCE)
    )
    assert variance.min() >= 0
    assert variance.max() > 0
    near(mean * mean + variance, square)


def test_a_small_variance_is_not_lost_in_the_mean() -> None:
    """y = 1000 x + x²/2: the gradient at a sample is 1000 + x + σ ε, its variance σ² var ε, 1e-7 of its square."""
    source = net("g (float[N,2] x) => (float[N,2] y) <float k = {1000}, float h = {0.5}> "
                 "{ s = Mul(x, x) q = Mul(s, h) l = Mul(x, k) y = Add(q, l) }")  # fmt: skip
    x, noise = np.array([[0.0, 4.0]], np.float32), floats(50, 2, seed=4)
    got = mapped(source, VARIANCE, x, 1, noise=noise, sigma=0.1)
    # float32 holds 1004 ± 0.4 in steps of 6e-5: 1e-3 of the variance.
    near(got[:, 1], np.array([(0.4 * noise[:, 1].astype(np.float64)).var()]), 2e-3)


INNER = ["saliency", "input-x-gradient", "guided-backprop", "deconvnet", "lrp.epsilon", "lrp.epsilon-plus",
         "deep-taylor", "deeplift.rescale", "grad-cam", "fem", "guided-grad-cam"]  # fmt: skip


@pytest.mark.parametrize("inner", INNER)
def test_without_noise_it_is_the_method_inside(inner: str) -> None:
    x = floats(2, 2, 8, 8, seed=2)
    source = model("resnet")
    want = mapped(source, inner, x)
    for noise, sigma in ((np.zeros((1, 2, 8, 8), np.float32), 0.15), (floats(1, 2, 8, 8), 0.0)):
        near(mapped(source, SMOOTH, x, inner=inner, noise=noise, sigma=sigma), want)
        near(mapped(source, SQUARED, x, inner=inner, noise=noise, sigma=sigma), want**2)
        # Of a single sample there is no variance; the two runs may differ in the last bit.
        assert (
            mapped(source, VARIANCE, x, inner=inner, noise=noise, sigma=sigma).max() < 1e-10 * (want**2).max()
        )


@pytest.mark.parametrize("inner", INNER)
def test_the_mean_of_the_maps_of_the_samples(inner: str) -> None:
    source, x, noise = model("resnet"), floats(2, 2, 8, 8, seed=2), floats(3, 2, 8, 8, seed=5)
    got = mapped(source, SMOOTH, x, 1, inner=inner, noise=noise, sigma=0.1)
    sigma = 0.1 * (x.max(axis=(1, 2, 3)) - x.min(axis=(1, 2, 3)))[:, None, None, None]
    near(got, np.mean([mapped(source, inner, x + sigma * eps, 1) for eps in noise], axis=0))


def test_options_of_the_method_inside_reach_it() -> None:
    source, x, noise = model("smooth_acts"), image("smooth_acts"), floats(1, 6) * 0
    maps = [
        mapped(source, SMOOTH, x, inner="guided-backprop", gate=gate, noise=noise)
        for gate in ("relu", "rectifiers")
    ]
    assert not np.allclose(maps[0], maps[1])
    for got, gate in zip(maps, ("relu", "rectifiers"), strict=True):
        near(got, mapped(source, "guided-backprop", x, gate=gate))


def test_small_maps_may_be_averaged_too() -> None:
    """Without upsampling a map has the size of its layer, and K classes give K rows a sample."""
    source, x, noise = model("cnn_bias"), np.repeat(image("cnn_bias"), 2, axis=0), floats(3, 2, 8, 8, seed=5)
    for method, more in (("grad-cam", {}), (SMOOTH, {"inner": "grad-cam", "noise": noise, "sigma": 0.0})):
        got = mapped(source, method, x, [0, 1, 2], upsample=False, relu=False, **more)
        assert got.shape == (6, 1, 2, 2)
        for c in range(3):
            near(got[c::3], mapped(source, "grad-cam", x, c, upsample=False, relu=False))


@cache
def sampling_methods() -> list[str]:
    return [name for name, method in methods().items() if method.sampling is not None]


def test_what_cannot_be_sampled() -> None:
    assert {PATH, SMOOTH, SQUARED, VARIANCE} <= set(sampling_methods())
    for inner in (PATH, SMOOTH, SQUARED, VARIANCE):
        with pytest.raises(OptionError, match=f"{VARIANCE} of {inner}: a method that samples"):
            compile_model(model("mlp_bias"), find(VARIANCE), Request(options={"inner": inner}))


def test_vectors_have_no_range() -> None:
    """x (N): a sample is one number, its range 0; the other samples of the batch are not looked at."""
    source, x = net("g (float[N] x) => (float[N] y) { y = Mul(x, x) }"), floats(3)
    near(mapped(source, SMOOTH, x, 0, noise=floats(4)), 2 * x)


def test_the_range_is_that_of_each_sample() -> None:
    source = net("g (float[N,2,2] x) => (float[N,2,2] y) { s = Mul(x, x) y = Mul(s, x) }")
    x = np.array([[[0, 1], [0.5, 0]], [[10, 20], [30, 50]], [[3, 3], [3, 3]]], np.float32)
    noise = floats(6, 2, 2, seed=5)
    got = mapped(source, SMOOTH, x, 1, noise=noise, sigma=0.2)
    sigma = 0.2 * np.array([1.0, 40.0, 0.0])
    want = np.zeros_like(x)
    want[:, 0, 1] = np.mean(3 * (x[:, 0, 1] + noise[:, None, 0, 1] * sigma) ** 2, axis=0)
    near(got, want)
