"""The pins are complete, lie in the ranges, and are what the README's commands and the build use."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import PackageNotFoundError, requires
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tools import versions

PINS = dict(re.findall(r"^([\w.-]+)==([\w.]+)$", versions.PINS.read_text(encoding="utf-8"), re.M))
LEFT_OUT = re.compile(r"nvidia-|cuda-|triton$|colorama$")
"""What torch and onnxruntime-gpu bring for CUDA, and what only Windows needs."""


def wanted(extras: set[str]) -> list[Requirement]:
    project = versions.project()
    texts = [*project["dependencies"]]
    for extra in sorted(extras):
        texts += project["optional-dependencies"][extra]
    return [Requirement(text) for text in texts]


def applies(requirement: Requirement, extras: set[str]) -> bool:
    marker = requirement.marker
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in extras or {""})


def test_everything_that_the_tests_install_is_pinned() -> None:
    """Also what the dependencies need, as they are installed here."""
    waiting, seen = wanted(set(versions.tested_extras().split(","))), set()
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name in seen or LEFT_OUT.match(name) or not applies(requirement, set()):
            continue
        seen.add(name)
        try:
            needed = [Requirement(text) for text in requires(name) or ()]
        except PackageNotFoundError:
            continue  # an extra that is not installed here; its own name is pinned all the same
        waiting += [item for item in needed if applies(item, requirement.extras)]
    assert len(seen) > 40
    assert seen <= set(PINS), "run: python tools/versions.py pin"


def test_every_pin_lies_in_the_range() -> None:
    for requirement in wanted(set(versions.project()["optional-dependencies"])):
        assert requirement.specifier.contains(PINS[canonicalize_name(requirement.name)]), requirement


def test_libraries_of_cuda_stay_free() -> None:
    """torch and onnxruntime-gpu name different ones; a pin would leave nothing to install on a machine with CUDA."""
    assert not [name for name in PINS if LEFT_OUT.match(name)]


def test_the_build_is_pinned_where_every_pip_looks() -> None:
    text = (versions.ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert tomllib.loads(text)["build-system"]["requires"] == [f"setuptools=={PINS['setuptools']}"]


@pytest.mark.parametrize("kind", ["demo", "test"])
def test_the_commands_of_the_readme_use_the_pins(kind: str) -> None:
    text = (versions.ROOT / "README.md").read_text(encoding="utf-8")
    (command,) = re.findall(rf"<!-- {kind} command -->\n```\n(.*)\n```\n<!-- end -->", text)
    assert command.startswith(f"pip install -c {versions.PINS.name} '.[cpu")


def test_the_oldest_versions_are_the_lower_bounds() -> None:
    found = dict(text.split("==") for text in versions.oldest())
    every = wanted(set(versions.project()["optional-dependencies"]))
    assert {canonicalize_name(name) for name in found} == {canonicalize_name(item.name) for item in every}
    for requirement in every:
        assert requirement.specifier.contains(found[requirement.name])
        (bound,) = requirement.specifier
        assert bound.version == found[requirement.name]


@pytest.mark.parametrize(
    ("dependencies", "message"),
    [(["numpy"], "no lower bound"), (["numpy<3"], "no lower bound"), (["numpy>=1", "numpy>=2"], ">= 2 here")],
)
def test_a_range_without_one_lower_bound_is_an_error(
    dependencies: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: dict[str, Any] = {"dependencies": dependencies, "optional-dependencies": {}}
    monkeypatch.setattr(versions, "project", lambda: made)
    with pytest.raises(ValueError, match=message):
        versions.oldest()
