"""Explanations in use: inputs, targets, cotangents, results, files."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

import onnxplain
from onnxplain import ImageError, ModelError, OptionError, ProviderError, StaleError, TargetError, models
from onnxplain.runtime import opening as module
from onnxplain.runtime.explainer import Explainer, Result
from tests.runtime.small import gradient, model_of, picture, product

RNG = np.random.default_rng(3)
X = RNG.normal(size=(1, 2, 3, 4)).astype(np.float32)
BATCH = RNG.normal(size=(3, 2, 3, 4)).astype(np.float32)


@pytest.fixture(scope="module")
def free() -> Explainer:
    """The class is an input."""
    return onnxplain.compile(picture())


@pytest.fixture(scope="module")
def rows() -> Explainer:
    return onnxplain.compile(picture(), target="cotangent")


def test_the_result(free: Explainer) -> None:
    result = free(X, target=2)
    assert isinstance(result, Result)
    assert list(result.outputs) == ["scores"] and result.outputs["scores"].shape == (1, 5)
    assert list(result.attributions) == ["attribution"] and not result.heatmaps
    assert result.heatmap is None
    assert np.array_equal(result.attribution, gradient(2))  # one-hot times a matrix: no rounding


@pytest.mark.parametrize(
    "x",
    [
        X,
        {"x": X},
        X.astype(np.float64),
        X.astype(np.float64).tolist(),
        np.asfortranarray(X),
        X[:, ::-1][:, ::-1],
    ],
    ids=["array", "dict", "float64", "list", "fortran", "strided"],
)
def test_forms_of_the_input(free: Explainer, x: Any) -> None:
    """float64 holds every float32, so that nothing is lost on the way there and back."""
    assert np.array_equal(free(x).outputs["scores"], free(X).outputs["scores"])


def test_float64_is_rounded_to_the_type_of_the_input(free: Explainer) -> None:
    wide = X.astype(np.float64) + 1e-12
    assert np.array_equal(free(wide).outputs["scores"], free(wide.astype(np.float32)).outputs["scores"])


def test_a_model_in_float64_takes_float32() -> None:
    explainer = onnxplain.compile(picture(np.float64), target="cotangent")
    result = explainer(X, cotangent=np.eye(5, dtype=np.float32)[:2])
    assert result.attribution.dtype == np.float64
    assert np.array_equal(result.attribution[1:], gradient(1, np.float64))


@pytest.mark.parametrize("target", ["input", "top", 1])
def test_a_class_of_a_model_in_float64(target: Any) -> None:
    result = onnxplain.compile(picture(np.float64), target=target)(X)
    assert result.attribution.dtype == np.float64


def test_whole_numbers_become_floats(free: Explainer) -> None:
    x = np.arange(24).reshape(1, 2, 3, 4)
    assert np.array_equal(free(x).outputs["scores"], free(x.astype(np.float32)).outputs["scores"])


@pytest.mark.parametrize(
    ("x", "kind", "message"),
    [
        (X[0], ImageError, r"input 'x' takes \[N, 2, 3, 4\], not \[2, 3, 4\]: 3 axes instead of 4"),
        (X[:, :1], ImageError, r"not \[1, 1, 3, 4\]: axis 1 is 1 instead of 2"),
        (X.transpose(0, 2, 3, 1), ImageError, r"not \[1, 3, 4, 2\]"),
        (np.float32(1), ImageError, "0 axes instead of 4"),
        ({"y": X}, OptionError, "no input 'y'"),
        ({}, OptionError, "no array was given for the input 'x'"),
        ({"x": X, "more": X}, OptionError, "no input 'more'"),
        ({"x": X, "target": np.zeros((1, 1), np.int64)}, OptionError, "give it as the argument target="),
        (np.full((1, 2, 3, 4), "a"), OptionError, "takes float32, not <U1"),
        (X > 0, OptionError, "takes float32, not bool"),
        (X.astype(np.complex64), OptionError, "takes float32, not complex64"),
        ([[1.0], [1.0, 2.0]], OptionError, "'x' is no array"),
        (None, OptionError, "takes float32, not object"),
    ],
)
def test_an_input_that_does_not_fit(free: Explainer, x: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        free(x)


def test_a_target_for_every_sample(free: Explainer) -> None:
    for target in ([4, 0, 2], (4, 0, 2), np.array([4, 0, 2], np.uint8), np.array([[4], [0], [2]])):
        attribution = free(BATCH, target=target).attribution
        assert np.array_equal(attribution, np.concatenate([gradient(4), gradient(0), gradient(2)]))
    assert np.array_equal(free(BATCH, target=np.asarray(3)).attribution, np.repeat(gradient(3), 3, axis=0))
    assert np.array_equal(free(BATCH, target=[3]).attribution, np.repeat(gradient(3), 3, axis=0))


def test_without_a_target_the_top_class_is_explained(free: Explainer) -> None:
    result = free(BATCH)
    top = result.outputs["scores"].argmax(axis=1)
    assert len(set(top.tolist())) > 1  # else the seed of BATCH does not test anything
    expected = np.concatenate([gradient(int(c)) for c in top])
    assert np.array_equal(result.attribution, expected)
    assert np.array_equal(free(BATCH, target=-1).attribution, expected)
    mixed = free(BATCH, target=[-1, 2, -1]).attribution
    assert np.array_equal(mixed, np.stack([expected[0], gradient(2)[0], expected[2]]))


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (5, "class 5 is out of range: 0 to 4, or -1 for the top class"),
        ([0, 1, -2], "class -2 is out of range"),
        ([0, 1], "2 targets for 3 samples; give one, or one a sample"),
        ([0, 1, 2, 3], "4 targets for 3 samples"),
        ([[0, 1, 2], [0, 1, 2]], "6 targets for 3 samples"),
        (1.0, "target must be integers, not float64"),
        ("top", "target must be integers"),
        ([], "target must be integers|0 targets"),
        ([[1], [1, 2]], "target must be integers"),
        (True, "target must be integers, not bool"),
    ],
)
def test_a_target_that_does_not_fit(free: Explainer, target: Any, message: str) -> None:
    with pytest.raises(TargetError, match=message):
        free(BATCH, target=target)


def test_a_class_of_a_head_of_unknown_size() -> None:
    nodes = [helper.make_node("Relu", ["x"], ["y"])]
    explainer = onnxplain.compile(model_of(nodes, {"x": ["N", "F"]}, {"y": ["N", "F"]}))
    assert explainer(np.ones((1, 3)), target=2).attribution.tolist() == [[0, 0, 1]]
    with pytest.raises(TargetError, match="class -2 is out of range: 0 and above"):
        explainer(np.ones((1, 3)), target=-2)


@pytest.mark.parametrize("target", ["top", 3, [1, 2]])
def test_a_file_for_fixed_classes_takes_no_target(target: Any) -> None:
    explainer = onnxplain.compile(picture(), target=target)
    with pytest.raises(TargetError, match="this file explains a fixed target"):
        explainer(X, target=1)
    with pytest.raises(TargetError, match="this file takes no cotangent"):
        explainer(X, cotangent=np.ones((1, 5)))


def test_fixed_classes() -> None:
    assert np.array_equal(onnxplain.compile(picture(), target=3)(BATCH[:2]).attribution[1:], gradient(3))
    top = onnxplain.compile(picture(), target="top")(X)
    assert np.array_equal(top.attribution, gradient(int(top.outputs["scores"].argmax())))
    several = onnxplain.compile(picture(), target=[4, 1])(BATCH[:2]).attribution
    assert np.array_equal(several, np.concatenate([gradient(4), gradient(1)] * 2))  # sample by sample


def test_a_cotangent_a_sample(rows: Explainer) -> None:
    ct = RNG.normal(size=(3, 5))
    expected = sum(ct[:, c, None, None, None] * gradient(c, np.float64) for c in range(5))
    # float64 is converted; 5 terms of float32
    assert np.allclose(rows(BATCH, cotangent=ct).attribution, expected, rtol=1e-5, atol=1e-5)


def test_rows_of_one_sample(rows: Explainer) -> None:
    attribution = rows(X, cotangent=np.eye(5)).attribution
    assert np.array_equal(attribution, np.concatenate([gradient(c) for c in range(5)]))


@pytest.mark.parametrize(
    ("x", "cotangent", "kind", "message"),
    [
        (X, None, TargetError, "this file takes a cotangent; give cotangent="),
        (BATCH, np.ones((2, 5)), TargetError, "2 cotangents for 3 samples"),
        (BATCH, np.ones((1, 5)), TargetError, "1 cotangents for 3 samples"),
        (X, np.ones((1, 4)), OptionError, r"'cotangent' takes \[K, 5\], not \[1, 4\]"),
        (X, np.ones(5), OptionError, "1 axes instead of 2"),
        (X, 1.0, OptionError, "0 axes instead of 2"),
        (X, "one", OptionError, "takes float32"),
    ],
)
def test_a_cotangent_that_does_not_fit(
    rows: Explainer, x: Any, cotangent: Any, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        rows(x, cotangent=cotangent)
    with pytest.raises(TargetError, match="takes no cotangent"):
        onnxplain.compile(picture())(x, cotangent=cotangent if cotangent is not None else 1.0)


def test_several_inputs_and_outputs() -> None:
    explainer = onnxplain.compile(product(), inputs=["a", "b"], target=5)
    a, b = BATCH, BATCH[::-1] + 1
    result = explainer({"a": a, "b": b})
    assert list(result.outputs) == ["product", "heatmap"]  # an output of that name is not ours
    assert np.array_equal(result.outputs["heatmap"], a + b) and result.heatmap is None
    one = np.zeros(24, np.float32)
    one[5] = 1
    assert list(result.attributions) == ["a", "b"]
    assert np.array_equal(result.attributions["a"], one.reshape(1, 2, 3, 4) * b)
    assert np.array_equal(result.attributions["b"], one.reshape(1, 2, 3, 4) * a)
    assert np.array_equal(result.attribution, result.attributions["a"])
    with pytest.raises(OptionError, match=r"the model has 2 inputs \(a, b\); give a dict of arrays"):
        explainer(a)
    with pytest.raises(OptionError, match="no array was given for the input 'b'"):
        explainer({"a": a})


def test_another_output_is_explained() -> None:
    result = onnxplain.compile(product(), output="heatmap", target=0)({"a": X, "b": X})
    assert result.attribution.ravel().tolist() == [1.0] + [0.0] * 23


def test_heat_maps_of_several_inputs() -> None:
    model = product()
    model.graph.output[1].name = model.graph.node[2].output[0] = "total"
    explainer = onnxplain.compile(model, inputs=["b", "a"], reduce="sum")
    result = explainer({"a": BATCH, "b": BATCH + 1}, target=3)
    assert list(result.heatmaps) == ["b", "a"] and result.heatmap is result.heatmaps["b"]
    for name in "ab":
        assert np.allclose(result.heatmaps[name], result.attributions[name].sum(axis=1), rtol=1e-6)


def test_a_model_that_calls_an_input_target() -> None:
    """Its own input stays one where the class is fixed; else the names clash, and that is said."""
    nodes = [helper.make_node("Mul", ["x", "target"], ["y"])]
    model = model_of(nodes, {"x": ["N", 3], "target": ["N", 3]}, {"y": ["N", 3]})
    result = onnxplain.compile(model, target=1)({"x": np.ones((1, 3)), "target": np.full((1, 3), 7)})
    assert result.attribution.tolist() == [[0, 7, 0]]
    with pytest.raises(TargetError, match="already has a tensor named 'target'"):
        onnxplain.compile(model)


# LeNet has no mean-pooled head, which cam needs. Some maps of noise are zero.
@pytest.mark.filterwarnings("ignore::onnxplain.ExplainWarning")
@pytest.mark.parametrize(
    "method", sorted(name for name, method in onnxplain.methods().items() if method.maps and name != "cam")
)
def test_a_batch_equals_its_samples(method: str) -> None:
    options: dict[str, Any] = {"estimator": "weights"} if method.startswith("pattern-") else {}
    options |= {"n": 40} if method == "rise.graph" else {}  # time
    explainer = onnxplain.compile(models.path("mnist_lenet"), method, reduce="maxabs,minmax", **options)
    x = RNG.uniform(0, 1, (3, 1, 28, 28)).astype(np.float32)
    together = explainer(x, target=[1, -1, 7])
    for i, target in enumerate((1, -1, 7)):
        alone = explainer(x[i : i + 1], target=target)
        # sums of float32 over up to 1600 terms, in another order for another batch
        scale = float(np.abs(alone.attribution).max())
        assert np.allclose(together.attribution[i], alone.attribution[0], atol=1e-5 * scale, rtol=0)
        assert together.heatmap is not None and alone.heatmap is not None
        assert np.allclose(together.heatmap[i], alone.heatmap[0], atol=1e-5, rtol=0)


def test_save_and_load_give_the_same_bytes_and_results(tmp_path: Path) -> None:
    made = onnxplain.compile(models.path("mnist_lenet"), "guided-backprop", reduce="sum,sym")
    first, second = made.save(tmp_path / "a.onnx"), tmp_path / "b.onnx"
    assert first == tmp_path / "a.onnx"
    loaded = onnxplain.load(first)
    loaded.save(str(second))
    assert first.read_bytes() == second.read_bytes() == made.model.SerializeToString()
    assert loaded.card == made.card
    x = RNG.uniform(0, 1, (2, 1, 28, 28))
    ours, theirs = made(x), loaded(x)
    from_bytes = onnxplain.load(first.read_bytes())(x)
    for other in (theirs, from_bytes):
        assert np.array_equal(ours.attribution, other.attribution)
        assert ours.heatmap is not None and np.array_equal(ours.heatmap, other.heatmap)  # type: ignore[arg-type]
        assert np.array_equal(ours.outputs["logits"], other.outputs["logits"])


def test_a_place_that_cannot_be_written(free: Explainer, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="choose an existing, writable folder"):
        free.save(tmp_path / "missing" / "a.onnx")
    with pytest.raises(OptionError, match="not a regular file"):
        free.save(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_plain_model_is_no_explanation() -> None:
    with pytest.raises(
        ModelError, match="this file carries no explanation; make one with `onnxplain compile`"
    ):
        onnxplain.load(models.path("mnist_lenet"))
    with pytest.raises(ModelError, match="no model file at"):
        onnxplain.load("missing.onnx")


def test_a_damaged_card(free: Explainer) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(free.model)
    for entry in model.metadata_props:
        if entry.key == "onnxplain.target":
            entry.value = "{"
    with pytest.raises(ModelError, match="metadata is damaged"):
        onnxplain.load(model.SerializeToString())


def test_check_source(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(picture(), path)
    explainer = onnxplain.compile(path)
    assert explainer.card.source["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    explainer.check_source(path)
    explainer.check_source(path.read_bytes())
    with pytest.raises(
        StaleError, match=r"explains a model with sha256 [0-9a-f]{12}\.\.\., not [0-9a-f]{12}"
    ):
        explainer.check_source(picture(squash="Softmax").SerializeToString())
    with pytest.raises(ModelError):
        explainer.check_source(tmp_path / "missing.onnx")


def test_providers_and_threads_reach_the_session(tmp_path: Path) -> None:
    path = onnxplain.compile(picture(), providers="cpu", threads=2).save(tmp_path / "a.onnx")
    for explainer in (
        onnxplain.compile(picture(), providers=["cpu"], threads=2),
        onnxplain.load(path, providers="cpu", threads=2),
    ):
        assert explainer.session.get_providers() == ["CPUExecutionProvider"]
        assert explainer.session.get_session_options().intra_op_num_threads == 2
        assert explainer.session is explainer.session
    with pytest.raises(OptionError, match="unknown execution provider 'cpo'"):
        onnxplain.load(path, providers="cpo")(X)
    with pytest.raises(OptionError, match="threads is 0"):
        onnxplain.load(path, threads=0)(X)


def test_a_provider_that_is_missing_is_an_error_when_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    explainer = onnxplain.compile(picture(), providers=["tensorrt-rtx", "cpu"])
    with pytest.raises(ProviderError, match="tensorrt-rtx"):
        explainer(X)


def test_compiling_opens_no_optimised_session(monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(*args: object, **options: object) -> None:
        raise AssertionError("a session was opened")

    monkeypatch.setattr(module, "create_session", opened)  # the proof opens its own, which cost little
    explainer = onnxplain.compile(picture())
    assert explainer.model.graph.output[-1].name == "attribution"
    with pytest.raises(AssertionError):
        explainer(X)


def test_a_file_over_the_limit_of_protobuf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    explainer = onnxplain.compile(picture())
    size = len(explainer.model.SerializeToString())
    monkeypatch.setattr(module, "PROTOBUF_LIMIT", size)
    explainer.save(tmp_path / "fits.onnx")
    monkeypatch.setattr(module, "PROTOBUF_LIMIT", size - 1)
    with pytest.raises(ModelError, match=f"would have {size} bytes; one ONNX file holds at most 2 GiB"):
        explainer.save(tmp_path / "a.onnx")
    monkeypatch.setattr(module, "PROTOBUF_LIMIT", 1)  # of the CPU's forms, which are smaller
    with pytest.raises(ModelError, match="at most 2 GiB"):
        explainer(X)
    assert [path.name for path in tmp_path.iterdir()] == ["fits.onnx"]


def test_a_message_that_protobuf_itself_refuses(tmp_path: Path) -> None:
    class Huge:
        def SerializeToString(self) -> bytes:
            raise ValueError("Message onnx.ModelProto exceeds maximum protobuf size of 2GB")

    explainer = onnxplain.compile(picture())
    huge: Any = Huge()
    explainer.model = huge
    with pytest.raises(ModelError, match="does not fit into one ONNX file of at most 2 GiB"):
        explainer.save(tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())


def test_tangents_belong_to_one_sample_or_to_one_each() -> None:
    explainer = onnxplain.compile(models.path("mnist_lenet"), "linearscope.columns")
    x, t = np.zeros((2, 1, 28, 28)), np.zeros((3, 1, 28, 28))
    with pytest.raises(
        OptionError, match="tangent: 3 rows for 2 samples; give one sample, or a row for each"
    ):
        explainer(x, tangent=t)
    assert explainer(x[:1], tangent=t).results["response"].shape == (3, 10)
    assert explainer(x, tangent=t[:2]).results["response"].shape == (2, 10)
