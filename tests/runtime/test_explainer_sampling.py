"""What the runtime feeds besides the picture: noise and baselines, drawn, given, or wrongly given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

import onnxplain
from onnxplain import OptionError

from .small import model_of

RNG = np.random.default_rng(3)
W = RNG.normal(size=(4, 3)).astype(np.float32)
F = np.float32
SIGMA = 0.15


def floats(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(F)


def tanh(dtype: type = np.float32, name: str = "x") -> onnx.ModelProto:
    """y = tanh(x W), x (N, 4)."""
    nodes = [helper.make_node("MatMul", [name, "w"], ["a"]), helper.make_node("Tanh", ["a"], ["y"])]
    return model_of(nodes, {name: ["N", 4]}, {"y": ["N", 3]}, {"w": W.astype(dtype)}, dtype)


def product() -> onnx.ModelProto:
    """y = a b."""
    pair: dict[str, list[int | str]] = {"a": ["N", 4], "b": ["N", 4]}
    return model_of([helper.make_node("Mul", ["a", "b"], ["y"])], pair, {"y": ["N", 4]})


def drawn(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("seed", [0, 7])
def test_noise_is_drawn_with_the_seed(seed: int, dtype: type) -> None:
    x: np.ndarray = floats(2, 4).astype(dtype)
    explainer = onnxplain.compile(tanh(dtype), "smoothgrad", seed=seed, samples=6)
    first, again = explainer(x).attribution, explainer(x).attribution
    assert first.dtype == dtype
    assert np.array_equal(first, again)
    assert np.array_equal(first, explainer(x, noise=drawn(seed, 6, 4)).attribution)
    other = onnxplain.compile(tanh(dtype), "smoothgrad", seed=seed + 1, samples=6)
    assert not np.array_equal(other(x).attribution, first)


def test_a_saved_file_draws_the_same_noise(tmp_path: Path) -> None:
    x = floats(2, 4)
    explainer = onnxplain.compile(tanh(), "vargrad", seed=5, samples=3)
    loaded = onnxplain.load(explainer.save(tmp_path / "net.vargrad.onnx"))
    assert np.array_equal(loaded(x).attribution, explainer(x).attribution)


@pytest.mark.parametrize("rows", [1, 2, 5, 9])
def test_given_noise_may_have_any_number_of_rows(rows: int) -> None:
    """The mean of the gradients at the samples, one by one."""
    x, eps = floats(2, 4), floats(rows, 4)
    got = onnxplain.compile(tanh(), "smoothgrad", samples=3)(x, target=1, noise=eps).attribution
    plain = onnxplain.compile(tanh(), "saliency")
    spread = SIGMA * (x.max(axis=1) - x.min(axis=1))[:, None]
    want = np.mean([plain(x + spread * e, target=1).attribution for e in eps], axis=0)
    assert np.abs(got - want).max() < 1e-6 * max(1.0, np.abs(want).max())


@pytest.mark.parametrize(
    ("noise", "message"),
    [
        (np.zeros((0, 4), F), "no rows"),
        (np.zeros((3, 5), F), "axis 1 is 5 instead of 4"),
        (np.zeros(4, F), "1 axes instead of 2"),
        ("loud", "takes float32"),
    ],
)
def test_noise_that_does_not_fit(noise: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        onnxplain.compile(tanh(), "smoothgrad")(floats(2, 4), noise=noise)


def test_what_the_file_does_not_take() -> None:
    x = floats(2, 4)
    with pytest.raises(OptionError, match=r"takes no 'nois'.*did you mean 'noise'"):
        onnxplain.compile(tanh(), "smoothgrad")(x, nois=x)
    for method, name in (
        ("smoothgrad", "baseline"),
        ("integrated-gradients", "noise"),
        ("saliency", "noise"),
    ):
        with pytest.raises(OptionError, match=f"takes no '{name}'"):
            onnxplain.compile(tanh(), method)(x, **{name: x})


@pytest.mark.parametrize("rows", [1, 3])
def test_a_baseline_of_one_row_or_one_a_sample(rows: int) -> None:
    x, base = floats(3, 4), floats(rows, 4)
    got = onnxplain.compile(tanh(), "integrated-gradients", baseline="input", steps=8)(
        x, target=2, baseline=base
    )
    for i in range(3):
        own = base[i % rows][None]
        alone = onnxplain.compile(tanh(), "integrated-gradients", baseline=own, steps=8)
        assert np.abs(got.attribution[i] - alone(x[i : i + 1], target=2).attribution[0]).max() < 1e-6


def test_baselines_that_do_not_fit() -> None:
    explainer, x = onnxplain.compile(tanh(), "integrated-gradients", baseline="input"), floats(3, 4)
    with pytest.raises(OptionError, match="baseline= is missing"):
        explainer(x)
    for wrong, message in (
        (floats(2, 4), "2 rows for 3 samples"),
        (floats(0, 4), "0 rows for 3 samples"),
        (floats(4), "1 axes instead of 2"),
        (floats(1, 5), "axis 1 is 5 instead of 4"),
    ):
        with pytest.raises(OptionError, match=message):
            explainer(x, baseline=wrong)


@pytest.mark.parametrize("method", ["saliency", "integrated-gradients"])
@pytest.mark.parametrize("name", ["noise", "baseline", "references", "noise/x"])
def test_inputs_of_the_model_with_such_names_are_its_own(name: str, method: str) -> None:
    x = floats(2, 4)
    named, plain = (onnxplain.compile(tanh(name=label), method)(x, target=1) for label in (name, "x"))
    assert np.array_equal(named.attribution, plain.attribution)


def test_the_noise_has_the_sizes_of_the_explained_input() -> None:
    """Which need not be the first of its rank."""
    nodes = [helper.make_node("Mul", ["a", "b"], ["y"])]
    net = model_of(nodes, {"a": ["N", 1], "b": ["N", 4]}, {"y": ["N", 4]})
    a, b = floats(2, 1), floats(2, 4)
    got = onnxplain.compile(net, "smoothgrad", inputs=["b"])({"a": a, "b": b}, target=3).attribution
    want = np.zeros((2, 4))
    want[:, 3] = a[:, 0]
    assert np.abs(got - want).max() < 1e-6


def test_two_explained_inputs_have_noise_of_their_own() -> None:
    """y = a b: ∂y/∂a at the samples is b and the noise of b; equal noise on both would show as equal maps."""
    a = floats(2, 4)
    explainer = onnxplain.compile(product(), "smoothgrad", inputs=["a", "b"], samples=4)
    maps = explainer({"a": a, "b": a}, target=0).attributions
    assert not np.allclose(maps["a"], maps["b"])
    noise = floats(4, 4)
    both: dict[str, Any] = {"noise/a": noise, "noise/b": noise}
    same = explainer({"a": a, "b": a}, target=0, **both).attributions
    assert np.array_equal(same["a"], same["b"])
    # One given, one drawn: as many rows.
    half: dict[str, Any] = {"noise/b": noise[:2]}
    assert np.isfinite(explainer({"a": a, "b": a}, target=0, **half).attribution).all()
    uneven: dict[str, Any] = {"noise/a": noise, "noise/b": noise[:2]}
    with pytest.raises(OptionError, match="samples"):
        explainer({"a": a, "b": a}, **uneven)


@pytest.mark.parametrize("method", ["saliency", "smoothgrad", "integrated-gradients"])
@pytest.mark.parametrize("size", [1, 2, 7])
def test_an_input_of_no_batch_does_not_count_as_samples(size: int, method: str) -> None:
    nodes = [
        helper.make_node("ReduceSum", ["b"], ["s"], keepdims=0),
        helper.make_node("Mul", ["a", "s"], ["y"]),
    ]
    net = model_of(nodes, {"a": ["N", 4], "b": [size]}, {"y": ["N", 4]})
    feeds = {"a": floats(2, 4), "b": np.ones(size, F)}
    got = onnxplain.compile(net, method)(feeds, target=1).attribution
    want = np.zeros((2, 4))
    want[:, 1] = size * (feeds["a"][:, 1] if method == "integrated-gradients" else 1)
    assert np.abs(got - want).max() < 1e-5 * size
    cotangent = np.eye(4, dtype=F)[[1, 1]]
    fed = onnxplain.compile(net, method, target="cotangent")(feeds, cotangent=cotangent).attribution
    assert np.abs(fed - want).max() < 1e-5 * size
