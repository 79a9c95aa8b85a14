"""Contributions, discussions and votes against the golden copies."""

from __future__ import annotations

import math

import numpy as np
import pytest

import onnxplain
from onnxplain import OptionError
from onnxplain.runtime.scope import Contributions
from onnxplain.runtime.scope.votes import PORTION, count_votes
from tests.runtime.scope.golden import NETS, Array, opened, stored
from tests.runtime.small import WEIGHT, picture

BIASED = tuple(name for name in NETS if "scope_contrib" in stored(name))


def test_there_are_golden_contributions() -> None:
    assert "cnn_bias" in BIASED and len(BIASED) > 3


@pytest.mark.parametrize("name", BIASED)
def test_the_terms_add_up(name: str) -> None:
    a, known = opened(name), stored(name)
    found = a.contributions(int(known["class"]))
    assert (
        found.names[0] == "input" and found.target == known["class"] and len(found.names) == len(found.values)
    )
    size = np.abs(known["scope_contrib"]).sum() * 2e-6  # float32 sums that may cancel
    assert found.score == pytest.approx(known["y"].ravel()[known["class"]], abs=size)
    assert found.error < 2e-6
    assert found.input == pytest.approx(known["scope_contrib"][0], abs=size)
    assert found.residual == pytest.approx(known["scope_r"][known["class"]], abs=size)


def test_every_term_of_a_net_with_biases() -> None:
    found, known = opened("cnn_bias").contributions(), stored("cnn_bias")
    assert found.target == stored("cnn_bias")["y"].argmax()
    np.testing.assert_allclose(found.values, known["scope_contrib"], rtol=1e-5)
    ((name, value),) = found.largest(1)
    assert name == "input" and value == pytest.approx(known["scope_contrib"][0], rel=1e-5)


def test_no_bias_no_residual() -> None:
    found = opened("cnn_nobias").contributions()
    assert found.residual == 0.0 and found.ratio == 0.0 and found.share == 0.0 and found.names == ("input",)


def test_both_shares() -> None:
    found = Contributions(("input", "a", "b"), np.array([3.0, -4.0, 2.0]), 0, 1.0)
    assert (found.input, found.residual, found.ratio, found.share, found.error) == (3.0, -2.0, -2.0, 0.4, 0.0)
    nothing = Contributions(("input",), np.zeros(1), 0, 0.0)
    assert math.isnan(nothing.ratio) and nothing.share == 0.0 and nothing.error == 0.0
    assert Contributions(("input", "a"), np.array([-1.0, 1.0]), 0, 0.0).ratio == math.inf


def test_a_target_by_coordinates() -> None:
    a, known = opened("sr"), stored("sr")
    found = a.contributions((0, 2, 3))
    assert found.target == 23 and found.input == pytest.approx(
        float(known["scope_F"][23] @ known["x"].ravel()), rel=1e-4
    )
    with pytest.raises(OptionError, match="output index 100 is out of range: 0 to 99"):
        a.contributions(100)


@pytest.mark.filterwarnings("ignore:variant=:onnxplain.ExplainWarning")
@pytest.mark.parametrize("variant", ["paper", "eq18", "classwise"])
def test_votes_and_discussions(variant: str) -> None:
    """1e-4: their scale is a quotient of sums that partly cancel."""
    a, known = opened("cnn_bias"), stored("cnn_bias")
    found = a.votes(variant=variant)
    np.testing.assert_array_equal(found.votes, known[f"votes_{variant}"])
    assert (
        found.classes.tolist() == [0, 1, 2]
        and found.counts.sum() == 64
        and found.shares.sum() == pytest.approx(1)
    )
    maps = known[f"pd_{variant}"]
    np.testing.assert_allclose(found.strength, maps.sum(axis=1).max(axis=0), rtol=1e-3, atol=1e-4)
    for c in range(3):
        np.testing.assert_allclose(a.discussion(c, variant=variant), maps[c], rtol=1e-3, atol=1e-4)


def test_memory_bounds_the_classes_of_a_run() -> None:
    seen: list[tuple[int, int]] = []
    a = opened("cnn_bias", memory="20kB")
    found = a.votes(progress=lambda *at: seen.append(at))
    np.testing.assert_array_equal(found.votes, stored("cnn_bias")["votes_classwise"])
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_votes_among_some_classes() -> None:
    a, known = opened("cnn_bias"), stored("cnn_bias")["pd_classwise"].sum(axis=1)
    found = a.votes([2, 0])
    np.testing.assert_array_equal(found.votes, np.where(known[0] > known[2], 0, 2))
    assert found.counts.tolist() == [(found.votes == 2).sum(), (found.votes == 0).sum()]
    with pytest.raises(OptionError, match="output index 3 is out of range: 0 to 2"):
        a.votes([3])
    with pytest.raises(OptionError, match="given twice"):
        a.votes([1, 1])


def test_portions_make_no_difference() -> None:
    talks = np.random.default_rng(0).integers(0, 4, (2 * PORTION + 3, 5, 6)).astype(float)  # with ties
    sizes, seen = list[int](), list[tuple[int, int]]()

    def run(part: Array) -> Array:
        sizes.append(len(part))
        return np.asarray(talks[part])

    found = count_votes(run, range(len(talks)), progress=lambda *at: seen.append(at))
    np.testing.assert_array_equal(found.votes, talks.argmax(axis=0))
    np.testing.assert_array_equal(found.strength, talks.max(axis=0))
    assert sizes == [PORTION, PORTION, 3] and seen[-1] == (len(talks), len(talks))
    order = found.popular(3)
    assert [found.counts[c] for c in order] == sorted(found.counts, reverse=True)[:3]


def test_top_class_of_a_discussion() -> None:
    x0 = np.random.default_rng(4).standard_normal((1, 2, 3, 4))
    a = onnxplain.Interpreter(picture(), x0)
    c = int((x0.reshape(-1) @ WEIGHT).argmax())
    np.testing.assert_allclose(np.sum(a.discussion()), (x0.reshape(-1) @ WEIGHT)[c], rtol=1e-4)
