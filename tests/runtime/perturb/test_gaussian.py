"""The Gaussian of patches: conditional moments against dense formulas, files, and what does not fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from onnxplain.rewriter.errors import OptionError
from onnxplain.runtime.perturb.gaussian import (
    Gaussian,
    Surroundings,
    load_gaussian,
    save_gaussian,
)

Array = npt.NDArray[np.float64]
PATCH, WINDOW = 5, (3, 2)
PLACES = np.array([(0, 0), (0, 6), (2, 3), (3, 3), (4, 1), (2, 5), (5, 6), (5, 0)])
"""Corners, borders and the inside of a picture of 8 x 8."""


def gaussian(joint: bool, channels: int = 2, bounds: bool = False) -> Gaussian:
    rng = np.random.default_rng(3)
    groups, size = (1, channels * PATCH**2) if joint else (channels, PATCH**2)
    root = rng.normal(size=(groups, size, size))
    low, high = (np.full((channels, 8, 8), -0.5), np.full((channels, 8, 8), 0.7)) if bounds else (None, None)
    return Gaussian(rng.normal(size=(groups, size)), root @ root.transpose(0, 2, 1) / size, PATCH, low, high)


def planes(channels: int = 2) -> npt.NDArray[np.float32]:
    return np.random.default_rng(4).normal(size=(channels, 8, 8)).astype(np.float32)


def dense(of: Gaussian, x: Array, place: tuple[int, int]) -> tuple[Array, Array]:
    """Conditional mean and covariance of one window by the precision matrix Λ of its patch, pixel by pixel: Λ_aa⁻¹ and
    μ_a - Λ_aa⁻¹ Λ_ab (x_b - μ_b). Independent channels become blocks of one covariance."""
    channels, height, width = x.shape
    size = channels * PATCH**2
    mu, cov = of.mu.reshape(-1), np.zeros((size, size))
    step = of.cov.shape[1]
    for i, block in enumerate(of.cov):
        ridge = of.ridge * np.trace(block) / step * np.eye(step)
        cov[i * step : (i + 1) * step, i * step : (i + 1) * step] = block + ridge
    top = min(max(place[0] - (PATCH - WINDOW[0]) // 2, 0), height - PATCH)
    left = min(max(place[1] - (PATCH - WINDOW[1]) // 2, 0), width - PATCH)
    inside, value = [], []
    for c in range(channels):
        for r in range(top, top + PATCH):
            for q in range(left, left + PATCH):
                hit = place[0] <= r < place[0] + WINDOW[0] and place[1] <= q < place[1] + WINDOW[1]
                inside.append(hit)
                value.append(x[c, r, q])
    a, b = np.flatnonzero(inside), np.flatnonzero(~np.array(inside))
    precision = np.linalg.inv(cov)
    spread = np.asarray(np.linalg.inv(precision[np.ix_(a, a)]), np.float64)
    return mu[a] - spread @ precision[np.ix_(a, b)] @ (np.array(value)[b] - mu[b]), spread


@pytest.mark.parametrize("joint", [False, True])
def test_conditional_moments(joint: bool) -> None:
    """float64 both ways; the conditions of these matrices are below 1e7."""
    of, x = gaussian(joint), planes()
    around = Surroundings(of, x, WINDOW)
    means = around.means(PLACES)
    assert means.shape == (len(PLACES), 2, *WINDOW)
    for mean, place, corner in zip(means, PLACES, around.corners(PLACES), strict=True):
        expected, spread = dense(of, x.astype(np.float64), (int(place[0]), int(place[1])))
        np.testing.assert_allclose(mean.reshape(-1), expected, rtol=1e-7, atol=1e-7)
        own = around.offset(*(place - corner)).spread
        side = own.shape[1]
        for i, block in enumerate(own):
            part = slice(i * side, (i + 1) * side)
            np.testing.assert_allclose(block, spread[part, part], rtol=1e-7, atol=1e-7)
        if not joint:
            assert np.abs(spread[:side, side:]).max() < 1e-9, "the oracle's channels are independent"


@pytest.mark.parametrize("joint", [False, True])
def test_sampling_moments(joint: bool) -> None:
    """20000 samples: a mean is off by 0.007 of a standard deviation, and five times that is never seen."""
    of, x, place = gaussian(joint), planes(), PLACES[3:4]
    around = Surroundings(of, x, WINDOW)
    drawn = around.samples(place, 20_000, lambda r, c: np.random.default_rng((r, c)))[0].reshape(20_000, -1)
    mean, spread = dense(of, x.astype(np.float64), (3, 3))
    deviation = np.sqrt(np.diag(spread))
    assert np.abs((drawn.mean(0) - mean) / deviation).max() < 0.035
    correlation = (np.cov(drawn.T) - spread) / deviation[:, None] / deviation
    assert np.abs(correlation).max() < 0.05


def test_samples_depend_on_their_place_alone() -> None:
    """Bit for bit: neither on the batch, nor its order, nor the count."""
    around = Surroundings(gaussian(False), planes(), WINDOW)

    def draw(places: npt.NDArray[np.int64], count: int) -> Array:
        return around.samples(places, count, lambda r, c: np.random.default_rng((7, r, c)))

    whole = draw(PLACES, 6)
    order = np.random.default_rng(0).permutation(len(PLACES))
    assert np.array_equal(draw(PLACES[order], 6), whole[order])
    assert np.array_equal(draw(PLACES[2:3], 4), whole[2:3, :4])
    assert np.array_equal(around.means(PLACES[order]), around.means(PLACES)[order])
    assert np.array_equal(around.means(PLACES[5:6]), around.means(PLACES)[5:6])
    assert len(np.unique(whole)) == whole.size, "no two numbers are drawn alike"


def test_clipping() -> None:
    of, x = gaussian(False, bounds=True), planes()
    of.low[0, 3:6, 3:5] = 0.6  # type: ignore[index]
    around, free = Surroundings(of, x, WINDOW), Surroundings(gaussian(False), x, WINDOW)
    rng = lambda r, c: np.random.default_rng((r, c))  # noqa: E731
    clipped, plain = around.samples(PLACES, 50, rng), free.samples(PLACES, 50, rng)
    low = np.full(clipped.shape, -0.5)
    low[3, :, 0] = 0.6  # the window at (3, 3) is where the first channel never was darker
    inside = ~((PLACES == (3, 3)).all(1) | (PLACES == (2, 3)).all(1) | (PLACES == (2, 5)).all(1))
    assert np.array_equal(clipped[inside], np.clip(plain, low, 0.7)[inside])
    assert np.array_equal(clipped[3], np.clip(plain, low, 0.7)[3]) and clipped[3, :, 0].min() == 0.6
    assert np.array_equal(around.means(PLACES), free.means(PLACES)), "means are not clipped"
    whole = Gaussian(of.mu, of.cov, PATCH, np.full((2, 1, 1), -0.1), np.full((2, 1, 1), 0.1))
    assert np.abs(Surroundings(whole, x, WINDOW).samples(PLACES, 9, rng)).max() == 0.1


def test_a_window_as_large_as_its_patch() -> None:
    """Nothing around it: the mean is μ, wherever the window is."""
    of = gaussian(False)
    found = Surroundings(of, planes(), (PATCH, PATCH)).means(np.array([(0, 0), (3, 2)]))
    assert np.array_equal(found, np.broadcast_to(of.mu.reshape(2, PATCH, PATCH), found.shape))


def test_smooth_pictures_need_the_ridge() -> None:
    """A covariance of rank 1 (all pixels equal): with the ridge the window continues its surroundings."""
    size = PATCH**2
    of = Gaussian(np.zeros((1, size)), np.ones((1, size, size)), PATCH)
    x = np.full((1, 8, 8), 0.37, np.float32)
    found = Surroundings(of, x, WINDOW).means(PLACES)
    np.testing.assert_allclose(found, 0.37, rtol=1e-5)  # the ridge draws it by 1e-6 / 19 to the mean
    bare = Gaussian(of.mu, of.cov, PATCH, ridge=0.0)
    with pytest.raises(OptionError, match="ridge"):
        Surroundings(bare, x, WINDOW).samples(PLACES, 1, lambda r, c: np.random.default_rng(0))


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("bounds", [False, True])
def test_files(tmp_path: Path, joint: bool, bounds: bool) -> None:
    of = gaussian(joint, bounds=bounds)
    named = Gaussian(of.mu, of.cov, PATCH, of.low, of.high, 1e-5, {"images": 3, "seed": 0})
    read = load_gaussian(save_gaussian(named, tmp_path / "g.npz"))
    for name in ("mu", "cov", "low", "high"):
        ours, theirs = getattr(named, name), getattr(read, name)
        assert (ours is None) == (theirs is None)
        assert ours is None or theirs is None or np.array_equal(ours, theirs)
    assert (read.patch, read.ridge, read.joint, read.provenance) == (PATCH, 1e-5, joint, named.provenance)
    assert read.digest == named.digest != of.digest
    assert f"{PATCH} x {PATCH} patches, 2 {'joint' if joint else 'independent'} channels" in str(read)
    assert list(tmp_path.iterdir()) == [tmp_path / "g.npz"]


def test_other_files(tmp_path: Path) -> None:
    path = tmp_path / "g.npz"
    with pytest.raises(OptionError, match="no such file of a Gaussian"):
        load_gaussian(path)
    path.write_bytes(b"PK\3\4 not really")
    with pytest.raises(OptionError, match=r"cannot be read as a Gaussian.*fit gaussian"):
        load_gaussian(path)
    np.savez(path, mu=np.zeros(3))
    with pytest.raises(OptionError, match="another kind of file"):
        load_gaussian(path)
    of = gaussian(False)
    save_gaussian(of, path)
    with np.load(path) as stored:
        arrays = dict(stored)
    for key, value, reason in (
        ("mu", np.full_like(of.mu, np.nan), "NaN"),
        ("mu", of.mu[:1], "do not fit"),
        ("mu", np.array([["a"]]), "mu is <U1"),
        ("cov", of.cov + np.triu(of.cov), "not symmetric"),
        ("more", np.zeros(2), "other things"),
    ):
        with open(path, "wb") as file:
            np.savez(file, allow_pickle=False, **{**arrays, key: value})
        with pytest.raises(OptionError, match=f"cannot be read as a Gaussian.*{reason}"):
            load_gaussian(path)


def test_bad_numbers() -> None:
    mu, cov = np.zeros((2, 25)), np.stack([np.eye(25)] * 2)
    with pytest.raises(OptionError, match="channel 1 has no variance"):
        Gaussian(mu, cov * [[[1.0]], [[0.0]]], 5)
    with pytest.raises(OptionError, match="variance is negative"):
        Gaussian(mu, cov - 2 * np.diag(np.eye(25)[0]), 5)
    with pytest.raises(OptionError, match="not those of 4 x 4"):
        Gaussian(mu, cov, 4)
    with pytest.raises(OptionError, match="2 groups of 50"):
        Gaussian(np.zeros((2, 50)), np.stack([np.eye(50)] * 2), 5)
    with pytest.raises(OptionError, match="go together"):
        Gaussian(mu, cov, 5, low=np.zeros((2, 8, 8)))
    with pytest.raises(OptionError, match="bounds of shape"):
        Gaussian(mu, cov, 5, np.zeros((1, 8, 8)), np.zeros((1, 8, 8)))
    with pytest.raises(OptionError, match="above the upper"):
        Gaussian(mu, cov, 5, np.ones((2, 1, 1)), np.zeros((2, 1, 1)))
    with pytest.raises(OptionError, match="ridge is -1"):
        Gaussian(mu, cov, 5, ridge=-1)


def test_what_does_not_fit_a_picture() -> None:
    of = gaussian(False, bounds=True)
    for shape, window, reason in (
        ((3, 8, 8), (3, 3), "2 channels, the image has 3"),
        ((2, 8, 8), (6, 3), "6 x 3 does not fit the outer patch, 5 x 5"),
        ((2, 4, 8), (3, 3), "5 x 5, does not fit the image, 4 x 8"),
        ((2, 8, 9), (3, 3), "pictures of 8 x 8, the image is 8 x 9"),
    ):
        with pytest.raises(OptionError, match=reason):
            Surroundings(of, np.zeros(shape, np.float32), window)
