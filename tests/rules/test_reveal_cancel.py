"""RevealCancel against closed forms, against the paper's equations in numpy, and summation to delta."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from onnxplain.rewriter.compile import Request, compile_model
from onnxplain.rules.methods_deeplift import DEEPLIFT_MIXED, DEEPLIFT_RESCALE, DEEPLIFT_REVEAL_CANCEL
from tests.deeplift import EXACT, Array, explained, imbalance, near, noise, run
from tests.rewriter.nets import net

F = np.float32
Doubles = NDArray[np.float64]
Activation = Callable[[Doubles], Doubles]

MINIMUM = """g (float[N,2] x) => (float[N,1] y) <float[2,1] difference = {1, -1}, float[1,1] minus = {-1},
    float[2,1] first = {1, 0}> {
    d = MatMul (x, difference)
    h = Relu (d)
    n = MatMul (h, minus)
    i = MatMul (x, first)
    y = Add (i, n) }"""
"""min(i1, i2) = i1 - max(i1 - i2, 0)."""


@pytest.mark.parametrize("x, want", [((3, 1), (0.5, 0.5)), ((1, 3), (0.5, 0.5)), ((2, 2), (1, 1))])
def test_the_minimum_of_two_inputs_is_shared(x: tuple[float, float], want: tuple[float, float]) -> None:
    """Of the paper, section 3.5.3: both inputs count, where Rescale sees one."""
    got = explained(net(MINIMUM), np.asarray([x], F), DEEPLIFT_REVEAL_CANCEL, 0)
    near(got, np.asarray([want], F))


def test_rescale_gives_the_minimum_to_one_input() -> None:
    near(explained(net(MINIMUM), np.asarray([[3, 1]], F), DEEPLIFT_RESCALE, 0), np.asarray([[0, 1]], F))


@dataclass(frozen=True)
class Layer:
    """u = W x + b, W (outs, ins); y = f(u), slope its derivative; no f: the last one."""

    w: Doubles
    b: Doubles
    f: Activation | None = None
    slope: Activation | None = None


def relu_slope(u: Doubles) -> Doubles:
    return np.asarray(u > 0, np.float64)


def paper(layers: list[Layer], x: Doubles, x0: Doubles, c: int) -> Doubles:
    """The contributions of one input by the equations, sign by sign, for float64 vectors.

    Multipliers of positive and negative parts are kept apart as the paper does: for each weight and each input the sign
    of their product says which of the two it belongs to.
    """
    inputs, references = [x], [x0]
    for layer in layers:
        u, u0 = layer.w @ inputs[-1] + layer.b, layer.w @ references[-1] + layer.b
        inputs.append(u if layer.f is None else layer.f(u))
        references.append(u0 if layer.f is None else layer.f(u0))
    positive = negative = np.eye(len(inputs[-1]))[c]
    for layer, a, a0 in reversed(list(zip(layers, inputs, references, strict=False))):
        change, terms = a - a0, layer.w * (a - a0)
        if layer.f is not None and layer.slope is not None:
            u0 = layer.w @ a0 + layer.b
            up, down = np.maximum(terms, 0).sum(1), np.minimum(terms, 0).sum(1)
            f = layer.f
            gain = 0.5 * (f(u0 + up) - f(u0)) + 0.5 * (f(u0 + down + up) - f(u0 + down))
            loss = 0.5 * (f(u0 + down) - f(u0)) + 0.5 * (f(u0 + up + down) - f(u0 + up))
            # What arrives is the same for both signs: below it is made so.
            positive = positive * np.where(up == 0, layer.slope(u0), gain / np.where(up == 0, 1, up))
            negative = negative * np.where(down == 0, layer.slope(u0), loss / np.where(down == 0, 1, down))
        back = np.zeros(len(change))
        for i in range(len(change)):
            for k in range(len(layer.w)):
                weight = layer.w[k, i]
                if change[i] == 0:
                    back[i] += weight * (positive[k] + negative[k]) / 2
                else:
                    back[i] += weight * (positive[k] if weight * change[i] > 0 else negative[k])
        positive = negative = back
    return np.asarray(positive * (x - x0))


ACTIVATIONS: dict[str, tuple[Activation, Activation]] = {
    "Relu": (lambda u: np.maximum(u, 0), relu_slope),
    "LeakyRelu": (lambda u: np.where(u > 0, u, 0.01 * u), lambda u: np.where(u > 0, 1, 0.01)),
    "Sigmoid": (lambda u: 1 / (1 + np.exp(-u)), lambda u: np.exp(-u) / (1 + np.exp(-u)) ** 2),
    "Tanh": (np.tanh, lambda u: 1 - np.tanh(u) ** 2),
    "Softplus": (lambda u: np.log1p(np.exp(u)), lambda u: 1 / (1 + np.exp(-u))),
}


def layers_of(sizes: list[int], act: str, seed: int = 0) -> list[Layer]:
    rng = np.random.default_rng(seed)
    made = []
    for i, (ins, outs) in enumerate(pairwise(sizes)):
        w = rng.standard_normal((outs, ins)).astype(F).astype(np.float64)
        b = rng.standard_normal(outs).astype(F).astype(np.float64)
        last = i == len(sizes) - 2
        made.append(Layer(w, b) if last else Layer(w, b, *ACTIVATIONS[act]))
    return made


SPELLINGS = ["Gemm", "Gemm, turned", "Gemm, alpha", "MatMul"]


def mlp(layers: list[Layer], act: str, spelling: str = "Gemm, turned") -> onnx.ModelProto:
    """The network as a file. "Gemm, alpha": -2 y, with the weights -w/2."""
    nodes, stored, x = [], [], "x"
    for i, layer in enumerate(layers):
        w, b = layer.w.astype(F), layer.b.astype(F)
        attributes: dict[str, Any] = {}
        if spelling == "Gemm, turned":
            attributes = {"transB": 1}
        else:
            w = np.ascontiguousarray(w.T)
        if spelling == "Gemm, alpha":
            w, attributes = w / F(-2), {"alpha": -2.0}
        stored += [numpy_helper.from_array(w, f"w{i}"), numpy_helper.from_array(b, f"b{i}")]
        out = "y" if layer.f is None else f"u{i}"
        if spelling == "MatMul":
            nodes.append(helper.make_node("MatMul", [x, f"w{i}"], [f"p{i}"]))
            nodes.append(helper.make_node("Add", [f"p{i}", f"b{i}"], [out]))
        else:
            nodes.append(helper.make_node("Gemm", [x, f"w{i}", f"b{i}"], [out], **attributes))
        if layer.f is not None:
            nodes.append(helper.make_node(act, [out], [f"h{i}"]))
        x = f"h{i}"
    ends = [
        helper.make_tensor_value_info(name, 1, ["N", size])
        for name, size in (("x", layers[0].w.shape[1]), ("y", layers[-1].w.shape[0]))
    ]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def against_paper(layers: list[Layer], model: onnx.ModelProto, x: Array, x0: Array, c: int = 1) -> None:
    got = explained(model, x, DEEPLIFT_REVEAL_CANCEL, c, {"baseline": x0}, baseline="input")
    rows = [
        paper(layers, a.astype(np.float64), b.astype(np.float64), c)
        for a, b in zip(x, np.broadcast_to(x0, x.shape), strict=True)
    ]
    near(got, np.stack(rows), 1e-4)


@pytest.mark.parametrize("act", ACTIVATIONS)
@pytest.mark.parametrize("sizes", [[5, 3], [5, 4, 3], [6, 8, 7, 5, 3]])
def test_the_papers_equations(sizes: list[int], act: str) -> None:
    layers = layers_of(sizes, act)
    against_paper(layers, mlp(layers, act), noise(4, sizes[0], seed=1), noise(4, sizes[0], seed=2))


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_of_a_dense_layer(spelling: str) -> None:
    layers = layers_of([6, 8, 5, 3], "Relu", seed=3)
    model = mlp(layers, "Relu", spelling)
    x, x0 = noise(3, 6, seed=1), noise(1, 6, seed=2)
    against_paper(layers, model, x, x0)
    _, card = compile_model(model, DEEPLIFT_REVEAL_CANCEL, Request(target=1))
    assert sum(rule == "reveal_cancel" for rule in card.rules.values()) == 2 and not card.approximations


def test_inputs_that_do_not_change_carry_half_of_both_multipliers() -> None:
    """Units of the first layer that stay at 0 are such inputs of the second."""
    layers = layers_of([6, 8, 5, 3], "Relu", seed=4)
    x0 = noise(2, 6, seed=2)
    x = x0.copy()
    x[:, 2] += F(0.5)
    against_paper(layers, mlp(layers, "Relu"), x, x0)


@pytest.mark.parametrize("signs", [(1, 1), (1, -1), (-1, -1)])
def test_one_unit(signs: tuple[int, int]) -> None:
    """relu(w₁ x₁ + w₂ x₂ + b) from 0: with p the positive and n the negative sum of the terms, the positive terms share
    ½ (r(b + p) - r(b)) + ½ (r(b + p + n) - r(b + n)) in proportion to their size."""
    w, x, b = np.asarray([2.0 * signs[0], 3.0 * signs[1]]), np.asarray([0.5, 0.75]), 0.25
    layers = [
        Layer(w[None], np.asarray([b]), *ACTIVATIONS["Relu"]),
        Layer(np.asarray([[1.0]]), np.asarray([0.0])),
    ]
    terms = w * x
    p, n = float(terms[terms > 0].sum()), float(terms[terms < 0].sum())

    def r(u: float) -> float:
        return max(u, 0.0)

    gain = (r(b + p) - r(b) + r(b + p + n) - r(b + n)) / 2
    loss = (r(b + n) - r(b) + r(b + p + n) - r(b + p)) / 2
    want = [t / p * gain if t > 0 else t / n * loss for t in terms]
    got = explained(mlp(layers, "Relu"), x[None].astype(F), DEEPLIFT_REVEAL_CANCEL, 0)
    near(got, np.asarray([want], F))


def dense(f: Callable[[Array], Array], size: int) -> tuple[Doubles, Doubles]:
    """(W, b) of an affine function of vectors."""
    b = f(np.zeros((1, size), F))[0].astype(np.float64)
    return f(np.eye(size, dtype=F)).astype(np.float64).T - b[:, None], b


CONVOLUTIONS = {
    "Conv": "u = Conv <kernel_shape = [3, 3], pads = [1, 0, 1, 2], strides = [2, 1]> (x, w, b)",
    "Conv, groups": "u = Conv <kernel_shape = [3, 3], group = 2> (x, v, c)",
    "ConvTranspose": "u = ConvTranspose <kernel_shape = [3, 3], strides = [2, 2]> (x, t, b)",
    "Conv, BatchNormalization": "p = Conv <kernel_shape = [3, 3]> (x, w, b) u = BatchNormalization (p, m, b, b, n)",
}


def convolution(text: str, more: str) -> onnx.ModelProto:
    rng = np.random.default_rng(5)
    shapes = {
        "w": (3, 2, 3, 3),
        "v": (4, 1, 3, 3),
        "t": (2, 3, 3, 3),
        "b": (3,),
        "c": (4,),
        "m": (3,),
        "n": (3,),
    }
    kept = []
    for name, shape in shapes.items():
        values = rng.standard_normal(shape).round(2).ravel()
        values = np.abs(values) + 0.5 if name == "n" else values
        kept.append(f"float[{','.join(map(str, shape))}] {name} = {{{', '.join(map(str, values))}}}")
    return net(f"g (float[N,2,5,5] x) => (float[N,K] y) <{', '.join(kept)}> {{ {text} {more} }}")


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions_are_dense_layers_with_a_sparse_weight(name: str) -> None:
    """The same rule on the matrix of the convolution; a scaling with a negative factor changes the signs of the
    weights, so it must be merged first."""
    text = CONVOLUTIONS[name]
    affine = convolution(text, "y = Flatten (u)")
    w, b = dense(lambda rows: run(affine, {"x": rows.reshape(-1, 2, 5, 5)})["y"], 50)
    layers = [Layer(w, b, *ACTIVATIONS["Relu"]), Layer(np.ones((1, len(b))), np.zeros(1))]
    model = convolution(
        text, "h = Relu (u) y_ = Flatten (h) one = Constant <value_ints = [1]> () y = ReduceSum (y_, one)"
    )
    x, x0 = noise(2, 2, 5, 5, seed=1), noise(1, 2, 5, 5, seed=2)
    got = explained(model, x, DEEPLIFT_REVEAL_CANCEL, 0, {"baseline": x0}, baseline="input")
    rows = [paper(layers, a.ravel().astype(np.float64), x0.ravel().astype(np.float64), 0) for a in x]
    near(got.reshape(2, -1), np.stack(rows), 1e-4)


def test_mixed_reveals_behind_dense_layers_only() -> None:
    model = convolution(
        "u = Conv <kernel_shape = [3, 3]> (x, w, b) h = Relu (u) f = Flatten (h)",
        "a = MatMul (f, d) r = Relu (a) y = MatMul (r, e)",
    )
    rng = np.random.default_rng(6)
    model.graph.initializer.append(numpy_helper.from_array(rng.standard_normal((27, 6)).astype(F), "d"))
    model.graph.initializer.append(numpy_helper.from_array(rng.standard_normal((6, 3)).astype(F), "e"))
    rules = {
        method.name: compile_model(model, method, Request(target=1))[1].rules
        for method in (DEEPLIFT_MIXED, DEEPLIFT_REVEAL_CANCEL)
    }
    assert sorted(rules["deeplift.mixed"].values()).count("reveal_cancel") == 1
    assert sorted(rules["deeplift.reveal-cancel"].values()).count("reveal_cancel") == 2
    x, x0 = noise(3, 2, 5, 5, seed=1), noise(3, 2, 5, 5, seed=2)
    maps = {}
    for method in (DEEPLIFT_RESCALE, DEEPLIFT_MIXED, DEEPLIFT_REVEAL_CANCEL):
        maps[method.name] = explained(model, x, method, 1, {"baseline": x0}, baseline="input")
        assert imbalance(model, x, x0, np.eye(3, dtype=F)[[1, 1, 1]], maps[method.name]) < EXACT
    assert len({m.tobytes() for m in maps.values()}) == 3


LONE = {
    "behind a sum": "a = MatMul (x, w) b = MatMul (x, v) s = Add (a, b) y_ = Relu (s)",
    "read twice": "a = MatMul (x, w) r = Relu (a) y_ = Add (a, r)",
    "first": "y_ = Relu (x)",
}


@pytest.mark.parametrize("name", LONE)
def test_an_activation_without_a_layer_of_its_own_is_recorded(name: str) -> None:
    rng = np.random.default_rng(7)
    w, v = (", ".join(map(str, rng.standard_normal(36).round(2))) for _ in range(2))
    model = net(
        f"""g (float[N,6] x) => (float[N,6] y) <float[6,6] w = {{{w}}}, float[6,6] v = {{{v}}}>
        {{ {LONE[name]} y = MatMul (y_, w) }}"""
    )
    _, card = compile_model(model, DEEPLIFT_REVEAL_CANCEL, Request(target=1))
    assert [note.split()[0] for note in card.approximations] == ["Relu"]
    x, x0 = noise(3, 6, seed=1), noise(3, 6, seed=2)
    got = explained(model, x, DEEPLIFT_REVEAL_CANCEL, 1, {"baseline": x0}, baseline="input")
    assert imbalance(model, x, x0, np.eye(6, dtype=F)[[1, 1, 1]], got) < EXACT
    rescaled = explained(model, x, DEEPLIFT_RESCALE, 1, {"baseline": x0}, baseline="input")
    near(got, rescaled)


def test_a_product_of_activations_has_no_weights_to_split() -> None:
    model = net(
        """g (float[N,4,6] x) => (float[N,4,4] y) { t = Transpose <perm = [0, 2, 1]> (x) p = MatMul (x, t) r = Relu (p)
        y = Neg (r) }"""
    )
    _, card = compile_model(model, DEEPLIFT_REVEAL_CANCEL, Request(target="cotangent"))
    assert len(card.approximations) == 1 and card.approximations[0].startswith("MatMul")
    x, x0, ct = noise(2, 4, 6, seed=1), noise(2, 4, 6, seed=2), noise(2, 4, 4, seed=3)
    more = {"cotangent": ct, "baseline": x0}
    got = explained(model, x, DEEPLIFT_REVEAL_CANCEL, more=more, baseline="input")
    near(got, explained(model, x, DEEPLIFT_RESCALE, more=more, baseline="input"))


SMOOTH = {
    "Swish": "s = Sigmoid (u) h = Mul (u, s)",
    "Gelu": "h = Gelu (u)",
    "Gelu, tanh": 'h = Gelu <approximate = "tanh"> (u)',
    "Clip": "h = Clip (u, low, high)",
    "PRelu": "h = PRelu (u, low)",
    "HardSwish": "h = HardSwish (u)",
}


@pytest.mark.parametrize("name", SMOOTH)
def test_activations_at_other_points_are_those_of_the_model(name: str) -> None:
    """RevealCancel evaluates f where the model never was: with attributes, bounds and slopes, in any opset."""
    rng = np.random.default_rng(8)
    w = ", ".join(map(str, rng.standard_normal(36).round(2)))
    model = net(
        f"""g (float[N,6] x) => (float[N,6] y) <float[6,6] w = {{{w}}}, float low = {{-0.25}}, float high = {{1.5}}>
        {{ u = MatMul (x, w) {SMOOTH[name]} y = MatMul (h, w) }}""",
        opset=20,
        ir=9,
    )
    matrix = np.asarray([float(v) for v in w.split(", ")]).reshape(6, 6).T
    alone = net(
        f"""g (float[N,6] u) => (float[N,6] h) <float low = {{-0.25}}, float high = {{1.5}}> {{ {SMOOTH[name]} }}""",
        opset=20,
        ir=9,
    )

    def f(u: Doubles) -> Doubles:
        return np.asarray(run(alone, {"u": u[None].astype(F)})["h"][0], np.float64)

    layers = [Layer(matrix, np.zeros(6), f, f), Layer(matrix, np.zeros(6))]
    against_paper(layers, model, noise(3, 6, seed=1), noise(3, 6, seed=2))


def test_constant_inputs_and_the_reference_itself_give_finite_maps() -> None:
    layers = layers_of([6, 8, 5, 3], "Relu", seed=3)
    x = np.concatenate([np.zeros((1, 6), F), np.full((1, 6), 0.5, F), np.full((1, 6), -3, F)])
    for x0 in (np.zeros_like(x), x):
        got = explained(
            mlp(layers, "Relu"), x, DEEPLIFT_REVEAL_CANCEL, "top", {"baseline": x0}, baseline="input"
        )
        assert np.isfinite(got).all()
    assert np.array_equal(got, np.zeros_like(x))
