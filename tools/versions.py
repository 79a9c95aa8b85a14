"""The tests with the newest versions of every dependency, or with the oldest that pyproject.toml allows; and the pins.

    python tools/versions.py newest [arguments of pytest]
    python tools/versions.py oldest -n 2 --dist loadfile
    python tools/versions.py pin

`newest` and `oldest` make a fresh virtual environment each time and install the extras of the README's test command:
once with no constraint at all, once with every lower bound of pyproject.toml as the version. What the dependencies
themselves need is as new as they allow. `pin` writes constraints.txt: the newest versions of today, for all extras.
Run it when `newest` passes, and .ci/run after it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import tomllib
import venv
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PINS = ROOT / "constraints.txt"
BOUND = re.compile(r"(?P<name>[\w.-]+)(?:\[[\w,.-]+\])?\s*(?:>=|==)\s*(?P<version>[\w.]+)")

HEADER = """\
# The versions that the tests passed with, for `pip install -c constraints.txt`; ranges for users are in pyproject.toml.
# Written by `python tools/versions.py pin` on {machine}, Python {python}; do not edit.
# The libraries of CUDA are left out: onnxruntime-gpu and torch each name the ones that they were built with.
"""


def project() -> dict[str, Any]:
    return dict(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"])


def tested_extras() -> str:
    """Those of the README's test command, so that neither goes stale."""
    found = re.search(
        r"<!-- test command -->.*?'\.\[([a-z,]+)\]'", (ROOT / "README.md").read_text("utf-8"), re.S
    )
    assert found, "README.md has no test command"
    return found[1]


def oldest() -> list[str]:
    """`name==version` for every lower bound of a dependency or an extra.

    Raises ValueError where a name has two, or a requirement has none: then there is no oldest version to try.
    """
    extras: dict[str, list[str]] = project()["optional-dependencies"]
    bounds: dict[str, str] = {}
    for text in [*project()["dependencies"], *(text for extra in extras.values() for text in extra)]:
        found = BOUND.match(text)
        if not found:
            raise ValueError(f"pyproject.toml: {text!r} has no lower bound")
        name, version = found["name"], found["version"]
        if bounds.setdefault(name, version) != version:
            raise ValueError(f"pyproject.toml: {name} >= {version} here and >= {bounds[name]} there")
    return [f"{name}=={version}" for name, version in sorted(bounds.items())]


def newest() -> list[str]:
    return []


def environment(folder: Path) -> tuple[str, dict[str, str]]:
    """(the Python of a new virtual environment, variables without what would lead to another one)."""
    venv.create(folder, with_pip=True)
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))}
    kept["PIP_DISABLE_PIP_VERSION_CHECK"] = "1"
    return str(folder / ("Scripts" if os.name == "nt" else "bin") / "python"), kept


def run_tests(constraints: Iterable[str], arguments: list[str]) -> int:
    """pytest's exit status."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        python, variables = environment(folder / "venv")
        file = folder / "constraints.txt"
        file.write_text("\n".join(constraints), encoding="utf-8")
        wanted = [f".[{tested_extras()}]", "-c", str(file)]
        install = [python, "-m", "pip", "install", "--quiet", *wanted]
        subprocess.run(install, cwd=ROOT, env=variables, check=True)
        subprocess.run([python, "-m", "pip", "freeze"], cwd=ROOT, env=variables, check=True)
        tests = [python, "-m", "pytest", *arguments]
        return subprocess.run(tests, cwd=ROOT, env=variables, check=False).returncode


def pins() -> list[str]:
    """`name==version` of everything that all extras bring when nothing is installed. pip only resolves here."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        python, variables = environment(folder / "venv")
        pip = [python, "-m", "pip"]
        subprocess.run([*pip, "install", "--quiet", "--upgrade", "pip"], env=variables, check=True)
        found: dict[str, str] = {}
        # cpu and gpu exclude each other, so they are resolved one after the other; the first decides what both need.
        both = ("gpu", "cpu")
        for skipped in both:
            extras = ",".join(extra for extra in project()["optional-dependencies"] if extra != skipped)
            file, report = folder / "constraints.txt", folder / f"{skipped}.json"
            file.write_text("\n".join(f"{key}=={found[key]}" for key in found), encoding="utf-8")
            resolve = [
                *pip,
                "install",
                "--quiet",
                "--use-feature=fast-deps",
                "--dry-run",
                "--ignore-installed",
                f"--report={report}",
            ]
            subprocess.run([*resolve, "-c", str(file), f".[{extras}]"], cwd=ROOT, env=variables, check=True)
            for item in json.loads(report.read_text(encoding="utf-8"))["install"]:
                data = item["metadata"]
                # Without the local part: torch 2.13.0+cpu and torch 2.13.0 are the same release.
                found.setdefault(data["name"].lower().replace("_", "-"), data["version"].partition("+")[0])
    del found["onnxplain"]
    return [f"{key}=={found[key]}" for key in sorted(found) if not key.startswith(("nvidia-", "cuda-"))]


def main(words: list[str]) -> int:
    assert __doc__
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("versions", choices=("newest", "oldest", "pin"))
    chosen, arguments = parser.parse_known_args(words)
    if chosen.versions == "pin":
        machine = f"{platform.system()} {platform.machine()}"
        head = HEADER.format(machine=machine, python=platform.python_version())
        PINS.write_text(head + "\n".join(pins()) + "\n", encoding="utf-8")
        return 0
    return run_tests({"newest": newest, "oldest": oldest}[chosen.versions](), arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
