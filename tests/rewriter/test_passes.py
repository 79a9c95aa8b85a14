"""Every pass leaves a model that the checker accepts and that computes what it computed before."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxplain.rewriter.compile import Request, compile_model
from onnxplain.rewriter.draft import HEAVY, draft
from onnxplain.rewriter.errors import ModelError, OptionError
from onnxplain.rewriter.graph import prepare
from onnxplain.rewriter.passes.batch import free_batch
from onnxplain.rewriter.passes.canonical import drop_identities
from onnxplain.rewriter.passes.constants import MAX_ELEMENTS, fold, fold_sizes
from onnxplain.rewriter.passes.functions import inline
from onnxplain.rewriter.passes.opset import FLOOR, lift
from onnxplain.rewriter.passes.shapes import UNKNOWN, fix_inputs, infer
from onnxplain.rules.registry import find

from .nets import drafted, floats, net, ops, run, unchanged

Feeds = Mapping[str, np.ndarray]


# Opset

OLD = {
    7: "g (float[2,3] x) => (float[2,3] y) { a = Relu(x) b = Dropout <ratio = 0.5> (a) y = Softmax <axis = 1> (b) }",
    9: """g (float[1,2,4,4] x) => (float[1,2,8,8] y) <float[4] s = {1, 1, 2, 2}> {
        a = Relu(x) y = Upsample <mode = "nearest"> (a, s) }""",
    11: """g (float[2,3,4] x) => (float[2,3] y) {
        a = Relu(x) b = ReduceSum <axes = [2], keepdims = 0> (a) c = Clip(b) y = Identity(c) }""",
    13: "g (float[2,3] x) => (float[2] y) { a = Relu(x) y = ReduceMean <axes = [1], keepdims = 0> (a) }",
    17: "g (float[2,6] x) => (float[2,3] y) { a = Relu(x) y, z = Split <axis = 1> (a) }",
}


def annotated(opset: int) -> onnx.ModelProto:
    """The model of that opset with everything a person may have written into it."""
    model = net(OLD[opset], opset=opset)
    model.producer_name, model.doc_string, model.model_version = "by hand", "a model", 3
    model.graph.doc_string = "a graph"
    helper.set_model_props(model, {"author": "nobody"})
    for i, node in enumerate(model.graph.node):
        node.name, node.doc_string = f"my/node.{i}", f"node {i}"
        node.metadata_props.add(key="scope", value=f"layer {i}")
    return model


@pytest.mark.parametrize("opset", OLD)
def test_lift_keeps_outputs_names_and_notes(opset: int) -> None:
    model = annotated(opset)
    work = draft(model)
    lift(work)
    assert work.opset == FLOOR
    shape = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
    unchanged(work, model, {"x": floats(*shape)})
    assert (work.model.producer_name, work.model.doc_string, work.model.model_version) == (
        "by hand",
        "a model",
        3,
    )
    assert work.graph.doc_string == "a graph"
    assert {entry.key: entry.value for entry in work.model.metadata_props} == {"author": "nobody"}
    lifted = {node.name: node for node in work.graph.node}
    for i, node in enumerate(model.graph.node):
        assert lifted[node.name].doc_string == f"node {i}"
        assert [(entry.key, entry.value) for entry in lifted[node.name].metadata_props] == [
            ("scope", f"layer {i}")
        ]


@pytest.mark.parametrize("opset", [18, 19, 21])
def test_lift_leaves_later_opsets_as_they_are(opset: int) -> None:
    work = drafted("g (float[2,3] x) => (float[2,3] y) { y = Relu(x) }", opset=opset)
    before = work.graph.SerializeToString(deterministic=True)
    lift(work)
    assert work.opset == opset
    assert work.graph.SerializeToString(deterministic=True) == before
    assert work.model.ir_version >= 10


def test_lift_keeps_the_opset_of_other_domains() -> None:
    model = net(
        "g (float[2,3] x) => (float[2,3] y) { y = com.acme.Gate(x) }", opset=13, more='"com.acme" : 5'
    )
    work = draft(model)
    lift(work)
    assert {entry.domain: entry.version for entry in work.model.opset_import} == {"": 18, "com.acme": 5}


def test_lift_keeps_heavy_weights_aside() -> None:
    model = net("g (float[N,40] x) => (float[N,40] y) { y = MatMul(x, w) }", opset=11)
    model.graph.initializer.append(numpy_helper.from_array(floats(40, 40), "w"))
    work = draft(model)
    lift(work)
    assert list(work.weights) == ["w"]
    assert [value.name for value in work.graph.input] == ["x"]
    unchanged(work, model, {"x": floats(2, 40)})


# Functions


def test_inline_nested_functions() -> None:
    functions = """<domain: "own", opset_import: ["" : 18]> inner (a) => (b) { c = Relu(a) b = Neg(c) }
      <domain: "own", opset_import: ["" : 18, "own" : 1]>
      outer <scale: float = 2.0> (a) => (b) {
        k = Constant <value_float: float = @scale> () t = own.inner(a) b = Mul(t, k) }"""
    body = "g (float[N,3] x) => (float[N,3] y) { t = own.outer <scale = 3.0> (x) u = own.outer(t) y = own.inner(u) }"
    model = net(body, more='"own" : 1', functions=functions)
    work = draft(model)
    inline(work)
    assert not work.model.functions
    assert {node.domain for node in work.graph.node} == {""}
    unchanged(work, model, {"x": -floats(2, 3)})


def test_a_function_of_another_opset() -> None:
    """onnxruntime reads it in the model's opset, the specification asks that both mean the same."""
    body = "g (float[2,3,4] x) => (float[2,3,4] y) { y = own.soft(x) }"
    text = '<domain: "own", opset_import: ["" : %d]> soft (a) => (b) { b = %s(a) }'
    model = net(body, opset=18, more='"own" : 1', functions=text % (14, "Softmax"))
    work = draft(model)
    inline(work)
    assert ops(work) == ["Softmax"]
    unchanged(work, model, {"x": floats(2, 3, 4)})
    with pytest.raises(
        ModelError, match=r"function 'soft' uses Softmax of opset 11, which is another in .* 18"
    ):
        inline(draft(net(body, opset=18, more='"own" : 1', functions=text % (11, "Softmax"))))


# Shapes


def test_infer_follows_sizes_through_shape_arithmetic() -> None:
    work = drafted(
        """g (float[N,3,4,5] x) => (float[A,B] y) <int64 zero = {0}, int64[1] sixty = {60}, int64[1] axis = {0}> {
          s = Shape(x) n = Gather(s, zero) n1 = Unsqueeze(n, axis) shape = Concat <axis = 0> (n1, sixty)
          y = Reshape(x, shape) }"""
    )
    types = infer(work)  # the declared A and B are names only
    assert types["y"].shape == ("N", 60)
    assert types["s"].dtype == np.dtype(np.int64)


def test_infer_takes_what_the_file_declares_where_nothing_is_known() -> None:
    model = net(
        "g (float[N,3] x) => (float[N,3] y) { a = com.acme.Gate(x) y = Relu(a) }", more='"com.acme" : 1'
    )
    assert infer(draft(model))["a"] == UNKNOWN
    model.graph.value_info.append(helper.make_tensor_value_info("a", TensorProto.FLOAT, ["N", 3]))
    assert infer(draft(model))["a"].shape == ("N", 3)


def test_inputs_take_the_shapes_asked_for() -> None:
    work = drafted("g (float[N,3,H,W] x) => (float[N,3,H,W] y) { y = Relu(x) }")
    fix_inputs(work, {"x": ("N", 3, 8, 8)})
    assert infer(work)["x"].shape == ("N", 3, 8, 8)
    with pytest.raises(OptionError, match=r"no input 'z'; it has x"):
        fix_inputs(work, {"z": (1, 3)})
    for wrong in (("N", 3, 8), ("N", 4, 8, 8)):
        with pytest.raises(OptionError, match="does not fit"):
            fix_inputs(work, {"x": wrong})


def test_declared_sizes_complete_what_inference_cannot_know() -> None:
    work = drafted("""g (float[N,3] x, int64[2] s) => (float[N,1000] y) { a = Reshape(x, s) y = Relu(a) }""")
    assert infer(work)["y"].shape == ("N", 1000)


# Constants


def _constant(name: str, **value: Any) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [name], **value)


def test_constants_of_every_kind_become_initializers() -> None:
    sparse = helper.make_sparse_tensor(
        helper.make_tensor("v", TensorProto.FLOAT, [2], [5.0, 7.0]),
        helper.make_tensor("i", TensorProto.INT64, [2], [0, 5]),
        [2, 3],
    )
    pairs = helper.make_sparse_tensor(
        helper.make_tensor("v", TensorProto.FLOAT, [1], [9.0]),
        helper.make_tensor("i", TensorProto.INT64, [1, 2], [1, 0]),
        [2, 3],
    )
    expected: dict[str, np.ndarray] = {
        "tensor": np.asarray([[1, 2]], np.int32),
        "scalar": np.asarray(1.5, np.float32),
        "numbers": np.asarray([1.5, -2], np.float32),
        "whole": np.asarray(-3, np.int64),
        "ints": np.asarray([4, 5], np.int64),
        "linear": np.asarray([[5, 0, 0], [0, 0, 7]], np.float32),
        "pairs": np.asarray([[0, 0, 0], [9, 0, 0]], np.float32),
        "word": np.asarray("cat", object),
        "words": np.asarray(["cat", "dog"], object),
    }
    nodes = [
        _constant("tensor", value=numpy_helper.from_array(expected["tensor"], "other")),
        _constant("scalar", value_float=1.5),
        _constant("numbers", value_floats=[1.5, -2.0]),
        _constant("whole", value_int=-3),
        _constant("ints", value_ints=[4, 5]),
        _constant("linear", sparse_value=sparse),
        _constant("pairs", sparse_value=pairs),
        _constant("word", value_string="cat"),
        _constant("words", value_strings=["cat", "dog"]),
    ]
    outputs = [helper.make_empty_tensor_value_info(name) for name in expected]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3])
    model = helper.make_model(
        helper.make_graph(nodes, "g", [x], outputs), opset_imports=[helper.make_opsetid("", 18)]
    )
    work = draft(model)
    fold(work)
    assert not work.graph.node
    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in work.graph.initializer}
    for name, array in expected.items():
        assert found[name].dtype == array.dtype, name
        assert np.array_equal(found[name], array), name


@pytest.mark.parametrize("index", [[9], [-9]])
def test_a_sparse_constant_outside_its_shape_is_refused(index: list[int]) -> None:
    sparse = helper.make_sparse_tensor(
        helper.make_tensor("v", TensorProto.FLOAT, [1], [5.0]),
        helper.make_tensor("i", TensorProto.INT64, [1], index),
        [2],
    )
    work = drafted("g (float[2] x) => (float[2] y) { y = Add(x, c) }")
    work.graph.node.insert(0, _constant("c", sparse_value=sparse))
    with pytest.raises(ModelError, match="sparse constant 'c'"):
        fold(work)


def test_a_large_sparse_constant_stays_sparse() -> None:
    sparse = helper.make_sparse_tensor(
        helper.make_tensor("v", TensorProto.FLOAT, [1], [5.0]),
        helper.make_tensor("i", TensorProto.INT64, [1], [0]),
        [2**20, 2**20],
    )
    work = drafted("g (float[2] x) => (float[2] y) { y = Add(x, c) }")
    work.graph.node.insert(0, _constant("c", sparse_value=sparse))
    fold(work)
    assert ops(work) == ["Constant", "Add"]


def test_a_constant_without_a_value_is_refused() -> None:
    work = drafted("g (float[2] x) => (float[2] y) { y = Add(x, c) }")
    work.graph.node.insert(0, _constant("c"))
    with pytest.raises(ModelError, match="'c' has 0 values"):
        fold(work)


def test_shape_arithmetic_is_folded_to_the_bit() -> None:
    body = """g (float[N,3] x) => (float[A,B] y, int64[C] z)
      <int64[4] s = {2, 3, 4, 5}, int64 one = {1}, int64[1] zero = {0}, int64[2] r = {2, 2}, float[1] f = {-2.75}> {
        a = Gather(s, one) b = Unsqueeze(a, zero) c = Cast <to = 1> (b) d = Expand(c, b) e = Cast <to = 7> (f)
        h = Mul(s, e) i = Reshape(h, r) j = Transpose(i) k = Flatten <axis = 0> (j) l = Squeeze(k, zero)
        z = Add(l, s) y = Add(x, d) }"""
    model = net(body)
    work = draft(model)
    fold(work)
    assert ops(work) == ["Add", "Add"]  # z names an output, so it stays a node
    unchanged(work, model, {"x": floats(2, 3)})


@pytest.mark.parametrize(
    "body",
    [
        "<float[2] a = {1, 2}, float[2] b = {3, 4}> { c = Mul(a, b) y = Add(x, c) }",
        "<float a = {0}, float b = {1}, float d = {0.5}> { c = Range(a, b, d) y = Add(x, c) }",
        "<float[2] a = {1, 2}> { c = Exp(a) y = Add(x, c) }",
        "<float[2] a = {1e30, -1e30}> { b = Cast <to = 7> (a) c = Cast <to = 1> (b) y = Add(x, c) }",
    ],
)
def test_floating_point_arithmetic_is_not_folded(body: str) -> None:
    """Another library may round differently, and what does not fit an integer becomes what the machine likes."""
    work = drafted("g (float[N,2] x) => (float[N,2] y) " + body)
    before = ops(work)
    fold(work)
    assert ops(work) == before


def test_folding_never_makes_large_tensors() -> None:
    body = f"""g (float[N,1] x) => (float[N,M] y)
      <int64[1] n = {{{MAX_ELEMENTS + 1}}}, int64[1] m = {{{MAX_ELEMENTS}}}> {{
      a = ConstantOfShape(n) b = ConstantOfShape(m) c = Add(x, a) d = Concat <axis = 1> (c, c) e = Add(x, b)
      y = Concat <axis = 1> (d, e) }}"""
    work = drafted(body)
    fold(work)
    assert ops(work) == ["ConstantOfShape", "Add", "Concat", "Add", "Concat"]


def test_sizes_that_inference_knows_are_folded() -> None:
    model = net(
        """g (float[N,3,4] x) => (float[A,B] y) <int64 one = {1}, int64[1] first = {1}, int64[1] axis = {0}> {
          s = Shape <start = 1> (x) p = ReduceProd <keepdims = 0> (s) q = Unsqueeze(p, axis) n = Shape <end = 1> (x)
          t = Concat <axis = 0> (n, q) y = Reshape(x, t) }"""
    )
    work = draft(model)
    fold(work)
    assert fold_sizes(work, infer(work))
    assert ops(work) == ["Shape", "Concat", "Reshape"]
    assert not fold_sizes(work, infer(work))
    unchanged(work, model, {"x": floats(2, 3, 4)})


def test_weights_are_neither_copied_nor_changed() -> None:
    rows = HEAVY // 32 + 1
    model = net(f"g (float[N,32] x) => (float[N,{rows}] y) {{ y = MatMul(x, w) }}")
    model.graph.initializer.append(numpy_helper.from_array(floats(32, rows), "w"))
    work = draft(model)
    assert list(work.weights) == ["w"]
    before = work.weights["w"]
    fold(work)
    drop_identities(work)
    free_batch(work)
    assert work.weights["w"] is before
    made, _ = compile_model(model, find("saliency"), Request(target="top"))
    same = [tensor for tensor in made.graph.initializer if tensor.name == "w"]
    assert same == [model.graph.initializer[0]]
    assert sum(len(tensor.raw_data) >= 4 * 32 * rows for tensor in made.graph.initializer) == 1


def test_initializers_that_are_inputs_too_become_parameters() -> None:
    """IR 3 wanted every initializer listed among the inputs."""
    body = "g (float[N,3] x, float[3] w, float[40,40] unused) => (float[N,3] y) { y = Mul(x, w) }"
    model = net(body, opset=7, ir=3)
    model.graph.initializer.append(numpy_helper.from_array(np.asarray([1, 2, 3], np.float32), "w"))
    model.graph.initializer.append(numpy_helper.from_array(floats(40, 40), "unused"))
    made, _ = compile_model(model, find("saliency"))
    assert [value.name for value in made.graph.input] == ["x", "target"]
    got = run(made, {"x": floats(2, 3), "target": np.asarray([[2], [0]], np.int64)})
    assert np.array_equal(got["attribution"], [[0, 0, 3], [1, 0, 0]])


# All of them


@pytest.mark.parametrize("opset", OLD)
def test_the_prepared_forward_pass_is_the_model(opset: int) -> None:
    model = annotated(opset)
    shape = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
    unchanged(prepare(model).draft, model, {"x": floats(*shape)})


def test_compiling_twice_gives_the_same_bytes() -> None:
    model = annotated(11)
    first, second = (compile_model(model, find("guided-backprop"))[0] for _ in range(2))
    assert first.SerializeToString(deterministic=True) == second.SerializeToString(deterministic=True)
