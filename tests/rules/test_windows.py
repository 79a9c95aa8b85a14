"""Convolutions, pools and Resize over sweeps of their attributes: adjointness, and a dense oracle."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.oracles import Window, average_pool_vjp, conv, conv_vjp, max_pool_vjp, resize_matrix
from tests.rules.build import Probe, one_node

F = np.float32


def _random(seed: int, *sizes: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=sizes).astype(F)


def _window(rng: np.random.Generator, rank: int, *, half: bool = False) -> Window:
    """A random window; half: pads of at most half the kernel, as pools require."""
    kernel = rng.integers(1, 4, rank)
    most = [int(k) // 2 + 1 if half else 3 for k in kernel] * 2
    pads = tuple(int(rng.integers(0, top)) for top in most)
    if half:
        pads = tuple(min(pad, int(k) - 1) for pad, k in zip(pads, [*kernel, *kernel], strict=True))
    strides, dilations = rng.integers(1, 4, rank), rng.integers(1, 3, rank)
    return Window(tuple(map(int, kernel)), tuple(map(int, strides)), pads, tuple(map(int, dilations)))


def _attributes(window: Window) -> dict[str, Any]:
    return {
        "kernel_shape": list(window.kernel),
        "strides": list(window.strides),
        "pads": list(window.pads),
        "dilations": list(window.dilations),
    }


@pytest.mark.parametrize("seed", range(24))
def test_conv(seed: int) -> None:
    """1-D to 3-D, groups up to depthwise, static and dynamic sizes, one row a sample and three rows of one."""
    rng, rank, group = np.random.default_rng(seed), seed % 3 + 1, (1, 2, 4)[seed // 3 % 3]
    window, dynamic, rows = _window(rng, rank), bool(seed % 2), (None, 3)[seed // 2 % 2]
    ins, outs = (2, 4) if group < 4 else (1, 4)
    sizes = tuple(int(size) for size in rng.integers(6, 9, rank))
    x, w = _random(seed, 1 if rows else 2, ins * group, *sizes), _random(seed + 1, outs, ins, *window.kernel)
    dims = ["N", ins * group, *(f"D{i}" if dynamic else size for i, size in enumerate(sizes))]
    bias = _random(seed + 2, outs)
    model = one_node(
        "Conv", {"x": (dims, F)}, {"w": w, "b": bias}, rank=rank + 2, group=group, **_attributes(window)
    )
    probe = Probe(model, {"x": x}, rows=rows)
    expected = conv(x.astype(float), w.astype(float), window, group, probe.y.shape[2:])
    assert np.abs(probe.y - expected - bias.reshape(1, -1, *[1] * rank)).max() < 1e-4
    probe.agrees(conv_vjp(probe.ct.astype(float), w.astype(float), window, group, sizes))


@pytest.mark.parametrize("seed", range(12))
def test_wide_convolutions_take_the_flipped_form(seed: int) -> None:
    """Stride 1 and eight channels or more: the data gradient is a Conv with the flipped weight."""
    rng, rank, group = np.random.default_rng(seed), seed % 2 + 1, (1, 2, 4)[seed % 3]
    window = _window(rng, rank, half=True)
    window = Window(window.kernel, (1,) * rank, window.pads, window.dilations)
    sizes = (7,) * rank
    x, w = _random(seed, 2, 8, *sizes), _random(seed + 1, 12, 8 // group, *window.kernel)
    dims = ["N", 8, *(sizes if seed % 2 else [f"D{i}" for i in range(rank)])]
    model = one_node("Conv", {"x": (dims, F)}, {"w": w}, rank=rank + 2, group=group, **_attributes(window))
    probe = Probe(model, {"x": x})
    probe.agrees(conv_vjp(probe.ct.astype(float), w.astype(float), window, group, sizes))


@pytest.mark.parametrize("seed", range(18))
def test_conv_transpose(seed: int) -> None:
    rng, rank, group = np.random.default_rng(seed), seed % 3 + 1, (1, 2, 4)[seed // 3 % 3]
    window = _window(rng, rank, half=True)
    extra = [int(rng.integers(0, stride)) for stride in window.strides]
    x = _random(seed, 2, 4, *rng.integers(4, 6, rank))
    w = _random(seed + 1, 4, 2, *window.kernel)
    dims = ["N", 4, *(f"D{i}" if seed % 2 else size for i, size in enumerate(x.shape[2:]))]
    model = one_node(
        "ConvTranspose",
        {"x": (dims, F)},
        {"w": w},
        rank=rank + 2,
        group=group,
        output_padding=extra,
        **_attributes(window),
    )
    probe = Probe(model, {"x": x})
    probe.agrees(conv(probe.ct.astype(float), w.astype(float), window, group, x.shape[2:]))
    expected = conv_vjp(x.astype(float), w.astype(float), window, group, probe.y.shape[2:])
    assert np.abs(probe.y - expected).max() < 1e-4


@pytest.mark.parametrize("shape", [[8, 6], [10, 8]])
def test_conv_transpose_to_a_given_size(shape: list[int]) -> None:
    """output_shape smaller than the windows reach (pads), and larger (output_padding)."""
    x, w = _random(0, 2, 2, 3, 3), _random(1, 2, 3, 3, 3)
    model = one_node(
        "ConvTranspose", {"x": (["N", 2, 3, 3], F)}, {"w": w}, output_shape=shape, strides=[3, 2]
    )
    probe = Probe(model, {"x": x}, tangent=True)
    assert probe.y.shape == (2, 3, *shape)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("seed", range(9))
def test_max_pool(seed: int, dynamic: bool, ties: bool) -> None:
    """ties: a few equal values, and whole windows of them; the first takes all, so sums are kept."""
    rng, rank = np.random.default_rng(seed), seed % 3 + 1
    window = _window(rng, rank, half=True)
    x = _random(seed, 2, 2, *rng.integers(6, 8, rank))
    x = np.round(x).clip(0, 1) if ties else x
    dims = ["N", 2, *(f"D{i}" if dynamic else size for i, size in enumerate(x.shape[2:]))]
    model = one_node("MaxPool", {"x": (dims, F)}, rank=rank + 2, ceil_mode=seed % 2, **_attributes(window))
    probe = Probe(model, {"x": x}, rows=None)
    probe.agrees(max_pool_vjp(probe.ct.astype(float), x.astype(float), window))
    assert abs(probe.pulled["x"].sum() - probe.ct.sum()) < 1e-4


def test_max_pool_of_a_constant_picture() -> None:
    x = np.ones((1, 1, 4, 4), F)
    model = one_node("MaxPool", {"x": (["N", 1, 4, 4], F)}, kernel_shape=[2, 2], strides=[2, 2])
    probe = Probe(model, {"x": x}, rows=3)
    expected = np.zeros((3, 1, 4, 4))
    expected[:, :, ::2, ::2] = probe.ct
    probe.agrees(expected)


@pytest.mark.parametrize("include", [0, 1])
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("seed", range(9))
def test_average_pool(seed: int, dynamic: bool, include: int) -> None:
    rng, rank, ceil = np.random.default_rng(seed), seed % 3 + 1, seed % 2
    window = _window(rng, rank, half=True)
    opset = 19 if max(window.dilations) > 1 else 18
    attributes = _attributes(window)
    if opset == 18:
        del attributes["dilations"]
    x = _random(seed, 2, 2, *rng.integers(6, 8, rank))
    dims = ["N", 2, *(f"D{i}" if dynamic else size for i, size in enumerate(x.shape[2:]))]
    model = one_node(
        "AveragePool",
        {"x": (dims, F)},
        rank=rank + 2,
        opset=opset,
        ceil_mode=ceil,
        count_include_pad=include,
        **attributes,
    )
    probe = Probe(model, {"x": x})
    probe.agrees(average_pool_vjp(probe.ct.astype(float), x.astype(float), window, bool(include)))


COORDINATES = ("half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners")
ROUNDINGS = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
MODES = [("nearest", rounding) for rounding in ROUNDINGS] + [("linear", "floor"), ("cubic", "floor")]


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("coordinates", COORDINATES)
@pytest.mark.parametrize(("mode", "rounding"), MODES)
def test_resize(mode: str, rounding: str, coordinates: str, dynamic: bool) -> None:
    """Up by 2 and 3, up and down by fractions, by scales, and to given sizes."""
    x = _random(3, 2, 2, 5, 6)
    dims = ["N", 2, "H", "W"] if dynamic else ["N", 2, 5, 6]
    common: dict[str, Any] = {
        "mode": mode,
        "coordinate_transformation_mode": coordinates,
        "nearest_mode": rounding,
    }
    for scales in ([2.0, 3.0], [0.7, 1.45]):  # fractions without coordinates at a rounding tie
        constants = {"scales": np.asarray([1, 1, *scales], F)}
        model = one_node("Resize", {"x": (dims, F)}, constants, order=["x", "", "scales"], **common)
        _resized(Probe(model, {"x": x}), x, scales, mode, rounding, coordinates)
    model = one_node(
        "Resize",
        {"x": (dims, F)},
        {"sizes": np.asarray([8, 4])},
        order=["x", "", "", "sizes"],
        axes=[2, 3],
        **common,
    )
    _resized(Probe(model, {"x": x}), x, [8 / 5, 4 / 6], mode, rounding, coordinates)


def _resized(probe: Probe, x: np.ndarray, scales: list[float], *how: str) -> None:
    high, wide = (resize_matrix(x.shape[2 + i], probe.y.shape[2 + i], scales[i], *how) for i in range(2))
    assert np.abs(probe.y - np.einsum("nchw,hi,wj->ncij", x, high, wide)).max() < 1e-4
    probe.agrees(np.einsum("ncij,hi,wj->nchw", probe.ct, high, wide))
