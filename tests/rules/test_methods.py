"""The table of methods, their options, and methods that other packages publish."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import FrozenInstanceError, replace
from importlib import metadata
from types import ModuleType
from typing import Any

import pytest

import onnxplain
from onnxplain import Method, OptionError, models
from onnxplain.rules import methods as built_in
from onnxplain.rules import registry
from onnxplain.rules.gradient import GRADIENT
from onnxplain.rules.readouts import STEPS, keep
from onnxplain.rules.registry import GROUP, find, methods

MODULES = registry.BUILT_IN
BUILT_IN = [
    *("saliency", "input-x-gradient", "deconvnet", "guided-backprop"),
    *("integrated-gradients", "smoothgrad", "smoothgrad-squared", "vargrad"),
    *("cam", "grad-cam", "guided-grad-cam", "fem"),
    *(
        "lrp.zero",
        "lrp.epsilon",
        "lrp.gamma",
        "lrp.alpha-beta",
        "lrp.z-plus",
        "lrp.w-square",
        "lrp.flat",
        "lrp.z-box",
    ),
    *(
        "lrp.epsilon-plus",
        "lrp.epsilon-plus-flat",
        "lrp.epsilon-alpha2-beta1",
        "lrp.epsilon-alpha2-beta1-flat",
    ),
    *("lrp.epsilon-gamma-box", "lrp.preset-a", "lrp.preset-b", "deep-taylor"),
    *("deeplift.rescale", "deeplift.reveal-cancel", "deeplift.mixed"),
    *("pattern-net", "pattern-attribution"),
    *(
        f"linearscope.{kind}"
        for kind in (
            "rows",
            "columns",
            "residual",
            "contributions",
            "pixel-discussion",
            "votes",
            "dual",
            "svd",
        )
    ),
    *("meaningful-perturbation.loss", "activation-maximization"),
    *("pda.gradient", "fgsm", "adversarial"),
    *("occlusion.graph", "rise.graph"),
]


def custom(name: str = "custom") -> Method:
    return Method(name, "Custom", "gradient", lambda options: GRADIENT, keep, "one pass", "nobody")


class Entry:
    """What importlib.metadata hands out, with `published` behind it."""

    def __init__(self, value: str, published: object) -> None:
        self.value, self.published, self.loads = value, published, 0

    def load(self) -> object:
        self.loads += 1
        if isinstance(self.published, BaseException):
            raise self.published
        return self.published


@pytest.fixture
def publish(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Entry]]:
    """Entries put into the list are what installed packages publish."""
    entries: list[Entry] = []

    def entry_points(*, group: str) -> list[Entry]:
        return entries if group == GROUP == "onnxplain.methods" else []

    monkeypatch.setattr(metadata, "entry_points", entry_points)
    methods.cache_clear()
    yield entries
    monkeypatch.undo()
    methods.cache_clear()


def test_the_built_in_methods() -> None:
    table = onnxplain.methods()
    assert list(table)[: len(BUILT_IN)] == BUILT_IN
    for name in BUILT_IN:
        method = table[name]
        assert method.name == name
        for text in (method.title, method.family, method.cost, method.source):
            assert text.strip() == text and text
        assert set(method.display.split(",")) <= set(STEPS)
        assert find(name) is method and find(method) is method


def test_every_method_of_the_module_is_in_the_table() -> None:
    found = {m.name for module in MODULES for m in vars(module).values() if isinstance(m, Method)}
    assert found == set(BUILT_IN)


@pytest.mark.parametrize("name", BUILT_IN)
def test_options_have_a_default_among_their_choices_and_a_help(name: str) -> None:
    method = find(name)
    for option in method.options.values():
        assert option.help
        assert option.choices is None or option.default in option.choices
    assert method.settle({}) == {key: option.default for key, option in method.options.items()}


def test_displays_as_the_papers_show_them() -> None:
    shown = {name: find(name).display for name in BUILT_IN[:4]}
    assert shown == {
        "saliency": "maxabs",
        "input-x-gradient": "sum,sym",
        "deconvnet": "centre",
        "guided-backprop": "centre",
    }


@pytest.mark.parametrize(
    ("method", "given", "message"),
    [
        ("saliency", {"gate": "relu"}, "saliency has no option 'gate'; it has none"),
        ("deconvnet", {"gates": "relu"}, r"no option 'gates' \(did you mean 'gate'\?\); it has gate, lrn"),
        (
            "deconvnet",
            {"gate": "relus"},
            "deconvnet: gate='relus' is not one of 'relu', 'rectifiers', 'activations'",
        ),
        ("guided-backprop", {"lrn": True}, "lrn=True is not one of"),
        ("guided-backprop", {"gate": None}, "gate=None is not one of"),
        ("guided-backprop", {"gate": ["relu"]}, "is not one of"),
    ],
)
def test_options_are_checked(method: str, given: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        find(method).settle(given)
    with pytest.raises(OptionError, match=message):
        onnxplain.compile(models.path("mnist_lenet"), method, **given)


def test_given_options_go_over_the_defaults() -> None:
    given = {"gate": "relu"}
    assert find("deconvnet").settle(given) == {"gate": "relu", "lrn": "gradient"}
    assert given == {"gate": "relu"}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("salency", r"no method 'salency' \(did you mean 'saliency'\?\)"),
        ("Saliency", "did you mean 'saliency'"),
        ("", "no method ''"),
        ("qqq", "no method 'qqq'; `onnxplain methods` lists"),
        (None, "a method is a name or a Method, not None"),
        (["saliency"], "a method is a name or a Method"),
    ],
)
def test_an_unknown_method(name: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        find(name)


def test_a_caller_cannot_change_the_table() -> None:
    table = methods()
    with pytest.raises(TypeError):
        table["saliency"] = custom("saliency")  # type: ignore[index]
    with pytest.raises(TypeError):
        del table["saliency"]  # type: ignore[attr-defined]
    with pytest.raises(AttributeError):
        table.clear()  # type: ignore[attr-defined]
    with pytest.raises(FrozenInstanceError):
        table["saliency"].display = "sum"  # type: ignore[misc]
    assert list(methods())[: len(BUILT_IN)] == BUILT_IN


def test_a_published_method_is_found(publish: list[Entry]) -> None:
    method = custom()
    publish.append(Entry("package.module:METHOD", method))
    assert list(methods()) == [*BUILT_IN, "custom"]
    assert find("custom") is method
    explainer = onnxplain.compile(models.path("mnist_lenet"), "custom")
    assert explainer.card.method == "custom" and explainer.card.citation == "nobody"


def test_plug_ins_are_imported_once_and_when_they_are_needed(publish: list[Entry]) -> None:
    publish.append(Entry("package:METHOD", custom()))
    assert publish[0].loads == 0
    find(custom("other"))
    assert publish[0].loads == 0
    for _ in range(2):
        methods()
    find("saliency")
    assert publish[0].loads == 1


def test_the_same_method_published_twice_is_one(publish: list[Entry]) -> None:
    method = custom()
    publish += [Entry("package:METHOD", method), Entry("package:ALIAS", method)]
    publish.append(Entry("onnxplain.rules.methods:SALIENCY", built_in.SALIENCY))
    assert list(methods()) == [*BUILT_IN, "custom"]


@pytest.mark.parametrize("name", ["saliency", "custom"])
def test_a_name_that_is_taken(publish: list[Entry], name: str) -> None:
    publish += [Entry("first:METHOD", custom()), Entry("second:METHOD", custom(name))]
    for _ in range(2):  # an error is not remembered as an empty table
        with pytest.raises(
            OptionError, match=f"two methods are named '{name}'; one comes from 'second:METHOD'"
        ):
            methods()


@pytest.mark.parametrize("thing", [None, 3, custom, Method, ModuleType("m"), {"name": "custom"}])
def test_what_is_no_method(publish: list[Entry], thing: object) -> None:
    publish.append(Entry("package:THING", thing))
    with pytest.raises(
        OptionError,
        match=f"'package:THING' of onnxplain.methods is not a Method but a {type(thing).__name__}",
    ):
        find("saliency")


@pytest.mark.parametrize(
    "error", [ImportError("no module named x"), AttributeError("THING"), ZeroDivisionError("bug")]
)
def test_a_package_that_cannot_be_imported(publish: list[Entry], error: Exception) -> None:
    publish.append(Entry("package:THING", error))
    with pytest.raises(
        OptionError, match=f"'package:THING' of onnxplain.methods cannot be imported: {error}"
    ) as caught:
        methods()
    assert caught.value.__cause__ is error


def test_a_method_derived_from_another_compiles_under_its_own_name() -> None:
    derived = replace(find("guided-backprop"), name="mine", title="Mine")
    explainer = onnxplain.compile(models.path("mnist_lenet"), derived, gate="relu")
    assert explainer.card.method == "mine" and explainer.card.options == {"gate": "relu", "lrn": "gradient"}
    assert "mine" not in registry.methods()


def test_importing_the_package_imports_no_plug_in() -> None:
    code = (
        "from importlib import metadata\n"
        "def refuse(**group): raise SystemExit('entry points were read')\n"
        "metadata.entry_points = refuse\n"
        "import onnxplain, onnxplain.runtime.cli\n"
        "onnxplain.rules.registry.find(onnxplain.rules.methods.SALIENCY)\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=60)
