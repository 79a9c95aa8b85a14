"""Names out of files on a terminal: never a control character, an escape sequence or markup."""

from __future__ import annotations

import json
import logging
import warnings
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from onnxplain.runtime.cli import main
from onnxplain.runtime.cli.terminal import escape, safe, warnings_in_a_line, write_json

HOSTILE = "[red]x\x1b[31m\x9b31m\r\n\u202eb\u200b\u2028[/red]"
"""Markup, escape sequences in 7 and 8 bits, line ends, an override of direction, and characters without a width."""


def test_escape() -> None:
    assert escape("naïve Σ 漢 [red] 'x'") == "naïve Σ 漢 [red] 'x'"
    assert escape("\x1b[31m\n\u202e\ud800\x9b") == r"\u001b[31m\n\u202e\ud800\u009b"
    assert json.loads(f'"{escape(HOSTILE)}"') == HOSTILE
    assert safe("[red]x").plain == "[red]x"


def test_json_reads_back(capsys: pytest.CaptureFixture[str]) -> None:
    write_json({"name": HOSTILE, HOSTILE: [1]})
    out = capsys.readouterr().out
    assert json.loads(out) == {"name": HOSTILE, HOSTILE: [1]}
    assert all(one.isprintable() or one == "\n" for one in out)


def harmless(text: str) -> None:
    """Printable, and the markup of the name was printed or never reached; no line begins with what follows a \\r."""
    odd = [one for one in text if not one.isprintable() and one != "\n"]
    assert not odd, odd


def model(operator: str) -> onnx.ModelProto:
    """Two nodes; names of everything are hostile."""
    graph = helper.make_graph(
        [
            helper.make_node(operator, [f"x{HOSTILE}"], [f"t{HOSTILE}"], name=f"n{HOSTILE}"),
            helper.make_node("Neg", [f"t{HOSTILE}"], [f"y{HOSTILE}"], name=f"m{HOSTILE}"),
        ],
        f"g{HOSTILE}",
        [helper.make_tensor_value_info(f"x{HOSTILE}", TensorProto.FLOAT, ["N", 3])],
        [helper.make_tensor_value_info(f"y{HOSTILE}", TensorProto.FLOAT, ["N", 3])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def test_every_command_that_reads_a_model(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    good, bad = "good\x1b[31m[red].onnx", "bad\x1b[31m[red].onnx"
    onnx.save(model("Relu"), good)
    onnx.save(model("Det"), bad)
    done = "done\x1b[31m[red].onnx"
    for words in (
        ["compile", good, "--method", "saliency", "--out", done],
        ["compile", bad],
        ["compile", good, "--input", "\x1b[31mnone"],
        ["compile", good, "--method", "\x1b[31m[red]none"],
        ["compile", good, "--output", "\x1b[31m[red]none"],
        ["check", good],
        ["check", bad],
        ["show", good],
        ["show", done],
        ["show", done, "--json"],
        ["show", "\x1b[31m[red]none.onnx"],
        ["verify", done],
        ["verify", done, "--json"],
        ["methods", "\x1b[31m[red]none"],
        ["explain", done, "\x1b[31m[red]none.png"],
        ["\x1b[31mnone"],
    ):
        main(words)
        out, err = capfd.readouterr()
        harmless(out + err)
        assert out or err, words
    assert Path(done).exists()


def test_warnings_and_logs_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with warnings_in_a_line(), warnings.catch_warnings():
        warnings.simplefilter("always")
        text = warnings.formatwarning(f"see {HOSTILE}", UserWarning, "x.py", 1)
        assert logging.lastResort is not None
        record = logging.LogRecord("x", logging.WARNING, "x.py", 1, f"see {HOSTILE}", None, None)
        for line in (text.rstrip("\n"), logging.lastResort.format(record)):
            assert line.startswith("onnxplain: see [red]x") and line.isprintable()
