"""A batch of one is freed only where two samples go through as two."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest

from onnxplain.rewriter.compile import Request, compile_model
from onnxplain.rewriter.graph import prepare
from onnxplain.rules.registry import find

MIXING = {
    "softmax": "y = Softmax <axis = 0> (x)",
    "softmax_moved": "t = Transpose <perm = [1, 0, 2, 3]> (x)  s = Softmax <axis = 1> (t)  "
    "y = Transpose <perm = [1, 0, 2, 3]> (s)",
    "normalised_by_all": "m = ReduceMean <keepdims = 1> (x)  y = Sub (x, m)",
    "normalised_by_axis": "a = Constant <value_ints = [0]> ()  m = ReduceMax <keepdims = 1> (x, a)  y = Sub (x, m)",
    "running": "a = Constant <value_int = 0> ()  y = CumSum (x, a)",
    "lp": "y = LpNormalization <axis = 0> (x)",
}
SAFE = {
    "softmax": "y = Softmax <axis = 1> (x)",
    "softmax_moved": "t = Transpose <perm = [1, 0, 2, 3]> (x)  s = Softmax <axis = 0> (t)  "
    "y = Transpose <perm = [1, 0, 2, 3]> (s)",
    "normalised": "a = Constant <value_ints = [1, 2, 3]> ()  m = ReduceMean <keepdims = 1> (x, a)  y = Sub (x, m)",
    "reshaped": "s = Constant <value_ints = [1, -1, 2, 5]> ()  r = Reshape (x, s)  "
    "b = Constant <value_ints = [1, 3, 4, 5]> ()  y = Reshape (r, b)",
}


def model(body: str) -> onnx.ModelProto:
    text = (
        f'<ir_version: 10, opset_import: ["" : 18]> g (float[1,3,4,5] x) => (float[1,3,4,5] y) {{ {body} }}'
    )
    return onnx.parser.parse_model(text)


@pytest.mark.parametrize("name", MIXING)
def test_a_batch_that_an_operator_mixes_stays_fixed(name: str) -> None:
    graph = prepare(model(MIXING[name]))
    assert list(graph.inputs[0].shape) == [1, 3, 4, 5]
    (note,) = graph.draft.notes
    assert "the batch stays fixed at 1" in note and "works along the batch" in note


@pytest.mark.parametrize("name", SAFE)
def test_a_batch_that_goes_through_is_freed(name: str) -> None:
    emitted, card = compile_model(model(SAFE[name]), find("saliency"), Request(target="top"))
    assert not card.approximations
    session = onnxruntime.InferenceSession(emitted.SerializeToString(), providers=["CPUExecutionProvider"])
    x = np.random.default_rng(0).normal(size=(3, 3, 4, 5)).astype(np.float32)
    for name in ("y", "attribution"):
        together = np.asarray(session.run([name], {"x": x})[0])
        alone = [np.asarray(session.run([name], {"x": x[i : i + 1]})[0]) for i in range(3)]
        # one kernel may sum in another order for another batch: some units in the last place
        np.testing.assert_allclose(together, np.concatenate(alone), rtol=1e-5, atol=1e-7)
