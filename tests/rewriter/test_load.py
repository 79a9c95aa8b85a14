"""Nobody vouches for a model: each way to be damaged, hostile or too large ends in a ModelError, soon."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from onnxplain.rewriter.compile import Request, compile_model
from onnxplain.rewriter.errors import ModelError
from onnxplain.rewriter.load import load
from onnxplain.rules.registry import find

from .nets import explained, floats, net

ADD = "g (float[N,3] x) => (float[N,3] y) <float[3] w = {1, 2, 3}> { y = Add(x, w) }"
GOLDEN = Path(__file__).parent.parent / "data" / "golden"
SECONDS = 10.0
"""Generous: every case takes milliseconds where nothing is allocated or run."""


def compiled(model: onnx.ModelProto | bytes) -> onnx.ModelProto:
    return compile_model(model, find("saliency"), Request(target="top"))[0]


# What a model may be given as


def test_path_text_path_bytes_and_proto_are_the_same_model(tmp_path: Path) -> None:
    model, path = net(ADD), tmp_path / "net.onnx"
    onnx.save(model, path)
    data = path.read_bytes()
    forms: list[Any] = [path, str(path), data, bytearray(data), memoryview(data)]
    for source in forms:
        assert load(source).model == model
        assert load(source).sha256 == load(data).sha256
        assert load(source).size == len(data)
    assert load(model).model == model
    assert load(path).path == path
    assert load(data).path is None


def test_a_given_proto_is_not_modified() -> None:
    model = net(ADD)
    before = model.SerializeToString(deterministic=True)
    load(model).model.graph.node[0].name = "renamed"
    compiled(model)
    assert model.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("source", [7, None, ["net.onnx"], 1.5])
def test_anything_else_is_refused_by_its_type(source: Any) -> None:
    with pytest.raises(ModelError, match=f"not {type(source).__name__}"):
        load(source)


# Files that are no models


def _text(path: Path) -> None:
    path.write_text("this is not a model\n" * 50)


def _picture(path: Path) -> None:
    Image.new("RGB", (8, 8)).save(path, format="PNG")


def _zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("net.onnx", net(ADD).SerializeToString())


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _cut(path: Path) -> None:
    path.write_bytes(net(ADD).SerializeToString()[:-20])


@pytest.mark.parametrize("write", [_text, _picture, _zip, _empty, _cut])
def test_files_that_are_no_models(write: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    write(path)
    with pytest.raises(ModelError, match="not an ONNX model"):
        load(path)


@pytest.mark.parametrize("name", ["missing.onnx", ".", "a\0b", "x" * 5000])
def test_paths_without_a_file(name: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no model file|cannot read"):
        load(tmp_path / name)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
@pytest.mark.parametrize("link", (False, True))
def test_a_pipe_is_not_opened(link: bool, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    os.mkfifo(tmp_path / "pipe" if link else path)
    if link:
        path.symlink_to(tmp_path / "pipe")
    with pytest.raises(ModelError, match="is a pipe, a socket or a device, and is not opened"):
        load(path)


def test_a_name_that_becomes_a_pipe_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "net.onnx"
    os.mkfifo(path)
    monkeypatch.setattr(Path, "is_file", lambda self: True)
    with pytest.raises(ModelError, match="changed while it was read"):
        load(path)


def test_a_model_without_nodes_inputs_outputs_or_operator_set() -> None:
    for field, what in (("node", "no nodes"), ("input", "no inputs"), ("output", "no inputs")):
        model = net(ADD)
        model.graph.ClearField(field)
        with pytest.raises(ModelError, match=what):
            load(model)
    model = net(ADD)
    model.opset_import[0].domain = "ai.onnx.ml"
    with pytest.raises(ModelError, match="default operator set"):
        load(model)


def test_an_opset_that_nobody_knows() -> None:
    with pytest.raises(ModelError, match=r"opset 4000.*up to \d+"):
        compiled(net(ADD, opset=4000))


def test_the_size_cap_holds_for_files_and_bytes(tmp_path: Path) -> None:
    data = net(ADD).SerializeToString()
    (tmp_path / "net.onnx").write_bytes(data)
    for source in (data, tmp_path / "net.onnx", net(ADD)):
        assert load(source, max_bytes=len(data)).size == len(data)
        with pytest.raises(ModelError, match=rf"{len(data)} bytes, over the cap of {len(data) - 1}"):
            load(source, max_bytes=len(data) - 1)


def test_the_node_cap_counts_subgraphs(monkeypatch: pytest.MonkeyPatch) -> None:
    model = net(
        """g (float[N,3] x, bool c) => (float[N,3] y) {
          y = If (c) <then_branch = a () => (float[N,3] p) { q = Relu(x) p = Relu(q) },
                      else_branch = b () => (float[N,3] r) { r = Neg(x) }> }"""
    )
    monkeypatch.setattr("onnxplain.rewriter.vetting.form.MAX_NODES", 4)
    assert load(model).model.graph.node
    monkeypatch.setattr("onnxplain.rewriter.vetting.form.MAX_NODES", 3)
    with pytest.raises(ModelError, match="4 nodes, over the cap of 3"):
        load(model)


@pytest.mark.parametrize("field", ["name", "op_type", "domain", "doc_string"])
def test_text_that_is_not_utf8(field: str) -> None:
    model = net(ADD)
    setattr(model.graph.node[0], field, "PLACEHOLDER")
    data = model.SerializeToString().replace(b"PLACEHOLDER", b"PLACE\xff\xfeLDER")
    with pytest.raises(ModelError, match="NodeProto is not UTF-8"):
        load(data)


# Operators


def test_every_unknown_domain_is_listed_and_can_be_allowed() -> None:
    model = net(
        """g (float[N,3] x) => (float[N,3] y) { a = com.acme.Gate(x) b = org.other.Twist(a) c = com.acme.Gate(b)
          y = com.acme.Fold(c) }""",
        more='"com.acme" : 1, "org.other" : 2',
    )
    with pytest.raises(ModelError) as caught:
        load(model)
    for operator in ("com.acme.Gate", "com.acme.Fold", "org.other.Twist"):
        assert str(caught.value).count(operator) == 1
    with pytest.raises(ModelError, match=r"domains: org\.other\.Twist;"):
        load(model, domains=["com.acme"])
    assert load(model, domains=["com.acme", "org.other"]).model == model


def test_unknown_domains_are_found_inside_branches_and_functions() -> None:
    branch = """g (float[N,3] x, bool c) => (float[N,3] y) {
      y = If (c) <then_branch = a () => (float[N,3] p) { p = com.acme.Gate(x) },
                  else_branch = b () => (float[N,3] r) { r = Neg(x) }> }"""
    function = (
        '<domain: "own", opset_import: ["" : 18, "com.acme" : 1]> f (a) => (b) { b = com.acme.Gate(a) }'
    )
    call = "g (float[N,3] x) => (float[N,3] y) { y = own.f(x) }"
    for model in (net(branch, more='"com.acme" : 1'), net(call, more='"own" : 1', functions=function)):
        with pytest.raises(ModelError, match=r"com\.acme\.Gate"):
            load(model)


def test_functions_of_the_model_are_its_own_domain() -> None:
    function = '<domain: "own", opset_import: ["" : 18]> f (a) => (b) { b = Relu(a) }'
    call = "g (float[N,3] x) => (float[N,3] y) { y = own.f(x) }"
    model = net(call, more='"own" : 1', functions=function)
    assert explained(model, {"x": floats(2, 3)})["attribution"].shape == (2, 3)
    model.functions[0].name = "another"
    with pytest.raises(ModelError, match=r"own\.f"):
        load(model)


# Tensors that are not what their shape says


@pytest.mark.parametrize(
    ("dims", "kind"),
    [
        ([2**40], TensorProto.FLOAT),
        ([2**62, 4], TensorProto.FLOAT),
        ([2**40, 0, -1], TensorProto.FLOAT),
        ([-3], TensorProto.FLOAT),
        ([2], TensorProto.FLOAT),
        ([3], TensorProto.DOUBLE),
        ([3], TensorProto.UNDEFINED),
        ([3], TensorProto.STRING),
        ([3], 99),
    ],
)
@pytest.mark.parametrize("raw", [False, True])
def test_data_that_do_not_fill_their_shape(dims: list[int], kind: int, raw: bool) -> None:
    model = net(ADD)
    tensor = model.graph.initializer[0]
    if raw:
        tensor.CopyFrom(numpy_helper.from_array(np.asarray([1, 2, 3], np.float32), "w"))
    tensor.dims[:] = dims
    tensor.data_type = kind
    with pytest.raises(ModelError, match=r"'w'.*fill that shape"):
        load(model)


@pytest.mark.parametrize(
    "kind", [k for k in TensorProto.DataType.values() if k not in (TensorProto.UNDEFINED, TensorProto.STRING)]
)
def test_tensors_of_every_type_are_accepted(kind: int) -> None:
    """5 elements, so that those of 4 and 2 bits do not end with a byte. As raw data and in the typed field."""
    for raw in (False, True):
        model = net(ADD)
        if raw:
            dtype = helper.tensor_dtype_to_np_dtype(kind)
            more = numpy_helper.from_array(np.asarray([1, 1, 0, 1, 1]).astype(dtype), "more")
        else:
            more = helper.make_tensor("more", kind, [5], [1, 1, 0, 1, 1])
        model.graph.initializer.append(more)
        assert load(model).model.graph.initializer[1] == more
