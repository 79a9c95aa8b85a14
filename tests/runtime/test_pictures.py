"""Photos explained from Python: classes, probabilities, pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

import onnxplain
from onnxplain import ExplainWarning, ImageError, ModelError, OptionError, TargetError, models
from onnxplain.runtime.images import prepare, read_image
from onnxplain.runtime.pictures import Explained, cell, class_index
from onnxplain.runtime.preprocess import Preprocessing
from onnxplain.runtime.render import back_projection, overlay, readout, signed
from tests.runtime.small import model_of

LITE, LENET = models.path("efficientnet_lite0"), models.path("mnist_lenet")
CAT, PANDA = models.photo("cat_chelsea"), models.photo("panda")
COLORS = ("red", "green", "blue")
FLAT = {
    "layout": "NCHW",
    "color": "RGB",
    "size": [4, 4],
    "resize": "stretch",
    "mean": [0] * 3,
    "std": [255] * 3,
}


def which_color(squash: str | None = None, shape: tuple[int, ...] = (3,)) -> onnx.ModelProto:
    """Scores of a picture (N, 3, 4, 4): 4 times the mean of each channel. Class 0 is red."""
    last = "scores" if squash is None else "logits"
    nodes = [
        onnx.helper.make_node("GlobalAveragePool", ["x"], ["mean"]),
        onnx.helper.make_node("Mul", ["mean", "four"], ["scaled"]),
        onnx.helper.make_node("Reshape", ["scaled", "shape"], [last]),
    ]
    if squash:
        options: dict[str, Any] = {} if squash == "Sigmoid" else {"axis": 1}
        nodes.append(onnx.helper.make_node(squash, ["logits"], ["scores"], **options))
    constants = {"four": np.array(4, np.float32), "shape": np.array([-1, *shape])}
    return model_of(nodes, {"x": ["N", 3, 4, 4]}, {"scores": ["N", *shape]}, constants)


def plain(color: str) -> Image.Image:
    return Image.new("RGB", (9, 7), color)


def one(model: Any, image: Any, *args: Any, **options: Any) -> Explained:
    found = onnxplain.explain(model, image, *args, **{"preprocessing": FLAT, "labels": COLORS, **options})
    assert len(found) == 1
    item = found[0]
    assert isinstance(item, Explained)
    return item


@pytest.mark.parametrize("color", ["red", "blue"])
@pytest.mark.parametrize("squash", [None, "Softmax", "LogSoftmax"])
@pytest.mark.parametrize("head", ["logits", "prob"])
def test_class_and_probability(color: str, squash: str | None, head: str) -> None:
    """Logits (4, 0, 0): e^4 / (e^4 + 2), however the model ends and whatever is explained."""
    item = one(which_color(squash), plain(color), head=head if squash != "LogSoftmax" else "logits")
    assert (item.target, item.label) == (COLORS.index(color), color)
    assert item.score == pytest.approx(np.exp(4) / (np.exp(4) + 2), rel=1e-5)
    assert item.method == "saliency" and item.attribution.shape == (1, 3, 4, 4)


def test_sigmoid_gives_one_probability_a_class() -> None:
    item = one(which_color("Sigmoid"), plain("red"))
    assert item.score == pytest.approx(1 / (1 + np.exp(-4)), rel=1e-5)


def test_a_classifier_that_keeps_spatial_axes() -> None:
    item = one(which_color(shape=(3, 1, 1)), plain("blue"))
    assert item.label == "blue" and item.score == pytest.approx(np.exp(4) / (np.exp(4) + 2), rel=1e-5)


def test_what_is_no_classifier_shows_place_and_value() -> None:
    model = model_of(
        [onnx.helper.make_node("Mul", ["x", "x"], ["square"])],
        {"x": ["N", 3, 4, 4]},
        {"square": ["N", 3, 4, 4]},
    )
    item = one(model, plain("blue"))
    assert item.label == "square[2, 0, 0]" and item.score == pytest.approx(1.0)
    with pytest.warns(ExplainWarning, match="saliency: attribution is zero everywhere"):
        assert one(model, plain("blue"), target=5).label == "square[0, 1, 1]"  # no red there: its slope is 0


def test_an_inner_tensor_has_no_score() -> None:
    """The file does not give out its values, and its top is not the class of the output."""
    item = one(which_color("Softmax"), plain("blue"), head="mean")
    assert item.label == "mean[top]" and np.isnan(item.score)
    assert np.count_nonzero(item.attribution[0].sum(axis=(1, 2))) == 1
    assert one(which_color("Softmax"), plain("blue"), head="mean", target=1).label == "mean[1]"
    assert item.picture.size == (4, 4)


def test_labels_that_are_missing_or_too_few() -> None:
    assert one(which_color(), plain("blue"), labels=None).label == "class 2"
    assert one(which_color(), plain("blue"), labels=["red"]).label == "class 2"


@pytest.mark.parametrize("target", [1, "1", "green", "GREEN"])
def test_a_chosen_class(target: int | str) -> None:
    item = one(which_color(), plain("red"), target=target)
    assert (item.target, item.label) == (1, "green")
    assert item.score == pytest.approx(1 / (np.exp(4) + 2), rel=1e-5)
    assert np.flatnonzero(item.attribution[0].sum(axis=(1, 2))).tolist() == [1]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (3, "class 3 is out of range: 0 to 2"),
        (-2, "class -2 is out of range"),
        ("grene", r"no class is called 'grene' \(did you mean 'green'\?\); give an index, 'top', or"),
        ("1.5", "no class is called"),
    ],
)
def test_a_class_that_does_not_exist(target: int | str, message: str) -> None:
    with pytest.raises(TargetError, match=message):
        one(which_color(), plain("red"), target=target)


def test_class_index() -> None:
    assert class_index(np.int64(3), None) == 3  # type: ignore[arg-type]
    assert class_index("-1", None) == -1
    assert class_index("7", ["a", "7"]) == 7  # a number is an index, also where a class is called so
    with pytest.raises(TargetError, match="no class is called 'a'"):
        class_index("a", None)


def test_photos_and_methods_in_order() -> None:
    said: list[str] = []
    found = onnxplain.explain(
        which_color(),
        [plain("red"), plain("blue")],
        ["saliency", "input-x-gradient"],
        preprocessing=FLAT,
        labels=COLORS,
        progress=said.append,
    )
    assert [(item.label, item.method) for item in found] == [
        ("red", "saliency"),
        ("red", "input-x-gradient"),
        ("blue", "saliency"),
        ("blue", "input-x-gradient"),
    ]
    assert len(said) == 2 * (1 + 2) and said[0] == "compiling saliency"
    assert found.figure().size[0] == 3 * 256 + 2 * 20 + 2 * 28


def test_methods_joined_by_commas() -> None:
    found = onnxplain.explain(which_color(), plain("red"), " saliency, deconvnet ", preprocessing=FLAT)
    assert [item.method for item in found] == ["saliency", "deconvnet"]


@pytest.mark.parametrize(("images", "methods"), [([], "saliency"), (PANDA, [])])
def test_nothing_to_explain(images: Any, methods: Any) -> None:
    with pytest.raises(OptionError, match="give at least one picture and one method"):
        onnxplain.explain(LENET, images, methods)


def test_a_photo_is_prepared_as_its_record_says() -> None:
    (item,) = onnxplain.explain(LITE, CAT)
    array, shown = prepare(read_image(CAT), item.about.preprocessing)
    explainer = onnxplain.compile(LITE)
    result = explainer(array)
    assert item.target == int(result.outputs["logits"].argmax()) == 282
    assert item.label == "a cat having a striped coat"  # line 283 of the label file
    assert np.array_equal(item.attribution, result.attribution)
    assert np.array_equal(np.asarray(item.image), np.asarray(shown)) and item.image.size == (224, 224)


def test_pictures_as_the_papers_show_them() -> None:
    found = onnxplain.explain(LITE, PANDA, ["saliency", "input-x-gradient", "guided-backprop"])
    by = {item.method: item for item in found}
    m = {name: item.attribution for name, item in by.items()}
    expected = {
        "saliency": overlay(by["saliency"].image, readout("maxabs", m["saliency"])[0], alpha=0.75),
        "input-x-gradient": signed(readout("sum", m["input-x-gradient"])[0]),
        "guided-backprop": back_projection(m["guided-backprop"]),
    }
    for name, picture in expected.items():
        assert np.array_equal(np.asarray(by[name].picture), np.asarray(picture)), name
    assert [cell(item).legend for item in found] == ["jet", "signed", None]


def test_saving(tmp_path: Path) -> None:
    found = onnxplain.explain(which_color(), [plain("red"), plain("blue")], preprocessing=FLAT)
    found.save(tmp_path / "all.png")
    found[1].save(tmp_path / "one.webp")
    with Image.open(tmp_path / "all.png") as figure, Image.open(tmp_path / "one.webp") as single:
        assert figure.height > single.height and figure.width == single.width
    with pytest.raises(OptionError, match="no picture format"):
        found.save(tmp_path / "all.onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["all.png", "one.webp"]


def test_an_emitted_file_explains_by_its_own_method(tmp_path: Path) -> None:
    path = onnxplain.compile(which_color(), "guided-backprop", preprocessing=FLAT, labels=COLORS).save(
        tmp_path / "a.onnx"
    )
    (item,) = onnxplain.explain(path, plain("green"))
    assert (item.method, item.about.preprocessing.size) == ("guided-backprop", (4, 4))
    assert item.about.labels == COLORS and item.about.found == "the file's metadata"
    with pytest.raises(OptionError, match="explains by guided-backprop, not saliency"):
        onnxplain.explain(path, plain("green"), "saliency")
    options: list[dict[str, Any]] = [
        {"gate": "relu"},
        {"reduce": "sum"},
        {"head": "prob"},
        {"output": "logits"},
    ]
    for option in options:
        with pytest.raises(OptionError, match=f"compiled already and cannot change {next(iter(option))}"):
            onnxplain.explain(path, plain("green"), **option)
    assert (
        onnxplain.explain(path, plain("green"), head="logits", providers="cpu", threads=1)[0].method
        == item.method
    )


def test_a_file_of_a_method_that_is_not_installed_here(tmp_path: Path) -> None:
    from dataclasses import replace

    from onnxplain.rules.registry import find

    foreign = replace(find("guided-backprop"), name="foreign")
    path = onnxplain.compile(which_color(), foreign, preprocessing=FLAT).save(tmp_path / "a.onnx")
    (item,) = onnxplain.explain(path, plain("red"))
    assert item.method == "foreign" and cell(item).legend == "jet"


def test_a_model_without_a_picture() -> None:
    model = model_of([onnx.helper.make_node("Relu", ["x"], ["y"])], {"x": ["N", 3]}, {"y": ["N", 3]})
    with pytest.raises(ModelError, match=r"not a picture; in Python: onnxplain\.compile"):
        onnxplain.explain(model, plain("red"))


@pytest.mark.parametrize("image", ["missing.jpg", __file__])
def test_a_photo_that_cannot_be_read(image: str) -> None:
    with pytest.raises(ImageError):
        onnxplain.explain(LENET, [PANDA, image])


def test_layout_and_colour_order_reach_the_picture() -> None:
    """A BGR model in NHWC that looks at blue only: its map is blue in the picture."""
    nodes = [
        onnx.helper.make_node("Gather", ["x", "blue"], ["plane"], axis=3),
        onnx.helper.make_node("Flatten", ["plane"], ["scores"]),
    ]
    model = model_of(nodes, {"x": ["N", 4, 4, 3]}, {"scores": ["N", 16]}, {"blue": np.array([0])})
    about = Preprocessing(layout="NHWC", color="BGR", size=(4, 4), resize="stretch").to_record()
    item = one(model, plain("red"), "guided-backprop", preprocessing=about, target=5, labels=None)
    pixels = np.asarray(item.picture).astype(int)
    assert pixels[1, 1, 2] == 255 and pixels[1, 1, 0] == pixels[1, 1, 1] == 128
    rest = np.ones((4, 4), bool)
    rest[1, 1] = False
    assert (pixels[rest] == 128).all()


# Pixels in memory


def test_arrays_of_pixels_are_pictures() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    want = one(which_color(), Image.fromarray(pixels)).attribution
    grey = np.repeat(pixels[:, :, :1], 3, axis=2)
    assert np.array_equal(one(which_color(), pixels).attribution, want)
    assert np.array_equal(one(which_color(), pixels.astype(np.int64)).attribution, want)
    assert one(which_color(), pixels[:, :, 0]).score == one(which_color(), grey).score
    several = onnxplain.explain(
        which_color(), [pixels, Image.fromarray(pixels)], preprocessing=FLAT, labels=COLORS
    )
    stacked = onnxplain.explain(which_color(), np.stack([pixels] * 3), preprocessing=FLAT, labels=COLORS)
    assert len(several) == 2 and len(stacked) == 3 and np.array_equal(stacked[2].attribution, want)


@pytest.mark.parametrize(
    ("array", "words"),
    (
        (np.zeros((4, 4, 3), np.float32), "float32.*integers from 0 to 255.*compile"),
        (np.full((4, 4, 3), 256), "holds 256 to 256"),
        (np.zeros((4, 4, 2), np.uint8), "is no picture"),
        (np.zeros((0, 4, 3), np.uint8), "is no picture"),
        (np.zeros(4, np.uint8), "is no picture"),
    ),
)
def test_other_arrays_are_refused(array: np.ndarray, words: str) -> None:
    with pytest.raises(ImageError, match=words):
        one(which_color(), array)


def test_pixels_in_the_place_of_a_prepared_picture_are_refused() -> None:
    explainer = onnxplain.compile(which_color(), preprocessing=FLAT)
    pixels = np.random.default_rng(0).integers(0, 256, (1, 3, 4, 4), dtype=np.uint8)
    for given in (pixels, pixels.astype(np.int32), pixels[0].transpose(1, 2, 0)):
        with pytest.raises(ImageError, match=r"onnxplain.explain, or, if it is prepared, cast it to float32"):
            explainer(given)
    with pytest.raises(ImageError, match=r"cast it to float32"):
        onnxplain.perturb(which_color(), pixels, "occlusion", k=2, preprocessing=FLAT)
    assert explainer(pixels.astype(np.float32)).attribution.shape == pixels.shape
    raw = onnxplain.compile(which_color(), preprocessing={**FLAT, "std": [1] * 3})
    assert raw(pixels).attribution.shape == pixels.shape  # that model takes pixels as they are


def test_a_model_of_integer_pixels_takes_photos_as_they_are() -> None:
    nodes = [
        onnx.helper.make_node("Cast", ["u"], ["f"], to=1),
        onnx.helper.make_node("ReduceMean", ["f", "axes"], ["y"], keepdims=0),
    ]
    graph = onnx.helper.make_graph(
        nodes,
        "g",
        [onnx.helper.make_tensor_value_info("u", onnx.TensorProto.UINT8, ["N", 4, 4, 3])],
        [onnx.helper.make_tensor_value_info("y", 1, ["N", 3])],
        [onnx.numpy_helper.from_array(np.array([1, 2]), "axes")],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8)
    found = onnxplain.explain(model, plain("lime"), "input-x-gradient")[0]
    assert found.target == 1 and found.attribution.shape == (1, 4, 4, 3)
    np.testing.assert_allclose(found.attribution[0, :, :, 1], 255 / 16, rtol=1e-6)
    explainer = onnxplain.compile(model)
    assert explainer(np.ones((1, 4, 4, 3))).attribution.dtype == np.float32  # the numbers fit
    with pytest.raises(OptionError, match="takes uint8, not float64"):
        explainer(np.full((1, 4, 4, 3), 0.5))


def test_a_given_shape_is_the_size_of_photos() -> None:
    nodes = [
        onnx.helper.make_node("GlobalAveragePool", ["x"], ["p"]),
        onnx.helper.make_node("Flatten", ["p"], ["y"]),
    ]
    model = model_of(nodes, {"x": ["N", 3, "H", "W"]}, {"y": ["N", 3]}, {})
    free = {**FLAT, "size": None, "resize": "none"}
    for record in (
        free,
        None,
        {**FLAT, "size": [8, 8]},
        {**FLAT, "size": [8, 8], "resize": "shorter", "shorter": 9},
    ):
        found = onnxplain.explain(model, plain("red"), preprocessing=record, shapes={"x": ["N", 3, 6, 10]})
        assert found[0].attribution.shape == (1, 3, 6, 10)
    stored = onnxplain.compile(model, preprocessing=free, shapes={"x": ["N", 3, 6, 10]}).card.preprocessing
    assert stored is not None and stored["size"] == [6, 10] and stored["resize"] == "stretch"


def test_a_name_of_two_classes_is_refused_with_their_numbers() -> None:
    names = ["crane", "maillot", "goldfish", "Crane", "crane"]
    with pytest.raises(TargetError, match=r"'crane' is the name of classes 0, 3, 4; give the index"):
        class_index("crane", names)
    assert class_index("Crane", names) == 3  # that very name is one class's
    assert class_index("GOLDFISH", names) == 2
