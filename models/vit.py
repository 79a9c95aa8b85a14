"""Vision transformer (Dosovitskiy et al., "An image is worth 16x16 words", ICLR 2021; sizes Ti and S of Touvron et
al., "Training data-efficient image transformers", ICML 2021)."""

from __future__ import annotations

from math import sqrt

import numpy as np
from onnx import ModelProto, numpy_helper

from .blocks import LINEAR, Net, Value

# Each branch adds a quarter of its input's second moment: the values keep their size over the depth.
BRANCH_GAIN = 0.5
EPSILON = 1e-6


def vit(
    size: int = 224,
    patch: int = 16,
    width: int = 192,
    depth: int = 12,
    heads: int = 3,
    mlp: int = 4,
    classes: int = 1000,
    seed: int = 0,
) -> ModelProto:
    """ViT in inference, pre-norm, with a class token: `image` [N, 3, size, size] → `logits` [N, classes].

    The defaults are ViT-Ti/16; `width=384, heads=6` is ViT-S/16. `width` is the length of a token, split among the
    `heads`; the hidden layer of a block is `mlp` times as wide. The nodes are those that exporters write: a
    convolution cuts the patches, linear layers on tokens are MatMul and Add, attention is MatMul, Div, Softmax and
    MatMul, GELU is x/2 (1 + erf(x/√2)). The batch N is free. ValueError unless `patch` divides `size` and `heads`
    divides `width`, and every number is at least 1.
    """
    given = {"patch": patch, "width": width, "depth": depth, "heads": heads, "mlp": mlp, "classes": classes}
    for key, value in given.items():
        if value < 1:
            raise ValueError(f"vit: {key} must be at least 1, not {value}")
    if size % patch:
        raise ValueError(f"vit: size must be a multiple of patch = {patch}, not {size}")
    if width % heads:
        raise ValueError(f"vit: width must be a multiple of heads = {heads}, not {width}")
    net = Tokens("vit", (3, size, size), seed)
    with net.scope("embed"):
        x = net.embed(width, patch)
    for block in range(depth):
        with net.scope(f"block{block + 1}/attention"):
            x = net.add(x, net.attend(net.layer_norm(x), heads))
        with net.scope(f"block{block + 1}/mlp"):
            y = net.gelu(net.linear(net.layer_norm(x), width * mlp))
            x = net.add(x, net.linear(y, width, gain=BRANCH_GAIN))
    with net.scope("head"):
        return net.model(net.gemm(net.first(net.layer_norm(x)), classes, gain=LINEAR))


class Tokens(Net):
    """Layers on sequences of tokens: values of the shape (tokens, features)."""

    def embed(self, width: int, patch: int) -> Value:
        """Patches as tokens behind a class token, each with its position added."""
        y = self.conv(self.image, width, patch, stride=patch, padding="VALID", gain=LINEAR)
        count = y.shape[1] * y.shape[2]
        name = self._name("flatten")
        inputs = [y.name, self._integers(f"{name}/shape", [0, width, -1])]
        y = self._node("Reshape", name, inputs, (width, count))
        y = self._node("Transpose", self._name("transpose"), [y.name], (count, width), perm=[0, 2, 1])
        token = self._repeated(self._learned("token", (1, 1, width)), width)
        name = self._name("concat")
        y = self._node("Concat", name, [token.name, y.name], (count + 1, width), axis=1)
        position = self._learned("position", (1, count + 1, width))
        return self._node("Add", self._name("add"), [y.name, position], y.shape)

    def layer_norm(self, x: Value) -> Value:
        """Over the features, with a scale around 1 and a bias around 0."""
        scale, bias, _, _ = self._norm_weights(x.shape[1])
        name = self._name("layer_norm")
        inputs = [x.name, self._tensor(f"{name}/scale", scale), self._tensor(f"{name}/bias", bias)]
        return self._node("LayerNormalization", name, inputs, x.shape, axis=-1, epsilon=EPSILON)

    def linear(self, x: Value, features: int, *, gain: float = LINEAR) -> Value:
        """The same fully connected layer on every token: MatMul, then Add."""
        shape = (x.shape[0], features)
        name = self._name("matmul")
        weight = self._draw((x.shape[1], features), x.shape[1], gain)
        y = self._node("MatMul", name, [x.name, self._tensor(f"{name}/weight", weight)], shape)
        bias = self._tensor(f"{name}/bias", self._bias(features))
        return self._node("Add", self._name("add"), [bias, y.name], shape)

    def attend(self, x: Value, heads: int) -> Value:
        """Σ_s softmax_s(q_t·k_s / √d) v_s in every head, d = features / heads, then a linear layer."""
        count, width = x.shape
        side = width // heads
        q, v = (self._split(self.linear(x, width), heads, (0, 2, 1, 3)) for _ in range(2))
        k = self._split(self.linear(x, width), heads, (0, 2, 3, 1))
        scores = (heads, count, count)
        y = self._node("MatMul", self._name("scores"), [q.name, k.name], scores)
        y = self._node("Div", self._name("div"), [y.name, self._number("root", sqrt(side))], scores)
        y = self._node("Softmax", self._name("softmax"), [y.name], scores, axis=-1)
        y = self._node("MatMul", self._name("mix"), [y.name, v.name], (heads, count, side))
        shape = (count, heads, side)
        y = self._node("Transpose", self._name("transpose"), [y.name], shape, perm=[0, 2, 1, 3])
        name = self._name("join")
        inputs = [y.name, self._integers(f"{name}/shape", [0, 0, width])]
        return self.linear(self._node("Reshape", name, inputs, (count, width)), width, gain=BRANCH_GAIN)

    def gelu(self, x: Value) -> Value:
        """x/2 (1 + erf(x/√2)), in five nodes."""
        y = self._node("Div", self._name("div"), [x.name, self._number("root", sqrt(2))], x.shape)
        y = self._node("Erf", self._name("erf"), [y.name], x.shape)
        y = self._node("Add", self._name("add"), [y.name, self._number("one", 1.0)], x.shape)
        y = self._node("Mul", self._name("mul"), [x.name, y.name], x.shape)
        return self._node("Mul", self._name("mul"), [y.name, self._number("half", 0.5)], x.shape)

    def first(self, x: Value) -> Value:
        """The class token."""
        name = self._name("gather")
        inputs = [x.name, self._integers(f"{name}/index", 0)]
        return self._node("Gather", name, inputs, x.shape[1:], axis=1)

    def _split(self, x: Value, heads: int, perm: tuple[int, ...]) -> Value:
        """Tokens as one matrix a head, its axes in the order that `perm` asks for."""
        count, width = x.shape
        shape = (count, heads, width // heads)
        name = self._name("split")
        inputs = [x.name, self._integers(f"{name}/shape", [0, 0, heads, width // heads])]
        y = self._node("Reshape", name, inputs, shape)
        turned = tuple(shape[i - 1] for i in perm[1:])
        return self._node("Transpose", self._name("transpose"), [y.name], turned, perm=list(perm))

    def _repeated(self, token: str, width: int) -> Value:
        """The token once for every sample; the batch is read from the shape of the image."""
        name = self._name("batch")
        sizes = self._node("Shape", name, [self.image.name], (), start=0, end=1)
        inputs = [sizes.name, self._integers(f"{name}/rest", [1, width])]
        shape = self._node("Concat", self._name("shape"), inputs, (), axis=0)
        return self._node("Expand", self._name("expand"), [token, shape.name], (1, width))

    def _learned(self, name: str, shape: tuple[int, ...]) -> str:
        return self._tensor(f"{self._name(name)}/weight", self._rng.normal(0, 0.2, shape).astype(np.float32))

    def _number(self, name: str, value: float) -> str:
        return self._tensor(f"{self._name(name)}/value", np.array(value, np.float32))

    def _integers(self, name: str, value: list[int] | int) -> str:
        self._weights.append(numpy_helper.from_array(np.array(value, np.int64), name))
        return name
