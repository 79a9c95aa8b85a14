"""Patterns from pictures: stored results, Kindermans' toy, sums by brute force, and what must not change them."""

from __future__ import annotations

from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import helper

import onnxplain
from onnxplain import models
from onnxplain.rewriter.errors import ImageError, ModelError, OptionError
from onnxplain.rewriter.graph import prepare
from onnxplain.runtime.estimate import (
    Statistics,
    fit_patterns,
    gather,
    patterns_of,
)
from tests.runtime.small import model_of

DATA = Path(__file__).parents[1] / "data"
LENET = models.path("mnist_lenet")
NETS = ("mlp_bias", "mlp_nobias", "cnn_bias", "cnn_nobias", "overlap_pool")

Array = NDArray[Any]


@cache
def digits(count: int) -> Array:
    return models.digits()[0][:count]


@pytest.mark.parametrize("net", NETS)
def test_golden_patterns(net: str) -> None:
    """Stored patterns are from a float64 forward pass; ours is float32: measured up to 2e-6 of the largest element
    (small differences of covariances), 1e-4 accepted."""
    model = onnx.load(DATA / "golden" / f"{net}.onnx")
    with np.load(DATA / "patterns" / f"{net}.npz") as file:
        known = {key: file[key] for key in file.files}
    fitted = fit_patterns(model, known["pattern_data"], raw_input=True)
    names = {node.outputs[0].name: node.name for node in prepare(model).nodes}
    checked = 0
    for estimator in ("linear", "plus", "plus-within", "minus"):
        prefix = f"pattern_{estimator.replace('-', '_')}_t"
        for key in (key for key in known if key.startswith(prefix)):
            got, want = fitted.arrays[names[key[len(prefix) - 1 :]]][estimator], known[key]
            assert got.shape == want.shape
            assert np.abs(got - want).max() <= 1e-4 * np.abs(want).max(), key
            checked += 1
    assert checked == 12


def toy(mu: float) -> tuple[onnx.ModelProto, Array, float]:
    """Kindermans' section 2: x = (1, 0) y + (1, 1) ε, w = (1, -1). For every y, ε takes mu ± the same values, so that
    cov(ε, y) = 0 in the sample. All numbers are multiples of 1/64: float32 is exact. Also E₊[y] / E₊[y²]."""
    signal = np.arange(-64, 65)[:, None] / 64.0
    noise = mu + np.concatenate([np.arange(1, 9), -np.arange(1, 9)])[None, :] / 8.0
    x = np.stack([(signal + noise).ravel(), np.broadcast_to(noise, (129, 16)).ravel()], axis=1)
    weight = np.asarray([[1.0, -1.0]], np.float32)
    node = helper.make_node("Gemm", ["x", "w"], ["y"], name="neuron", transB=1)
    model = model_of([node], {"x": ["N", 2]}, {"y": ["N", 1]}, {"w": weight})
    above = signal[signal > 0]
    return model, x.astype(np.float32), float(above.mean() / (above**2).mean())


@pytest.mark.parametrize("estimator", ["plus", "linear", "plus-within", "minus"])
def test_toy_without_a_mean(estimator: str) -> None:
    """Every estimator finds the signal (1, 0); PatternNet and PatternAttribution give (y, 0)."""
    model, x, _ = toy(0.0)
    fitted = fit_patterns(model, x, raw_input=True)
    # Rounding of float64 sums over 2000 samples.
    np.testing.assert_allclose(fitted.arrays["neuron"][estimator], [[1.0, 0.0]], atol=1e-14)
    if estimator == "minus":
        return
    for method in ("pattern-net", "pattern-attribution"):
        explainer = onnxplain.compile(model, method, patterns=fitted, estimator=estimator, target=0)
        got = explainer(x[::100])
        want = np.concatenate([got.outputs["y"], np.zeros_like(got.outputs["y"])], axis=1)
        assert np.abs(want).max() > 0.5
        np.testing.assert_allclose(got.attribution, want, atol=1e-7)


def test_toy_with_a_mean_misleads_equation_seven() -> None:
    """docs/methods/patterns.md: with E[ε] = mu, Eq. 7 gives (1 + k mu, k mu), k = E₊[y] / E₊[y²] (3/2 for uniform y);
    the covariance over all samples, or inside y > 0, still gives (1, 0)."""
    model, x, k = toy(1.0)
    arrays = fit_patterns(model, x, raw_input=True).arrays["neuron"]
    np.testing.assert_allclose(arrays["plus"], [[1.0 + k, k]], rtol=1e-12)
    assert k == pytest.approx(1.5, rel=0.02)
    np.testing.assert_allclose(arrays["linear"], [[1.0, 0.0]], atol=1e-12)
    np.testing.assert_allclose(arrays["plus-within"], [[1.0, 0.0]], atol=1e-12)


def test_every_neuron_reads_its_own_pattern_as_one() -> None:
    """wᵀa = 1, to the rounding of one dot product; 0 for a neuron that is never on."""
    fitted = fit_patterns(LENET, digits(60))
    weights = {
        t.name: onnx.numpy_helper.to_array(t).astype(np.float64) for t in onnx.load(LENET).graph.initializer
    }
    for node, name in (
        ("/conv1/Conv", "conv1"),
        ("/conv2/Conv", "conv2"),
        ("/fc1/Gemm", "fc1"),
        ("/fc2/Gemm", "fc2"),
    ):
        for estimator, a in fitted.arrays[node].items():
            w = weights[f"{name}.weight"]
            assert a.shape == w.shape and a.dtype == np.float64
            dots = (w * a).reshape(len(w), -1).sum(axis=1)
            silent = ~a.reshape(len(w), -1).any(axis=1)
            np.testing.assert_allclose(dots[~silent], 1.0, atol=1e-10)
            assert silent.sum() == fitted.provenance["health"][node][estimator]["silent"]
    health = fitted.provenance["health"]["/fc1/Gemm"]
    assert health["samples"] == 60 and health["plus"]["silent"] > 0 and health["plus"]["few"] > 0
    assert health["plus"]["deviation"] <= 1e-10
    text = " ".join(fitted.provenance["warnings"])
    assert "/fc1/Gemm" in text and "are never on" in text and "fewer samples than their 800 inputs" in text


def test_a_neuron_that_is_never_on() -> None:
    """E₊ of nothing is 0: the pattern is 0 and not NaN. A neuron that never varies has no covariance either."""
    weight = np.asarray([[1.0, 0.0], [-1.0, 0.0]], np.float32).T
    node = helper.make_node("Gemm", ["x", "w"], ["y"], name="neuron")
    model = model_of([node], {"x": ["N", 2]}, {"y": ["N", 2]}, {"w": weight})
    x = np.asarray([[1.0, 0.5], [1.0, 2.0], [1.0, -1.0]], np.float32)
    arrays = fit_patterns(model, x, raw_input=True).arrays["neuron"]
    assert all(np.isfinite(a).all() for a in arrays.values())
    assert not arrays["plus"][:, 1].any()
    np.testing.assert_allclose(arrays["linear"], 0.0, atol=1e-15)


def small_conv(
    op: str, attrs: dict[str, Any], w: tuple[int, ...], x: tuple[int, ...], y: tuple[int, ...]
) -> Any:
    """A layer with whole numbers as weights and bias, and pictures of whole numbers: float32 is exact."""
    draw = np.random.default_rng(5)
    outs = y[0]
    parameters = {
        "w": draw.integers(-3, 4, w).astype(np.float32),
        "b": draw.integers(-3, 4, outs).astype(np.float32),
    }
    node = helper.make_node(op, ["x", "w", "b"], ["y"], name="layer", **attrs)
    model = model_of([node], {"x": ["N", *x]}, {"y": ["N", *y]}, parameters)
    return model, parameters["w"], draw.integers(-3, 4, (3, *x)).astype(np.float32)


def taps(
    op: str, o: int, size: int, kernel: int, stride: int, pad: int, dilation: int
) -> list[tuple[int, int]]:
    """(k, i): the window cells of output position o along one axis, and the input cells they read."""
    found = []
    for k, i in product(range(kernel), range(size)):
        reads = i == o * stride - pad + k * dilation if op == "Conv" else o == i * stride - pad + k * dilation
        if reads:
            found.append((k, i))
    return found


def by_hand(op: str, attrs: dict[str, Any], w: Array, x: Array, y: Array) -> dict[str, Array]:
    """The sums of docs/methods/patterns.md, a sample at a time; layout (channel out, channel in of the group, k...)."""
    group, count = attrs.get("group", 1), x.ndim - 2
    per_out, per_in = y.shape[1] // group, x.shape[1] // group
    kernel = w.shape[2:]
    strides, pads, dilations = (
        attrs.get("strides", [1] * count),
        attrs.get("pads", [0] * 2 * count),
        attrs.get("dilations", [1] * count),
    )
    shape = (y.shape[1], per_in, *kernel)
    sums = {key: np.zeros(shape) for key in ("x", "x+", "xy", "xy+")}
    counts = {key: np.zeros(y.shape[1]) for key in ("n", "n+", "y", "y+", "yy")}
    for n in range(len(x)):
        for place in product(*map(range, y.shape[2:])):
            axes = [
                taps(op, place[a], x.shape[2 + a], kernel[a], strides[a], pads[a], dilations[a])
                for a in range(count)
            ]
            for m in range(y.shape[1]):
                patch = np.zeros(shape[1:])
                first = m // per_out * per_in
                for cells in product(*axes):
                    k, i = tuple(k for k, _ in cells), tuple(i for _, i in cells)
                    for c in range(per_in):
                        patch[(c, *k)] = x[(n, first + c, *i)]
                value = float(y[(n, m, *place)])
                above = float(value > 0)
                for key, factor in (("x", 1.0), ("x+", above), ("xy", value), ("xy+", value * above)):
                    sums[key][m] += patch * factor
                for key, number in (
                    ("n", 1.0),
                    ("n+", above),
                    ("y", value),
                    ("y+", value * above),
                    ("yy", value**2),
                ):
                    counts[key][m] += number
    return sums | counts


@pytest.mark.parametrize(
    ("op", "attrs", "w", "x", "y"),
    [
        ("Conv", {}, (3, 2, 3, 3), (2, 5, 4), (3, 3, 2)),
        ("Conv", {"strides": [2, 3], "pads": [1, 2, 0, 1]}, (3, 2, 3, 2), (2, 6, 7), (3, 3, 3)),
        ("Conv", {"dilations": [2, 1], "pads": [2, 0, 1, 0], "group": 2}, (4, 1, 2, 3), (2, 5, 5), (4, 6, 3)),
        ("Conv", {"group": 3, "strides": [2, 2], "pads": [1, 1, 1, 1]}, (3, 1, 3, 3), (3, 6, 5), (3, 3, 3)),
        ("Conv", {"strides": [2]}, (2, 3, 3), (3, 8), (2, 3)),
        ("ConvTranspose", {"strides": [2, 1], "pads": [1, 0, 0, 1]}, (3, 2, 3, 2), (3, 3, 4), (2, 6, 4)),
        (
            "ConvTranspose",
            {"strides": [3, 2], "group": 2, "dilations": [1, 2], "output_padding": [2, 1]},
            (4, 2, 2, 2),
            (4, 2, 3),
            (4, 7, 8),
        ),
    ],
)
def test_sums_by_brute_force(
    op: str, attrs: dict[str, Any], w: tuple[int, ...], x: tuple[int, ...], y: tuple[int, ...]
) -> None:
    """Whole numbers throughout: the sums must be equal, bit by bit."""
    model, weight, pictures = small_conv(op, attrs, w, x, y)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    values = np.asarray(session.run(None, {"x": pictures})[0])
    assert values.shape[1:] == y
    want = by_hand(op, attrs, weight, pictures, values)
    (moments,) = gather(model, pictures, raw_input=True).nodes.values()
    layout, sums, o = moments.layout, moments.sums.value, moments.layout.neurons
    shape = (layout.group * o, *want["x"].shape[1:])
    got = {
        "xy": sums[:, :o, :-1].reshape(shape),
        "xy+": sums[:, o : 2 * o, :-1].reshape(shape),
        "x+": sums[:, 2 * o : 3 * o, :-1].reshape(shape),
        "x": np.repeat(sums[:, 3 * o :, :-1], o, axis=1).reshape(shape),
        "y": sums[:, :o, -1].ravel(),
        "y+": sums[:, o : 2 * o, -1].ravel(),
        "n+": sums[:, 2 * o : 3 * o, -1].ravel(),
        "n": np.repeat(sums[:, 3 * o, -1], o),
        "yy": moments.squares.value.ravel(),
    }
    assert got.keys() == want.keys() and want["xy+"].any()
    for key, array in got.items():
        np.testing.assert_array_equal(array, want[key], err_msg=key)
    neurons = layout.neurons_of(moments.weight)
    np.testing.assert_array_equal(layout.weight_of(neurons), weight)
    reference = (
        np.moveaxis(weight.reshape(layout.group, -1, *weight.shape[1:]), 2, 1) if op != "Conv" else weight
    )
    np.testing.assert_array_equal(neurons, reference.reshape(neurons.shape))


@pytest.mark.parametrize(
    ("op", "attrs", "w"),
    [
        ("MatMul", {}, (4, 3)),
        ("Gemm", {"alpha": 0.5}, (4, 3)),
        ("Gemm", {"transB": 1, "alpha": -2.0}, (3, 4)),
        ("Gemm", {"transA": 1}, (4, 3)),
    ],
)
def test_products(op: str, attrs: dict[str, Any], w: tuple[int, ...]) -> None:
    """S_a of a product is the textbook's cov[x, y] / var[y], scaled to wᵀa = 1 with alpha in w."""
    draw = np.random.default_rng(3)
    weight, flipped = draw.normal(size=w).astype(np.float32), bool(attrs.get("transA"))
    node = helper.make_node(op, ["x", "w"], ["y"], name="layer", **attrs)
    shape: list[int | str] = [4, 1] if flipped else [1, 6, 4] if op == "MatMul" else ["N", 4]
    out: list[int | str] = [1, 3] if flipped else [1, 6, 3] if op == "MatMul" else ["N", 3]
    model = model_of([node], {"x": shape}, {"y": out}, {"w": weight})
    if flipped:  # the only sample there can be has no covariance
        with pytest.raises(ModelError, match="cannot take one picture at a time"):
            fit_patterns(model, np.zeros((3, 1), np.float32), raw_input=True)
        return
    x = draw.normal(size=(40, 6, 4) if op == "MatMul" else (40, 4)).astype(np.float32)
    a = fit_patterns(model, x, raw_input=True).arrays["layer"]["linear"]
    matrix = (weight.T if attrs.get("transB") else weight).astype(np.float64) * attrs.get("alpha", 1.0)
    flat = x.reshape(-1, 4).astype(np.float64)
    z = flat @ matrix
    cov = (flat - flat.mean(0)).T @ (z - z.mean(0)) / len(flat)
    want = cov / (matrix * cov).sum(axis=0)
    np.testing.assert_allclose(a.T if attrs.get("transB") else a, want, rtol=1e-5, atol=1e-6)


def test_a_batch_norm_is_part_of_the_neuron() -> None:
    """Patterns belong to the canonical form: y is what leaves the BatchNormalization."""
    model = onnx.load(DATA / "golden" / "resnet.onnx")
    with np.load(DATA / "golden" / "resnet.npz") as file:
        shape = file["x"].shape[1:]
    x = np.random.default_rng(1).normal(size=(30, *shape)).astype(np.float32)
    fitted = fit_patterns(model, x, raw_input=True)
    emitted = onnxplain.compile(model, "pattern-attribution", patterns=fitted, target="top")
    assert np.isfinite(emitted(x[:2]).attribution).all()
    assert [rule for rule in emitted.card.rules.values() if rule.startswith("pattern")] == [
        "pattern[plus]"
    ] * len(fitted.arrays)
    assert max(entry["plus"]["deviation"] for entry in fitted.provenance["health"].values()) < 1e-9


def test_models_that_cannot_be_fitted() -> None:
    x = np.zeros((2, 4), np.float32)
    two = model_of(
        [helper.make_node("Add", ["a", "b"], ["y"])], {"a": ["N", 4], "b": ["N", 4]}, {"y": ["N", 4]}
    )
    with pytest.raises(OptionError, match="the model has 2 inputs"):
        fit_patterns(two, x, raw_input=True)
    none = model_of([helper.make_node("Relu", ["x"], ["y"])], {"x": ["N", 4]}, {"y": ["N", 4]})
    with pytest.raises(ModelError, match="no convolution or product with weights"):
        fit_patterns(none, x, raw_input=True)
    with pytest.raises(OptionError, match="choose from"):
        fit_patterns(LENET, digits(1), estimators=("plus", "best"))
    with pytest.raises(OptionError, match="no picture was counted"):
        patterns_of(Statistics({}, {}))


def test_nodes_without_patterns_are_named() -> None:
    """A weight in front, (3, 4) x: fitted are the others; the reason stands in the provenance."""
    weights = {"w": np.ones((3, 4), np.float32), "v": np.ones((5, 2), np.float32)}
    nodes = [
        helper.make_node("MatMul", ["w", "x"], ["h"], name="front"),
        helper.make_node("MatMul", ["h", "v"], ["y"], name="back"),
    ]
    model = model_of(nodes, {"x": ["N", 4, 5]}, {"y": ["N", 3, 2]}, weights)
    x = np.random.default_rng(0).normal(size=(5, 4, 5)).astype(np.float32)
    fitted = fit_patterns(model, x, raw_input=True)
    assert list(fitted.arrays) == ["back"]
    assert "front: no patterns, its weight stands first" in fitted.provenance["warnings"]


def test_activations_that_overflow() -> None:
    weight = np.full((1, 1), 1e30, np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], name="first"),
        helper.make_node("MatMul", ["h", "w"], ["y"], name="second"),
    ]
    model = model_of(nodes, {"x": ["N", 1]}, {"y": ["N", 1]}, {"w": weight})
    with pytest.raises(ImageError, match="the sums of 'second' are not finite"):
        fit_patterns(model, np.ones((2, 1), np.float32), raw_input=True)
