"""Two generators and a classifier in one file: what it computes, what it leaves alone, how it is used afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest
from onnx import helper

import onnxplain
from onnxplain import ModelError, OptionError, TargetError, models
from onnxplain.runtime.perturb.two_generators import explain_by_generators
from tests.rewriter.nets import net
from tests.runtime.small import model_of

Array = npt.NDArray[Any]
F = np.float32
LENET = models.path("mnist_lenet")
SIDE = "float[N,1,28,28]"
SAME = net(f"g ({SIDE} image) => ({SIDE} logits) {{ logits = Identity (image) }}")
"""Tensors called like LeNet's own; its only node is one that the compiler drops."""
DARK = net(f"g ({SIDE} x) => ({SIDE} y) <float s = {{0.01}}> {{ h = Mul (x, s) y = Relu (h) }}")


def linear(squash: str | None = None, classes: int = 3, opset: int = 18) -> onnx.ModelProto:
    """y = x W: the class is the largest of x, or of one class the sign of x_0."""
    last = "y" if squash is None else "z"
    nodes = [helper.make_node("MatMul", ["x", "w"], [last])]
    nodes += [] if squash is None else [helper.make_node(squash, ["z"], ["y"])]
    w = np.eye(3, classes, dtype=F)
    model = model_of(nodes, {"x": ["N", 3]}, {"y": ["N", classes]}, {"w": w})
    model.opset_import[0].version = opset
    return model


def scaled(factors: list[float], opset: int = 18) -> onnx.ModelProto:
    text = ", ".join(str(factor) for factor in factors)
    return net(
        f"g (float[N,3] x) => (float[N,3] y) <float[3] w = {{{text}}}> {{ y = Mul (x, w) }}", opset=opset
    )


def digits(count: int = 6) -> Array:
    return (models.digits()[0][:count, None] / 255).astype(F)


def test_what_the_file_computes() -> None:
    """|g_s(x) - g_a(x)| with g_s(x) = 2 x, g_a(x) = (-x_0, x_1, x_2)."""
    made = explain_by_generators(linear(), scaled([2, 2, 2]), scaled([-1, 1, 1]))
    x = np.array([[3, 1, 0], [0, 2, 1], [5, -1, -2]], F)
    result = made(x)
    assert result.attribution.tolist() == [[9, 1, 0], [0, 2, 1], [15, 1, 2]]
    assert result.results["similar"].tolist() == (2 * x).tolist()
    assert result.results["adversarial"].tolist() == (x * [-1, 1, 1]).tolist()
    assert result.results["kept"][:, 0].tolist() == [True, True, True]
    assert result.results["flipped"][:, 0].tolist() == [True, False, True]
    assert result.results["kept"].dtype == bool and result.results["kept"].shape == (3, 1)
    assert result.outputs["y"].tolist() == x.tolist()
    assert made.card.outputs == ("attribution", "similar", "adversarial", "kept", "flipped")


@pytest.mark.parametrize("target", ["input", 1])
def test_the_checks_are_about_the_class_that_is_named(target: Any) -> None:
    made = explain_by_generators(linear(), scaled([1, 1, 1]), scaled([-1, 1, 1]), target=target)
    x = np.array([[3, 1, 0]], F)
    result = made(x, target=1) if target == "input" else made(x)
    assert result.results["kept"][:, 0].tolist() == [False] and result.results["flipped"][:, 0].tolist() == [
        False
    ]


@pytest.mark.parametrize(("squash", "head"), [(None, "logits"), ("Sigmoid", "logits"), ("Sigmoid", "prob")])
def test_a_single_score_has_two_classes(squash: str | None, head: str) -> None:
    """Both sides of 0, or of ½ for a probability."""
    made = explain_by_generators(linear(squash, 1), scaled([0.1, 1, 1]), scaled([-0.1, 1, 1]), head=head)
    result = made(np.array([[3, 1, 0], [-2, 1, 0]], F))
    assert result.results["kept"][:, 0].tolist() == [True, True]
    assert result.results["flipped"][:, 0].tolist() == [True, True]
    same = explain_by_generators(linear(squash, 1), scaled([-1, 1, 1]), scaled([1, 1, 1]), head=head)
    result = same(np.array([[3, 1, 0], [-2, 1, 0]], F))
    assert not result.results["kept"].any() and not result.results["flipped"].any()


def test_all_three_are_what_they_were(tmp_path: Path) -> None:
    """Bit-equal outputs without optimisation, weights of the classifier stored once."""
    made = explain_by_generators(LENET, SAME, DARK)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL

    def run(model: bytes, name: str, x: Array, **more: Array) -> dict[str, Array]:
        session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        names = [node.name for node in session.get_outputs()]
        return dict(zip(names, map(np.asarray, session.run(None, {name: x, **more})), strict=True))

    x = digits()
    found = run(made.model.SerializeToString(), "image", x, target=np.full((6, 1), -1, np.int64))
    plain = run(LENET.read_bytes(), "image", x)["logits"]
    assert np.array_equal(found["logits"], plain)
    assert np.array_equal(found["similar"], x)
    dark = run(DARK.SerializeToString(), "x", x)["y"]
    assert np.array_equal(found["adversarial"], dark)
    flips = run(LENET.read_bytes(), "image", dark)["logits"].argmax(1) != plain.argmax(1)
    assert np.array_equal(found["flipped"][:, 0], flips) and 0 < flips.sum()
    assert found["kept"].all()
    assert made.save(tmp_path / "a.onnx").stat().st_size < 1.05 * LENET.stat().st_size


def test_saved_loaded_shown_and_drawn(tmp_path: Path) -> None:
    from PIL import Image
    from typer.testing import CliRunner

    from onnxplain.runtime.cli.main import app

    made = explain_by_generators(LENET, SAME, DARK)
    path = made.save(tmp_path / "two.onnx")
    loaded = onnxplain.load(path)
    assert loaded.card == made.card and loaded.card.method == "adversarial"
    loaded.check_source(LENET)
    x = digits()
    assert np.array_equal(loaded(x).attribution, made(x).attribution)
    picture = tmp_path / "digit.png"
    Image.fromarray(models.digits()[0][0]).save(picture)
    explained = onnxplain.explain(path, picture)
    (item,) = explained
    assert item.method == "adversarial" and item.attribution.shape == (1, 1, 28, 28)
    assert item.label == str(int(made(x[:1]).outputs["logits"].argmax()))
    explained.save(tmp_path / "out.png")
    assert (tmp_path / "out.png").stat().st_size > 1000
    shown = CliRunner().invoke(app, ["show", str(path)])
    assert shown.exit_code == 0
    for word in ("kept bool [N, 1]", "flipped bool [N, 1]", "method  adversarial"):
        assert word in " ".join(shown.output.split(" ")) or word.replace("  ", " ") in shown.output


def test_the_card_names_the_generators(tmp_path: Path) -> None:
    path = tmp_path / "same.onnx"
    onnx.save(scaled([1, 1, 1]), path)
    card = explain_by_generators(linear(), path, scaled([2, 1, 1])).card
    assert card.options["similar"]["name"] == "same.onnx"
    assert card.options["adversarial"]["name"] is None
    assert len(card.options["similar"]["sha256"]) == 64
    assert card.options["similar"]["sha256"] != card.options["adversarial"]["sha256"]


def test_paths_are_read_for_the_plain_method_too(tmp_path: Path) -> None:
    onnx.save(scaled([1, 1, 1]), tmp_path / "s.onnx")
    onnx.save(scaled([-1, 1, 1]), tmp_path / "a.onnx")
    made = onnxplain.compile(
        linear(), "adversarial", similar=str(tmp_path / "s.onnx"), adversarial=tmp_path / "a.onnx"
    )
    assert made(np.array([[3, 1, 0]], F)).attribution.tolist() == [[6, 0, 0]]


@pytest.mark.parametrize("opsets", [(18, 21, 13), (21, 18, 18), (13, 17, 20), (21, 21, 21)])
def test_opsets_are_merged(opsets: tuple[int, int, int]) -> None:
    f, s, a = opsets
    made = explain_by_generators(linear(opset=f), scaled([2, 2, 2], s), scaled([-1, 1, 1], a))
    assert [entry.version for entry in made.model.opset_import if not entry.domain] == [max(opsets)]
    assert made(np.array([[3, 1, 0]], F)).attribution.tolist() == [[9, 1, 0]]


def test_opsets_of_the_plain_method_must_agree() -> None:
    with pytest.raises(
        ModelError, match=r"the generator 'adversarial' has opset 21 of 'ai.onnx', the model 18"
    ):
        onnxplain.compile(
            linear(), "adversarial", similar=scaled([1, 1, 1]), adversarial=scaled([1, 1, 1], 21)
        )


def test_an_opset_that_nobody_knows() -> None:
    model = scaled([1, 1, 1])
    model.opset_import[0].version = 999
    with pytest.raises(ModelError, match="has opset 999; onnx"):
        explain_by_generators(linear(), model, scaled([1, 1, 1]))


def test_names_that_begin_like_a_generator() -> None:
    """A model whose own tensors are called similar/... keeps them."""
    nodes = [
        helper.make_node("Relu", ["x"], ["similar/y"]),
        helper.make_node("MatMul", ["similar/y", "w"], ["y"]),
    ]
    model = model_of(nodes, {"x": ["N", 3]}, {"y": ["N", 3]}, {"w": np.eye(3, dtype=F)})
    made = explain_by_generators(model, scaled([2, 2, 2]), scaled([-1, 1, 1]))
    assert made(np.array([[3, 1, 0]], F)).attribution.tolist() == [[9, 1, 0]]


def test_what_does_not_fit() -> None:
    wide = net("g (float[N,4] x) => (float[N,4] y) { y = Relu (x) }")
    good = scaled([1, 1, 1])
    with pytest.raises(
        ModelError, match=r"the generator 'adversarial': its input 'x' is .*works in the model's"
    ):
        explain_by_generators(linear(), good, wide)
    with pytest.raises(ModelError, match="the generator 'similar': its input"):
        explain_by_generators(linear(), wide, good)
    with pytest.raises(OptionError, match="adversarial: similar= is missing: an ONNX model"):
        onnxplain.compile(linear(), "adversarial")
    with pytest.raises(OptionError, match=r"an ONNX model is needed .* not 3"):
        onnxplain.compile(linear(), "adversarial", similar=3, adversarial=good)
    with pytest.raises(ModelError, match="no model file at"):
        explain_by_generators(linear(), "missing.onnx", good)
    with pytest.raises(TargetError, match="about one class"):
        explain_by_generators(linear(), good, good, target=[0, 1])
    with pytest.raises(TargetError, match="about one class"):
        explain_by_generators(linear(), good, good, target="cotangent")
    with pytest.raises(TargetError, match="class 7 is out of range"):
        explain_by_generators(linear(), good, good, target=7)
