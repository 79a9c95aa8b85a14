"""MobileNetV2 (Sandler et al., "MobileNetV2: inverted residuals and linear bottlenecks", CVPR 2018)."""

from __future__ import annotations

from onnx import ModelProto

from .blocks import HE, LINEAR, Net, Value

# Table 2 of the paper: expansion, channels, blocks, stride of the first block.
ROWS = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def mobilenet_v2(size: int = 224, classes: int = 1000, width: float = 1.0, seed: int = 0) -> ModelProto:
    """MobileNetV2 with its normalisation folded: `image` [N, 3, size, size] → `logits` [N, classes].

    ReLU6 is Clip(0, 6); every 3×3 but the first is depthwise (group = channels). `width` scales the channels,
    which are then rounded to a multiple of 8; the last layer before the head never has fewer than 1280.
    ValueError unless `width` is above 0.
    """
    if width <= 0:
        raise ValueError(f"mobilenet_v2: width must be above 0, not {width}")
    net = Net("mobilenet_v2", (3, size, size), seed)
    with net.scope("stem"):
        x = _relu6(net, net.conv(net.image, _channels(32 * width), 3, stride=2, padding=1))
    for row, (expansion, channels, blocks, stride) in enumerate(ROWS, 1):
        for block in range(blocks):
            with net.scope(f"row{row}/block{block + 1}"):
                x = _block(net, x, expansion, _channels(channels * width), stride if block == 0 else 1)
    with net.scope("head"):
        x = _relu6(net, net.conv(x, _channels(1280 * max(width, 1.0)), 1, gain=LINEAR))
        return net.model(net.gemm(net.flatten(net.global_average_pool(x)), classes))


def _block(net: Net, x: Value, expansion: int, channels: int, stride: int) -> Value:
    y = x
    if expansion != 1:
        y = _relu6(net, net.conv(y, x.shape[0] * expansion, 1, gain=LINEAR))
    y = _relu6(net, net.conv(y, y.shape[0], 3, stride=stride, padding=1, group=y.shape[0]))
    residual = stride == 1 and x.shape[0] == channels
    y = net.conv(y, channels, 1, gain=0.5 if residual else HE)
    return net.add(x, y) if residual else y


def _relu6(net: Net, x: Value) -> Value:
    return net.clip(x, 0.0, 6.0)


def _channels(wanted: float) -> int:
    """The multiple of 8 nearest to `wanted` that loses at most a tenth of it, at least 8."""
    rounded = max(8, int(wanted + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * wanted else rounded
