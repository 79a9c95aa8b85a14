"""Singular value decomposition of F without F: power iteration with momentum and deflation, or Lanczos.

Navarrete et al., Algorithm 1, corrected (docs/methods/linearscope.md, "Singular vectors").
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import Any, Protocol

import numpy as np

from ...rewriter.errors import OptionError, nearest
from ..lanes import Progress
from .layout import Array, Tensors

_LOG = logging.getLogger(__name__)

METHODS = ("power", "lanczos")
BLOCK_STEPS = 20
"""Steps of the two-vector iteration that finds an automatic momentum."""
CAUTION = 0.81
"""The automatic momentum over its optimum σ₂⁴/4, as σ₂ is only estimated: 0.9 of σ₂².
Measured in docs/methods/linearscope.md, "Singular vectors"."""
SAFELY = 0.5
"""Of the tolerance, for each triplet: the others spoil it a little."""
ZERO = 1e-6
"""Of the largest singular value: below it a value is rounding of float32, and F has no more of them."""


class Operator(Protocol):
    """What the iteration needs: products with F and F', on columns."""

    @property
    def shape(self) -> tuple[int, int]: ...
    def matmat(self, x: Array) -> Array: ...
    def rmatmat(self, y: Array) -> Array: ...


@dataclass(frozen=True)
class Overdriven:
    """A momentum m at or above σ⁴/4: the iteration then turns for ever and never settles."""

    triplet: int
    momentum: float
    limit: float

    def __str__(self) -> str:
        return (
            f"triplet {self.triplet}: momentum {self.momentum:.4g} is not below σ⁴/4 = {self.limit:.4g} and keeps it "
            "from converging; give less, or momentum='auto'"
        )


@dataclass(frozen=True)
class Svd:
    """F ≈ Σ σ_i u_i v_i', the largest σ first; each u_i has its entry of largest magnitude positive.

    values (k,); inputs (k, *x) the v_i (eigen-inputs; a dict where several inputs are explained); outputs (k, *y) the
    u_i (eigen-outputs); residuals (k,) ‖F'u - σv‖ / σ; steps (k,) products with F'F
    that each took, in the order in which they were found (lanczos: those of all); converged (k,): whether the residual
    reached the tolerance. momentum (k,), in that order too: what was used; warnings: where it was too large.
    Fewer than k where F has a lower rank. Of nearly equal σ only the space that their vectors span is determined.
    """

    values: Array
    inputs: Tensors
    outputs: Array
    residuals: Array
    steps: Array
    converged: Array
    momentum: Array
    warnings: tuple[Overdriven, ...] = ()


@dataclass
class Found:
    """Triplets so far, flat: u (N,), v (n,) in float64."""

    values: list[float] = field(default_factory=list)
    u: list[Array] = field(default_factory=list)
    v: list[Array] = field(default_factory=list)
    residuals: list[float] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    momentum: list[float] = field(default_factory=list)
    warnings: list[Overdriven] = field(default_factory=list)

    def add(self, value: float, u: Array, v: Array, residual: float, steps: int, momentum: float) -> None:
        self.values.append(value)
        self.u.append(u)
        self.v.append(v)
        self.residuals.append(residual)
        self.steps.append(steps)
        self.momentum.append(momentum)


@dataclass(frozen=True)
class Settings:
    k: int
    method: str
    momentum: float | str
    steps: int
    tolerance: float
    seed: int

    def vet(self, shape: tuple[int, int]) -> None:
        """OptionError for what has no meaning."""
        if self.method not in METHODS:
            raise OptionError(f"svd: method {self.method!r}{nearest(self.method, METHODS)}; power or lanczos")
        most = min(shape) - (self.method == "lanczos")
        if isinstance(self.k, bool) or not 1 <= self.k <= most:
            raise OptionError(
                f"svd: k is {self.k}; F is {shape[0]} x {shape[1]}, {self.method} gives 1 to {most}"
            )
        if self.steps < 1:
            raise OptionError(f"svd: steps is {self.steps}; give at least 1")
        if not 0.0 < self.tolerance < 1.0:
            raise OptionError(f"svd: tolerance is {self.tolerance}; give a number between 0 and 1")
        if isinstance(self.momentum, str) and self.momentum != "auto":
            raise OptionError(f"svd: momentum is {self.momentum!r}; give 'auto' or a number in units of σ⁴")
        if not isinstance(self.momentum, str) and not 0.0 <= self.momentum < np.inf:
            raise OptionError(f"svd: momentum is {self.momentum}; it must not be negative")
        if self.method == "lanczos" and self.momentum != 0.0:
            raise OptionError("svd: momentum belongs to method='power'")


def decompose(a: Operator, settings: Settings, progress: Progress | None = None) -> Found:
    """k triplets of largest σ, sorted. Raises OptionError."""
    settings.vet(a.shape)
    tell = progress or (lambda done, total: None)
    found = lanczos(a, settings, tell) if settings.method == "lanczos" else power(a, settings, tell)
    for warning in found.warnings:
        _LOG.warning("%s", warning)
    return polished(a, found) if found.v else found


def polished(a: Operator, found: Found) -> Found:
    """The best triplets in the span of the v_j (Rayleigh-Ritz), sorted, signs settled, and their residuals with the
    whole of F: what deflation with unfinished triplets spoils is put right."""
    v = np.linalg.qr(np.stack(found.v, axis=1))[0]
    u, values, turn = np.linalg.svd(np.asarray(a.matmat(v), np.float64), full_matrices=False)
    v = v @ turn.T
    signs = np.where(np.take_along_axis(u, np.abs(u).argmax(axis=0)[None], axis=0)[0] < 0, -1.0, 1.0)
    u, v = u * signs, v * signs
    errors = np.linalg.norm(np.asarray(a.rmatmat(u), np.float64) - v * values, axis=0) / values
    return replace(found, values=list(values), u=list(u.T), v=list(v.T), residuals=list(errors))


@dataclass(frozen=True)
class Deflated:
    """F - Σ σ_j u_j v_j', in both directions, and against what rounding leaves of the v_j."""

    a: Operator
    found: Found

    def forward(self, x: Array) -> Array:
        """F x less what is known; x (n, K)."""
        return self._less(self.a.matmat(x), self.found.u, self.found.v, x)

    def back(self, y: Array) -> Array:
        """F'y less what is known; y (N, K)."""
        return self.apart(self._less(self.a.rmatmat(y), self.found.v, self.found.u, y))

    def apart(self, x: Array) -> Array:
        """x without its components along the v_j."""
        for v in self.found.v:
            x = x - np.outer(v, v @ x)
        return x

    def _less(self, made: Array, left: list[Array], right: list[Array], x: Array) -> Array:
        made = np.asarray(made, np.float64)
        for sigma, a, b in zip(self.found.values, left, right, strict=True):
            made = made - sigma * np.outer(a, b @ x)
        return made


def power(a: Operator, settings: Settings, tell: Progress) -> Found:
    """One triplet after the other: v <- F'F v - m v_before, unit after every step. Stops at the tolerance or after
    `steps`; progress counts the steps, those saved included."""
    found, draw = Found(), np.random.default_rng(settings.seed)
    for i in range(settings.k):
        deflated = Deflated(a, found)

        def step(count: int, base: int = i * settings.steps) -> None:
            tell(base + min(count, settings.steps - 1), settings.k * settings.steps)

        start = draw.standard_normal((a.shape[1], 2))
        momentum, used = settings.momentum, 0
        if momentum == "auto":
            start, momentum, used = block(deflated, start, settings, step)
        sigma, u, v, residual, count, peak = iterate(
            deflated, start[:, 0], float(momentum), used, settings, step
        )
        if sigma <= ZERO * max(found.values, default=0.0) or sigma == 0.0:
            _LOG.warning("F has rank %d only: %d triplets of %d", i, i, settings.k)
            break
        if residual > settings.tolerance and float(momentum) >= peak**2 / 4:
            found.warnings.append(Overdriven(i, float(momentum), peak**2 / 4))
        found.add(sigma, u, v, residual, count, float(momentum))
    tell(settings.k * settings.steps, settings.k * settings.steps)
    return found


def iterate(
    a: Deflated, v: Array, m: float, used: int, settings: Settings, step: Callable[[int], None]
) -> tuple[float, Array, Array, float, int, float]:
    """(σ, u, v, residual, steps, largest ‖F v‖² seen); u and the residual belong to the v that is returned."""
    v = _unit(a.apart(v[:, None]))
    before, peak = np.zeros_like(v), 0.0
    while True:
        y = a.forward(v)
        sigma = float(np.linalg.norm(y))
        if sigma == 0.0:
            return 0.0, y[:, 0], v[:, 0], 0.0, used, peak
        w = a.back(y)
        peak, used = max(peak, sigma**2), used + 1
        residual = float(np.linalg.norm(w - sigma**2 * v)) / sigma**2
        step(used)
        if residual <= SAFELY * settings.tolerance or used >= settings.steps:
            return sigma, y[:, 0] / sigma, v[:, 0], residual, used, peak
        w = a.apart(w - m * before)
        length = float(np.linalg.norm(w))
        before, v = v / length, w / length


def block(
    a: Deflated, start: Array, settings: Settings, step: Callable[[int], None]
) -> tuple[Array, float, int]:
    """(start vectors, momentum, steps): two vectors iterated together; of their Ritz values λ₁ >= λ₂ = σ₂² the second
    gives the momentum 0.81 λ₂² / 4."""
    q, second, used = np.linalg.qr(a.apart(start))[0], 0.0, 0
    for used in range(1, min(BLOCK_STEPS, settings.steps // 2) + 1):
        y = a.forward(q)
        values, turn = np.linalg.eigh(y.T @ y)  # Ritz pairs of F'F in this plane, ascending
        second, w = float(max(values[0], 0.0)), a.back(y) @ turn[:, ::-1]
        q = q @ turn[:, ::-1]
        step(used)
        residual = float(np.linalg.norm(w[:, 0] - values[1] * q[:, 0]))
        if values[1] <= 0.0 or residual <= SAFELY * settings.tolerance * values[1]:
            break
        q = np.linalg.qr(w)[0]
    return q, CAUTION * second**2 / 4, used


def lanczos(a: Operator, settings: Settings, tell: Progress) -> Found:
    """ARPACK on F'F or FF', whichever is smaller, through scipy, in float64 around products in float32; `steps` bounds
    its restarts. OptionError without scipy, and where it did not converge."""
    linalg = sparse_linalg("svd(method='lanczos')")
    count = 0

    def counted(product: Callable[[Array], Array]) -> Callable[[Array], Array]:
        def run(x: Array) -> Array:
            nonlocal count
            count += 1
            tell(min(count, 2 * settings.steps - 1), 2 * settings.steps)
            return np.asarray(product(x.reshape(len(x), -1)), np.float64)

        return run

    forward, back = counted(a.matmat), counted(a.rmatmat)
    operator = linalg.LinearOperator(
        a.shape, matvec=forward, rmatvec=back, matmat=forward, rmatmat=back, dtype=np.float64
    )
    start = np.random.default_rng(settings.seed).standard_normal(min(a.shape))
    try:
        u, values, vt = linalg.svds(
            operator, k=settings.k, v0=start, tol=settings.tolerance**2, maxiter=settings.steps
        )
    except linalg.ArpackError as error:
        raise OptionError(
            f"svd: lanczos did not converge in {settings.steps} restarts ({error}); allow more steps or a larger "
            "tolerance"
        ) from error
    keep = values > ZERO * values.max(initial=0.0)
    tell(2 * settings.steps, 2 * settings.steps)
    kept = int(keep.sum())
    return Found(
        list(values[keep]), list(u.T[keep]), list(vt[keep]), [0.0] * kept, [count // 2] * kept, [0.0] * kept
    )


def sparse_linalg(what: str) -> Any:
    """scipy.sparse.linalg. OptionError, naming the extra, where it is not installed."""
    try:
        return import_module("scipy.sparse.linalg")
    except ImportError as error:
        raise OptionError(
            f"{what} needs scipy, which is not installed; run `pip install onnxplain[scope]`"
        ) from error


def _unit(x: Array) -> Array:
    return np.asarray(x / np.linalg.norm(x))


__all__ = ["Overdriven", "Settings", "Svd", "decompose"]
