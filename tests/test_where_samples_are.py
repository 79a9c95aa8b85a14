"""Heads whose samples lie along any axis, or along none: a batch of three equals three single runs, and the derivative
is that of the element of one sample that was asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

import onnxplain
from onnxplain.rewriter.errors import TargetError
from onnxplain.runtime.explainer import Explainer
from tests.rewriter.nets import run
from tests.runtime.small import model_of

pytestmark = pytest.mark.filterwarnings("default::onnxplain.ExplainWarning")
"""Some of these maps are zero, and rightly so."""

ROUNDING = 1e-5
"""Of the largest value: the same sums of float32, of other widths."""
SLOPE = 2e-2
"""Of a difference quotient with steps of 1e-3 in float32."""

Made = tuple[onnx.ModelProto, tuple[int, ...], Callable[[np.ndarray], np.ndarray]]
"""A model, the shape of a sample, and y sample by sample: (N, elements)."""


def floats(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def node(op: str, inputs: str, output: str, **attrs: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), [output], **attrs)


def made(
    nodes: list[onnx.NodeProto], sample: tuple[int, ...], y: list[Any], axis: int, **weights: Any
) -> Made:
    arrays = {key: np.asarray(value) for key, value in weights.items()}
    model = model_of(nodes, {"x": ["N", *sample]}, {"y": y}, arrays)

    def samples(x: np.ndarray) -> np.ndarray:
        """One run a sample: nothing is assumed of where samples are."""
        return np.concatenate([run(model, {"x": row[None]})["y"].reshape(1, -1) for row in x])

    return model, sample, samples


def time_major() -> Made:
    """Picture, convolution, columns as steps: y (steps, N, classes)."""
    nodes = [
        node("Conv", "x k", "c", pads=[1] * 4),
        node("Relu", "c", "r"),
        node("ReduceMean", "r rows", "m", keepdims=0),
        node("Transpose", "m", "t", perm=[2, 0, 1]),
        node("MatMul", "t w", "z"),
        node("Tanh", "z", "h"),
        node("MatMul", "h v", "y"),
    ]
    weights = {"k": floats(4, 2, 3, 3), "rows": [2], "w": floats(4, 5), "v": floats(5, 3)}
    return made(nodes, (2, 8, 7), [7, "N", 3], 1, **weights)


def reshaped() -> Made:
    """Reshapes of a time-major tensor keep its axis of samples."""
    nodes = [
        node("Transpose", "x", "t", perm=[1, 0, 2]),
        node("Reshape", "t a", "u"),
        node("MatMul", "u w", "z"),
        node("Relu", "z", "r"),
        node("Reshape", "r b", "y"),
    ]
    return made(nodes, (4, 6), [4, "N", 4], 1, a=[4, -1, 2, 3], w=floats(3, 2), b=[4, -1, 4])


def last() -> Made:
    """Samples along the last axis."""
    nodes = [node("Relu", "x", "r"), node("MatMul", "r w", "z"), node("Transpose", "z", "y", perm=[2, 1, 0])]
    return made(nodes, (4, 6), [3, 4, "N"], 2, w=floats(6, 3))


def folded() -> Made:
    """Steps in one axis with the samples, samples first: (N steps, classes)."""
    nodes = [
        node("Reshape", "x a", "u"),
        node("MatMul", "u w", "z"),
        node("Tanh", "z", "h"),
        node("MatMul", "h v", "y"),
    ]
    return made(nodes, (4, 6), ["M", 3], 0, a=[-1, 6], w=floats(6, 5), v=floats(5, 3))


def folded_steps_first() -> Made:
    """The same, steps first."""
    nodes = [
        node("Transpose", "x", "t", perm=[1, 0, 2]),
        node("Reshape", "t a", "u"),
        node("MatMul", "u w", "z"),
    ]
    nodes += [node("Tanh", "z", "h"), node("MatMul", "h v", "y")]
    return made(nodes, (4, 6), ["M", 3], 0, a=[-1, 6], w=floats(6, 5), v=floats(5, 3))


def stacked() -> Made:
    """Steps joined along axis 0, which is not where the samples are."""
    nodes = []
    for i in range(3):
        nodes += [
            node("Slice", f"x b{i} b{i + 1} one", f"s{i}"),
            node("Transpose", f"s{i}", f"t{i}", perm=[1, 0, 2]),
        ]
    nodes += [node("Concat", "t0 t1 t2", "t", axis=0), node("MatMul", "t w", "z"), node("Sigmoid", "z", "q")]
    nodes += [node("MatMul", "q v", "y")]
    weights = {f"b{i}": [i] for i in range(4)} | {"one": [1], "w": floats(6, 3), "v": floats(3, 3)}
    return made(nodes, (3, 6), [3, "N", 3], 1, **weights)


def doubled() -> Made:
    """Two views of all samples end to end, and apart again: Concat and Split along the axis of the samples."""
    nodes = [
        node("Neg", "x", "n"),
        node("Concat", "x n", "b", axis=0),
        node("MatMul", "b w", "z"),
        node("Tanh", "z", "h"),
        node("Reshape", "h a", "u"),
        node("Transpose", "u", "t", perm=[1, 0, 2]),
        node("Flatten", "t", "f"),
        node("MatMul", "f v", "y"),
    ]
    return made(nodes, (6,), ["N", 3], 0, a=[2, -1, 5], w=floats(6, 5), v=floats(10, 3))


NETS = [time_major, reshaped, last, folded, folded_steps_first, stacked, doubled]
METHODS = [
    "saliency",
    "integrated-gradients",
    "smoothgrad",
    "lrp.epsilon",
    "deeplift.rescale",
    "linearscope.rows",
    "linearscope.contributions",
]


def close(found: np.ndarray, want: np.ndarray, tolerance: float = ROUNDING) -> None:
    assert found.shape == want.shape
    assert np.abs(want).max() > 0, "nothing to compare with"
    assert np.abs(found - want).max() <= tolerance * np.abs(want).max()


def maps(result: onnxplain.Result) -> np.ndarray:
    return next(iter({**result.attributions, **result.results}.values()))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("net", NETS, ids=lambda net: net.__name__)
def test_a_batch_of_three_equals_three_single_runs(net: Callable[[], Made], method: str) -> None:
    model, sample, _ = net()
    explainer = onnxplain.compile(model, method)
    x, classes = floats(3, *sample), [1, 2, 0]
    whole = maps(explainer(x, target=classes))
    singles = [maps(explainer(x[i : i + 1], target=c)) for i, c in enumerate(classes)]
    close(whole, np.concatenate(singles))


@pytest.mark.parametrize("method", ["grad-cam", "occlusion.graph"])
def test_maps_of_pictures_too(method: str) -> None:
    model, sample, _ = time_major()
    options: dict[str, Any] = {} if method == "grad-cam" else {"k": 3, "score": "logit"}
    explainer = onnxplain.compile(model, method, **options)
    x, classes = floats(3, *sample), [1, 8, 20]
    whole = explainer(x, target=classes).attribution
    singles = [explainer(x[i : i + 1], target=c).attribution for i, c in enumerate(classes)]
    close(whole, np.concatenate(singles))


@pytest.mark.parametrize("net", NETS, ids=lambda net: net.__name__)
def test_the_class_counts_through_one_sample(net: Callable[[], Made]) -> None:
    """Of every element of a sample, row-major; and the top one."""
    model, sample, y = net()
    explainer = onnxplain.compile(model, "saliency")
    x, step = floats(2, *sample), 1e-3 * floats(2, *sample, seed=1)
    size = y(x).shape[1]
    assert explainer.card.target["size"] == size
    slopes = (y(x + step) - y(x - step)) / 2
    for c in (0, size // 2, size - 1):
        found = explainer(x, target=c).attribution
        got = (found * step).reshape(2, -1).sum(1)
        assert np.abs(got - slopes[:, c]).max() <= SLOPE * np.abs(slopes).max()
    top = y(x).argmax(1)
    np.testing.assert_array_equal(explainer(x).attribution, explainer(x, target=top).attribution)
    with pytest.raises(TargetError, match="out of range"):
        explainer(x, target=size)
    for fixed in ("top", int(top[0])):
        alone = onnxplain.compile(model, "saliency", target=fixed)(x[:1]).attribution
        np.testing.assert_array_equal(alone, explainer(x[:1]).attribution)


@pytest.mark.parametrize("net", [time_major, reshaped, last, stacked], ids=lambda net: net.__name__)
def test_cotangents_have_the_shape_of_the_head(net: Callable[[], Made]) -> None:
    """One a sample, and several of one sample: rows lie where the samples do."""
    model, sample, _ = net()
    explainer = onnxplain.compile(model, "saliency", target="cotangent")
    axis = (explainer.card.target.get("rows") or {"axis": 0})["axis"]
    x = floats(3, *sample)
    one = run(model, {"x": x[:1]})["y"].shape
    rows = [floats(*one, seed=i) for i in range(3)]
    joint = np.concatenate(rows, axis)
    close(
        explainer(x, cotangent=joint).attribution,
        np.concatenate([explainer(x[i : i + 1], cotangent=c).attribution for i, c in enumerate(rows)]),
    )
    close(
        explainer(x[:1], cotangent=joint).attribution,
        np.concatenate([explainer(x[:1], cotangent=c).attribution for c in rows]),
    )
    with pytest.raises(TargetError, match="2 cotangents for 3 samples"):
        explainer(x, cotangent=np.concatenate(rows[:2], axis))


def test_chunks_are_cut_where_the_samples_are() -> None:
    model, sample, _ = time_major()
    whole = onnxplain.compile(model, "saliency")
    x, plans = floats(6, *sample), set()
    for budget in range(10_000, 60_000, 5_000):
        small = Explainer(whole.model, whole.card, memory=budget)
        try:
            found = small(x, target=4)
        except onnxplain.OptionError:
            continue
        close(found.attribution, whole(x, target=4).attribution)
        close(found.outputs["y"], whole(x, target=4).outputs["y"])
        assert small.plan is not None
        plans.add(small.plan.chunks)
    assert max(plans) > 1


def test_the_certificate_of_a_time_major_head(tmp_path: Any) -> None:
    model, _, _ = time_major()
    onnxplain.compile(model, "lrp.epsilon").save(tmp_path / "e.onnx")
    report = onnxplain.verify(tmp_path / "e.onnx", threads=1)
    assert not [outcome for outcome in report.outcomes if "failed" in str(outcome.status)]


# ---- no axis --------------------------------------------------------------------------------------------------------


def boxes(rank: int, batch: Any) -> onnx.ModelProto:
    """One picture, five boxes by three classes, or the first one of them."""
    nodes = [node("MatMul", "x w", "h"), node("Tanh", "h", "q"), node("Reshape", "q s", "y")]
    shape = [5, 3] if rank == 2 else [15]
    return model_of(nodes, {"x": [batch, 4]}, {"y": shape}, {"w": floats(4, 15), "s": np.array(shape)})


@pytest.mark.parametrize("rank", [1, 2])
@pytest.mark.parametrize("method", ["saliency", "integrated-gradients", "deeplift.rescale", "lrp.epsilon"])
def test_a_head_without_an_axis_is_of_one_sample(rank: int, method: str) -> None:
    model = boxes(rank, 1)
    flat = [node("MatMul", "x w", "h"), node("Tanh", "h", "y")]
    plain = model_of(flat, {"x": [1, 4]}, {"y": [1, 15]}, {"w": floats(4, 15)})
    x = floats(1, 4)
    for target in (0, 7, 14, -1):
        want = onnxplain.compile(plain, method)(x, target=target).attribution
        close(onnxplain.compile(model, method)(x, target=target).attribution, want)


@pytest.mark.parametrize("method", ["saliency", "integrated-gradients", "deeplift.rescale", "lrp.epsilon"])
def test_an_input_without_an_axis_is_one_sample(method: str) -> None:
    """(3, 5, 5) through the net of (1, 3, 5, 5)."""
    tail = [
        node("Conv", "u k", "c"),
        node("Relu", "c", "r"),
        node("Flatten", "r", "f"),
        node("MatMul", "f w", "h"),
    ]
    weights = {"k": floats(2, 3, 3, 3), "w": floats(18, 4), "a": np.array([0])}
    bare = [node("Unsqueeze", "x a", "u"), *tail, node("Squeeze", "h a", "y")]
    model = model_of(bare, {"x": [3, 5, 5]}, {"y": [4]}, weights)
    plain = model_of([*tail, node("Identity", "h", "y")], {"u": [1, 3, 5, 5]}, {"y": [1, 4]}, weights)
    x = floats(3, 5, 5)
    explainer = onnxplain.compile(model, method)
    assert any("one sample" in str(note) for note in explainer.card.approximations)
    for target in (0, 3, -1):
        want = onnxplain.compile(plain, method)(x[None], target=target).attribution[0]
        close(explainer(x, target=target).attribution, want)
    top = onnxplain.compile(model, method, target="top")(x).attribution
    np.testing.assert_array_equal(top, explainer(x).attribution)
    cotangent = floats(4)
    found = onnxplain.compile(model, method, target="cotangent")(x, cotangent=cotangent).attribution
    close(
        found,
        onnxplain.compile(plain, method, target="cotangent")(x[None], cotangent=cotangent[None]).attribution[
            0
        ],
    )


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("smoothgrad", {}),
        ("grad-cam", {}),
        ("saliency", {"reduce": "sum"}),
        ("saliency", {"target": [0, 1]}),
        ("integrated-gradients", {"baseline": "input"}),
        ("fgsm", {}),
    ],
)
def test_what_needs_samples_refuses_an_input_without_them(method: str, options: Mapping[str, Any]) -> None:
    nodes = [node("Unsqueeze", "x a", "u"), node("Conv", "u k", "c"), node("Relu", "c", "r")]
    nodes += [node("ReduceMean", "r last", "y", keepdims=0)]
    weights = {"k": floats(4, 3, 3, 3), "a": np.array([0]), "last": np.array([0, 2, 3])}
    model = model_of(nodes, {"x": [3, 5, 5]}, {"y": [4]}, weights)
    with pytest.raises(TargetError, match="no batch axis"):
        onnxplain.compile(model, method, **options)


# ---- the batch of a file --------------------------------------------------------------------------------------------


def fixed(reshape: list[int]) -> onnx.ModelProto:
    nodes = [node("Reshape", "x s", "f"), node("MatMul", "f w", "y")]
    return model_of(nodes, {"x": [64, 1, 3, 3]}, {"y": [64, 3]}, {"s": np.array(reshape), "w": floats(9, 3)})


def test_a_batch_of_64_is_freed_as_asked() -> None:
    explainer = onnxplain.compile(fixed([64, 9]), "saliency", shapes={"x": ("N", 1, 3, 3)})
    x = floats(2, 1, 3, 3)
    np.testing.assert_array_equal(
        explainer(x, target=1).attribution.reshape(2, 9), np.stack([floats(9, 3)[:, 1]] * 2)
    )


def test_what_cannot_be_freed_is_said() -> None:
    nodes = [node("Add", "x c", "z"), node("Reshape", "z s", "f"), node("MatMul", "f w", "y")]
    weights = {"s": np.array([64, 9]), "w": floats(9, 3), "c": floats(64, 1, 3, 3)}
    model = model_of(nodes, {"x": [64, 1, 3, 3]}, {"y": [64, 3]}, weights)
    with pytest.raises(TargetError, match="the batch of 64 cannot be freed"):
        onnxplain.compile(model, "saliency", shapes={"x": ("N", 1, 3, 3)})


def test_a_file_that_takes_one_sample_says_so() -> None:
    model = model_of(
        [node("Reshape", "x s", "f"), node("MatMul", "f w", "y")],
        {"x": ["N", 1, 3, 3]},
        {"y": [1, 3]},
        {"s": np.array([1, 9]), "w": floats(9, 3)},
    )
    explainer = onnxplain.compile(model, "saliency")
    assert explainer(floats(1, 1, 3, 3), target=1).attribution.shape == (1, 1, 3, 3)
    with pytest.raises(TargetError, match="one sample at a time, not 2"):
        explainer(floats(2, 1, 3, 3), target=1)


# ---- classes that are none ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.array([2**64 - 1]), np.array([2**63], np.uint64), 2**70, -2, 3, [0, 5]])
def test_no_number_becomes_another_class(bad: Any) -> None:
    model = model_of([node("MatMul", "x w", "y")], {"x": ["N", 4]}, {"y": ["N", 3]}, {"w": floats(4, 3)})
    with pytest.raises(TargetError):
        onnxplain.compile(model, "saliency")(floats(2, 4), target=bad)


def test_the_file_itself_gives_nan_for_a_class_that_is_not_there() -> None:
    """Without this package: onnxruntime's OneHot alone would answer with zeros, as if nothing mattered."""
    model = model_of([node("MatMul", "x w", "y")], {"x": ["N", 4]}, {"y": ["N", 3]}, {"w": floats(4, 3)})
    emitted = onnxplain.compile(model, "saliency").model
    for bad in (3, -2, 10**9):
        classes = np.array([[1], [bad]])
        found = run(emitted, {"x": floats(2, 4), "target": classes})["attribution"]
        np.testing.assert_array_equal(found[0], floats(4, 3)[:, 1])
        assert np.isnan(found[1]).all()
