"""Options as people give them: files read, and shared out among several methods."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxplain import models
from onnxplain.rewriter.errors import ExplainWarning, OptionError
from onnxplain.rewriter.load import load
from onnxplain.rules.registry import find
from onnxplain.runtime.compiling import compile
from onnxplain.runtime.settings import for_method, resolved

LENET = models.path("mnist_lenet")


def test_an_array_file_becomes_the_baseline(tmp_path: Path) -> None:
    """Integrated gradients from the picture itself are zero: the file was read, and is the baseline."""
    x = np.random.default_rng(0).uniform(0, 1, (1, 1, 28, 28)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    with pytest.warns(ExplainWarning, match="attribution is zero everywhere"):
        same = compile(LENET, "integrated-gradients", baseline=str(tmp_path / "x.npy"), steps=2)(x)
    assert np.abs(same.attribution).max() == 0
    zeros = compile(LENET, "integrated-gradients", steps=2)(x)
    assert np.abs(zeros.attribution).max() > 0


@pytest.mark.parametrize("damage", ["missing", "text", "pickle"])
def test_an_array_file_that_cannot_be_read_is_one_error(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "b.npy"
    if damage == "text":
        path.write_text("no array")
    if damage == "pickle":
        np.save(path, np.asarray([{}], dtype=object), allow_pickle=True)
    with pytest.raises(OptionError, match=r"baseline='.*b\.npy' cannot be read as an array"):
        resolved({"baseline": str(path)}, load(LENET))


def shared(names: list[str], options: dict[str, Any]) -> list[dict[str, Any]]:
    table = {name: find(name) for name in names}
    return [for_method(method, options, table) for method in table.values()]


def test_each_method_takes_its_own_options() -> None:
    options = {"steps": 4, "gate": "relu"}
    assert shared(["saliency", "integrated-gradients", "deconvnet"], options) == [
        {},
        {"steps": 4},
        {"gate": "relu"},
    ]


def test_an_option_of_none_is_an_error_that_names_the_nearest() -> None:
    with pytest.raises(OptionError, match=r"no method here has an option 'step'.*did you mean 'steps'"):
        shared(["saliency", "integrated-gradients"], {"step": 4})


def test_a_method_around_another_takes_what_nobody_claims() -> None:
    mine = shared(["saliency", "smoothgrad"], {"samples": 3, "inner": "guided-backprop", "gate": "relu"})
    assert mine == [{}, {"samples": 3, "inner": "guided-backprop", "gate": "relu"}]


def test_an_override_must_find_its_node() -> None:
    found = compile(LENET, "lrp.epsilon-plus", rules={"/conv*": "gamma", "last": "zero"}).card.rules
    assert "gamma" in found.values() and "zero" in found.values()
    with pytest.raises(OptionError, match=r"rules: no node between input and target is called '/fc_9/\*'"):
        compile(LENET, "lrp.epsilon-plus", rules={"/fc_9/*": "gamma"})
