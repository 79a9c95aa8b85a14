"""Compile by name: what is looked up on the way, and what of it ends up in the file."""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

import onnxplain
from onnxplain import ModelError, OptionError, TargetError, UnsupportedError, models
from onnxplain.rules.registry import find
from onnxplain.runtime import compiling
from onnxplain.runtime.compiling import package_version, picture_shape
from tests.runtime.small import gradient, model_of, picture, product

LENET = models.path("mnist_lenet")


def test_every_form_of_a_model_gives_the_same_graph(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(picture().SerializeToString())
    made = [onnxplain.compile(form) for form in (path, str(path), path.read_bytes(), picture())]
    graphs = {explainer.model.graph.SerializeToString() for explainer in made}
    assert len(graphs) == 1
    assert made[0].card.source["name"] == "net.onnx" and made[2].card.source["name"] is None


def test_the_model_that_is_given_is_not_changed() -> None:
    model = picture()
    before = model.SerializeToString()
    onnxplain.compile(model, reduce=None, shapes={"x": (1, 2, 3, 4)})
    assert model.SerializeToString() == before


def test_the_same_request_gives_the_same_bytes() -> None:
    first, second = (
        onnxplain.compile(LENET, "guided-backprop", reduce="abssum_p99,jet").model.SerializeToString()
        for _ in range(2)
    )
    assert first == second


def test_saliency_of_an_input_class_is_the_default() -> None:
    card = onnxplain.compile(LENET).card
    assert card.method == "saliency" and card.target["target"] == "input"


def test_a_method_may_be_given_itself() -> None:
    by_name, by_value = onnxplain.compile(LENET, "deconvnet"), onnxplain.compile(LENET, find("deconvnet"))
    assert by_name.model == by_value.model


def test_the_card_says_what_was_asked_for() -> None:
    card = onnxplain.compile(LENET, "guided-backprop", reduce="sum", gate="relu", target=[1, 2]).card
    assert card.version == package_version() == importlib.metadata.version("onnxplain")
    assert card.options == {"gate": "relu", "lrn": "gradient", "reduce": "sum"}
    assert card.target["target"] == [1, 2] and card.target["size"] == 10
    assert card.citation == find("guided-backprop").source


def test_what_lies_beside_the_model_goes_into_the_file() -> None:
    card = onnxplain.compile(LENET).card
    beside = json.loads(LENET.with_suffix(".json").read_text())["preprocessing"]
    assert card.preprocessing is not None
    assert {key: card.preprocessing[key] for key in beside} == beside
    assert card.labels == tuple("0123456789")


def test_a_guess_does_not_go_into_the_file() -> None:
    card = onnxplain.compile(LENET.read_bytes()).card
    assert card.preprocessing is None and card.labels is None
    # a model that takes no picture is compiled all the same
    model = model_of([helper.make_node("Relu", ["x"], ["y"])], {"x": ["N", 3]}, {"y": ["N", 3]})
    assert onnxplain.compile(model).card.preprocessing is None


def test_what_is_given_goes_over_what_lies_beside(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("\n".join("abcdefghij"))
    card = onnxplain.compile(LENET, preprocessing="tf", labels=tmp_path / "names.txt").card
    assert card.preprocessing is not None and card.preprocessing["std"] == [127.5]
    assert card.labels == tuple("abcdefghij")


def test_preprocessing_for_what_is_no_picture() -> None:
    model = model_of([helper.make_node("Relu", ["x"], ["y"])], {"x": ["N", 3]}, {"y": ["N", 3]})
    with pytest.raises(OptionError, match="the model's input is not a picture"):
        onnxplain.compile(model, preprocessing="imagenet")


def test_labels_of_a_model_that_takes_no_picture() -> None:
    model = model_of([helper.make_node("Relu", ["x"], ["y"])], {"x": ["N", 3]}, {"y": ["N", 3]})
    assert onnxplain.compile(model, labels=["a", "b", "c"]).card.labels == ("a", "b", "c")
    helper.set_model_props(model, {"onnxplain.labels": '["d", "e", "f"]'})
    assert onnxplain.compile(model).card.labels == ("d", "e", "f")


def test_preprocessing_in_the_metadata_travels_on() -> None:
    record = onnxplain.compile(LENET).card.preprocessing
    model = onnx.load(LENET)
    helper.set_model_props(model, {"onnxplain.preprocessing": json.dumps(record)})
    assert onnxplain.compile(model).card.preprocessing == record


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"method": "salency"}, OptionError, r"did you mean 'saliency'"),
        ({"epsilon": 1}, OptionError, "saliency has no option 'epsilon'"),
        ({"reduce": "maxab"}, OptionError, "no readout 'maxab'"),
        ({"target": "tpo"}, TargetError, r"unknown target 'tpo' \(did you mean 'top'\?\)"),
        ({"target": 5}, TargetError, "class 5 is out of range"),
        ({"target": [0, 7]}, TargetError, "class 7 is out of range"),
        ({"target": []}, TargetError, "0 targets"),
        ({"output": "score"}, TargetError, r"no output 'score' \(did you mean 'scores'\?\)"),
        ({"head": "flatt"}, TargetError, r"no tensor 'flatt' \(did you mean 'flat'\?\)"),
        ({"head": "flat", "target": 24}, TargetError, "class 24 is out of range: 'flat' has 24 elements"),
        ({"inputs": ["y"]}, OptionError, "no floating-point input 'y'"),
        ({"shapes": {"y": [1, 2]}}, OptionError, "the model has no input 'y'"),
        ({"shapes": {"x": [1, 2, 3]}}, OptionError, "does not fit the declared"),
        ({"lowering": "portabel"}, OptionError, "portabel"),
        ({"preprocessing": "imagnet"}, OptionError, "no preset and no readable file 'imagnet'"),
        ({"labels": "missing.txt"}, OptionError, "cannot read the labels 'missing.txt'"),
        ({"max_bytes": 10}, ModelError, "over the cap of 10"),
    ],
)
def test_what_cannot_be_done_is_said(arguments: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        onnxplain.compile(picture(), **arguments)


@pytest.mark.parametrize("data", [b"", b"no model", b"\xff" * 100])
def test_bytes_that_are_no_model(data: bytes) -> None:
    with pytest.raises(ModelError, match="not an ONNX model"):
        onnxplain.compile(data)


def test_every_node_without_a_rule_is_named() -> None:
    nodes = [
        helper.make_node("Det", ["x"], ["a"], name="one"),
        helper.make_node("Det", ["x"], ["b"], name="two"),
        helper.make_node("Add", ["a", "b"], ["y"]),
    ]
    with pytest.raises(UnsupportedError) as caught:
        onnxplain.compile(model_of(nodes, {"x": ["N", 3, 3]}, {"y": ["N"]}))
    assert {site.name for site in caught.value.sites} == {"one", "two"}
    assert all(site.op == "Det" for site in caught.value.sites)


def test_a_foreign_domain_must_be_trusted() -> None:
    node = helper.make_node("Relu", ["x"], ["y"], domain="my.domain")
    model = model_of([node], {"x": ["N", 3]}, {"y": ["N", 3]})
    model.opset_import.append(helper.make_opsetid("my.domain", 1))
    with pytest.raises(ModelError, match=r"operators of unknown domains: my\.domain\.Relu"):
        onnxplain.compile(model)
    with pytest.raises(UnsupportedError, match="Relu"):
        onnxplain.compile(model, domains=["my.domain"])


def test_weights_in_another_file(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(picture(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert (tmp_path / "weights.bin").is_file()
    with pytest.raises(ModelError, match="external_data=True"):
        onnxplain.compile(path)
    result = onnxplain.compile(path, external_data=True)(np.zeros((1, 2, 3, 4)), target=2)
    assert np.array_equal(result.attribution, gradient(2))


def test_a_tensor_as_the_head() -> None:
    explainer = onnxplain.compile(picture(), head="flat", target=3)
    assert explainer.card.target["head"] == "flat" and explainer.card.target["size"] == 24
    attribution = explainer(np.ones((1, 2, 3, 4))).attribution
    assert np.flatnonzero(attribution).tolist() == [3]


def test_fixed_shapes() -> None:
    explainer = onnxplain.compile(picture(), shapes={"x": [2, 2, 3, 4]})
    assert explainer(np.zeros((2, 2, 3, 4))).attribution.shape == (2, 2, 3, 4)
    with pytest.raises(onnxplain.ImageError, match="axis 0 is 1 instead of 2"):
        explainer(np.zeros((1, 2, 3, 4)))


def test_the_shape_of_the_picture_is_found_among_several_inputs() -> None:
    nodes = [helper.make_node("Add", ["v", "w"], ["y"])]
    model = model_of(nodes, {"v": ["N", 7], "p": ["N", 3, 8, 9], "w": ["N", 7]}, {"y": ["N", 7]})
    assert picture_shape(model) == ("N", 3, 8, 9)
    assert picture_shape(product()) == ("N", 2, 3, 4)
    del model.graph.input[1]
    assert picture_shape(model) == ("N", 7)


def test_parameters_are_no_pictures() -> None:
    """In IR 3 every weight was an input too."""
    model = picture()
    model.graph.input.insert(0, helper.make_tensor_value_info("weight", 1, [24, 5, 1, 1]))
    assert picture_shape(model) == ("N", 2, 3, 4)


def test_a_source_tree_that_was_never_installed_has_version_0(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(compiling, "version", missing)
    assert package_version() == "0"
