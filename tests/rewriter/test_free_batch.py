"""A model exported for one picture takes several, where each keeps to itself."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import numpy_helper

from onnxplain.rewriter.compile import Request, compile_model
from onnxplain.rewriter.draft import draft
from onnxplain.rewriter.errors import TargetError, UnsupportedError
from onnxplain.rewriter.passes.batch import free_batch
from onnxplain.rewriter.passes.constants import fold
from onnxplain.rewriter.passes.shapes import UNKNOWN, infer
from onnxplain.rules.registry import find

from .nets import drafted, floats, net, run, sealed, unchanged

FREED = {
    "reshape to -1": "g (float[1,3,4,4] x) => (float[1,48] y) <int64[2] s = {1, -1}> { y = Reshape(x, s) }",
    "reshape to planes": "g (float[1,48] x) => (float[1,3,4,4] y) <int64[4] s = {1, 3, 4, 4}> { y = Reshape(x, s) }",
    "merge of the batch": """g (float[1,12,8] x) => (float[1,12,8] y)
        <int64[3] a = {4, 3, 8}, int64[3] b = {1, 12, 8}> {
        p = Reshape(x, a) q = Relu(p) r = Neg(q) y = Reshape(r, b) }""",
    "heads": """g (float[1,6,8] x) => (float[1,6,8] y) <int64[4] a = {1, 6, 2, 4}, int64[3] b = {2, 6, 4},
        int64[4] c = {1, 2, 6, 4}, int64[3] d = {1, 6, 8}> {
        p = Reshape(x, a) q = Transpose <perm = [0, 2, 1, 3]> (p) r = Reshape(q, b) k = Transpose <perm = [0, 2, 1]> (r)
        s = MatMul(r, k) t = Softmax(s) u = MatMul(t, r) v = Reshape(u, c) w = Transpose <perm = [0, 2, 1, 3]> (v)
        y = Reshape(w, d) }""",
    "resize by sizes": """g (float[1,2,4,4] x) => (float[1,2,6,9] y) <int64[4] s = {1, 2, 6, 9}> {
        y = Resize <mode = "linear"> (x, , , s) }""",
    "resize by scales": """g (float[1,2,4,4] x) => (float[1,2,8,8] y) <float[4] s = {1, 1, 2, 2}> {
        y = Resize <mode = "nearest"> (x, , s) }""",
    "flatten and softmax": "g (float[1,2,4] x) => (float[1,8] y) { a = Flatten(x) y = Softmax(a) }",
    "sizes computed from the input": """g (float[1,3,4] x) => (float[1,12] y)
        <int64 zero = {0}, int64[1] axis = {0}, int64[1] minus = {-1}> {
        s = Shape(x) n = Gather(s, zero) n1 = Unsqueeze(n, axis) t = Concat <axis = 0> (n1, minus)
        y = Reshape(x, t) }""",
    "squeeze of another axis": """g (float[1,1,4] x) => (float[1,4] y) <int64[1] a = {1}> {
        b = Relu(x) y = Squeeze(b, a) }""",
}


@pytest.mark.parametrize("case", FREED)
def test_a_freed_batch_of_three_equals_three_singles(case: str) -> None:
    model = net(FREED[case])
    work = draft(model)
    fold(work)
    free_batch(work)
    assert not work.notes
    for value in (*work.graph.input, *work.graph.output):
        assert value.type.tensor_type.shape.dim[0].dim_param == "N"
    shape = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
    x = floats(3, *shape[1:])
    unchanged(work, model, {"x": x[:1]})
    want = np.concatenate([run(model, {"x": x[i : i + 1]})["y"] for i in range(3)])
    assert np.allclose(
        run(sealed(work), {"x": x})["y"], want, rtol=1e-6, atol=1e-7
    )  # MatMul may block differently


@pytest.mark.parametrize("case", FREED)
def test_explanations_of_a_freed_batch(case: str) -> None:
    """The whole way: a batch of three attributions equals three single ones."""
    model = net(FREED[case])
    made, card = compile_model(model, find("saliency"), Request(target="top", head="prob"))
    assert not card.approximations
    shape = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
    x = floats(3, *shape[1:])
    singles = np.concatenate([run(made, {"x": x[i : i + 1]})["attribution"] for i in range(3)])
    assert np.allclose(run(made, {"x": x})["attribution"], singles, rtol=1e-6, atol=1e-6)


def test_several_inputs_are_freed_together() -> None:
    model = net(
        """g (float[1,3] a, float[1,4] b, float[4,3] w) => (float[1,3] y, float[1,7] z) {
          c = MatMul(b, w) y = Add(a, c) z = Concat <axis = 1> (a, b) }"""
    )
    work = draft(model)
    free_batch(work)
    assert not work.notes
    types = infer(work)
    assert [types[name].shape for name in ("a", "b", "w", "y", "z")] == [
        ("N", 3),
        ("N", 4),
        (4, 3),
        ("N", 3),
        ("N", 7),
    ]


FIXED = {
    "the batch axis is squeezed": """g (float[1,3] x) => (float[3] y) <int64[1] a = {0}> { y = Squeeze(x, a) }""",
    "a Reshape drops it": "g (float[1,3] x) => (float[3] y) <int64[1] a = {3}> { y = Reshape(x, a) }",
    "a sum over the batch": "g (float[1,3] x) => (float[1,3] y) <int64[1] a = {0}> { y = ReduceSum(x, a) }",
    "an output without the batch": "g (float[1,3] x) => (float[1,3] y, float[3,3] z) { y = Relu(x) z = Relu(w) }",
    "a Concat along the batch": "g (float[1,3] x) => (float[2,3] y) { y = Concat <axis = 0> (x, x) }",
}


SIDE_BY_SIDE = {
    "products of all with all": """g (float[1,4] x) => (float[1,4] y) {
        t = Transpose <perm = [1, 0]> (x) m = MatMul(t, x) y = MatMul(x, m) }""",
    "products over the batch": """g (float[1,4] x) => (float[1,4] y) {
        t = Transpose <perm = [1, 0]> (x) m = MatMul(x, t) s = Softmax <axis = 1> (m) y = MatMul(s, x) }""",
    "the first sample for everybody": """g (float[1,4] x) => (float[1,4] y) <int64 zero = {0}> {
        f = Gather <axis = 0> (x, zero) y = Sub(x, f) }""",
    "a slice of the batch": """g (float[1,4] x) => (float[1,4] y) <int64[1] a = {0}, int64[1] b = {1}> {
        f = Slice(x, a, b, a) y = Sub(x, f) }""",
    "Gemm of the transposed": """g (float[1,4] x) => (float[1,4] y) {
        m = Gemm <transA = 1> (x, x) y = MatMul(x, m) }""",
}


@pytest.mark.parametrize("case", SIDE_BY_SIDE)
def test_samples_that_meet_inside_the_graph_keep_the_batch_fixed(case: str) -> None:
    """Every output starts with the batch, and yet depends on all of it."""
    work = drafted(SIDE_BY_SIDE[case])
    fold(work)
    free_batch(work)
    assert len(work.notes) == 1, work.notes
    assert work.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 1


@pytest.mark.parametrize("case", FIXED)
def test_a_batch_that_cannot_be_freed_stays_and_a_note_says_why(case: str) -> None:
    model = net(FIXED[case])
    if "w" in model.graph.node[-1].input:
        model.graph.initializer.append(numpy_helper.from_array(floats(3, 3), "w"))
    work = draft(model)
    before = work.graph.SerializeToString(deterministic=True)
    free_batch(work)
    assert len(work.notes) == 1
    assert work.notes[0].startswith("the batch stays fixed at 1: ")
    assert work.graph.SerializeToString(deterministic=True) == before
    unchanged(work, model, {"x": floats(1, 3)})


def test_the_note_reaches_the_card_and_the_file_keeps_its_batch() -> None:
    model = net(
        """g (float[1,3] x) => (float[1,3] y) <int64[1] a = {0}> {
          b = Squeeze(x, a) c = Mul(b, b) y = Unsqueeze(c, a) }"""
    )
    made, card = compile_model(model, find("saliency"))
    assert "the batch stays fixed at 1" in card.approximations[0]
    assert [dim.dim_value for dim in made.graph.input[0].type.tensor_type.shape.dim] == [1, 3]
    x = floats(1, 3)
    got = run(made, {"x": x, "target": np.asarray([[1]], np.int64)})["attribution"]
    assert np.allclose(got, 2 * x * [[0, 1, 0]])


@pytest.mark.parametrize("shape", ["N,3", "4,3"])
def test_other_batches_are_left_alone(shape: str) -> None:
    work = drafted(f"g (float[{shape}] x) => (float[{shape}] y) {{ y = Relu(x) }}")
    before = work.graph.SerializeToString(deterministic=True)
    free_batch(work)
    assert work.graph.SerializeToString(deterministic=True) == before
    assert not work.notes


@pytest.mark.parametrize("opset", [17, 18])
@pytest.mark.parametrize("last", ["Reshape(t, s)", "Add(Shape(t), s)", "Resize(t, , , s)"])
def test_types_that_nobody_knows(last: str, opset: int) -> None:
    """A fused operator of onnxruntime makes a tensor of no known type: the error names the operator."""
    kind = "int64" if last.startswith("Add") else "float"
    text = f"g (float[1,6] x) => ({kind}[1,6] y) <int64[2] s = {{1, 6}}> {{ t = com.microsoft.QuickGelu(x) "
    if kind == "int64":
        text += "h = Shape(t) y = Add(h, s) }"
    else:
        text += f"y = {last} }}"
    model = net(text, opset, more='"com.microsoft" : 1')
    known = infer(draft(model))
    assert known["t"] == UNKNOWN
    with pytest.raises((UnsupportedError, TargetError), match=r"QuickGelu|floating-point|rank"):
        compile_model(model, find("saliency"), Request(target="top"))
