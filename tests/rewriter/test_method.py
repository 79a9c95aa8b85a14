"""A method as data: options settled and checked, methods around methods."""

from __future__ import annotations

import pytest

from onnxplain.rewriter.errors import OptionError
from onnxplain.rewriter.method import Method, Option
from onnxplain.rules.checks import number, whole
from onnxplain.rules.gradient import GRADIENT
from onnxplain.rules.readouts import keep
from onnxplain.rules.registry import find


def method(**options: Option) -> Method:
    return Method("mine", "Mine", "gradient", lambda o: GRADIENT, keep, "one pass", "nobody", options=options)


def test_a_check_turns_the_value_into_what_the_method_wants() -> None:
    mine = method(sigma=Option(1, None, "width", number(0.0)))
    assert mine.settle({}) == {"sigma": 1.0} and isinstance(mine.settle({"sigma": 2})["sigma"], float)


@pytest.mark.parametrize("wrong", [-1, float("nan"), float("inf"), "1", None, True, [1]])
def test_a_check_refuses(wrong: object) -> None:
    mine = method(sigma=Option(1, None, "width", number(0.0)))
    with pytest.raises(OptionError, match=r"^mine: sigma=.* is not a number of at least 0$"):
        mine.settle({"sigma": wrong})


@pytest.mark.parametrize("wrong", [0, 9, 1.5, True, "3", None])
def test_whole_numbers(wrong: object) -> None:
    with pytest.raises(OptionError, match=r"steps=.* is not a whole number from 1 to 8"):
        whole(1, 8)("steps", wrong)
    assert whole(1, 8)("steps", 8) == 8


def test_the_options_of_the_inner_method_come_along() -> None:
    concrete, options = find("smoothgrad").concrete({"inner": "deconvnet", "gate": "relu", "samples": 7})
    assert concrete.name == "smoothgrad" and concrete.sampling is not None
    assert options["gate"] == "relu" and options["lrn"] == "gradient" and options["samples"] == 7
    assert find("deconvnet").source in concrete.source


def test_an_option_that_neither_has_is_named_with_both() -> None:
    with pytest.raises(
        OptionError, match=r"smoothgrad of saliency has no option 'gates'.*its own options are inner, "
    ):
        find("smoothgrad").concrete({"gates": "relu"})


@pytest.mark.parametrize("inner", ["integrated-gradients", "smoothgrad"])
def test_samples_of_samples_are_refused(inner: str) -> None:
    with pytest.raises(OptionError, match="a method that samples cannot be sampled again"):
        find("smoothgrad").concrete({"inner": inner})
