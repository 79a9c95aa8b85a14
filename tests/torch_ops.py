"""ONNX operators in torch, for the oracle of the tests. Piecewise functions take the piece that float32 took."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

pytest.importorskip("torch")
import torch
import torch.nn.functional as F

Array = NDArray[Any]
Attributes = dict[str, Any]


@dataclass
class Rule:
    """How rectifiers send a cotangent back: "plain", "guided" or "deconv". Read when the backward pass runs."""

    name: str = "plain"


class Rectify(torch.autograd.Function):  # type: ignore[misc]
    """x on its linear piece, else `flat`. Backward: plain [on] ct; guided [on] max(ct, 0); deconv
    [under] max(ct, 0), where `under` is true below the upper end whatever the sign."""

    @staticmethod
    def forward(ctx: Any, x: Any, on: Any, under: Any, flat: Any, rule: Rule) -> Any:
        ctx.save_for_backward(on, under)
        ctx.rule = rule
        return torch.where(on, x, flat)

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> Any:
        (ct,), (on, under) = cotangents, ctx.saved_tensors
        if ctx.rule.name != "plain":
            ct = ct.clamp(min=0)
        gate = under if ctx.rule.name == "deconv" else on
        return torch.where(gate, ct, torch.zeros_like(ct)), None, None, None, None


@dataclass
class Call:
    """A node while it runs: inputs x (None where omitted), attributes, opset, the inputs as float32 saw them."""

    node: onnx.NodeProto
    x: list[Any]
    attrs: Attributes
    opset: int
    rule: Rule
    seen: Any

    def input(self, i: int) -> Any:
        return self.x[i] if i < len(self.x) else None

    def ints(self, i: int, key: str) -> list[int] | None:
        """Integers that older opsets keep in an attribute and newer ones in input i."""
        if key in self.attrs:
            return [int(value) for value in self.attrs[key]]
        if self.input(i) is not None:
            return [int(value) for value in self.x[i].reshape(-1).tolist()]
        return None

    def number(self, i: int, key: str, default: float) -> float:
        if key in self.attrs:
            return float(self.attrs[key])
        return default if self.input(i) is None else float(self.x[i])


def tensor(array: Array) -> Any:
    """float64 for floats, else the type it has."""
    array = np.asarray(array)
    wanted = array.astype(np.float64) if array.dtype.kind == "f" else array.copy()
    return torch.from_numpy(wanted.reshape(array.shape))


def _between(call: Call, low: float, high: float) -> Any:
    """Clip by the side on which float32 saw x; a rectifier when it starts at 0."""
    x, seen = call.x[0], call.seen
    on, under = (seen > low) & (seen < high), seen < high
    flat = seen.clamp(low, high).to(x.dtype)
    return Rectify.apply(x, on, under, flat, call.rule if low == 0 else Rule())


def _leaky(call: Call) -> Any:
    return torch.where(call.seen > 0, call.x[0], call.attrs.get("alpha", 0.01) * call.x[0])


def _hard_swish(call: Call) -> Any:
    x, seen = call.x[0], call.seen
    return torch.where(seen <= -3, x * 0, torch.where(seen >= 3, x, x * (x + 3) / 6))


def _hard_sigmoid(call: Call) -> Any:
    x, line = call.x[0], call.attrs.get("alpha", 0.2) * call.seen + call.attrs.get("beta", 0.5)
    exact = call.attrs.get("alpha", 0.2) * x + call.attrs.get("beta", 0.5)
    return torch.where(line <= 0, x * 0, torch.where(line >= 1, x * 0 + 1, exact))


def _spatial(call: Call, kernel: Sequence[int]) -> tuple[list[int], list[int], list[int]]:
    """strides, dilations, pads (all begins, then all ends)."""
    rank = len(kernel)
    assert call.attrs.get("auto_pad", b"NOTSET") in (b"NOTSET", b"VALID")
    one = [1] * rank
    strides, dilations = list(call.attrs.get("strides", one)), list(call.attrs.get("dilations", one))
    return strides, dilations, list(call.attrs.get("pads", [0] * 2 * rank))


def _padded(x: Any, pads: Sequence[int], value: float = 0.0) -> Any:
    """Pads of the trailing axes in ONNX's order; torch wants the last axis first."""
    rank = len(pads) // 2
    return F.pad(x, [pads[i] for k in reversed(range(rank)) for i in (k, k + rank)], value=value)


def _conv(call: Call) -> Any:
    x, w, b = call.x[0], call.x[1], call.input(2)
    strides, dilations, pads = _spatial(call, w.shape[2:])
    group = int(call.attrs.get("group", 1))
    if group == 1:
        run = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[len(strides)]
        return run(_padded(x, pads), w, b, strides, 0, dilations)
    y = _grouped(_padded(x, pads), w, strides, dilations, group)
    return y if b is None else y + b.reshape(1, -1, 1, 1)


def _grouped(x: Any, w: Any, strides: Sequence[int], dilations: Sequence[int], group: int) -> Any:
    """Sum over explicit windows: torch runs a float64 convolution group by group, a hundred times slower."""
    for i in range(2):
        extent = dilations[i] * (w.shape[2 + i] - 1) + 1
        x = x.unfold(2 + i, extent, strides[i])[..., :: dilations[i]]
    x, w = x.unflatten(1, (group, -1)), w.unflatten(0, (group, -1))
    return torch.einsum("ngchwij,gmcij->ngmhw", x, w).flatten(1, 2)


def _conv_transpose(call: Call) -> Any:
    """Without pads, then cut: pads take cells away, output_padding adds some at the end."""
    x, w, b = call.x[0], call.x[1], call.input(2)
    strides, dilations, pads = _spatial(call, w.shape[2:])
    rank = len(strides)
    run = {1: F.conv_transpose1d, 2: F.conv_transpose2d}[rank]
    full = run(x, w, None, strides, 0, 0, call.attrs.get("group", 1), dilations)
    extra = list(call.attrs.get("output_padding", [0] * rank))
    full = _padded(full, [0] * rank + extra)
    for i in range(rank):
        full = full.narrow(2 + i, pads[i], full.shape[2 + i] - pads[i] - pads[i + rank])
    return full if b is None else full + b.reshape(1, -1, *[1] * rank)


def _windows(call: Call, x: Any) -> tuple[list[int], list[int], list[int], list[int]]:
    """kernel, strides, dilations, and pads with the cells that ceil_mode needs more at the end."""
    kernel = list(call.attrs["kernel_shape"])
    strides, dilations, pads = _spatial(call, kernel)
    rank = len(kernel)
    for i, size in enumerate(x.shape[2:]):
        span = size + pads[i] + pads[i + rank] - dilations[i] * (kernel[i] - 1) - 1
        short = -span % strides[i] if call.attrs.get("ceil_mode", 0) else 0
        if short and (span // strides[i] + 1) * strides[i] < size + pads[i]:
            pads[i + rank] += short
    return kernel, strides, dilations, pads


def _max_pool(call: Call) -> Any:
    """The winners in float32 tell which cells of x to take."""
    x, seen = call.x[0], call.seen
    kernel, strides, dilations, pads = _windows(call, x)
    _, winners = F.max_pool2d(
        _padded(seen, pads, -torch.inf), kernel, strides, 0, dilations, return_indices=True
    )
    flat = _padded(x, pads).flatten(2)
    return flat.gather(2, winners.flatten(2)).reshape(winners.shape)


def _average_pool(call: Call) -> Any:
    """Sum over the window by the number of cells in it."""
    x = call.x[0]
    kernel, strides, _, pads = _windows(call, x)
    ones = torch.ones_like(x[:1, :1])
    if call.attrs.get("count_include_pad", 0):
        given = _spatial(call, kernel)[2]
        rest = [a - b for a, b in zip(pads, given, strict=True)]
        ones = _padded(_padded(ones, given, 1.0), rest)
    else:
        ones = _padded(ones, pads)
    total, cells = (F.avg_pool2d(v, kernel, strides, divisor_override=1) for v in (_padded(x, pads), ones))
    return total / cells


def _batch_norm(call: Call) -> Any:
    x, scale, b, mean, variance = (
        call.x[0],
        *(v.reshape(1, -1, *[1] * (call.x[0].dim() - 2)) for v in call.x[1:5]),
    )
    return (x - mean) / (variance + call.attrs.get("epsilon", 1e-5)).sqrt() * scale + b


def _instance_norm(call: Call) -> Any:
    return F.instance_norm(call.x[0], weight=call.x[1], bias=call.x[2], eps=call.attrs.get("epsilon", 1e-5))


def _lrn(call: Call) -> Any:
    """x / (bias + alpha / size Σ x²)^beta over `size` channels, more of them after c when size is even."""
    x, size = call.x[0], int(call.attrs["size"])
    squares = F.pad(x * x, [0, 0, 0, 0, (size - 1) // 2, size // 2])
    total = sum(squares[:, i : i + x.shape[1]] for i in range(size))
    alpha, beta = call.attrs.get("alpha", 1e-4), call.attrs.get("beta", 0.75)
    return x / (call.attrs.get("bias", 1.0) + alpha / size * total) ** beta


def _gather(call: Call) -> Any:
    """Of one element; enough for the arithmetic of shapes."""
    return call.x[0].select(call.attrs.get("axis", 0), int(call.x[1])).reshape(call.x[1].shape)


def _gemm(call: Call) -> Any:
    a, b, c = call.x[0], call.x[1], call.input(2)
    a = a.T if call.attrs.get("transA", 0) else a
    b = b.T if call.attrs.get("transB", 0) else b
    y = call.attrs.get("alpha", 1.0) * (a @ b)
    return y if c is None else y + call.attrs.get("beta", 1.0) * c


def _softmax(call: Call) -> Any:
    """Before opset 13 over all axes from `axis` on."""
    x = call.x[0]
    if call.opset >= 13:
        return x.softmax(call.attrs.get("axis", -1))
    return x.flatten(call.attrs.get("axis", 1)).softmax(-1).reshape(x.shape)


def _reshape(call: Call) -> Any:
    x, wanted = call.x[0], call.ints(1, "shape") or []
    return x.reshape([x.shape[i] if size == 0 else size for i, size in enumerate(wanted)])


def _unsqueeze(call: Call) -> Any:
    x, axes = call.x[0], call.ints(1, "axes") or []
    for axis in sorted(axis % (x.dim() + len(axes)) for axis in axes):
        x = x.unsqueeze(axis)
    return x


def _pad(call: Call) -> Any:
    x, pads = call.x[0], call.ints(1, "pads") or []
    rank, mode = x.dim(), call.attrs.get("mode", b"constant").decode()
    if mode == "constant":
        return _padded(x, pads, call.number(2, "value", 0.0))
    assert not any(pads[:2]) and not any(pads[rank : rank + 2]), "only the axes of the picture"
    inner = [pads[i] for k in reversed(range(2, rank)) for i in (k, k + rank)]
    return F.pad(x, inner, mode="replicate" if mode == "edge" else str(mode))


def _resize(call: Call) -> Any:
    """One matrix an axis: row i holds what output i takes of each input."""
    x = call.x[0]
    scales = [] if call.input(2) is None else call.x[2].reshape(-1).tolist()
    sizes = call.ints(3, "sizes")
    for axis in range(x.dim()):
        n = x.shape[axis]
        factor = scales[axis] if scales else (sizes or [])[axis] / n
        m = int(n * factor) if scales else (sizes or [])[axis]
        if m != n or factor != 1:
            matrix = torch.from_numpy(resize_matrix(n, m, factor, call.attrs))
            x = (x.movedim(axis, -1) @ matrix.T).movedim(-1, axis)
    return x


def resize_matrix(n: int, m: int, factor: float, attrs: Attributes) -> Array:
    """(m, n), for modes nearest and linear."""
    at = np.arange(m, dtype=np.float64)
    coordinates = attrs.get("coordinate_transformation_mode", b"half_pixel").decode()
    if coordinates == "align_corners":
        at = at * (n - 1) / max(m - 1, 1)
    elif coordinates == "asymmetric":
        at = at / factor
    else:
        assert coordinates in ("half_pixel", "pytorch_half_pixel"), coordinates
        at = (at + 0.5) / factor - 0.5 if m > 1 or coordinates == "half_pixel" else at * 0
    matrix = np.zeros((m, n))
    rows = np.arange(m)
    if attrs.get("mode", b"nearest") == b"nearest":
        rounding = attrs.get("nearest_mode", b"round_prefer_floor").decode()
        nearest = {"floor": np.floor, "ceil": np.ceil}.get(rounding, lambda v: np.ceil(v - 0.5))(at)
        assert rounding != "round_prefer_ceil"
        matrix[rows, nearest.clip(0, n - 1).astype(int)] = 1
        return matrix
    assert attrs["mode"] == b"linear", attrs["mode"]
    below = np.floor(at)
    np.add.at(matrix, (rows, below.clip(0, n - 1).astype(int)), 1 - (at - below))
    np.add.at(matrix, (rows, (below + 1).clip(0, n - 1).astype(int)), at - below)
    return matrix


def _depth_to_space(call: Call) -> Any:
    x, block = call.x[0], int(call.attrs["blocksize"])
    n, c, h, w = x.shape
    if call.attrs.get("mode", b"DCR") == b"CRD":
        split, perm = x.reshape(n, c // block**2, block, block, h, w), (0, 1, 4, 2, 5, 3)
    else:
        split, perm = x.reshape(n, block, block, c // block**2, h, w), (0, 3, 4, 1, 5, 2)
    return split.permute(perm).reshape(n, c // block**2, h * block, w * block)


def _constant_of_shape(call: Call) -> Any:
    value = numpy_helper.to_array(call.attrs["value"]) if "value" in call.attrs else np.zeros(1, np.float32)
    return tensor(np.full([int(size) for size in call.x[0].tolist()], value.ravel()[0]))


OPS: dict[str, Callable[[Call], Any]] = {
    "Add": lambda call: call.x[0] + call.x[1],
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Clip": lambda call: _between(call, call.number(1, "min", -torch.inf), call.number(2, "max", torch.inf)),
    "Concat": lambda call: torch.cat(call.x, call.attrs["axis"]),
    "ConstantOfShape": _constant_of_shape,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "DepthToSpace": _depth_to_space,
    "Div": lambda call: call.x[0] / call.x[1],
    "Dropout": lambda call: call.x[0],
    "Flatten": lambda call: call.x[0].flatten(call.attrs.get("axis", 1)),
    "Gather": _gather,
    "Gemm": _gemm,
    "GlobalAveragePool": lambda call: call.x[0].mean(tuple(range(2, call.x[0].dim())), keepdim=True),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _hard_swish,
    "Identity": lambda call: call.x[0],
    "InstanceNormalization": _instance_norm,
    "LRN": _lrn,
    "LeakyRelu": _leaky,
    "LogSoftmax": lambda call: call.x[0].log_softmax(call.attrs.get("axis", -1)),
    "MatMul": lambda call: call.x[0] @ call.x[1],
    "MaxPool": _max_pool,
    "Mul": lambda call: call.x[0] * call.x[1],
    "Pad": _pad,
    "Relu": lambda call: _between(call, 0.0, torch.inf),
    "Reshape": _reshape,
    "Resize": _resize,
    "Shape": lambda call: torch.tensor(call.x[0].shape),
    "Sigmoid": lambda call: call.x[0].sigmoid(),
    "Softmax": _softmax,
    "Sub": lambda call: call.x[0] - call.x[1],
    "Sum": lambda call: sum(call.x),
    "Tanh": lambda call: call.x[0].tanh(),
    "Transpose": lambda call: call.x[0].permute(call.attrs["perm"]),
    "Unsqueeze": _unsqueeze,
}
