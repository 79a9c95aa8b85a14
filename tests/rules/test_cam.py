"""Class activation maps: their identities, layouts, sizes, heads; each against the formula in numpy.

The formulas are written over the layer's activation and its gradient, which come from onnxruntime: the forward part
of the model cut at the layer, and the saliency of what follows it. Differences are float32 rounding, 1e-5.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper

import onnxplain
from onnxplain.models.mobilenet import mobilenet_v2
from onnxplain.models.resnet import resnet
from onnxplain.models.vgg import vgg
from onnxplain.rewriter.compile import Request, compile_model
from onnxplain.rewriter.errors import OptionError
from onnxplain.rules.readouts import readout
from onnxplain.rules.registry import find
from tests.rewriter.nets import floats, net, run
from tests.rewriter.test_layers import LINE, POOLED, VOLUME, channels_last, weighted
from tests.test_golden import golden, image, model

Array = NDArray[Any]
TOLERANCE = 1e-5
RAW = {"upsample": False, "relu": False}
SMALL = {"upsample": False}
HEADED = ["cnn_odd", "resnet", "concat"]
"""Golden nets that end in a mean over all cells and a product."""


def near(got: Array, want: Array, tolerance: float = TOLERANCE) -> None:
    assert got.shape == want.shape, f"{got.shape} instead of {want.shape}"
    size = float(np.abs(want).max())
    assert size > 0, "an expected map of zeros proves nothing"
    assert float(np.abs(got - want).max()) <= tolerance * size


def emitted(source: onnx.ModelProto, method: str, target: Any = "top", **options: Any) -> onnx.ModelProto:
    return compile_model(source, find(method), Request(target=target, options=options))[0]


def mapped(source: onnx.ModelProto, method: str, x: Array, target: Any = "top", **options: Any) -> Array:
    feeds = {source.graph.input[0].name: x}
    return run(emitted(source, method, target, **options), feeds)["attribution"]


def logits(source: onnx.ModelProto, x: Array) -> Array:
    return next(iter(run(source, {source.graph.input[0].name: x}).values()))


def activation(source: onnx.ModelProto, x: Array, layer: str) -> Array:
    """What the model has at a tensor."""
    cut = onnx.ModelProto()
    cut.CopyFrom(source)
    cut.graph.output.append(helper.make_empty_tensor_value_info(layer))
    return run(cut, {source.graph.input[0].name: x})[layer]


@cache
def squeezed() -> onnx.ModelProto:
    """A fully convolutional classifier, its head a 1x1 convolution in front of the mean."""
    return weighted(
        """g (float[N,2,9,9] x) => (float[N,3] y) <int64[2] axes = {2,3}> {
        a = Conv(x, w) b = Relu(a) c = Conv(b, v, k) m = ReduceMean<keepdims=0>(c, axes) y = Add(m, d) }""",
        w=(4, 2, 3, 3),
        v=(3, 4, 1, 1),
        k=(3,),
        d=(3,),
    )


def bias(source: onnx.ModelProto, layer: str, shape: tuple[int, ...]) -> Array:
    """z at A = 0: the model behind the layer, run on zeros."""
    behind = onnx.utils.Extractor(onnx.shape_inference.infer_shapes(source)).extract_model(
        [layer], [source.graph.output[0].name]
    )
    return next(iter(run(behind, {layer: np.zeros(shape, np.float32)}).values()))


@pytest.mark.parametrize("name", HEADED)
def test_cam_is_grad_cam_times_the_cells_and_its_mean_the_logit(name: str) -> None:
    source, x = model(name), np.concatenate([image(name), -image(name)])
    z = logits(source, x)
    # cnn_odd has overlapping windows behind its last activation: its cells do not count alike.
    layer = {"cnn_odd": "t05_AveragePool", "resnet": "t10_Relu", "concat": "t08_Relu"}[name]
    b = bias(source, layer, activation(source, x[:1], layer).shape)
    for c in range(3):
        m, raw = (
            mapped(source, method, x, c, layer=layer, **more)
            for method, more in (("cam", SMALL), ("grad-cam", RAW))
        )
        cells = m.shape[2] * m.shape[3]
        near(raw * cells, m)
        near(m.mean(axis=(1, 2, 3)) + b[0, c], z[:, c])


def test_the_weights_of_cam_are_those_of_the_head() -> None:
    source, x = squeezed(), floats(2, 2, 9, 9)
    a = activation(source, x, "b")
    v = numpy_helper.to_array(next(t for t in source.graph.initializer if t.name == "v"))[:, :, 0, 0]
    for c in range(3):
        near(mapped(source, "cam", x, c, layer="b", **SMALL)[:, 0], np.einsum("k,nkhw->nhw", v[c], a))


def formula(a: Array, gradient: Array, channels: int = 1) -> Array:
    """max(Σ_k mean(∂z/∂A_k) A_k, 0), in float64, without its axis of channels."""
    axes = tuple(axis for axis in range(1, a.ndim) if axis != channels)
    alpha = gradient.astype(np.float64).mean(axis=axes, keepdims=True)
    return np.asarray(np.maximum((alpha * a).sum(axis=channels), 0))


CASES: dict[str, tuple[onnx.ModelProto, str, tuple[int, ...], int]] = {
    "one axis": (weighted(LINE, w=(4, 2, 3), v=(4, 3)), "b", (2, 2, 20), 1),
    "two axes": (weighted(POOLED, w=(4, 2, 3, 3), v=(36, 3)), "b", (2, 2, 8, 8), 1),
    "three axes": (weighted(VOLUME, w=(4, 2, 3, 3, 3), v=(4, 3)), "b", (2, 2, 6, 5, 4), 1),
    "channels last": (channels_last(), "r", (2, 8, 8, 3), 3),
}


def behind(source: onnx.ModelProto, layer: str, a: Array, c: int) -> Array:
    """∂z_c/∂A by the saliency of the model behind the layer."""
    rest = onnx.utils.Extractor(onnx.shape_inference.infer_shapes(source)).extract_model([layer], ["y"])
    return mapped(rest, "saliency", a, c)


@pytest.mark.parametrize("name", CASES)
def test_grad_cam_and_fem_by_their_formulas(name: str) -> None:
    source, layer, shape, channels = CASES[name]
    x = floats(*shape, seed=4)
    a = activation(source, x, layer)
    axes = tuple(axis for axis in range(1, a.ndim) if axis != channels)
    mean, deviation = (getattr(a.astype(np.float64), f)(axis=axes, keepdims=True) for f in ("mean", "std"))
    fem = (mean * (a >= mean + deviation)).sum(axis=channels)
    for c in range(3):
        grad_cam = formula(a, behind(source, layer, a, c), channels)
        if grad_cam.any():
            near(mapped(source, "grad-cam", x, c, **SMALL), np.expand_dims(grad_cam, channels))
    near(mapped(source, "fem", x, **SMALL), np.expand_dims(fem, channels))


def half_pixel(size: int, out: int) -> Array:
    """Linear interpolation, (out, size): the centre of cell j at (j + 1/2) size / out - 1/2, borders clamped."""
    at = np.clip((np.arange(out) + 0.5) * size / out - 0.5, 0, size - 1)
    low = np.minimum(np.floor(at).astype(int), size - 1)
    high = np.minimum(low + 1, size - 1)
    eye = np.eye(size)
    return np.asarray(eye[low] * (1 - (at - low))[:, None] + eye[high] * (at - low)[:, None])


@pytest.mark.parametrize("name", CASES)
def test_maps_are_brought_to_the_size_of_the_input(name: str) -> None:
    """Linear along every spatial axis, and the same for every channel, wherever the channels are."""
    source, _, shape, channels = CASES[name]
    x = floats(*shape, seed=4)
    small = mapped(source, "fem", x, **SMALL)
    up = small.astype(np.float64)
    for axis in range(1, x.ndim):
        if axis != channels:
            lines = half_pixel(up.shape[axis], x.shape[axis])
            up = np.moveaxis(np.tensordot(lines, up, axes=(1, axis)), 0, axis)
    near(mapped(source, "fem", x), np.broadcast_to(up, x.shape))


def test_a_heat_map_of_channels_last() -> None:
    source, _, shape, _ = CASES["channels last"]
    x = floats(*shape, seed=4)
    for options, size in (({}, (8, 8)), (SMALL, (6, 6))):
        request = Request(target="top", options=options, reduce=("maxabs", readout("maxabs")))
        got = run(compile_model(source, find("fem"), request)[0], {"x": x})
        assert got["heatmap"].shape == (2, *size)
        near(got["heatmap"], np.abs(got["attribution"]).max(axis=3))


def test_sizes_known_only_at_run_time() -> None:
    body = POOLED.replace("float[N,2,8,8] x", "float[N,2,H,W] x").replace(
        "f = Flatten(q)", "m = GlobalAveragePool(q) f = Flatten(m)"
    )
    source = weighted(body, w=(4, 2, 3, 3), v=(4, 3))
    for method in ("grad-cam", "fem", "guided-grad-cam"):
        made = emitted(source, method)
        for size in ((8, 6), (11, 13)):
            x = floats(2, 2, *size)
            assert run(made, {"x": x})["attribution"].shape == x.shape
    fixed = weighted(body.replace("H,W", "11,13"), w=(4, 2, 3, 3), v=(4, 3))
    near(mapped(source, "grad-cam", floats(2, 2, 11, 13)), mapped(fixed, "grad-cam", floats(2, 2, 11, 13)))


def test_a_map_that_cannot_be_brought_to_the_size_of_the_input() -> None:
    """Sound (N, L) in, a picture of it inside."""
    source = weighted(
        """g (float[N,64] x) => (float[N,3] y) <int64[4] shape = {0,1,8,8}> {
        r = Reshape(x, shape) a = Conv(r, w) b = Relu(a) m = GlobalAveragePool(b) f = Flatten(m) y = MatMul(f, v) }""",
        w=(4, 1, 3, 3),
        v=(4, 3),
    )
    for method in ("grad-cam", "cam", "fem", "guided-grad-cam"):
        with pytest.raises(OptionError, match=r"has 2 spatial axes, the input 'x'.* has 0"):
            emitted(source, method)
    assert mapped(source, "grad-cam", floats(2, 64), upsample=False).shape == (2, 1, 6, 6)


def test_positive_evidence_only() -> None:
    for name in HEADED:
        x = np.concatenate([image(name), -image(name)])
        for c in range(3):
            raw = mapped(model(name), "grad-cam", x, c, **RAW)
            assert np.array_equal(mapped(model(name), "grad-cam", x, c, **SMALL), np.maximum(raw, 0))


def test_a_map_without_positive_evidence_is_zero() -> None:
    """One channel, one weight: the map of one class is positive, that of the other nothing."""
    source = net(
        """g (float[N,1,4,4] x) => (float[N,2] y) <float[1,2] v = {1,-1}> {
        a = Relu(x) b = MaxPool<kernel_shape=[1,1]>(a) m = GlobalAveragePool(b) f = Flatten(m) y = MatMul(f, v) }"""
    )
    x = np.abs(floats(1, 1, 4, 4))
    assert mapped(source, "grad-cam", x, 0, layer="b").min() > 0
    assert not mapped(source, "grad-cam", x, 1, layer="b").any()


def test_guided_grad_cam_is_the_product() -> None:
    for name in HEADED:
        x = image(name)
        for c in range(3):
            up, guided = (mapped(model(name), method, x, c) for method in ("grad-cam", "guided-backprop"))
            got = mapped(model(name), "guided-grad-cam", x, c)
            assert np.abs(got - up * guided).max() <= TOLERANCE * np.abs(up).max() * np.abs(guided).max()


def test_the_variant_of_epda_is_the_map_times_the_gradient() -> None:
    source, x = model("resnet"), image("resnet")
    up, gradient = (mapped(source, method, x, 0) for method in ("grad-cam", "saliency"))
    near(mapped(source, "grad-cam", x, 0, variant="epda"), up * gradient)
    with pytest.raises(OptionError, match="needs upsample=True"):
        emitted(source, "grad-cam", variant="epda", upsample=False)


def test_fem_does_not_change_with_the_scale_or_the_order_of_channels() -> None:
    """The input of a bias-free net times a power of two; the filters in another order. Both behind the readout
    `max`, in [0, 1]."""
    x, w, v = floats(2, 2, 8, 8, seed=5), floats(4, 2, 3, 3, seed=6), floats(36, 3, seed=7)

    def shown(factor: float, order: list[int]) -> Array:
        source = net(POOLED)
        weights = {"w": w[order], "v": v.reshape(4, 9, 3)[order].reshape(36, 3)}
        source.graph.initializer.extend(numpy_helper.from_array(a, name) for name, a in weights.items())
        request = Request(target="top", options=SMALL, reduce=("sum,max", readout("sum,max")))
        made = compile_model(source, find("fem"), request)[0]
        return run(made, {"x": (x * factor).astype(np.float32)})["heatmap"]

    plain = shown(1, [0, 1, 2, 3])
    assert plain.min() >= 0
    assert (plain.max(axis=(1, 2)) == 1).all()
    assert np.array_equal(shown(8, [0, 1, 2, 3]), plain)
    near(shown(1, [2, 0, 3, 1]), plain)


def test_fem_of_constant_and_dead_channels() -> None:
    """A constant channel of 0.1 has no rounding in its mean: >= keeps it everywhere, > nowhere. A dead one adds 0."""
    source = net("""g (float[N,1,7,7] x) => (float[N,2] y) <float[2,1,1,1] w = {0,0}, float[2] b = {0.1,-3}> {
        a = Conv(x, w, b) r = Relu(a) m = GlobalAveragePool(r) y = Flatten(m) }""")
    x = floats(2, 1, 7, 7)
    assert (mapped(source, "fem", x, **SMALL) == np.float32(0.1)).all()
    assert not mapped(source, "fem", x, strict=True, **SMALL).any()


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("fem", {"k": "two"}, "k='two' is not a number"),
        ("fem", {"k": float("nan")}, "k=nan"),
        ("fem", {"strict": "yes"}, "strict='yes' is not one of"),
        ("grad-cam", {"upsample": "no"}, "upsample='no' is not one of"),
        ("grad-cam", {"layer": 3}, "layer=3 is not the name"),
        ("grad-cam", {"layer": ""}, "layer='' is not the name"),
        ("grad-cam", {"layer": "t1_Relu"}, "no tensor or node 't1_Relu'.*did you mean"),
        ("cam", {"relu": True}, "has no option 'relu'"),
    ],
)
def test_wrong_options(method: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        emitted(model("resnet"), method, **options)


NETS = {
    "resnet18": lambda: resnet(18, size=48, classes=7, width=0.125),
    "mobilenet_v2": lambda: mobilenet_v2(size=48, classes=7, width=0.25),
    "vgg11": lambda: vgg(11, size=32, classes=7, width=0.125),
}


@pytest.mark.parametrize("name", NETS)
def test_the_backward_pass_stops_at_the_layer(name: str) -> None:
    """Nothing is emitted for a node below it: a handful of nodes, not one more a convolution."""
    source = NETS[name]()
    before = len(source.graph.node)
    for method, limit in (("grad-cam", 60), ("cam", 60), ("fem", 45)):
        if (name, method) == ("vgg11", "cam"):
            continue
        made = emitted(source, method)
        assert len(made.graph.node) - before < limit
        assert not any(node.op_type in ("Conv", "ConvTranspose") for node in made.graph.node[before:]), method
    assert len(emitted(source, "saliency").graph.node) > before + 60


@pytest.mark.parametrize("method", ["cam", "grad-cam", "guided-grad-cam", "fem"])
def test_every_target(method: str) -> None:
    source, x = model("resnet"), np.concatenate([image("resnet"), -2 * image("resnet")])
    maps = [mapped(source, method, x, c) for c in range(3)]
    rows = mapped(source, method, x, [2, 0])
    near(rows, np.stack([maps[2], maps[0]], axis=1).reshape(4, *x.shape[1:]))
    made, eye = emitted(source, method, "cotangent"), np.eye(3, dtype=np.float32)
    near(run(made, {"x": x[:1], "cotangent": eye})["attribution"], np.concatenate([m[:1] for m in maps]))
    fed = run(made, {"x": x, "cotangent": eye[[1, 2]]})["attribution"]
    near(fed, np.stack([maps[1][0], maps[2][1]]))
    top = logits(source, x).argmax(axis=1)
    near(mapped(source, method, x), np.stack([maps[c][n] for n, c in enumerate(top)]))
    if not golden("resnet")["class"] == top[0]:
        pytest.fail("the stored class is the top class")


def test_a_batch_fixed_at_one() -> None:
    source = weighted(POOLED.replace("float[N,", "float[1,"), w=(4, 2, 3, 3), v=(36, 3))
    x = floats(1, 2, 8, 8)
    near(mapped(source, "grad-cam", x, 1), mapped(CASES["two axes"][0], "grad-cam", x, 1))


def test_explained_by_name_and_size() -> None:
    """Through the front door, with the class at run time."""
    x = image("resnet")
    result = onnxplain.compile(model("resnet"), "grad-cam", reduce="maxabs,max")(x, target=1)
    assert result.heatmap is not None
    assert result.heatmap.shape == (1, 8, 8)
    assert float(result.heatmap.max()) in (0.0, 1.0)
