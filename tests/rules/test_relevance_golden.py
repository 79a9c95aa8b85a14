"""LRP and deep Taylor against stored float64 results on small nets with random weights.

data/golden/lrp_*.npz holds what a float64 implementation gives for the stored input and class; it agrees with captum
and zennit wherever those compute the same. Measured errors are below 4e-5 of the largest element, nearly all below
1e-6: up to 1e-4 is accepted. overlap_pool has z_c = -0.006, where ε = 1e-6 counts: up to 1e-3.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from onnxplain.rewriter.compile import Request, compile_model
from onnxplain.rewriter.method import Method
from onnxplain.rules import methods_lrp
from tests.rules.forward import session

DATA = Path(__file__).parents[1] / "data" / "golden"
METHODS = {method.name: method for method in vars(methods_lrp).values() if isinstance(method, Method)}
RANGE = {"low": -3.0, "high": 3.0}
KEYS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "lrp_0": ("lrp.zero", {}),
    "lrp_eps1e-6": ("lrp.epsilon", {}),
    "lrp_eps0.25": ("lrp.epsilon", {"epsilon": 0.25}),
    "lrp_eps1e-6_ignorebias": ("lrp.epsilon", {"bias": "ignore"}),
    "lrp_gamma0.25": ("lrp.gamma", {}),
    "lrp_gammaplain0.25": ("lrp.gamma", {"variant": "plain"}),
    "lrp_a1b0": ("lrp.alpha-beta", {"alpha": 1.0}),
    "lrp_a2b1": ("lrp.alpha-beta", {}),
    "lrp_zplus_ignorebias": ("lrp.z-plus", {"bias": "ignore"}),
    "lrp_w2": ("lrp.w-square", {}),
    "lrp_flat": ("lrp.flat", {}),
    "lrp_EpsilonPlus": ("lrp.epsilon-plus", {}),
    "lrp_EpsilonPlusFlat": ("lrp.epsilon-plus-flat", {}),
    "lrp_EpsilonAlpha2Beta1": ("lrp.epsilon-alpha2-beta1", {}),
    "lrp_EpsilonAlpha2Beta1Flat": ("lrp.epsilon-alpha2-beta1-flat", {}),
    "lrp_EpsilonGammaBox": ("lrp.epsilon-gamma-box", RANGE),
    "lrp_deeptaylor_zb": ("deep-taylor", RANGE),
}


@cache
def stored(name: str) -> dict[str, NDArray[np.float64]]:
    with np.load(DATA / f"{name}.npz") as first, np.load(DATA / f"lrp_{name}.npz") as more:
        return {
            "x": first["x"],
            "y": first["y"],
            "class": first["class"],
            **{key: more[key] for key in more.files},
        }


NETS = sorted(file.stem.removeprefix("lrp_") for file in DATA.glob("lrp_*.npz"))
CASES = [(name, key) for name in NETS for key in KEYS if key in stored(name)]


def explain(name: str, method: str, options: Mapping[str, Any], x: NDArray[Any]) -> NDArray[np.float32]:
    request = Request(target=int(stored(name)["class"]), options=options)
    made, _ = compile_model(onnx.load(DATA / f"{name}.onnx"), METHODS[method], request)
    found = session(made).run(["attribution"], {"x": x.astype(np.float32)})[0]
    return np.asarray(found)


def test_every_stored_map_is_compared() -> None:
    kept = {key for name in NETS for key in stored(name)} - {"x", "y", "class"}
    assert kept == set(KEYS) and len(NETS) == 9


@pytest.mark.parametrize(("name", "key"), CASES)
def test_maps_equal_the_stored_float64_results(name: str, key: str) -> None:
    method, options = KEYS[key]
    got, want = explain(name, method, options, stored(name)["x"]), stored(name)[key]
    if key == "lrp_deeptaylor_zb":  # stored without the clamp of the start, max(z_c, 0)
        want = want * (stored(name)["y"][0, int(stored(name)["class"])] > 0)
    assert got.shape == want.shape
    size = np.abs(want).max()
    assert size > 0 or name == "overlap_pool"
    assert np.abs(got - want).max() <= (1e-3 if name == "overlap_pool" else 1e-4) * size
