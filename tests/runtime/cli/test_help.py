"""--help says what a command does, what every flag means and what it is by default."""

from __future__ import annotations

import importlib.metadata

import pytest
import typer

from onnxplain.runtime.cli.main import app
from tests.runtime.cli.conftest import Cli

GROUP = typer.main.get_command(app)
COMMANDS = (
    "compile",
    "explain",
    "perturb",
    "check",
    "show",
    "methods",
    "demo",
    "fit",
    "scope",
    "verify",
    "bench",
    "batch",
    "export",
    "serve",
    "ui",
)


def test_the_help_lists_every_command(cli: Cli) -> None:
    out = cli.works("--help").out
    assert all(name in out for name in COMMANDS)
    assert sorted(GROUP.commands) == sorted(COMMANDS)  # type: ignore[attr-defined]


def test_version(cli: Cli) -> None:
    assert cli.works("--version").out == f"onnxplain {importlib.metadata.version('onnxplain')}\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_parameter_is_explained(cli: Cli, name: str) -> None:
    out = cli.works(name, "--help").out
    command = GROUP.commands[name]  # type: ignore[attr-defined]
    assert len(command.help.split()) >= 4 and command.help.split(".")[0].split()[0] in out
    for parameter in command.params:
        if parameter.name == "help":
            continue
        assert parameter.help and len(parameter.help) > 5, parameter.name
        assert all(flag in out for flag in parameter.opts if flag.startswith("-"))


DEFAULTS = {
    "compile": [
        "default: saliency",
        "Default: MODEL.METHOD.onnx",
        "default: input",
        "default: logits",
        "by default",
    ],
    "explain": [
        "Default: saliency",
        "default: explanation.png",
        "default: top",
        "default: logits",
        "By default",
    ],
    "perturb": [
        "default: occlusion",
        "default: perturbation.png",
        "top (the default)",
        "default: probability",
        "default: auto",
        "default: 32",
    ],
    "check": ["default: saliency", "default: logits"],
    "demo": ["default: onnxplain-demo"],
}


@pytest.mark.parametrize("name", DEFAULTS)
def test_defaults_are_shown(cli: Cli, name: str) -> None:
    out = " ".join(cli.works(name, "--help").out.replace("│", " ").split())
    assert [text for text in DEFAULTS[name] if text not in out] == []
