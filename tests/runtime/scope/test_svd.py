"""Singular values against numpy, and what is said when an iteration does not settle."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import onnxplain
from onnxplain import OptionError
from onnxplain.runtime.scope.svd import Overdriven, Settings, Svd, decompose
from tests.runtime.scope.golden import NETS, PICTURES, Array, opened, stored
from tests.runtime.small import WEIGHT, picture

SETTINGS = Settings(k=3, method="power", momentum=0.0, steps=500, tolerance=1e-4, seed=0)


@dataclass
class Matrix:
    """A dense F, and how often it was used."""

    f: Array
    products: int = 0

    @property
    def shape(self) -> tuple[int, int]:
        return self.f.shape[0], self.f.shape[1]

    def matmat(self, x: Array) -> Array:
        self.products += 1
        return np.asarray(self.f @ x)

    def rmatmat(self, y: Array) -> Array:
        return np.asarray(self.f.T @ y)


def spectrum(values: list[float], outputs: int = 30, inputs: int = 40) -> Matrix:
    rng = np.random.default_rng(1)
    u, v = (np.linalg.qr(rng.standard_normal((n, len(values))))[0] for n in (outputs, inputs))
    return Matrix(u * values @ v.T)


def settings(**changed: Any) -> Settings:
    return Settings(**{**vars(SETTINGS), **changed})


def holds(found: Svd, f: Array) -> None:
    """F v = σ u, F'u = σ v up to the residual, orthonormal, signs settled."""
    assert isinstance(found.inputs, np.ndarray)
    u, v = found.outputs.reshape(len(found.values), -1), found.inputs.reshape(len(found.values), -1)
    for basis in (u, v):
        np.testing.assert_allclose(basis @ basis.T, np.eye(len(basis)), atol=1e-5)
    size = found.values[0]
    np.testing.assert_allclose(v @ f.T, found.values[:, None] * u, atol=1e-5 * size)
    errors = np.linalg.norm(u @ f - found.values[:, None] * v, axis=1) / found.values
    np.testing.assert_allclose(errors, found.residuals, atol=1e-5 * size / found.values[-1])
    assert all(row[np.abs(row).argmax()] > 0 for row in u)


SOME = ("cnn_bias", "attention", *PICTURES)
WAYS = [
    *((name, {}) for name in NETS + PICTURES),
    *((name, {"momentum": "auto"}) for name in SOME),
    *((name, {"method": "lanczos"}) for name in SOME),
]


@pytest.mark.parametrize("name, options", WAYS)
def test_against_numpy(name: str, options: dict[str, Any]) -> None:
    """1e-5: float32 products, and σ is as good as the square of the residual."""
    if "method" in options:
        pytest.importorskip("scipy")
    f = stored(name)["scope_F"].astype(np.float64)
    exact = np.linalg.svd(f, compute_uv=False)
    k = min(4, min(f.shape) - (1 if "method" in options else 0))
    found = opened(name).svd(k, steps=400, **options)
    assert found.converged.all() and not found.warnings
    np.testing.assert_allclose(found.values, exact[:k], rtol=1e-5)
    holds(found, f)


def test_shapes_and_what_it_cost() -> None:
    found = opened("sr").svd(3, momentum="auto")
    assert isinstance(found.inputs, np.ndarray)
    assert found.inputs.shape == (3, 1, 5, 5) and found.outputs.shape == (3, 1, 10, 10)
    assert found.inputs.dtype == found.outputs.dtype == np.float32
    assert (found.steps > 0).all() and (found.steps < 200).all() and (found.momentum > 0).all()
    assert (np.diff(found.values) <= 0).all()


def test_the_same_seed_gives_the_same() -> None:
    a = opened("cnn_bias")
    one, two = a.svd(2, seed=5), a.svd(2, seed=5)
    np.testing.assert_array_equal(one.outputs, two.outputs)


def test_momentum_saves_steps() -> None:
    """σ = 1, 0.98, ...: 163 steps without and 33 with the best momentum (docs/methods/linearscope.md)."""
    values = [1.0, 0.98, *np.linspace(0.9, 0.1, 18)]
    plain, best = (decompose(spectrum(values), settings(k=1, momentum=m)) for m in (0.0, 0.98**4 / 4))
    assert plain.values[0] == pytest.approx(1.0, rel=1e-6) and best.values[0] == pytest.approx(1.0, rel=1e-6)
    assert best.steps[0] < plain.steps[0] / 3


def test_automatic_momentum_stays_below_its_bound() -> None:
    found = decompose(spectrum([1.0, 0.98, *np.linspace(0.9, 0.1, 18)]), settings(k=2, momentum="auto"))
    np.testing.assert_allclose(found.values, [1.0, 0.98], rtol=1e-6)
    assert 0.5 * 0.98**4 / 4 < found.momentum[0] < 1.0 / 4 and not found.warnings


def test_a_momentum_that_is_too_large_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        found = decompose(spectrum([2.0, 1.0, 0.5]), settings(k=1, momentum=4.5, steps=80))
    (warning,) = found.warnings
    assert isinstance(warning, Overdriven) and warning.triplet == 0 and warning.momentum == 4.5
    assert warning.limit <= 4.0 and found.residuals[0] > 1e-4
    assert "momentum 4.5 is not below" in str(warning) and str(warning) in caplog.text


def test_a_momentum_just_below_converges() -> None:
    found = decompose(spectrum([2.0, 1.0, 0.5]), settings(k=1, momentum=3.9))
    assert not found.warnings and found.values[0] == pytest.approx(2.0, rel=1e-6)


def test_too_few_steps_are_said_by_converged() -> None:
    found = opened("i2i").svd(2, steps=2)
    assert not found.converged.all() and (found.steps == 2).all() and not found.warnings
    assert (found.residuals[~found.converged] > 1e-3).all()


def test_equal_values_span_one_space() -> None:
    matrix = spectrum([3.0, 3.0, 1.0, 0.5])
    found = decompose(matrix, settings(k=2))
    np.testing.assert_allclose(found.values, [3.0, 3.0], rtol=1e-7)
    exact = np.linalg.svd(matrix.f)[2][:2]
    np.testing.assert_allclose(np.linalg.svd(exact @ np.stack(found.v).T)[1], 1.0, atol=1e-4)


@pytest.mark.parametrize("method", ["power", "lanczos"])
def test_rank_deficiency(method: str) -> None:
    if method == "lanczos":
        pytest.importorskip("scipy")
    found = decompose(spectrum([2.0, 1.0]), settings(k=4, method=method))
    np.testing.assert_allclose(found.values, [2.0, 1.0], rtol=1e-6)


def test_a_zero_matrix_has_no_triplets() -> None:
    assert decompose(Matrix(np.zeros((4, 5))), settings(k=2)).values == []
    assert decompose(Matrix(np.zeros((4, 5))), settings(k=2, momentum="auto")).values == []


def test_all_of_them() -> None:
    a = onnxplain.Interpreter(picture(), np.ones((1, 2, 3, 4)))
    np.testing.assert_allclose(a.svd(5).values, np.linalg.svd(WEIGHT)[1], rtol=1e-5)


@pytest.mark.parametrize("method", ["power", "lanczos"])
def test_progress_ends_at_the_total(method: str) -> None:
    if method == "lanczos":
        pytest.importorskip("scipy")
    seen: list[tuple[int, int]] = []
    decompose(spectrum([2.0, 1.5, 1.0, 0.1]), settings(k=2, method=method), lambda *at: seen.append(at))
    done = [at[0] for at in seen]
    assert done == sorted(done) and seen[-1][0] == seen[-1][1] and len({at[1] for at in seen}) == 1


@pytest.mark.parametrize(
    "changed, text",
    [
        ({"k": 0}, "k is 0; F is 30 x 40, power gives 1 to 30"),
        ({"k": 31}, "k is 31"),
        ({"k": 30, "method": "lanczos"}, "lanczos gives 1 to 29"),
        ({"method": "jacobi"}, "method 'jacobi'"),
        ({"momentum": "best"}, "momentum is 'best'"),
        ({"momentum": -0.1}, "must not be negative"),
        ({"momentum": float("nan")}, "must not be negative"),
        ({"momentum": 0.1, "method": "lanczos"}, "belongs to method='power'"),
        ({"steps": 0}, "steps is 0"),
        ({"tolerance": 0.0}, "tolerance is 0.0"),
    ],
)
def test_settings_without_meaning(changed: dict[str, Any], text: str) -> None:
    with pytest.raises(OptionError, match=text):
        decompose(spectrum([2.0, 1.0]), settings(**changed))


def test_without_scipy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "scipy.sparse.linalg", None)
    with pytest.raises(
        OptionError, match=r"needs scipy, which is not installed; run `pip install onnxplain\[scope\]`"
    ):
        opened("sr").svd(2, method="lanczos")


def test_lanczos_that_does_not_converge_is_said() -> None:
    pytest.importorskip("scipy")
    matrix = spectrum(list(np.linspace(1.0, 0.99, 30)), 200, 300)
    with pytest.raises(OptionError, match="did not converge in 1 restarts"):
        decompose(matrix, settings(k=3, method="lanczos", steps=1, tolerance=1e-6))
