"""Imports flow one way, the wheel holds every package, and no file or function outgrows its screen."""

from __future__ import annotations

import ast
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import onnxplain
from onnxplain import models, rewriter, rules, runtime

ROOT = Path(__file__).parent.parent
FLOORS = {
    "models": frozenset[str](),
    "rewriter": frozenset[str](),
    "rules": frozenset({"rewriter"}),
    "runtime": frozenset({"rewriter", "rules", "models"}),
}
"""Folder -> the other folders it may import from. The face, src/onnxplain, may import all."""

MAX_FILE, MAX_FUNCTION = 400, 40
FOLDERS = (*FLOORS, "src")


def sources(folder: str) -> list[Path]:
    found = sorted((ROOT / folder).rglob("*.py"))
    assert found, f"{folder} holds no Python: the test looks in the wrong place"
    return found


def every_source() -> list[Path]:
    return [path for folder in FOLDERS for path in sources(folder)]


def imported(path: Path) -> Iterator[str]:
    """Absolute names of all modules that a file imports, inside functions and TYPE_CHECKING too.

    `from ..rules import x` in runtime/cli/main.py is onnxplain.rules.x and, should x be a module, that module.
    """
    package = ("onnxplain", *path.relative_to(ROOT).parent.parts)
    if package[1:3] == ("src", "onnxplain"):
        package = ("onnxplain", *package[3:])
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            assert not node.level or base, f"{path}: import beyond the package"
            stem = ".".join((*base, *(node.module or "").split("."))).strip(".")
            yield from (f"{stem}.{alias.name}" for alias in node.names)


def test_imports_are_read_as_python_reads_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    path = tmp_path / "runtime" / "cli" / "main.py"
    path.parent.mkdir(parents=True)
    path.write_text(
        "import os\nfrom . import a\nfrom .b import c\nfrom .. import d\nfrom ...rules import e\n"
        "def f():\n    from ... import models\n    import onnxplain.rules.methods\n"
    )
    assert set(imported(path)) == {
        "os",
        "onnxplain.runtime.cli.a",
        "onnxplain.runtime.cli.b.c",
        "onnxplain.runtime.d",
        "onnxplain.rules.e",
        "onnxplain.models",
        "onnxplain.rules.methods",
    }


@pytest.mark.parametrize("floor", FLOORS)
def test_imports_flow_one_way(floor: str) -> None:
    wrong = []
    for path in sources(floor):
        for name in imported(path):
            head, _, rest = name.partition(".")
            target = rest.partition(".")[0] if head == "onnxplain" else None
            if target is not None and target != floor and target not in FLOORS[floor]:
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
            if head in FLOORS:
                wrong.append(f"{path.relative_to(ROOT)} imports {name}; it is called onnxplain.{name}")
    assert not wrong, "\n".join(wrong)


def test_the_compiler_loads_no_runtime() -> None:
    """The rewriter emits graphs and runs none, so that it works where no onnxruntime is."""
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for floor in ("models", "rewriter", "rules")
        for path in sources(floor)
        for name in imported(path)
        if name.partition(".")[0] in ("onnxruntime", "torch", "captum")
    ]
    assert not wrong, "\n".join(wrong)


def test_onnxruntime_is_imported_in_one_place() -> None:
    """Elsewhere its telemetry would be on; types may be named."""
    wrong = []
    for path in sources("runtime"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for block in ast.walk(tree):
            if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING":
                block.body = [ast.Pass()]
        names = [
            alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
        ]
        names += [str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        wrong += [str(path) for name in names if name.partition(".")[0] == "onnxruntime"]
    assert not wrong


def test_the_wheel_holds_every_package() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    folders = settings["package-dir"]
    found = set()
    for package, folder in folders.items():
        for init in (ROOT / folder).rglob("__init__.py"):
            found.add(".".join((package, *init.parent.relative_to(ROOT / folder).parts)))
    assert found == set(settings["packages"])
    assert len(settings["packages"]) == len(set(settings["packages"]))


def test_every_folder_of_python_is_a_package() -> None:
    assert not [path for path in every_source() if not (path.parent / "__init__.py").is_file()]


def test_nothing_is_called_utils() -> None:
    vague = {"utils", "util", "helpers", "common", "misc"}
    assert not [path for path in every_source() if path.stem in vague or path.parent.name in vague]


def test_files_fit() -> None:
    sizes = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for path in every_source()
    }
    assert not {path: size for path, size in sizes.items() if size > MAX_FILE}


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """Name and length of each function: from def to its last line, without the docstring. The parameters of a
    command are its options, a table rather than code, and do not count."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert node.end_lineno is not None
            start = node.body[0].lineno if _is_command(node) else node.lineno
            length = node.end_lineno - start + 1
            if ast.get_docstring(node) is not None:
                text = node.body[0]
                assert text.end_lineno is not None
                length -= text.end_lineno - text.lineno + 1
            yield node.name, length


def _is_command(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return node.name.endswith("_command") or any(
        "command" in ast.unparse(mark) for mark in node.decorator_list
    )


def test_functions_fit() -> None:
    long = [
        f"{path.relative_to(ROOT)}: {name} has {length} lines"
        for path in every_source()
        for name, length in functions(path)
        if length > MAX_FUNCTION
    ]
    assert not long, "\n".join(long)


@pytest.mark.parametrize("name", FLOORS)
def test_no_folder_is_a_module_of_its_own(name: str) -> None:
    """`import rules` from the repository root would make a second registry."""
    loaded = sys.modules.get(name)
    file = getattr(loaded, "__file__", None)
    assert file is None or not Path(file).resolve().is_relative_to(ROOT)


def test_the_packages_are_those_of_this_tree() -> None:
    """Whatever is tested here is the code beside the tests: installed in place, or a copy of the same bytes."""
    folders = ((onnxplain, "src/onnxplain"), (models, "models"), (rewriter, "rewriter"), (rules, "rules"))
    for package, folder in (*folders, (runtime, "runtime")):
        imported = Path(str(package.__file__)).parent
        for source in (ROOT / folder).rglob("*.py"):
            copy = imported / source.relative_to(ROOT / folder)
            assert copy.read_bytes() == source.read_bytes(), f"{copy} is not {source}; install again"
