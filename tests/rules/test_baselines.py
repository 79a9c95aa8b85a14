"""The reference input: what each kind is, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from onnxplain.rewriter.compile import Request, compile_model
from onnxplain.rewriter.errors import OptionError
from onnxplain.rules.baselines import BASELINE, gaussian
from onnxplain.rules.methods_deeplift import DEEPLIFT_RESCALE
from tests.deeplift import Array, near, noise, run
from tests.rewriter.nets import net

F = np.float32
ABOUT = {"mean": [10.0, 20.0, 30.0], "std": [2.0, 4.0, 5.0]}


def doubled(dims: str = "N,3,8,10", kind: str = "float") -> onnx.ModelProto:
    """y = 2 x: the contributions are 2 (x - x⁰)."""
    return net(f"g ({kind}[{dims}] x) => ({kind}[{dims}] y) {{ y = Add (x, x) }}")


def compiled(model: onnx.ModelProto, baseline: Any, about: dict[str, Any] | None = None) -> onnx.ModelProto:
    request = Request(target="cotangent", options={"baseline": baseline}, preprocessing=about)
    return compile_model(model, DEEPLIFT_RESCALE, request)[0]


def seen(
    x: Array, kind: Any, about: dict[str, Any] | None = None, dims: str = "N,3,8,10", **more: Array
) -> Array:
    """The reference, as the contributions of y = 2 x tell it."""
    emitted = compiled(doubled(dims, "double" if x.dtype == np.float64 else "float"), kind, about)
    got = run(emitted, {"x": x, "cotangent": np.ones_like(x), **more})["attribution"]
    assert got.dtype == x.dtype
    return np.asarray(x - got / 2)


def image(rows: int = 2) -> Array:
    return noise(rows, 3, 8, 10, seed=1)


@pytest.mark.parametrize("dims", ["N,3,8,10", "N,3,H,W", "2,3,8,10", "N,C,H,W"])
@pytest.mark.parametrize("baseline", ["zeros", 0.25, -3, np.float32(0.5), np.int64(2)])
def test_numbers(baseline: Any, dims: str) -> None:
    want = 0.0 if baseline == "zeros" else float(baseline)
    near(seen(image(), baseline, dims=dims), np.full((2, 3, 8, 10), want, F))


def test_zeros_are_the_default() -> None:
    assert BASELINE.default == "zeros"
    emitted, card = compile_model(doubled(), DEEPLIFT_RESCALE, Request(target="cotangent"))
    x = image()
    near(run(emitted, {"x": x, "cotangent": np.ones_like(x)})["attribution"], 2 * x)
    assert card.options["baseline"] == "zeros"


def test_black_is_a_pixel_of_zero_as_pictures_are_prepared() -> None:
    black = np.asarray([-5, -5, -6], F)[:, None, None]
    near(seen(image(), "black", ABOUT), np.broadcast_to(black, (2, 3, 8, 10)))
    last = np.moveaxis(image(), 1, 3).copy()
    got = seen(last, "black", {**ABOUT, "layout": "NHWC"}, "N,8,10,3")
    near(got, np.broadcast_to(np.moveaxis(black, 0, 2), (2, 8, 10, 3)))
    gray = noise(2, 1, 8, 10)
    near(seen(gray, "black", {"mean": [3.0], "std": [2.0]}, "N,1,8,10"), np.full_like(gray, -1.5))


@pytest.mark.parametrize(
    "about, dims",
    [(None, "N,3,8,10"), ({"mean": [1.0]}, "N,3,8,10"), (ABOUT, "N,6"), (ABOUT, "N,4,8,10")],
)
def test_black_needs_to_know_how_pictures_are_prepared(about: dict[str, Any] | None, dims: str) -> None:
    with pytest.raises(OptionError, match="black"):
        compiled(doubled(dims), "black", about)


def test_arrays_with_and_without_a_batch_axis() -> None:
    one = noise(3, 8, 10, seed=5)
    for given in (one, one[None], one.astype(np.float64), one.tolist()):
        near(seen(image(), given), np.broadcast_to(one, (2, 3, 8, 10)))
    near(seen(noise(2, 3, 4), one[:, :4, 0], dims="N,3,L"), np.broadcast_to(one[:, :4, 0], (2, 3, 4)))


def test_an_array_is_recorded_by_its_hash() -> None:
    request = Request(target="cotangent", options={"baseline": noise(3, 8, 10)})
    _, card = compile_model(doubled(), DEEPLIFT_RESCALE, request)
    assert card.options["baseline"]["shape"] == [3, 8, 10]


@pytest.mark.parametrize("shape", [(2, 3, 8, 10), (3, 8, 9), (8, 10), (3,), ()])
def test_an_array_must_be_one_input(shape: tuple[int, ...]) -> None:
    with pytest.raises(OptionError, match="shape"):
        compiled(doubled(), np.zeros(shape, F))


@pytest.mark.parametrize(
    "value",
    [
        "zeroes", "blur:", "blur:-1", "blur:nan", "blur:wide", True, None, float("nan"), float("inf"), [[1], [1, 2]],
        np.asarray([np.inf]), np.asarray(["a"]), {"a": 1}, object(),
    ],
)  # fmt: skip
def test_values_that_are_no_baseline(value: Any) -> None:
    with pytest.raises(OptionError, match="baseline"):
        compiled(doubled(), value)


def test_a_misspelt_name_is_corrected() -> None:
    with pytest.raises(OptionError, match="did you mean 'zeros'"):
        compiled(doubled(), "zeroes")


def blurred(x: Array, sigma: float) -> Array:
    """One sample and channel after the other, in float64, borders repeated."""
    window, out = gaussian(sigma), x.astype(np.float64)
    reach = window.size // 2
    for axis in range(2, x.ndim):
        pads = [(reach, reach) if i == axis else (0, 0) for i in range(x.ndim)]
        padded = np.moveaxis(np.pad(out, pads, mode="edge"), axis, -1)
        lines = padded.reshape(-1, padded.shape[-1])
        done = np.stack([np.convolve(line, window, mode="valid") for line in lines])
        out = np.moveaxis(done.reshape(*padded.shape[:-1], -1), -1, axis)
    return out.astype(x.dtype)


@pytest.mark.parametrize("dims", ["N,3,8,10", "N,3,H,W", "2,3,8,10"])
def test_blur(dims: str) -> None:
    near(seen(image(), "blur:1.5", dims=dims), blurred(image(), 1.5))


@pytest.mark.parametrize("shape", [(2, 3, 40), (2, 2, 6, 30, 5)])
def test_blur_of_lines_and_volumes_by_a_twentieth_of_the_longest_side(shape: tuple[int, ...]) -> None:
    x = noise(*shape, seed=1)
    dims = ",".join(["N", *map(str, shape[1:])])
    near(seen(x, "blur", dims=dims), blurred(x, max(1.0, max(shape[2:]) / 20)))


def test_blur_with_the_channels_last() -> None:
    last = np.moveaxis(image(), 1, 3).copy()
    got = seen(last, "blur:2", {**ABOUT, "layout": "NHWC"}, "N,8,10,3")
    near(got, np.moveaxis(blurred(image(), 2.0), 1, 3))


@pytest.mark.parametrize("baseline, dims", [("blur", "N,3,H,W"), ("blur", "N,6"), ("blur:2", "N,6")])
def test_blur_needs_a_size(baseline: str, dims: str) -> None:
    with pytest.raises(OptionError, match="blur"):
        compiled(doubled(dims), baseline)


def test_the_filter_keeps_the_mean() -> None:
    for sigma in (0.1, 1, 7.3):
        window = gaussian(sigma)
        assert np.isclose(window.sum(), 1) and np.array_equal(window, window[::-1])
        assert window.size == 2 * max(1, int(np.ceil(3 * sigma))) + 1


@pytest.mark.parametrize("rows", [1, 2])
def test_a_reference_that_is_fed(rows: int) -> None:
    x0 = noise(rows, 3, 8, 10, seed=7)
    near(seen(image(), "input", baseline=x0), np.broadcast_to(x0, (2, 3, 8, 10)))
    made = compiled(doubled(), "input").graph.input
    (value,) = (value for value in made if value.name == "baseline")
    assert [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim] == ["M", 3, 8, 10]


def test_a_fed_reference_for_each_of_two_inputs() -> None:
    ends = [helper.make_tensor_value_info(name, 1, ["N", 3]) for name in ("a", "b", "y")]
    graph = helper.make_graph([helper.make_node("Mul", ["a", "b"], ["y"])], "g", ends[:2], ends[2:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    request = Request(target="cotangent", inputs=("a", "b"), options={"baseline": "input"})
    emitted, _ = compile_model(model, DEEPLIFT_RESCALE, request)
    a, b, a0, b0 = (noise(2, 3, seed=i) for i in range(4))
    feeds = {"a": a, "b": b, "baseline/a": a0, "baseline/b": b0, "cotangent": np.ones_like(a)}
    got = run(emitted, feeds)
    near(got["attribution/a"], (a - a0) * (b + b0) / 2)
    near(got["attribution/b"], (b - b0) * (a + a0) / 2)


def test_double_inputs_get_double_references() -> None:
    x = image().astype(np.float64)
    assert np.abs(seen(x, "blur:1") - blurred(x, 1.0)).max() < 1e-6
    assert np.array_equal(seen(x, 0.1), x - (x - 0.1))


def test_a_constant_reference_adds_no_data_to_the_file() -> None:
    """One number is stored, not 3 x 512 x 512 of them."""
    assert compiled(doubled("N,3,512,512"), 0.5).ByteSize() < 10_000
