"""Entry point: one line on stderr and exit code 2 for whatever a user can mend; no traceback."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence

import typer

from ...rewriter.errors import ExplainError, ExplainWarning
from . import batch, bench, build, export, fit, inspect, perturb, picture, scope, serve, ui, verify
from .terminal import warnings_in_a_line, write_line

app = typer.Typer(
    name="onnxplain",
    help="Compile any ONNX model into a second ONNX file that explains its predictions.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
app.command("compile")(build.compile_command)
app.command("explain")(picture.explain_command)
app.command("perturb")(perturb.perturb_command)
app.command("check")(inspect.check_command)
app.command("show")(inspect.show_command)
app.command("verify")(verify.verify_command)
app.command("batch")(batch.batch_command)
app.command("bench")(bench.bench_command)
app.command("ui")(ui.ui_command)
app.command("serve")(serve.serve_command)
app.command("methods")(inspect.methods_command)
app.command("demo")(picture.demo_command)
app.add_typer(fit.app, name="fit")
app.add_typer(scope.app, name="scope")
app.add_typer(export.app, name="export")


@app.callback(invoke_without_command=True)
def root(version: bool = typer.Option(False, "--version", help="Print the version and stop.")) -> None:
    if version:
        from ..compiling import package_version

        write_line(f"onnxplain {package_version()}")
        raise typer.Exit


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line. Returns 0 (done), 1 (a check failed) or 2 (bad input or usage). What is told of a result is a
    line on stderr."""
    with warnings.catch_warnings(), warnings_in_a_line():
        warnings.simplefilter("always", ExplainWarning)
        return _run(argv)


def _run(argv: Sequence[str] | None) -> int:
    command = typer.main.get_command(app)
    try:
        code = command.main(
            args=None if argv is None else list(argv), prog_name="onnxplain", standalone_mode=False
        )
    except ExplainError as error:
        return _fail(str(error))
    except (typer.Abort, KeyboardInterrupt):
        return _fail("stopped", 130)
    except typer.TyperException as error:
        text = error.format_message() if hasattr(error, "format_message") else str(error)
        text = text or "no command given"  # the help was printed instead
        return _fail(f"{text} (see `onnxplain --help`)")
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output went away; keep the interpreter from complaining
        return 0
    except OSError as error:
        return _fail(f"{error.filename or 'the system'}: {error.strerror or error}")
    except MemoryError:
        return _fail("out of memory; explain fewer pictures at a time, or a smaller model")
    return code if isinstance(code, int) else 0


def _fail(message: str, code: int = 2) -> int:
    line = " ".join(message.split())
    write_line(f"onnxplain: {line}", file=sys.stderr)
    return code
