"""The Node.js example gives what Python gives. Needs `npm ci --ignore-scripts` in examples/node."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import onnxplain
from onnxplain import models

EXAMPLE = Path(__file__).parent.parent.parent / "examples" / "node"


def test_the_lock_file_holds_what_the_package_asks_for() -> None:
    wanted = json.loads((EXAMPLE / "package.json").read_text())["dependencies"]
    locked = json.loads((EXAMPLE / "package-lock.json").read_text())["packages"]
    assert locked[""]["dependencies"] == wanted
    for name, entry in locked.items():
        assert not name or entry["integrity"].startswith("sha512-"), name


def test_the_example_runs(tmp_path: Path) -> None:
    node = shutil.which("node")
    if node is None or not (EXAMPLE / "node_modules" / "onnxruntime-node").is_dir():
        pytest.skip("needs node, and `npm ci --ignore-scripts` in examples/node")
    explainer = onnxplain.compile(models.path("mnist_lenet"), "saliency", reduce="maxabs")
    explainer.save(tmp_path / "lenet.onnx")
    x = (models.digits()[0][:1, None] / 255.0).astype("<f4")
    x.tofile(tmp_path / "x.f32")
    words = [node, str(EXAMPLE / "explain.mjs"), "lenet.onnx", "x.f32", "heat.f32"]
    ran = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    found = explainer(x)
    assert found.heatmap is not None
    assert ran.stdout == f"class {found.outputs['logits'].argmax()}, heat map 1 x 28 x 28\n"
    heat = np.fromfile(tmp_path / "heat.f32", "<f4").reshape(1, 28, 28)
    # two builds of onnxruntime may add in another order: float32 rounding of a few hundred terms
    np.testing.assert_allclose(heat, found.heatmap, rtol=1e-4, atol=1e-5 * np.abs(heat).max())
