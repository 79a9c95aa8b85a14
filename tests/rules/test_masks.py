"""Occlusion and RISE in one graph, against golden copies and against the same methods over many runs."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from onnxplain import OptionError
from onnxplain.rewriter.compile import Request, compile_model
from onnxplain.rules.masks import draw, spans
from onnxplain.rules.methods_masks import OCCLUSION_GRAPH, RISE_GRAPH
from onnxplain.runtime.perturb.occlusion import OCCLUSION
from onnxplain.runtime.perturb.probing import Asked, Prober
from onnxplain.runtime.perturb.rise import RISE
from onnxplain.runtime.perturb.technique import perform
from tests.rewriter.nets import run
from tests.runtime.perturb.masking import (
    CONVOLUTIONAL,
    GOLDEN,
    Array,
    close,
    constant,
    golden,
    linear_model,
    stored,
)
from tests.runtime.small import model_of, picture

TOLERANCE = 1e-5
"""float32 sums in another order."""


def image(name: str) -> Array:
    return stored(name)["x"].astype(np.float32)


def explained(method: Any, source: Any, x: Array, target: Any = "top", **options: Any) -> Array:
    made, _ = compile_model(source, method, Request(target=target, options=options))
    given = {value.name for value in made.graph.input} - {"target"}
    return run(made, {given.pop(): x})["attribution"]


@pytest.mark.parametrize("name", CONVOLUTIONAL)
@pytest.mark.parametrize("reduce", ("sum", "mean"))
def test_golden(name: str, reduce: str) -> None:
    got = explained(
        OCCLUSION_GRAPH, GOLDEN / f"{name}.onnx", image(name), k=3, stride=2, score="logit", reduce=reduce
    )
    for plane in got[0]:
        close(plane, stored(name)[f"occlusion_{reduce}"])


@pytest.mark.parametrize("name", ("cnn_bias", "cnn_odd"))
@pytest.mark.parametrize(
    ("options", "settings"),
    (
        ({"k": 3}, {}),
        ({"k": 4, "stride": 3, "border": "truncate", "lanes": 3}, {}),
        ({"k": 3, "stride": 2, "baseline": "blur"}, {"value": "blur"}),
        ({"k": 2, "stride": 2, "baseline": 0.4, "reduce": "sum", "lanes": 1}, {"value": 0.4}),
    ),
)
def test_occlusion_of_many_runs(name: str, options: dict[str, Any], settings: dict[str, Any]) -> None:
    rest = {key: value for key, value in options.items() if key not in ("lanes", "baseline")}
    known = perform(golden(name, "probability"), OCCLUSION, [2], **rest, **settings).maps[0]
    got = explained(OCCLUSION_GRAPH, GOLDEN / f"{name}.onnx", image(name), 2, **options)
    close(got[0, 0], known, TOLERANCE)
    np.testing.assert_array_equal(got[:, 1:], got[:, :-1])


@pytest.mark.parametrize("name", ("cnn_bias", "cnn_odd"))
@pytest.mark.parametrize(
    ("options", "settings"),
    (
        ({"n": 51, "grid": 3}, {}),
        ({"n": 20, "grid": 8, "p": 0.2, "seed": 4, "lanes": 3}, {}),
        ({"n": 20, "grid": 1, "baseline": 0.4, "lanes": 1}, {"value": 0.4}),
    ),
)
def test_rise_of_many_runs(name: str, options: dict[str, Any], settings: dict[str, Any]) -> None:
    """The same masks: both take them from their numbers and the seed."""
    rest = {key: value for key, value in options.items() if key not in ("lanes", "baseline")}
    known = perform(golden(name, "probability"), RISE, [2], **rest, **settings).maps[0]
    got = explained(RISE_GRAPH, GOLDEN / f"{name}.onnx", image(name), 2, **options)
    close(got[0, 0], known, TOLERANCE)
    np.testing.assert_array_equal(got[:, 1:], got[:, :-1])


def headed(squash: str | None) -> onnx.ModelProto:
    model = picture(squash=squash)
    if squash == "Sigmoid":
        del model.graph.node[-1].attribute[:]  # it has no axis
    return model


@pytest.mark.parametrize("squash", (None, "Softmax", "Sigmoid"))
@pytest.mark.parametrize("method", (OCCLUSION_GRAPH, RISE_GRAPH))
def test_probabilities_behind_every_head(squash: str | None, method: Any) -> None:
    """picture() ends in MatMul, or what comes behind it; the probability is taken with numpy here."""
    x = np.random.default_rng(1).normal(size=(1, 2, 3, 4)).astype(np.float32)

    def probability(copies: Array) -> Array:
        (z,) = run(headed(None), {"x": copies.astype(np.float32)}).values()
        z = z.astype(np.float64)
        if squash == "Sigmoid":
            return np.asarray(1 / (1 + np.exp(-z)))
        e = np.exp(z - z.max(1, keepdims=True))
        return np.asarray(e / e.sum(1, keepdims=True))

    if method is OCCLUSION_GRAPH:
        got = explained(method, headed(squash), x, 3, k=1, stride=1)
        known = np.zeros((3, 4))
        for r in range(3):
            for c in range(4):
                copy = x.copy()
                copy[:, :, r, c] = 0
                known[r, c] = (probability(x) - probability(copy))[0, 3]
    else:
        got = explained(method, headed(squash), x, 3, n=9, grid=3)
        cells, offsets = draw(np.arange(9), (3, 4), 3, 0.5, 0)
        known = np.zeros((3, 4))
        for on, (r, c) in zip(cells, offsets, strict=True):
            mask = _bilinear(on.astype(np.float64), (4, 8))[r : r + 3, c : c + 4]
            known += probability(x * mask)[0, 3] * mask / (0.5 * 9)
    close(got[0, 0], known)


def _bilinear(cells: Array, size: tuple[int, int]) -> Array:
    """Point by point, with numpy.interp along one axis and then the other."""
    for axis, pixels in enumerate(size):
        at = (np.arange(pixels) + 0.5) * cells.shape[axis] / pixels - 0.5
        lines = np.moveaxis(cells, axis, -1)
        wider = np.stack([np.interp(at, np.arange(line.size), line) for line in lines])
        cells = np.moveaxis(wider, -1, axis)
    return cells


@pytest.mark.parametrize(
    ("method", "options"), ((OCCLUSION_GRAPH, {"k": 3}), (RISE_GRAPH, {"n": 21, "grid": 3}))
)
def test_a_batch_and_several_classes(method: Any, options: dict[str, Any]) -> None:
    source, x = GOLDEN / "cnn_bias.onnx", image("cnn_bias")
    batch = np.concatenate([x, x[:, :, ::-1] * 0.7, x * -1])
    got = explained(method, source, batch, (0, 2), **options)
    assert got.shape == (6, 2, 8, 8)
    for i in range(3):
        for j, c in enumerate((0, 2)):
            close(got[2 * i + j], explained(method, source, batch[i : i + 1], c, **options)[0], TOLERANCE)


def test_the_class_is_that_of_the_image() -> None:
    """Copies may have another top class; outputs of the model are those of the image."""
    source, x = GOLDEN / "cnn_bias.onnx", image("cnn_bias")
    top = int(stored("cnn_bias")["y"].argmax())
    made, card = compile_model(source, OCCLUSION_GRAPH, Request(options={"k": 6, "stride": 1}))
    name = made.graph.input[0].name
    found = run(made, {name: x, "target": np.array([[-1]])})
    (y,) = run(onnx.load(source), {name: x}).values()
    np.testing.assert_allclose(next(iter(found.values())), y, rtol=1e-6)
    close(found["attribution"], explained(OCCLUSION_GRAPH, source, x, top, k=6, stride=1), TOLERANCE)
    assert card.method == "occlusion.graph" and card.options["k"] == 6


def channels_last(batch: int | str) -> onnx.ModelProto:
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"], axis=1),
        helper.make_node("MatMul", ["flat", "w"], ["z"]),
        helper.make_node("Softmax", ["z"], ["p"], axis=1),
    ]
    weight = np.random.default_rng(3).normal(size=(60, 3)).astype(np.float32)
    return model_of(nodes, {"x": [batch, 4, 5, 3]}, {"p": [batch, 3]}, {"w": weight})


@pytest.mark.parametrize("batch", ("N", 1))
def test_channels_last(batch: int | str) -> None:
    about, source = {"layout": "NHWC"}, channels_last(batch)
    x = np.random.default_rng(5).normal(size=(1, 4, 5, 3)).astype(np.float32)
    for method, technique, settings in (
        (OCCLUSION_GRAPH, OCCLUSION, {"k": 2, "stride": 2}),
        (RISE_GRAPH, RISE, {"n": 10, "grid": 2}),
    ):
        made, _ = compile_model(source, method, Request(target=1, options=settings, preprocessing=about))
        got = run(made, {"x": x})["attribution"]
        prober = Prober(source, x, Asked(preprocessing=about, engine="full", threads=1))
        known = perform(prober, technique, [1], None, **settings).maps[0]
        close(got[0], np.repeat(known[:, :, None], 3, axis=2), TOLERANCE)


def test_a_constant_classifier_has_no_drop() -> None:
    prober = constant()
    got = explained(OCCLUSION_GRAPH, prober.source.model, prober.image, 0, k=3, score="logit")
    assert not got.any()


def test_spans() -> None:
    assert spans(10, 4, 3, "shift").tolist() == [[0, 4], [3, 7], [6, 10]]
    assert spans(9, 4, 3, "shift").tolist() == [[0, 4], [3, 7], [5, 9]]
    assert spans(9, 4, 3, "truncate").tolist() == [[0, 4], [3, 7], [6, 9]]
    assert spans(4, 4, 3, "shift").tolist() == spans(4, 4, 3, "truncate").tolist() == [[0, 4]]


@pytest.mark.parametrize(
    ("method", "options", "words"),
    (
        (OCCLUSION_GRAPH, {"k": 10}, "k=10: the window is larger than the image, 9 x 10; give k up to 9"),
        (OCCLUSION_GRAPH, {"k": 3, "stride": 4}, "stride=4 is larger than k=3"),
        (OCCLUSION_GRAPH, {"k": 0}, "k=0"),
        (OCCLUSION_GRAPH, {"border": "pad"}, "border='pad' is not one of 'shift', 'truncate'"),
        (OCCLUSION_GRAPH, {"k": 3, "baseline": "mean"}, "'mean' is no baseline"),
        (RISE_GRAPH, {"grid": 10}, "grid=10 is larger than the image, 9 x 10"),
        (RISE_GRAPH, {"p": 1.0}, "p=1.0 keeps everything"),
        (RISE_GRAPH, {"p": 0.0}, "p=0.0"),
        (RISE_GRAPH, {"n": 0}, "n=0"),
    ),
)
def test_bad_options(method: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError) as error:
        compile_model(linear_model(), method, Request(options=options))
    assert words in str(error.value)


@pytest.mark.parametrize("side", (1 << 15, 1 << 20, 1 << 27))
@pytest.mark.parametrize(
    ("method", "options"),
    (
        (OCCLUSION_GRAPH, {"k": 1, "stride": 1}),
        (OCCLUSION_GRAPH, {"k": 1, "stride": 1, "border": "truncate"}),
        (RISE_GRAPH, {"n": 10, "grid": 1024}),
        (RISE_GRAPH, {"n": 100_000, "grid": 1024}),
    ),
)
def test_masks_of_a_huge_picture_are_not_made(side: int, method: Any, options: dict[str, Any]) -> None:
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["out"]),
    ]
    model = model_of(nodes, {"x": [1, 3, side, side]}, {"out": [1, 3]})
    tracemalloc.start()
    try:
        with pytest.raises(
            OptionError, match=rf"masks of \d+ bytes, over the limit .* image of {side} x {side}"
        ):
            compile_model(model, method, Request(options=options))
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < 1 << 24


def test_inputs_that_are_no_pictures() -> None:
    with pytest.raises(OptionError, match="a picture is needed"):
        compile_model(GOLDEN / "mlp_bias.onnx", OCCLUSION_GRAPH, Request())
    free = linear_model()
    for dim in free.graph.input[0].type.tensor_type.shape.dim[2:]:
        dim.dim_param = "free"
    for method in (OCCLUSION_GRAPH, RISE_GRAPH):
        with pytest.raises(OptionError, match="fix height and width with shapes="):
            compile_model(free, method, Request())
