"""The networks of the benchmarks as ONNX files, and pictures of the size they take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxplain import models
from onnxplain.models.blocks import Net
from onnxplain.models.mobilenet import mobilenet_v2
from onnxplain.models.resnet import resnet
from onnxplain.models.unet import unet
from onnxplain.models.vgg import vgg
from onnxplain.models.vit import vit
from onnxplain.runtime.images import prepare, read_image
from onnxplain.runtime.preprocess import Preprocessing

Floats = NDArray[np.float32]
Build = Callable[[], onnx.ModelProto]

PHOTOS = ("cat_chelsea", "goldfish", "panda", "coffee", "rocket", "volleyball", "astronaut", "frying_pan")


@dataclass(frozen=True)
class Network:
    """A network at full size, and in a small form that runs in no time. large: what runs it dozens of times takes
    minutes."""

    title: str
    full: Build
    quick: Build
    large: bool = False


def shipped(name: str) -> Network:
    """A trained model of the package; it has one size only, unless it takes any."""

    def build() -> onnx.ModelProto:
        return onnx.load(models.path(name))

    return Network(str((models.record(models.path(name)) or {})["name"]), build, build)


def upscaler(size: int) -> onnx.ModelProto:
    """The shipped upscaler for pictures of `size` × `size` pixels."""
    model = onnx.load(models.path("esrgan_slim_x4"))
    for value, factor in ((model.graph.input[0], 1), (model.graph.output[0], 4)):
        for dim in value.type.tensor_type.shape.dim[2:]:
            dim.dim_value = size * factor
    return model


def small_cnn(size: int = 224) -> onnx.ModelProto:
    """Three convolutions with pools, 16, 32 and 64 channels, and a mean over all cells."""
    net = Net("small_cnn", (3, size, size))
    x = net.image
    for channels in (16, 32, 64):
        x = net.max_pool(net.relu(net.conv(x, channels, 3)), 2, stride=2)
    return net.model(net.gemm(net.flatten(net.global_average_pool(x)), 10))


NETWORKS: dict[str, Network] = {
    "resnet50": Network(
        "ResNet-50",
        lambda: resnet(50, fold_batch_norm=True),
        lambda: resnet(50, size=64, width=0.25, fold_batch_norm=True),
    ),
    "resnet50-bn": Network(
        "ResNet-50, BatchNormalization apart",
        lambda: resnet(50),
        lambda: resnet(50, size=64, width=0.25),
    ),
    "vgg16": Network("VGG-16", lambda: vgg(16), lambda: vgg(16, size=64, width=0.25), large=True),
    "small-cnn": Network("small CNN (16, 32, 64)", small_cnn, lambda: small_cnn(64)),
    "mobilenet-v2": Network("MobileNetV2", mobilenet_v2, lambda: mobilenet_v2(size=64, width=0.5)),
    "unet": Network(
        "U-Net 256, 32 filters, depth 4",
        lambda: unet(size=256, base=32, depth=4),
        lambda: unet(size=64, base=8, depth=3),
    ),
    "vit-tiny": Network("ViT-Ti/16", vit, lambda: vit(size=64, depth=2, width=48)),
    "vit-small": Network(
        "ViT-S/16", lambda: vit(width=384, heads=6), lambda: vit(size=64, depth=2, width=96, heads=6)
    ),
    **{name: shipped(name) for name in models.names()},
    "esrgan_slim_x4": Network("ESRGAN slim ×4, 64 × 64", lambda: upscaler(64), lambda: upscaler(32)),
}
"""Untrained ones are seeded. ResNet-50 carries its normalisation in the convolutions, as exporters write it: so
torch gets no more nodes to run than onnxruntime, which would fold them when it loads the file."""

DEFAULT = ("vgg16", "resnet50", "mobilenet-v2", "efficientnet_lite0", "vit-tiny", "esrgan_slim_x4")


def write(name: str, path: Path, quick: bool = False) -> Path:
    network = NETWORKS[name]
    onnx.save(network.quick() if quick else network.full(), path)
    return path


def pictures(model: Path, batch: int) -> Floats:
    """Shipped photos as (batch, 3, H, W), (pixel - 127) / 128, for the input that the file declares."""
    declared = onnx.load(model).graph.input[0].type.tensor_type.shape.dim
    height, width = (int(dim.dim_value) for dim in declared[2:])
    about = Preprocessing(
        size=(height, width),
        resize="shorter",
        shorter=max(height, width),
        resample="bicubic",
        mean=(127.0,) * 3,
        std=(128.0,) * 3,
    )
    names = islice(cycle(PHOTOS), batch)
    return np.concatenate([prepare(read_image(models.photo(name)), about)[0] for name in names])
