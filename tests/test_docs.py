"""The Python of the README and of docs/ runs as it stands; commands and pages that are named are there."""

from __future__ import annotations

import re
import shutil
import tomllib
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from onnxplain import models
from onnxplain.rewriter.method import Method
from onnxplain.rules.registry import BUILT_IN, find
from onnxplain.runtime.perturb.registry import TECHNIQUES

ROOT = Path(__file__).parent.parent


def blocks(name: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(encoding="utf-8"), re.S)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the examples call net.onnx and cat.jpg."""
    folder = tmp_path_factory.mktemp("docs")
    model = models.path("efficientnet_lite0")
    shutil.copy(model, folder / "net.onnx")
    shutil.copy(model.with_suffix(".json"), folder / "net.json")
    shutil.copy(model.with_name("labels_imagenet1k.txt"), folder)
    shutil.copy(models.photo("cat_chelsea"), folder / "cat.jpg")
    return folder


def test_readme_examples_run_in_order(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    names = {"x": np.random.default_rng(0).normal(size=(1, 3, 224, 224)).astype(np.float32)}
    for block in blocks("README.md"):
        exec(compile(block, "README.md", "exec"), names)
    assert names["attribution"].shape == (1, 3, 224, 224)
    assert names["heatmap"].shape == (1, 224, 224)
    # the plain onnxruntime run explains the top class, the other one class 281
    assert np.array_equal(names["logits"], names["result"].outputs["logits"])  # type: ignore[attr-defined]
    assert (folder / "cat.png").stat().st_size > 10_000


def test_the_method_of_the_architecture_page_compiles(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    (block,) = [block for block in blocks("docs/architecture.md") if "Method(" in block]
    exec(compile(block, "architecture.md", "exec"), {})
    assert (folder / "net.rectified.onnx").is_file()


def test_the_rule_of_the_architecture_page_is_the_shipped_one() -> None:
    (block,) = [block for block in blocks("docs/architecture.md") if "def softplus" in block]
    with pytest.raises(ValueError, match="Softplus has a rule already: softplus"):
        exec(compile(block, "architecture.md", "exec"), {})


@pytest.mark.parametrize("kind", ["demo", "test"])
def test_each_readme_command_installs_what_it_needs(kind: str) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (command,) = re.findall(rf"<!-- {kind} command -->\n```\n(.*?)\n```\n<!-- end -->", text, re.S)
    (extras,) = re.findall(r"^pip install -c constraints\.txt '\.\[([a-z,]+)\]' && ", command)
    known = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
        "optional-dependencies"
    ]
    assert "cpu" in extras.split(",") and set(extras.split(",")) <= set(known)


PAGES = sorted((ROOT / "docs" / "methods").glob("*.md"))
SOURCES = (
    "src",
    "rewriter",
    "rules",
    "runtime",
    "tests",
    "benchmarks",
    "experiments",
    "examples",
    "tools",
    "web",
)
CITATION = re.compile(r"(?<![\w/.])(docs/[\w/-]+\.md)(?:,\s+\"([^\"]+)\")?")


def written() -> Iterator[tuple[str, str]]:
    """(path, text) of the project's own Python and Markdown. Line breaks and indents are one space."""
    paths = [path for folder in SOURCES for kind in ("*.py", "*.md") for path in (ROOT / folder).rglob(kind)]
    paths += [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    for path in paths:
        if "node_modules" not in path.parts:
            yield str(path.relative_to(ROOT)), " ".join(path.read_text(encoding="utf-8").split())


def headings(path: Path) -> set[str]:
    return set(re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.M))


@pytest.mark.parametrize("page", ["docs/methods/README.md", "docs/methods/deeplift.md"])
def test_the_examples_of_the_method_pages_run(
    page: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    assert [str(p.relative_to(ROOT)) for p in PAGES if blocks(str(p.relative_to(ROOT)))] == [
        "docs/methods/README.md",
        "docs/methods/deeplift.md",
    ]
    names: dict[str, object] = {}
    for block in blocks(page):
        exec(compile(block, page, "exec"), names)


def test_every_page_that_is_cited_is_there() -> None:
    """And the section, where one is named."""
    missing, count = [], 0
    for path, text in written():
        for page, section in CITATION.findall(text):
            count += 1
            if not (ROOT / page).is_file() or (section and section not in headings(ROOT / page)):
                missing.append((path, page, section))
    assert not missing
    assert count > 50


def test_every_link_of_the_method_pages_leads_somewhere() -> None:
    """To a file, and to a heading as GitHub names it, where one is asked for."""
    lost = []
    for page in PAGES:
        for target in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
            name, _, anchor = target.partition("#")
            found = (page.parent / name).resolve() if name else page
            known = (
                {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings(found)}
                if anchor
                else {""}
            )
            if not found.exists() or anchor not in known:
                lost.append((page.name, target))
    assert not lost


def test_no_specification_from_outside_is_cited() -> None:
    outside = re.compile(r"\bMETHODS (?:section )?\d")
    assert not [path for path, text in written() if outside.search(text)]


def settings_of(name: str) -> list[str]:
    """The options of a method, or of a technique that perturbs."""
    if name in TECHNIQUES:
        return [field.name for field in fields(TECHNIQUES[name].settings)]
    return list(find(name).options)


def test_each_method_has_a_place_in_the_pages() -> None:
    """In a heading or the first column of a table, with all its options in code style on that page. Packages may
    publish more methods."""
    texts = [page.read_text(encoding="utf-8") for page in PAGES if page.name != "README.md"]
    placed = {text: "".join(re.findall(r"^#+ .*$|^\|[^|]*\|", text, re.M)) for text in texts}
    own = {value.name for module in BUILT_IN for value in vars(module).values() if isinstance(value, Method)}
    assert len(own) > 40
    lacking = []
    for name in sorted(own | set(TECHNIQUES)):
        here = [text for text in texts if f"`{name}`" in placed[text]]
        code = " ".join(re.findall(r"`[^`\n]+`", "".join(here)))
        lacking += [name] * (not here)
        lacking += [f"{name}: {key}" for key in settings_of(name) if not re.search(rf"\b{key}\b", code)]
    assert not lacking
