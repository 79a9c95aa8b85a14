"""DeepLIFT against stored float64 results, and summation to delta on whole networks.

The stored results come from an implementation of its own in float64, with random references. onnxruntime computes in
float32: measured errors are 8e-8 to 1.2e-6 of the largest element, 1e-4 is accepted.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from onnxplain.models import path
from onnxplain.models.mobilenet import mobilenet_v2
from onnxplain.models.randomize import randomize_constants
from onnxplain.models.resnet import resnet
from onnxplain.models.unet import unet
from onnxplain.models.vgg import vgg
from onnxplain.rewriter.compile import Request, compile_model
from onnxplain.rewriter.method import Method
from onnxplain.rules.methods_deeplift import DEEPLIFT_MIXED, DEEPLIFT_RESCALE, DEEPLIFT_REVEAL_CANCEL
from tests.deeplift import DELTA, METHODS, explained, head_model, imbalance, noise, run

DATA = Path(__file__).parent / "data" / "golden"
LIGHT = Path(str(onnx.__file__)).parent / "backend" / "test" / "data" / "light"
STORED = sorted(file.stem.removeprefix("deeplift_") for file in DATA.glob("deeplift_*.npz"))
NETS = [*STORED, "concat", "attention", "sr", "i2i"]
TOLERANCE, EXACT = 1e-4, 2e-6
"""EXACT: of the largest element, two runs of the same float32 arithmetic in another order."""

Floats = NDArray[np.float32]


@cache
def golden(name: str) -> dict[str, NDArray[np.float64]]:
    found: dict[str, NDArray[np.float64]] = {}
    for file in (f"{name}.npz", f"deeplift_{name}.npz"):
        if (DATA / file).is_file():
            with np.load(DATA / file) as stored:
                found |= {key: stored[key] for key in stored.files}
    return found


@cache
def model(name: str) -> onnx.ModelProto:
    return onnx.load(DATA / f"{name}.onnx")


def pictures(name: str) -> Floats:
    """The stored input between two others."""
    x = golden(name)["x"].astype(np.float32)
    return np.concatenate([noise(*x.shape, seed=5), x, -2 * x])


def cotangent(name: str, rows: int = 3) -> Floats:
    (z,) = run(head_model(model(name)), {"x": pictures(name)[:rows]}).values()
    return noise(*z.shape, seed=6)


def error(got: NDArray[np.floating], want: NDArray[np.floating]) -> float:
    """Largest difference, relative to the largest element."""
    assert got.shape == want.shape
    return float(np.abs(got - want).max() / np.abs(want).max())


def at_reference(name: str, method: Method) -> Floats:
    stored = golden(name)
    x, x0 = (stored[key].astype(np.float32) for key in ("x", "x_ref"))
    return explained(model(name), x, method, int(stored["class"]), baseline=x0)


def test_what_is_stored() -> None:
    assert len(STORED) == 8 and {"mlp_bias", "overlap_pool", "smooth_acts"} < set(STORED)


@pytest.mark.parametrize("name", STORED)
def test_rescale_equals_the_stored_result(name: str) -> None:
    got, stored = at_reference(name, DEEPLIFT_RESCALE), golden(name)
    assert error(got, stored["deeplift_rescale"]) < TOLERANCE
    assert abs(got.sum() - stored["deeplift_delta"][0]) < TOLERANCE * abs(stored["deeplift_delta"][0])


@pytest.mark.parametrize("method", [DEEPLIFT_REVEAL_CANCEL, DEEPLIFT_MIXED], ids=lambda method: method.name)
@pytest.mark.parametrize("name", ["mlp_bias", "mlp_nobias"])
def test_reveal_cancel_equals_the_stored_result(name: str, method: Method) -> None:
    got = at_reference(name, method)
    assert error(got, golden(name)["deeplift_revealcancel"]) < TOLERANCE
    assert error(got, golden(name)["deeplift_rescale"]) > 0.01


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", NETS)
def test_summation_to_delta_and_singles(name: str, method: str) -> None:
    """Overlapping pools, LRN, attention, smooth activations, instance normalisation; a reference a row."""
    x, ct = pictures(name), cotangent(name)
    x0 = noise(*x.shape, seed=7)
    more = {"cotangent": ct, "baseline": x0}
    got = explained(model(name), x, METHODS[method], more=more, baseline="input")
    assert imbalance(model(name), x, x0, ct, got) < DELTA
    for i in range(3):
        row = {key: value[i : i + 1] for key, value in more.items()}
        one = explained(model(name), x[i : i + 1], METHODS[method], more=row, baseline="input")
        assert error(got[i : i + 1], one) < EXACT


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", NETS)
def test_one_constant_reference_for_all_rows(name: str, method: str) -> None:
    x, ct = pictures(name), cotangent(name)
    x0 = noise(1, *x.shape[1:], seed=7)
    got = explained(model(name), x, METHODS[method], more={"cotangent": ct}, baseline=x0)
    fed = {"cotangent": ct, "baseline": np.repeat(x0, 3, axis=0)}
    assert error(got, explained(model(name), x, METHODS[method], more=fed, baseline="input")) < EXACT
    assert imbalance(model(name), x, x0, ct, got) < DELTA


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", NETS)
def test_constant_pictures_give_finite_maps(name: str, method: str) -> None:
    x = pictures(name)
    flat = np.stack([np.full_like(x[0], value) for value in (0, 0.5, -3)])
    for baseline in ("zeros", 0.5):
        got = explained(
            model(name), flat, METHODS[method], more={"cotangent": cotangent(name)}, baseline=baseline
        )
        assert np.isfinite(got).all()
        assert not got[0 if baseline == "zeros" else 1].any()


@pytest.mark.parametrize("name", ["cnn_bias", "attention", "mlp_bias"])
def test_rows_of_one_sample(name: str) -> None:
    """K cotangents over a batch of one, as LinearScope and lists of classes ask for."""
    x, ct = pictures(name)[:1], np.eye(3, dtype=np.float32)
    rows = explained(model(name), x, more={"cotangent": ct})
    listed = explained(model(name), x, target=[0, 1, 2])
    each = np.concatenate([explained(model(name), x, target=i) for i in range(3)])
    assert error(rows, each) < EXACT and error(listed, each) < EXACT


@pytest.mark.parametrize("name", NETS)
def test_the_forward_pass_is_that_of_the_model(name: str) -> None:
    for method in METHODS.values():
        emitted, _ = compile_model(model(name), method, Request(target="cotangent"))
        feeds = {"x": pictures(name), "cotangent": cotangent(name)}
        output = model(name).graph.output[0].name
        assert np.array_equal(run(emitted, feeds)[output], run(model(name), feeds)[output])


def test_a_scale_of_the_picture_does_not_break_the_sum() -> None:
    """Activations of 1e5 and of 1e-5: the threshold goes with the size of x, pools have none."""
    for scale in (1e5, 1e-5):
        x = np.float32(scale) * pictures("cnn_nobias")
        x0, ct = np.float32(scale) * noise(*x.shape, seed=7), cotangent("cnn_nobias")
        more = {"cotangent": ct, "baseline": x0}
        got = explained(model("cnn_nobias"), x, more=more, baseline="input")
        assert imbalance(model("cnn_nobias"), x, x0, ct, got) < DELTA


BUILT = {
    "resnet18": lambda: resnet(18, size=48, classes=7, width=0.25),
    "mobilenet_v2": lambda: mobilenet_v2(size=48, classes=7, width=0.25),
    "vgg11, normalised": lambda: vgg(11, size=48, classes=7, width=0.125, batch_norm=True),
    "unet": lambda: unet(size=48, base=4),
}


def balanced(net: onnx.ModelProto, x: Floats, method: Method, tolerance: float = DELTA) -> None:
    stored = {entry.name for entry in net.graph.initializer}
    (name,) = (value.name for value in net.graph.input if value.name not in stored)
    (z,) = run(head_model(net), {name: x}).values()
    ct = noise(*z.shape, seed=2)
    got = explained(net, x, method, more={"cotangent": ct}, name=name)
    assert imbalance(net, x, np.zeros_like(x), ct, got, name) < tolerance


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", BUILT)
def test_built_networks(name: str, method: str) -> None:
    balanced(BUILT[name](), noise(2, 3, 48, 48, seed=1), METHODS[method])


REAL = {
    "mnist_lenet": (2, 1, 28, 28),
    "efficientnet_lite0": (1, 3, 224, 224),
    "selfie_segmentation": (1, 3, 256, 256),
    "esrgan_slim_x4": (2, 3, 16, 16),
    "style07_instancenorm": (1, 3, 32, 32),
}


@pytest.mark.parametrize("method", ["deeplift.rescale", "deeplift.reveal-cancel"])
@pytest.mark.parametrize("name", REAL)
def test_trained_networks(name: str, method: str) -> None:
    x = np.random.default_rng(3).random(REAL[name], np.float32)
    # A constant reference in front of 18 instance normalisations: Σ |m Δx| is 300 times the change; measured 2e-4.
    balanced(onnx.load(path(name)), x, METHODS[method], 2e-3 if name.startswith("style") else DELTA)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["deeplift.rescale", "deeplift.reveal-cancel"])
@pytest.mark.parametrize("name", ["squeezenet", "shufflenet", "inception_v1"])
def test_topologies(name: str, method: str) -> None:
    """LRN, grouped channels shuffled, padded and overlapping pools, BatchNormalization with Mul and Add behind it."""
    net = randomize_constants(onnx.load(LIGHT / f"light_{name}.onnx"))
    balanced(net, noise(1, 3, 224, 224, seed=1), METHODS[method])
