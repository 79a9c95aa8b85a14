"""The forward pass at a reference: the same values as the model gives there, at no cost when it is constant."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from onnxplain.models import path
from onnxplain.rewriter.compile import Request, compile_model
from onnxplain.rewriter.emit import Emit
from onnxplain.rewriter.errors import UnsupportedError
from onnxplain.rewriter.graph import Graph, Node, Value, assemble, declared, prepare, with_weights
from onnxplain.rewriter.mirror import mirror
from onnxplain.rewriter.passes.share import share
from onnxplain.rewriter.tape import touched
from onnxplain.rules.methods_deeplift import DEEPLIFT_RESCALE
from onnxplain.rules.registry import find
from tests.deeplift import noise, run

from .nets import net

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
NETS = ["mlp_bias", "cnn_odd", "resnet", "overlap_pool", "concat", "smooth_acts", "sr", "i2i", "attention"]


def golden(name: str) -> onnx.ModelProto:
    return onnx.load(GOLDEN / f"{name}.onnx")


def mirrored(model: onnx.ModelProto, rows: int | str = 1) -> tuple[Graph, Graph, Emit, onnx.ModelProto]:
    """(before, after, emitted, model): the model has an input `reference` and every twin as an output twin/NAME."""
    graph = prepare(model)
    g = Emit(graph)
    (x,) = (value for value in graph.inputs if value.name == "x")
    given = onnx_input(x, rows)
    after = mirror(graph, g, {x.name: given}, graph.outputs[0])
    assert after.twin is not None
    results = []
    for node in touched(graph, [x], graph.outputs[0]):
        for y, twin in zip(node.outputs, after.twin(node).outputs, strict=True):
            if y.name:
                final = g.Identity(twin)
                final.name, final.dtype, final.shape = f"twin/{y.name}", y.dtype, None
                results.append(final)
    g.nodes, finals = share(g.nodes, results)
    made = assemble(graph, g.nodes, [declared(value) for value in finals])
    made.graph.input.append(declared(given))
    return graph, after, g, with_weights(made, graph)


def onnx_input(x: Value, rows: int | str) -> Value:
    from onnxplain.rewriter.graph import variable

    return variable("reference", x.dtype, [rows, *x.shape[1:]])


def every_value(model: onnx.ModelProto, x: NDArray[np.float32]) -> Mapping[str, NDArray[np.float32]]:
    """All tensors of the prepared model."""
    graph = prepare(model)
    (source,) = (value for value in graph.inputs if value.name == "x")
    values = [y for node in touched(graph, [source], graph.outputs[0]) for y in node.outputs if y.name]
    known = {y.name for y in graph.outputs}
    made = assemble(graph, [], [declared(y) for y in values if y.name not in known])
    return run(with_weights(made, graph), {"x": x})


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("name", NETS)
def test_twins_have_the_values_of_the_model_at_the_reference(name: str, rows: int) -> None:
    model = golden(name)
    _, _, _, both = mirrored(model, 1 if rows == 1 else "M")
    size = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim][1:]
    x, x0 = noise(3, *size, seed=1), noise(rows, *size, seed=2)
    got, want = run(both, {"x": x, "reference": x0}), every_value(model, x0)
    twins = {key.removeprefix("twin/"): value for key, value in got.items() if key.startswith("twin/")}
    assert set(twins) == set(want) and twins
    for key, value in want.items():
        assert np.array_equal(twins[key], value), key


def test_looking_at_twins_links_nothing() -> None:
    """graphsurgeon's own nodes enter themselves at their tensors."""
    graph = prepare(golden("overlap_pool"))
    g = Emit(graph)
    after = mirror(graph, g, {"x": g.constant(np.zeros((1, 2, 9, 9), np.float32))}, graph.outputs[0])
    before = {name: (len(value.inputs), len(value.outputs)) for name, value in graph.values.items()}
    assert after.twin is not None
    shadows = [after.twin(node) for node in graph.nodes]
    assert before == {name: (len(v.inputs), len(v.outputs)) for name, v in graph.values.items()}
    for node, shadow in zip(graph.nodes, shadows, strict=True):
        assert after.twin(node) is shadow and shadow is not node
        assert (shadow.op, shadow.name, shadow.attrs) == (node.op, node.name, node.attrs)
        for value in (*shadow.inputs, *shadow.outputs):
            assert not any(reader is shadow for reader in (*value.inputs, *value.outputs))


def test_shapes_of_twins_have_the_rows_of_the_reference() -> None:
    graph, after, _, _ = mirrored(golden("cnn_odd"))
    assert after.twin is not None
    for node in graph.nodes:
        twin = after.twin(node)
        for value, other in zip(node.outputs, twin.outputs, strict=True):
            assert other.dtype == value.dtype
            assert list(other.shape) == [1, *value.shape[1:]]


def test_parameters_are_shared_and_forward_nodes_untouched() -> None:
    model = golden("cnn_bias")
    graph, after, _, both = mirrored(model)
    assert after.twin is not None
    for node in graph.nodes:
        for x, other in zip(node.inputs, after.twin(node).inputs, strict=True):
            assert (x is other) == (graph.constant(x) is not None)
    before = [node.SerializeToString() for node in graph.draft.graph.node]
    assert [node.SerializeToString() for node in both.graph.node][: len(before)] == before


def test_values_derived_from_shapes_follow_the_rows() -> None:
    """A class token, repeated to the batch by its run-time size, and a flatten by hand."""
    model = net(
        """g (float[N,3,4] x) => (float[N,M] y) <float[1,1,4] token = {1,2,3,4}> {
        s = Shape <start = 0, end = 1> (x)
        tail = Constant <value_ints = [1, 4]> ()
        size = Concat <axis = 0> (s, tail)
        tokens = Expand (token, size)
        z = ConstantOfShape <value = float[1] {0.5}> (size)
        shifted = Add (tokens, z)
        all = Concat <axis = 1> (shifted, x)
        minus = Constant <value_ints = [-1]> ()
        flat = Concat <axis = 0> (s, minus)
        y = Reshape (all, flat) }"""
    )
    _, _, _, both = mirrored(model)
    x, x0 = noise(3, 3, 4, seed=1), noise(1, 3, 4, seed=2)
    got = run(both, {"x": x, "reference": x0})
    assert np.array_equal(got["twin/y"], run(model, {"x": x0})["y"])


def test_a_second_input_gives_the_reference_its_rows() -> None:
    """Concat takes no broadcasting: one row of reference meets N rows of the other input."""
    model = net(
        """g (float[N,2] x, float[N,2] other) => (float[N,3] y) <float[4,3] w = {1,2,3,4,5,6,7,8,9,10,11,12}> {
        both = Concat <axis = 1> (x, other)
        y = MatMul (both, w) }"""
    )
    _, _, _, both = mirrored(model)
    x, other, x0 = noise(3, 2, seed=1), noise(3, 2, seed=2), noise(1, 2, seed=3)
    got = run(both, {"x": x, "other": other, "reference": x0})
    want = run(model, {"x": np.repeat(x0, 3, axis=0), "other": other})["y"]
    assert np.array_equal(got["twin/y"], want)


def test_a_fixed_batch_gives_the_reference_its_rows() -> None:
    """The Reshape mixes rows and columns: the batch cannot be freed."""
    model = net(
        """g (float[2,6] x) => (float[3,4] y) {
        size = Constant <value_ints = [3, 4]> ()
        z = Reshape (x, size)
        y = Relu (z) }"""
    )
    graph = prepare(model)
    g = Emit(graph)
    (x,) = graph.inputs
    assert x.shape[0] == 2
    after = mirror(graph, g, {"x": g.constant(np.ones((1, 6), np.float32))}, graph.outputs[0])
    assert after.twin is not None
    assert list(after.twin(graph.nodes[-1]).outputs[0].shape) == [3, 4]


def branch(name: str, op: str) -> onnx.GraphProto:
    """A subgraph that reads the outer tensor h."""
    value = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
    return helper.make_graph([helper.make_node(op, ["h"], [name])], name, [], [value])


def test_a_node_with_a_subgraph_is_named_not_skipped() -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["h"], "first"),
        helper.make_node(
            "If", ["flag"], ["z"], "fork", then_branch=branch("t", "Relu"), else_branch=branch("e", "Neg")
        ),
        helper.make_node("Sigmoid", ["z"], ["y"], "last"),
    ]
    ends = [
        helper.make_tensor_value_info(name, kind, dims)
        for name, kind, dims in (
            ("x", TensorProto.FLOAT, ["N", 3]),
            ("flag", TensorProto.BOOL, []),
            ("y", TensorProto.FLOAT, ["N", 3]),
        )
    ]
    graph = helper.make_graph(nodes, "g", ends[:2], ends[2:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    with pytest.raises(UnsupportedError) as caught:
        compile_model(model, DEEPLIFT_RESCALE, Request(head="prob"))
    assert [site.name for site in caught.value.sites] == ["fork", "last"]


def test_twin_of_a_node_made_by_a_view() -> None:
    """Weights stay, activations are exchanged."""
    from onnxplain.rewriter.canonical import canonise

    graph = prepare(golden("resnet"))
    g = Emit(graph)
    zeros = g.constant(np.zeros((1, 2, 8, 8), np.float32))
    after = canonise(mirror(graph, g, {"x": zeros}, graph.outputs[0]), g, (graph.outputs[0].name,))
    assert after.twin is not None
    known = {id(node) for node in graph.nodes}
    made: list[Node] = [node for node in after.nodes if id(node) not in known]
    assert made
    for node in made:
        twin = after.twin(node)
        assert twin.inputs[0] is not node.inputs[0] and twin.outputs[0] is not node.outputs[0]
        assert all(a is b for a, b in zip(node.inputs[1:], twin.inputs[1:], strict=True))


def optimised(model: onnx.ModelProto, file: Path) -> onnx.ModelProto:
    """The graph that onnxruntime makes of it when it loads the file."""
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(file)
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 4
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return onnx.load(file)


@pytest.mark.parametrize("name", ["cnn_bias", "resnet", "overlap_pool", "smooth_acts", "i2i"])
def test_onnxruntime_folds_a_constant_reference(name: str, tmp_path: Path) -> None:
    """No weighted node of the branch is left: as many as the saliency graph has."""
    counts = []
    for method in (find("saliency"), DEEPLIFT_RESCALE):
        emitted, _ = compile_model(
            golden(name), method, Request(target="top" if name != "i2i" else "cotangent")
        )
        graph = optimised(emitted, tmp_path / f"{method.name}.onnx").graph
        ops = [node.op_type for node in graph.node]
        counts.append(
            [sum(op.startswith(kind) for op in ops) for kind in ("Conv", "Gemm", "FusedConv", "MaxPool")]
        )
    assert counts[0] == counts[1]


def test_the_file_does_not_hold_activations() -> None:
    """224 x 224: the reference alone would be 600 kB, its activations 100 MB."""
    model = onnx.load(path("efficientnet_lite0"))
    emitted, _ = compile_model(model, DEEPLIFT_RESCALE, Request(target="top"))
    assert emitted.ByteSize() < model.ByteSize() + 400_000


SPELLED = {
    "HardSwish": "y = HardSwish (x)",
    "Mish": "y = Mish (x)",
    "GroupNormalization": "y = GroupNormalization <num_groups = 2, epsilon = 0.5> (x, c, d)",
}


@pytest.mark.parametrize("name", SPELLED)
def test_operators_that_are_functions_to_onnxruntime_fold_too(name: str, tmp_path: Path) -> None:
    """Left whole they would be computed at every run, and everything behind them."""
    model = net(
        f"""g (float[N,4,3,3] x) => (float[N,4,3,3] y)
        <float[4] c = {{1, 2, 3, 4}}, float[4] d = {{5, 6, 7, 8}}>
        {{ {SPELLED[name]} }}""",
        opset=21,
        ir=10,
    )
    graph = prepare(model)
    g = Emit(graph)
    x0 = noise(1, 4, 3, 3, seed=4)
    after = mirror(graph, g, {"x": g.constant(x0)}, graph.outputs[0])
    assert after.twin is not None
    final = g.Add(graph.outputs[0], after.twin(graph.nodes[-1]).outputs[0])
    final.name, final.shape = "both", ["N", 4, 3, 3]
    made = with_weights(assemble(graph, g.nodes, [declared(final)]), graph)
    plain = [node.op_type for node in optimised(model, tmp_path / "plain.onnx").graph.node]
    ops = [node.op_type for node in optimised(made, tmp_path / "both.onnx").graph.node]
    assert sorted(ops) == sorted([*plain, "Add"])
    x = noise(2, 4, 3, 3, seed=5)
    want = run(model, {"x": x})["y"] + run(model, {"x": x0})["y"]
    # The group statistics are summed in another order: float32 rounding.
    assert np.abs(run(made, {"x": x})["both"] - want).max() < 1e-5
