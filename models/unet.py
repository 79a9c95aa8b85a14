"""U-Net (Ronneberger, Fischer and Brox, "U-Net: convolutional networks for biomedical image segmentation",
MICCAI 2015), with padded convolutions so that the output has the size of the input."""

from __future__ import annotations

from onnx import ModelProto

from .blocks import LINEAR, Net, Value


def unet(
    size: int = 64, channels: int = 3, classes: int = 2, base: int = 16, depth: int = 3, seed: int = 0
) -> ModelProto:
    """Segmentation logits of every pixel: `image` [N, channels, size, size] → `logits` [N, classes, size,
    size].

    `depth` times two 3×3 convolutions and a 2×2 max-pool down, then a 2×2 ConvTranspose, the skip connection
    and two convolutions up; `base` filters at full size, twice as many on each level below. ValueError unless
    `size` is a multiple of 2**depth.
    """
    if depth < 0 or size % 2**depth:
        raise ValueError(f"unet: size must be a multiple of 2**depth, but size is {size} and depth {depth}")
    net = Net("unet", (channels, size, size), seed)
    x, skips = net.image, list[Value]()
    for level in range(depth):
        with net.scope(f"down{level + 1}"):
            skips.append(_double(net, x, base * 2**level))
            x = net.max_pool(skips[-1], 2, stride=2)
    with net.scope("bottom"):
        x = _double(net, x, base * 2**depth)
    for level in reversed(range(depth)):
        with net.scope(f"up{level + 1}"):
            up = net.conv_transpose(x, base * 2**level, 2, stride=2)
            x = _double(net, net.concat(skips[level], up), base * 2**level)
    with net.scope("head"):
        return net.model(net.conv(x, classes, 1, gain=LINEAR))


def _double(net: Net, x: Value, filters: int) -> Value:
    for _ in range(2):
        x = net.relu(net.conv(x, filters, 3))
    return x
