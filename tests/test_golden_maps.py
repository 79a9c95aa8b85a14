"""Sampled maps and activation maps against stored float64 results on small nets with random weights.

data/golden/maps_*.npz hold, for the nets of test_golden: integrated gradients from `x_ref` over 64 midpoints,
SmoothGrad and its two relatives over the stored noise, Grad-CAM, Guided Grad-CAM and FEM at the default layer. float64
against onnxruntime's float32: measured 4e-8 to 2e-6 of the largest element; up to 1e-4 is accepted.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from onnxplain.rewriter.compile import Request, compile_model
from onnxplain.rewriter.errors import OptionError
from onnxplain.rules.readouts import readout
from onnxplain.rules.registry import find

from .test_emitted import picture, source
from .test_emitted import run as plain
from .test_golden import DATA, EXACT, TOLERANCE, batch, chosen, error, gates, golden, image, model, run

SIGMA = 0.2
"""Any share of the range: the stored noise is divided by it."""

NAMES = [path.stem.removeprefix("maps_") for path in sorted(DATA.glob("maps_*.npz"))]


@cache
def maps(name: str) -> dict[str, NDArray[np.float64]]:
    with np.load(DATA / f"maps_{name}.npz") as stored:
        return {key: stored[key] for key in stored.files}


def has(key: str) -> list[str]:
    return [name for name in NAMES if key in maps(name)]


def test_the_nets_are_there() -> None:
    assert len(NAMES) == 10
    assert len(has("gradcam_raw")) == 6


def feeds(name: str) -> dict[str, NDArray[np.generic]]:
    return {"x": image(name), "target": np.array([[chosen(name)]], np.int64)}


def compiled(
    name: str, method: str, reduce: str | None = None, target: str = "input", **options: Any
) -> onnx.ModelProto:
    chain = None if reduce is None else (reduce, readout(reduce))
    return compile_model(model(name), find(method), Request(target=target, options=options, reduce=chain))[0]


def unit_noise(name: str) -> NDArray[np.float32]:
    """The stored noise is x_i - x, for one sample; the file takes it in units of sigma (max x - min x)."""
    x = golden(name)["x"]
    return np.asarray(maps(name)["noise"][:, 0] / (SIGMA * (x.max() - x.min())), np.float32)


@pytest.mark.parametrize("lanes", [1, 4, 64])
@pytest.mark.parametrize("name", NAMES)
def test_integrated_gradients(name: str, lanes: int) -> None:
    made = compiled(name, "integrated-gradients", steps=64, baseline="input", lanes=lanes)
    got = run(made, {**feeds(name), "baseline": maps(name)["x_ref"].astype(np.float32)})
    assert error(got["attribution"], maps(name)["ig_mid64"]) < TOLERANCE
    fixed = compiled(name, "integrated-gradients", steps=64, baseline=maps(name)["x_ref"], lanes=lanes)
    assert error(run(fixed, feeds(name))["attribution"], maps(name)["ig_mid64"]) < TOLERANCE


@pytest.mark.parametrize("lanes", [1, 3, 8])
@pytest.mark.parametrize(
    ("method", "key"),
    [("smoothgrad", "smoothgrad"), ("smoothgrad-squared", "smoothgrad_sq"), ("vargrad", "vargrad")],
)
@pytest.mark.parametrize("name", NAMES)
def test_noise(name: str, method: str, key: str, lanes: int) -> None:
    got = run(compiled(name, method, sigma=SIGMA, lanes=lanes), {**feeds(name), "noise": unit_noise(name)})
    assert error(got["attribution"], maps(name)[key]) < TOLERANCE


@pytest.mark.parametrize("name", has("gradcam_raw"))
def test_grad_cam(name: str) -> None:
    raw = run(compiled(name, "grad-cam", upsample=False, relu=False), feeds(name))["attribution"]
    assert error(raw, maps(name)["gradcam_raw"]) < TOLERANCE
    small = run(compiled(name, "grad-cam", upsample=False), feeds(name))["attribution"]
    assert error(small, maps(name)["gradcam"]) < TOLERANCE
    whole = run(compiled(name, "grad-cam"), feeds(name))["attribution"]
    # The map is repeated over the channels of the input.
    assert np.array_equal(whole, np.broadcast_to(whole[:, :1], image(name).shape))
    assert error(whole[:, :1], maps(name)["gradcam_up"]) < TOLERANCE


@pytest.mark.parametrize("name", has("guided_gradcam"))
def test_guided_grad_cam(name: str) -> None:
    got = run(compiled(name, "guided-grad-cam", **gates(name)), feeds(name))["attribution"]
    assert error(got, maps(name)["guided_gradcam"]) < TOLERANCE


@pytest.mark.parametrize(("key", "options"), [("fem_k1", {}), ("fem_k2_strict", {"k": 2, "strict": True})])
@pytest.mark.parametrize("name", has("fem_k1"))
def test_fem(name: str, key: str, options: dict[str, Any]) -> None:
    got, want = (
        run(compiled(name, "fem", upsample=False, **options), feeds(name))["attribution"],
        maps(name)[key],
    )
    if want.any():
        assert error(got, want) < TOLERANCE
    else:  # of four cells none is two deviations above the mean
        assert got.shape == want.shape == (1, 1, 2, 2)
        assert not got.any()


SAMPLED = ["integrated-gradients", "smoothgrad", "smoothgrad-squared", "vargrad"]
MAPPED = ["grad-cam", "guided-grad-cam", "fem"]


@pytest.mark.parametrize("method", SAMPLED + MAPPED)
@pytest.mark.parametrize("name", has("gradcam_raw"))
def test_a_batch_of_three_equals_three_single_runs(name: str, method: str) -> None:
    options: dict[str, Any] = {"steps": 6} if method == "integrated-gradients" else {}
    made = compiled(name, method, **options)
    x, target = batch(name), np.array([[0], [-1], [2]], np.int64)
    more = {"noise": unit_noise(name)} if method in SAMPLED[1:] else {}
    # A net whose map is all zeros proves nothing, but three samples are not all zeros.
    together = run(made, {"x": x, "target": target, **more})["attribution"]
    singles = [
        run(made, {"x": x[i : i + 1], "target": target[i : i + 1], **more})["attribution"] for i in range(3)
    ]
    assert error(together, np.concatenate(singles)) < 10 * EXACT


@pytest.mark.parametrize("method", SAMPLED + MAPPED)
@pytest.mark.parametrize("name", has("gradcam_raw"))
def test_constant_inputs_give_finite_maps(name: str, method: str) -> None:
    """All zeros, one value everywhere: no range, no noise, an empty path."""
    x = image(name)
    flat = np.concatenate([np.zeros_like(x), np.full_like(x, 0.5), np.full_like(x, -3.0)])
    more = {"noise": unit_noise(name)} if method in SAMPLED[1:] else {}
    made = compiled(name, method, reduce="sum,max", target="top")
    got = run(made, {"x": flat, **more})
    assert np.isfinite(got["attribution"]).all()
    assert np.isfinite(got["heatmap"]).all()
    if method == "integrated-gradients":
        assert np.array_equal(got["attribution"][0], np.zeros_like(x[0])), "x equals the baseline"
    if method == "vargrad":
        assert float(got["attribution"].max()) == 0.0, "without a range there is no noise"


BIT = [
    *NAMES,
    "i2i",
    "sr",
    "mnist_lenet",
    "selfie_segmentation",
    "style07_instancenorm",
    "efficientnet_lite0",
]


@pytest.mark.parametrize("method", SAMPLED + MAPPED)
@pytest.mark.parametrize("name", BIT)
def test_outputs_of_the_model_are_unchanged_to_the_bit(name: str, method: str) -> None:
    """Without graph optimisation, on nets of every kind; and the weights are in the file once."""
    before = source(name)
    options = {"steps": 2} if method == "integrated-gradients" else {}
    try:
        made, _ = compile_model(before, find(method), Request(options=options))
    except OptionError as error:  # no layer with cells: the tests of layers say which nets have none
        assert method in MAPPED
        assert "no activation with channels" in str(error)
        return
    given = picture(before)
    (x,) = given.values()
    more = {"noise": np.ones((2, *x.shape[1:]), np.float32)} if method in SAMPLED[1:] else {}
    after = plain(made, {**given, "target": np.full((len(x), 1), -1, np.int64), **more})
    for output, value in plain(before, given).items():
        assert after[output].dtype == value.dtype
        assert np.array_equal(after[output], value), output
    assert after["attribution"].shape == x.shape
    assert np.isfinite(after["attribution"]).all()
    assert made.ByteSize() < 1.03 * before.ByteSize() + 200_000
