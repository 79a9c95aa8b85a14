"""Reference nets: valid, deterministic, independent across the batch, and what their papers say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from onnxplain.models.mobilenet import mobilenet_v2
from onnxplain.models.nie import three_layer_cnn, three_layer_fcn
from onnxplain.models.resnet import resnet
from onnxplain.models.unet import unet
from onnxplain.models.vgg import vgg

Array = NDArray[np.float32]

SMALL: dict[str, Callable[[int], onnx.ModelProto]] = {
    "cnn": lambda seed: three_layer_cnn(filters=8, size=17, seed=seed),
    "cnn-pool-valid": lambda seed: three_layer_cnn(
        filters=8, size=16, pool=3, padding="VALID", stride=1, seed=seed
    ),
    "cnn-gaussian": lambda seed: three_layer_cnn(filters=8, size=16, seed=seed, std=0.1),
    "fcn": lambda seed: three_layer_fcn(hidden=64, size=8, seed=seed),
    "vgg11": lambda seed: vgg(11, size=32, classes=10, width=0.125, seed=seed),
    "vgg16": lambda seed: vgg(16, size=32, classes=10, width=0.125, seed=seed, std=0.1),
    "vgg19-bn": lambda seed: vgg(19, size=32, classes=10, width=0.125, batch_norm=True, seed=seed),
    "resnet18": lambda seed: resnet(18, size=33, classes=10, width=0.125, seed=seed),
    "resnet50": lambda seed: resnet(50, size=32, classes=10, width=0.125, seed=seed),
    "resnet50-folded": lambda seed: resnet(
        50, size=32, classes=10, width=0.125, fold_batch_norm=True, seed=seed
    ),
    "mobilenet_v2": lambda seed: mobilenet_v2(size=33, classes=10, width=0.25, seed=seed),
    "unet": lambda seed: unet(size=16, classes=3, base=8, depth=2, seed=seed),
    "unet-flat": lambda seed: unet(size=5, channels=1, base=8, depth=0, seed=seed),
}


def run(model: onnx.ModelProto, x: Array) -> Array:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {"image": x})
    return np.asarray(y, np.float32)


def images(model: onnx.ModelProto, count: int, seed: int = 0) -> Array:
    _, *shape = (dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim)
    return np.random.default_rng(seed).standard_normal((count, *shape), np.float32)


def weights(model: onnx.ModelProto) -> dict[str, Array]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


@pytest.mark.parametrize("name", SMALL)
def test_model_is_valid_and_in_the_agreed_form(name: str) -> None:
    model = SMALL[name](0)
    onnx.checker.check_model(model, full_check=True)
    assert model.ir_version == 10
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 18)]
    names = [node.name for node in model.graph.node]
    assert all(names) and len(set(names)) == len(names)
    assert all(tensor.HasField("raw_data") for tensor in model.graph.initializer)
    ends = (model.graph.input[0], model.graph.output[0])
    assert [end.name for end in ends] == ["image", "logits"]
    assert [end.type.tensor_type.shape.dim[0].dim_param for end in ends] == ["N", "N"]


@pytest.mark.parametrize("name", SMALL)
def test_declared_output_shape_is_the_one_computed(name: str) -> None:
    model = SMALL[name](0)
    declared = [dim.dim_value for dim in model.graph.output[0].type.tensor_type.shape.dim[1:]]
    assert list(run(model, images(model, 2)).shape) == [2, *declared]


@pytest.mark.parametrize("name", SMALL)
def test_seed_decides_every_byte(name: str) -> None:
    first, again, other = (SMALL[name](seed).SerializeToString(deterministic=True) for seed in (0, 0, 1))
    assert first == again
    assert first != other


@pytest.mark.parametrize("name", SMALL)
def test_batch_equals_single_runs(name: str) -> None:
    model = SMALL[name](0)
    x = images(model, 3)
    together, alone = run(model, x), np.concatenate([run(model, x[i : i + 1]) for i in range(3)])
    # float32 kernels may sum in another order for another batch size.
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-5 * np.abs(alone).max())


@pytest.mark.parametrize("name", SMALL)
def test_outputs_are_sane_and_depend_on_the_input(name: str) -> None:
    model = SMALL[name](0)
    y = run(model, images(model, 2))
    assert np.isfinite(y).all()
    assert 1e-2 < y.std() < 1e2
    # Deep random nets pull all inputs together; a thousand times float32's rounding must still remain.
    assert np.abs(y[0] - y[1]).max() > 1e-3 * np.abs(y).max()


@pytest.mark.parametrize("depth", [18, 50])
def test_folded_resnet_computes_the_same(depth: int) -> None:
    plain, folded = (resnet(depth, 32, 10, 0.25, fold_batch_norm=fold, seed=5) for fold in (False, True))
    assert "BatchNormalization" not in {node.op_type for node in folded.graph.node}
    x = images(plain, 2)
    want, got = run(plain, x), run(folded, x)
    # 1e-5 of the largest logit: float32 rounding of the folded weights over 50 layers.
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())


def test_batch_norm_is_not_trivial_and_its_variance_is_positive() -> None:
    statistics = {key: w for key, w in weights(resnet(18, 32, 10, 0.25)).items() if "/bn" in key}
    assert min(w.min() for key, w in statistics.items() if key.endswith("/variance")) > 0
    for key, identity in (("scale", 1), ("bias", 0), ("mean", 0), ("variance", 1)):
        values = np.concatenate([w for name, w in statistics.items() if name.endswith(f"/{key}")])
        assert np.abs(values - identity).mean() > 0.01


@pytest.mark.parametrize(
    ("model", "weighted", "parameters"),
    [
        # Weighted layers and parameters (BatchNormalization's statistics left out) of the original 1000-class
        # nets.
        (lambda: vgg(11), 11, 132_863_336),
        (lambda: resnet(18), 21, 11_689_512),
        (lambda: resnet(50), 54, 25_557_032),
    ],
    ids=["vgg11", "resnet18", "resnet50"],
)
def test_full_size_has_the_parameters_of_the_paper(
    model: Callable[[], onnx.ModelProto], weighted: int, parameters: int
) -> None:
    built = model()
    ops = Counter(node.op_type for node in built.graph.node)
    assert ops["Conv"] + ops["Gemm"] == weighted
    learned = (w.size for key, w in weights(built).items() if not key.endswith(("/mean", "/variance")))
    assert sum(learned) == parameters


def test_mobilenet_v2_has_depthwise_convolutions_relu6_and_the_papers_parameters() -> None:
    model = mobilenet_v2()
    groups = [
        attribute.i for node in model.graph.node for attribute in node.attribute if attribute.name == "group"
    ]
    assert sum(group > 1 for group in groups) == 17
    bounds = {key[-3:]: w for key, w in weights(model).items() if "/clip" in key}
    assert bounds["min"] == 0 and bounds["max"] == 6
    # 3 504 872 with a scale and a bias per channel of BatchNormalization; folding leaves the bias only.
    learned = {key: w for key, w in weights(model).items() if "/clip" not in key}
    channels = sum(w.size for key, w in learned.items() if "/conv" in key and key.endswith("/bias"))
    assert sum(w.size for w in learned.values()) + channels == 3_504_872


def test_he_normal_weights_have_the_variance_two_over_fan_in() -> None:
    weight = weights(three_layer_cnn(filters=256))["conv1/weight"]
    # 37 632 draws: the standard error of their standard deviation is 0.4 %.
    np.testing.assert_allclose(weight.std(), np.sqrt(2 / (3 * 7 * 7)), rtol=0.02)


def test_std_gives_the_cut_gaussian_and_no_biases() -> None:
    tensors = weights(vgg(11, 32, 10, 0.125, std=0.1))
    weight = np.concatenate([w.ravel() for key, w in tensors.items() if key.endswith("/weight")])
    assert 0.195 < np.abs(weight).max() <= 0.2
    # A normal variable cut at two standard deviations keeps a standard deviation of 0.8796.
    np.testing.assert_allclose(weight.std(), 0.08796, rtol=0.01)
    assert not any(w.any() for key, w in tensors.items() if key.endswith("/bias"))


def test_same_padding_puts_the_odd_pixel_at_the_end() -> None:
    (pads,) = (
        list(attribute.ints)
        for attribute in three_layer_cnn(filters=4, size=16).graph.node[0].attribute
        if attribute.name == "pads"
    )
    assert pads == [2, 2, 3, 3]  # 8 outputs at stride 2 need (8 - 1) · 2 + 7 = 21 pixels, 5 more than 16


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: vgg(13), "depth must be one of 11, 16, 19"),
        (lambda: vgg(11, size=16), "does not fit"),
        (lambda: vgg(11, width=0), "width must be above 0"),
        (lambda: resnet(34), "depth must be one of 18, 50"),
        (lambda: mobilenet_v2(width=-1), "width must be above 0"),
        (lambda: unet(size=20, depth=3), "multiple of"),
        (lambda: three_layer_cnn(size=0), "at least 1"),
        (lambda: three_layer_cnn(size=4, padding="VALID"), "does not fit"),
        (lambda: three_layer_cnn(std=-1.0), "std must be above 0"),
    ],
)
def test_impossible_sizes_are_refused(build: Callable[[], onnx.ModelProto], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        build()
