"""Normalisations frozen at x0, in float64 (docs/methods/linearscope.md): stats, (x1 - μ(x0)) / s(x0) γ + β, and std,
(x1 - μ(x1)) / s(x0) γ + β. Tolerance: 1e-5 of the largest slope and offset, float32 (measured: 5e-7)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest

from onnxplain.rewriter.errors import UnsupportedError
from onnxplain.rules.scope.norms import NORMS
from tests.rules.scope.frozen import Doubles, Frozen, line, net, node, normal
from tests.rules.scope.golden import matrix

Line = Callable[[Doubles, Doubles, bool], Doubles]
"""y1 = f(x0, x1, std)."""
G4, B4 = normal(4, seed=1), normal(4, seed=2)
X = normal(2, 4, 3, 2) * 2 + 1
FLAT = np.stack([np.full((4, 3, 2), 0.75, np.float32), np.zeros((4, 3, 2), np.float32)])
"""Constant channels: the deviation is 0, ε alone is left."""
FAR = (X + 10).astype(np.float32)
"""A mean 5 times the deviation: both terms of stats are large, and cancel."""


def normal_form(
    x0: Doubles, x1: Doubles, axes: tuple[int, ...], epsilon: float, std: bool, centred: bool = True
) -> Doubles:
    mean = x0.mean(axes, keepdims=True) if centred else np.zeros(())
    deviation = np.sqrt(((x0 - mean) ** 2).mean(axes, keepdims=True) + epsilon)
    if not centred:
        return np.asarray(x1 / deviation)
    return np.asarray((x1 - (x1.mean(axes, keepdims=True) if std else mean)) / deviation)


def channels(v: np.ndarray) -> Doubles:
    return v.astype(np.float64).reshape(1, -1, 1, 1)


def instance(x0: Doubles, x1: Doubles, std: bool) -> Doubles:
    return np.asarray(normal_form(x0, x1, (2, 3), 1e-3, std) * channels(G4) + channels(B4))


def layer(bias: bool) -> Line:
    def f(x0: Doubles, x1: Doubles, std: bool) -> Doubles:
        y = normal_form(x0, x1, (2, 3), 1e-5, std) * LG.astype(float)
        return np.asarray(y + LB.astype(float) if bias else y)

    return f


def rms(x0: Doubles, x1: Doubles, std: bool) -> Doubles:
    return np.asarray(normal_form(x0, x1, (3,), 1e-5, std, centred=False) * RG.astype(float))


def group(x0: Doubles, x1: Doubles, std: bool) -> Doubles:
    lines = [v.reshape(len(v), 2, -1) for v in (x0, x1)]
    y = normal_form(lines[0], lines[1], (2,), 1e-5, std).reshape(x1.shape)
    return np.asarray(y * channels(G4) + channels(B4))


def lrn(x0: Doubles, x1: Doubles, std: bool) -> Doubles:
    """Windows of 3 channels."""
    wide = np.pad(x0**2, [(0, 0), (1, 1), (0, 0), (0, 0)])
    near = wide[:, :-2] + wide[:, 1:-1] + wide[:, 2:]
    return np.asarray(x1 * (1.5 + 0.3 / 3 * near) ** -0.6)


def lp(p: int) -> Line:
    def f(x0: Doubles, x1: Doubles, std: bool) -> Doubles:
        norm = (np.abs(x0) ** p).sum(1, keepdims=True) ** (1 / p)
        return np.asarray(np.where(norm == 0, 0.0, x1 / np.where(norm == 0, 1.0, norm)))

    return f


def moments(x0: Doubles, x1: Doubles, std: bool) -> Doubles:
    return normal_form(x0, x1, (2, 3), 2.0**-52, std)


LG, LB, RG = normal(3, 2, seed=3), normal(3, 2, seed=4), normal(2, seed=5)
SCALES: dict[str, Any] = {"g": G4, "b": B4}
CASES: dict[str, tuple[onnx.ModelProto, Line]] = {
    "InstanceNormalization": (
        net([node("InstanceNormalization", "x", "g", "b", epsilon=1e-3)], [4, 3, 2], SCALES),
        instance,
    ),
    "LayerNormalization": (
        net([node("LayerNormalization", "x", "g", "b", axis=2)], [4, 3, 2], {"g": LG, "b": LB}),
        layer(True),
    ),
    "LayerNormalization without bias": (
        net([node("LayerNormalization", "x", "g", axis=-2)], [4, 3, 2], {"g": LG}),
        layer(False),
    ),
    "RMSNormalization": (net([node("RMSNormalization", "x", "g")], [4, 3, 2], {"g": RG}, opset=23), rms),
    "GroupNormalization": (
        net([node("GroupNormalization", "x", "g", "b", num_groups=2)], [4, 3, 2], SCALES, opset=21),
        group,
    ),
    "LRN": (net([node("LRN", "x", size=3, alpha=0.3, beta=0.6, bias=1.5)], [4, 3, 2]), lrn),
    "LpNormalization": (net([node("LpNormalization", "x", axis=1, p=2)], [4, 3, 2]), lp(2)),
    "LpNormalization of p = 1": (net([node("LpNormalization", "x", axis=1, p=1)], [4, 3, 2]), lp(1)),
    "MeanVarianceNormalization": (
        net([node("MeanVarianceNormalization", "x", axes=[2, 3])], [4, 3, 2]),
        moments,
    ),
}


def test_every_operator_of_the_table_has_a_case() -> None:
    assert {made.op_type for model, _ in CASES.values() for made in model.graph.node} == set(NORMS)


@pytest.mark.parametrize("norm", ["stats", "std"])
@pytest.mark.parametrize("name", CASES)
def test_slope_and_offset(name: str, norm: str) -> None:
    model, f = CASES[name]
    for x0 in (X, X[1:], FAR):
        found = Frozen(model, x0, norm=norm)
        # onnxruntime's variance of FAR is a difference of numbers 25 times as large.
        found.agrees(*line(lambda a, b: f(a, b, norm == "std"), x0), tolerance=1e-4 if x0 is FAR else 1e-5)


@pytest.mark.parametrize("norm", ["stats", "std"])
@pytest.mark.parametrize("name", [name for name in CASES if name != "MeanVarianceNormalization"])
def test_where_nothing_varies(name: str, norm: str) -> None:
    """Constant channels, and all zeros: y1 = y0, and no infinity. (Without an ε of note, 0.75 - mean is rounding.)"""
    model, f = CASES[name]
    for x0 in (FLAT, FLAT[1:]):
        found = Frozen(model, x0, norm=norm)
        found.agrees(*line(lambda a, b: f(a, b, norm == "std"), x0), tolerance=1e-4)


def test_the_samples_of_a_batch_do_not_mix() -> None:
    mixed = net([node("MeanVarianceNormalization", "x")], [4, 3, 2])
    with pytest.raises(UnsupportedError, match="across the samples"):
        Frozen(mixed, X)


def test_a_bias_that_is_an_activation() -> None:
    """β = x, of one sample: it has no axis for more rows."""
    model = net(
        [node("Squeeze", "x", "a", y="b"), node("LayerNormalization", "x", "g", "b", axis=1)],
        [3, 2],
        {"g": LG, "a": [0]},
    )
    for norm in ("stats", "std"):

        def f(x0: Doubles, x1: Doubles, std: bool = norm == "std") -> Doubles:
            return np.asarray(normal_form(x0, x1, (1, 2), 1e-5, std) * LG + x1)

        Frozen(model, normal(1, 3, 2), rows=False, norm=norm).agrees(*line(f, normal(1, 3, 2)))


def test_a_scale_that_is_an_activation_is_refused() -> None:
    model = net(
        [node("Squeeze", "x", "a", y="g"), node("LayerNormalization", "x", "g", axis=1)], [3, 2], {"a": [0]}
    )
    with pytest.raises(UnsupportedError, match="the scale depends"):
        Frozen(model, normal(1, 3, 2))


def test_i2i_is_local_with_stats_and_global_with_std() -> None:
    """docs/methods/linearscope.md: InstanceNorm with mean and deviation taken at x0 is diagonal, so F keeps the
    receptive field of the convolutions: 0.36 of its entries are not 0. With the mean linear every pixel reaches every
    other one: 1.00. Entries outside the field are exact zeros; ±0.01 for those that nearly cancel."""
    for norm, share in (("stats", 0.36), ("std", 1.0)):
        f = matrix("i2i", norm)
        assert abs(float((f != 0).mean()) - share) < 0.01
