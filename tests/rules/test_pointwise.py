"""Every elementwise operator of one input, and the normalisations, against torch's autograd in float64.

The emitted file computes in float32: 2e-5 of the largest element is accepted (measured: up to 4e-6).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest

from onnxplain.rewriter.errors import UnsupportedError
from tests.rules.build import Probe, one_node

torch = pytest.importorskip("torch")
nn = torch.nn.functional
F = np.float32
Tensor = Any

EVERYWHERE = np.asarray([[-4.0, -2.2, -1.1, -0.6, -0.3, -0.01], [0.02, 0.4, 0.7, 1.3, 2.6, 5.0]], F)
POSITIVE = np.abs(EVERYWHERE) + F(0.1)
UNIT = EVERYWHERE / 6

POINTWISE: dict[str, tuple[Callable[[Tensor], Tensor], np.ndarray]] = {
    "Relu": (torch.relu, EVERYWHERE),
    "Sigmoid": (torch.sigmoid, EVERYWHERE),
    "Tanh": (torch.tanh, EVERYWHERE),
    "Softplus": (nn.softplus, EVERYWHERE),
    "Softsign": (nn.softsign, EVERYWHERE),
    "Mish": (nn.mish, EVERYWHERE),
    "HardSwish": (nn.hardswish, EVERYWHERE),
    "Erf": (torch.erf, EVERYWHERE),
    "Exp": (torch.exp, EVERYWHERE),
    "Abs": (torch.abs, EVERYWHERE),
    "Neg": (torch.neg, EVERYWHERE),
    "Sin": (torch.sin, EVERYWHERE),
    "Cos": (torch.cos, EVERYWHERE),
    "Tan": (torch.tan, UNIT),
    "Sinh": (torch.sinh, EVERYWHERE),
    "Cosh": (torch.cosh, EVERYWHERE),
    "Atan": (torch.atan, EVERYWHERE),
    "Asinh": (torch.asinh, EVERYWHERE),
    "Asin": (torch.asin, UNIT),
    "Acos": (torch.acos, UNIT),
    "Atanh": (torch.atanh, UNIT),
    "Acosh": (torch.acosh, POSITIVE + F(1)),
    "Log": (torch.log, POSITIVE),
    "Sqrt": (torch.sqrt, POSITIVE),
    "Reciprocal": (torch.reciprocal, POSITIVE),
    "Identity": (lambda x: x, EVERYWHERE),
}

SETTINGS: list[tuple[str, dict[str, Any], Callable[[Tensor], Tensor], int]] = [
    ("LeakyRelu", {"alpha": 0.2}, lambda x: nn.leaky_relu(x, 0.2), 18),
    ("Elu", {"alpha": 1.5}, lambda x: nn.elu(x, 1.5), 18),
    ("Celu", {"alpha": 1.5}, lambda x: nn.celu(x, 1.5), 18),
    ("Selu", {}, nn.selu, 18),
    ("HardSigmoid", {"alpha": 0.3, "beta": 0.4}, lambda x: torch.clamp(0.3 * x + 0.4, 0, 1), 18),
    ("ThresholdedRelu", {"alpha": 0.5}, lambda x: nn.threshold(x, 0.5, 0.0), 18),
    ("Shrink", {"lambd": 0.5}, lambda x: nn.hardshrink(x, 0.5), 18),
    ("Shrink", {"lambd": 0.5, "bias": 0.5}, lambda x: nn.softshrink(x, 0.5), 18),
    ("Gelu", {}, nn.gelu, 20),
    ("Gelu", {"approximate": "tanh"}, lambda x: nn.gelu(x, approximate="tanh"), 20),
    ("Softmax", {"axis": -1}, lambda x: torch.softmax(x, -1), 18),
    ("LogSoftmax", {"axis": 1}, lambda x: torch.log_softmax(x, 1), 18),
]


def _vjp(f: Callable[[Tensor], Tensor], x: np.ndarray, ct: np.ndarray) -> np.ndarray:
    point = torch.tensor(x.astype(np.float64), requires_grad=True)
    (gradient,) = torch.autograd.grad(f(point), point, torch.tensor(ct.astype(np.float64)))
    return np.asarray(gradient.numpy())


def _agrees(probe: Probe, f: Callable[[Tensor], Tensor], x: np.ndarray) -> None:
    expected = _vjp(f, x, probe.ct)
    assert np.abs(probe.pulled["x"] - expected).max() <= 2e-5 * np.abs(expected).max()


@pytest.mark.parametrize("op", POINTWISE)
def test_pointwise(op: str) -> None:
    f, x = POINTWISE[op]
    _agrees(Probe(one_node(op, {"x": (["N", 6], F)}, rank=2), {"x": x}), f, x)


@pytest.mark.parametrize(
    ("op", "attributes", "f", "opset"),
    SETTINGS,
    ids=lambda value: None if callable(value) else str(value)[:40],
)
def test_with_settings(
    op: str, attributes: dict[str, Any], f: Callable[[Tensor], Tensor], opset: int
) -> None:
    model = one_node(op, {"x": (["N", 6], F)}, rank=2, opset=opset, **attributes)
    _agrees(Probe(model, {"x": EVERYWHERE}), f, EVERYWHERE)


@pytest.mark.parametrize(
    ("op", "kink"), [("Relu", 0.0), ("Abs", 0.0), ("LeakyRelu", 0.0), ("HardSwish", -3.0)]
)
def test_at_the_kink(op: str, kink: float) -> None:
    """The conventions of torch: 0 for Relu and Abs, the lower slope for LeakyRelu, 0 for HardSwish at -3."""
    f = {"Relu": torch.relu, "Abs": torch.abs, "LeakyRelu": nn.leaky_relu, "HardSwish": nn.hardswish}[op]
    x = np.full((2, 3), kink, F)
    probe = Probe(one_node(op, {"x": (["N", 3], F)}, rank=2), {"x": x})
    probe.agrees(_vjp(f, x, probe.ct))


def test_clip_is_closed_at_both_ends() -> None:
    """f' = 0 at the bounds themselves, as ReLU6."""
    x = np.asarray([[-1.0, 0.0, 0.5, 6.0, 7.0]], F)
    bounds = {"low": np.asarray(0, F), "high": np.asarray(6, F)}
    probe = Probe(one_node("Clip", {"x": (["N", 5], F)}, bounds, rank=2), {"x": x})
    probe.agrees(_vjp(nn.relu6, x, probe.ct))
    probe.agrees(probe.ct * np.asarray([[0, 0, 1, 0, 0]]))


def test_bounds_that_depend_on_the_input_are_refused() -> None:
    inputs = {"x": (["N", 6], F), "low": ([], F)}
    model = one_node("Clip", inputs, rank=2)
    made = model.graph.node.add(op_type="ReduceMean", input=["x"], output=["low"], name="mean")
    made.attribute.append(onnx.helper.make_attribute("keepdims", 0))
    clip, mean = onnx.NodeProto(), onnx.NodeProto()
    clip.CopyFrom(model.graph.node[0])
    mean.CopyFrom(made)
    del model.graph.node[:], model.graph.input[1:]
    model.graph.node.extend([mean, clip])
    with pytest.raises(UnsupportedError, match="its bounds depend"):
        Probe(model, {"x": EVERYWHERE})


def test_prelu() -> None:
    x, slope = EVERYWHERE.reshape(2, 3, 2), np.asarray([[0.1], [0.5], [-0.3]], F)
    probe = Probe(one_node("PRelu", {"x": (["N", 3, 2], F)}, {"s": slope}, rank=3), {"x": x})
    _agrees(probe, lambda v: nn.prelu(v, torch.tensor(slope.ravel().astype(float))), x)


def test_double_and_back() -> None:
    """Cast between floating-point types carries the cotangent in the type of x."""
    x = EVERYWHERE.astype(np.float64)
    probe = Probe(one_node("Cast", {"x": (["N", 6], np.float64)}, rank=2, to=1), {"x": x})
    assert probe.pulled["x"].dtype == np.float64
    assert np.array_equal(probe.pulled["x"], probe.ct.astype(np.float64))


def _picture(seed: int, *sizes: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(1.0, 2.0, sizes).astype(F)


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("op", ["InstanceNormalization", "GroupNormalization", "BatchNormalization", "LRN"])
def test_normalisations(op: str, dynamic: bool) -> None:
    x = _picture(0, 2, 4, 3, 5)
    gamma, beta, variance = (_picture(i, 4) for i in (1, 2, 3))
    variance = np.abs(variance) + F(0.5)
    wide = {name: torch.tensor(v.astype(float)) for name, v in (("g", gamma), ("b", beta), ("v", variance))}
    forms: dict[str, tuple[dict[str, np.ndarray], dict[str, Any], Callable[[Tensor], Tensor]]] = {
        "InstanceNormalization": (
            {"g": gamma, "b": beta},
            {},
            lambda v: nn.instance_norm(v, weight=wide["g"], bias=wide["b"]),
        ),
        "GroupNormalization": (
            {"g": gamma, "b": beta},
            {"num_groups": 2},
            lambda v: nn.group_norm(v, 2, wide["g"], wide["b"]),
        ),
        "BatchNormalization": (
            {"g": gamma, "b": beta, "m": beta, "v": variance},
            {},
            lambda v: nn.batch_norm(v, wide["b"], wide["v"], wide["g"], wide["b"]),
        ),
        "LRN": ({}, {"size": 3, "alpha": 0.3, "beta": 0.6, "bias": 1.5}, lambda v: _lrn(v)),
    }
    constants, attributes, f = forms[op]
    dims = ["N", 4, "H", "W"] if dynamic else ["N", 4, 3, 5]
    model = one_node(op, {"x": (dims, F)}, constants, opset=21, **attributes)
    _agrees(Probe(model, {"x": x}), f, x)


def _lrn(x: Tensor) -> Tensor:
    square = nn.pad((x * x).movedim(1, -1), (1, 1)).unfold(-1, 3, 1).sum(-1).movedim(-1, 1)
    return x / (1.5 + 0.1 * square) ** 0.6


@pytest.mark.parametrize("explained", ["x", "g", "b"])
def test_layer_normalisation_in_all_inputs(explained: str) -> None:
    values = {"x": _picture(4, 3, 2, 5), "g": _picture(5, 3, 1, 5), "b": _picture(6, 3, 2, 5)}
    inputs = {name: (["N", *v.shape[1:]], F) for name, v in values.items()}
    probe = Probe(one_node("LayerNormalization", inputs, rank=3, axis=-1), values, inputs=(explained,))

    def f(v: Tensor) -> Tensor:
        given = {name: torch.tensor(value.astype(float)) for name, value in values.items()} | {explained: v}
        return nn.layer_norm(given["x"], (5,)) * given["g"] + given["b"]

    expected = _vjp(f, values[explained], probe.ct)
    assert np.abs(probe.pulled[explained] - expected).max() <= 2e-5 * np.abs(expected).max()


REDUCTIONS: dict[str, Callable[[Tensor, tuple[int, ...]], Tensor]] = {
    "ReduceSum": lambda x, axes: x.sum(axes),
    "ReduceMean": lambda x, axes: x.mean(axes),
    "ReduceL1": lambda x, axes: x.abs().sum(axes),
    "ReduceL2": lambda x, axes: (x * x).sum(axes).sqrt(),
    "ReduceSumSquare": lambda x, axes: (x * x).sum(axes),
    "ReduceMax": lambda x, axes: x.amax(axes),
    "ReduceMin": lambda x, axes: x.amin(axes),
    "ReduceLogSumExp": lambda x, axes: x.logsumexp(axes),
}


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("axes", [(1,), (2, 3), (1, 3), (1, 2, 3)], ids=str)
@pytest.mark.parametrize("op", REDUCTIONS)
def test_reductions(op: str, axes: tuple[int, ...], dynamic: bool) -> None:
    x = _picture(7, 2, 3, 4, 5)
    dims = ["N", "C", "H", "W"] if dynamic else ["N", 3, 4, 5]
    model = one_node(op, {"x": (dims, F)}, {"axes": np.asarray(axes)}, rank=4 - len(axes), keepdims=0)
    _agrees(Probe(model, {"x": x}), lambda v: REDUCTIONS[op](v, axes), x)


@pytest.mark.parametrize("largest", [True, False])
def test_the_first_of_equal_elements_wins(largest: bool) -> None:
    x = np.ones((1, 2, 3, 3), F)
    op = "ReduceMax" if largest else "ReduceMin"
    model = one_node(op, {"x": (["N", 2, 3, 3], F)}, {"axes": np.asarray([2, 3])}, rank=2, keepdims=0)
    probe = Probe(model, {"x": x}, rows=3)
    expected = np.zeros((3, 2, 3, 3))
    expected[:, :, 0, 0] = probe.ct
    probe.agrees(expected)


@pytest.mark.parametrize("op", ["GlobalAveragePool", "GlobalMaxPool"])
@pytest.mark.parametrize("rows", [None, 3])
def test_global_pools(op: str, rows: int | None) -> None:
    x = _picture(8, 1 if rows else 2, 3, 4, 5)
    probe = Probe(one_node(op, {"x": (["N", 3, "H", "W"], F)}), {"x": x}, rows=rows)
    whole = np.repeat(x, rows, axis=0) if rows else x
    f = {
        "GlobalAveragePool": lambda v: v.mean((2, 3), True),
        "GlobalMaxPool": lambda v: v.amax((2, 3), True),
    }[op]
    _agrees(probe, f, whole)
