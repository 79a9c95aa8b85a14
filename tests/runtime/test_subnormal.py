"""Subnormal numbers of the caller's thread, before, while and after onnxruntime treats them as 0.

Every check runs in a process of its own: onnxruntime sets the flags of the thread that opens the first session.
"""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from onnxplain.runtime import subnormal

HEAD = """
import sys
import numpy as np
import onnxplain
from onnxplain import models
from PIL import Image
from onnxplain.runtime.subnormal import flushed

TINY = np.float32(1e-38)
def kept():
    # in C, in two widths and by both flags: a result that is subnormal, and an operand that is
    half = TINY * np.float32(0.5)
    return half > 0 and half * np.float32(2**30) > 0 and np.float64(1e-308) * 0.5 > 0 and 5e-324 * 1.0 > 0
assert kept()
"""

WAYS = {
    "compile, run": "e = onnxplain.compile(models.path('mnist_lenet'), 'saliency')\nassert kept()\n"
    "e(np.zeros((2, 1, 28, 28), np.float32), target=3)",
    "load, run": "path = sys.argv[1]\nonnxplain.compile(models.path('mnist_lenet'), 'saliency').save(path)\n"
    "e = onnxplain.load(path)\ne.session\nassert kept()\ne(np.zeros((1, 1, 28, 28), np.float32), target=3)",
    "explain": "onnxplain.explain(models.path('mnist_lenet'), Image.new('L', (28, 28)), 'saliency')",
    "perturb": "onnxplain.perturb(models.path('mnist_lenet'), Image.new('L', (28, 28)), 'occlusion')",
    "a session": "from onnxplain.runtime.providers import create_session\n"
    "create_session(str(models.path('mnist_lenet')))",
    "a session that fails": "from onnxplain.runtime.providers import create_session\n"
    "try: create_session(b'nonsense')\nexcept onnxplain.ModelError: pass",
}


@pytest.mark.parametrize("way", WAYS)
def test_the_callers_numbers_stay(way: str, tmp_path: object) -> None:
    code = f"{HEAD}\n{WAYS[way]}\nassert kept(), 'they are 0 now'\n"
    ran = subprocess.run(
        [sys.executable, "-c", code, f"{tmp_path}/e.onnx"], capture_output=True, text=True, timeout=120
    )
    assert ran.returncode == 0, ran.stderr


@pytest.mark.skipif(
    subnormal._library() is None, reason="the flags of a thread are set on Linux on x86-64 only"
)
def test_they_are_zero_inside_and_come_back() -> None:
    tiny = np.full(4, 1e-38, np.float32)
    with subnormal.flushed():
        inside = tiny * np.float32(0.5)
    with pytest.raises(RuntimeError), subnormal.flushed():
        raise RuntimeError
    after = tiny * np.float32(0.5)
    assert not inside.any() and (after > 0).all()


def test_elsewhere_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subnormal, "_library", lambda: None)
    with subnormal.flushed():
        assert np.float32(1e-38) * np.float32(0.5) > 0


def test_errors_come_out_of_the_thread() -> None:
    def fail() -> None:
        raise KeyError("inside")

    with pytest.raises(KeyError, match="inside"):
        subnormal.apart(fail)
    assert subnormal.apart(lambda: 5) == 5
