"""Whole nets in the canonical form: the function stays, and the nodes are those expected."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper
from onnx.helper import make_node

from onnxplain.rewriter.canonical import canonise, pair_layers
from onnxplain.rewriter.emit import Emit
from onnxplain.rewriter.graph import Graph, assemble, prepare, with_weights
from onnxplain.rewriter.passes.lower import lower
from onnxplain.rewriter.passes.share import share
from onnxplain.rewriter.tape import is_weighted, linearize, pull
from onnxplain.rules.gradient import GRADIENT

from .nets import floats, net, run
from .views import agrees, canonical, model_of

ROOT = Path(__file__).parents[2]
GOLDEN = sorted(path.stem for path in (ROOT / "tests" / "data" / "golden").glob("*.onnx"))
MODELS = [
    "efficientnet_lite0",
    "mnist_lenet",
    "selfie_segmentation",
    "style07_instancenorm",
    "tiny_yolov2_face",
]


def feeds(model: onnx.ModelProto, stored: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """One sample; axes without a size are 32 long."""
    value = model.graph.input[0]
    _, *shape = [dim.dim_value or 32 for dim in value.type.tensor_type.shape.dim]
    return {value.name: floats(1, *shape) if stored is None else stored.astype(np.float32)}


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_nets(name: str) -> None:
    path = ROOT / "tests" / "data" / "golden" / f"{name}.onnx"
    model = onnx.load(path)
    seen = agrees(model, feeds(model, np.load(path.with_suffix(".npz"))["x"]))
    assert "BatchNormalization" not in seen.ops
    names = [node.name for node in seen.view.nodes]
    assert len(set(names)) == len(names)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_models_that_come_along(name: str) -> None:
    model = onnx.load(ROOT / "models" / f"{name}.onnx")
    agrees(model, feeds(model))


def test_batch_norms_of_a_residual_net_are_gone() -> None:
    seen = agrees(onnx.load(ROOT / "tests" / "data" / "golden" / "resnet.onnx"), {"x": golden_x("resnet")})
    before = Counter(node.op for node in seen.graph.nodes)
    assert before - Counter(seen.ops) == Counter(BatchNormalization=3)


def test_projections_of_an_attention_net_get_their_biases() -> None:
    seen = agrees(
        onnx.load(ROOT / "tests" / "data" / "golden" / "attention.onnx"), {"x": golden_x("attention")}
    )
    before = Counter(node.op for node in seen.graph.nodes)
    biased = [node for node in seen.view.nodes if node.op == "MatMul" and len(node.inputs) == 3]
    assert before - Counter(seen.ops) == Counter(Add=len(biased)) and len(biased) == 5


def golden_x(name: str) -> np.ndarray:
    stored = np.load(ROOT / "tests" / "data" / "golden" / f"{name}.npz")["x"]
    return np.asarray(stored.astype(np.float32))


@pytest.mark.parametrize("name", ["attention", "resnet", "smooth_acts"])
def test_the_rules_read_the_view(name: str) -> None:
    """The gradient does not depend on how the same function is written. Two orders of float32 arithmetic: 1e-5 of
    the largest element."""
    model = onnx.load(ROOT / "tests" / "data" / "golden" / f"{name}.onnx")
    given = {"x": golden_x(name)}
    plain = gradient(prepare(model), None)
    graph = prepare(model)
    g = Emit(graph)
    seen = gradient(canonise(graph, g, [graph.outputs[0].name]), g)
    want, got = run(plain, given)["gradient"], run(seen, given)["gradient"]
    assert np.max(np.abs(want)) > 0
    assert np.max(np.abs(got - want)) <= 1e-5 * np.max(np.abs(want))


def gradient(graph: Graph, g: Emit | None) -> onnx.ModelProto:
    """The gradient of the sum of the outputs, by the gradient rules on the nodes of the graph."""
    g = g or Emit(graph)
    x, y = graph.inputs[0], graph.outputs[0]
    tape = linearize(graph, [x], y, GRADIENT, g)
    seed = g.Expand(g.number(1.0, y), g.Shape(y))
    result = g.Identity(pull(tape, {y.name: seed}, g)[x.name])
    result.name = "gradient"
    g.nodes, finals = share(g.nodes, [result])
    nodes, finals = lower(g, finals)
    info = helper.make_tensor_value_info("gradient", TensorProto.FLOAT, None)
    made = assemble(graph, nodes, [])
    made.graph.output.append(info)
    return with_weights(made, graph)


@dataclass
class Growing:
    """A net that gets layer after layer: (2, 4, 16, 16) at its input."""

    rng: np.random.Generator
    nodes: list[NodeProto] = field(default_factory=list)
    weights: dict[str, np.ndarray] = field(default_factory=dict)

    def normal(self, *shape: int) -> str:
        """A parameter whose outputs stay near 1."""
        return self.value(self.rng.normal(size=shape) / np.sqrt(math.prod(shape[1:])))

    def value(self, array: np.ndarray) -> str:
        name = f"c{len(self.weights)}"
        self.weights[name] = array if array.dtype == np.int64 else array.astype(np.float32)
        return name

    def layer(self, kind: str, x: str, y: str) -> None:
        rng, attributes, op, inputs = self.rng, dict[str, Any](), kind, list[str]()
        if kind == "Conv":
            group = int(rng.choice([1, 2, 4]))
            inputs = [self.normal(4, 4 // group, 3, 3), self.normal(4)][: rng.integers(1, 3)]
            attributes = {"group": group, "pads": [int(rng.integers(2))] * 4}
        elif kind == "ConvTranspose":
            inputs, attributes = [self.normal(4, 2, 3, 3)], {"group": 2, "pads": [1, 1, 1, 1]}
        elif kind == "BatchNormalization":
            inputs = [*(self.normal(4) for _ in range(3)), self.value(rng.uniform(0.2, 2, 4))]
        elif kind == "Pad":
            inputs = [self.value(np.asarray([0, 0, 1, 0, 0, 0, 1, 2]))]
        elif kind == "scale":
            op = str(rng.choice(["Mul", "Add", "Sub", "Div"]))
            inputs = [self.value(rng.uniform(0.5, 2, [(4, 1, 1), (), (1, 4, 1, 1)][rng.integers(3)]))]
            if op != "Div" and rng.random() < 0.3:
                self.nodes.append(make_node(op, [*inputs, x], [y]))
                return
        elif kind == "Add":
            inputs = [x]
        self.nodes.append(make_node(op, [x, *inputs], [y], **attributes))


KINDS = ["Conv", "Conv", "ConvTranspose", "BatchNormalization", "scale", "scale", "Pad", "LeakyRelu", "Add"]


def random_net(seed: int) -> tuple[onnx.ModelProto, tuple[int, ...]]:
    """Twelve layers of kinds drawn by chance; t0 ... t11 and their mean y."""
    net = Growing(np.random.default_rng(seed))
    for i in range(12):
        net.layer(str(net.rng.choice(KINDS)), f"t{i - 1}" if i else "x", f"t{i}")
    net.nodes.append(make_node("GlobalAveragePool", ["t11"], ["y"]))
    return model_of(net.nodes, (2, 4, 16, 16), net.weights), (2, 4, 16, 16)


@pytest.mark.parametrize("seed", range(40))
def test_random_nets(seed: int) -> None:
    model, size = random_net(seed)
    given = {"x": floats(*size, seed=seed)}
    fewer = agrees(model, given)
    kept = [f"t{i}" for i in range(0, 12, 2)]
    more = agrees(model, given, keep=kept)
    assert len(fewer.ops) <= len(more.ops) <= len(fewer.graph.nodes)


def test_random_nets_lose_nodes() -> None:
    """The nets above would show little if nothing were merged in them."""
    gone = 0
    for seed in range(40):
        seen = canonical(random_net(seed)[0])
        gone += len(seen.graph.nodes) - len(seen.ops)
    assert gone > 80


LAYERS = """g (float[1, 2, 4, 4] x) => (float[1, 2, 4, 4] y)
<float[2, 2, 1, 1] w = {1, 2, 3, 4}, float[2] b = {1, 2}, float zero = {0}, float[1] slope = {0.1}> {
    a = Conv (x, w, b)
    c = Relu (a)
    d = Conv (c, w)
    e = Clip (d, zero)
    f = Conv (e, w)
    h = PRelu (f, slope)
    i = Relu (h)
    y = Conv (i, w)
}"""


def paired(
    text: str = LAYERS, keep: tuple[str, ...] = (), acts: tuple[str, ...] = ("Relu", "Clip", "PRelu")
) -> Graph:
    return pair_layers(prepare(net(text)), {"Conv", "MatMul"}, frozenset(acts), keep)


def test_layers_and_their_activations_pair_up() -> None:
    graph = prepare(net(LAYERS))
    view = pair_layers(graph, {"Conv"}, {"Relu", "Clip", "PRelu"})
    assert [node.op for node in view.nodes] == ["Layer", "Layer", "Layer", "Relu", "Conv"]
    first, conv, relu = view.nodes[0], graph.nodes[0], graph.nodes[1]
    assert (first.domain, first.name) == ("onnxplain", conv.name)
    assert first.attrs == {"affine": conv, "activation": relu}
    assert [x.name for x in first.inputs] == ["x", "w", "b"] and first.outputs[0].name == "c"
    assert is_weighted(first)
    assert len(graph.nodes) == 8  # a view: the graph has its own nodes still


def test_only_what_was_asked_for_pairs_up() -> None:
    assert [node.op for node in paired(acts=("Relu",)).nodes] == [
        "Layer",
        "Conv",
        "Clip",
        "Conv",
        "PRelu",
        "Relu",
        "Conv",
    ]
    assert [node.op for node in paired(keep=("a", "f")).nodes] == [
        "Conv",
        "Relu",
        "Layer",
        "Conv",
        "PRelu",
        "Relu",
        "Conv",
    ]
    assert [node.op for node in paired(keep=("c",)).nodes][:2] == ["Layer", "Layer"]


@pytest.mark.parametrize(
    "body",
    [
        "a = Conv (x, w) c = Relu (a) y = Add (a, c)",
        "a = Conv (x, w) c = Relu (x) y = PRelu (c, a)",
        "a = Conv (x, w) y = PRelu (a, x)",
        "a = Conv (x, w) c = Abs (a) y = Relu (c)",
    ],
)
def test_layers_that_do_not_pair_up(body: str) -> None:
    text = f"g (float[1, 2, 4, 4] x) => (float[1, 2, 4, 4] y) <float[2, 2, 1, 1] w = {{1, 2, 3, 4}}> {{ {body} }}"
    assert "Layer" not in [node.op for node in paired(text).nodes]


def test_pairs_of_the_canonical_form() -> None:
    """Batch normalisation between a layer and its activation does not hold them apart."""
    model = onnx.load(ROOT / "tests" / "data" / "golden" / "resnet.onnx")
    seen = canonical(model)
    view = pair_layers(seen.view, {"Conv"}, {"Relu"})
    layers = [node for node in view.nodes if node.op == "Layer"]
    assert layers
    for layer in layers:
        affine = layer.attrs["affine"]
        assert [x is y for x, y in zip(affine.inputs, layer.inputs, strict=True)]
        assert layer.outputs[0].name == layer.attrs["activation"].outputs[0].name
