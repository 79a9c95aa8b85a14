"""Meaningful perturbation: golden slopes, what a descent keeps to, and what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper

from onnxplain import ImageError, OptionError, TargetError, models
from onnxplain.runtime.perturb.meaningful import (
    MEANINGFUL,
    MeaningfulSettings,
    Objective,
    delete,
    discs,
    moved,
)
from onnxplain.runtime.perturb.perturbing import perturb
from onnxplain.runtime.perturb.probing import Asked, Prober
from onnxplain.runtime.perturb.technique import perform
from tests.runtime.perturb.masking import (
    CONVOLUTIONAL,
    IMAGE,
    close,
    constant,
    golden,
    heard,
    linear,
    stored,
    weights,
)
from tests.runtime.small import WEIGHT, model_of, picture

SMALL: dict[str, Any] = {"cell": 2, "blur": 0.0, "value": 0.0, "jitter": 0, "iterations": 5, "discs": 3}


def digit() -> np.ndarray:
    """A white ring on black: what the digit net takes for an 8 or a 0."""
    away = np.hypot(*(np.indices((28, 28)) - 13.5))
    return np.asarray((away > 5) & (away < 9), np.float32)[None, None]


def lenet(**asked: Any) -> Prober:
    return Prober(models.path("mnist_lenet"), digit(), Asked(threads=1, **asked))


@pytest.mark.parametrize("net", CONVOLUTIONAL)
def test_the_golden_slopes(net: str) -> None:
    known = stored(net)
    mask = np.asarray(known["mask"][0, 0], np.float64)
    of = Objective(golden(net, "probability"), MeaningfulSettings(blur=0.0, start=mask.astype(np.float32)))
    of.null = known["mask_null"][0].astype(np.float32)
    loss, slope = of.slope(mask, int(known["y"].argmax()))
    close(loss, known["mask_loss"])
    close(slope, known["mask_grad"][0, 0])


def test_a_digit_goes_away() -> None:
    """The loss falls, and little of the image is enough: the score falls below a tenth."""
    prober = lenet()
    settings = MeaningfulSettings(iterations=80, cell=4, blur=1.0, value=0.0, jitter=2, discs=6, lambda1=3e-3)
    calls, tell = heard()
    found = perform(prober, MEANINGFUL, tell=tell, **{k: v for k, v in vars(settings).items()})
    record = found.record["found"]
    assert record["last_losses"][0] < 0.5 * record["first_losses"][0]
    assert record["scores_behind_masks"][0] < 0.1 * prober.base.max()
    assert found.maps.shape == (1, 28, 28) and 0 <= found.maps.min() and found.maps.max() <= 1
    assert found.maps.mean() < 0.6
    assert found.forwards == found.record["expected_forwards"] == 86 == len(calls)
    assert calls[-1] == (86, 86) and [done for done, _ in calls] == list(range(1, 87))
    behind = prober.masked(1 - found.maps, 1, np.zeros((1, 1, 1), np.float32), found.classes)
    np.testing.assert_allclose(behind[0], record["scores_behind_masks"], atol=1e-4)  # 1 - (1 - M) in float32


def test_the_same_again_and_another_seed() -> None:
    options = {**SMALL, "cell": 4, "jitter": 4}
    first, again, other = (
        perturb(models.path("mnist_lenet"), digit(), MEANINGFUL, threads=1, seed=seed, **options).maps
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3


def test_each_class_by_itself() -> None:
    """Two classes are two runs; the first mask is the one of the class."""
    prober = golden("cnn_bias", "probability")
    both = perform(prober, MEANINGFUL, classes=[0, 2], **SMALL)
    ones = [perform(prober, MEANINGFUL, classes=[c], **SMALL) for c in (0, 2)]
    np.testing.assert_array_equal(both.maps, np.concatenate([one.maps for one in ones]))
    assert both.forwards == 16 and [one.forwards for one in ones] == [8, 8]


def test_a_constant_score_keeps_the_whole_image() -> None:
    """Only the penalty is left: the mask goes to 1."""
    prober = constant()
    found = delete(Objective(prober, MeaningfulSettings(**{**SMALL, "iterations": 80})), 0)
    assert found.disc is None and found.losses[0] > found.losses[-1]
    np.testing.assert_allclose(found.mask, 1, atol=1e-3)
    np.testing.assert_allclose(found.deleted, 0, atol=1e-3)
    np.testing.assert_allclose(found.score, 0.7, rtol=1e-6)


def test_a_mask_of_ones_begins_with_the_whole_score() -> None:
    prober = golden("resnet", "probability")
    start = np.ones((4, 4), np.float32)
    found = delete(
        Objective(prober, MeaningfulSettings(**{**SMALL, "start": start, "iterations": 1})), prober.top
    )
    np.testing.assert_allclose(found.losses[0], prober.base.max(), rtol=1e-5)
    assert prober.forwards == 1


def test_a_linear_score_deletes_what_speaks_for_it() -> None:
    """loss = Σ w x m without penalty: Adam moves a cell by its rate against the sign of its sum of w x, to an end."""
    prober = linear()
    settings = MeaningfulSettings(
        **{**SMALL, "cell": 1, "lambda1": 0.0, "lambda2": 0.0, "iterations": 8, "discs": 0}
    )
    found = delete(Objective(prober, settings), 0)
    share = (prober.planes * weights(0)).sum(0)
    np.testing.assert_array_equal(found.mask, np.where(share > 0, 0.0, 1.0))
    assert np.abs(share).min() > 1e-4  # no cell without a sign
    np.testing.assert_allclose(found.score, np.minimum(share, 0).sum(), rtol=1e-5)


@pytest.mark.parametrize("score", ("probability", "logit", "output"))
def test_scores_are_those_of_the_prober(score: str) -> None:
    prober = Prober(picture(squash="Softmax"), np.random.default_rng(1).normal(size=(1, 2, 3, 4)).astype(np.float32),
                    Asked(score=score, threads=1))  # fmt: skip
    of = Objective(prober, MeaningfulSettings(**SMALL))
    for c in range(5):
        np.testing.assert_allclose(of.look(np.ones(of.cells), c)[0], prober.base[c], rtol=1e-5)


def test_a_hidden_unit() -> None:
    x = np.random.default_rng(1).normal(size=(1, 2, 3, 4)).astype(np.float32)
    prober = Prober(picture(), x, Asked(score="flat", threads=1))
    of = Objective(prober, MeaningfulSettings(**SMALL))
    score, _ = of.look(np.ones(of.cells), 7)
    np.testing.assert_allclose(score, x.ravel()[7], rtol=1e-5)
    _, slope = of.slope(np.full(of.cells, 0.5), 7)
    assert np.count_nonzero(np.abs(slope) > 1e-3) <= 4  # the cells that touch its pixel, and no other


def test_a_fixed_batch_and_channels_last() -> None:
    x = np.random.default_rng(1).normal(size=(1, 2, 3, 4)).astype(np.float32)
    known = delete(Objective(Prober(picture(), x, Asked(threads=1)), MeaningfulSettings(**SMALL)), 2)
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[0, 3, 1, 2]),
        helper.make_node("Flatten", ["t"], ["flat"], axis=1),
        helper.make_node("MatMul", ["flat", "weight"], ["scores"]),
    ]
    last = model_of(nodes, {"x": [2, 3, 4, 2]}, {"scores": [2, 5]}, {"weight": WEIGHT.astype(np.float32)})
    asked = Asked(threads=1, preprocessing={"layout": "NHWC"})
    found = delete(Objective(Prober(last, np.moveaxis(x, 1, 3), asked), MeaningfulSettings(**SMALL)), 2)
    assert found.disc == known.disc
    np.testing.assert_allclose(found.losses, known.losses, rtol=1e-4)
    np.testing.assert_allclose(found.deleted, known.deleted, atol=1e-3)


def test_discs_grow_until_nothing_is_kept() -> None:
    made = discs((5, 8), 4)
    assert made.shape == (4, 5, 8) and (np.diff(made, axis=0) <= 0).all()
    assert (made[-1] == 0).all() and made[0, 0, 0] == 1 and made[0, 2, 3] < 0.5
    np.testing.assert_array_equal(made, made[:, ::-1, ::-1])
    assert discs((1, 1), 1).item() == 0 and len(discs((3, 3), 0)) == 0


def test_the_first_disc_is_the_smallest_that_takes_the_class_away() -> None:
    """All of the score is that of one pixel in the middle; a border pixel needs the last one."""
    for place, first in (((4, 4), 0), ((0, 0), 4)):
        weight = np.zeros((3, 9, 10, 2), np.float32)
        weight[(0, *place, 0)] = 1
        image = np.ones_like(IMAGE)
        prober = Prober(linear(weight=weight.reshape(-1, 2)).source, image, Asked(score="output", threads=1))
        settings = MeaningfulSettings(**{**SMALL, "cell": 1, "discs": 5, "iterations": 1})
        assert delete(Objective(prober, settings), 0).disc == first


def test_moving_repeats_the_border() -> None:
    planes = np.arange(12, dtype=np.float32).reshape(1, 3, 4)
    np.testing.assert_array_equal(moved(planes, (1, 0))[0], planes[0][[0, 0, 1]])
    np.testing.assert_array_equal(moved(planes, (0, -2))[0], planes[0][:, [2, 3, 3, 3]])
    np.testing.assert_array_equal(moved(planes, (0, 0)), planes)


def test_what_does_not_fit() -> None:
    prober = linear()
    with pytest.raises(OptionError, match="a mask of 10 x 10 is larger than the image, 9 x 10"):
        perform(prober, MEANINGFUL, start=np.ones((10, 10), np.float32))
    with pytest.raises(OptionError, match="cell=10 is larger than the image"):
        perform(prober, MEANINGFUL, cell=10)
    with pytest.raises(OptionError, match="give floats from 0 to 1"):
        perform(prober, MEANINGFUL, start=np.full((3, 3), 1.5, np.float32))
    with pytest.raises(OptionError, match="iterations=0"):
        perform(prober, MEANINGFUL, iterations=0)
    with pytest.raises(OptionError, match=r"beta=0\.5"):
        perform(prober, MEANINGFUL, beta=0.5)
    with pytest.raises(OptionError, match="no setting 'lamda1'"):
        perform(prober, MEANINGFUL, lamda1=1.0)
    with pytest.raises(TargetError, match="class 2 is out of range"):
        perform(prober, MEANINGFUL, classes=[2])
    flat = model_of([helper.make_node("Relu", ["x"], ["y"])], {"x": ["N", 4]}, {"y": ["N", 4]})
    with pytest.raises(ImageError, match="need a picture"):
        perform(Prober(flat, np.ones((1, 4), np.float32)), MEANINGFUL)
