"""What `import onnxplain` offers, and what it costs."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import onnxplain
from onnxplain import models

ROOT = Path(__file__).parent.parent

BLOCK = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Block())
"""


def python(
    code: str, blocked: tuple[str, ...] = (), cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter in which the blocked packages are not installed."""
    command = [sys.executable, "-W", "error", "-c", BLOCK.format(blocked=blocked) + code]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=cwd)


def test_all_is_exactly_what_is_public() -> None:
    public = {
        name
        for name, value in vars(onnxplain).items()
        if not name.startswith("_") and not isinstance(value, ModuleType)
    }
    assert public == set(onnxplain.__all__)
    assert list(onnxplain.__all__) == sorted(onnxplain.__all__)


def test_every_public_name_has_a_docstring() -> None:
    for name in onnxplain.__all__:
        assert inspect.getdoc(getattr(onnxplain, name)), name


def test_every_error_is_public_and_has_one_base() -> None:
    from onnxplain.rewriter import errors

    own = {n for n, v in vars(errors).items() if inspect.isclass(v) and issubclass(v, Exception)}
    assert own <= set(onnxplain.__all__)
    errors_only = {n for n in own if not issubclass(getattr(onnxplain, n), Warning)}
    assert all(issubclass(getattr(onnxplain, name), onnxplain.ExplainError) for name in errors_only)


def test_import_is_light() -> None:
    heavy = "onnxruntime torch captum matplotlib scipy onnx_ad".split()
    done = python(f"import onnxplain; print([m for m in {heavy!r} if m in sys.modules])")
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")


def test_our_folders_are_no_packages_of_their_own() -> None:
    """A second `rules` beside `onnxplain.rules` would be a second registry."""
    done = python(
        "import onnxplain; print([m for m in ('rewriter', 'rules', 'runtime', 'models') if m in sys.modules])"
    )
    assert done.stdout == "[]\n"


def test_version_of_the_module() -> None:
    command = [sys.executable, "-W", "error", "-m", "onnxplain", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"onnxplain {onnxplain.__version__}\n", "")


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compiled, read and shown where there is no onnxruntime."""
    path = tmp_path_factory.mktemp("face") / "a.onnx"
    code = f"""
import warnings, onnxplain
from onnxplain.runtime.cli import main
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always", onnxplain.ExplainWarning)
    explainer = onnxplain.compile({str(models.path("mnist_lenet"))!r}, "guided-backprop", reduce="sum")
assert [w.category for w in told] == [onnxplain.ExplainWarning]
assert "is not proved: onnxruntime cannot be imported" in str(told[0].message)
assert set(explainer.card.proof) == {{"unproved"}}
explainer.save({str(path)!r})
assert onnxplain.load({str(path)!r}).card == explainer.card
explainer.check_source({str(models.path("mnist_lenet"))!r})
assert main(["show", {str(path)!r}]) == main(["check", {str(models.path("mnist_lenet"))!r}]) == 0
assert main(["methods"]) == 0
assert "onnxruntime" not in sys.modules
"""
    done = python(code, blocked=("onnxruntime",))
    assert (done.returncode, done.stderr) == (0, "")
    return path


def test_compiling_needs_no_onnxruntime(compiled: Path) -> None:
    import numpy as np

    result = onnxplain.load(compiled)(np.ones((1, 1, 28, 28)))
    assert result.heatmap is not None and result.heatmap.shape == (1, 28, 28)


def test_running_without_onnxruntime_names_both_extras(compiled: Path) -> None:
    code = f"""
import numpy, onnxplain
try:
    onnxplain.load({str(compiled)!r})(numpy.ones((1, 1, 28, 28)))
except onnxplain.ProviderError as error:
    print(error)
"""
    done = python(code, blocked=("onnxruntime",))
    assert (done.returncode, done.stderr) == (0, "")
    assert "install exactly one of onnxplain[cpu] and onnxplain[gpu]" in done.stdout


def test_the_command_compiles_without_onnxruntime(tmp_path: Path) -> None:
    words = ["compile", str(models.path("mnist_lenet")), "-o", "a.onnx"]
    code = f"from onnxplain.runtime.cli import main; sys.exit(main({words!r}))"
    done = python(code, blocked=("onnxruntime",), cwd=tmp_path)
    assert done.returncode == 0 and [path.name for path in tmp_path.iterdir()] == ["a.onnx"]
    assert done.stderr.startswith("onnxplain: the forward pass is not proved: onnxruntime cannot be imported")
    assert done.stderr.count("\n") == 1


def test_the_command_without_onnxruntime(tmp_path: Path) -> None:
    words = ["explain", str(models.path("mnist_lenet")), str(models.photo("panda"))]
    code = f"from onnxplain.runtime.cli import main; sys.exit(main({words!r}))"
    done = python(code, blocked=("onnxruntime",), cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "") and done.stderr.count("\n") == 1
    assert "onnxplain[cpu] and onnxplain[gpu]" in done.stderr and not list(tmp_path.iterdir())


def test_the_docstring_calls_what_exists() -> None:
    """The examples at the top of `help(onnxplain)`."""
    text = onnxplain.__doc__ or ""
    for name in ("compile", "load", "explain"):
        assert f"onnxplain.{name}(" in text and callable(getattr(onnxplain, name))
