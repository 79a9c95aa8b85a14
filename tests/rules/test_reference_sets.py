"""DeepLIFT averaged over references: one file with a loop equals the mean of single runs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import onnxplain
from onnxplain import OptionError, models

LENET = models.path("mnist_lenet")
RNG = np.random.default_rng(0)
X = RNG.uniform(0, 1, (3, 1, 28, 28)).astype(np.float32)
METHODS = ["deeplift.rescale", "deeplift.reveal-cancel", "deeplift.mixed"]


def references(count: int) -> NDArray[np.float32]:
    return RNG.uniform(0, 0.3, (count, 1, 28, 28)).astype(np.float32)


def close(got: NDArray[Any], want: NDArray[Any]) -> None:
    """float32 sums in another order."""
    assert got.shape == want.shape
    assert np.abs(got - want).max() <= 2e-5 * np.abs(want).max()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("count", [1, 2, 5])
def test_the_mean_over_a_constant_set(method: str, count: int) -> None:
    given = references(count)
    together = onnxplain.compile(LENET, method, references=given)(X, target=[3, -1, 5])
    single = [onnxplain.compile(LENET, method, baseline=r[None])(X, target=[3, -1, 5]) for r in given]
    close(together.attribution, np.mean([one.attribution for one in single], axis=0))
    for name, value in single[0].outputs.items():
        close(together.outputs[name], value)


def test_a_set_fed_at_run_time_may_have_any_size() -> None:
    fed = onnxplain.compile(LENET, METHODS[0], references="input")
    assert "references" in [node.name for node in fed.session.get_inputs()]
    for count in (1, 4, 6):
        given = references(count)
        fixed = onnxplain.compile(LENET, METHODS[0], references=given)
        close(fed(X[:1], references=given).attribution, fixed(X[:1]).attribution)
    with pytest.raises(OptionError, match="references= is missing"):
        fed(X[:1])


@pytest.mark.parametrize(
    "wrong", ["zeros", 0.5, np.zeros(3), np.zeros((2, 1, 5, 5)), np.full((1, 1, 28, 28), np.nan)]
)
def test_what_is_no_set(wrong: Any) -> None:
    with pytest.raises(OptionError, match="references"):
        onnxplain.compile(LENET, METHODS[0], references=wrong)


def test_noise_over_references_is_refused_and_over_one_is_not() -> None:
    with pytest.raises(OptionError, match="cannot be sampled again"):
        onnxplain.compile(LENET, "smoothgrad", inner=METHODS[0], references="input")
    explainer = onnxplain.compile(LENET, "smoothgrad", inner=METHODS[0], samples=1, sigma=0.0)
    close(explainer(X).attribution, onnxplain.compile(LENET, METHODS[0])(X).attribution)
