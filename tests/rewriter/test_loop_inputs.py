"""Files with a loop: several inputs, explained or beside, with a batch or without, and those of the method inside."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from .nets import floats, net
from .test_loop import METHODS, NOISE, PATH, SAMPLES, TANH, explained, fed, near

PRODUCT = "g (float[{a},4] a, float[{b}] b) => (float[{a},4] y) {{ y = Mul(a, b) }}"


def product(a: str, b: str) -> onnx.ModelProto:
    return net(PRODUCT.format(a=a, b=b))


@pytest.mark.parametrize(
    ("lead", "shape"), [("N,4", (2, 4)), ("M,4", (2, 4)), ("1,4", (1, 4)), ("4", (4,)), ("K", (4,))]
)
@pytest.mark.parametrize("method", METHODS)
def test_inputs_beside_the_explained_one(method: str, lead: str, shape: tuple[int, ...]) -> None:
    """Of the same batch, of a batch that has another name, of no batch."""
    a, b = floats(2, 4), np.abs(floats(*shape, seed=4)) + np.float32(0.5)
    feeds = {"a": a, "b": b} | ({} if method == PATH else {"noise": floats(SAMPLES, 4, seed=9)})
    got = explained(product("N", lead), feeds, method, 1, inputs=("a",))["attribution"]
    slope = np.zeros((2, 4), np.float32)
    slope[:, 1] = np.broadcast_to(b, (2, 4))[:, 1]
    want = {PATH: slope * a, NOISE: slope, "smoothgrad-squared": slope**2}.get(method)
    if want is None:  # the map is linear: no variance, not even of rounding
        assert not got.any()
    else:
        near(got, want)


@pytest.mark.parametrize("lanes", [1, 4])
def test_several_explained_inputs(lanes: int) -> None:
    """y = a b from 0 to (a, b): IG = a b / 2 for each; smoothed, the other input plus its mean noise."""
    a, b, both = floats(2, 4), floats(2, 4, seed=1), ("a", "b")
    path = explained(product("N", "N,4"), {"a": a, "b": b}, PATH, 2, both, lanes=lanes)
    half = np.zeros_like(a)
    half[:, 2] = (a * b)[:, 2] / 2
    near(path["attribution/a"], half)
    near(path["attribution/b"], half)
    noise = {"noise/a": floats(SAMPLES, 4, seed=5), "noise/b": floats(SAMPLES, 4, seed=6)}
    smooth = explained(product("N", "N,4"), {"a": a, "b": b, **noise}, NOISE, 2, both, lanes=lanes)
    for own, other, name in ((a, b, "b"), (b, a, "a")):
        sigma = 0.15 * (other.max(axis=1) - other.min(axis=1))
        want = np.zeros_like(own)
        want[:, 2] = other[:, 2] + sigma * noise[f"noise/{name}"][:, 2].mean()
        near(smooth["attribution/a" if own is a else "attribution/b"], want)


def test_an_explained_input_without_a_batch_beside_one_with() -> None:
    a, b = floats(2, 4), floats(1, 4, seed=1)
    noise = {"noise/a": floats(SAMPLES, 4, seed=5), "noise/b": floats(SAMPLES, 4, seed=6)}
    got = explained(product("N", "1,4"), {"a": a, "b": b, **noise}, NOISE, 2, ("a", "b"))
    plain = explained(product("N", "1,4"), {"a": a, "b": b}, "saliency", 2, ("a", "b"))
    assert got["attribution/b"].shape == plain["attribution/b"].shape


def test_whole_numbers_beside_the_explained_input() -> None:
    model = net(
        """g (float[N,4] a, int64[N] i, bool flag) => (float[N,4] y, int64[N] j)
        <float[3,4] e = {1,2,3,4,5,6,7,8,9,10,11,12}> { r = Gather(e, i) y = Mul(a, r) j = Identity(i) }"""
    )
    feeds = {"a": floats(2, 4), "i": np.array([0, 2]), "flag": np.array(True), "noise": floats(SAMPLES, 4)}
    got = explained(model, feeds, NOISE, 1)["attribution"]
    near(got, np.array([[0, 2, 0, 0], [0, 10, 0, 0]], np.float32))


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("lanes", [1, 4])
def test_a_reference_fed_to_the_method_inside(rows: int, lanes: int) -> None:
    """One row for all samples, or one a row of x: the lanes get the one of their row."""
    model, x, r = net(TANH), floats(2, 4) * np.float32(0.1), floats(rows, 4, seed=3) * np.float32(0.1)
    options: dict[str, Any] = {"inner": "deeplift.rescale", "baseline": "input", "lanes": lanes}
    got = explained(model, fed(NOISE, x, baseline=r), NOISE, 1, **options)["attribution"]
    eps, sigma = floats(SAMPLES, 4, seed=9), 0.15 * (x.max(axis=1) - x.min(axis=1))
    singles = [
        explained(
            model, {"x": x + e * sigma[:, None], "baseline": r}, "deeplift.rescale", 1, baseline="input"
        )["attribution"]
        for e in eps
    ]
    near(got, np.mean(singles, axis=0))
