"""KernelSHAP against Shapley values by brute force, the shap package and Captum."""

from __future__ import annotations

import math
from itertools import combinations, permutations
from typing import Any

import numpy as np
import pytest

from onnxplain import ExplainWarning, OptionError
from onnxplain.runtime.perturb.kernel_shap import KERNEL_SHAP, coalitions, shapley
from onnxplain.runtime.perturb.segments import grid_labels, switched
from onnxplain.runtime.perturb.technique import perform
from tests.runtime.perturb.masking import (
    IMAGE,
    SIZE,
    Array,
    close,
    constant,
    golden,
    heard,
    linear,
    torch_forward,
    weights,
)


def _game(d: int) -> Any:
    """A set function with interactions of all orders, on rows (m, d): (m, 2)."""
    rng = np.random.default_rng(d)
    a, b = rng.normal(size=(d, 5)), rng.normal(size=(5, 2))
    return lambda on: np.tanh(np.asarray(on, float) @ a) @ b


def _brute(d: int, value: Any) -> Array:
    """φ_i = Σ_S |S|! (d - |S| - 1)! / d! (v(S + i) - v(S)), over every S without i; (classes, d)."""
    found = np.zeros((d, 2))
    for i in range(d):
        others = [j for j in range(d) if j != i]
        for size in range(d):
            for chosen in combinations(others, size):
                row = np.zeros((1, d))
                row[0, list(chosen)] = 1
                more = row.copy()
                more[0, i] = 1
                share = math.factorial(size) * math.factorial(d - size - 1) / math.factorial(d)
                found[i] += share * (value(more) - value(row))[0]
    return found.T


def _solved(d: int, value: Any, n: int, seed: int = 0) -> Array:
    of = coalitions(d, n, seed)
    return shapley(of, value(of.on), value(np.ones((1, d)))[0], value(np.zeros((1, d)))[0])


@pytest.mark.parametrize("d", range(1, 9))
def test_all_coalitions_give_shapley_values(d: int) -> None:
    value = _game(d)
    of = coalitions(d, 2**d)
    assert of.exact and len(np.unique(of.on, axis=0)) == 2**d - 2
    np.testing.assert_allclose(_solved(d, value, 2**d), _brute(d, value), atol=1e-12)


@pytest.mark.parametrize("d", (4, 5, 8))
def test_weights_are_the_kernel(d: int) -> None:
    of = coalitions(d, 2**d)
    k = of.on.sum(1)
    known = (d - 1) / (np.array([math.comb(d, i) for i in k]) * k * (d - k))
    np.testing.assert_allclose(of.weights, known / known.sum(), rtol=1e-12)


@pytest.mark.parametrize(("d", "n"), ((10, 60), (20, 400), (64, 2048), (64, 128), (9, 18), (300, 700)))
def test_some_coalitions(d: int, n: int) -> None:
    of = coalitions(d, n, 5)
    assert not of.exact and 2 * d <= len(of.on) <= n and of.weights.sum() == pytest.approx(1)
    assert len(np.unique(of.on, axis=0)) == len(of.on) and of.on.any(1).all() and not of.on.all(1).any()
    rows = {row.tobytes(): weight for row, weight in zip(of.on, of.weights, strict=True)}
    assert all(rows[(~row).tobytes()] == rows[row.tobytes()] for row in of.on)
    np.testing.assert_array_equal(of.on, coalitions(d, n, 5).on)
    sizes = of.on.sum(1)
    assert (sizes == 1).sum() == (sizes == d - 1).sum() == d
    if n > 3 * d:
        share = of.weights[(sizes == 1) | (sizes == d - 1)].sum()
        k = np.arange(1, d)
        assert share == pytest.approx(2 / (d - 1) / (1 / (k * (d - k))).sum())
        assert not np.array_equal(of.on, coalitions(d, n, 6).on)


def test_some_coalitions_come_near() -> None:
    """12 segments have 4094 coalitions; a quarter of them leaves a small error, and more leave less."""
    d, value = 12, _game(12)
    known = _solved(d, value, 2**d)
    size = np.abs(known).max()
    few, many = (
        np.mean([np.abs(_solved(d, value, n, seed) - known).max() for seed in range(5)]) for n in (60, 1000)
    )
    assert many < 0.05 * size and many < few


@pytest.mark.parametrize("n", (24, 60, 200))
def test_an_additive_game_is_exact_from_few(n: int) -> None:
    weight = np.random.default_rng(1).normal(size=(12, 2))
    found = _solved(12, lambda on: np.asarray(on, float) @ weight + 3, n)
    np.testing.assert_allclose(found, weight.T, atol=1e-12)


@pytest.mark.parametrize("n", (24, 70, 5000))
def test_values_add_up_exactly(n: int) -> None:
    value = _game(12)
    change = value(np.ones((1, 12)))[0] - value(np.zeros((1, 12)))[0]
    np.testing.assert_allclose(_solved(12, value, n).sum(1), change, rtol=0, atol=1e-14 * 100)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("d", (3, 6, 9))
def test_the_shap_package(d: int) -> None:
    shap = pytest.importorskip("shap")
    value = _game(d)
    known = shap.KernelExplainer(value, np.zeros((1, d)), silent=True).shap_values(
        np.ones((1, d)), nsamples=2**d, l1_reg=0, silent=True
    )
    np.testing.assert_allclose(_solved(d, value, 2**d), np.asarray(known)[0].T, atol=1e-9)


@pytest.mark.parametrize("name", ("cnn_bias", "concat"))
def test_captum_shapley_values_of_a_net(name: str) -> None:
    """Captum's ShapleyValues goes through every order of 4 segments: 24 of them, so the mean is exact."""
    captum, torch = pytest.importorskip("captum.attr"), pytest.importorskip("torch")
    prober = golden(name, "probability")
    labels = grid_labels(prober.size, 2)

    def every(count: int, _: int) -> Any:
        return permutations(range(count))

    sampler = captum.ShapleyValueSampling(torch_forward(prober))
    sampler.permutation_generator = every
    known = sampler.attribute(
        torch.from_numpy(prober.image),
        baselines=0.1,
        target=1,
        feature_mask=torch.from_numpy(labels)[None, None],
        n_samples=24,
    )
    found = perform(prober, KERNEL_SHAP, [1], grid=2, value=0.1)
    assert found.record["found"]["exact"] and found.forwards == found.record["expected_forwards"] == 15
    close(found.maps[0], known.numpy()[0, 0])


def test_a_net_by_brute_force() -> None:
    prober = golden("resnet", "probability")
    rows = np.arange(8) * 2 // 8
    labels = rows[:, None] * 3 + np.arange(8) * 3 // 8
    assert labels.max() == 5

    def value(on: Array) -> Array:
        return switched(prober, on.astype(bool), labels, "segment", [0, 2])

    known = _brute(6, value)
    found = perform(golden("resnet", "probability"), KERNEL_SHAP, [0, 2], segments=labels)
    close(found.maps, known[:, labels])
    np.testing.assert_allclose(np.array(found.record["found"]["phi"]), known, atol=1e-4 * np.abs(known).max())


def test_a_linear_model() -> None:
    labels = grid_labels(SIZE[1:], 4)
    found = perform(linear(), KERNEL_SHAP, [0, 1], grid=4, n=40, value=0.3)
    for c in (0, 1):
        parts = (weights(c) * (IMAGE[0] - 0.3)).sum(0)
        close(found.maps[c], np.bincount(labels.ravel(), parts.ravel())[labels])
    assert not found.record["found"]["exact"]


def test_one_segment_has_it_all() -> None:
    found = perform(linear(), KERNEL_SHAP, [0], grid=1, value=0.0)
    close(found.maps[0], np.full(SIZE[1:], (weights(0) * IMAGE[0]).sum()), 1e-5)
    assert found.forwards == 1


def test_a_constant_classifier_has_no_values() -> None:
    for n in (18, 2048):
        with pytest.warns(ExplainWarning, match="zero everywhere in rows 0, 1 of 2"):
            assert not perform(constant(), KERNEL_SHAP, [0, 1], grid=3, n=n).maps.any()


def test_the_batch_does_not_matter() -> None:
    maps = [perform(golden("cnn_bias", batch=b), KERNEL_SHAP, [0, 2], n=60, grid=4).maps for b in (1, 7, 64)]
    close(maps[1], maps[0])
    close(maps[2], maps[0])
    other = perform(golden("cnn_bias"), KERNEL_SHAP, [0, 2], n=60, grid=4, seed=1).maps
    assert np.abs(other - maps[0]).max() > 1e-3


def test_forwards_are_known_and_told() -> None:
    calls, tell = heard()
    found = perform(linear(batch=20), KERNEL_SHAP, None, tell, n=50, grid=3)
    assert found.forwards == found.record["expected_forwards"] == calls[-1][0] == calls[-1][1] <= 51


@pytest.mark.parametrize(
    ("settings", "words"),
    (
        ({"n": 17, "grid": 3}, "n=17 copies are too few for 9 segments; give 18 or more"),
        ({"n": 0}, "n=0"),
        ({"n": 5, "segments": np.repeat([0, 1, 2], 30).reshape(9, 10)}, "give 6 or more"),
        ({"grid": 11}, "larger than the image"),
    ),
)
def test_bad_settings(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError) as error:
        perform(linear(), KERNEL_SHAP, **settings)
    assert words in str(error.value)
