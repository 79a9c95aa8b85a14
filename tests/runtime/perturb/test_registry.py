"""Techniques by name."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

import onnxplain
from onnxplain import models
from onnxplain.rewriter.errors import OptionError
from onnxplain.runtime.perturb.probing import Asked, Prober
from onnxplain.runtime.perturb.registry import BUILT_IN, TECHNIQUES, find_technique, refuse_techniques
from onnxplain.runtime.perturb.technique import Technique
from tests.runtime.perturb.slabs import SLABS

LENET = models.path("mnist_lenet")
NEEDED = {"pda.sampling": {"variant": "marginal", "k": 4}, "pda.mean": {"variant": "marginal", "k": 4}}
"""What has no default: pictures of the same kind."""


def digit() -> np.ndarray:
    return np.asarray(models.digits()[0][0], np.float32)[None, None] / np.float32(255)


def settings_of(technique: Technique) -> object:
    given = dict(NEEDED.get(technique.name, {}))
    if "variant" in given:
        given["images"] = np.repeat(digit(), 12, axis=0)
    if technique.name == "occlusion":
        given["k"] = 7
    return technique.settle(given)


def test_every_technique_is_found_by_its_name() -> None:
    assert len(TECHNIQUES) == len(BUILT_IN) >= 6, "no name twice"
    for name, technique in TECHNIQUES.items():
        assert find_technique(name) is technique and technique.name == name
    assert find_technique(SLABS) is SLABS
    assert not set(TECHNIQUES) & set(onnxplain.methods()), "one name, one command"


def test_unknown_names() -> None:
    with pytest.raises(
        OptionError, match=r"no perturbation method 'oclusion' \(did you mean 'occlusion'\?\)"
    ):
        find_technique("oclusion")
    with pytest.raises(
        OptionError, match="saliency changes no copies of the image; run it with `onnxplain explain -m"
    ):
        find_technique("saliency")


@pytest.mark.parametrize("names", ["rise", ["saliency", "rise"], "saliency,rise"])
def test_explain_says_where_techniques_are_run(names: str | list[str]) -> None:
    with pytest.raises(OptionError, match="run `onnxplain perturb MODEL IMAGE -m rise`"):
        onnxplain.explain(LENET, models.photo("cat_chelsea"), names)


def test_names_that_are_no_text_are_left_to_others() -> None:
    refuse_techniques(["saliency", onnxplain.methods()["saliency"], 3])


@pytest.mark.parametrize("name", TECHNIQUES)
def test_what_a_technique_says_of_itself(name: str) -> None:
    technique = TECHNIQUES[name]
    assert technique.title and technique.source and len(technique.cost) > 4
    for field in dataclasses.fields(technique.settings):
        assert len(field.metadata["help"]) > 5, field.name
        assert field.default is not dataclasses.MISSING, field.name
    assert {knob.name for knob in technique.lighter} <= set(technique.names)


@pytest.mark.parametrize("name", TECHNIQUES)
def test_knobs_make_lighter(name: str) -> None:
    """Forwards never grow on the way to the end of a knob, and are fewer there."""
    technique = TECHNIQUES[name]
    prober, settings = Prober(LENET, digit(), Asked()), settings_of(technique)
    for knob in technique.lighter:
        now, end = knob.now(settings), knob.lightest(settings)
        values = sorted({int(v) for v in np.linspace(now, end, 6)}, reverse=end < now)
        counts = [
            technique.forwards(prober, dataclasses.replace(settings, **{knob.name: v}))  # type: ignore[type-var]
            for v in values
        ]
        assert counts[0] == technique.forwards(prober, settings)
        assert counts == sorted(counts, reverse=True) and counts[-1] < counts[0], (knob.name, counts)


def test_the_page_names_every_technique() -> None:
    text = (Path(__file__).parents[3] / "docs" / "perturbation.md").read_text(encoding="utf-8")
    assert [name for name in TECHNIQUES if f"`{name}`" not in text] == []
