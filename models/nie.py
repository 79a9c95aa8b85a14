"""The three-layer nets of Nie, Zhang and Patel, "A theoretical explanation for perplexing behaviors of
backpropagation-based visualizations", ICML 2018. Their weights are Gaussian with standard deviation 0.1, cut
off at two of them: pass std=0.1. Biases are 0 in either case."""

from __future__ import annotations

from typing import Literal

from onnx import ModelProto

from .blocks import LINEAR, Net


def three_layer_cnn(
    filters: int = 256,
    size: int = 64,
    classes: int = 10,
    kernel: int = 7,
    stride: int = 2,
    pool: int | None = None,
    padding: Literal["SAME", "VALID"] = "SAME",
    seed: int = 0,
    std: float | None = None,
) -> ModelProto:
    """conv → ReLU → [max-pool] → fully connected: `image` [N, 3, size, size] → `logits` [N, classes].

    `pool` is the window of a max-pool with stride 1 (the paper does not give it). Weights are He-normal, or
    Gaussian cut off at two `std`. ValueError when a window does not fit the image.
    """
    net = Net("three_layer_cnn", (3, size, size), seed, std)
    x = net.relu(net.conv(net.image, filters, kernel, stride=stride, padding=padding, bias=False))
    if pool is not None:
        x = net.max_pool(x, pool, stride=1, padding=padding)
    return net.model(net.gemm(net.flatten(x), classes, gain=LINEAR, bias=False))


def three_layer_fcn(
    hidden: int = 4096, size: int = 32, classes: int = 10, seed: int = 0, std: float | None = None
) -> ModelProto:
    """fully connected → ReLU → fully connected: `image` [N, 3, size, size] → `logits` [N, classes].

    Weights are He-normal, or Gaussian cut off at two `std`.
    """
    net = Net("three_layer_fcn", (3, size, size), seed, std)
    x = net.relu(net.gemm(net.flatten(net.image), hidden, bias=False))
    return net.model(net.gemm(x, classes, gain=LINEAR, bias=False))
