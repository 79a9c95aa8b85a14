"""Activation maximisation on the host: golden data, the file that does the same, closed forms, a generator."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

import onnxplain
from onnxplain import ImageError, ModelError, OptionError, TargetError, models
from onnxplain.runtime.perturb.maximise import Ascent, maximise
from tests.runtime.perturb.masking import GOLDEN, close, stored
from tests.runtime.small import gradient, model_of, picture

NETS = ("cnn_bias", "cnn_odd", "resnet", "concat", "overlap_pool", "attention", "mlp_bias", "smooth_acts")
CODE = np.random.default_rng(21).normal(size=(3, 24)).astype(np.float32)
"""Of the linear generator, x = code CODE."""
PLAIN: dict[str, Any] = {"blur": 0.0, "unit": False}


def generator(
    shape: tuple[int, ...] = (-1, 2, 3, 4), opset: int = 18, weight: np.ndarray = CODE
) -> onnx.ModelProto:
    """code (N, 3) -> x (N, 2, 3, 4), linear. Its names are those of `picture`."""
    nodes = [
        helper.make_node("MatMul", ["flat", "weight"], ["y"]),
        helper.make_node("Reshape", ["y", "shape"], ["x"]),
    ]
    made = model_of(
        nodes,
        {"flat": ["N", len(weight)]},
        {"x": ["N", *shape[1:]]},
        {"weight": weight, "shape": np.array(shape)},
    )
    made.opset_import[0].version = opset
    return made


@pytest.mark.parametrize("net", NETS)
def test_golden_ascents(net: str) -> None:
    known = stored(net)
    found = maximise(
        GOLDEN / f"{net}.onnx",
        int(known["y"].argmax()),
        known["am_start"],
        ascent=Ascent(steps=20, eta=0.1, **PLAIN),
        threads=1,
    )
    close(found.image, known["am_20"])
    assert found.history.shape == (21, 1) and found.score == found.history[-1]


@pytest.mark.parametrize(
    "options",
    ({"eta": 0.5}, {"eta": 0.5, "norm": 4.0, "decay": 0.0}, {"eta": 0.02, "decay": 0.1, "step": "plain"}),
)
def test_the_file_does_the_same(options: dict[str, Any]) -> None:
    x = np.random.default_rng(2).normal(size=(2, 1, 28, 28)).astype(np.float32)
    file = onnxplain.compile(
        models.path("mnist_lenet"), "activation-maximization", target=5, steps=12, threads=1, **options
    )(x).results
    own = {key: value for key, value in options.items() if key != "step"}
    found = maximise(
        models.path("mnist_lenet"),
        5,
        x,
        ascent=Ascent(steps=12, blur=0.0, unit="step" not in options, **own),
        threads=1,
    )
    close(found.image, file["maximised"], 1e-3)  # a rectifier may flip between two roundings
    close(found.history.T, file["maximised_history"], 1e-3)
    assert (found.history[-1] > found.history[0]).all()


def test_a_linear_unit_on_the_sphere_and_with_decay() -> None:
    w = gradient(3)
    sphere = maximise(picture(), 3, ascent=Ascent(norm=2.5, decay=0.0, steps=60, blur=0.0), threads=1)
    np.testing.assert_allclose(sphere.image, 2.5 * w / np.linalg.norm(w), atol=1e-4)
    ridge = maximise(picture(), 3, ascent=Ascent(decay=0.5, eta=0.2, steps=100, **PLAIN), threads=1)
    np.testing.assert_allclose(ridge.image, w / (2 * 0.5), atol=1e-5)  # 0.8^100 of the way is left
    np.testing.assert_allclose(ridge.score, (w * w).sum(), rtol=1e-5)


def test_seeds() -> None:
    first, again, other = (
        maximise(models.path("mnist_lenet"), 3, ascent=Ascent(steps=4, seed=seed), threads=1).image
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-2 and first.shape == (1, 1, 28, 28)


def test_a_digit_is_found() -> None:
    """What is climbed from noise is seen as that digit, with a score no photo of one has; the blur makes it smooth."""
    rough = maximise(models.path("mnist_lenet"), 3, ascent=Ascent(steps=40, blur=0.0), threads=1)
    smooth = maximise(models.path("mnist_lenet"), 3, ascent=Ascent(steps=40, blur=1.0, every=2), threads=1)
    assert rough.score > smooth.score > 5 + rough.history[0]

    def roughness(x: np.ndarray) -> float:
        return float(np.abs(np.diff(x, axis=3)).mean() / np.abs(x).mean())

    assert roughness(smooth.image) < 0.7 * roughness(rough.image)


def test_a_unit_anywhere() -> None:
    """An element of a hidden tensor, by its number and by its place; the gradient stays in its field."""
    net = GOLDEN / "cnn_bias.onnx"
    graph = onnx.load(net).graph
    hidden = next(node.output[0] for node in graph.node if node.op_type == "Conv")
    x = stored("cnn_bias")["x"]
    options: dict[str, Any] = {
        "head": hidden,
        "ascent": Ascent(steps=1, eta=1.0, decay=0.0, **PLAIN),
        "threads": 1,
    }
    by_place = maximise(net, (1, 3, 4), x, **options)
    shape = onnxplain.compile(net, "saliency", head=hidden, shapes={graph.input[0].name: ("N", *x.shape[1:])})
    size = int(shape.card.target["size"])
    channels = size // 64 if size % 64 == 0 else None
    assert channels, "the first convolution keeps the size of the image"
    by_number = maximise(net, 64 + 3 * 8 + 4, x, **options)
    np.testing.assert_array_equal(by_place.image, by_number.image)
    touched = np.abs(by_place.image - x).sum((0, 1)) > 0
    rows, columns = np.nonzero(touched)
    assert touched.any() and np.ptp(rows) < 5 and np.ptp(columns) < 5
    with pytest.raises(TargetError, match=r"unit \(1, 3, 8\) is out of range"):
        maximise(net, (1, 3, 8), x, **options)


def test_the_operator_of_yosinski() -> None:
    """One step of each on a linear unit, by hand."""
    x, w = np.random.default_rng(5).normal(size=(1, 2, 3, 4)).astype(np.float32), gradient(2)
    base = x + 0.1 * w

    def once(**options: Any) -> np.ndarray:
        settings = {"steps": 1, "eta": 0.1, "decay": 0.0, **PLAIN, **options}
        return maximise(picture(), 2, x, ascent=Ascent(**settings), threads=1).image

    np.testing.assert_allclose(once(shrink=0.25), 0.75 * base, rtol=1e-5)
    size = np.sqrt((base**2).sum(1, keepdims=True))
    np.testing.assert_allclose(once(small_norm=50.0), np.where(size < np.median(size), 0, base), rtol=1e-5)
    share = np.abs((base * w).sum(1, keepdims=True))
    np.testing.assert_allclose(once(small_share=50.0), np.where(share < np.median(share), 0, base), rtol=1e-5)
    np.testing.assert_allclose(once(blur=1.0, every=2), base, rtol=1e-5)  # not in the first of two
    smooth = once(blur=1.0, every=1)
    np.testing.assert_allclose(smooth, _blurred(base, 1.0), atol=1e-5)


def _blurred(x: np.ndarray, sigma: float) -> np.ndarray:
    ndimage = pytest.importorskip("scipy.ndimage")
    return np.asarray(
        ndimage.gaussian_filter(np.float64(x), (0, 0, sigma, sigma), mode="nearest", truncate=3.0)
    )


@pytest.mark.parametrize("opset", (18, 20))
def test_a_linear_generator(opset: int) -> None:
    """a(G(z)) = z CODE w: the code goes to CODE w / (2 λ), and the image is what the generator makes of it."""
    found = maximise(
        picture(squash="Softmax"),
        3,
        generator=generator(opset=opset),
        ascent=Ascent(decay=0.5, eta=0.2, steps=100, **PLAIN),
        threads=1,
    )
    known = CODE @ gradient(3).ravel() / (2 * 0.5)
    assert found.code is not None
    np.testing.assert_allclose(found.code[0], known, rtol=1e-4)
    np.testing.assert_allclose(found.image.ravel(), known @ CODE, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found.score, known @ known, rtol=1e-4)
    assert maximise(picture(), 3, threads=1, ascent=Ascent(steps=1)).code is None


def test_a_generator_for_a_real_net() -> None:
    rng = np.random.default_rng(7)
    made = generator((-1, 1, 28, 28), weight=rng.normal(size=(6, 784)).astype(np.float32))
    start = rng.normal(size=(2, 6)).astype(np.float32)
    found = maximise(
        models.path("mnist_lenet"), 4, start, generator=made, ascent=Ascent(steps=15, blur=0.0), threads=1
    )
    assert found.code is not None and found.code.shape == (2, 6) and found.image.shape == (2, 1, 28, 28)
    assert (found.history[-1] > found.history[0]).all()


def test_progress() -> None:
    calls: list[tuple[int, int]] = []
    maximise(picture(), 0, ascent=Ascent(steps=3), threads=1, tell=lambda done, of: calls.append((done, of)))
    assert calls == [(1, 3), (2, 3), (3, 3)]


def test_what_does_not_fit() -> None:
    with pytest.raises(TargetError, match="class 5 is out of range"):
        maximise(picture(), 5)
    with pytest.raises(TargetError, match="unit -1 is negative"):
        maximise(picture(), -1)
    with pytest.raises(TargetError, match="not 'a'"):
        maximise(picture(), "a")  # type: ignore[arg-type]
    with pytest.raises(ImageError, match=r"start has shape \[1, 2, 3, 5\]"):
        maximise(picture(), 0, np.zeros((1, 2, 3, 5)))
    with pytest.raises(ImageError, match="NaN"):
        maximise(picture(), 0, np.full((1, 2, 3, 4), np.nan))
    with pytest.raises(ImageError, match=r"blur: the input 'x' of shape .* is no picture"):
        maximise(model_of([helper.make_node("Relu", ["x"], ["y"])], {"x": ["N", 4]}, {"y": ["N", 4]}), 0)
    with pytest.raises(OptionError, match="a code has no pixels"):
        maximise(picture(), 0, generator=generator(), ascent=Ascent())
    with pytest.raises(
        OptionError, match=r"has shape \[N, 2, 4, 3\], the model's input 'x' takes \[N, 2, 3, 4\]"
    ):
        maximise(picture(), 0, generator=generator((-1, 2, 4, 3)))
    with pytest.raises(OptionError, match="gives float32, the model's input 'x' takes float64"):
        maximise(picture(np.float64), 0, generator=generator())
    wrongs: tuple[dict[str, Any], ...] = (
        {"steps": 0},
        {"eta": 0.0},
        {"shrink": 2.0},
        {"small_norm": 101.0},
        {"every": 0},
    )
    for wrong in wrongs:
        with pytest.raises(OptionError, match=next(iter(wrong))):
            Ascent(**wrong)
    free = model_of(
        [helper.make_node("Relu", ["x"], ["y"])], {"x": ["N", 1, "H", "W"]}, {"y": ["N", 1, "H", "W"]}
    )
    with pytest.raises(OptionError, match="give start=, or fix its size"):
        maximise(free, 0)
    with pytest.raises(TargetError, match="unit 9 is out of range: 'y' has 4 elements"):
        maximise(free, 9, np.ones((1, 1, 2, 2)), ascent=Ascent(steps=1, blur=0.0))


def test_a_score_that_overflows_is_an_error() -> None:
    model = model_of([helper.make_node("Exp", ["x"], ["y"])], {"x": ["N", 4]}, {"y": ["N", 4]})
    with pytest.raises(ModelError, match="NaN or Inf; take a smaller eta"):
        maximise(model, 0, np.full((1, 4), 80.0), ascent=Ascent(eta=1e3, decay=0.0, blur=0.0, steps=5))
