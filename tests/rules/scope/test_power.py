"""Singular triplets by the loop in the file against the stored singular values and the stored matrix F.

onnxruntime computes in float32: measured errors of the values are up to 5e-7 relative after 200 steps; 1e-4 is
accepted, as the rate is the square of a ratio of neighbours, 0.87 in the slowest of these nets. Residuals of small
values have a floor: the rounding of F'F v is relative to the largest one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

import onnxplain
from onnxplain.rewriter.compile import Request, compile_model
from onnxplain.rewriter.draft import Dim
from onnxplain.rewriter.errors import OptionError, TargetError
from onnxplain.rewriter.testing import check_forward_unchanged
from onnxplain.rules.registry import find
from tests.rules.forward import Runner
from tests.rules.scope.golden import NETS, image, model, run, stored

TOLERANCE = 1e-4

Array = NDArray[Any]


def compiled(
    net: onnx.ModelProto, shapes: Mapping[str, tuple[Dim, ...]] | None = None, **options: Any
) -> onnx.ModelProto:
    return compile_model(net, find("linearscope.svd"), Request(shapes=shapes, options=options))[0]


def triplets(found: Mapping[str, Array]) -> tuple[Array, Array, Array, Array]:
    """σ (k,), u (k, outputs), v (k, inputs), residuals (k,)."""
    sigma = found["singular_values"][:, 0]
    u, v = (found[name].reshape(len(sigma), -1) for name in ("eigen_outputs", "eigen_inputs"))
    return sigma, u, v, found["residuals"][:, 0]


@pytest.mark.parametrize("name", NETS)
def test_triplets_of_the_stored_matrix(name: str) -> None:
    known, k = stored(name), 3
    found = run(compiled(model(name), k=k, steps=200), {"x": image(name)})
    sigma, u, v, residuals = triplets(found)
    want = known["scope_sv"][:k]
    assert want[-1] > 1e-3 * want[0], "the rank is that of k values"
    np.testing.assert_allclose(sigma, want, rtol=TOLERANCE)
    f = known["scope_F"]
    np.testing.assert_allclose(f @ v.T, u.T * sigma, atol=TOLERANCE * want[0])
    np.testing.assert_allclose(f.T @ u.T, v.T * sigma, atol=TOLERANCE * want[0])
    for vectors in (u, v):
        np.testing.assert_allclose(vectors @ vectors.T, np.eye(k), atol=TOLERANCE)
    apart = np.linalg.norm(f.T @ u.T - v.T * sigma, axis=0) / sigma
    floor = 1e-6 * (want[0] / want) ** 2
    assert (np.abs(residuals - apart) <= floor + TOLERANCE).all()
    assert (residuals <= floor + TOLERANCE).all()
    top = np.abs(u).argmax(axis=1)
    assert (u[np.arange(k), top] > 0).all()


@pytest.mark.parametrize("name", ["attention", "i2i"])
def test_options_freeze_as_they_do_elsewhere(name: str) -> None:
    found = run(compiled(model(name), k=2, steps=300, norm="std"), {"x": image(name)})
    np.testing.assert_allclose(
        found["singular_values"][:, 0], stored(name)["scope_sv_stdonly"][:2], rtol=TOLERANCE
    )


def diagonal(values: list[float], size: int = 8, seed: int = 0) -> onnx.ModelProto:
    """y = x W with these singular values."""
    rng = np.random.default_rng(seed)
    u, v = (np.linalg.qr(rng.standard_normal((size, size)))[0] for _ in range(2))
    w = (u[:, : len(values)] * values) @ v[:, : len(values)].T
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", size])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", size])],
        [numpy_helper.from_array(w.astype(np.float32), "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


SLOW = [1.0, 0.95, 0.5, 0.3]
ZEROS = np.zeros((1, 8), np.float32)


def test_momentum_is_faster_and_too_much_of_it_shows() -> None:
    """σ = 1, .95, ...: the best m for one vector is .95^4/4 = 0.204, the limit 0.25."""
    residual = {
        m: run(compiled(diagonal(SLOW), steps=40, momentum=m), {"x": ZEROS})["residuals"][0, 0]
        for m in (0.0, 0.2, 0.3, 2.0)
    }
    assert residual[0.2] < 1e-4
    assert residual[0.0] > 10 * residual[0.2]
    assert residual[0.3] > 1e-2 and residual[2.0] > 1e-2
    longer = [
        run(compiled(diagonal(SLOW), steps=steps, momentum=0.3), {"x": ZEROS})["residuals"][0, 0]
        for steps in (201, 203, 207, 213)
    ]
    assert max(longer) > 1e-2, "no number of steps helps"


def test_momentum_for_a_block() -> None:
    """Below σ⁴/4 of the last one asked for, 0.0156 for 0.5, all of them converge."""
    found = run(compiled(diagonal(SLOW), k=3, steps=120, momentum=0.5 * 0.3**4), {"x": ZEROS})
    np.testing.assert_allclose(found["singular_values"][:, 0], SLOW[:3], rtol=TOLERANCE)
    assert found["residuals"].max() < 1e-3


def test_too_few_steps_show() -> None:
    found = run(compiled(diagonal(SLOW), steps=2), {"x": ZEROS})
    assert found["residuals"].min() > 1e-2


def test_equal_values_give_a_basis_of_their_space() -> None:
    net = diagonal([2.0, 2.0, 0.5])
    w = numpy_helper.to_array(net.graph.initializer[0])
    sigma, u, v, _ = triplets(run(compiled(net, k=2, steps=30), {"x": ZEROS}))
    np.testing.assert_allclose(sigma, [2.0, 2.0], rtol=TOLERANCE)
    left, _, right = np.linalg.svd(w.T)
    for vectors, basis in ((u, left[:, :2].T), (v, right[:2])):
        np.testing.assert_allclose(vectors.T @ vectors, basis.T @ basis, atol=TOLERANCE)


def test_beyond_the_rank_and_without_any() -> None:
    sigma, _, v, _ = triplets(run(compiled(diagonal([3.0, 1.0]), k=4, steps=40), {"x": ZEROS}))
    np.testing.assert_allclose(sigma, [3.0, 1.0, 0.0, 0.0], atol=1e-5)
    np.testing.assert_allclose(v[:2] @ v[:2].T, np.eye(2), atol=TOLERANCE)
    for name, value in run(compiled(diagonal([0.0]), k=2, steps=5), {"x": ZEROS}).items():
        assert np.isfinite(value).all(), name
        assert name == "eigen_inputs" or not value.any(), name


def test_start_vectors_can_be_fed() -> None:
    net, start = diagonal(SLOW), np.eye(2, 8, dtype=np.float32) * 3
    made = compiled(net, k=2, steps=1, start="input")
    assert [v.name for v in made.graph.input] == ["x", "start"]
    w = numpy_helper.to_array(net.graph.initializer[0])
    found = run(made, {"x": ZEROS, "start": start})
    # One step reports what the first vectors give, of unit length.
    np.testing.assert_allclose(
        found["singular_values"][:, 0], np.sort(np.linalg.norm(w[:2], axis=1))[::-1], rtol=1e-5
    )


def test_the_seed_decides_the_bytes() -> None:
    net = diagonal(SLOW)
    a, b, c = (compiled(net, k=2, seed=seed).SerializeToString(deterministic=True) for seed in (1, 1, 2))
    assert a == b and a != c
    values = [run(compiled(net, k=2, steps=200, seed=s), {"x": ZEROS})["singular_values"] for s in (1, 2)]
    np.testing.assert_allclose(values[0], values[1], rtol=TOLERANCE)


@pytest.mark.parametrize("name", ["cnn_odd", "i2i"])
def test_the_forward_pass_is_unchanged_and_no_weight_is_there_twice(name: str) -> None:
    made = compiled(model(name), k=2, steps=3)
    check_forward_unchanged(model(name), made, {"x": image(name)}, run=Runner())
    (loop,) = [node for node in made.graph.node if node.op_type == "Loop"]
    assert not loop.attribute[0].g.initializer
    kept = [t.name for t in made.graph.initializer]
    assert len(kept) == len(set(kept))


def test_a_session_spells_the_file_for_its_provider() -> None:
    explainer = onnxplain.compile(model("overlap_pool"), "linearscope.svd", k=2, steps=100)
    found = explainer(image("overlap_pool")).results
    np.testing.assert_allclose(
        found["singular_values"][:, 0], stored("overlap_pool")["scope_sv"][:2], rtol=TOLERANCE
    )


def test_what_is_refused() -> None:
    with pytest.raises(OptionError, match="k=4 singular values"):
        compiled(model("cnn_bias"), k=4)
    with pytest.raises(OptionError, match="momentum"):
        compiled(model("cnn_bias"), momentum=-0.1)
    with pytest.raises(OptionError, match="steps"):
        compiled(model("cnn_bias"), steps=0)
    with pytest.raises(OptionError, match="float32"):
        compile_model(model("cnn_bias"), find("linearscope.svd"), Request(precision="float16"))
    loose: tuple[Dim, ...] = ("N", 1, "H", "W")
    with pytest.raises(TargetError, match="no fixed size"):
        compiled(model("sr"), {"x": loose}, k=1)


def test_an_input_of_any_size() -> None:
    made = compiled(model("sr"), {"x": ("N", 1, "H", "W")}, k=2, steps=200, start="input")
    start = np.random.default_rng(0).standard_normal((2, 1, 5, 5)).astype(np.float32)
    found = run(made, {"x": image("sr"), "start": start})
    np.testing.assert_allclose(found["singular_values"][:, 0], stored("sr")["scope_sv"][:2], rtol=TOLERANCE)
