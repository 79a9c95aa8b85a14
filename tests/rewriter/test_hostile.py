"""Models that ask for more than there is, or that are damaged, end in an ExplainError, soon."""

from __future__ import annotations

import re
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxplain.rewriter.compile import Request, compile_model, compile_source
from onnxplain.rewriter.errors import ExplainError, ModelError, UnsupportedError
from onnxplain.rewriter.load import load
from onnxplain.rules.registry import find

from .nets import floats, net, run

GOLDEN = Path(__file__).parent.parent / "data" / "golden"
SECONDS = 10.0
"""Generous: every case takes milliseconds where nothing is allocated or run."""


def compiled(model: onnx.ModelProto | bytes) -> onnx.ModelProto:
    return compile_model(model, find("saliency"), Request(target="top"))[0]


# Models that ask for more than there is


def _quickly(model: onnx.ModelProto) -> onnx.ModelProto:
    began = time.perf_counter()
    made = compiled(model)
    assert time.perf_counter() - began < SECONDS
    return made


BOMBS = {
    "ConstantOfShape of 3 GiB": "<int64[1] s = {805306368}> { c = ConstantOfShape(s) REST",
    "Expand to 2^44": "<int64[2] s = {4194304, 4194304}, float[1] o = {1}> { c = Expand(o, s) REST",
    "Tile to 2^44": "<int64[1] s = {17592186044416}, float[1] o = {1}> { c = Tile(o, s) REST",
    "Gather of a row 8000 times": """<int64[1] n = {8000}, int64[2] r = {1, 8000}>
        { a = ConstantOfShape <value = int64[1] {0}> (n) p = Reshape(a, r) w = Gather(p, a)
        c = Cast <to = 1> (w) REST""",
    "product of a row and a column": """<int64[1] n = {8192}, int64[2] r = {8192, 1}, int64[2] q = {1, 8192}>
        { a = ConstantOfShape <value = int64[1] {3}> (n) b = Reshape(a, r) d = Reshape(a, q) e = Mul(b, d)
        c = Cast <to = 1> (e) REST""",
    "Range of floats to 1e30": "<float a = {0}, float b = {1}, float d = {1e-30}> { c = Range(a, b, d) REST",
    "Loop 2^62": """<int64 n = {4611686018427387904}, bool t = {1}, float z = {0}> {
        c = Loop(n, t, z) <body = b (int64 i, bool ti, float s) => (bool to, float so)
        { to = Identity(ti) one = Constant <value_float = 1.0> () so = Add(s, one) }> REST""",
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_large_results_stay_in_the_graph(bomb: str) -> None:
    """Compiling neither computes nor allocates them; whoever runs the file decides."""
    rest = "m = ReduceSum <keepdims = 0> (c) y = Add(x, m) }"
    made = _quickly(net("g (float[N,3] x) => (float[N,3] y) " + BOMBS[bomb].replace("REST", rest)))
    assert made.ByteSize() < 200_000
    kind = bomb.split()[0]
    assert kind not in {"ConstantOfShape", "Expand", "Tile", "Gather", "Range", "Loop"} or kind in {
        node.op_type for node in made.graph.node
    }


VECTORS = {
    "Range": """<int64 a = {0}, int64 b = {17592186044416}, int64 d = {1}> {
        r = Range(a, b, d) c = Cast <to = 1> (r) REST""",
    "Concat": "<float[1] c0 = {1}> {"
    + " ".join(f"c{i + 1} = Concat <axis = 0> (c{i}, c{i})" for i in range(40))
    + "c = Identity(c40) REST",
    "branch": """<bool t = {1}> { c = If(t) <then_branch = p () => (float[M] o)
        { a = Constant <value_int = 0> () b = Constant <value_int = 99999999999> () d = Constant <value_int = 1> ()
          r = Range(a, b, d) o = Cast <to = 1> (r) },
        else_branch = q () => (float[M2] u) { u = Constant <value_floats = [1.0, 2.0]> () }> REST""",
}


@pytest.mark.parametrize("kind", VECTORS)
def test_vectors_that_shape_inference_would_write_out_are_refused(kind: str) -> None:
    rest = "m = ReduceSum <keepdims = 0> (c) y = Add(x, m) }"
    with pytest.raises(ModelError, match=r"vector of \d+ elements"):
        _quickly(net("g (float[N,3] x) => (float[N,3] y) " + VECTORS[kind].replace("REST", rest)))


@pytest.mark.parametrize(
    "body",
    [
        "<int64[2] s = {-1, 3}, float[1] o = {1}> { c = Expand(o, s) REST",
        "<int64[1] s = {-5}> { c = ConstantOfShape(s) REST",
        "<int64[2] s = {1, 2}, int64 i = {7}> { d = Gather(s, i) c = Cast <to = 1> (d) REST",
        "<int64[2] s = {1, 2}, int64[1] i = {7}> { d = Reshape(s, i) c = Cast <to = 1> (d) REST",
        "<int64 a = {0}, int64 b = {5}, int64 d = {0}> { r = Range(a, b, d) c = Cast <to = 1> (r) REST",
    ],
)
def test_constants_that_cannot_be_computed_are_left_alone(body: str) -> None:
    """They stay in the graph or are refused; numpy's own errors never come out."""
    rest = "m = ReduceSum <keepdims = 0> (c) y = Add(x, m) }"
    try:
        compiled(net("g (float[N,3] x) => (float[N,3] y) " + body.replace("REST", rest)))
    except ModelError as error:
        assert "shape" in str(error).lower()


def _functions(levels: int) -> onnx.ModelProto:
    """f_k calls f_(k-1) twice: 2^levels nodes once unfolded."""
    text = '<domain: "own", opset_import: ["" : 18]> f0 (a) => (b) { b = Relu(a) }'
    for i in range(1, levels + 1):
        head = '<domain: "own", opset_import: ["" : 18, "own" : 1]>'
        text += f"{head} f{i} (a) => (b) {{ t = own.f{i - 1}(a) b = own.f{i - 1}(t) }}"
    body = f"g (float[N,3] x) => (float[N,3] y) {{ y = own.f{levels}(x) }}"
    return net(body, more='"own" : 1', functions=text)


def test_functions_that_unfold_without_end() -> None:
    assert [node.op_type for node in _quickly(_functions(2)).graph.node[:4]] == ["Relu"] * 4
    with pytest.raises(ModelError, match=f"unfold into {2**40} nodes"):
        _quickly(_functions(40))
    model = _functions(1)
    model.functions[0].node[0].CopyFrom(helper.make_node("f1", ["a"], ["b"], domain="own"))
    with pytest.raises(ModelError, match="malformed"):
        _quickly(model)


def _nested(depth: int) -> bytes:
    """An If in an If ..., written innermost last; bytes, since protobuf's Python cannot copy what is too deep."""
    model = net(
        "g (float[N,3] x) => (float[N,3] y) <bool c = {1}, float z = {1}> { v = Identity(z) y = Add(x, v) }"
    )
    node, graph = model.graph.node[0], model.graph
    for level in range(depth):
        node.op_type, node.output[0] = "If", f"v{level}" if level else "v"
        node.input[0] = "c"
        for name in ("else_branch", "then_branch"):
            attribute = node.attribute.add()
            attribute.name, attribute.type = name, onnx.AttributeProto.GRAPH
            graph, last = attribute.g, f"{name[0]}{level}"
            graph.name = last
            inner = graph.node.add()
            inner.op_type = "Identity"
            inner.input.append("z")
            inner.output.append(last)
            graph.output.append(helper.make_tensor_value_info(last, TensorProto.FLOAT, []))
        node = graph.node[0]
        graph.output[0].name = f"v{level + 1}"
        node.output[0] = f"v{level + 1}"
    return bytes(model.SerializeToString())


def test_branches_thirty_deep_compile() -> None:
    """Ten are run: onnxruntime 1.27 takes twice as long to open a file with every level."""
    x = floats(2, 3)
    assert np.array_equal(run(compiled(_nested(10)), {"x": x})["y"], x + 1)
    onnx.checker.check_model(compiled(_nested(30)))


@pytest.mark.parametrize("depth", [45, 200])
def test_branches_too_deep_for_protobuf(depth: int) -> None:
    with pytest.raises(ModelError):
        compiled(_nested(depth))


# Damage


def _damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """Cut off, some bytes replaced, some bits turned, or a stretch missing."""
    spoilt = bytearray(data)
    kind = rng.integers(4)
    if kind == 0:
        return bytes(spoilt[: rng.integers(len(spoilt))])
    if kind == 3:
        at = rng.integers(len(spoilt))
        del spoilt[at : at + rng.integers(1, 40)]
        return bytes(spoilt)
    for at in rng.integers(0, len(spoilt), rng.integers(1, 6)):
        spoilt[at] = rng.integers(256) if kind == 1 else spoilt[at] ^ (1 << rng.integers(8))
    return bytes(spoilt)


@pytest.mark.parametrize("name", ["cnn_odd", "attention", "mlp_bias"])
def test_damaged_files_compile_or_are_refused(name: str) -> None:
    data, rng = (GOLDEN / f"{name}.onnx").read_bytes(), np.random.default_rng(2026)
    refused = 0
    began = time.perf_counter()
    for _ in range(300):
        spoilt = _damaged(data, rng)
        try:
            compile_source(load(spoilt), find("saliency"), Request())
        except ExplainError as error:
            assert re.search(r"\w{3}", str(error))
            refused += 1
    assert 0 < refused < 300, "some damage must be noticed, and some hits weights only"
    assert time.perf_counter() - began < 60


def test_attributes_at_random_compile_or_are_refused() -> None:
    """The file is sound protobuf, the numbers in it are not."""
    rng, kinds = np.random.default_rng(3), set()
    for name in ["cnn_odd", "overlap_pool", "attention", "resnet", "concat"]:
        for _ in range(60):
            model = onnx.load(GOLDEN / f"{name}.onnx")
            _disturb(model, rng)
            try:
                compiled(model)
                kinds.add("compiled")
            except (ModelError, UnsupportedError) as error:
                kinds.add(type(error).__name__)
            except ExplainError:
                kinds.add("another")
    assert {"compiled", "ModelError"} <= kinds


ODD = [-(2**63), -(2**31), -7, -1, 0, 1, 2, 3, 100, 2**31, 2**62, 2**63 - 1]


def _disturb(model: onnx.ModelProto, rng: np.random.Generator) -> None:
    """One odd number in an attribute, an integer initializer or a declared shape; or one name exchanged."""
    numbers = [a for node in model.graph.node for a in node.attribute if a.ints or a.HasField("i")]
    tensors = [t for t in model.graph.initializer if t.data_type == TensorProto.INT64]
    values = [*model.graph.input, *model.graph.output]
    odd, kind = int(rng.choice(ODD)), rng.integers(4)
    if kind == 0 and numbers:
        attribute = numbers[rng.integers(len(numbers))]
        if attribute.ints:
            attribute.ints[int(rng.integers(len(attribute.ints)))] = odd
        else:
            attribute.i = odd
    elif kind == 1 and tensors:
        tensor = tensors[rng.integers(len(tensors))]
        array = numpy_helper.to_array(tensor).copy()
        array.reshape(-1)[rng.integers(array.size)] = odd
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    elif kind == 2:
        dims = values[rng.integers(len(values))].type.tensor_type.shape.dim
        dims[int(rng.integers(len(dims)))].dim_value = odd
    else:
        nodes = [node for node in model.graph.node if node.input]
        node, other = (nodes[i] for i in rng.integers(0, len(nodes), 2))
        node.input[int(rng.integers(len(node.input)))] = other.input[0]
