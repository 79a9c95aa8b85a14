"""Why one forward pass at the conditional mean may stand for many at samples (Gu and Tresp 2017 section 2, Table 2).

Algorithm 1 takes the mean of what the model says of samples, Algorithm 2 what it says of their mean. Both are run here
as `Prober.windows` runs them, over layers whose difference of the two has a closed form.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import helper

import onnxplain
from onnxplain.runtime.perturb.probing import Asked, Prober
from tests.runtime.small import model_of

Array = npt.NDArray[np.float64]
Draw = Callable[[np.random.Generator, tuple[int, ...]], Array]
SIDE, FILLS = 100, 100
"""Every pixel is a unit of its own: FILLS pictures are 10^6 samples."""


def layer(op: str, **attributes: Any) -> onnx.ModelProto:
    nodes = [
        helper.make_node(op, ["x"], ["h"], **attributes),
        helper.make_node("Flatten", ["h"], ["y"], axis=1),
    ]
    return model_of(nodes, {"x": ["N", 1, "H", "W"]}, {"y": ["N", "K"]})


def both(
    model: onnx.ModelProto, draw: Draw, mean: Array | float, side: tuple[int, int]
) -> tuple[Array, Array]:
    """(Algorithm 1: mean score over FILLS samples, Algorithm 2: score of the mean), each (K,): one window over all."""
    prober = Prober(
        model, np.zeros((1, 1, *side), np.float32), Asked(score="output", engine="full", threads=1)
    )

    def samples(index: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        drawn = [draw(np.random.default_rng((2, int(i))), side) for i in index]
        return np.asarray(drawn, np.float32)[:, None]

    def means(index: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        return np.broadcast_to(np.asarray(mean, np.float32), (len(index), 1, *side))

    first = prober.windows(np.zeros((FILLS, 2), np.int64), side, samples)
    second = prober.windows(np.zeros((1, 2), np.int64), side, means)
    assert prober.forwards == FILLS + 1  # what Algorithm 2 saves
    return first.astype(np.float64).mean(axis=0), second[0].astype(np.float64)


def normal(mean: Array | float, sigma: float) -> Draw:
    return lambda rng, shape: mean + sigma * rng.standard_normal(shape)


def density(x: float) -> float:
    """φ of the unit normal."""
    return math.exp(-x * x / 2) / math.sqrt(2 * math.pi)


def share_below(x: float) -> float:
    """Φ of the unit normal."""
    return math.erfc(-x / math.sqrt(2)) / 2


@pytest.mark.parametrize("sigma", [0.5, 2.0])
@pytest.mark.parametrize("ratio", [0.0, 0.5, -1.0, 1.0, 2.0, -4.0, 6.0])
def test_the_error_of_a_rectifier(ratio: float, sigma: float) -> None:
    """E[relu] - relu(E) = σ φ(μ/σ) - |μ| Φ(-|μ|/σ): σ/√(2π) at μ = 0 (Eq. 18), none where |μ|/σ is large (Eq. 19).
    1 % of the largest error; a sample of 10^6 is measured at 0.3 %."""
    mu, most = ratio * sigma, sigma / np.sqrt(2 * np.pi)
    first, second = both(layer("Relu"), normal(mu, sigma), mu, (SIDE, SIDE))
    error = float(first.mean() - second.mean())
    expected = sigma * density(ratio) - abs(mu) * share_below(-abs(ratio))
    assert error == pytest.approx(expected, abs=0.01 * most)
    if ratio == 0:
        assert expected == pytest.approx(most)
    if abs(ratio) >= 4:
        assert abs(expected) < 1e-4 * most


@pytest.mark.parametrize("sigma", [0.1, 1.0, 3.0])
def test_the_error_of_a_maximum(sigma: float) -> None:
    """max of k = 8 equal units: 1.42 σ, below σ √(2 ln k) = 2.04 σ. The paper's bound log k + σ²/2 (Eq. 30-31, t = 1)
    holds too, is never less, and does not vanish with σ."""
    k = 8
    model = layer("MaxPool", kernel_shape=[1, k], strides=[1, k])
    first, second = both(model, normal(0.0, sigma), 0.0, (SIDE, 10 * k))
    error, bound = float(first.mean() - second.mean()), sigma * np.sqrt(2 * np.log(k))
    assert error == pytest.approx(1.4236 * sigma, rel=0.01)
    assert bound / sigma == pytest.approx(2.04, abs=0.005)
    assert 0 < error < bound <= np.log(k) + sigma**2 / 2 + 1e-12


def test_the_bounds_of_a_maximum_of_unequal_units() -> None:
    """max μ ≤ E max ≤ max μ + σ √(2 ln k), for any means."""
    k, sigma = 8, 1.0
    mean = np.random.default_rng(5).normal(0, 2, (1, 10 * k))
    model = layer("MaxPool", kernel_shape=[1, k], strides=[1, k])
    first, second = both(model, normal(mean, sigma), mean, (SIDE, 10 * k))
    error = (first - second).reshape(SIDE, 10).mean(axis=0)  # 10^4 samples of each of ten units
    assert (error > 0).all() and (error < sigma * np.sqrt(2 * np.log(k))).all()
    assert error.max() - error.min() > 0.2  # the closer the means, the more


def test_the_mean_goes_through_linear_layers() -> None:
    """E[f(x)] = f(E[x]) (Eq. 16): a convolution, a mean pool and a product, with biases."""
    rng = np.random.default_rng(6)
    parameters = {
        "w": rng.normal(size=(3, 1, 3, 3)).astype(np.float32),
        "b": rng.normal(size=3).astype(np.float32),
        "v": rng.normal(size=(27, 4)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["h"]),
        helper.make_node("AveragePool", ["h"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["p"], ["f"], axis=1),
        helper.make_node("MatMul", ["f", "v"], ["y"]),
    ]
    model = model_of(nodes, {"x": ["N", 1, 8, 8]}, {"y": ["N", 4]}, parameters)
    drawn = np.stack([np.random.default_rng((2, i)).standard_normal((8, 8)) for i in range(FILLS)])
    first, second = both(model, normal(0.0, 1.0), drawn.mean(axis=0), (8, 8))
    assert first == pytest.approx(second, abs=1e-5)


def test_the_normalised_geometric_mean_of_a_softmax() -> None:
    """NGM_s softmax(z_s) = softmax(mean z_s) (Eq. 11-15): over linear logits the score of the mean window, exactly."""
    rng = np.random.default_rng(7)
    nodes = [
        helper.make_node("Flatten", ["x"], ["f"], axis=1),
        helper.make_node("MatMul", ["f", "w"], ["z"]),
        helper.make_node("Softmax", ["z"], ["p"], axis=-1),
    ]
    w = 0.4 * rng.normal(size=(2 * 6 * 6, 5)).astype(np.float32)
    model = model_of(nodes, {"x": ["N", 2, 6, 6]}, {"p": ["N", 5]}, {"w": w})
    image = rng.normal(size=(1, 2, 6, 6)).astype(np.float32)
    prober = Prober(model, image, Asked(engine="full", threads=1))
    fills = rng.normal(size=(40, 2, 3, 3)).astype(np.float32)
    places = np.tile(np.array([[1, 2]]), (40, 1))
    samples = prober.windows(places, (3, 3), lambda index: fills[index]).astype(np.float64)
    mean = prober.windows(places[:1], (3, 3), lambda index: fills.mean(axis=0)[None])[0]
    geometric = np.exp(np.log(samples).mean(axis=0))
    assert mean == pytest.approx(geometric / geometric.sum(), rel=2e-5)  # float32 logits
    assert np.abs(samples.mean(axis=0) - mean).max() > 1e-3  # which the arithmetic mean is not


@pytest.mark.parametrize(
    ("mu", "gap"), [(-1.0, -0.034), (1.0, 0.034), (-2.0, -0.036), (2.0, 0.036), (0.0, 0.0)]
)
def test_the_two_means_of_a_sigmoid(mu: float, gap: float) -> None:
    """NGM = σ(E[x]), the score of the mean, is below the arithmetic mean for μ < 0 and above it for μ > 0 (Eq. 33-34
    and Jensen): -0.034 at N(-1, 1), -0.036 at N(-2, 1)."""
    first, second = both(layer("Sigmoid"), normal(mu, 1.0), mu, (SIDE, SIDE))
    assert float(second.mean() - first.mean()) == pytest.approx(gap, abs=1e-3)
    assert second == pytest.approx(np.full(SIDE * SIDE, 1 / (1 + np.exp(-mu))), rel=1e-5)


def test_the_means_of_a_sigmoid_agree_in_first_order() -> None:
    """Their difference is of second order in σ (Eq. 35-36): half of it leaves a quarter, 4 (1 + O(σ²))."""
    gaps = []
    for sigma in (0.8, 0.4):
        first, second = both(layer("Sigmoid"), normal(1.0, sigma), 1.0, (SIDE, SIDE))
        gaps.append(float(second.mean() - first.mean()))
    assert gaps[0] > gaps[1] > 0
    assert gaps[0] / gaps[1] == pytest.approx(4.0, rel=0.15)


def rectified() -> tuple[onnx.ModelProto, Array]:
    """f = relu(w·x), and w as a picture."""
    w = np.random.default_rng(9).normal(size=(20, 1)).astype(np.float32)
    nodes = [
        helper.make_node("Flatten", ["x"], ["f"], axis=1),
        helper.make_node("MatMul", ["f", "w"], ["h"]),
        helper.make_node("Relu", ["h"], ["y"]),
    ]
    model = model_of(nodes, {"x": ["N", 1, 4, 5]}, {"y": ["N", 1]}, {"w": w})
    return model, w.reshape(1, 1, 4, 5).astype(np.float64)


def test_three_weightings_of_one_gradient() -> None:
    """Table 2. Saliency |∂f/∂x|; deep Taylor ∂f/∂x̃ (x - x̃) with f(x̃) = 0; ours ∂f/∂x (x - x')."""
    model, w = rectified()
    x = np.random.default_rng(10).uniform(0.1, 1.0, (1, 1, 4, 5)) * np.where(w > 0, 1.5, 0.5)
    prober = Prober(model, x, Asked(score="output", threads=1))
    f = float(prober.base[0])
    assert f > 0.5
    saliency = onnxplain.compile(model, "saliency", reduce="maxabs")(x).heatmap
    assert saliency is not None and saliency == pytest.approx(np.abs(w)[:, 0], rel=1e-6)

    taylor = onnxplain.compile(model, "deep-taylor", input="positive")(x).attribution.astype(np.float64)
    root = x - np.divide(taylor, w, where=w > 0, out=np.zeros_like(w))
    assert taylor == pytest.approx(w * (x - root), abs=1e-6)
    assert float(prober.scores(root.astype(np.float32))[0, 0]) == pytest.approx(0.0, abs=1e-5 * f)
    assert taylor.sum() == pytest.approx(f, rel=1e-5)

    mean = np.random.default_rng(11).uniform(0, 1, (1, 1, 4, 5))
    made = onnxplain.compile(model, "pda.gradient", k=1, baseline=mean, score="logit")
    assert made(x).attribution == pytest.approx(w * (x - mean), abs=1e-6)


def test_ours_weighs_by_how_far_a_pixel_is_from_what_its_neighbours_say() -> None:
    """x'_i the conditional mean of one pixel in its 3 x 3 patch."""
    model, w = rectified()
    rng = np.random.default_rng(12)
    a = rng.normal(size=(9, 30))
    mu, cov = rng.normal(size=(1, 9)), (a @ a.T / 30)[None]

    class Patch:
        pass

    of: Any = Patch()
    of.mu, of.cov, of.patch = mu, cov, 3
    x = rng.uniform(0.1, 1.0, (1, 1, 4, 5)) * np.where(w > 0, 1.5, 0.5)
    made = onnxplain.compile(model, "pda.gradient", k=1, gaussian=of, score="logit")(x).attribution
    patch = x[0, 0, 0:3, 1:4].ravel()  # around the pixel at (1, 2)
    others = [0, 1, 2, 3, 5, 6, 7, 8]
    slope = np.linalg.solve(cov[0][np.ix_(others, others)], cov[0][others, 4])
    predicted = mu[0, 4] + slope @ (patch[others] - mu[0, others])
    assert made[0, 0, 1, 2] == pytest.approx(w[0, 0, 1, 2] * (x[0, 0, 1, 2] - predicted), abs=1e-5)
