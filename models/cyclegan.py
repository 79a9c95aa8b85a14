"""The generator of CycleGAN (Zhu, Park, Isola and Efros, "Unpaired image-to-image translation using cycle-consistent
adversarial networks", ICCV 2017), which follows Johnson, Alahi and Fei-Fei (ECCV 2016)."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, numpy_helper

from .blocks import HE, LINEAR, Net, Value

# The picture is halved twice; a reflection of one pixel then needs a side of two.
MULTIPLE, SMALLEST = 4, 8


def cyclegan(
    blocks: int = 9,
    width: int = 64,
    channels: int = 3,
    size: int | None = 256,
    epsilon: float = 1e-5,
    seed: int = 0,
) -> ModelProto:
    """ResNet generator: `image` [N, channels, size, size] → `logits` of the same shape, between -1 and 1.

    A 7×7 convolution to `width` filters; two 3×3 convolutions of stride 2, to 2 · width and 4 · width; `blocks` times
    x + norm(conv(relu(norm(conv(x))))), 3×3; two ConvTranspose of stride 2, to 2 · width and `width`; a 7×7 convolution
    to `channels` and tanh. Instance normalisation and ReLU follow every convolution outside the blocks but the last.
    The 7×7 convolutions and those of the blocks are padded by reflection. The normalisation has scale 1 and bias 0
    (the authors' code learns neither), so that the biases of the convolutions before it have no effect.
    The defaults have 11.4 million weights.

    size: None leaves height and width free; they must then be multiples of 4, at least 8, when the model runs.
    ValueError unless `size` is such a number, `epsilon` above 0 and the other numbers at least 1.
    """
    for key, value in (("blocks", blocks), ("width", width), ("channels", channels)):
        if value < 1:
            raise ValueError(f"cyclegan: {key} must be at least 1, not {value}")
    if size is not None and (size < SMALLEST or size % MULTIPLE):
        raise ValueError(f"cyclegan: size must be a multiple of {MULTIPLE}, at least {SMALLEST}, not {size}")
    if epsilon <= 0:
        raise ValueError(f"cyclegan: epsilon must be above 0, not {epsilon}")
    side = SMALLEST if size is None else size
    net = Generator("cyclegan", (channels, side, side), seed, epsilon)
    with net.scope("stem"):
        x = net.relu(net.norm(net.reflected(net.image, width, 7)))
    for level in (1, 2):
        with net.scope(f"down{level}"):
            x = net.relu(net.norm(net.conv(x, width * 2**level, 3, stride=2, padding=1)))
    for block in range(blocks):
        with net.scope(f"block{block + 1}"):
            y = net.relu(net.norm(net.reflected(x, 4 * width, 3)))
            x = net.add(x, net.norm(net.reflected(y, 4 * width, 3)))
    for level in (1, 2):
        with net.scope(f"up{level}"):
            x = net.relu(net.norm(net.doubled(x, 4 * width // 2**level)))
    with net.scope("head"):
        y = net.reflected(x, channels, 7, gain=LINEAR)
        return net.model(net.tanh(y), any_size=size is None)


class Generator(Net):
    """Layers with reflected edges, instance normalisation, and convolutions that double a side."""

    def __init__(self, name: str, shape: tuple[int, ...], seed: int, epsilon: float) -> None:
        super().__init__(name, shape, seed)
        self._epsilon = epsilon

    def reflected(self, x: Value, filters: int, kernel: int, gain: float = HE) -> Value:
        """Conv on a picture continued by reflection, without its edge pixels twice: the size stays."""
        channels, height, width = x.shape
        edge = kernel // 2
        name = self._name("pad")
        pads = f"{name}/pads"
        self._weights.append(
            numpy_helper.from_array(np.array([0, 0, edge, edge, 0, 0, edge, edge], np.int64), pads)
        )
        shape = (channels, height + 2 * edge, width + 2 * edge)
        padded = self._node("Pad", name, [x.name, pads], shape, mode="reflect")
        return self.conv(padded, filters, kernel, padding="VALID", gain=gain)

    def norm(self, x: Value) -> Value:
        """(x - m) / √(v + ε), m and v of each channel of each picture."""
        name = self._name("norm")
        channels = x.shape[0]
        scale = self._tensor(f"{name}/scale", np.ones(channels, np.float32))
        bias = self._tensor(f"{name}/bias", np.zeros(channels, np.float32))
        return self._node(
            "InstanceNormalization", name, [x.name, scale, bias], x.shape, epsilon=self._epsilon
        )

    def doubled(self, x: Value, filters: int) -> Value:
        """ConvTranspose 3×3 of stride 2 that doubles both sides."""
        channels, height, width = x.shape
        name = self._name("conv_transpose")
        # An output pixel sees 9/4 taps of every channel on average.
        weight = self._draw((channels, filters, 3, 3), round(channels * 9 / 4), HE)
        inputs = [x.name, self._tensor(f"{name}/weight", weight)]
        inputs.append(self._tensor(f"{name}/bias", self._bias(filters)))
        attributes = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1] * 4, "output_padding": [1, 1]}
        return self._node("ConvTranspose", name, inputs, (filters, 2 * height, 2 * width), **attributes)
