"""LinearScope against stored float64 systems of small nets, and as identities on real ones.

Stored: 1e-4 of the largest element is accepted, which no wrong mask or bias gets through (measured: up to 6e-7).
Identities on real nets: 1e-5 of what is added up (measured: up to 5e-7).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

import onnxplain
from onnxplain import TargetError, models
from onnxplain.runtime.explainer import Explainer
from tests.rules.scope.golden import DATA, NETS, compiled, distance, image, matrix, stored, units, wanted

CLOSE = 1e-4
REAL = 1e-5
SAME = 2e-6
"""Of the largest element: the same float32 sums in another order."""
NORMS = ("stats", "std")
SCORED = [name for name in NETS if "scope_contrib" in stored(name)]


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("by", ["columns", "rows"])
@pytest.mark.parametrize("name", NETS)
def test_f_is_the_stored_one(name: str, by: str, norm: str) -> None:
    assert distance(matrix(name, norm, by), wanted(name, "scope_F", norm)) <= CLOSE


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", NETS)
def test_f_x_plus_r_is_y(name: str, norm: str) -> None:
    result = compiled(name, "residual", norm)(image(name))
    r = result.results["residual"].ravel()
    assert distance(r, wanted(name, "scope_r", norm)) <= CLOSE or np.abs(r).max() < 1e-6
    y = next(iter(result.outputs.values())).ravel()
    assert distance(matrix(name, norm) @ image(name).ravel() + r, y) <= CLOSE


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", SCORED)
def test_contributions_are_the_stored_ones(name: str, norm: str) -> None:
    """Node for node where both count the same constants; the sum is the score, whatever is counted where."""
    target = int(stored(name)["class"])
    explainer = compiled(name, "contributions", norm, target=target)
    result = explainer(image(name))
    (found,) = result.results["contributions"]
    terms = explainer.card.options["terms"]
    names = [str(key) for key in wanted(name, "scope_contrib_names", norm)]
    numbers = dict(zip(names, wanted(name, "scope_contrib", norm), strict=True))
    size = max(abs(value) for value in numbers.values())
    assert terms[0] == "input" and len(terms) == len(found)
    theirs: dict[str, float] = {}
    for term, value in zip(terms, found, strict=True):
        key = stored_name(name, term)
        theirs[key] = theirs.get(key, 0.0) + float(value)
    for key in set(numbers) | set(theirs):
        assert abs(theirs.get(key, 0.0) - numbers.get(key, 0.0)) <= CLOSE * size, key
    score = next(iter(result.outputs.values())).ravel()[target]
    assert abs(found.sum(dtype=np.float64) - score) <= SAME * np.abs(found).sum() + 1e-6


def stored_name(net: str, term: str) -> str:
    """The stored name of a node: that of the tensor it makes."""
    if term == "input":
        return term
    graph = compiled(net, "residual").model.graph
    made = next(node.output[0] for node in graph.node if node.name == term)
    return str(made)


@pytest.mark.parametrize("name", ["cnn_bias", "i2i", "attention"])
def test_a_fixed_number_of_probes_is_the_free_batch(name: str) -> None:
    x, y = image(name), stored(name)["y"]
    columns = compiled(name, "columns", probes=3)(x, tangent=units(x)[4:7]).results["response"]
    assert distance(columns.reshape(3, -1).T, matrix(name)[:, 4:7]) <= SAME
    rows = compiled(name, "rows", probes=3)(x, cotangent=units(y)[:3]).attribution
    assert distance(rows.reshape(3, -1), matrix(name, by="rows")[:3]) <= SAME


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", NETS)
def test_a_batch_is_its_samples(name: str, norm: str) -> None:
    """Residual, contributions and columns of two samples together and alone."""
    both = np.concatenate([image(name), image(name)[:, ..., ::-1] * 0.7 - 0.2]).astype(np.float32)
    t = np.random.default_rng(0).normal(size=both.shape).astype(np.float32)
    y = np.random.default_rng(1).normal(size=(2, *stored(name)["y"].shape[1:])).astype(np.float32)
    calls: dict[str, tuple[Explainer, Mapping[str, Any]]] = {
        "residual": (compiled(name, "residual", norm), {}),
        "response": (compiled(name, "columns", norm), {"tangent": t}),
        "contributions": (compiled(name, "contributions", norm), {"cotangent": y}),
        "attribution": (compiled(name, "rows", norm), {"cotangent": y}),
    }
    for key, (explainer, more) in calls.items():
        joint = explainer(both, **more)
        alone = [explainer(both[i : i + 1], **{k: v[i : i + 1] for k, v in more.items()}) for i in range(2)]
        found = [{**result.results, **result.attributions}[key] for result in (joint, *alone)]
        assert distance(found[0], np.concatenate(found[1:])) <= SAME or np.abs(found[0]).max() < 1e-6, key


def test_classes_and_probabilities() -> None:
    """Rows of one-hot targets are those of F; a head that a softmax hides is all residual."""
    x = image("cnn_bias")
    rows = onnxplain.compile(DATA / "cnn_bias.onnx", "linearscope.rows", target=[0, 2])(x).attribution
    assert distance(rows.reshape(2, -1), matrix("cnn_bias", by="rows")[[0, 2]]) <= SAME
    scored = onnxplain.compile(DATA / "cnn_bias.onnx", "linearscope.contributions", target=[0, 2])(x)
    y = scored.outputs["t07_Gemm"].ravel()
    np.testing.assert_allclose(scored.results["contributions"].sum(1), y[[0, 2]], atol=1e-5)


def test_behind_a_softmax_all_is_residual() -> None:
    """head="prob": F = 0, r = y. Rows, columns and contributions say that nothing depends on the input."""
    model = onnx.load(DATA / "cnn_bias.onnx")
    model.graph.node.append(onnx.helper.make_node("Softmax", [model.graph.output[0].name], ["p"], "softmax"))
    model.graph.output[0].name = "p"
    result = onnxplain.compile(model, "linearscope.residual", head="prob")(image("cnn_bias"))
    assert np.array_equal(result.results["residual"], result.outputs["p"])
    for what in ("rows", "columns", "contributions"):
        with pytest.raises(TargetError, match="does not depend on"):
            onnxplain.compile(model, f"linearscope.{what}", head="prob")


def explained(model: Any, what: str, **options: Any) -> Explainer:
    return onnxplain.compile(model, f"linearscope.{what}", threads=2, **options)


def system(model: Any, x: np.ndarray, **options: Any) -> dict[str, float]:
    """F x + r = y and ⟨F t, c⟩ = ⟨t, F'c⟩ of one picture; the errors, relative to what is added up."""
    forth = explained(model, "columns", **options)
    rest = explained(model, "residual", **options)(x)
    y = next(iter(rest.outputs.values()))
    rng = np.random.default_rng(0)
    r = rest.results["residual"]
    fx = forth(x, tangent=x).results["response"]
    size = np.abs(fx).max() + np.abs(r).max()
    errors = {"F x + r = y": float(np.abs(fx + r - y).max() / size)}
    t, c = (rng.normal(size=v.shape).astype(np.float32) for v in (x, y))
    there = forth(x, tangent=t).results["response"] * c
    back = explained(model, "rows", target="cotangent", **options)(x, cotangent=c).attribution * t
    scale = np.abs(there).sum() + np.abs(back).sum()
    errors["adjoint"] = float(abs(there.sum(dtype=np.float64) - back.sum(dtype=np.float64)) / scale)
    assert all(error <= REAL for error in errors.values()), errors
    return errors


def contributed(model: Any, x: np.ndarray, **options: Any) -> float:
    result = explained(model, "contributions", target="top", **options)(x)
    found = result.results["contributions"].astype(np.float64)
    score = next(iter(result.outputs.values())).reshape(len(x), -1).max(axis=1)
    error = float((np.abs(found.sum(1) - score) / np.abs(found).sum(1)).max())
    assert error <= REAL, error
    return error


def photo(side: int, corner: tuple[int, int] = (60, 130)) -> np.ndarray:
    """A crop of the cat in [0, 1], (1, 3, side, side)."""
    with Image.open(models.photo("cat_chelsea")) as picture:
        pixels = np.asarray(picture.convert("RGB"), np.float32)
    top, left = corner
    return np.ascontiguousarray(pixels[top : top + side, left : left + side].transpose(2, 0, 1)[None] / 255)


def test_lenet() -> None:
    x = np.random.default_rng(2).uniform(size=(2, 1, 28, 28)).astype(np.float32)
    system(models.path("mnist_lenet"), x)
    contributed(models.path("mnist_lenet"), x)


@pytest.mark.slow
def test_efficientnet_lite0() -> None:
    x = ((photo(224) * 255 - 127) / 128).astype(np.float32)
    system(models.path("efficientnet_lite0"), x)
    contributed(models.path("efficientnet_lite0"), x)


@pytest.mark.slow
def test_super_resolution() -> None:
    system(models.path("esrgan_slim_x4"), photo(32))


@pytest.mark.slow
@pytest.mark.parametrize("norm", NORMS)
def test_style_transfer(norm: str) -> None:
    system(
        models.path("style07_instancenorm"), photo(32), norm=norm, head="prob"
    )  # the sigmoid is frozen too
