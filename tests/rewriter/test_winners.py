"""MaxPool's winners without its Indices: every form against the portable one, and whole nets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

from onnxplain.rewriter.compile import Request, compile_model
from onnxplain.rewriter.emit import Emit
from onnxplain.rewriter.graph import Node, Value, assemble, prepare, variable, with_weights
from onnxplain.rewriter.passes import lower
from onnxplain.rewriter.passes.primitives import winner_put, winner_take
from onnxplain.rewriter.passes.winners import winner_put_cpu, winner_put_plain, winner_take_plain
from onnxplain.rules.registry import find

from .nets import net

Form = Callable[[Emit, Node], Value]
Feeds = dict[str, np.ndarray]

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
WINDOW = ("kernel_shape", "strides", "pads", "dilations", "ceil_mode")
PUTS: list[Form] = [winner_put_plain, winner_put_cpu]


@dataclass(frozen=True)
class Pool:
    """A MaxPool over x of the given tail; dynamic: spatial sizes are symbols."""

    tail: tuple[int, ...]
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[int, ...] = ()
    dilations: tuple[int, ...] = ()
    ceil: bool = False
    dynamic: bool = False
    dtype: type = np.float32

    @property
    def model(self) -> onnx.ModelProto:
        rank, space = len(self.kernel), self.tail[1:]
        attrs = {
            "kernel_shape": self.kernel,
            "strides": self.strides,
            "pads": self.pads or (0,) * 2 * rank,
            "dilations": self.dilations or (1,) * rank,
            "ceil_mode": int(self.ceil),
        }
        node = helper.make_node("MaxPool", ["x"], ["y"], "pool", **attrs)
        sizes = [f"D{i}" for i in range(rank)] if self.dynamic else list(space)
        x = helper.make_tensor_value_info("x", self.element, ["N", self.tail[0], *sizes])
        y = helper.make_tensor_value_info("y", self.element, ["N", self.tail[0], *[None] * rank])
        graph = helper.make_graph([node], "g", [x], [y])
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)

    @property
    def element(self) -> int:
        return int(helper.np_dtype_to_tensor_dtype(np.dtype(self.dtype)))

    def spelled(self, form: Form, primitive: str) -> onnx.ModelProto:
        """The pool, and the form of its primitive as a second output; input t: the (co)tangent."""
        graph = prepare(self.model)
        g, pool = Emit(graph), graph.nodes[0]
        x, y = pool.inputs[0], pool.outputs[0]
        like = y if primitive == "WinnerPut" else x
        t = variable("t", np.dtype(self.dtype), ["K", *like.shape[1:]])
        g.primitive(primitive, t, x, y, **{key: pool.attrs.get(key) for key in WINDOW})
        out = g.Identity(form(g, g.nodes.pop()))
        out.name, none = "out", [None] * (len(like.shape) - 2)
        model = assemble(
            graph,
            g.nodes,
            [helper.make_tensor_value_info("out", self.element, ["K", self.tail[0], *none])],
        )
        model.graph.input.append(helper.make_tensor_value_info("t", self.element, ["K", self.tail[0], *none]))
        made = with_weights(model, graph)
        onnx.checker.check_model(made, full_check=True)
        return made


def run(model: onnx.ModelProto, feeds: Feeds, *, optimise: bool = False) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    if not optimise:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [np.asarray(value) for value in session.run(None, feeds)]


def picture(pool: Pool, rng: np.random.Generator, kind: str, samples: int) -> np.ndarray:
    """random: no ties; few: many; flat: every cell of every window; negative: a border of zeros would win."""
    x = rng.normal(size=(samples, *pool.tail))
    made = {"random": x, "few": np.round(x), "flat": np.ones_like(x), "negative": -1 - np.round(abs(x))}[kind]
    return made.astype(pool.dtype)


def check(pool: Pool, kind: str, *, rows: int | None = None, seed: int = 0) -> None:
    """Both primitives, every form, with and without onnxruntime's own rewriting. WinnerTake: equal to the bit.
    WinnerPut: to the bit where windows do not overlap; else sums of up to 9 terms in another order."""
    rng = np.random.default_rng(seed)
    x = picture(pool, rng, kind, 1 if rows else 2)
    y = run(pool.model, {"x": x})[0]
    beside = all(s >= d * (k - 1) + 1 for k, s, d in _axes(pool))
    for primitive, portable, forms, like in (
        ("WinnerPut", winner_put, PUTS, y),
        ("WinnerTake", winner_take, [winner_take_plain], x),
    ):
        t: np.ndarray = rng.normal(size=(rows or 2, *like.shape[1:])).astype(pool.dtype)
        feeds = {"x": x, "t": t}
        expected = run(pool.spelled(portable, primitive), feeds)[1]
        for form in forms:
            model = pool.spelled(form, primitive)
            assert not any(n.op_type == "MaxPool" and len(n.output) > 1 for n in model.graph.node)
            for optimise in (False, True):
                got = run(model, feeds, optimise=optimise)[1]
                assert got.shape == expected.shape
                if beside or primitive == "WinnerTake":
                    assert np.array_equal(got, expected), form
                else:
                    assert np.allclose(got, expected, rtol=1e-6, atol=2e-6), form


def _axes(pool: Pool) -> Iterator[tuple[int, int, int]]:
    dilations = pool.dilations or (1,) * len(pool.kernel)
    return zip(pool.kernel, pool.strides, dilations, strict=True)


POOLS = {
    "tiles": Pool((16, 8, 6), (2, 2), (2, 2)),
    "tiles of 3 x 2": Pool((16, 9, 4), (3, 2), (3, 2)),
    "tiles, few channels": Pool((3, 8, 6), (2, 2), (2, 2)),
    "tiles, odd channels": Pool((20, 4, 4), (2, 2), (2, 2)),
    "a row left over": Pool((16, 9, 7), (2, 2), (2, 2)),
    "a row left over, ceil_mode": Pool((16, 9, 7), (2, 2), (2, 2), ceil=True),
    "overlapping, strided, padded": Pool((16, 9, 8), (3, 3), (2, 2), (1, 1, 1, 1)),
    "overlapping, strided, uneven pads": Pool((16, 8, 8), (3, 3), (2, 2), (0, 0, 1, 1)),
    "overlapping, strided, ceil_mode": Pool((16, 8, 9), (3, 3), (2, 2), ceil=True),
    "stride 1, a chain of pools": Pool((16, 7, 6), (3, 3), (1, 1), (1, 1, 1, 1)),
    "a wide window, a chain of pools": Pool((16, 9, 9), (5, 5), (1, 1), (2, 2, 2, 2)),
    "a chain with strides": Pool((16, 11, 12), (4, 5), (2, 3), (1, 2, 2, 1), ceil=True),
    "dilated": Pool((16, 9, 9), (2, 3), (1, 2), (1, 1, 0, 1), (3, 2)),
    "gaps between windows": Pool((16, 9, 8), (2, 1), (3, 3)),
    "single cells, strided": Pool((16, 6, 6), (1, 1), (2, 2)),
    "single cells": Pool((16, 4, 4), (1, 1), (1, 1)),
    "1-D": Pool((4, 11), (3,), (2,), (1, 1)),
    "3-D": Pool((2, 5, 6, 4), (2, 3, 2), (2, 2, 2), (1, 1, 0, 0, 1, 1)),
    "3-D, a chain of pools": Pool((2, 5, 4, 4), (3, 3, 3), (1, 1, 1), (1,) * 6),
}


@pytest.mark.parametrize("kind", ["random", "few", "flat", "negative"])
@pytest.mark.parametrize("name", POOLS)
def test_every_form_is_the_portable_one(name: str, kind: str) -> None:
    check(POOLS[name], kind)


@pytest.mark.parametrize("name", POOLS)
def test_rows_of_one_sample(name: str) -> None:
    """Three rows of cotangents over one sample, whose winners count for all of them."""
    check(POOLS[name], "few", rows=3)


@pytest.mark.parametrize("name", POOLS)
def test_sizes_that_are_not_static(name: str) -> None:
    check(replace(POOLS[name], dynamic=True), "few")


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize(
    "name", ["tiles", "overlapping, strided, padded", "stride 1, a chain of pools", "3-D"]
)
def test_float64(name: str, dynamic: bool) -> None:
    check(replace(POOLS[name], dtype=np.float64, dynamic=dynamic), "few")


@pytest.mark.parametrize("seed", range(12))
def test_random_windows(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rank = seed % 3 + 1
    kernel = tuple(int(k) for k in rng.integers(1, 5, rank))
    pads = tuple(int(rng.integers(0, k // 2 + 1)) if k > 1 else 0 for k in (*kernel, *kernel))
    strides = tuple(int(s) for s in rng.integers(1, 4, rank))
    dilations = tuple(int(d) for d in rng.integers(1, 3, rank))
    sizes = tuple(int(size) for size in rng.integers(7, 10, rank))
    pool = Pool((int(rng.choice([2, 16])), *sizes), kernel, strides, pads, dilations, dynamic=seed % 2 == 0)
    check(pool, "few", rows=(None, 3)[seed // 3 % 2], seed=seed)


def test_the_first_of_equal_cells_wins() -> None:
    x = np.ones((1, 16, 4, 4), np.float32)
    t = np.arange(1, 1 + 16 * 4, dtype=np.float32).reshape(1, 16, 2, 2)
    pool = Pool((16, 4, 4), (2, 2), (2, 2))
    for form in PUTS:
        got = run(pool.spelled(form, "WinnerPut"), {"x": x, "t": t})[1]
        assert np.array_equal(got[:, :, ::2, ::2], t)
        assert got.sum() == t.sum()


def test_a_border_of_padding_receives_nothing() -> None:
    """All values below any padding one might think of: what is put in is all there."""
    pool = POOLS["overlapping, strided, padded"]
    x = np.full((1, *pool.tail), -1e30, np.float32)
    y = run(pool.model, {"x": x})[0]
    for form in PUTS:
        got = run(pool.spelled(form, "WinnerPut"), {"x": x, "t": np.ones_like(y)})[1]
        assert got.sum() == y.size


def test_the_form_of_the_cpu_changes_layout_where_the_runtime_copies_anyway(tmp_path: Path) -> None:
    """Between convolutions: every transposition becomes part of a copy out of the blocks or into them, and the step
    of Relu stays inside."""
    rng = np.random.default_rng(0)
    model = net(
        """g (float[N,16,8,8] x) => (float[N,16,4,4] y) {
        a = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x, v) b = Relu(a)
        c = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (b)
        y = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (c, w) }"""
    )
    weights = (rng.normal(size=(16, 16, 3, 3)).astype(np.float32) for _ in "vw")
    model.graph.initializer.extend(
        numpy_helper.from_array(w, name) for w, name in zip(weights, "vw", strict=True)
    )
    table = {**lower.TABLES["cpu"], "WinnerPut": winner_put_cpu}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(lower.TABLES, "tried", table)
        made, _ = compile_model(model, find("saliency"), Request(target=0, provider="tried"))
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 4
    ort.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])
    ops = [node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node]
    if "ReorderInput" not in ops:
        pytest.skip("onnxruntime has no blocked layout on this processor")
    assert "Transpose" not in ops, ops


def with_table(monkeypatch: pytest.MonkeyPatch, **forms: Form) -> Request:
    monkeypatch.setitem(lower.TABLES, "tried", {**lower.PORTABLE, **forms})
    return Request(target="cotangent", head="prob", provider="tried")


@pytest.mark.parametrize("put", PUTS)
@pytest.mark.parametrize("name", ["cnn_bias", "cnn_nobias", "overlap_pool"])
def test_golden_nets(name: str, put: Form, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole nets through either table; float32, the same arithmetic but for the order of sums."""
    golden: Any = onnx.load(GOLDEN / f"{name}.onnx")
    with np.load(GOLDEN / f"{name}.npz") as stored:
        x = stored["x"].astype(np.float32)
    request = with_table(monkeypatch, WinnerPut=put, WinnerTake=winner_take_plain)
    before, _ = compile_model(golden, find("saliency"), replace(request, provider="portable"))
    after, _ = compile_model(golden, find("saliency"), request)
    assert not any(n.op_type == "ScatterElements" for n in after.graph.node)
    y = run(golden, {"x": x})[0]
    ct = np.random.default_rng(0).normal(size=y.shape).astype(np.float32)
    expected, got = (run(model, {"x": x, "cotangent": ct})[-1] for model in (before, after))
    assert np.abs(got - expected).max() <= 1e-6 * np.abs(expected).max()
