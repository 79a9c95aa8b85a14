"""Words that no command understands, and what goes wrong outside of them."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from onnxplain import models
from onnxplain.runtime import compiling
from onnxplain.runtime.cli import build, main
from tests.runtime.cli.conftest import Cli

LENET, PHOTO = models.path("mnist_lenet"), models.photo("cat_chelsea")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["compil", LENET], "No such command 'compil'. Did you mean 'compile'?"),
        (["compile", LENET, "--foo"], "No such option: --foo"),
        (["compile"], "Missing argument 'model'"),
        (["explain", LENET], "Missing argument 'images'"),
        (["check"], "Missing argument 'model'"),
        (["show"], "Missing argument 'file'"),
        (["compile", LENET, "-m"], "requires an argument"),
        (["explain", LENET, PHOTO, "--threads", "0"], "Invalid value for '--threads'"),
        (["explain", LENET, PHOTO, "--threads", "two"], "Invalid value for '--threads'"),
        (["compile", LENET, "again"], "unexpected extra argument"),
    ],
)
def test_wrong_usage(cli: Cli, words: Sequence[object], message: str) -> None:
    line = cli.refuses(*words)
    assert message in line and "onnxplain --help" in line


def test_no_command_prints_the_help(cli: Cli) -> None:
    ran = cli()
    assert ran.code == 2 and "Usage: onnxplain" in ran.out
    assert ran.err == "onnxplain: no command given (see `onnxplain --help`)\n"


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (MemoryError(), 2, "onnxplain: out of memory"),
        (KeyboardInterrupt(), 130, ""),
        (OSError(13, "no", "x"), 2, "onnxplain: x: no"),
    ],
)
def test_what_the_system_may_raise(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, message: str
) -> None:
    def fail(*args: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(build, "compile", fail)
    ran = cli("compile", LENET)
    assert ran.code == code and ran.err.startswith(message) and ran.err.count("\n") <= 1 and not ran.made


def test_an_error_of_ours_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug shows its traceback; only what a user can mend becomes one line."""

    def bug(*args: object, **options: object) -> None:
        raise ZeroDivisionError("bug")

    monkeypatch.setattr(compiling, "compile_source", bug)
    with pytest.raises(ZeroDivisionError):
        main(["compile", str(LENET)])
