"""LIME against golden copies, scikit-learn, Captum and closed forms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from onnxplain import ExplainWarning, OptionError
from onnxplain.runtime.perturb.backdrop import segment_means
from onnxplain.runtime.perturb.lime import LIME, fit, proximity, ridge, sample
from onnxplain.runtime.perturb.segments import grid_labels, switched
from onnxplain.runtime.perturb.technique import perform
from tests.runtime.perturb.masking import (
    CONVOLUTIONAL,
    IMAGE,
    SIZE,
    close,
    constant,
    golden,
    heard,
    linear,
    stored,
    torch_forward,
    weights,
)


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_golden(name: str) -> None:
    known = stored(name)
    on = known["lime_masks"].astype(bool)
    prober = golden(name, "probability")
    scores = switched(prober, on, known["lime_segments"], "segment", [int(known["y"].argmax())])
    found = fit(on, scores)
    close(found.weights, known["lime_weights"], 1e-6)
    close(found.beta[0], known["lime_beta"])
    close(found.intercept[0], known["lime_intercept"])


def _some(n: int = 60, d: int = 7) -> tuple[Any, Any]:
    rng = np.random.default_rng(4)
    return sample(d, n, 1), rng.normal(size=(n, 3)) + 5


@pytest.mark.parametrize("alpha", (0.0, 0.01, 1.0, 30.0))
def test_the_ridge_is_that_of_scikit_learn(alpha: float) -> None:
    linear_models = pytest.importorskip("sklearn.linear_model")
    on, y = _some()
    weights = proximity(on)
    beta, intercept = ridge(on.astype(float), y, weights, alpha)
    for c in range(3):
        model = linear_models.Ridge(alpha=alpha).fit(on.astype(float), y[:, c], sample_weight=weights)
        np.testing.assert_allclose(beta[c], model.coef_, rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(intercept[c], model.intercept_, rtol=1e-10)
        found = fit(on, y, alpha=alpha)
        np.testing.assert_allclose(
            found.r2[c], model.score(on.astype(float), y[:, c], sample_weight=weights), rtol=1e-8
        )


def test_the_ridge_is_a_minimum() -> None:
    """The gradient of the loss vanishes: Xᵀ w (y - b - X β) = alpha β, and the weighted residual has mean 0."""
    on, y = _some()
    x, w = on.astype(float), proximity(on)
    beta, intercept = ridge(x, y, w, 0.7)
    left = y - intercept - x @ beta.T
    np.testing.assert_allclose(x.T @ (w[:, None] * left), 0.7 * beta.T, atol=1e-11)
    np.testing.assert_allclose(w @ left, 0, atol=1e-11)


def test_the_kernel() -> None:
    on = np.array([[1, 1, 1, 1], [1, 0, 0, 0], [0, 0, 0, 0]], bool)
    np.testing.assert_allclose(proximity(on), np.exp(-(np.array([0, 0.5, 1]) ** 2) / (2 * 0.25**2)))
    np.testing.assert_allclose(proximity(on, 1.0), np.exp(-(np.array([0, 0.5, 1]) ** 2) / 2))


@pytest.mark.parametrize("name", ("cnn_bias", "concat"))
def test_captum_on_the_same_masks(name: str) -> None:
    captum, torch = pytest.importorskip("captum.attr"), pytest.importorskip("torch")
    pytest.importorskip("sklearn")
    models = pytest.importorskip("captum._utils.models.linear_model")
    known, prober = stored(name), golden(name, "probability")
    c, labels, on = int(known["y"].argmax()), known["lime_segments"], known["lime_masks"].astype(bool)
    means = torch.from_numpy(segment_means(prober.planes, labels))[None]

    def masks(*_: Any, **__: Any) -> Any:
        for row in on:
            yield torch.from_numpy(row[None].astype(np.float32))

    def blend(row: Any, x: Any, **_: Any) -> Any:
        keep = row[0][torch.from_numpy(labels)]
        return keep * x + (1 - keep) * means

    def kernel(_: Any, __: Any, row: Any, **___: Any) -> float:
        return float(proximity(row.numpy().astype(bool))[0])

    forward = torch_forward(prober, [c])
    found = captum.LimeBase(
        lambda x: forward(x)[:, 0],
        models.SkLearnRidge(alpha=1.0),
        kernel,
        masks,
        True,
        blend,
        None,
    ).attribute(torch.from_numpy(prober.image), n_samples=len(on))
    ours = fit(on, switched(prober, on, labels, "segment", [c]))
    close(ours.beta[0], found.numpy().ravel(), 1e-4)


@pytest.mark.parametrize("value", ("segment", 0.3, "mean"))
def test_a_linear_model_is_its_own_surrogate(value: Any) -> None:
    labels = grid_labels(SIZE[1:], 3)
    fill = {"segment": segment_means(IMAGE[0], labels), "mean": IMAGE[0].mean((1, 2), keepdims=True)}.get(
        value, value
    )
    found = perform(linear(), LIME, [0, 1], grid=3, n=200, alpha=0.0, value=value)
    for c in (0, 1):
        parts = (weights(c) * (IMAGE[0] - fill)).sum(0)
        close(found.maps[c], np.bincount(labels.ravel(), parts.ravel())[labels])
    notes = found.record["found"]
    assert notes["segments"] == 9 and len(notes["beta"][1]) == 9 and notes["r2"] == pytest.approx([1, 1])
    empty = (weights(0) * np.broadcast_to(fill, SIZE)).sum()
    assert notes["intercept"][0] == pytest.approx(empty, abs=1e-4 * np.abs(notes["beta"]).max())


def test_only_some_features() -> None:
    on = sample(6, 300, 0)
    y = on @ np.array([[3.0, 0, 0], [0, 2, 0], [-4, 0, 0], [0, 1, 0], [0.1, 5, 0], [0.2, 0.3, 0]])
    found = fit(on, y, alpha=1e-9, features=2)
    np.testing.assert_array_equal(found.beta[0] != 0, [1, 0, 1, 0, 0, 0])
    np.testing.assert_array_equal(found.beta[1] != 0, [0, 1, 0, 0, 1, 0])
    assert not found.beta[2].any() and found.r2[2] == 1
    alone = fit(on[:, [0, 2]], y[:, :1], alpha=1e-9)
    assert found.r2[0] < 1 and alone.beta.shape == (1, 2)  # refitted with the weights of all segments
    np.testing.assert_array_equal(fit(on, y, features=9).beta, fit(on, y).beta)


def test_a_constant_classifier_has_no_weights() -> None:
    with pytest.warns(ExplainWarning, match="zero everywhere in rows 0, 1 of 2"):
        found = perform(constant(), LIME, [0, 1], grid=3, n=50)
    assert not found.maps.any()
    assert found.record["found"]["intercept"] == pytest.approx([0.7, 0.7])


def test_the_sample() -> None:
    on = sample(20, 1000, 3)
    assert on[0].all() and on.dtype == bool and abs(on[1:].mean() - 0.5) < 5 * 0.5 / np.sqrt(20 * 999)
    np.testing.assert_array_equal(on, sample(20, 1000, 3))
    assert not np.array_equal(on, sample(20, 1000, 4))


def test_the_batch_does_not_matter() -> None:
    maps = [perform(golden("cnn_bias", batch=n), LIME, [0, 2], n=60, grid=3).maps for n in (1, 7, 64)]
    close(maps[1], maps[0])
    close(maps[2], maps[0])
    assert np.abs(perform(golden("cnn_bias"), LIME, [0, 2], n=60, grid=3, seed=1).maps - maps[0]).max() > 1e-3


def test_forwards_are_known_and_told() -> None:
    calls, tell = heard()
    found = perform(linear(batch=30), LIME, None, tell, n=50, grid=2)
    assert calls == [(30, 50), (50, 50)] and found.forwards == found.record["expected_forwards"] == 50


@pytest.mark.parametrize(
    ("settings", "words"),
    (
        ({"n": 10, "grid": 3}, "n=10 copies are too few for 9 segments; give 11 or more"),
        ({"n": 0}, "n=0"),
        ({"alpha": -1}, "alpha=-1"),
        ({"width": 0}, "width=0"),
        ({"features": 0}, "features=0"),
        ({"grid": 11}, "larger than the image"),
    ),
)
def test_bad_settings(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError) as error:
        perform(linear(), LIME, **settings)
    assert words in str(error.value)
