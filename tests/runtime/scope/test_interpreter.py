"""The interpreter as an operator: against dense matrices, in all forms of its arguments, and what it refuses."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

import onnxplain
from onnxplain import ImageError, OptionError, TargetError
from onnxplain.models.superresolution import bicubic
from onnxplain.runtime.scope import system
from tests.runtime.scope.golden import NETS, PICTURES, opened, stored
from tests.runtime.small import WEIGHT, model_of, picture, product

RNG = np.random.default_rng(3)


def close(found: Any, wanted: Any) -> None:
    """float32 sums of up to a few hundred terms of order 1."""
    np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("name", NETS + PICTURES)
def test_against_dense_matrices(name: str) -> None:
    a, known = opened(name), stored(name)
    assert a.shape == known["scope_F"].shape and a.dtype == np.float32
    close(a.dense(), known["scope_F"])
    close(a.residual.ravel(), known["scope_r"])
    close(a.value, known["y"][0])
    close(a.apply(a.x0), a.value)


def test_the_mean_may_stay_linear() -> None:
    a, known = opened("i2i", norm="std"), stored("i2i")
    close(a.dense(), known["scope_F_stdonly"])
    close(a.residual.ravel(), known["scope_r_stdonly"])


def test_rows_and_columns_by_index_and_by_coordinates() -> None:
    a, f = opened("sr"), stored("sr")["scope_F"]
    rows = a.rows([(0, 3, 4), 7])
    close(rows, f[[34, 7]].reshape(2, 1, 5, 5))
    np.testing.assert_array_equal(a.rows((0, 3, 4)), rows[:1])
    np.testing.assert_array_equal(a.rows(np.array([[0, 3, 4], [0, 0, 7]])), rows)
    np.testing.assert_array_equal(a.rows(np.array([34, 7])), rows)
    np.testing.assert_array_equal(a.rows(34), rows[:1])
    close(a.columns([(0, 1, 2), 24]), f[:, [7, 24]].T.reshape(2, 1, 10, 10))


def test_every_form_of_vector() -> None:
    a, f = opened("sr"), stored("sr")["scope_F"]
    x, y = RNG.standard_normal((2, 1, 5, 5)), RNG.standard_normal((3, 1, 10, 10))
    flat_x, flat_y = x.reshape(2, -1), y.reshape(3, -1)
    close(a @ x, (flat_x @ f.T).reshape(2, 1, 10, 10))
    close(a @ x[0], (f @ flat_x[0]).reshape(1, 10, 10))
    close(a @ flat_x[0], f @ flat_x[0])
    close(a @ flat_x.T, f @ flat_x.T)
    close(a.T @ y, (flat_y @ f).reshape(3, 1, 5, 5))
    close(a.T @ y[0], (flat_y[0] @ f).reshape(1, 5, 5))
    close(a.T @ flat_y.T, f.T @ flat_y.T)
    close(a.apply(flat_x[0]), f @ flat_x[0] + stored("sr")["scope_r"])
    assert a.T.T is a and a.T.shape == (25, 100) and a.H is a.T and a.adjoint() is a.transpose() is a.T


def test_push_and_pull_are_adjoint() -> None:
    a = opened("i2i")
    x, y = (RNG.standard_normal(size).astype(np.float32) for size in a.shape[::-1])
    assert np.vdot(a.matvec(x), y) == pytest.approx(np.vdot(x, a.rmatvec(y)), rel=1e-5)


def test_scipy_takes_it_as_it_is() -> None:
    linalg = pytest.importorskip("scipy.sparse.linalg")
    a, f = opened("cnn_bias"), stored("cnn_bias")["scope_F"]
    operator = linalg.aslinearoperator(a)
    close(operator @ np.eye(128, dtype=np.float32), f)
    close(operator.H @ np.eye(3, dtype=np.float32), f.T)
    close(operator.matvec(np.ones((128, 1))), f.sum(axis=1, keepdims=True))


def test_chunks_padding_and_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    """Full chunks through the unrolled file, the rest filled with zeros, as long as no other file is open."""
    a, f = opened("sr", probes=4), stored("sr")["scope_F"]
    used: list[tuple[str, int, int]] = []
    real = system.System._run

    def spy(self: system.System, kind: str, probes: dict[str, Any], unrolled: int) -> dict[str, Any]:
        used.append((kind, len(next(iter(probes.values()))), unrolled))
        return real(self, kind, probes, unrolled)

    monkeypatch.setattr(system.System, "_run", spy)
    seen: list[tuple[int, int]] = []
    close(a.dense(progress=lambda *at: seen.append(at)), f)
    assert used == [("columns", 4, 4)] * 6 + [("columns", 1, 4)]
    assert seen == [(min(4 * i, 25), 25) for i in range(1, 8)]
    assert not a.system._is_open("columns") and ("columns", 4) in a.system._files
    used.clear()
    close(a.rows(range(6)), f[:6].reshape(6, 1, 5, 5))
    assert used == [("rows", 4, 0), ("rows", 2, 0)]
    close(a.rows(range(18)), f[:18].reshape(18, 1, 5, 5))
    assert used[2:] == [("rows", 4, 4)] * 4 + [("rows", 2, 4)]


def test_without_unrolled_files() -> None:
    a, f = opened("sr", probes=0), stored("sr")["scope_F"]
    close(a.dense(), f)
    assert set(a.system._files) == {("columns", 0)}


def test_memory_bounds_the_chunks() -> None:
    a, f = opened("sr", probes=0, memory="20kB"), stored("sr")["scope_F"]
    seen: list[int] = []
    close(a.dense(progress=lambda done, total: seen.append(done)), f)
    assert 1 < seen[0] < system.PROBES and seen[-1] == 25


def test_a_head_that_is_no_output() -> None:
    """Before the softmax: F is the weight, whatever x0."""
    x0 = RNG.standard_normal((1, 2, 3, 4))
    a = onnxplain.Interpreter(picture(squash="Softmax"), x0)
    close(a.dense(), WEIGHT.T)
    close(a.value, x0.reshape(-1) @ WEIGHT)
    assert not a.residual.any()


def test_a_fixed_batch_of_one_takes_many_probes() -> None:
    a = onnxplain.Interpreter(picture(batch=1), np.ones((1, 2, 3, 4)))
    close(a.rows([0, 4, 2]), WEIGHT[:, [0, 4, 2]].T.reshape(3, 2, 3, 4))
    close(a.columns(range(3)), WEIGHT[:3])


def test_a_linear_network_is_its_own_interpreter() -> None:
    """Bicubic: the same F whatever x0, no residual, rows that sum to 1, columns that are shifted copies inside."""
    model = bicubic(scale=2, channels=1, size=8)
    f, other = (onnxplain.Interpreter(model, RNG.random((1, 1, 8, 8))) for _ in range(2))
    np.testing.assert_array_equal(f.dense(), other.dense())
    assert not f.residual.any()
    close(f.dense().sum(axis=1), np.ones(256))
    here, there = f.columns([(0, 3, 3), (0, 4, 4)])
    close(np.roll(here, (2, 2), axis=(1, 2)), there)


def test_float64_stays() -> None:
    a = onnxplain.Interpreter(picture(np.float64), np.ones((1, 2, 3, 4)))
    assert a.dtype == np.float64
    np.testing.assert_allclose(a.dense(), WEIGHT.T, rtol=1e-14, atol=1e-14)


def test_several_inputs() -> None:
    """y = a b without a gate: ½ a0 for b and ½ b0 for a."""
    x0 = {name: RNG.standard_normal((1, 2, 3, 4)).astype(np.float32) for name in "ab"}
    op = onnxplain.Interpreter(product(), x0, inputs=["a", "b"], output="product")
    halves = {"a": np.diag(x0["b"].ravel()) / 2, "b": np.diag(x0["a"].ravel()) / 2}
    assert op.shape == (24, 48)
    close(op.dense(), np.concatenate([halves["a"], halves["b"]], axis=1))
    rows = op.rows([5])
    assert isinstance(rows, dict) and rows["b"].shape == (1, 2, 3, 4)
    close(rows["b"].ravel(), halves["b"][5])
    close(op.columns([("b", 0, 1, 2), 30]), halves["b"][:, [6, 6]].T)
    x0_flat = {name: value[0] for name, value in x0.items()}
    close(op @ x0_flat, (x0["a"] * x0["b"]).ravel())
    close(op @ x0, (x0["a"] * x0["b"]).reshape(1, -1))
    back = op.T @ np.ones(24)
    assert isinstance(back, np.ndarray) and back.shape == (48,)
    with pytest.raises(OptionError, match="begin it with the input, one of a, b"):
        op.columns([(0, 1, 2)])
    with pytest.raises(OptionError, match="no 'c'"):
        op.columns([("c", 0, 1, 2)])
    with pytest.raises(OptionError, match="the input has a, b; given were a"):
        _ = op @ {"a": x0["a"]}
    with pytest.raises(OptionError, match=r"'b' has shape \[3, 4\]"):
        _ = op @ {"a": x0["a"], "b": np.ones((3, 4))}


def test_inputs_that_are_not_explained_keep_their_value() -> None:
    x0 = {name: RNG.standard_normal((1, 2, 3, 4)).astype(np.float32) for name in "ab"}
    op = onnxplain.Interpreter(product(), x0, inputs=["b"], output="product")
    close(op.dense(), np.diag(x0["a"].ravel()))


@pytest.mark.parametrize(
    "index, text",
    [
        (100, "output index 100 is out of range: 0 to 99"),
        (-1, "output index -1 is out of range: 0 to 99"),
        ((0, 10, 0), "output index (0, 10, 0): 10 is out of range on axis 1 of 't09_Add': 0 to 9"),
        (
            (1, 2),
            "output index (1, 2): 2 coordinates for 't09_Add', whose samples have the shape [1, 10, 10]",
        ),
        ([3, 200], "output index 200 is out of range: 0 to 99"),
        ([], "no output index was given"),
        (1.5, "1.5 is no index of the output"),
        ((0, 0.5, 1), "output index (0, 0.5, 1): give whole numbers"),
    ],
)
def test_indices_that_are_not_there(index: Any, text: str) -> None:
    with pytest.raises(OptionError, match=re.escape(text)):
        opened("sr").rows(index)


def test_arrays_that_do_not_fit() -> None:
    a = opened("sr")
    with pytest.raises(
        OptionError, match=re.escape("(25,) or (25, K) or (1, 5, 5) or (K, 1, 5, 5) is needed")
    ):
        _ = a @ np.ones((5, 5, 2))
    with pytest.raises(OptionError, match="real numbers"):
        _ = a @ np.full(25, "x")
    with pytest.raises(OptionError, match="real numbers"):
        _ = a @ np.ones(25, np.complex64)
    with pytest.raises(OptionError, match="is no array"):
        _ = a @ [[1.0, 2.0], [3.0]]
    with pytest.raises(OptionError, match=re.escape("y has shape [25, 1]; columns of 100 entries")):
        a.rmatmat(np.ones((25, 1)))


def test_x0_that_does_not_fit() -> None:
    with pytest.raises(
        OptionError, match=r"x0 has shape \[2, 2, 3, 4\]: an interpreter belongs to one sample"
    ):
        onnxplain.Interpreter(picture(), np.ones((2, 2, 3, 4)))
    with pytest.raises(OptionError, match="'a' has shape"):
        onnxplain.Interpreter(product(), {"a": np.ones((2, 2, 3, 4)), "b": np.ones((2, 2, 3, 4))})
    with pytest.raises(ImageError, match="axis 3"):
        onnxplain.Interpreter(picture(), np.ones((1, 2, 3, 5)))
    with pytest.raises(OptionError, match="2 inputs"):
        onnxplain.Interpreter(product(), np.ones((1, 2, 3, 4)))
    with pytest.raises(OptionError, match="probes is 65"):
        onnxplain.Interpreter(picture(), np.ones((1, 2, 3, 4)), probes=65)
    with pytest.raises(OptionError, match="norm='median'"):
        onnxplain.Interpreter(picture(), np.ones((1, 2, 3, 4)), norm="median")
    with pytest.raises(TargetError, match="no output 'none'"):
        onnxplain.Interpreter(picture(), np.ones((1, 2, 3, 4)), output="none")


def test_dense_has_a_limit() -> None:
    with pytest.raises(OptionError, match="F is 100 x 25, 2500 entries over the limit of 2499"):
        opened("sr").dense(limit=2499)


def test_nothing_is_compiled_before_it_is_needed() -> None:
    a = opened("sr")
    assert not a.system._files
    a.rows(0)
    assert set(a.system._files) == {("rows", 0)}


def test_its_repr() -> None:
    assert repr(opened("sr")) == "Interpreter(F 100 x 25: t09_Add [1, 10, 10] from x [1, 5, 5])"


def test_a_constant_output_is_refused() -> None:
    import onnx

    nodes = [
        onnx.helper.make_node("Mul", ["x", "zero"], ["y"]),
        onnx.helper.make_node("Identity", ["c"], ["k"]),
    ]
    constants = {"zero": np.zeros(1, np.float32), "c": np.ones((1, 2), np.float32)}
    model = model_of(nodes, {"x": ["N", 2]}, {"y": ["N", 2], "k": [1, 2]}, constants)
    a = onnxplain.Interpreter(model, np.ones((1, 2)))
    with pytest.warns(onnxplain.ExplainWarning, match="attribution is zero everywhere"):
        assert not a.dense().any()
    with pytest.raises(TargetError, match="does not depend"):
        onnxplain.Interpreter(model, np.ones((1, 2)), output="k").columns(0)
