"""What the schemas and the specification rule out is refused when a file is loaded or prepared, by name."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxplain.rewriter.compile import Request, compile_model
from onnxplain.rewriter.errors import ModelError
from onnxplain.rewriter.load import load
from onnxplain.rules.registry import find
from tests.rewriter.nets import net

CONV = """g (float[N,1,8,8] x) => (float[N,M,K,L] y) <float[1,1,3,3] w = {1, 2, 3, 4, 5, 6, 7, 8, 9}>
{ y = Conv <strides = [1, 1], kernel_shape = [3, 3]> (x, w) }"""


def _node(model: onnx.ModelProto) -> onnx.NodeProto:
    node: onnx.NodeProto = model.graph.node[0]
    return node


def _set(name: str, value: object) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        kept = [a for a in _node(model).attribute if a.name != name]
        del _node(model).attribute[:]
        _node(model).attribute.extend([*kept, helper.make_attribute(name, value)])

    return change


def _type(code: int) -> Callable[[onnx.ModelProto], None]:
    return lambda model: setattr(model.graph.input[0].type.tensor_type, "elem_type", code)


def _size(value: int) -> Callable[[onnx.ModelProto], None]:
    return lambda model: setattr(model.graph.input[0].type.tensor_type.shape.dim[3], "dim_value", value)


def _weight(dims: list[int]) -> Callable[[onnx.ModelProto], None]:
    return lambda model: model.graph.initializer[0].CopyFrom(TensorProto(name="w", data_type=1, dims=dims))


DAMAGE: dict[str, tuple[Callable[[onnx.ModelProto], object], str]] = {
    "element type": (_type(99), "element type 99"),
    "no element type": (_type(0), "'x' has no element type"),
    "sizes that overflow": (_size(2**60), "a size that nothing can hold"),
    "weights that overflow": (_weight([0, 2**62]), "'w' of shape"),
    "65 axes": (_weight([1] * 65), "65 axes"),
    "stride 0": (_set("strides", [0, 1]), "strides is [0, 1]"),
    "stride of another type": (_set("strides", 2.0), "strides is of the type FLOAT, not INTS"),
    "unknown attribute": (_set("colour", 1), "no attribute 'colour'"),
    "unknown padding": (_set("auto_pad", "SOMEHOW"), "'SOMEHOW', none of"),
    "input without a name": (lambda m: m.graph.input.add() and None, "an input of the model has no name"),
    "too few operands": (lambda m: _node(m).input.pop() and None, "has 1 inputs, but takes 2 to 3"),
    "weight twice": (
        lambda m: m.graph.initializer.append(m.graph.initializer[0]),
        "initializer 'w' stands twice",
    ),
    "reference outside a function": (
        lambda m: setattr(_node(m).attribute[0], "ref_attr_name", "other"),
        "refers to the attribute 'other'",
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_named_when_the_file_is_loaded(kind: str) -> None:
    model = net(CONV)
    load(model)
    change, message = DAMAGE[kind]
    change(model)
    with pytest.raises(ModelError, match=re.escape(message)):
        load(model)


def test_a_negative_size_is_a_free_one() -> None:
    model = net(CONV)
    _size(-(2**63))(model)
    assert not load(model).model.graph.input[0].type.tensor_type.shape.dim[3].HasField("dim_value")


OPERANDS = {
    "pads": ("float[N,3] x", "int64[3] p = {0, 0, 1}", "Pad (x, p)", "begins and the ends of 2 axes"),
    "scales": ("float[N,1,4,4] x", "float[3] p = {1, 1, 2}", "Resize (x, , p)", "for each of 4 axes"),
    "repeats": ("float[N,3] x", "int64[1] p = {2}", "Tile (x, p)", "for each of 2 axes|do not fit"),
    "step": (
        "float[N,3] x",
        "int64[1] a = {0}, int64[1] b = {2}, int64[1] c = {1}, int64[1] d = {0}",
        "Slice (x, a, b, c, d)",
        "step",
    ),
}


@pytest.mark.parametrize("kind", OPERANDS)
def test_operands_that_do_not_fit_name_their_node(kind: str) -> None:
    x, constants, call, message = OPERANDS[kind]
    y = "float[N,A,B,C] y" if "1,4,4" in x else "float[N,M] y"
    model = net(f"g ({x}) => ({y}) <{constants}> {{ y = {call} }}")
    with pytest.raises(ModelError, match=message):
        compile_model(model, find("saliency"), Request())


def test_an_infinite_scale_is_refused() -> None:
    model = net(
        "g (float[N,1,4,4] x) => (float[N,1,A,B] y) <float[4] s = {1, 1, 2, 2}> { y = Resize (x, , s) }"
    )
    model.graph.initializer[0].CopyFrom(
        numpy_helper.from_array(np.asarray([1, 1, np.inf, 2], np.float32), "s")
    )
    with pytest.raises(ModelError):
        compile_model(model, find("saliency"), Request())


@pytest.mark.parametrize("amount", [3 * 10**7, 10**8, 2**32])
def test_what_a_wide_pad_takes_is_computed_in_the_graph(amount: int) -> None:
    text = f'<int64[4] p = {{0, 0, 0, {amount}}}> {{ y = Pad <mode = "edge"> (x, p) }}'
    made, _ = compile_model(net("g (float[N,3] x) => (float[N,M] y) " + text), find("saliency"), Request())
    assert made.ByteSize() < 20_000


def test_a_pool_of_many_cells_adds_no_constant_of_its_size() -> None:
    attrs = "kernel_shape = [3000, 3000], pads = [1, 1, 1, 1], strides = [1, 1]"
    for op in ("AveragePool", "MaxPool"):
        text = f"g (float[N,1,4000,4000] x) => (float[N,1,A,B] y) {{ y = {op} <{attrs}> (x) }}"
        for provider in ("portable", "cpu", "cuda"):
            made, _ = compile_model(net(text), find("saliency"), Request(provider=provider))
            assert made.ByteSize() < 100_000
            assert len(made.graph.node) < 100


@pytest.mark.parametrize(
    ("equation", "words"),
    (
        ("", "is one of 1 operands, and it has 2"),
        ("bij", "is one of 1 operands, and it has 2"),
        ("bij,jk,k->bi", "is one of 3 operands, and it has 2"),
        ("bi,jk->bk", "'bi' in its equation does not fit an operand of 3 axes"),
        ("bijl,jk->bk", "'bijl' in its equation does not fit an operand of 3 axes"),
        ("...bijl,jk->...k", "does not fit an operand of 3 axes"),
    ),
)
@pytest.mark.parametrize("method", ("saliency", "lrp.epsilon-plus"))
def test_an_equation_that_does_not_fit_its_operands(equation: str, words: str, method: str) -> None:
    body = '<float[4,2] w = {1,2,3,4,5,6,7,8}> { y = Einsum <equation = "bij,jk->bik"> (x, w) }'
    model = net(f"g (float[N,3,4] x) => (float[N,3,2] y) {body}")
    compile_model(model, find(method), Request(target="cotangent"))
    _set("equation", equation)(model)
    with pytest.raises(ModelError, match=re.escape(words)):
        compile_model(model, find(method), Request(target="cotangent"))


def test_an_equation_with_a_nul_is_refused() -> None:
    """onnx's shape inference does not come to an end over one."""
    model = net('g (float[N,3] x) => (float[N,3] y) { y = Einsum <equation = "ij->ij"> (x) }')
    load(model)
    model.graph.node[0].attribute[0].s = b"ij->ij\0"
    with pytest.raises(ModelError, match="is none"):
        load(model)
