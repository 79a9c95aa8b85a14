"""Algorithm 3 as one graph: against stored maps, against windows one by one, and where it is known in closed form."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import helper

import onnxplain
from onnxplain import OptionError
from onnxplain.rules.difference import Patches, deviations, patches
from onnxplain.runtime.perturb.probing import Asked, Prober
from tests.runtime.small import model_of

Array = npt.NDArray[Any]
GOLDEN = Path(__file__).parents[1] / "data" / "golden"
GIVEN = 1e-4
"""Of the largest element, as agreed for stored maps; measured 1e-7 to 1e-6."""
CLOSE = 2e-5
"""Of the largest element: float32 convolutions of some hundred terms that cancel."""


@dataclass(frozen=True)
class Model:
    """What `gaussian=` takes: `l` stands for `patch` here."""

    mu: Array
    cov: Array
    l: int  # noqa: E741


def random_gaussian(groups: int, size: int, side: int, seed: int = 0) -> Model:
    """Smooth covariances: random factors over a decaying distance."""
    rng = np.random.default_rng(seed)
    a = rng.normal(size=(groups, size, 2 * size))
    return Model(rng.normal(size=(groups, size)), a @ a.transpose(0, 2, 1) / (2 * size), side)


def linear(shape: tuple[int, ...], seed: int = 1) -> tuple[onnx.ModelProto, Array]:
    """y = flatten(x) w, two scores; w as a picture of each."""
    w = np.random.default_rng(seed).normal(size=(int(np.prod(shape)), 2)).astype(np.float32)
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"], axis=1),
        helper.make_node("MatMul", ["flat", "w"], ["y"]),
    ]
    return model_of(nodes, {"x": ["N", *shape]}, {"y": ["N", 2]}, {"w": w}), w.T.reshape(2, *shape)


def conditional_mean(of: Model, planes: Array, at: tuple[int, int], k: int) -> Array:
    """Of the window at row, column: (C, k, k), from the definition, in float64."""
    side = of.l
    corner = [
        int(np.clip(i - (side - k) // 2, 0, n - side)) for i, n in zip(at, planes.shape[1:], strict=True)
    ]
    patch = planes[:, corner[0] : corner[0] + side, corner[1] : corner[1] + side].astype(np.float64)
    inside = np.zeros(patch.shape, bool)
    r, c = at[0] - corner[0], at[1] - corner[1]
    inside[:, r : r + k, c : c + k] = True
    flat, inside = patch.reshape(of.mu.shape), inside.reshape(of.mu.shape)
    means = []
    for x, mask, mu, cov in zip(flat, inside, of.mu, of.cov, strict=True):
        a, b = np.flatnonzero(mask), np.flatnonzero(~mask)
        means.append(mu[a] + cov[np.ix_(a, b)] @ np.linalg.solve(cov[np.ix_(b, b)], x[b] - mu[b]))
    return np.concatenate(means).reshape(-1, k, k)


def algorithm_2(model: onnx.ModelProto, x: Array, fills: Array, k: int, c: int) -> Array:
    """(H, W): the mean over windows of what a score falls by when the window is filled; without odds."""
    prober = Prober(model, x, Asked(score="output", engine="full", threads=1))
    height, width = prober.size
    places = np.array(list(itertools.product(range(height - k + 1), range(width - k + 1))))
    scores = prober.windows(places, (k, k), lambda index: fills[index].astype(np.float32), [c])[:, 0]
    total, count = np.zeros((height, width)), np.zeros((height, width))
    for (i, j), score in zip(places, scores, strict=True):
        total[i : i + k, j : j + k] += float(prober.base[c]) - float(score)
        count[i : i + k, j : j + k] += 1
    return total / count


def error(got: Array, want: Array) -> float:
    return float(np.abs(got - want).max() / np.abs(want).max())


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("name", ["cnn_bias", "overlap_pool"])
def test_golden(name: str, rows: int) -> None:
    with np.load(GOLDEN / f"perturb_{name}.npz") as data:
        stored = {key: data[key] for key in data.files}
    of = Model(stored["pda_mu"], stored["pda_cov"], 5)
    made = onnxplain.compile(GOLDEN / f"{name}.onnx", "pda.gradient", k=3, l=5, gaussian=of)
    x = np.concatenate([stored["x"], *[stored["x_ref"]] * (rows - 1)])
    found = made(x, target=int(stored["class"])).attribution
    assert found.shape == x.shape
    assert error(found[0].sum(axis=0), stored["pda_alg3"]) < GIVEN


@pytest.mark.parametrize(
    ("shape", "k", "side", "joint"),
    [
        ((2, 8, 9), 3, 5, False),
        ((2, 8, 9), 2, 5, False),
        ((1, 7, 6), 1, 4, False),
        ((2, 6, 8), 2, 6, False),  # patches as high as the picture
        ((1, 5, 5), 2, 5, False),
        ((3, 6, 7), 3, 3, False),  # no surroundings: the mean itself
        ((2, 6, 7), 2, 4, True),
        ((3, 5, 6), 4, 5, True),
    ],
)
def test_it_is_algorithm_2_without_odds_where_the_score_is_linear(
    shape: tuple[int, int, int], k: int, side: int, joint: bool
) -> None:
    model, _ = linear(shape)
    c, high, wide = shape
    of = random_gaussian(1, c * side * side, side) if joint else random_gaussian(c, side * side, side)
    x = np.random.default_rng(5).normal(size=(1, *shape)).astype(np.float32)
    places = itertools.product(range(high - k + 1), range(wide - k + 1))
    fills = np.stack([conditional_mean(of, x[0], place, k) for place in places])
    made = onnxplain.compile(model, "pda.gradient", k=k, gaussian=of, score="logit")
    found = made(x, target=1).attribution
    assert error(found[0].sum(axis=0), algorithm_2(model, x, fills, k, 1)) < CLOSE


def test_channels_last() -> None:
    model, w = linear((6, 7, 3))
    of = random_gaussian(3, 16, 4)
    x = np.random.default_rng(6).normal(size=(2, 6, 7, 3)).astype(np.float32)
    about = {
        "layout": "NHWC",
        "color": "RGB",
        "size": [6, 7],
        "resize": "stretch",
        "mean": [0.0] * 3,
        "std": [1.0] * 3,
    }
    last = onnxplain.compile(model, "pda.gradient", k=2, gaussian=of, score="logit", preprocessing=about)
    flat = w.transpose(0, 3, 1, 2).reshape(2, -1).T.astype(np.float32)
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"], axis=1),
        helper.make_node("MatMul", ["flat", "w"], ["y"]),
    ]
    first = model_of(nodes, {"x": ["N", 3, 6, 7]}, {"y": ["N", 2]}, {"w": np.ascontiguousarray(flat)})
    turned = onnxplain.compile(first, "pda.gradient", k=2, gaussian=of, score="logit")
    expected = turned(x.transpose(0, 3, 1, 2), target=0).attribution.transpose(0, 2, 3, 1)
    assert error(last(x, target=0).attribution, expected) < 1e-6


def test_nothing_is_left_of_what_the_surroundings_tell() -> None:
    """Patches of one grey value each, of any mean and size: any window is what lies around it."""
    model, _ = linear((1, 8, 8))
    of = Model(np.zeros((1, 16)), np.ones((1, 16, 16)) + 1e-7 * np.eye(16)[None], 4)
    x = np.full((1, 1, 8, 8), 3.0, np.float32)
    flat = onnxplain.compile(model, "pda.gradient", k=2, gaussian=of, score="logit")(x, target=0).attribution
    plain = onnxplain.compile(model, "pda.gradient", k=2, score="logit")(x, target=0).attribution
    assert np.abs(flat).max() < 1e-5 * np.abs(plain).max()


def test_one_window_over_all_is_input_times_gradient_summed() -> None:
    model, w = linear((2, 4, 4))
    x = np.random.default_rng(7).normal(size=(1, 2, 4, 4)).astype(np.float32)
    found = onnxplain.compile(model, "pda.gradient", k=4, score="logit")(x, target=0).attribution[0]
    for channel in range(2):
        assert found[channel] == pytest.approx(
            np.full((4, 4), (x[0, channel] * w[0, channel]).sum()), rel=1e-5
        )


@pytest.mark.parametrize("baseline", ["zeros", 0.5, "input"])
def test_windows_of_one_pixel_with_a_baseline(baseline: Any) -> None:
    """(x - x') ∂p/∂x, the weighting of the paper's Table 2."""
    model, w = linear((2, 3, 4))
    x = np.random.default_rng(8).normal(size=(2, 2, 3, 4)).astype(np.float32)
    fed = {"baseline": np.full((1, 2, 3, 4), 2.0)} if baseline == "input" else {}
    base = {"zeros": 0.0, "input": 2.0, 0.5: 0.5}[baseline]
    made = onnxplain.compile(model, "pda.gradient", k=1, baseline=baseline, score="logit")
    assert made(x, target=1, **fed).attribution == pytest.approx(w[1] * (x - base), abs=1e-5)


def test_several_classes_and_cotangents() -> None:
    with np.load(GOLDEN / "perturb_cnn_bias.npz") as data:
        x, mu, cov = data["x"].astype(np.float32), data["pda_mu"], data["pda_cov"]
    net, of = GOLDEN / "cnn_bias.onnx", Model(mu, cov, 5)
    one = onnxplain.compile(net, "pda.gradient", k=3, gaussian=of)
    rows = onnxplain.compile(net, "pda.gradient", k=3, gaussian=of, target=[2, 0])(x).attribution
    fed = onnxplain.compile(net, "pda.gradient", k=3, gaussian=of, target="cotangent")
    hot = np.eye(3, dtype=np.float32)[[2, 0]]
    for found in (rows, fed(x, cotangent=hot).attribution):
        for row, c in zip(found, (2, 0), strict=True):
            assert error(row, one(x, target=c).attribution[0]) < CLOSE


def test_of_doubles() -> None:
    """Their windows are summed in float32: onnxruntime convolves no doubles."""
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"], axis=1),
        helper.make_node("MatMul", ["flat", "w"], ["y"]),
    ]
    w = np.random.default_rng(9).normal(size=(12, 2))
    model = model_of(nodes, {"x": ["N", 1, 3, 4]}, {"y": ["N", 2]}, {"w": w}, np.float64)
    x = np.random.default_rng(10).normal(size=(1, 1, 3, 4))
    found = onnxplain.compile(model, "pda.gradient", k=1, score="logit")(x, target=0).attribution
    assert found.dtype == np.float64
    assert error(found, x * w[:, 0].reshape(1, 1, 3, 4)) < 1e-6


def test_the_filters_of_a_window() -> None:
    """A window alone: x itself less the slope's share of the others; all of the mean in the bias."""
    mu, sigma = np.array([[1.0, 2.0, 3.0, 4.0]]), np.eye(4)[None] + 0.5
    weight, bias = deviations(Patches(mu, sigma, 2), 1, [(0, 1)])
    slope = 0.5 / 1.5 * np.ones(3) / (1 + 2 * 0.5 / 1.5)
    assert weight.ravel() == pytest.approx([-slope[0], 1.0, -slope[1], -slope[2]])
    assert bias.ravel() == pytest.approx([-2.0 + slope @ [1.0, 3.0, 4.0]])


def test_the_card_keeps_the_hash_of_the_gaussian() -> None:
    of = random_gaussian(1, 9, 3)
    card = onnxplain.compile(linear((1, 5, 5))[0], "pda.gradient", k=2, gaussian=of).card
    record = card.options["gaussian"]
    assert record["patch"] == 3 and record["mu"] == [1, 9] and len(record["sha256"]) == 64
    other = onnxplain.compile(
        linear((1, 5, 5))[0], "pda.gradient", k=2, gaussian=random_gaussian(1, 9, 3, 1)
    ).card
    assert other.options["gaussian"]["sha256"] != record["sha256"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 6}, "a window of k=6 does not fit the picture, 5 x 7; give a smaller k"),
        ({"k": 0}, "k=0 is not a whole number from 1"),
        ({"k": 2, "l": 4}, "l=4 is the side of a Gaussian's patches; give gaussian= too"),
        (
            {"k": 2, "l": 4, "gaussian": random_gaussian(2, 9, 3)},
            "l=4, but the Gaussian has patches of side 3",
        ),
        (
            {"k": 4, "gaussian": random_gaussian(2, 9, 3)},
            "the side of the Gaussian's patches, 3, is less than k=4",
        ),
        ({"k": 2, "gaussian": random_gaussian(2, 36, 6)}, "patches, 6, does not fit the picture, 5 x 7"),
        ({"k": 2, "gaussian": random_gaussian(3, 9, 3)}, "the Gaussian has 3 channels, the picture 2"),
        ({"k": 2, "gaussian": "g.npz.missing"}, "g.npz.missing"),
        ({"k": 2, "gaussian": 3}, "a Gaussian of patches is needed, not int"),
        (
            {"k": 2, "gaussian": Model(np.zeros((2, 9)), np.zeros((2, 9, 9)), 3)},
            "covariance is singular; add a ridge",
        ),
        ({"score": "odds"}, "score='odds' is not one of 'probability', 'logit'"),
    ],
)
def test_what_does_not_fit(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message.replace("(", r"\(")):
        onnxplain.compile(linear((2, 5, 7))[0], "pda.gradient", **options)


@pytest.mark.parametrize(
    "given",
    [
        Model(np.zeros((2, 8)), np.zeros((2, 8, 8)), 3),
        Model(np.zeros((2, 9)), np.zeros((2, 9, 8)), 3),
        Model(np.zeros((2, 18)), np.zeros((2, 18, 18)), 3),
        Model(np.zeros(9), np.zeros((9, 9)), 3),
    ],
)
def test_arrays_of_other_sizes(given: Model) -> None:
    with pytest.raises(OptionError, match="are not those of 3 x 3 patches"):
        patches("gaussian", given)
    with pytest.raises(OptionError, match="NaN or infinity"):
        patches("gaussian", Model(np.full((1, 9), np.nan), np.eye(9)[None], 3))
    with pytest.raises(OptionError, match="side 0"):
        patches("gaussian", Model(np.zeros((1, 9)), np.eye(9)[None], 0))


def test_what_is_no_picture_of_a_known_size() -> None:
    free = model_of(
        [
            helper.make_node("GlobalAveragePool", ["x"], ["p"]),
            helper.make_node("Flatten", ["p"], ["y"], axis=1),
        ],
        {"x": ["N", 2, "H", "W"]},
        {"y": ["N", 2]},
    )
    with pytest.raises(OptionError, match="fix channels, height and width with shapes="):
        onnxplain.compile(free, "pda.gradient")
    found = onnxplain.compile(free, "pda.gradient", k=2, shapes={"x": ["N", 2, 5, 6]})
    assert found(np.ones((1, 2, 5, 6))).attribution.shape == (1, 2, 5, 6)
    with pytest.raises(OptionError, match=r"windows need a picture, not an input of shape \['N', 6\]"):
        onnxplain.compile(GOLDEN / "mlp_bias.onnx", "pda.gradient")
