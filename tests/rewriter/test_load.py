"""Nobody vouches for a model: each way to be damaged, hostile or too large ends in a ModelError, soon."""

from __future__ import annotations

import os
import re
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from onnxplain.rewriter.compile import Request, compile_model, compile_source
from onnxplain.rewriter.errors import ExplainError, ModelError, UnsupportedError
from onnxplain.rewriter.load import load
from onnxplain.rules.registry import find

from .nets import explained, floats, net, run

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
    for source in (path, str(path), data, bytearray(data), memoryview(data)):
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
def test_anything_else_is_refused_by_its_type(source: object) -> None:
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
    monkeypatch.setattr("onnxplain.rewriter.load.MAX_NODES", 4)
    assert load(model).model.graph.node
    monkeypatch.setattr("onnxplain.rewriter.load.MAX_NODES", 3)
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


# External data


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A model in its own folder, its weight in a file beside it; one more file in the folder above."""
    folder = tmp_path / "inside"
    folder.mkdir()
    weights = np.asarray([1, 2, 3], np.float32).tobytes()
    (folder / "w.bin").write_bytes(weights)
    (tmp_path / "secret.bin").write_bytes(weights)
    _save(folder / "net.onnx", location="w.bin")
    return folder / "net.onnx"


def _save(path: Path, **where: str) -> None:
    model = net(ADD)
    tensor = model.graph.initializer[0]
    tensor.ClearField("float_data")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in where.items():
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    path.write_bytes(model.SerializeToString())


def test_external_data_are_read_when_asked_for(outside: Path) -> None:
    with pytest.raises(ModelError, match=r"1 tensors .*'w'.*external_data=True"):
        load(outside)
    found = load(outside, external_data=True).model.graph.initializer[0]
    assert numpy_helper.to_array(found).tolist() == [1, 2, 3]
    with pytest.raises(ModelError, match="give the path"):
        load(outside.read_bytes(), external_data=True)


def test_external_data_in_a_folder_below_and_in_part_of_a_file(outside: Path) -> None:
    (outside.parent / "deep").mkdir()
    (outside.parent / "deep" / "w.bin").write_bytes(np.arange(8, dtype=np.float32).tobytes())
    _save(outside, location="deep/w.bin", offset="8", length="12")
    found = load(outside, external_data=True).model.graph.initializer[0]
    assert numpy_helper.to_array(found).tolist() == [2, 3, 4]


def test_external_data_count_against_the_cap(outside: Path) -> None:
    size = outside.stat().st_size
    assert load(outside, external_data=True, max_bytes=size + 12).size == size
    with pytest.raises(ModelError, match=r"'w'.*cap"):
        load(outside, external_data=True, max_bytes=size + 11)


def _refused(path: Path, **where: str) -> None:
    _save(path, **where)
    with pytest.raises(ModelError, match="'w'"):
        load(path, external_data=True)


@pytest.mark.parametrize(
    "location",
    ["../secret.bin", "deep/../../secret.bin", "./../secret.bin", "", ".", "missing.bin", "w\0.bin", ".."],
)
def test_locations_that_are_no_plain_file_inside_the_folder(location: str, outside: Path) -> None:
    (outside.parent / "deep").mkdir()
    _refused(outside, location=location)


def test_an_absolute_location_is_refused_even_inside(outside: Path) -> None:
    _refused(outside, location=str(outside.parent / "w.bin"))
    _refused(outside, location="/etc/passwd")


def test_no_location_at_all(outside: Path) -> None:
    _refused(outside)


def test_links_are_refused(outside: Path) -> None:
    folder, secret = outside.parent, outside.parent.parent / "secret.bin"
    (folder / "soft.bin").symlink_to(secret)
    (folder / "near.bin").symlink_to(folder / "w.bin")
    (folder / "up").symlink_to(folder.parent, target_is_directory=True)
    os.link(secret, folder / "hard.bin")
    for location in ("soft.bin", "near.bin", "up/secret.bin", "hard.bin"):
        _refused(outside, location=location)


def test_devices_pipes_and_folders_are_refused(outside: Path) -> None:
    (outside.parent / "deep").mkdir()
    os.mkfifo(outside.parent / "pipe")
    for location in ("pipe", "deep"):
        _refused(outside, location=location)


@pytest.mark.parametrize(
    "where",
    [
        {"offset": "-4"},
        {"length": "-1"},
        {"offset": "4", "length": "12"},
        {"offset": "13"},
        {"length": "13"},
        {"length": str(2**62)},
        {"offset": "9" * 6000},
        {"offset": "four"},
        {"length": ""},
        {"length": "8"},
        {"offset": "4"},
    ],
)
def test_offsets_and_lengths_past_the_file_or_short_of_the_shape(
    where: dict[str, str], outside: Path
) -> None:
    _refused(outside, location="w.bin", **where)


def test_external_data_in_attributes_are_found_too(outside: Path) -> None:
    model = net(
        "g (float[N,3] x) => (float[N,3] y) { c = Constant<value = float[3] {1, 2, 3}>() y = Add(x, c) }"
    )
    tensor = model.graph.node[0].attribute[0].t
    tensor.ClearField("float_data")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../secret.bin"
    outside.write_bytes(model.SerializeToString())
    for wanted in (False, True):
        with pytest.raises(ModelError, match=r"outside|secret\.bin"):
            load(outside, external_data=wanted)


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
    made = compiled(_nested(30))
    x = floats(2, 3)
    assert np.array_equal(run(made, {"x": x})["y"], x + 1)


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
