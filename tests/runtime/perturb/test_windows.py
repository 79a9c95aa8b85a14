"""Windows that are no squares: against the formula, against the graphs that hold the same windows, and in commands."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

import onnxplain
from onnxplain import OptionError
from onnxplain.rules.checks import sides
from onnxplain.runtime.cli.options import settings_of
from onnxplain.runtime.perturb.gaussian import Gaussian
from onnxplain.runtime.perturb.occlusion import OCCLUSION, OcclusionSettings, tiling
from onnxplain.runtime.perturb.probing import Asked, Prober
from onnxplain.runtime.perturb.technique import perform
from tests.runtime.perturb.masking import IMAGE, SIZE, close, golden, linear, linear_model, stored, weights

RECT = ((4, 1), (1, 3), (2, 5))


@pytest.mark.parametrize("k", RECT)
@pytest.mark.parametrize("reduce", ("sum", "mean"))
def test_a_linear_model_window_by_window(k: tuple[int, int], reduce: str) -> None:
    stride = tuple(max(1, n - 1) for n in k)
    drop = (weights(1) * IMAGE[0]).sum(0)
    known, covers = np.zeros(SIZE[1:]), np.zeros(SIZE[1:])
    starts = (range(0, SIZE[i + 1] - k[i] + stride[i], stride[i]) for i in (0, 1))
    for r, c in itertools.product(*starts):
        r, c = min(r, SIZE[1] - k[0]), min(c, SIZE[2] - k[1])
        window = np.s_[r : r + k[0], c : c + k[1]]
        known[window] += drop[window].sum()
        covers[window] += 1
    found = perform(linear(), OCCLUSION, [1], k=k, stride=stride, reduce=reduce)
    close(found.maps[0], known if reduce == "sum" else known / covers)
    assert found.record["settings"]["k"] == list(k)


@pytest.mark.parametrize("k", RECT)
@pytest.mark.parametrize("name", ("cnn_bias", "cnn_odd"))
def test_only_what_a_window_reaches_is_the_same_as_whole_copies(name: str, k: tuple[int, int]) -> None:
    known = golden(name)
    maps = [
        perform(Prober(known.source, known.image, Asked(engine=engine)), OCCLUSION, [0], k=k, stride=1).maps
        for engine in ("full", "incremental")
    ]
    close(maps[1], maps[0], 1e-5)


@pytest.mark.parametrize("k", RECT)
def test_the_graph_takes_the_same_windows(k: tuple[int, int]) -> None:
    x = stored("cnn_odd")["x"].astype(np.float32)
    known = perform(golden("cnn_odd", score="logit"), OCCLUSION, [1], k=k).maps[0]
    found = onnxplain.compile(golden("cnn_odd").source, "occlusion.graph", k=k, score="logit")(x, target=1)
    for plane in found.attribution[0]:
        close(plane, known, 1e-4)


@pytest.mark.parametrize("k", ((2, 1), (1, 3), (3, 2)))
def test_prediction_differences_of_a_linear_model_are_first_order(k: tuple[int, int]) -> None:
    """Algorithm 2 and Algorithm 3 agree where the score is linear, with a Gaussian and with a plain fill."""
    rng, side, channels = np.random.default_rng(3), 4, SIZE[0]
    a = rng.normal(size=(channels, side**2, 2 * side**2))
    of = Gaussian(rng.normal(size=(channels, side**2)), a @ a.transpose(0, 2, 1), side)
    common: dict[str, Any] = {"k": k, "l": side, "gaussian": of}
    known = onnxplain.perturb(
        linear_model(), IMAGE, "pda.mean", target=1, score="logit", odds="difference", **common
    )
    found = onnxplain.compile(linear_model(), "pda.gradient", score="logit", **common)(IMAGE, target=1)
    close(found.attribution[0].sum(0), known.maps[0], 1e-3)
    flat = onnxplain.compile(linear_model(), "pda.gradient", score="logit", k=k)(IMAGE, target=1)
    zeros = onnxplain.perturb(
        linear_model(), IMAGE, "pda.mean", target=1, score="logit", odds="difference", k=k,
        variant="marginal", images=np.zeros_like(IMAGE),
    )  # fmt: skip
    close(flat.attribution[0].sum(0), zeros.maps[0], 1e-4)


def test_sampled_fills_have_the_shape_of_the_window() -> None:
    images = np.random.default_rng(1).normal(size=(5, *SIZE)).astype(np.float32)
    found = onnxplain.perturb(
        linear_model(), IMAGE, "pda.sampling", target=0, score="logit", odds="difference", k=(3, 1),
        stride=(3, 1), variant="marginal", images=images, samples=5, pick="first",
    )  # fmt: skip
    drop = (weights(0) * (IMAGE[0] - images.mean(0))).sum(0)
    rows = [*range(0, SIZE[1] - 3, 3), SIZE[1] - 3]
    total, counts = np.zeros(SIZE[1:]), np.zeros(SIZE[1:])
    for r in rows:
        total[r : r + 3] += drop[r : r + 3].sum(0)
        counts[r : r + 3] += 1
    close(found.maps[0], total / counts, 1e-4)


def test_a_budget_makes_the_stride_coarser_along_both_axes() -> None:
    found = onnxplain.perturb(
        linear_model(), IMAGE, "occlusion", k=(4, 1), stride=1, budget=3 * SIZE[2], fit_budget=True
    )
    assert found.record["settings"]["stride"][1] == 1 and 1 < found.record["settings"]["stride"][0]
    assert (found.maps[0] != 0).any()


def test_words() -> None:
    assert settings_of(["k=4,1", "stride=[2, 1]"]) == {"k": "4,1", "stride": [2, 1]}
    check = sides(1, 9)
    assert [check("k", v) for v in ("4,1", [4, 1], (4, 1), np.array([4, 1]), 3, "3", np.int64(3))] == [
        (4, 1), (4, 1), (4, 1), (4, 1), 3, 3, 3,
    ]  # fmt: skip
    for bad in ("4,x", (4,), (1, 2, 3), (0, 1), (4.0, 1), "4,,1", True, None, (1, 10)):
        with pytest.raises(OptionError, match=r"^k="):
            check("k", bad)


def test_refusals() -> None:
    with pytest.raises(OptionError, match=r"stride=2 is larger than k=4,1"):
        OcclusionSettings(k=(4, 1), stride=2)
    with pytest.raises(
        OptionError, match=r"k=9,1: the window is larger than the image, 8 x 9; give k up to 8,9"
    ):
        tiling((8, 9), OcclusionSettings(k=(9, 1)))
    with pytest.raises(OptionError, match=r"occlusion.graph: k=99,1"):
        onnxplain.compile(linear_model(), "occlusion.graph", k=(99, 1))
