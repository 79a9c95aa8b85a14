"""The benchmark of WebAssembly runs what is exported, with what each file asks for."""

from __future__ import annotations

import pytest

from benchmarks.web import measure
from tests.web.browsing import RUNTIME, node


@pytest.mark.slow
@pytest.mark.skipif(not RUNTIME.is_dir(), reason="npm ci in web/ fetches onnxruntime-web")
@pytest.mark.parametrize(
    ("name", "methods"),
    [
        ("mnist_lenet", ("saliency", "linearscope.rows", "linearscope.columns")),
        ("esrgan_slim_x4", ("linearscope.rows", "linearscope.columns")),
    ],
)
def test_every_file_is_measured(name: str, methods: tuple[str, ...]) -> None:
    node()
    costs = measure(name, methods, 1, 2)
    assert tuple(costs.ratios) == methods and costs.forward.low > 0
    assert all(ratio.low > 0 for ratio in costs.ratios.values())
