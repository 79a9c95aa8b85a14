"""VGG (Simonyan and Zisserman, "Very deep convolutional networks for large-scale image recognition",
ICLR 2015)."""

from __future__ import annotations

from onnx import ModelProto

from .blocks import LINEAR, Net, widened

# Convolutions of each of the five stages; the filters are 64, 128, 256, 512, 512.
STAGES = {11: (1, 1, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}


def vgg(
    depth: int,
    size: int = 224,
    classes: int = 1000,
    width: float = 1.0,
    batch_norm: bool = False,
    seed: int = 0,
    std: float | None = None,
) -> ModelProto:
    """VGG-11, -16 or -19: `image` [N, 3, size, size] → `logits` [N, classes].

    `width` scales every hidden layer; `size` is at least 32 (five halvings). Weights are He-normal with small
    biases, or with `std` Gaussian cut off at two of them with biases 0. ValueError for another depth or too
    small a size.
    """
    if depth not in STAGES:
        raise ValueError(f"vgg: depth must be one of {', '.join(map(str, STAGES))}, not {depth}")
    net = Net(f"vgg{depth}", (3, size, size), seed, std)
    x = net.image
    for stage, (convs, filters) in enumerate(zip(STAGES[depth], (64, 128, 256, 512, 512), strict=True), 1):
        with net.scope(f"stage{stage}"):
            for _ in range(convs):
                make = net.conv_bn if batch_norm else net.conv
                x = net.relu(make(x, widened(filters, width), 3))
            x = net.max_pool(x, 2, stride=2)
    x = net.flatten(x)
    with net.scope("head"):
        for _ in range(2):
            x = net.relu(net.gemm(x, widened(4096, width)))
        return net.model(net.gemm(x, classes, gain=LINEAR))
