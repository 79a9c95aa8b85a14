"""Which activation a class activation map is made of: by default, by name, and where there is none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnxplain.models import path
from onnxplain.models.mobilenet import mobilenet_v2
from onnxplain.models.nie import three_layer_cnn
from onnxplain.models.resnet import resnet
from onnxplain.models.unet import unet
from onnxplain.models.vgg import vgg
from onnxplain.rewriter.compile import explained_inputs
from onnxplain.rewriter.errors import OptionError
from onnxplain.rewriter.graph import prepare
from onnxplain.rewriter.layers import channel_axis, find_layer
from onnxplain.rewriter.target import find_head, find_output

from .nets import floats, net

LIGHT = Path(str(onnx.__file__)).parent / "backend" / "test" / "data" / "light"
GOLDEN = Path(__file__).parent.parent / "data" / "golden"

Found = tuple[str, list[int | str | None], int | None]


def found(model: onnx.ModelProto, name: str | None = None) -> Found:
    """(operator that makes the layer, its shape, its axis of channels)."""
    graph = prepare(model)
    wrt = explained_inputs(graph, None)
    head, _ = find_head(graph, find_output(graph, None), "logits")
    layer = find_layer(graph, wrt, head, name)
    return layer.inputs[0].op, list(layer.shape), channel_axis(graph, wrt, head, layer)


def weighted(body: str, **weights: tuple[int, ...]) -> onnx.ModelProto:
    model = net(body)
    arrays = [numpy_helper.from_array(floats(*shape), name) for name, shape in weights.items()]
    model.graph.initializer.extend(arrays)
    return model


TOPOLOGIES = {
    "bvlc_alexnet": ("Relu", [256, 12, 12]),
    "densenet121": ("Relu", [1024, 7, 7]),
    "inception_v1": ("Concat", [1024, 6, 6]),
    "inception_v2": ("Concat", [1024, 7, 7]),
    "resnet50": ("Relu", [2048, 7, 7]),
    "shufflenet": ("Relu", [544, 7, 7]),
    "squeezenet": ("Relu", [1000, 13, 13]),
    "vgg19": ("Relu", [512, 14, 14]),
    "zfnet512": ("Relu", [512, 12, 12]),
}


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_real_architectures(name: str) -> None:
    """After the activation, before the last pool: VGG19 has 512 x 14 x 14 before pool5."""
    op, shape = TOPOLOGIES[name]
    assert found(onnx.load(LIGHT / f"light_{name}.onnx")) == (op, ["N", *shape], 1)


BUILT: dict[str, tuple[Callable[[], onnx.ModelProto], str, list[int]]] = {
    "resnet18": (lambda: resnet(18, size=64, classes=7, width=0.25), "Relu", [128, 2, 2]),
    "resnet50": (lambda: resnet(50, size=64, classes=7, width=0.125), "Relu", [256, 2, 2]),
    "mobilenet_v2": (lambda: mobilenet_v2(size=64, classes=7, width=0.25), "Clip", [1280, 2, 2]),
    "vgg11": (lambda: vgg(11, size=64, classes=7, width=0.125), "Relu", [64, 4, 4]),
    "cnn of Nie": (lambda: three_layer_cnn(filters=8, size=20), "Relu", [8, 10, 10]),
    "unet": (lambda: unet(size=32, base=4), "Relu", [4, 32, 32]),
    "efficientnet_lite0": (lambda: onnx.load(path("efficientnet_lite0")), "Clip", [1280, 7, 7]),
    "mnist_lenet": (lambda: onnx.load(path("mnist_lenet")), "Relu", [50, 8, 8]),
    "tiny_yolov2_face": (lambda: onnx.load(path("tiny_yolov2_face")), "Conv", [25, 13, 13]),
}


@pytest.mark.parametrize("name", BUILT)
def test_builders_and_trained_models(name: str) -> None:
    build, op, shape = BUILT[name]
    assert found(build()) == (op, ["N", *shape], 1)


LINE = """g (float[N,2,20] x) => (float[N,3] y) <int64[1] last = {2}> {
  a = Conv<strides=[2]>(x, w) b = Relu(a) p = MaxPool<kernel_shape=[2]>(b)
  m = ReduceMean<keepdims=0>(p, last) y = MatMul(m, v) }"""
VOLUME = """g (float[N,2,6,5,4] x) => (float[N,3] y) {
  a = Conv(x, w) b = Relu(a) m = GlobalAveragePool(b) f = Flatten(m) y = MatMul(f, v) }"""
LAST = """g (float[N,8,8,3] x) => (float[N,3] y) <int64[2] axes = {1,2}, float[3] mean = {1,2,3}> {
  c = Sub(x, mean) t = Transpose<perm=[0,3,1,2]>(c) a = Conv(t, w) u = Transpose<perm=[0,2,3,1]>(a) s = Add(u, b)
  r = Relu(s) m = ReduceMean<keepdims=0>(r, axes) y = MatMul(m, v) }"""


def test_one_and_three_spatial_axes() -> None:
    assert found(weighted(LINE, w=(4, 2, 3), v=(4, 3))) == ("Relu", ["N", 4, 9], 1)
    assert found(weighted(VOLUME, w=(4, 2, 3, 3, 3), v=(4, 3))) == ("Relu", ["N", 4, 4, 3, 2], 1)


def channels_last() -> onnx.ModelProto:
    return weighted(LAST, w=(4, 3, 3, 3), b=(4,), v=(4, 3))


def test_channels_may_be_the_last_axis() -> None:
    """As converters from TensorFlow leave it: a bias and an activation between two transpositions."""
    assert found(channels_last()) == ("Relu", ["N", 6, 6, 4], 3)


def test_the_axis_of_an_input_is_read_off_its_readers() -> None:
    for model, axis in ((channels_last(), 3), (weighted(LINE, w=(4, 2, 3), v=(4, 3)), 1)):
        graph = prepare(model)
        wrt = explained_inputs(graph, None)
        assert channel_axis(graph, wrt, graph.outputs[0], wrt[0]) == axis
    graph = prepare(net("g (float[N,4] x) => (float[N,4] y) { y = Relu(x) }"))
    assert channel_axis(graph, graph.inputs, graph.outputs[0], graph.inputs[0]) is None


POOLED = """g (float[N,2,8,8] x) => (float[N,3] y) {
  a = Conv<pads=[1,1,1,1]>(x, w) b = Relu(a) p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(b)
  q = AveragePool<kernel_shape=[2,2]>(p) f = Flatten(q) y = MatMul(f, v) }"""


def test_pools_at_the_end_are_left_out() -> None:
    assert found(weighted(POOLED, w=(4, 2, 3, 3), v=(36, 3))) == ("Relu", ["N", 4, 8, 8], 1)


TOKENS = """g (float[N,1,8,8] x) => (float[N,3] y)
<int64[3] cells = {{0, 6, 16}}, int64[1] one = {{1}}> {{
  a = Conv<strides=[2,2]>(x, w) {act} r = Reshape(b, cells) t = Transpose<perm=[0,2,1]>(r)
  q = MatMul(t, wq) k = MatMul(t, wk) h = Transpose<perm=[0,2,1]>(k) s = MatMul(q, h) p = Softmax(s)
  o = MatMul(p, t) u = Add(o, t) m = ReduceMean<keepdims=0>(u, one) y = MatMul(m, v) }}"""


def transformer(act: str) -> onnx.ModelProto:
    return weighted(TOKENS.format(act=act), w=(6, 1, 2, 2), wq=(6, 6), wk=(6, 6), v=(6, 3))


def test_transformers_have_no_layer_of_their_own() -> None:
    """Attention over a linear patch embedding; over the features of a convolutional net it is a pool like others."""
    model = transformer("b = Identity(a)")
    with pytest.raises(OptionError, match=r"'a'.* is a linear projection of the input, and attention mixes"):
        found(model)
    assert found(model, "a") == ("Conv", ["N", 6, 4, 4], 1)
    assert found(transformer("b = Relu(a)")) == ("Relu", ["N", 6, 4, 4], 1)


@pytest.mark.parametrize("name", ["attention", "mlp_bias", "smooth_acts"])
def test_nets_without_a_convolution_have_none(name: str) -> None:
    with pytest.raises(OptionError, match="no activation with channels and a spatial extent"):
        found(onnx.load(GOLDEN / f"{name}.onnx"))


def test_the_target_itself_is_no_layer() -> None:
    """An image-to-image net with a skip around all of it has no other tensor on every path."""
    with pytest.raises(OptionError, match="no activation with channels"):
        found(onnx.load(GOLDEN / "sr.onnx"))


def test_layers_by_name() -> None:
    model = onnx.load(GOLDEN / "cnn_bias.onnx")
    conv = next(node for node in model.graph.node if node.op_type == "Conv")
    assert found(model, conv.output[0])[0] == "Conv"
    graph = prepare(model)
    assert found(model, next(node.name for node in graph.nodes if node.op == "MaxPool"))[0] == "MaxPool"


@pytest.mark.parametrize("wrong", ["t05_Rel", "x", "y", "nothing like it", "t01_Conv.weight"])
def test_a_wrong_name_lists_good_ones(wrong: str) -> None:
    with pytest.raises(OptionError) as caught:
        found(onnx.load(GOLDEN / "cnn_bias.onnx"), wrong)
    message = str(caught.value)
    assert "\n" not in message
    for name in ("t01_Conv", "t05_Relu"):
        assert name in message


def test_tokens_are_no_layer_even_by_name() -> None:
    with pytest.raises(OptionError, match=r"'u' has no channels and spatial axes .* the usual ones here: a"):
        found(transformer("b = Identity(a)"), "u")
    with pytest.raises(OptionError, match="'f' has no channels and spatial axes"):
        found(weighted(POOLED, w=(4, 2, 3, 3), v=(36, 3)), "f")


def test_a_branch_may_be_named() -> None:
    """On some paths only: the map is that of the branch."""
    model = resnet(18, size=32, classes=5, width=0.125)
    graph = prepare(model)
    name = next(node.name for node in graph.nodes if "block2" in node.name and node.op == "Relu")
    assert found(model, name)[0] == "Relu"


def test_sizes_known_only_at_run_time() -> None:
    body = LAST.replace("float[N,8,8,3] x", "float[N,H,W,3] x")
    op, shape, axis = found(weighted(body, w=(4, 3, 3, 3), b=(4,), v=(4, 3)))
    assert (op, len(shape), shape[3], axis) == ("Relu", 4, 4, 3)


GROUPED = """
  g (float[N,3,H,H] x) => (float[N,2] y)
    <float[2] one = {{1, 1}}, float[2] zero = {{0, 0}}, int64[3] groups = {{0, 2, -1}}> {{
    c = Conv(x, k) v = Reshape(c, groups) n = InstanceNormalization(v, one, zero) s = Shape(c) b = Reshape(n, s)
    r = Relu(b) {pool} y = MatMul(f, w) }}
"""


@pytest.mark.parametrize(
    "pool",
    (
        "p = GlobalAveragePool(r) f = Flatten(p)",
        "f = ReduceMean <keepdims = 0> (r, axes)",
        "t = Neg(r) f = ReduceMean <keepdims = 0> (t, axes)",
    ),
)
@pytest.mark.parametrize("size", ("H", "7"))
def test_a_view_inside_a_norm_is_no_layer(pool: str, size: str) -> None:
    """GroupNormalization as torch exports it: Reshape to (N, groups, -1), InstanceNormalization, Reshape back."""
    model = net(GROUPED.format(pool=pool).replace("H,H", f"{size},{size}"))
    for name, value in (("k", floats(4, 3, 3, 3)), ("w", floats(4, 2)), ("axes", np.array([2, 3]))):
        model.graph.initializer.append(numpy_helper.from_array(value, name))
    op, shape, axis = found(model)
    assert op == ("Neg" if "Neg" in pool else "Relu") and len(shape) == 4 and shape[1] == 4 and axis == 1
