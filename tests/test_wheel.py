"""The wheel: what is in it, and that it works where the repository is not. Needs a package index."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import zipfile
from dataclasses import dataclass
from importlib.metadata import distributions, version
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parent.parent
FOLDERS = {"onnxplain": "src/onnxplain"} | {
    f"onnxplain/{name}": name for name in ("models", "rewriter", "rules", "runtime", "web")
}
DATA = {
    "onnxplain/models": ("*.onnx", "*.json", "*.txt", "*.npz", "LICENSES.md", "photos/*.jpg"),
    "onnxplain/web": ("*.html", "*.css", "*.js", "*.svg", "package.json", "package-lock.json"),
}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
VERSION = PROJECT["project"]["version"]

pytestmark = pytest.mark.slow


def run(*words: object, cwd: Path, **extra: str) -> subprocess.CompletedProcess[str]:
    env = {
        key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))
    } | extra
    return subprocess.run(
        [str(word) for word in words],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )


def worked(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the source distribution, as installers build it; the working tree stays as it is."""
    out = tmp_path_factory.mktemp("dist")
    worked(run(sys.executable, "-m", "build", "--outdir", out, ROOT, cwd=out))
    (found,) = out.glob("*.whl")
    return found


@dataclass(frozen=True)
class Place:
    """A virtual environment with the wheel and its dependencies, and a folder far from the repository."""

    scripts: Path
    folder: Path

    @property
    def python(self) -> Path:
        return self.scripts / "python"


def versions_of_these_tests() -> list[str]:
    """`name==version` of what is installed here: the wheel is tried with the versions that everything else is."""
    return [
        f"{name}=={version(name)}" for name in sorted({item.name for item in distributions()} - {"onnxplain"})
    ]


@pytest.fixture(scope="module")
def place(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Place:
    root = tmp_path_factory.mktemp("venv")
    worked(run(sys.executable, "-m", "venv", root / "v", cwd=root))
    found = Place(
        root / "v" / ("Scripts" if os.name == "nt" else "bin"), tmp_path_factory.mktemp("elsewhere")
    )
    (root / "constraints.txt").write_text("\n".join(versions_of_these_tests()), encoding="utf-8")
    install = [found.python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    worked(run(*install, "-c", root / "constraints.txt", f"{wheel}[cpu]", cwd=root))
    return found


def expected_files() -> set[str]:
    """Every module and every data file of the mapped folders, by where it lands."""
    found = set()
    for package, folder in FOLDERS.items():
        base = ROOT / folder
        skipped = ("egg-info", "node_modules")
        files = [file for file in base.rglob("*.py") if not any(name in str(file) for name in skipped)]
        files += [file for pattern in DATA.get(package, ()) for file in base.glob(pattern)]
        if package == "onnxplain":
            files.append(base / "py.typed")
        found |= {f"{package}/{file.relative_to(base).as_posix()}" for file in files}
    return found


def test_the_list_of_packages_is_complete() -> None:
    """It is written by hand; a forgotten one would be missing from the wheel only."""
    folders = {Path(file).parent.as_posix() for file in expected_files() if file.endswith(".py")}
    assert {name.replace(".", "/") for name in PROJECT["tool"]["setuptools"]["packages"]} == folders


def test_the_wheel_holds_exactly_what_it_should(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        files = {name for name in archive.namelist() if not name.endswith("/")}
        info = {name.split("/", 1)[1] for name in files if ".dist-info/" in name}
        assert {name for name in files if ".dist-info/" not in name} == expected_files()
    assert info == {
        "METADATA",
        "WHEEL",
        "RECORD",
        "entry_points.txt",
        "top_level.txt",
        "licenses/LICENSE",
        "licenses/models/LICENSES.md",
    }
    shipped = {"mnist_lenet.onnx", "mnist_lenet.json", "labels_imagenet1k.txt", "photos/cat_chelsea.jpg"}
    assert {f"onnxplain/models/{name}" for name in shipped} | {"onnxplain/py.typed"} <= files


def test_the_wheel_says_what_it_needs(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("METADATA")]
        lines = archive.read(name).decode().splitlines()
    assert wheel.name.endswith("-py3-none-any.whl")
    assert "Requires-Python: >=3.11" in lines and "License-Expression: Apache-2.0" in lines
    required = [line.removeprefix("Requires-Dist: ") for line in lines if line.startswith("Requires-Dist: ")]
    always = {line.split(">")[0] for line in required if "extra ==" not in line}
    assert always == {"onnx", "onnx-graphsurgeon", "numpy", "pillow", "typer", "rich"}


def test_the_demo_from_an_installed_wheel(place: Place) -> None:
    done = run(place.scripts / "onnxplain", "demo", "-o", "demo", cwd=place.folder, PYTHONWARNINGS="error")
    assert "cat_chelsea.jpg: a cat having a striped coat (282)" in worked(done)
    assert done.stderr == ""
    made = sorted(path.name for path in (place.folder / "demo").iterdir())
    assert made == ["cat.png", "efficientnet_lite0.guided-backprop.onnx"]
    with Image.open(place.folder / "demo" / "cat.png") as panel:
        panel.load()
        assert panel.width == 7 * 256 + 6 * 20 + 2 * 28
    shown = worked(run(place.scripts / "onnxplain", "show", "demo/" + made[1], cwd=place.folder))
    assert "method  guided-backprop" in shown


def test_the_face_of_an_installed_wheel(place: Place) -> None:
    code = "import onnxplain, pathlib; print(onnxplain.__version__, pathlib.Path(onnxplain.__file__).parents[1].name)"
    assert worked(run(place.python, "-W", "error", "-c", code, cwd=place.folder)).split() == [
        VERSION,
        "site-packages",
    ]
    said = worked(run(place.python, "-m", "onnxplain", "--version", cwd=place.folder))
    assert said == f"onnxplain {VERSION}\n"


@pytest.mark.parametrize("name", ["rewriter", "rules", "runtime", "models", "tests"])
def test_nothing_generic_lands_in_site_packages(place: Place, name: str) -> None:
    done = run(place.python, "-c", f"import {name}", cwd=place.folder)
    assert done.returncode == 1 and f"No module named '{name}'" in done.stderr


def test_the_installed_package_is_typed(place: Place) -> None:
    code = "import importlib.resources as r; print(r.files('onnxplain').joinpath('py.typed').is_file())"
    assert worked(run(place.python, "-c", code, cwd=place.folder)) == "True\n"
