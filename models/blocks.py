"""A small builder of feed-forward nets: tracks shapes, names nodes, draws seeded weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod, sqrt
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper

Floats = NDArray[np.float32]
Padding = int | Literal["SAME", "VALID"]

OPSET = 18
IR_VERSION = 10
HE = sqrt(2)  # gain that keeps the second moment through a ReLU
LINEAR = 1.0  # the same where no activation follows the layer before


@dataclass(frozen=True)
class Value:
    """A tensor of the net. `shape` leaves out the batch axis: (channels, height, width) or (features,)."""

    name: str
    shape: tuple[int, ...]


class Net:
    """An ONNX graph under construction, in the order of the calls.

    Weights are He-normal, N(0, gain² / fan_in), and biases N(0, 0.05²). With `std`, weights are instead drawn
    from a Gaussian of that standard deviation cut off at two of them, whatever the fan-in, and biases are 0
    (Nie et al. 2018). One generator serves the whole net, so under one version of numpy a seed always gives
    the same bytes.

    Every method returns the value it made; `x.shape` tells its shape.
    """

    def __init__(self, name: str, shape: Sequence[int], seed: int = 0, std: float | None = None) -> None:
        if any(size < 1 for size in shape):
            raise ValueError(f"{name}: every input size must be at least 1, not {list(shape)}")
        if std is not None and std <= 0:
            raise ValueError(f"{name}: std must be above 0, not {std}")
        self.name = name
        self.image = Value("image", tuple(shape))
        self._rng = np.random.default_rng(seed)
        self._std = std
        self._scope = ""
        self._count: Counter[str] = Counter()
        self._nodes: list[NodeProto] = []
        self._weights: list[TensorProto] = []

    @contextmanager
    def scope(self, name: str) -> Iterator[None]:
        """Put `name/` before the names of the nodes made inside."""
        outer, self._scope = self._scope, f"{self._scope}{name}/"
        yield
        self._scope = outer

    def conv(
        self,
        x: Value,
        filters: int,
        kernel: int,
        *,
        stride: int = 1,
        padding: Padding = "SAME",
        group: int = 1,
        gain: float = HE,
        bias: bool = True,
    ) -> Value:
        """Conv. `padding`: pixels on every side, or SAME (output = ceil(input / stride)), or VALID (none)."""
        weight, offset = self._conv_weights(x, filters, kernel, group, gain, bias)
        return self._conv(x, weight, offset, stride, padding, group)

    def conv_bn(
        self,
        x: Value,
        filters: int,
        kernel: int,
        *,
        stride: int = 1,
        padding: Padding = "SAME",
        gain: float = HE,
        fold: bool = False,
    ) -> Value:
        """Conv without bias, then inference BatchNormalization; with `fold` one Conv that computes the same.

        W' = W · s/√(v+ε), b' = β - m · s/√(v+ε), worked out in float64. Both forms draw the same numbers.
        """
        weight, _ = self._conv_weights(x, filters, kernel, 1, gain, False)
        parameters = self._norm_weights(filters)
        if not fold:
            return self._norm(self._conv(x, weight, None, stride, padding, 1), parameters)
        scale, beta, mean, variance = (value.astype(np.float64) for value in parameters)
        factor = scale / np.sqrt(variance + 1e-5)
        folded = (weight * factor[:, None, None, None]).astype(np.float32)
        return self._conv(x, folded, (beta - mean * factor).astype(np.float32), stride, padding, 1)

    def bn(self, x: Value) -> Value:
        """Inference BatchNormalization (ε = 1e-5): scale and variance around 1, mean and bias around 0."""
        return self._norm(x, self._norm_weights(x.shape[0]))

    def conv_transpose(self, x: Value, filters: int, kernel: int, stride: int) -> Value:
        """ConvTranspose without pads: each side becomes (side - 1) · stride + kernel."""
        channels, height, width = x.shape
        # Each output pixel sees about (kernel/stride)² taps of every channel.
        fan_in = max(1, round(channels * (kernel / stride) ** 2))
        name = self._name("conv_transpose")
        weight = self._tensor(
            f"{name}/weight", self._draw((channels, filters, kernel, kernel), fan_in, LINEAR)
        )
        inputs = [x.name, weight, self._tensor(f"{name}/bias", self._bias(filters))]
        shape = (filters, (height - 1) * stride + kernel, (width - 1) * stride + kernel)
        attributes = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [0] * 4}
        return self._node("ConvTranspose", name, inputs, shape, **attributes)

    def gemm(self, x: Value, features: int, *, gain: float = HE, bias: bool = True) -> Value:
        """Fully connected layer: y = x Wᵀ + b."""
        if len(x.shape) != 1:
            raise ValueError(
                f"{self.name}: gemm takes a flat value, not one of shape {x.shape}; call flatten first"
            )
        name = self._name("gemm")
        inputs = [
            x.name,
            self._tensor(f"{name}/weight", self._draw((features, x.shape[0]), x.shape[0], gain)),
        ]
        if bias:
            inputs.append(self._tensor(f"{name}/bias", self._bias(features)))
        return self._node("Gemm", name, inputs, (features,), transB=1)

    def relu(self, x: Value) -> Value:
        """max(x, 0)."""
        return self._node("Relu", self._name("relu"), [x.name], x.shape)

    def clip(self, x: Value, low: float, high: float) -> Value:
        """min(max(x, low), high)."""
        name = self._name("clip")
        bounds = [
            self._tensor(f"{name}/{key}", np.array(v, np.float32)) for key, v in (("min", low), ("max", high))
        ]
        return self._node("Clip", name, [x.name, *bounds], x.shape)

    def tanh(self, x: Value) -> Value:
        """tanh x."""
        return self._node("Tanh", self._name("tanh"), [x.name], x.shape)

    def max_pool(self, x: Value, kernel: int, *, stride: int, padding: Padding = "VALID") -> Value:
        """MaxPool; padded places never win."""
        pads, height, width = self._window(x, kernel, stride, padding)
        shape = (x.shape[0], height, width)
        attributes = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": pads}
        return self._node("MaxPool", self._name("max_pool"), [x.name], shape, **attributes)

    def global_average_pool(self, x: Value) -> Value:
        """Mean over height and width, as (channels, 1, 1)."""
        return self._node(
            "GlobalAveragePool", self._name("global_average_pool"), [x.name], (x.shape[0], 1, 1)
        )

    def flatten(self, x: Value) -> Value:
        """All axes but the batch in one, channels outermost."""
        return self._node("Flatten", self._name("flatten"), [x.name], (prod(x.shape),), axis=1)

    def add(self, a: Value, b: Value) -> Value:
        """Sum of two values of one shape."""
        if a.shape != b.shape:
            raise ValueError(f"{self.name}: cannot add the shapes {a.shape} and {b.shape}")
        return self._node("Add", self._name("add"), [a.name, b.name], a.shape)

    def concat(self, *values: Value) -> Value:
        """Values of one height and width, one after the other along the channels."""
        if len({value.shape[1:] for value in values}) != 1:
            raise ValueError(f"{self.name}: cannot concatenate the shapes {[v.shape for v in values]}")
        shape = (sum(value.shape[0] for value in values), *values[0].shape[1:])
        return self._node("Concat", self._name("concat"), [value.name for value in values], shape, axis=1)

    def model(self, y: Value, name: str = "logits", *, any_size: bool = False) -> ModelProto:
        """The finished model: `image` [N, ...] in, `y` under the name `name` out; N is free.

        With `any_size`, height and width are free too, [N, C, H, W] → [N, C, H_out, W_out]: only for nets whose
        nodes do not depend on them.
        """
        for node in self._nodes:
            node.output[:] = [name if output == y.name else output for output in node.output]
            node.input[:] = [name if value == y.name else value for value in node.input]
        sides = (("H", "W"), ("H_out", "W_out"))
        ends = [
            helper.make_tensor_value_info(
                end, TensorProto.FLOAT, ["N", value.shape[0], *free] if any_size else ["N", *value.shape]
            )
            for end, value, free in zip((self.image.name, name), (self.image, y), sides, strict=True)
        ]
        graph = helper.make_graph(self._nodes, self.name, ends[:1], ends[1:], self._weights)
        opset = [helper.make_opsetid("", OPSET)]
        return helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION, producer_name="onnxplain")

    def _conv(
        self, x: Value, weight: Floats, offset: Floats | None, stride: int, padding: Padding, group: int
    ) -> Value:
        filters, kernel = weight.shape[0], weight.shape[2]
        pads, height, width = self._window(x, kernel, stride, padding)
        name = self._name("conv")
        inputs = [x.name, self._tensor(f"{name}/weight", weight)]
        if offset is not None:
            inputs.append(self._tensor(f"{name}/bias", offset))
        return self._node(
            "Conv",
            name,
            inputs,
            (filters, height, width),
            kernel_shape=[kernel] * 2,
            strides=[stride] * 2,
            dilations=[1, 1],
            pads=pads,
            group=group,
        )

    def _norm(self, x: Value, parameters: Sequence[Floats]) -> Value:
        name = self._name("bn")
        keys = ("scale", "bias", "mean", "variance")
        weights = [self._tensor(f"{name}/{key}", value) for key, value in zip(keys, parameters, strict=True)]
        return self._node("BatchNormalization", name, [x.name, *weights], x.shape, epsilon=1e-5)

    def _window(self, x: Value, kernel: int, stride: int, padding: Padding) -> tuple[list[int], int, int]:
        before, after, sides = [], [], []
        for side in x.shape[1:]:
            total = max((-(-side // stride) - 1) * stride + kernel - side, 0) if padding == "SAME" else 0
            low, high = (padding, padding) if isinstance(padding, int) else (total // 2, total - total // 2)
            before.append(low)
            after.append(high)
            sides.append((side + low + high - kernel) // stride + 1)
        if min(sides) < 1:
            raise ValueError(
                f"{self.name}: a window of {kernel} does not fit the shape {x.shape}; take a larger size"
            )
        return before + after, sides[0], sides[1]

    def _conv_weights(
        self, x: Value, filters: int, kernel: int, group: int, gain: float, bias: bool
    ) -> tuple[Floats, Floats | None]:
        per_group = x.shape[0] // group
        weight = self._draw((filters, per_group, kernel, kernel), per_group * kernel * kernel, gain)
        return weight, self._bias(filters) if bias else None

    def _norm_weights(self, channels: int) -> tuple[Floats, Floats, Floats, Floats]:
        uniform, normal = self._rng.uniform, self._rng.normal
        scale, beta = uniform(0.8, 1.2, channels), normal(0, 0.1, channels)
        mean, variance = normal(0, 0.1, channels), uniform(0.7, 1.3, channels)
        return (_f32(scale), _f32(beta), _f32(mean), _f32(variance))

    def _draw(self, shape: tuple[int, ...], fan_in: int, gain: float) -> Floats:
        if self._std is None:
            weight = self._rng.standard_normal(shape, np.float32)
            weight *= np.float32(gain / sqrt(fan_in))
            return weight
        weight = self._rng.standard_normal(shape, np.float32)
        while (outside := np.abs(weight) > 2).any():
            weight[outside] = self._rng.standard_normal(int(outside.sum()), np.float32)
        weight *= np.float32(self._std)
        return weight

    def _bias(self, channels: int) -> Floats:
        if self._std is not None:
            return np.zeros(channels, np.float32)
        return _f32(self._rng.normal(0, 0.05, channels))

    def _name(self, kind: str) -> str:
        key = f"{self._scope}{kind}"
        self._count[key] += 1
        return f"{key}{self._count[key]}"

    def _tensor(self, name: str, value: Floats) -> str:
        little = value.astype("<f4", copy=False)
        self._weights.append(
            helper.make_tensor(name, TensorProto.FLOAT, value.shape, little.tobytes(), raw=True)
        )
        return name

    def _node(
        self,
        op: str,
        name: str,
        inputs: list[str],
        shape: tuple[int, ...],
        **attributes: int | float | str | list[int],
    ) -> Value:
        y = Value(f"{name}/out", shape)
        node = helper.make_node(op, inputs, [y.name], name=name)
        node.attribute.extend(helper.make_attribute(key, value) for key, value in attributes.items())
        self._nodes.append(node)
        return y


def widened(channels: int, width: float) -> int:
    """`channels` times `width`, rounded, at least 1. ValueError unless `width` is above 0."""
    if width <= 0:
        raise ValueError(f"width must be above 0, not {width}")
    return max(1, round(channels * width))


def _f32(values: NDArray[np.float64]) -> Floats:
    return values.astype(np.float32)
