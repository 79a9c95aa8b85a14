"""The examples give what Python gives, as far as this machine has what they need."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import onnxplain
from onnxplain import models
from onnxplain.runtime.explainer import Result

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
NODE = EXAMPLES / "node"


def test_the_lock_file_holds_what_the_package_asks_for() -> None:
    wanted = json.loads((NODE / "package.json").read_text())["dependencies"]
    locked = json.loads((NODE / "package-lock.json").read_text())["packages"]
    assert locked[""]["dependencies"] == wanted
    for name, entry in locked.items():
        assert not name or entry["integrity"].startswith("sha512-"), name


@pytest.fixture
def digit(tmp_path: Path) -> Result:
    """Writes lenet.onnx and x.f32 for an example to read; what Python says of them."""
    explainer = onnxplain.compile(models.path("mnist_lenet"), "saliency", reduce="maxabs")
    explainer.save(tmp_path / "lenet.onnx")
    x = (models.digits()[0][:1, None] / 255.0).astype("<f4")
    x.tofile(tmp_path / "x.f32")
    return explainer(x)


def check(words: list[str], folder: Path, wanted: Result, said: str) -> None:
    """Run an example; the class it says and the heat map it writes are those of Python."""
    command = [*words, "lenet.onnx", "x.f32", "heat.f32"]
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == f"class {wanted.outputs['logits'].argmax()}, heat map {said}\n"
    assert wanted.heatmap is not None
    heat = np.fromfile(folder / "heat.f32", "<f4").reshape(1, 28, 28)
    # two builds of onnxruntime may add in another order: float32 rounding of a few hundred terms
    np.testing.assert_allclose(heat, wanted.heatmap, rtol=1e-4, atol=1e-5 * np.abs(heat).max())


def test_the_node_example_runs(tmp_path: Path, digit: Result) -> None:
    node = shutil.which("node")
    if node is None or not (NODE / "node_modules" / "onnxruntime-node").is_dir():
        pytest.skip("needs node, and `npm ci --ignore-scripts` in examples/node")
    check([node, str(NODE / "explain.mjs")], tmp_path, digit, "1 x 28 x 28")


def test_the_cpp_example_compiles_and_runs(tmp_path: Path, digit: Result) -> None:
    compiler, release = shutil.which("g++"), Path(os.environ.get("ORT", "/nowhere"))
    if compiler is None or not (release / "include" / "onnxruntime_cxx_api.h").is_file():
        pytest.skip("needs g++, and ORT, the folder of a release of onnxruntime (include/, lib/)")
    source, lib = EXAMPLES / "cpp" / "explain.cpp", release / "lib"
    flags = [
        "-std=c++17",
        "-Wall",
        "-Wextra",
        "-Werror",
        f"-I{release / 'include'}",
        f"-L{lib}",
        f"-Wl,-rpath,{lib}",
    ]
    words = [compiler, str(source), *flags, "-lonnxruntime", "-o", str(tmp_path / "explain")]
    built = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert built.returncode == 0, built.stderr
    check([str(tmp_path / "explain")], tmp_path, digit, "of 784 pixels")
