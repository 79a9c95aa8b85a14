"""Every node frozen at x0 against y1 = A(x0) x1 + c(x0) written out in float64 (docs/methods/linearscope.md).
`Frozen` checks y1 = y0 at x1 = x0, affinity and adjointness of each. Tolerance: 1e-5 of the largest slope and offset,
float32 (measured: 3e-7).
"""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

from tests.rules.forward import session
from tests.rules.scope.frozen import EDGE, Doubles, Frozen, LineOf, line, net, node, normal


def forward(model: onnx.ModelProto) -> LineOf:
    """A linear node: y1 = h(x1), run by onnxruntime."""
    run = session(model)
    return lambda x0, x1: np.asarray(run.run(None, {"x": x1.astype(np.float32)})[0], np.float64)


X4 = normal(2, 4, 5, 6, seed=1)
W = normal(6, 4, 3, 3, seed=2)
# name -> model, x0. They are linear, or affine by their parameters: y1 = h(x1).
LINEAR_CASES: dict[str, tuple[onnx.ModelProto, np.ndarray]] = {
    "Conv": (net([node("Conv", "x", "w", "b", pads=[1, 0, 1, 2])], [4, 5, 6], {"w": W, "b": normal(6)}), X4),
    "ConvTranspose": (
        net(
            [node("ConvTranspose", "x", "w", "b", strides=[2, 1])],
            [4, 5, 6],
            {"w": normal(4, 3, 3, 2), "b": normal(3)},
        ),
        X4,
    ),
    "Gemm": (
        net([node("Gemm", "x", "w", "b", alpha=0.5, beta=-2.0)], [7], {"w": normal(7, 5), "b": normal(5)}),
        normal(2, 7),
    ),
    "MatMul": (net([node("MatMul", "x", "w")], [3, 7], {"w": normal(7, 5)}), normal(2, 3, 7)),
    "Einsum": (
        net([node("Einsum", "x", "w", equation="nij,jk->nik")], [3, 7], {"w": normal(7, 5)}),
        normal(2, 3, 7),
    ),
    "BatchNormalization": (
        net(
            [node("BatchNormalization", "x", "g", "b", "m", "v")],
            [4, 5, 6],
            {"g": normal(4), "b": normal(4, seed=1), "m": normal(4, seed=2), "v": np.abs(normal(4)) + 0.1},
        ),
        X4,
    ),
    "AveragePool": (net([node("AveragePool", "x", kernel_shape=[3, 2], pads=[1, 1, 0, 0])], [4, 5, 6]), X4),
    "GlobalAveragePool": (net([node("GlobalAveragePool", "x")], [4, 5, 6]), X4),
    "ReduceMean": (net([node("ReduceMean", "x", "a", keepdims=0)], [4, 5, 6], {"a": [2, 3]}), X4),
    "ReduceSum": (net([node("ReduceSum", "x", "a")], [4, 5, 6], {"a": [1]}), X4),
    "Neg": (net([node("Neg", "x")], [3]), normal(2, 3)),
    "Identity": (net([node("Identity", "x", y="z"), node("Neg", "z")], [3]), normal(2, 3)),
    "Dropout": (net([node("Dropout", "x", y="z"), node("Neg", "z")], [3]), normal(2, 3)),
    "Cast": (
        net([node("Cast", "x", y="d", to=11), node("Neg", "d", y="e"), node("CastLike", "e", "x")], [3]),
        normal(2, 3),
    ),
    "CumSum": (net([node("CumSum", "x", "a")], [5], {"a": np.asarray(1)}), normal(2, 5)),
    "DepthToSpace": (net([node("DepthToSpace", "x", blocksize=2, mode="CRD")], [4, 5, 6]), X4),
    "SpaceToDepth": (net([node("SpaceToDepth", "x", blocksize=2)], [1, 4, 6]), normal(2, 1, 4, 6)),
    "Expand": (net([node("Expand", "x", "s")], [1, 3], {"s": [1, 4, 1]}), normal(2, 1, 3)),
    "Flatten": (net([node("Flatten", "x")], [2, 3]), normal(2, 2, 3)),
    "Gather": (net([node("Gather", "x", "i", axis=1)], [5], {"i": [4, 0, 0]}), normal(2, 5)),
    "GatherElements": (
        net([node("GatherElements", "x", "i", axis=2)], [2, 3], {"i": np.asarray([[[2, 0], [1, 1]]])}),
        normal(1, 2, 3),
    ),
    "GatherND": (
        net([node("GatherND", "x", "i", batch_dims=0)], [2, 3], {"i": np.asarray([[[0, 1], [0, 0]]])}),
        normal(1, 2, 3),
    ),
    "Reshape": (net([node("Reshape", "x", "s")], [2, 3], {"s": [0, 3, 2]}), normal(2, 2, 3)),
    "Resize": (
        net([node("Resize", "x", "", "s", mode="cubic")], [1, 3, 4], {"s": np.asarray([1, 1, 2.0, 1.5])}),
        normal(2, 1, 3, 4),
    ),
    "Resize beyond the picture": (  # places outside it have a value of their own
        net(
            [
                node(
                    "Resize",
                    "x",
                    "r",
                    "",
                    "s",
                    mode="linear",
                    coordinate_transformation_mode="tf_crop_and_resize",
                    extrapolation_value=2.5,
                    axes=[2, 3],
                )
            ],
            [1, 3, 4],
            {"r": np.asarray([-0.5, 0, 1, 1.5], np.float32), "s": [4, 5]},
        ),
        normal(1, 1, 3, 4),
    ),
    "Slice": (
        net([node("Slice", "x", "s", "e", "a", "t")], [6], {"s": [5], "e": [0], "a": [1], "t": [-2]}),
        normal(2, 6),
    ),
    "Split": (
        net([helper.make_node("Split", ["x"], ["a", "y"], "split", axis=1, num_outputs=2)], [6]),
        normal(2, 6),
    ),
    "Squeeze": (net([node("Squeeze", "x", "a")], [1, 3], {"a": [1]}), normal(2, 1, 3)),
    "Unsqueeze": (net([node("Unsqueeze", "x", "a")], [3], {"a": [2]}), normal(2, 3)),
    "Tile": (net([node("Tile", "x", "r")], [3], {"r": [1, 2]}), normal(2, 3)),
    "Transpose": (net([node("Transpose", "x", perm=[0, 2, 1])], [2, 3]), normal(2, 2, 3)),
    "Trilu": (net([node("Trilu", "x", upper=0)], [3, 3]), normal(2, 3, 3)),
    # Constants beside the activation
    "Add constant": (net([node("Add", "b", "x")], [4, 2, 3], {"b": normal(4, 1, 1)}), normal(2, 4, 2, 3)),
    "Add, x repeated": (net([node("Add", "x", "b")], [1, 3], {"b": normal(1, 4, 1)}), normal(2, 1, 3)),
    "Sub constant": (net([node("Sub", "x", "b")], [3], {"b": normal(3)}), normal(2, 3)),
    "Sub from a constant": (net([node("Sub", "b", "x")], [3], {"b": normal(3)}), normal(2, 3)),
    "Sum": (
        net([node("Sum", "x", "b", "x", "c")], [3], {"b": normal(3), "c": np.asarray(0.5)}),
        normal(2, 3),
    ),
    "Mean": (net([node("Mean", "b", "x", "x")], [3], {"b": normal(3)}), normal(2, 3)),
    "Mul constant": (net([node("Mul", "b", "x")], [4, 2, 3], {"b": normal(4, 1, 1)}), normal(2, 4, 2, 3)),
    "Div constant": (net([node("Div", "x", "b")], [3], {"b": normal(3)}), normal(2, 3)),
    "Concat": (
        net([node("Concat", "b", "x", "x", axis=1)], [2, 3], {"b": normal(1, 2, 3)}),
        normal(1, 2, 3),
    ),
    "Where": (
        net(
            [node("Where", "c", "x", "b")], [4], {"c": np.asarray([True, False, True, False]), "b": normal(4)}
        ),
        normal(2, 4),
    ),
    "Where, the other": (
        net(
            [node("Where", "c", "b", "x")], [4], {"c": np.asarray([True, False, True, False]), "b": normal(4)}
        ),
        normal(2, 4),
    ),
    "Pad": (
        net([node("Pad", "x", "p", "v")], [2, 3], {"p": [0, 1, 0, 0, 0, 2], "v": np.asarray(-1.5)}),
        normal(2, 2, 3),
    ),
    "Pad with zeros": (net([node("Pad", "x", "p")], [2, 3], {"p": [0, 1, 0, 0, 0, 2]}), normal(2, 2, 3)),
    "Pad by reflection": (
        net(
            [node("Pad", "x", "p", "v", mode="reflect")],
            [2, 3],
            {"p": [0, 1, 0, 0, 0, 2], "v": np.asarray(-1.5)},
        ),
        normal(2, 2, 3),
    ),
}


@pytest.mark.parametrize("name", LINEAR_CASES)
def test_what_is_linear_is_itself(name: str) -> None:
    """... and what its parameters add is the offset."""
    model, x0 = LINEAR_CASES[name]
    Frozen(model, x0, rows=name != "GatherND").agrees(*line(forward(model), x0))


def winners(axis: tuple[int, ...], largest: bool) -> LineOf:
    """x1 at the first of the largest (smallest) elements of x0, over axes behind the batch."""

    def chosen(x0: Doubles, x1: Doubles) -> Doubles:
        kept = [i for i in range(x0.ndim) if i not in axis]
        order = (*kept, *axis)
        lines = [v.transpose(order).reshape(*(v.shape[i] for i in kept), -1) for v in (x0, x1)]
        at = (np.argmax if largest else np.argmin)(lines[0], axis=-1)
        return np.asarray(np.take_along_axis(lines[1], at[..., None], -1))

    return chosen


def pooled(x0: Doubles, x1: Doubles) -> Doubles:
    """3×3 windows with stride 2 and padding 1: x1 at the first largest element of x0."""
    wide = [
        np.pad(v, [(0, 0), (0, 0), (1, 1), (1, 1)], constant_values=fill)
        for v, fill in ((x0, -np.inf), (x1, 0.0))
    ]
    views = [np.lib.stride_tricks.sliding_window_view(v, (3, 3), (2, 3))[:, :, ::2, ::2] for v in wide]
    flat = [v.reshape(*v.shape[:4], 9) for v in views]
    return np.asarray(np.take_along_axis(flat[1], flat[0].argmax(-1)[..., None], -1))


def top(x0: Doubles, x1: Doubles) -> Doubles:
    return np.take_along_axis(x1, np.argsort(-x0, axis=1, kind="stable")[:, :3], 1)


TIES = np.asarray([[[[1, 3, 3, 0, 0], [3, 3, 2, 0, 0], [0, 0, 0, 0, 0], [-1, -1, -1, -2, 5]]]], np.float32)

# name -> model, x0, y1 = f(x0, x1)
MASKS: dict[str, tuple[onnx.ModelProto, np.ndarray, LineOf]] = {
    "Relu": (net([node("Relu", "x")], [12]), EDGE, lambda x0, x1: x1 * (x0 > 0)),
    "LeakyRelu": (
        net([node("LeakyRelu", "x", alpha=0.2)], [12]),
        EDGE,
        lambda x0, x1: x1 * np.where(x0 > 0, 1, 0.2),
    ),
    "PRelu": (
        net([node("PRelu", "x", "a")], [12], {"a": np.asarray([0.3])}),
        EDGE,
        lambda x0, x1: x1 * np.where(x0 > 0, 1, 0.3),
    ),
    "ThresholdedRelu": (
        net([node("ThresholdedRelu", "x", alpha=1.0)], [12]),
        EDGE,
        lambda x0, x1: x1 * (x0 > 1),
    ),
    "Abs": (net([node("Abs", "x")], [12]), EDGE, lambda x0, x1: x1 * np.sign(x0)),
    "Clip": (
        net([node("Clip", "x", "l", "h")], [12], {"l": np.asarray(-1.0), "h": np.asarray(6.0)}),
        EDGE,
        lambda x0, x1: np.where(x0 <= -1, -1, np.where(x0 >= 6, 6, x1)),
    ),
    "Clip at 0 and 6": (
        net([node("Clip", "x", "l", "h")], [12], {"l": np.asarray(0.0), "h": np.asarray(6.0)}),
        EDGE,
        lambda x0, x1: np.where(x0 <= 0, 0, np.where(x0 >= 6, 6, x1)),
    ),
    "Clip from above": (
        net([node("Clip", "x", "", "h")], [12], {"h": np.asarray(0.5)}),
        EDGE,
        lambda x0, x1: np.where(x0 >= 0.5, 0.5, x1),
    ),
    "Clip from below": (
        net([node("Clip", "x", "l")], [12], {"l": np.asarray(0.5)}),
        EDGE,
        lambda x0, x1: np.where(x0 <= 0.5, 0.5, x1),
    ),
    "Clip without bounds": (
        net([node("Clip", "x", y="z"), node("Neg", "z")], [12]),
        EDGE,
        lambda x0, x1: -x1,
    ),
    "Shrink": (
        net([node("Shrink", "x", lambd=0.5, bias=0.25)], [12]),
        EDGE,
        lambda x0, x1: np.where(x0 > 0.5, x1 - 0.25, np.where(x0 < -0.5, x1 + 0.25, 0)),
    ),
    "Max with constants": (
        net([node("Max", "c", "x")], [12], {"c": np.asarray(1.0)}),
        EDGE,
        lambda x0, x1: np.where(x0 > 1, x1, 1.0),
    ),
    "Max, x first": (  # the first of equal operands wins
        net([node("Max", "x", "c")], [12], {"c": np.asarray(1.0)}),
        EDGE,
        lambda x0, x1: np.where(x0 >= 1, x1, 1.0),
    ),
    "Min with constants": (
        net([node("Min", "x", "c")], [12], {"c": normal(12)}),
        EDGE,
        lambda x0, x1: np.where(x0 <= normal(12), x1, normal(12)),
    ),
    "Max of two": (
        net([node("Neg", "x", y="n"), node("Max", "x", "n")], [12]),
        EDGE,
        lambda x0, x1: np.where(x0 >= 0, x1, -x1),
    ),
    "MaxPool": (
        net([node("MaxPool", "x", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])], [1, 4, 5]),
        TIES,
        pooled,
    ),
    "MaxPool of zeros": (
        net([node("MaxPool", "x", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])], [1, 4, 5]),
        np.zeros_like(TIES),
        pooled,
    ),
    "GlobalMaxPool": (net([node("GlobalMaxPool", "x")], [1, 4, 5]), TIES, winners((2, 3), True)),
    "ReduceMax": (
        net([node("ReduceMax", "x", "a", keepdims=0)], [1, 4, 5], {"a": [3]}),
        TIES,
        winners((3,), True),
    ),
    "ReduceMin": (net([node("ReduceMin", "x", "a")], [1, 4, 5], {"a": [2]}), TIES, winners((2,), False)),
    "ReduceL1": (
        net([node("ReduceL1", "x", "a")], [12], {"a": [1]}),
        EDGE,
        lambda x0, x1: (np.sign(x0) * x1).sum(1),
    ),
    "ReduceL2": (
        net([node("ReduceL2", "x", "a")], [4, 3], {"a": [2]}),
        np.vstack([normal(3, 3), np.zeros((1, 3), np.float32)])[None],
        lambda x0, x1: (x0 * x1).sum(2) / np.where((x0 == 0).all(2), 1, np.linalg.norm(x0, axis=2)),
    ),
    "ReduceSumSquare": (
        net([node("ReduceSumSquare", "x", "a")], [5], {"a": [1]}),
        normal(2, 5),
        lambda x0, x1: (x0 * x1).sum(1),
    ),
    "TopK": (
        net([helper.make_node("TopK", ["x", "k"], ["y", "i"], "top", axis=1)], [12], {"k": [3]}),
        EDGE,
        top,
    ),
    "Sign": (  # piecewise constant: no slope
        net([node("Sign", "x", y="s"), node("Add", "s", "x")], [12]),
        EDGE,
        lambda x0, x1: np.sign(x0) + x1,
    ),
}


@pytest.mark.parametrize("name", MASKS)
def test_masks_and_winners_are_those_of_x0(name: str) -> None:
    model, x0, f = MASKS[name]
    for freeze in ("offset", "taylor"):
        Frozen(model, x0, freeze=freeze).agrees(*line(f, x0))
