"""The Python of the README and of docs/ runs as it stands, and what the README promises of commands is there."""

from __future__ import annotations

import re
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest

from onnxplain import models

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
