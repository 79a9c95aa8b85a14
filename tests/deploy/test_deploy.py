"""The unit, the container file and the list of licences say what is there."""

from __future__ import annotations

import csv
import importlib.util
import re
import shlex
import shutil
import subprocess
from email.message import Message
from importlib.metadata import Distribution, version
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer

from onnxplain.runtime.cli.main import app

ROOT = Path(__file__).parent.parent.parent
DEPLOY = ROOT / "deploy"


@pytest.fixture(scope="module")
def licences() -> ModuleType:
    spec = importlib.util.spec_from_file_location("licences", DEPLOY / "licences.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def served(words: list[str]) -> list[str]:
    """The words after `onnxplain serve`, understood by the command; without running it."""
    assert words[1] == "serve"
    command = typer.main.get_command(app).commands["serve"]  # type: ignore[attr-defined]
    context = command.make_context("serve", words[2:], resilient_parsing=False)
    return [str(path) for path in context.params["paths"]]


def test_the_unit_starts_a_command_that_exists() -> None:
    (line,) = re.findall(r"^ExecStart=(.*)$", (DEPLOY / "onnxplain.service").read_text(), re.M)
    assert served(shlex.split(line)) == ["/srv/onnxplain"]


def test_systemd_knows_every_line_of_the_unit(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("needs systemd-analyze")
    text = re.sub(
        r"^ExecStart=.*$", "ExecStart=/bin/true", (DEPLOY / "onnxplain.service").read_text(), flags=re.M
    )
    (tmp_path / "onnxplain.service").write_text(text)
    words = [analyze, "verify", "--man=no", str(tmp_path / "onnxplain.service")]
    ran = subprocess.run(words, capture_output=True, text=True, timeout=30)
    assert ran.returncode == 0 and "onnxplain.service" not in ran.stderr, ran.stderr


def test_the_container_starts_a_command_that_exists() -> None:
    text = (DEPLOY / "Containerfile").read_text()
    found = [re.findall(rf"^{word} \[(.*)\]$", text, re.M)[-1] for word in ("ENTRYPOINT", "CMD")]
    assert served([word.strip('" ') for line in found for word in line.split(",")]) == ["/models"]
    (extras,) = re.findall(r"'\.\[([a-z,]+)\]'", text)
    declared = (ROOT / "pyproject.toml").read_text()
    assert all(re.search(rf"^{extra} = \[", declared, re.M) for extra in extras.split(","))
    assert re.search(r"^USER onnxplain$", text, re.M), "the server must not run as root"


def test_the_list_of_licences(licences: ModuleType, tmp_path: Path) -> None:
    licences.main(["-o", str(tmp_path / "licences.csv")])
    with open(tmp_path / "licences.csv", newline="", encoding="utf-8") as file:
        found = {row["name"].lower(): row for row in csv.DictReader(file)}
    assert found["onnxplain"]["licence"] == "Apache-2.0" and found["onnxplain"]["version"] == version(
        "onnxplain"
    )
    assert "LICENSE" in found["numpy"]["files"] and found["onnxruntime"]["licence"] == "MIT License"
    assert list(found) == sorted(found)


class Packaged(Distribution):
    """A distribution with this metadata and no files."""

    def __init__(self, **fields: Any) -> None:
        self._fields = fields

    @property
    def metadata(self) -> Any:
        message = Message()
        for key, values in self._fields.items():
            for value in values if isinstance(values, list) else [values]:
                message[key.replace("_", "-")] = value
        return message

    @property
    def version(self) -> str:
        return "1"

    def read_text(self, filename: str) -> str | None:
        return None

    def locate_file(self, path: Any) -> Any:
        return path


MIT = "License :: OSI Approved :: MIT License"


@pytest.mark.parametrize(
    ("fields", "licence"),
    [
        ({"License_Expression": "MIT", "Classifier": MIT}, ("MIT", "expression")),
        ({"Classifier": ["Topic :: X", MIT], "License": "long text"}, ("MIT License", "classifier")),
        ({"License": "BSD\nCopyright"}, ("BSD", "text")),
        ({"License": "UNKNOWN"}, ("unknown", "")),
        ({}, ("unknown", "")),
    ],
)
def test_where_a_licence_is_found(
    licences: ModuleType, fields: dict[str, Any], licence: tuple[str, str]
) -> None:
    (row,) = licences.rows([Packaged(Name="a", **fields)])
    assert (row["licence"], row["found"]) == licence


def test_a_package_without_a_licence_is_an_error(
    licences: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        licences, "distributions", lambda: [Packaged(Name="b"), Packaged(Name="a", License="X")]
    )
    assert licences.main([]) == 1
    out, err = capsys.readouterr()
    assert out.splitlines()[1:] == ["a,1,X,text,", "b,1,unknown,,"] and err == "no licence is given by b\n"
    monkeypatch.setattr(licences, "distributions", lambda: [Packaged(Name="a", License="X")])
    assert licences.main([]) == 0
