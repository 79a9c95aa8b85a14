"""Which heads the original CAM takes: those where the mean of the map, plus the bias, is the logit."""

from __future__ import annotations

import numpy as np
import pytest

from onnxplain.rewriter.errors import UnsupportedError
from tests.rewriter.nets import floats
from tests.rewriter.test_layers import POOLED, weighted

from .test_cam import SMALL, bias, emitted, logits, mapped

FLAT = POOLED.replace("q = AveragePool<kernel_shape=[2,2]>(p) f = Flatten(q)", "f = Flatten(p)")
HEADS: dict[str, tuple[str, dict[str, tuple[int, ...]], list[str]]] = {
    "flattened": (FLAT, {"v": (64, 3)}, ["Flatten"]),
    "a pool of part": (POOLED, {"v": (36, 3)}, ["AveragePool"]),
    "the largest cell": (FLAT.replace("f = Flatten(p)", "m = GlobalMaxPool(p) f = Flatten(m)"), {"v": (4, 3)},
                         ["GlobalMaxPool"]),
    "a hidden layer": (FLAT.replace("f = Flatten(p)", "m = GlobalAveragePool(p) g = Relu(m) f = Flatten(g)"),
                       {"v": (4, 3)}, ["Relu"]),
    "a wide convolution": (FLAT.replace("f = Flatten(p)", "c = Conv(p, u) m = GlobalAveragePool(c) f = Flatten(m)"),
                           {"v": (4, 3), "u": (4, 4, 3, 3)}, ["Conv"]),
    "weights of each cell": (FLAT.replace("f = Flatten(p)", "c = Mul(p, u) m = GlobalAveragePool(c) f = Flatten(m)"),
                             {"v": (4, 3), "u": (1, 1, 4, 4)}, ["Mul"]),
    "a product of two": (FLAT.replace("f = Flatten(p)", "m = GlobalAveragePool(p) s = Mul(m, m) f = Flatten(s)"),
                         {"v": (4, 3)}, ["Mul"]),
}  # fmt: skip


@pytest.mark.parametrize("name", HEADS)
def test_cam_needs_a_pooled_linear_head(name: str) -> None:
    """Whatever CAM would show there is not the logit cell by cell. Grad-CAM takes all of them."""
    body, weights, ops = HEADS[name]
    source = weighted(body, w=(4, 2, 3, 3), **weights)
    with pytest.raises(UnsupportedError, match="use grad-cam") as caught:
        emitted(source, "cam", layer="p")
    assert [site.op for site in caught.value.sites] == ops
    emitted(source, "grad-cam", layer="p")


HEAD = "int64[2] both = {2,3}, float[4,1,1] s = {1,2,3,4}, float two = {2}"
GOOD = {
    "global average": "m = GlobalAveragePool(p) f = Flatten(m)",
    "reduced": "f = ReduceMean<keepdims=0>(p, both)",
    "tiles first": "t = AveragePool<kernel_shape=[2,2], strides=[2,2]>(p) m = GlobalAveragePool(t) f = Flatten(m)",
    "a window over all": "m = AveragePool<kernel_shape=[4,4]>(p) f = Flatten(m)",
    "a scale of each channel": "c = Mul(p, s) d = Div(c, two) e = Add(d, s) m = GlobalAveragePool(e) f = Flatten(m)",
    "scaled behind": "m = GlobalAveragePool(p) c = Mul(m, s) d = Sub(c, two) f = Flatten(d)",
    "two branches": "c = Conv(p, u) e = Add(c, p) m = GlobalAveragePool(e) f = Flatten(m)",
    "turned": "t = Transpose<perm=[0,2,3,1]>(p) f = ReduceMean<keepdims=0>(t, front)",
    "turned, a product": "t = Transpose<perm=[0,2,3,1]>(p) c = MatMul(t, q) f = ReduceMean<keepdims=0>(c, front)",
}


@pytest.mark.parametrize("name", GOOD)
def test_pooled_linear_heads(name: str) -> None:
    body = FLAT.replace("f = Flatten(p)", GOOD[name]).replace(
        "{\n", f"<{HEAD}, int64[2] front = {{1,2}}> {{\n", 1
    )
    source = weighted(body, w=(4, 2, 3, 3), v=(4, 3), u=(4, 4, 1, 1), q=(4, 4))
    x = floats(2, 2, 8, 8, seed=5)
    z = logits(source, x)
    b = bias(source, "p", (1, 4, 4, 4))
    for c in range(3):
        m = mapped(source, "cam", x, c, layer="p", **SMALL)
        assert np.abs(m.mean(axis=(1, 2, 3)) + b[0, c] - z[:, c]).max() < 1e-5 * max(1.0, np.abs(z).max())
