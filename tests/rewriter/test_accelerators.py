"""The tables for accelerators, run on the CPU: the same maps as the portable table; and the limits of operators."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxplain.rewriter.card import read_card
from onnxplain.rewriter.compile import Request, compile_model
from onnxplain.rewriter.errors import OptionError
from onnxplain.rewriter.passes import lower
from onnxplain.rewriter.passes.accelerators import CUDA, TENSORRT, WEB, Effect, Problem, vet_ops
from onnxplain.rules.registry import find
from tests.rules.build import one_node

from .nets import net, run

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
NETS = sorted(path.stem for path in GOLDEN.glob("*.onnx"))
TABLES = {"cuda": CUDA, "tensorrt": TENSORRT, "web": WEB}
REQUEST = Request(target="cotangent", head="prob")
SERIOUS = {Effect.FAILS, Effect.WRONG}


@pytest.fixture(autouse=True)
def tables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, table in TABLES.items():
        monkeypatch.setitem(lower.TABLES, name, {**lower.PORTABLE, **table})


def pulled(
    model: onnx.ModelProto, provider: str, x: np.ndarray, ct: np.ndarray
) -> tuple[onnx.ModelProto, np.ndarray]:
    made, _ = compile_model(model, find("saliency"), replace(REQUEST, provider=provider))
    return made, run(made, {"x": x, "cotangent": ct})["attribution"]


def same(model: onnx.ModelProto, x: np.ndarray, provider: str, rows: int | None = None) -> onnx.ModelProto:
    """The emitted model of a provider, after its map was compared with the portable one: float32 sums of the same
    terms, in another order."""
    y = next(iter(run(model, {"x": x}).values()))
    shape = y.shape if rows is None else (rows, *y.shape[1:])
    ct = np.random.default_rng(9).normal(size=shape).astype(np.float32)
    _, expected = pulled(model, "portable", x, ct)
    made, got = pulled(model, provider, x, ct)
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() <= 2e-6 * max(1.0, float(np.abs(expected).max()))
    return made


def serious(model: onnx.ModelProto, provider: str) -> list[Problem]:
    return [problem for problem in vet_ops(model, provider) if problem.effect in SERIOUS]


def normal(*sizes: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=sizes).astype(np.float32)


# Whole nets


@pytest.mark.parametrize("provider", TABLES)
@pytest.mark.parametrize("name", NETS)
def test_golden_nets(name: str, provider: str) -> None:
    model = onnx.load(GOLDEN / f"{name}.onnx")
    with np.load(GOLDEN / f"{name}.npz") as stored:
        made = same(model, stored["x"].astype(np.float32), provider)
    assert serious(made, provider) == []


# Gradients of convolutions


@pytest.mark.parametrize("provider", ["cuda", "web"])
@pytest.mark.parametrize("seed", range(18))
def test_gradients_of_convolutions_have_even_pads(seed: int, provider: str) -> None:
    rng, rank, group = np.random.default_rng(seed), seed % 3 + 1, (1, 2, 4)[seed // 3 % 3]
    dynamic, rows = bool(seed % 2), (None, 3)[seed // 2 % 2]
    kernel, strides = rng.integers(1, 4, rank), rng.integers(1, 4, rank)
    pads, dilations = rng.integers(0, 3, 2 * rank), rng.integers(1, 3, rank)
    sizes = [int(size) for size in rng.integers(7, 10, rank)]
    ins, outs = (2, 4) if group < 4 else (1, 8)
    model = one_node(
        "Conv",
        {"x": (["N", ins * group, *([f"D{i}" for i in range(rank)] if dynamic else sizes)], np.float32)},
        {"w": normal(outs, ins, *kernel, seed=seed)},
        rank=rank + 2,
        group=group,
        kernel_shape=kernel.tolist(),
        strides=strides.tolist(),
        pads=pads.tolist(),
        dilations=dilations.tolist(),
    )
    made = same(model, normal(1 if rows else 2, ins * group, *sizes, seed=seed), provider, rows)
    assert vet_ops(made, "cuda") == []


@pytest.mark.parametrize("strides", [[1, 1], [2, 2]])
@pytest.mark.parametrize("each", [2, 4, 3])
def test_groups_of_one_channel_get_an_odd_number_of_inputs(each: int, strides: list[int]) -> None:
    """Each of four input channels makes 2, 3 or 4 outputs."""
    model = one_node(
        "Conv",
        {"x": (["N", 4, 7, 7], np.float32)},
        {"w": normal(4 * each, 1, 3, 3)},
        group=4,
        strides=strides,
        pads=[1, 1, 1, 1],
    )
    made = same(model, normal(2, 4, 7, 7), "web")
    assert serious(made, "web") == []
    portable, _ = compile_model(model, find("saliency"), REQUEST)
    assert bool(serious(portable, "web")) == (each != 3)


# Gradients of means


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("include", [0, 1])
@pytest.mark.parametrize("seed", range(9))
def test_gradients_of_means(seed: int, include: int, dynamic: bool) -> None:
    rng, rank = np.random.default_rng(seed), seed % 3 + 1
    kernel = rng.integers(1, 5, rank)
    pads = [int(rng.integers(0, k // 2 + 1)) if k > 1 else 0 for k in (*kernel, *kernel)]
    sizes = [int(size) for size in rng.integers(8, 11, rank)]
    model = one_node(
        "AveragePool",
        {"x": (["N", 2, *([f"D{i}" for i in range(rank)] if dynamic else sizes)], np.float32)},
        rank=rank + 2,
        kernel_shape=kernel.tolist(),
        strides=rng.integers(1, 4, rank).tolist(),
        pads=pads,
        count_include_pad=include,
    )
    made = same(model, normal(2, 2, *sizes), "cuda", None)
    assert not any(node.op_type == "ConvTranspose" for node in made.graph.node)


# Limits


def model_of(body: str, **weights: np.ndarray) -> onnx.ModelProto:
    model = net(body)
    model.graph.initializer.extend(numpy_helper.from_array(w, name) for name, w in weights.items())
    return model


INDICES = """g (float[N,2,4,4] x) => (float[N,2,2,2] y) {
    y, i = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (x) }"""
ADDS = """g (float[3] x, int64[2] i, float[2] u) => (float[3] y) {
    y = ScatterElements <reduction = "add"> (x, i, u) }"""
SETS = """g (float[3] x, int64[2] i, float[2] u) => (float[3] y) { y = ScatterElements (x, i, u) }"""
UNEVEN = """g (float[N,2,4,4] x) => (float[N,3,A,B] y) { y = ConvTranspose <pads = [0, 0, 1, 1]> (x, w) }"""
GROUPED = """g (float[N,4,4,4] x) => (float[N,2,A,B] y) { y = ConvTranspose <group = 2> (x, w) }"""
SOLID = """g (float[N,4,4,4,4] x) => (float[N,2,A,B,C] y) { y = ConvTranspose (x, w) }"""
DILATED = """g (float[N,2,8,8] x) => (float[N,2,A,B] y) {
    y = MaxPool <kernel_shape = [2, 2], dilations = [2, 2], pads = [1, 1, 1, 1]> (x) }"""
DOUBLE = """g (double[N,2] x) => (double[N,2] y) { y = Relu(x) }"""
NESTED = """g (float[3] x, int64 n, bool go) => (float[3] y) {
    y = Loop (n, go, x) <body = inner (int64 k, bool c, float[3] a) => (bool d, float[3] b) {
        d = Identity(c) b = Sign(a) }> }"""


@pytest.mark.parametrize(
    ("provider", "body", "sizes", "effect"),
    [
        ("web", INDICES, None, Effect.FAILS),
        ("tensorrt", INDICES, None, Effect.COPIES),
        ("cuda", INDICES, None, None),
        ("cuda", ADDS, None, Effect.UNORDERED),
        ("tensorrt", ADDS, None, Effect.WRONG),
        ("cuda", SETS, None, None),
        ("cuda", UNEVEN, (2, 3, 3, 3), Effect.COPIES),
        ("web", UNEVEN, (2, 3, 3, 3), None),
        ("web", GROUPED, (4, 1, 3, 3), Effect.WRONG),
        ("web", SOLID, (4, 2, 2, 2, 2), Effect.FAILS),
        ("cuda", DILATED, None, Effect.WRONG),
        ("web", DOUBLE, None, Effect.FAILS),
        ("cuda", DOUBLE, None, None),
        ("portable", INDICES, None, None),
    ],
)
def test_limits(provider: str, body: str, sizes: tuple[int, ...] | None, effect: Effect | None) -> None:
    model = model_of(body, **({} if sizes is None else {"w": np.ones(sizes, np.float32)}))
    problems = vet_ops(model, provider)
    assert [problem.effect for problem in problems] == ([] if effect is None else [effect])
    assert all(problem.reason and problem.op in str(problem) for problem in problems)


def test_limits_inside_loops() -> None:
    assert {problem.op for problem in vet_ops(net(NESTED), "web")} == {"Loop", "Sign"}


def test_a_later_opset_takes_resize_off_the_gpu() -> None:
    node = helper.make_node("Resize", ["x", "", "s"], ["y"], mode="nearest")
    shape = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 2, 2])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, 4, 4])
    scales = numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "s")
    graph = helper.make_graph([node], "g", [shape], [out], [scales])
    effects = [
        [
            p.effect
            for p in vet_ops(helper.make_model(graph, opset_imports=[helper.make_opsetid("", o)]), "cuda")
        ]
        for o in (18, 19)
    ]
    assert effects == [[], [Effect.COPIES]]


def test_an_unknown_provider_is_named() -> None:
    with pytest.raises(OptionError, match="did you mean 'cuda'"):
        vet_ops(net(DOUBLE), "cudo")


REFLECTED = """g (float[N,1,4,4] x) => (float[N,1,8,8] y)
<int64[8] pads = {0, 0, 2, 2, 0, 0, 2, 2}> { y = Pad<mode="reflect">(x, pads) }"""


def test_a_file_for_a_provider_says_what_it_cannot_run() -> None:
    """One line an operator, in the card."""
    made, card = compile_model(
        net(REFLECTED), find("saliency"), Request(target="cotangent", provider="tensorrt")
    )
    assert card.approximations == read_card(made).approximations
    (scatter,) = [note for note in card.approximations if "ScatterElements" in note]
    assert scatter.startswith("on tensorrt, ScatterElements at ") and "wrong" in scatter
    assert not compile_model(net(REFLECTED), find("saliency"), Request(target="cotangent"))[1].approximations
