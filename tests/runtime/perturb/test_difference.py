"""Prediction difference analysis: golden maps, closed forms, invariances, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import helper

from onnxplain import models
from onnxplain.rewriter.errors import ExplainWarning, OptionError
from onnxplain.runtime.lanes import Progress
from onnxplain.runtime.perturb.difference import (
    PDA_MEAN,
    PDA_SAMPLING,
    average,
    corners,
    log_odds,
    prediction_difference,
)
from onnxplain.runtime.perturb.gaussian import Gaussian, Surroundings
from onnxplain.runtime.perturb.gaussian_fit import Patches, fit_gaussian
from onnxplain.runtime.perturb.incremental import Incremental
from onnxplain.runtime.perturb.probing import Asked, Fills, Places, Prober
from onnxplain.runtime.perturb.technique import perform
from tests.runtime.small import model_of

GOLDEN = Path(__file__).parents[2] / "data" / "golden"
NETS = ("cnn_bias", "overlap_pool")
K, L = 3, 5
"""Window and outer patch of the golden maps; 4 samples."""

Array = npt.NDArray[Any]


def stored(net: str) -> dict[str, Array]:
    with np.load(GOLDEN / f"perturb_{net}.npz") as data:
        return {key: data[key] for key in data.files}


def golden(net: str, **asked: Any) -> Prober:
    return Prober(GOLDEN / f"{net}.onnx", stored(net)["x"].astype(np.float32), Asked(threads=1, **asked))


def fitted(data: dict[str, Array], low: Array | None = None, high: Array | None = None) -> Gaussian:
    return Gaussian(data["pda_mu"], data["pda_cov"], L, low, high)


def same(found: Array, expected: Array, tolerance: float = 1e-4) -> None:
    """A part of the largest value: probabilities are rounded to float32, and 1 - p may be small."""
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize("net", NETS)
def test_golden(net: str) -> None:
    data = stored(net)
    c, g, images = int(data["class"]), fitted(data), data["pda_images"]
    prober = golden(net)
    windows = (prober.size[0] - K + 1) * (prober.size[1] - K + 1)

    draws = data["pda_samples"].astype(np.float32).reshape(-1, prober.channels, K, K)
    asked = PDA_SAMPLING.settle({"k": K, "l": L, "gaussian": g})
    same(prediction_difference(prober, asked, draws.__getitem__, 4, [c])[0], data["pda_alg1"])
    assert prober.forwards == 4 * windows

    found = perform(prober, PDA_MEAN, [c], k=K, l=L, gaussian=g)
    same(found.maps[0], data["pda_alg2"])
    assert found.forwards == windows == found.record["expected_forwards"]
    assert found.record["settings"]["gaussian"] == str(g)

    marginal: dict[str, Any] = {"k": K, "l": L, "variant": "marginal", "images": images}
    found = perform(prober, PDA_SAMPLING, [c], samples=4, pick="first", **marginal)
    same(found.maps[0], data["pda_alg1_marginal"])
    assert found.forwards == 4 * windows == found.record["expected_forwards"]
    same(perform(prober, PDA_MEAN, [c], **marginal).maps[0], data["pda_alg2_marginal"])


@pytest.mark.parametrize("net", NETS)
def test_sampling_without_spread_is_the_mean(net: str) -> None:
    """S copies of the conditional mean: Algorithm 1 is Algorithm 2, to the rounding of a mean of equal numbers."""
    data, prober = stored(net), golden(net)
    asked = PDA_SAMPLING.settle({"k": K, "l": L, "gaussian": fitted(data)})
    around, places = Surroundings(fitted(data), prober.planes, (K, K)), corners(prober.size, K)
    means = around.means(places).astype(np.float32)
    found = prediction_difference(prober, asked, lambda i: means[i // 5], 5, [0, 1, 2])
    expected = perform(prober, PDA_MEAN, [0, 1, 2], k=K, l=L, gaussian=fitted(data)).maps
    same(found, expected, 1e-6)


def test_true_windows_say_nothing() -> None:
    """A fill that is the window itself changes no bit, so the map is 0."""
    prober = golden("cnn_bias")
    asked = PDA_MEAN.settle({"k": K, "l": L, "gaussian": fitted(stored("cnn_bias"))})
    places = corners(prober.size, K)
    true = np.stack([prober.planes[:, r : r + K, c : c + K] for r, c in places])
    assert not prediction_difference(prober, asked, true.__getitem__, 1, [0, 1, 2]).any()
    image = np.repeat(prober.planes[None], 3, axis=0)
    marginal: dict[str, Any] = {"k": K, "variant": "marginal", "images": image}
    with pytest.warns(ExplainWarning, match="zero everywhere"):
        assert not perform(prober, PDA_MEAN, **marginal).maps.any()
    with pytest.warns(ExplainWarning, match="zero everywhere"):
        assert not perform(prober, PDA_SAMPLING, samples=3, **marginal).maps.any()


def linear(squash: str, seed: int = 1) -> tuple[onnx.ModelProto, Array, Array]:
    """p of a linear logit of x (N, 2, 6, 7): of two classes behind Softmax, of one behind Sigmoid. Also its weights (2,
    6, 7) and an input."""
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(84, 1)) / 8
    columns = np.concatenate([weight, np.zeros_like(weight)], axis=1) if squash == "Softmax" else weight
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["logits"]),
        helper.make_node(squash, ["logits"], ["p"]),
    ]
    parameters = {"w": columns.astype(np.float32)}
    model = model_of(nodes, {"x": ["N", 2, 6, 7]}, {"p": ["N", columns.shape[1]]}, parameters)
    return model, weight.reshape(2, 6, 7), rng.normal(size=(1, 2, 6, 7)).astype(np.float32)


@pytest.mark.parametrize("squash", ["Softmax", "Sigmoid"])
def test_closed_form(squash: str) -> None:
    """log odds of a linear logit are the logit: the map is the mean of w (x - x̃) / ln 2 over the windows. Laplace with
    N = 10^12 is below the float32 rounding of p, 1e-6 of these log odds."""
    model, weight, x = linear(squash)
    rng = np.random.default_rng(2)
    root = rng.normal(size=(2, L * L, L * L))
    g = Gaussian(rng.normal(size=(2, L * L)), root @ root.transpose(0, 2, 1) / 25, L)
    prober = Prober(model, x, Asked(threads=1))
    found = perform(prober, PDA_MEAN, [0], k=K, l=L, gaussian=g, laplace=10**12)
    places = corners((6, 7), K)
    means = Surroundings(g, prober.planes, (K, K)).means(places)
    part = [
        (weight[:, r : r + K, c : c + K] * (x[0, :, r : r + K, c : c + K] - m)).sum() / np.log(2)
        for (r, c), m in zip(places, means, strict=True)
    ]
    same(found.maps, average(places, K, np.array(part)[:, None], (6, 7)), 1e-5)


def test_the_order_of_windows_is_irrelevant() -> None:
    """Shuffled places: scores, and so the map, are the same but for the order of additions (float64)."""
    prober = golden("overlap_pool")
    places = corners(prober.size, K)
    values = np.random.default_rng(0).normal(size=(len(places), 2))
    order = np.random.default_rng(1).permutation(len(places))
    shuffled = average(places[order], K, values[order], prober.size)
    np.testing.assert_allclose(shuffled, average(places, K, values, prober.size), rtol=0, atol=1e-14)


@pytest.mark.parametrize("variant", ["conditional", "marginal"])
def test_samples_are_those_of_the_seed(variant: str) -> None:
    """Not of the batch: a copy is the same to the bit, its score to the rounding of a batch of another size."""
    data = stored("overlap_pool")
    asked: dict[str, Any] = {"k": K, "l": L, "samples": 3, "variant": variant}
    asked |= {"gaussian": fitted(data)} if variant == "conditional" else {"images": data["pda_images"]}
    maps = {
        (batch, seed): perform(golden("overlap_pool", batch=batch), PDA_SAMPLING, **asked, seed=seed).maps
        for batch, seed in ((5, 0), (32, 0), (32, 1))
    }
    same(maps[5, 0], maps[32, 0], 1e-5)
    assert np.abs(maps[32, 1] - maps[32, 0]).max() > 0.01 * np.abs(maps[32, 0]).max()


def test_marginal_draws() -> None:
    """Without replacement: with S = N every image is there once, and the order is forgotten by the mean."""
    data = stored("overlap_pool")
    asked: dict[str, Any] = {"k": K, "variant": "marginal", "images": data["pda_images"][:6], "samples": 6}
    prober = golden("overlap_pool")
    first = perform(prober, PDA_SAMPLING, **asked, pick="first").maps
    same(perform(prober, PDA_SAMPLING, **asked, seed=8).maps, first, 1e-5)


def test_many_samples_reach_the_integral() -> None:
    """The mean over the conditional normal of a sigmoid of one window's pixels, by quadrature: the logit is normal."""
    model, weight, x = linear("Sigmoid")
    rng = np.random.default_rng(2)
    root = rng.normal(size=(2, L * L, L * L))
    g = Gaussian(rng.normal(size=(2, L * L)), root @ root.transpose(0, 2, 1) / 25, L)
    prober = Prober(model, x, Asked(threads=1, batch=500))
    place, around = np.array([(2, 3)]), Surroundings(g, prober.planes, (K, K))
    mean, spread = around.means(place)[0], around.offset(*(place - around.corners(place))[0]).spread
    part = weight[:, 2 : 2 + K, 3 : 3 + K].reshape(2, -1)
    centre = (weight * x[0]).sum() + (part * (mean - x[0, :, 2 : 2 + K, 3 : 3 + K]).reshape(2, -1)).sum()
    deviation = np.sqrt(np.einsum("ga,gab,gb->", part, spread, part))
    nodes, chances = np.polynomial.hermite_e.hermegauss(60)
    values = 1 / (1 + np.exp(-(centre + deviation * nodes)))
    expected = values @ chances / chances.sum()
    draws = around.samples(place, 4000, lambda r, c: np.random.default_rng(1))[0].astype(np.float32)
    found = prober.windows(np.repeat(place, 4000, axis=0), (K, K), draws.__getitem__, [0])
    assert found.std() > 0.02, "the window does change the score"
    assert abs(found.mean() - expected) < 5 * found.std() / np.sqrt(4000)  # five standard errors


def test_certain_classes() -> None:
    """p = 0 and p = 1 to the last bit: finite, and of the right sign."""
    odds = log_odds([0.0, 0.5, 1.0], 2, 100_000)
    assert np.isfinite(odds).all() and odds[1] == 0 and odds[0] == -odds[2] == -np.log2(100_001)
    assert log_odds(0.25, 1000, 10**5) == pytest.approx(np.log2(25_001) - np.log2(75_000 + 999), abs=1e-12)
    assert np.isfinite(log_odds([0.0, 1.0, 1.0 + 1e-6], 1, 1)).all(), "one probability is one of two classes"
    model, weight, _ = linear("Softmax")
    sure = (1000 * np.sign(weight))[None].astype(np.float32)
    prober = Prober(model, sure, Asked(threads=1))
    assert prober.base.tolist() == [1.0, 0.0]
    found = perform(prober, PDA_MEAN, [0, 1], k=6, variant="marginal", images=-2 * sure).maps
    assert np.isfinite(found).all() and (found[0] > 30).all() and np.array_equal(found[1], -found[0])


def test_hidden_units() -> None:
    """The score of a tensor, or a logit, is compared by its difference: w (x - x̃) of each, exactly linear."""
    model, weight, x = linear("Softmax")
    images = np.random.default_rng(3).normal(size=(4, 2, 6, 7)).astype(np.float32)
    places = corners((6, 7), K)
    gap = x[0] - images.mean(0)
    part = np.array([(weight * gap)[:, r : r + K, c : c + K].sum() for r, c in places])
    expected = average(places, K, part[:, None], (6, 7))
    for score in ("logits", "logit"):
        prober = Prober(model, x, Asked(score=score, threads=1))
        found = perform(prober, PDA_MEAN, [0], k=K, variant="marginal", images=images)
        same(found.maps, expected, 1e-5)
        found = perform(prober, PDA_SAMPLING, [0], k=K, variant="marginal", images=images, samples=4)
        same(found.maps, expected, 1e-5)
        with pytest.raises(OptionError, match=r"those of probabilities.*odds=difference"):
            perform(prober, PDA_MEAN, [0], k=K, variant="marginal", images=images, odds="log2-odds")
    prober = Prober(model, x, Asked(score="flat", threads=1))
    found = perform(prober, PDA_MEAN, [5], k=1, variant="marginal", images=images)
    only = np.zeros((1, 6, 7))
    only[0, 0, 5] = gap[0, 0, 5]
    same(found.maps, only, 1e-6)


def test_strides() -> None:
    """The last window is shifted inside; every pixel is covered, once where the stride is the window."""
    assert corners((8, 5), 3, 2).tolist() == [[r, c] for r in (0, 2, 4, 5) for c in (0, 2)]
    assert corners((7, 7), 7, 3).tolist() == [[0, 0]]
    for size, k, stride in (((9, 11), 4, 3), ((10, 9), 3, 3), ((5, 6), 5, 2)):
        places = corners(size, k, stride)
        covered = np.zeros(size, int)
        for r, c in places:
            assert 0 <= r <= size[0] - k and 0 <= c <= size[1] - k
            covered[r : r + k, c : c + k] += 1
        assert covered.min() >= 1
        assert np.array_equal(average(places, k, np.ones((len(places), 1)), size)[0], np.ones(size))
    data, prober = stored("overlap_pool"), golden("overlap_pool")
    found = perform(prober, PDA_SAMPLING, k=K, l=L, stride=2, samples=2, gaussian=fitted(data))
    assert found.forwards == 2 * 4 * 4 == found.record["expected_forwards"]


class Watched(Prober):
    """Keeps every fill that was put in."""

    seen: list[Array]

    def windows(
        self,
        places: Places,
        size: tuple[int, int],
        fills: Fills,
        classes: Sequence[int] | None = None,
        tell: Progress | None = None,
        cone: Incremental | None = None,
    ) -> npt.NDArray[np.float32]:
        self.seen = [fills(np.arange(len(places)))]
        return super().windows(places, size, fills, classes, tell, cone)


def test_samples_are_clipped() -> None:
    data = stored("cnn_bias")
    prober = Watched(GOLDEN / "cnn_bias.onnx", data["x"].astype(np.float32), Asked(threads=1))
    g = fitted(data, np.full((2, 8, 8), -0.2), np.full((2, 8, 8), 0.3))
    perform(prober, PDA_SAMPLING, k=K, l=L, samples=2, gaussian=g)
    (values,) = prober.seen
    assert values.shape == (72, 2, K, K)
    assert values.min() == np.float32(-0.2) and values.max() == np.float32(0.3)


def test_a_real_net() -> None:
    """LeNet, a Gaussian fitted on 200 digits: what is inked speaks for the digit more than the empty border."""
    digits = models.digits()[0][:201]
    x = (digits[:, None] / 255.0).astype(np.float32)
    g = fit_gaussian(x[1:], Patches(10, 2000), raw_input=True)
    prober = Prober(models.path("mnist_lenet"), x[:1], Asked(threads=1))
    found = perform(prober, PDA_SAMPLING, k=4, l=10, stride=2, samples=4, gaussian=g)
    assert found.forwards == 4 * 13 * 13
    ink = np.abs(found.maps[0])[digits[0] > 128].mean()
    assert ink > 3 * np.abs(found.maps[0][:, :2]).mean()


def test_refusals() -> None:
    data = stored("cnn_bias")
    g, images = fitted(data), data["pda_images"]
    prober = golden("cnn_bias")
    conditional: dict[str, Any] = {"k": K, "l": L, "gaussian": g}
    marginal: dict[str, Any] = {"k": K, "variant": "marginal", "images": images}
    tiny = Gaussian(np.zeros((2, 81)), np.stack([np.eye(81)] * 2), 9)
    other = Gaussian(g.mu, g.cov, L, np.zeros((2, 9, 8)), np.ones((2, 9, 8)))
    one = Gaussian(g.mu[:1], g.cov[:1], L)
    both: list[tuple[dict[str, Any], str]] = [
        ({}, "needs gaussian=FILE"),
        ({"gaussian": "g.npz"}, "gaussian is str"),
        ({"gaussian": g}, "l is 18, the Gaussian is one of patches of 5; set l=5"),
        ({**conditional, "k": 6}, "outer patch, l=5, is smaller than the window, k=6"),
        ({"k": K, "l": 9, "gaussian": tiny}, "9 x 9, does not fit the image, 8 x 8"),
        ({**conditional, "gaussian": other}, "pictures of 9 x 8, the image is 8 x 8"),
        ({**conditional, "gaussian": one}, "1 channels, the image has 2"),
        ({**conditional, "stride": 4}, "stride=4 is larger than k=3"),
        ({**conditional, "k": 0}, "k=0 is not a whole number"),
        ({**conditional, "laplace": 0}, "laplace=0"),
        ({**conditional, "odds": "odd"}, "odds='odd' is none of"),
        ({**marginal, "variant": "margin"}, "variant='margin'.*did you mean 'marginal'"),
        ({**marginal, "k": 9}, "k=9: the window is larger than the image, 8 x 8"),
        ({"k": K, "variant": "marginal"}, "needs images="),
        ({**marginal, "images": images[:, :1]}, r"\[1, 8, 8\] do not fit the image, \[2, 8, 8\]"),
        ({**marginal, "images": images[0]}, "is not .N, channels, height, width"),
        ({**marginal, "images": images * np.nan}, "NaN"),
    ]
    for given, reason in both:
        for technique in (PDA_MEAN, PDA_SAMPLING):
            with pytest.raises(OptionError, match=reason):
                perform(prober, technique, [0], **given)
    sampled: list[tuple[dict[str, Any], str]] = [
        ({**marginal, "images": images[:9]}, "samples=10 takes as many images, there are 9"),
        ({**marginal, "samples": 0}, "samples=0"),
        ({**marginal, "seed": -1}, "seed=-1"),
        ({**marginal, "pick": "last"}, "pick='last'"),
    ]
    for given, reason in sampled:
        with pytest.raises(OptionError, match=reason):
            perform(prober, PDA_SAMPLING, [0], **given)
    assert prober.forwards == 0, "refused before anything is run"


def test_a_gaussian_of_other_preprocessing() -> None:
    data = stored("cnn_bias")
    record = {"layout": "NHWC", "color": "RGB", "mean": [0.0, 0.0], "std": [255.0, 255.0]}
    g = Gaussian(data["pda_mu"], data["pda_cov"], L, provenance={"preprocessing": record})
    for mean, fits in (((0, 0), True), ((1, 0), False)):
        prober = golden("cnn_bias", preprocessing={"layout": "NCHW", "mean": mean})
        if fits:
            perform(prober, PDA_MEAN, k=K, l=L, gaussian=g)
        else:
            with pytest.raises(OptionError, match="prepared with mean"):
                perform(prober, PDA_MEAN, k=K, l=L, gaussian=g)


def test_channels_last() -> None:
    """A net of NHWC pictures gives the map of the same net of NCHW ones."""
    model, _, x = linear("Softmax")
    nodes = [helper.make_node("Transpose", ["y"], ["x"], perm=[0, 3, 1, 2]), *model.graph.node]
    weight = onnx.numpy_helper.to_array(model.graph.initializer[0])
    last = model_of(nodes, {"y": ["N", 6, 7, 2]}, {"p": ["N", 2]}, {"w": weight})
    images = np.random.default_rng(3).normal(size=(4, 2, 6, 7)).astype(np.float32)
    first = perform(Prober(model, x), PDA_MEAN, k=K, variant="marginal", images=images).maps
    asked = Asked(preprocessing={"layout": "NHWC"}, threads=1)
    found = perform(
        Prober(last, x.transpose(0, 2, 3, 1), asked), PDA_MEAN, k=K, variant="marginal", images=images
    )
    same(found.maps, first, 1e-6)
