"""The command line in this process, in an empty folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from onnxplain.runtime.cli import main


@dataclass(frozen=True)
class Ran:
    """One command: its exit code, what it printed, and the files it made."""

    code: int
    out: str
    err: str
    made: frozenset[str]


@dataclass(frozen=True)
class Cli:
    folder: Path
    capture: pytest.CaptureFixture[str]

    def files(self) -> frozenset[str]:
        return frozenset(str(path.relative_to(self.folder)) for path in self.folder.rglob("*"))

    def __call__(self, *words: object) -> Ran:
        before = self.files()
        self.capture.readouterr()
        code = main([str(word) for word in words])
        out, err = self.capture.readouterr()
        return Ran(code, out, err, self.files() - before)

    def works(self, *words: object) -> Ran:
        """Exit code 0, and not a word on stderr."""
        ran = self(*words)
        assert (ran.code, ran.err) == (0, "")
        return ran

    def refuses(self, *words: object) -> str:
        """Exit code 2, one line on stderr, nothing on stdout, nothing left behind: that line."""
        ran = self(*words)
        assert ran.code == 2, ran
        assert ran.err.startswith("onnxplain: ") and ran.err.count("\n") == 1 and ran.err.endswith("\n"), (
            ran.err
        )
        assert "Traceback" not in ran.err and not ran.out and not ran.made, ran
        return ran.err


@pytest.fixture
def cli(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "200")
    return Cli(folder, capsys)


@pytest.fixture
def determinants(cli: Cli) -> Path:
    """y = det(x) + det(2 x): two nodes without a rule."""
    graph = helper.make_graph(
        [
            helper.make_node("Mul", ["x", "two"], ["doubled"]),
            helper.make_node("Det", ["x"], ["a"], name="first_det"),
            helper.make_node("Det", ["doubled"], ["b"], name="second_det"),
            helper.make_node("Add", ["a", "b"], ["sum"]),
            helper.make_node("Unsqueeze", ["sum", "axis"], ["y"]),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 1])],
        [
            helper.make_tensor("two", TensorProto.FLOAT, [], [2.0]),
            helper.make_tensor("axis", TensorProto.INT64, [1], [1]),
        ],
    )
    path = cli.folder / "determinants.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path
