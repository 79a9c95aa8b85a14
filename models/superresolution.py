"""Nets that enlarge a picture: bicubic interpolation, the pixel-shuffle net of Shi et al. ("Real-time single image and
video super-resolution using an efficient sub-pixel convolutional neural network", CVPR 2016) and EDSR (Lim et al.,
"Enhanced deep residual networks for single image super-resolution", CVPR workshops 2017).

`size` is the side of the square input; None leaves height and width free. Weights are He-normal with small biases."""

from __future__ import annotations

from math import sqrt
from typing import Literal

import numpy as np
from onnx import ModelProto

from .blocks import HE, LINEAR, Net, Value

Activation = Literal["relu", "tanh"]

# With this gain the values behind a tanh settle at a standard deviation of about 0.65, whatever the depth.
TANH = 5 / 3
GAINS: dict[Activation, float] = {"relu": HE, "tanh": TANH}
# Factors of the layers that enlarge, for each scale of EDSR.
STEPS = {2: (2,), 3: (3,), 4: (2, 2)}


def bicubic(
    scale: int = 4, channels: int = 3, size: int | None = 32, cubic_coeff_a: float = -0.5
) -> ModelProto:
    """Cubic convolution (Keys 1981): `image` [N, channels, size, size] → `logits` [N, channels, scale · size,
    scale · size].

    One Resize with half-pixel centres; places outside the picture take the pixel of its edge. The net is linear, and
    each row of its matrix sums to 1. The kernel's `cubic_coeff_a` is -0.5 by default, which enlarges linear ramps
    exactly and is usual in super-resolution; the default of ONNX is -0.75. ValueError unless every number is at least
    1.
    """
    net = _pictures("bicubic", channels, size, scale=scale)
    return net.model(net.resize(net.image, scale, cubic_coeff_a), any_size=size is None)


def pixel_shuffle(
    scale: int = 4,
    channels: int = 3,
    width: int = 64,
    size: int | None = 32,
    activation: Activation = "relu",
    seed: int = 0,
) -> ModelProto:
    """Four convolutions at low resolution, then a pixel shuffle: `image` [N, channels, size, size] → `logits`
    [N, channels, scale · size, scale · size].

    The convolutions are 5×5 to `width` filters, 3×3 to `width`, 3×3 to width // 2 and 3×3 to channels · scale², with
    `activation` after all but the last. ValueError unless `width` is at least 2, the other numbers at least 1 and
    `activation` "relu" or "tanh".
    """
    if activation not in GAINS:
        raise ValueError(f"pixel_shuffle: activation must be one of {', '.join(GAINS)}, not {activation!r}")
    if width < 2:
        raise ValueError(f"pixel_shuffle: width must be at least 2, not {width}")
    net = _pictures("pixel_shuffle", channels, size, seed, scale=scale)
    x = net.image
    for filters, kernel in ((width, 5), (width, 3), (width // 2, 3)):
        x = net.conv(x, filters, kernel, gain=GAINS[activation])
        x = net.relu(x) if activation == "relu" else net.tanh(x)
    x = net.conv(x, channels * scale**2, 3, gain=LINEAR)
    return net.model(net.depth_to_space(x, scale), any_size=size is None)


def edsr(
    blocks: int = 8,
    width: int = 32,
    scale: int = 4,
    channels: int = 3,
    size: int | None = 32,
    residual_scale: float = 0.1,
    seed: int = 0,
) -> ModelProto:
    """EDSR: `image` [N, channels, size, size] → `logits` [N, channels, scale · size, scale · size].

    A convolution to `width` filters; `blocks` times x + residual_scale · conv(relu(conv(x))), without normalisation; a
    convolution, and a skip connection over all blocks; convolution and pixel shuffle by 2 (for scale 4 twice, for
    scale 3 by 3); a convolution to `channels`. All are 3×3. The paper's large net is blocks=32, width=256, 43.1
    million weights. The subtraction of the data's mean colour is left out. ValueError unless `scale` is 2, 3 or 4,
    `residual_scale` at least 0 and the other numbers at least 1.
    """
    if scale not in STEPS:
        raise ValueError(f"edsr: scale must be one of {', '.join(map(str, STEPS))}, not {scale}")
    if residual_scale < 0:
        raise ValueError(f"edsr: residual_scale must be at least 0, not {residual_scale}")
    net = _pictures("edsr", channels, size, seed, blocks=blocks, width=width)
    with net.scope("head"):
        x = head = net.conv(net.image, width, 3, gain=LINEAR)
    # Each branch adds at most 1/blocks of the second moment: over all blocks it grows by no more than e.
    gain = LINEAR / max(1.0, residual_scale * sqrt(blocks))
    for block in range(blocks):
        with net.scope(f"block{block + 1}"):
            branch = net.conv(net.relu(net.conv(x, width, 3)), width, 3, gain=gain)
            x = net.add(net.scaled(branch, residual_scale), x)
    with net.scope("skip"):
        x = net.add(net.conv(x, width, 3, gain=LINEAR), head)
    with net.scope("tail"):
        for step in STEPS[scale]:
            x = net.depth_to_space(net.conv(x, width * step**2, 3, gain=LINEAR), step)
        return net.model(net.conv(x, channels, 3, gain=LINEAR), any_size=size is None)


class Pictures(Net):
    """Layers that change the resolution."""

    def depth_to_space(self, x: Value, factor: int) -> Value:
        """Pixel shuffle: y[c, h·f + i, w·f + j] = x[c·f² + i·f + j, h, w], f = factor."""
        channels, height, width = x.shape
        shape = (channels // factor**2, height * factor, width * factor)
        name = self._name("depth_to_space")
        return self._node("DepthToSpace", name, [x.name], shape, blocksize=factor, mode="CRD")

    def resize(self, x: Value, factor: int, cubic_coeff_a: float) -> Value:
        """Cubic interpolation with half-pixel centres."""
        name = self._name("resize")
        scales = self._tensor(f"{name}/scales", np.array([1, 1, factor, factor], np.float32))
        return self._node(
            "Resize",
            name,
            [x.name, "", scales],
            (x.shape[0], x.shape[1] * factor, x.shape[2] * factor),
            mode="cubic",
            cubic_coeff_a=cubic_coeff_a,
            coordinate_transformation_mode="half_pixel",
        )

    def scaled(self, x: Value, factor: float) -> Value:
        """factor · x."""
        name = self._name("mul")
        return self._node(
            "Mul", name, [x.name, self._tensor(f"{name}/factor", np.array(factor, np.float32))], x.shape
        )


def _pictures(name: str, channels: int, size: int | None, seed: int = 0, **counts: int) -> Pictures:
    for key, value in counts.items():
        if value < 1:
            raise ValueError(f"{name}: {key} must be at least 1, not {value}")
    side = 1 if size is None else size
    return Pictures(name, (channels, side, side), seed)
