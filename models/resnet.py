"""ResNet (He, Zhang, Ren and Sun, "Deep residual learning for image recognition", CVPR 2016)."""

from __future__ import annotations

from onnx import ModelProto

from .blocks import LINEAR, Net, Value, widened

# Blocks of each stage, and output channels over inner channels of a block.
STAGES = {18: ((2, 2, 2, 2), 1), 50: ((3, 4, 6, 3), 4)}
# The branch adds a quarter of its input's second moment, so that 16 blocks grow the values by 6 and not by
# 256.
BRANCH_GAIN = 0.5


def resnet(
    depth: int,
    size: int = 224,
    classes: int = 1000,
    width: float = 1.0,
    fold_batch_norm: bool = False,
    seed: int = 0,
) -> ModelProto:
    """ResNet-18 or -50 in inference: `image` [N, 3, size, size] → `logits` [N, classes].

    `width` scales every hidden layer. The BatchNormalization statistics are seeded and not trivial; with
    `fold_batch_norm` the convolutions carry them and the function is the same. In the bottleneck of depth 50
    the stride is at the 3×3 convolution. Any `size` from 1 runs; below 32 the last stage sees a single pixel.
    ValueError for another depth.
    """
    if depth not in STAGES:
        raise ValueError(f"resnet: depth must be one of {', '.join(map(str, STAGES))}, not {depth}")
    stages, expansion = STAGES[depth]
    net = Net(f"resnet{depth}", (3, size, size), seed)
    with net.scope("stem"):
        x = net.conv_bn(net.image, widened(64, width), 7, stride=2, padding=3, fold=fold_batch_norm)
        x = net.max_pool(net.relu(x), 3, stride=2, padding=1)
    for stage, blocks in enumerate(stages):
        inner = widened(64 * 2**stage, width)
        for block in range(blocks):
            with net.scope(f"stage{stage + 1}/block{block + 1}"):
                x = _block(net, x, inner, expansion, 2 if stage and not block else 1, fold_batch_norm)
    x = net.flatten(net.global_average_pool(x))
    with net.scope("head"):
        return net.model(net.gemm(x, classes, gain=LINEAR))


def _block(net: Net, x: Value, inner: int, expansion: int, stride: int, fold: bool) -> Value:
    y = x
    if expansion == 1:
        y = net.relu(net.conv_bn(y, inner, 3, stride=stride, padding=1, fold=fold))
        y = net.conv_bn(y, inner, 3, padding=1, gain=BRANCH_GAIN, fold=fold)
    else:
        y = net.relu(net.conv_bn(y, inner, 1, fold=fold))
        y = net.relu(net.conv_bn(y, inner, 3, stride=stride, padding=1, fold=fold))
        y = net.conv_bn(y, inner * expansion, 1, gain=BRANCH_GAIN, fold=fold)
    if x.shape != y.shape:
        x = net.conv_bn(x, y.shape[0], 1, stride=stride, padding=0, gain=LINEAR, fold=fold)
    return net.relu(net.add(y, x))
