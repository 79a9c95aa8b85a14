"""PatternNet and PatternAttribution: stored results, dense formulas, and what is refused.

Tolerances: float32 arithmetic of onnxruntime against float64, 1e-4 of the largest element for whole networks (measured:
4e-8 to 2e-7, and 4e-5 on overlap_pool, whose explained logit is 0.006), 1e-5 for one layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

import onnxplain
from onnxplain import models
from onnxplain.rewriter.canonical import canonise
from onnxplain.rewriter.compile import Request, compile_model
from onnxplain.rewriter.emit import Emit
from onnxplain.rewriter.errors import OptionError, UnsupportedError
from onnxplain.rewriter.graph import assemble, prepare, with_weights
from onnxplain.rewriter.linear import Chain, Dense, Keep, LeftTimes, Scale
from onnxplain.rewriter.passes.lower import lower
from onnxplain.rewriter.passes.share import share
from onnxplain.rewriter.site import Refuse
from onnxplain.rewriter.tape import WEIGHTED, linearize, pull
from onnxplain.rules.methods_patterns import PATTERN_ATTRIBUTION, PATTERN_NET
from onnxplain.rules.patterns import Patterns
from onnxplain.rules.reweigh import reweighed, weighted

DATA = Path(__file__).parents[1] / "data"
NETS = ("mlp_bias", "mlp_nobias", "cnn_bias", "cnn_nobias", "overlap_pool")
RNG = np.random.default_rng(11)

Array = NDArray[Any]


@cache
def stored(folder: str, net: str) -> dict[str, Array]:
    with np.load(DATA / folder / f"{net}.npz") as file:
        return {key: file[key] for key in file.files}


def golden_patterns(net: str, estimator: str) -> Patterns:
    """The stored patterns, under the names that the nodes have in the canonical form."""
    model = onnx.load(DATA / "golden" / f"{net}.onnx")
    key = f"pattern_{estimator.replace('-', '_')}_"
    known = stored("patterns", net)
    arrays = {
        node.name: {estimator: known[key + node.outputs[0].name]}
        for node in prepare(model).nodes
        if key + node.outputs[0].name in known
    }
    assert len(arrays) == 3
    return Patterns(arrays)


def forward(model: onnx.ModelProto, x: Array) -> Array:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x.astype(np.float32)})[0])


def explain(
    model: onnx.ModelProto, method: str, x: Array, options: Mapping[str, Any], target: int = 0
) -> Array:
    made = {"pattern-net": PATTERN_NET, "pattern-attribution": PATTERN_ATTRIBUTION}[method]
    emitted, _ = compile_model(model, made, Request(target=target, options=dict(options)))
    session = ort.InferenceSession(emitted.SerializeToString(), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return np.asarray(session.run(["attribution"], {name: x.astype(np.float32)})[0])


def close(got: Array, want: Array, share: float = 1e-5) -> None:
    assert got.shape == want.shape
    assert np.abs(want).max() > 0
    assert np.abs(got - want).max() <= share * np.abs(want).max()


@pytest.mark.parametrize("estimator", ["plus", "linear"])
@pytest.mark.parametrize("method", ["pattern-net", "pattern-attribution"])
@pytest.mark.parametrize("net", NETS)
def test_golden_nets(net: str, method: str, estimator: str) -> None:
    known = stored("golden", net)
    options = {"patterns": golden_patterns(net, estimator), "estimator": estimator}
    model = onnx.load(DATA / "golden" / f"{net}.onnx")
    got = explain(model, method, known["x"], options, int(known["class"]))
    close(got, stored("patterns", net)[f"{method.replace('-', '')}_{estimator}"], 1e-4)


def layer(
    op: str,
    w: Array,
    x: tuple[int | str, ...],
    y: tuple[int | str, ...],
    bias: Array | None = None,
    **attrs: Any,
) -> onnx.ModelProto:
    """y = op(x, w[, b]) and nothing else."""
    inputs = ["x", "w", *(["b"] if bias is not None else [])]
    weights = [numpy_helper.from_array(w.astype(np.float32), "w")]
    if bias is not None:
        weights.append(numpy_helper.from_array(bias.astype(np.float32), "b"))
    graph = helper.make_graph(
        [helper.make_node(op, inputs, ["y"], name="layer", **attrs)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, y)],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.mark.parametrize("turned", [0, 1])
def test_a_dense_layer_by_its_formula(turned: int) -> None:
    """z_c A_c and z_c w_c a_c, with Gemm's alpha in w: the effective weight is what the neuron multiplies with."""
    w, b, a, x = RNG.normal(size=(4, 3)), RNG.normal(size=3), RNG.normal(size=(4, 3)), RNG.normal(size=(2, 4))
    alpha, c = 0.5, 2

    def put(m: Array) -> Array:
        return m.T if turned else m

    model = layer("Gemm", put(w), ("N", 4), ("N", 3), b, alpha=alpha, transB=turned)
    options = {"patterns": Patterns({"layer": {"plus": put(a)}})}
    z = (alpha * x @ w + b)[:, c : c + 1]
    close(explain(model, "pattern-net", x, options, c), z * a[:, c])
    close(explain(model, "pattern-attribution", x, options, c), z * alpha * w[:, c] * a[:, c])


def test_along_the_weights_a_dense_layer_needs_no_patterns() -> None:
    """S_w: a = w / wᵀw with the effective weight; a neuron without weights gets nothing."""
    w, x, alpha = RNG.normal(size=(4, 3)), RNG.normal(size=(2, 4)), 2.0
    w[:, 1] = 0.0
    model = layer("Gemm", w, ("N", 4), ("N", 3), RNG.normal(size=3), alpha=alpha)
    z = forward(model, x)
    for c in (0, 2):
        want = z[:, c : c + 1] * w[:, c] / (alpha * (w[:, c] ** 2).sum())
        close(explain(model, "pattern-net", x, {"estimator": "weights"}, c), want)
    assert not explain(model, "pattern-net", x, {"estimator": "weights"}, 1).any()


@pytest.mark.parametrize(
    ("op", "w", "x", "y", "attrs"),
    [
        ("Conv", (6, 2, 3, 2), (4, 7, 6), (6, 3, 5), {"group": 2, "strides": [2, 1], "pads": [0, 0, 1, 0]}),
        ("ConvTranspose", (4, 3, 3, 2), (4, 3, 4), (6, 6, 5), {"group": 2, "strides": [2, 1], "pads": [1, 0, 0, 0]}),
        ("MatMul", (5, 3), (4, 5), (4, 3), {}),
    ],
)  # fmt: skip
def test_the_weights_of_other_layers(
    op: str, w: tuple[int, ...], x: tuple[int, ...], y: tuple[int, ...], attrs: dict[str, Any]
) -> None:
    """wᵀa = 1 for every neuron of S_w: where a window lies whole inside, an output's value is what its inputs get.
    One output element at a time, with padding only where a window is not looked at."""
    model = layer(op, RNG.normal(size=w), ("N", *x), ("N", *y), **attrs)
    given = RNG.normal(size=(1, *x))
    z = forward(model, given)
    assert z.shape == (1, *y)
    weight = numpy_helper.to_array(model.graph.initializer[0]).astype(np.float64)
    place = {"Conv": (4, 1, 2), "ConvTranspose": (4, 2, 2), "MatMul": (2, 1)}[op]
    c = int(np.ravel_multi_index(place, y))
    got = explain(model, "pattern-net", given, {"estimator": "weights"}, c)
    shared = explain(model, "pattern-attribution", given, {"estimator": "weights"}, c)
    value = float(z[(0, *place)])
    # ConvTranspose: channel 4 is the second neuron of group 1; all taps count, of which the stride meets some.
    own = {"Conv": np.s_[4:5], "ConvTranspose": np.s_[2:, 1], "MatMul": np.s_[:, 1]}[op]
    square = (weight[own] ** 2).sum()
    impulse = gradient(model, given, c)
    close(got, value * impulse / square, 1e-4)
    close(shared, value * impulse**2 / square, 1e-4)
    if op != "ConvTranspose":
        assert shared.sum() == pytest.approx(value, rel=1e-4)


def gradient(model: onnx.ModelProto, x: Array, c: int) -> Array:
    """d z_c / d x of a linear layer, a unit vector at a time."""
    columns = forward(model, np.eye(x.size).reshape(x.size, *x.shape[1:])).reshape(x.size, -1)
    return np.asarray(columns[:, c].reshape(x.shape), np.float64)


def test_an_affine_node_conserves_relevance() -> None:
    """Σ relevance of the inputs = Σ relevance of the outputs at every affine node without padding, because wᵀa = 1."""
    net = "mlp_bias"
    model = onnx.load(DATA / "golden" / f"{net}.onnx")
    graph = prepare(model)
    g = Emit(graph)
    x, y = graph.inputs[0], graph.outputs[0]
    view = canonise(graph, g, [y.name])
    options = PATTERN_ATTRIBUTION.settle({"patterns": golden_patterns(net, "plus")})
    tape = linearize(view, [x], y, PATTERN_ATTRIBUTION.rules(options), g)
    seed = g.Mul(y, g.constant(np.asarray([[1.0, 0.0, 0.0]], np.float32)))
    found = pull(tape, {y.name: seed}, g)
    nodes = [node for node in view.nodes if node.op in WEIGHTED]
    results = []
    for i, node in enumerate(nodes):
        for kind, value in (("in", node.inputs[0]), ("out", node.outputs[0])):
            total = g.Identity(g.ReduceSum(found[value.name], g.ints(1), keepdims=0))
            total.name = f"{kind}{i}"
            results.append(total)
    g.nodes, finals = share(g.nodes, results)
    made, finals = lower(g, finals)
    infos = [helper.make_tensor_value_info(value.name, TensorProto.FLOAT, ["N"]) for value in finals]
    emitted = with_weights(assemble(view, made, infos), graph)
    session = ort.InferenceSession(emitted.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [value.name for value in results]
    data = stored("patterns", net)["pattern_data"][:50]
    values = dict(zip(names, map(np.asarray, session.run(names, {"x": data})), strict=True))
    for i in range(len(nodes)):
        scale = np.abs(values[f"out{i}"]).max()
        assert scale > 0
        assert np.abs(values[f"in{i}"] - values[f"out{i}"]).max() <= 1e-5 * scale
    assert not np.allclose(values["in0"], values["out2"], rtol=0.01), "closed units lose what reaches them"


def test_the_last_layer_may_have_another_estimator() -> None:
    net = "mlp_bias"
    both = {
        name: {**plus, **golden_patterns(net, "linear").arrays[name]}
        for name, plus in golden_patterns(net, "plus").arrays.items()
    }
    model, known = onnx.load(DATA / "golden" / f"{net}.onnx"), stored("golden", net)
    c = int(known["class"])
    last = max(both)
    mixed = {name: {"plus": each["linear" if name == last else "plus"]} for name, each in both.items()}
    want = explain(model, "pattern-net", known["x"], {"patterns": Patterns(mixed)}, c)
    options = {"patterns": Patterns(both), "last": "linear"}
    close(explain(model, "pattern-net", known["x"], options, c), want, 1e-6)
    assert not np.allclose(explain(model, "pattern-net", known["x"], {"patterns": Patterns(both)}, c), want)


def test_local_response_normalisation_is_passed() -> None:
    graph = helper.make_graph(
        [
            helper.make_node("LRN", ["x"], ["n"], size=3),
            helper.make_node("Flatten", ["n"], ["f"]),
            helper.make_node("Gemm", ["f", "w"], ["y"], name="layer"),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4, 1, 1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 2])],
        [numpy_helper.from_array(RNG.normal(size=(4, 2)).astype(np.float32), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    a, x = RNG.normal(size=(4, 2)), RNG.normal(size=(1, 4, 1, 1))
    z = forward(model, x)[0, 1]
    got = explain(model, "pattern-net", x, {"patterns": Patterns({"layer": {"plus": a}})}, 1)
    close(got.ravel(), z * a[:, 1])


def refusal(model: onnx.ModelProto, options: Mapping[str, Any], x: tuple[int, ...] = (1, 4)) -> str:
    with pytest.raises(UnsupportedError) as raised:
        explain(model, "pattern-net", np.zeros(x), options)
    return str(raised.value)


def test_what_is_refused() -> None:
    model = layer("Gemm", RNG.normal(size=(4, 3)), ("N", 4), ("N", 3))
    a = RNG.normal(size=(4, 3))
    assert "hold none for this node" in refusal(model, {"patterns": Patterns({"other": {"plus": a}})})
    assert "no 'plus' for this node" in refusal(model, {"patterns": Patterns({"layer": {"linear": a}})})
    assert "its weight has the shape [4, 3], its pattern [3, 4]" in refusal(
        model, {"patterns": Patterns({"layer": {"plus": a.T}})}
    )
    assert "NaN or infinity" in refusal(model, {"patterns": Patterns({"layer": {"plus": a * np.nan}})})
    first = helper.make_graph(
        [helper.make_node("MatMul", ["w", "x"], ["y"], name="layer")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4, 5])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3, 5])],
        [numpy_helper.from_array(RNG.normal(size=(3, 4)).astype(np.float32), "w")],
    )
    before = helper.make_model(first, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    patterns = Patterns({"layer": {"plus": a.T}})
    assert "here it stands first" in refusal(before, {"patterns": patterns}, (1, 4, 5))


def test_options_that_do_not_fit() -> None:
    model = layer("Gemm", RNG.normal(size=(4, 3)), ("N", 4), ("N", 3))
    with pytest.raises(OptionError, match="needs patterns=, a file of `onnxplain fit patterns`"):
        explain(model, "pattern-net", np.zeros((1, 4)), {})
    with pytest.raises(OptionError, match="needs patterns="):
        explain(model, "pattern-net", np.zeros((1, 4)), {"estimator": "weights", "last": "plus"})
    with pytest.raises(OptionError, match="dict is no Patterns"):
        explain(model, "pattern-net", np.zeros((1, 4)), {"patterns": {"layer": np.zeros((4, 3))}})
    with pytest.raises(OptionError, match="'minus' is not one of"):
        explain(model, "pattern-net", np.zeros((1, 4)), {"estimator": "minus"})


def test_the_card_names_the_patterns_but_does_not_hold_them() -> None:
    model = layer("Gemm", RNG.normal(size=(4, 3)), ("N", 4), ("N", 3))
    a = RNG.normal(size=(4, 3))
    patterns = Patterns({"layer": {"plus": a}}, {"sha256": "abc", "images": 7, "health": {"layer": {}}})
    _, card = compile_model(model, PATTERN_NET, Request(options={"patterns": patterns}))
    assert card.options["patterns"] == {
        "patterns": patterns.digest,
        "nodes": 1,
        "sha256": "abc",
        "images": 7,
    }
    assert Patterns({"layer": {"plus": a + 1e-12}}).digest != patterns.digest
    assert card.rules == {"layer": "pattern[plus]"}


def test_numbers_of_a_chain_go_into_the_weight() -> None:
    """f sees alpha W once; the axes around it stay; a map without a weight is refused."""
    model = layer("Gemm", RNG.normal(size=(4, 3)), ("N", 4), ("N", 3))
    graph = prepare(model)
    g = Emit(graph)
    w, y = graph.nodes[0].inputs[1], graph.nodes[0].outputs[0]
    seen: list[str] = []

    def f(value: Any) -> Any:
        seen.append(value.name)
        return value

    dense = reweighed(Chain(Keep(), Dense(w, False, 0.5)), f, g)
    left = reweighed(Chain(LeftTimes(w, y, y), Scale(3.0)), f, g)
    assert isinstance(dense, Chain) and isinstance(dense.maps[1], Dense) and dense.maps[1].alpha == 1.0
    assert isinstance(left, Chain) and len(left.maps) == 1
    factors = [float(np.asarray(node.inputs[1].values)) for node in g.nodes]  # type: ignore[attr-defined]
    assert factors == [0.5, 3.0] and seen == [node.outputs[0].name for node in g.nodes]
    assert not weighted(Chain(Keep(), Scale(2.0)))
    with pytest.raises(Refuse, match="no weight"):
        reweighed(Keep(), f, g)


@pytest.mark.parametrize("method", ["pattern-net", "pattern-attribution"])
def test_projection_changes_the_scale_of_each_sample_alone(method: str) -> None:
    """Cosine 1, whatever the size; a net with a residual branch too."""
    for net, shape in (("mnist_lenet", (2, 1, 28, 28)), ("efficientnet_lite0", (1, 3, 224, 224))):
        x = np.random.default_rng(0).uniform(0, 1, shape).astype(np.float32)
        plain, scaled = (
            onnxplain.compile(models.path(net), method, estimator="weights", project=flag)(x).attribution
            for flag in (False, True)
        )
        for a, b in zip(plain.astype(np.float64), scaled.astype(np.float64), strict=True):
            cosine = (a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b)
            assert abs(cosine) > 1 - 1e-6
            assert np.abs(b).max() > 10 * np.abs(a).max() or net == "mnist_lenet", "nothing was rescaled"
