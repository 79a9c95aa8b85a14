"""Files as they are compiled keep what their methods promise; the certificate says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from PIL import Image

import onnxplain
from onnxplain import ModelError, OptionError, StaleError, models
from onnxplain.rewriter.card import read_card
from onnxplain.rules.patterns import Patterns
from onnxplain.runtime.verify import CHECKS, Outcome, Status, check, store, verify
from onnxplain.runtime.verify.outcome import number
from tests.runtime.small import picture, product
from tests.runtime.tampering import compiled, net, opened

NEEDED: dict[str, dict[str, Any]] = {
    "lrp.z-box": {"low": -3.0, "high": 3.0},
    "lrp.epsilon-gamma-box": {"low": -3.0, "high": 3.0},
    "smoothgrad": {"samples": 3},
    "integrated-gradients": {"steps": 8},
    "occlusion.graph": {"k": 3},
    "rise.graph": {"n": 40, "grid": 3},
    "pda.gradient": {"k": 3},
}
METHODS = [
    name for name, method in onnxplain.methods().items() if method.maps and not name.startswith("pattern")
]


def failures(outcomes: tuple[Outcome, ...]) -> list[str]:
    return [f"{o.check}: {o.measured} > {o.bound} ({o.note})" for o in outcomes if o.failed]


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_every_method_passes(method: str) -> None:
    model = net("resnet" if method == "cam" else "cnn_bias")  # CAM needs a mean-pooled head
    explainer = onnxplain.compile(model, method, **NEEDED.get(method, {}))
    found = verify(explainer, model=model)
    assert failures(found.outcomes) == [] and found.passed
    assert found.count(Status.PASSED) >= 8


@pytest.mark.parametrize(
    ("name", "method", "options"),
    [
        ("mlp_nobias", "lrp.z-plus", {"bias": "ignore"}),
        ("smooth_acts", "deeplift.rescale", {"baseline": 0.25}),
        ("overlap_pool", "deeplift.rescale", {"baseline": "input"}),
        ("attention", "saliency", {"head": "prob"}),
        ("concat", "integrated-gradients", {"steps": 32, "rule": "trapezoid", "baseline": "blur:1"}),
        ("cnn_odd", "smoothgrad", {"inner": "input-x-gradient", "target": [0, 2]}),
        ("resnet", "saliency", {"target": "cotangent"}),
        ("resnet", "guided-backprop", {"target": "cotangent"}),
        ("cnn_nobias", "lrp.gamma", {"target": "cotangent"}),
        ("cnn_bias", "vargrad", {"target": "top"}),
        ("i2i", "input-x-gradient", {"target": [5, -1]}),
        ("cnn_bias", "fem", {"target": 1, "reduce": "sum"}),
        ("cnn_bias", "saliency", {"shapes": {"x": [3, 2, 8, 8]}}),
        ("cnn_bias", "deeplift.rescale", {"shapes": {"x": [1, 2, 8, 8]}}),
    ],
)
def test_targets_options_and_nets(name: str, method: str, options: dict[str, Any]) -> None:
    found = verify(onnxplain.compile(net(name), method, **options), model=net(name))
    assert failures(found.outcomes) == []


def test_a_head_behind_a_softmax_inside_a_loop() -> None:
    explainer = onnxplain.compile(picture(squash="Softmax"), "integrated-gradients", steps=3)
    assert explainer.card.target["squash"] == "Softmax"
    found = verify(explainer)
    assert failures(found.outcomes) == []
    assert by_name(found.outcomes, "Σ A = z(x) - z(baseline)").status is Status.PASSED


def by_name(outcomes: tuple[Outcome, ...], name: str) -> Outcome:
    return next(outcome for outcome in outcomes if outcome.check == name)


def test_conservation_is_bounded_where_it_is_promised() -> None:
    free = verify(onnxplain.compile(net("cnn_nobias"), "lrp.epsilon"))
    assert by_name(free.outcomes, "Σ R = z_c").status is Status.PASSED
    bias = by_name(verify(onnxplain.compile(net("cnn_bias"), "lrp.epsilon")).outcomes, "Σ R = z_c")
    assert bias.status is Status.REPORTED and bias.bound is None and "biases take" in bias.note
    thick = verify(onnxplain.compile(net("cnn_nobias"), "lrp.epsilon", epsilon=0.25))
    assert "ε absorbs" in by_name(thick.outcomes, "Σ R = z_c").note


def test_what_does_not_apply_says_why() -> None:
    loop = verify(onnxplain.compile(net("cnn_bias"), "integrated-gradients", steps=4))
    assert "give the original model" in by_name(loop.outcomes, "forward unchanged, to the bit").note
    model = compiled("cnn_bias", "saliency", target="top")
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    one = verify(opened(model))
    assert by_name(one.outcomes, "batch independence").note == "the batch is fixed at 1"
    assert by_name(one.outcomes, "class -1 is the top class").status is Status.NOT_APPLICABLE
    assert "needs the original" in by_name(one.outcomes, "per node: pull is the transpose of push").note


def test_inputs_of_ones_own(tmp_path: Path) -> None:
    explainer = onnxplain.compile(models.path("mnist_lenet"), "saliency")
    batch = np.random.default_rng(5).uniform(size=(2, 1, 28, 28))
    np.save(tmp_path / "two.npy", batch)
    Image.fromarray(np.full((40, 30, 3), 90, np.uint8)).save(tmp_path / "grey.png")
    pixels = np.zeros((28, 28, 3), np.uint8)
    told: list[tuple[str, int]] = []
    found = verify(
        explainer,
        [tmp_path / "two.npy", tmp_path / "grey.png", batch[0], pixels],
        progress=lambda text, total: told.append((text, total)),
    )
    names = [item["name"] for item in found.inputs]
    assert names == ["two.npy[0]", "two.npy[1]", "grey.png", "array", "array", "zero", "constant", "extreme"]
    assert len({item["sha256"] for item in found.inputs[:2]}) == 2 and found.passed
    assert len(told) == told[0][1] == 4 + len(found.outcomes)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (np.zeros((2, 3), np.float32), "has 4 axes"),
        (np.zeros((1, 3, 8, 8), np.float32), "takes"),
        (np.zeros((1, 2, 8, 8), complex), "holds complex128"),
        ("missing.npy", "cannot be read"),
        (np.zeros((8, 8, 3), np.uint8), "does not take pictures"),
    ],
)
def test_inputs_that_do_not_fit(item: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        verify(onnxplain.compile(net("cnn_bias")), [item])


def test_models_and_options_that_do_not_fit() -> None:
    explainer = onnxplain.compile(net("cnn_bias"), "deeplift.rescale")
    with pytest.raises(StaleError, match="explains a model with sha256"):
        verify(explainer, model=net("cnn_nobias"))
    with pytest.raises(OptionError, match="no option 'tua'"):
        verify(explainer, options={"tua": 1})
    with pytest.raises(OptionError, match="no input 'y'"):
        verify(explainer, shapes={"y": [1]})
    with pytest.raises(ModelError, match="carries no explanation"):
        verify(net("cnn_bias"))


def test_a_baseline_that_only_its_hash_is_known_of() -> None:
    array = np.random.default_rng(1).normal(size=(2, 8, 8))
    explainer = onnxplain.compile(net("cnn_bias"), "deeplift.rescale", baseline=array)
    name = "Σ A = z(x) - z(reference)"
    assert "give it with --set baseline" in by_name(verify(explainer).outcomes, name).note
    assert by_name(verify(explainer, options={"baseline": array}).outcomes, name).status is Status.PASSED
    with pytest.raises(OptionError, match="baseline= is not what the file was compiled with"):
        verify(explainer, options={"baseline": array + 1})


def test_the_certificate_is_stored_and_only_it(tmp_path: Path) -> None:
    path = onnxplain.compile(net("cnn_bias"), "lrp.epsilon").save(tmp_path / "a.onnx")
    before = path.read_bytes()
    store(path, onnx.load(path), verify(path))
    first = path.read_bytes()
    card = read_card(onnx.load(path))
    assert card.certificate is not None and card.certificate["passed"] is True
    assert card.certificate["seed"] == 0 and card.certificate["provider"] == "cpu"
    assert {entry["status"] for entry in card.certificate["checks"]} <= {status.value for status in Status}
    store(path, onnx.load(path), verify(path))
    assert path.read_bytes() == first  # nothing depends on the time, nor on the certificate that is there
    stripped = onnx.load(path)
    del stripped.metadata_props[[e.key for e in stripped.metadata_props].index("onnxplain.certificate")]
    assert stripped.SerializeToString() == before
    x = np.random.default_rng(0).normal(size=(1, 2, 8, 8))
    np.testing.assert_array_equal(
        onnxplain.load(path)(x).attribution, onnxplain.compile(net("cnn_bias"), "lrp.epsilon")(x).attribution
    )


def test_the_record_is_json_with_two_digits() -> None:
    record = verify(onnxplain.compile(net("cnn_bias"))).record()
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert [number(v) for v in (None, 0.123456, float("nan"), float("inf"))] == [None, 0.12, "nan", "inf"]


def test_another_seed_draws_other_inputs() -> None:
    model = compiled("cnn_bias", "saliency")
    zero, one = (verify(opened(model), seed=seed) for seed in (0, 1))
    assert zero.inputs[0] != one.inputs[0] and zero.sha256 == one.sha256


def test_checks_of_ones_own() -> None:
    @check("always wrong")
    def wrong(subject: object) -> Outcome:
        raise AssertionError("so it is")

    explainer = onnxplain.compile(net("cnn_bias"))
    for key in ("saliency", "gradient", "sali-", "s."):
        found = verify(explainer, table={**CHECKS, key: (wrong,)})
        names = [outcome.check for outcome in found.outcomes if outcome.failed]
        assert names == (["always wrong"] if key in ("saliency", "gradient") else []), key


def test_patterns_are_given_for_the_check_node_by_node() -> None:
    model = onnx.load(net("mlp_nobias"))
    weights = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    nodes = {n.name or f"Gemm_{i}": n.input[1] for i, n in enumerate(model.graph.node) if n.op_type == "Gemm"}
    patterns = Patterns({node: {"plus": 2 * weights[name]} for node, name in nodes.items()})
    explainer = onnxplain.compile(net("mlp_nobias"), "pattern-attribution", patterns=patterns)
    name = "per node: pull is the transpose of push"
    assert (
        "give it with --set patterns"
        in by_name(verify(explainer, model=net("mlp_nobias")).outcomes, name).note
    )
    found = verify(explainer, model=net("mlp_nobias"), options={"patterns": patterns})
    assert failures(found.outcomes) == [] and by_name(found.outcomes, name).status is Status.PASSED
    with pytest.raises(OptionError, match="of use only with model="):
        verify(explainer, options={"patterns": patterns})


@pytest.mark.parametrize(
    ("model", "method", "options"),
    [
        (product(), "saliency", {"inputs": ["a", "b"], "output": "product"}),
        (product(), "input-x-gradient", {"inputs": ["b"], "output": "product"}),
        (product(), "deeplift.rescale", {"inputs": ["a", "b"], "output": "product"}),
        (product(), "smoothgrad", {"inputs": ["a", "b"], "output": "product"}),
        (picture(np.float64), "saliency", {}),
        (picture(np.float16), "lrp.epsilon", {}),
    ],
    ids=["two inputs", "the second input", "two changes", "two noises", "double", "half"],
)
def test_inputs_and_types(model: onnx.ModelProto, method: str, options: dict[str, Any]) -> None:
    found = verify(onnxplain.compile(model, method, **options), model=model)
    assert failures(found.outcomes) == []
