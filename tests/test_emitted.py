"""What every emitted file is, whoever made the model: standard, self-contained, its own outputs unchanged."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from onnxplain.models import names, path
from onnxplain.models.resnet import resnet
from onnxplain.rewriter.compile import Request, compile_model
from onnxplain.rules.readouts import readout
from onnxplain.rules.registry import find

GOLDEN = Path(__file__).parent / "data" / "golden"
FILES = {file.stem: file for file in sorted(GOLDEN.glob("*.onnx"))} | {name: path(name) for name in names()}
METHODS = ["saliency", "input-x-gradient", "deconvnet", "guided-backprop"]
SIZES: dict[int | str, int] = {"N": 2, "H": 24, "W": 16}
"""What symbolic dims of the inputs stand for when a model is run."""

EXPLICIT = {
    "Conv": {"kernel_shape", "strides", "pads", "dilations", "group"},
    "ConvTranspose": {"kernel_shape", "strides", "pads", "dilations", "group"},
    "MaxPool": {"kernel_shape", "strides", "pads", "dilations"},
    "AveragePool": {"kernel_shape", "strides", "pads"},
}
CARD = {
    "version": str,
    "method": str,
    "options": dict,
    "primitives": dict,
    "target": dict,
    "rules": dict,
    "lanes": list,
    "inputs": list,
    "outputs": list,
    "source": dict,
    "approximations": list,
    "citation": str,
}

every_model = pytest.mark.parametrize("name", list(FILES))
every_method = pytest.mark.parametrize("method", METHODS)
Arrays = Mapping[str, NDArray[Any]]


def test_all_models_are_there() -> None:
    assert len(list(GOLDEN.glob("*.onnx"))) == 12
    assert {"mnist_lenet", "efficientnet_lite0", "esrgan_slim_x4", "tiny_yolov2_face"} <= set(FILES)


@cache
def source(name: str) -> onnx.ModelProto:
    return onnx.load(FILES[name])


@cache
def emitted(name: str, method: str) -> onnx.ModelProto:
    return compile_model(FILES[name], find(method))[0]


def run(model: onnx.ModelProto | bytes, feeds: Arrays) -> dict[str, NDArray[Any]]:
    """Without graph optimisation: fusions may round differently in the two files."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    data = model if isinstance(model, bytes) else model.SerializeToString()
    session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    outputs = [value.name for value in session.get_outputs()]
    return dict(zip(outputs, map(np.asarray, session.run(None, dict(feeds))), strict=True))


def declared(value: onnx.ValueInfoProto) -> tuple[str, int, list[int | str]]:
    kind = value.type.tensor_type
    return value.name, kind.elem_type, [dim.dim_param or dim.dim_value for dim in kind.shape.dim]


def picture(model: onnx.ModelProto) -> dict[str, NDArray[np.float32]]:
    rng = np.random.default_rng(0)
    return {
        name: rng.random([size if isinstance(size, int) else SIZES[size] for size in shape], np.float32)
        for name, _, shape in map(declared, model.graph.input)
    }


def nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from nodes(inner)


def heavy(model: onnx.ModelProto) -> list[TensorProto]:
    return [entry for entry in model.graph.initializer if np.prod(entry.dims) > 256]


def props(message: onnx.ModelProto | onnx.GraphProto | onnx.NodeProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in message.metadata_props}


@every_method
@every_model
def test_the_file_is_standard_onnx(name: str, method: str) -> None:
    made, opset = emitted(name, method), source(name).opset_import[0].version
    onnx.checker.check_model(made, full_check=True)
    assert [(entry.domain, entry.version) for entry in made.opset_import] == [("", max(opset, 18))]
    assert made.ir_version == 10
    assert not made.functions
    assert {node.domain for node in nodes(made.graph)} == {""}
    known = {schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == ""}
    assert {node.op_type for node in nodes(made.graph)} <= known


@every_method
@every_model
def test_windows_are_spelt_out(name: str, method: str) -> None:
    for node in nodes(emitted(name, method).graph):
        given = {attribute.name for attribute in node.attribute}
        assert EXPLICIT.get(node.op_type, set()) <= given, node.name
        assert "auto_pad" not in given, node.name


@every_method
@every_model
def test_inputs_and_outputs_are_the_models_plus_two(name: str, method: str) -> None:
    before, after = source(name).graph, emitted(name, method).graph
    inputs, outputs = [[declared(v) for v in values] for values in (after.input, after.output)]
    assert inputs == [*map(declared, before.input), ("target", TensorProto.INT64, ["N", 1])]
    _, kind, shape = declared(before.input[0])
    assert outputs == [*map(declared, before.output), ("attribution", kind, shape)]


@every_method
@every_model
def test_outputs_of_the_model_are_unchanged_to_the_bit(name: str, method: str) -> None:
    feeds = picture(source(name))
    batch = len(next(iter(feeds.values())))
    before = run(source(name), feeds)
    after = run(emitted(name, method), {**feeds, "target": np.full((batch, 1), -1, np.int64)})
    for output, value in before.items():
        assert after[output].dtype == value.dtype
        assert np.array_equal(after[output], value), output
    (x,) = feeds.values()
    assert after["attribution"].shape == x.shape
    assert after["attribution"].dtype == x.dtype
    assert np.isfinite(after["attribution"]).all()


@every_model
def test_a_cotangent_is_declared_like_the_head(name: str) -> None:
    made, card = compile_model(FILES[name], find("saliency"), Request(target="cotangent"))
    onnx.checker.check_model(made, full_check=True)
    *own, added = map(declared, made.graph.input)
    assert own == [*map(declared, source(name).graph.input)]
    label, kind, shape = added
    assert (label, kind, shape[0]) == ("cotangent", TensorProto.FLOAT, "K")
    _, _, output = declared(source(name).graph.output[0])
    assert len(shape) == len(output)
    assert [size for size in shape[1:] if isinstance(size, int)] == [
        d for d in output[1:] if isinstance(d, int)
    ]
    assert card.target["target"] == "cotangent"


@pytest.mark.parametrize("reduce", ["maxabs", "sum,sym", "abssum_p99"])
@pytest.mark.parametrize("name", ["cnn_bias", "esrgan_slim_x4"])
def test_a_heat_map_is_a_third_output(name: str, reduce: str) -> None:
    request = Request(target="top", reduce=(reduce, readout(reduce)))
    made, card = compile_model(FILES[name], find("saliency"), request)
    onnx.checker.check_model(made, full_check=True)
    _, _, shape = declared(source(name).graph.input[0])
    assert declared(made.graph.output[-1]) == ("heatmap", TensorProto.FLOAT, [shape[0], *shape[2:]])
    assert card.options["reduce"] == reduce
    feeds = picture(source(name))
    (x,) = feeds.values()
    assert run(made, feeds)["heatmap"].shape == (x.shape[0], *x.shape[2:])


@every_method
@every_model
def test_the_card_is_complete_json(name: str, method: str) -> None:
    made = emitted(name, method)
    card = {
        key.removeprefix("onnxplain."): json.loads(value)
        for key, value in props(made).items()
        if key.startswith("onnxplain.")
    }
    assert {key: type(card[key]) for key in CARD} == CARD
    assert set(card) == set(CARD)
    data = FILES[name].read_bytes()
    assert card["source"]["sha256"] == hashlib.sha256(data).hexdigest()
    assert card["source"]["bytes"] == len(data)
    assert card["source"]["name"] == FILES[name].name
    assert card["source"]["opset"] == source(name).opset_import[0].version
    assert card["method"] == method
    assert card["target"]["target"] == "input"
    assert card["citation"]
    rectifiers = {node.name for node in made.graph.node if node.op_type in ("Relu", "Clip")}
    explained = {key: rule for key, rule in card["rules"].items() if key in rectifiers}
    assert len(explained) == sum(node.op_type in ("Relu", "Clip") for node in source(name).graph.node)
    if method in ("deconvnet", "guided-backprop"):
        assert all(rule.startswith("rectify_") for rule in explained.values()), explained


def test_preprocessing_and_labels_are_in_the_card() -> None:
    request = Request(preprocessing={"layout": "NCHW"}, labels=("a", "b", "ç"))
    made, _ = compile_model(FILES["cnn_bias"], find("saliency"), request)
    assert json.loads(props(made)["onnxplain.preprocessing"]) == {"layout": "NCHW"}
    assert json.loads(props(made)["onnxplain.labels"]) == ["a", "b", "ç"]


def annotated(opset: int) -> onnx.ModelProto:
    """Operators whose form changed between opset 11 and 18, with a note at every place that can carry one."""
    axes: dict[str, Any] = {"axes": [2]} if opset < 13 else {}
    more = [] if opset < 13 else ["axes"]
    made = [
        helper.make_node("Conv", ["x", "w"], ["a"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"], "relu"),
        helper.make_node("Dropout", ["b"], ["c"], "dropout"),
        helper.make_node("GlobalAveragePool", ["c"], ["d"], "pool"),
        helper.make_node("Squeeze", ["d", *more], ["e"], "squeeze", **axes),
        helper.make_node("Unsqueeze", ["e", *more], ["f"], "unsqueeze", **axes),
        helper.make_node("Flatten", ["f"], ["y"], "flatten"),
    ]
    weights = [numpy_helper.from_array(np.random.default_rng(0).random((4, 2, 3, 3), np.float32), "w")]
    weights += [numpy_helper.from_array(np.array([2], np.int64), "axes")] if opset >= 13 else []
    graph = helper.make_graph(
        made,
        "named",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 2, 5, 5])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])],
        weights,
        doc_string="of the graph",
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=8,
        producer_name="somebody",
        producer_version="1.2",
        model_version=7,
        domain="org.example",
        doc_string="of the model",
    )
    helper.set_model_props(model, {"author": "somebody", "onnxplain.method": "stale"})
    for part in (model.graph, *model.graph.node):
        entry = part.metadata_props.add()
        entry.key, entry.value = "note", f"on {part.name}"
    for node in model.graph.node:
        node.doc_string = f"of {node.name}"
    model.graph.input[0].doc_string, model.graph.output[0].doc_string = "of the input", "of the output"
    return model


@pytest.mark.parametrize("opset", [11, 12, 17, 18, 20])
def test_the_models_own_notes_survive(opset: int) -> None:
    before = annotated(opset)
    made, _ = compile_model(before, find("saliency"))
    for key in ("doc_string", "producer_name", "producer_version", "model_version", "domain"):
        assert getattr(made, key) == getattr(before, key), key
    assert props(made)["author"] == "somebody"
    assert json.loads(props(made)["onnxplain.method"]) == "saliency"
    assert (made.graph.name, made.graph.doc_string) == ("named", "of the graph")
    assert props(made.graph) == {"note": "on named"}
    assert made.graph.input[0].doc_string == "of the input"
    assert made.graph.output[0].doc_string == "of the output"
    after = {node.name: node for node in made.graph.node}
    for name in ("conv", "relu", "pool", "squeeze", "unsqueeze", "flatten"):
        assert after[name].doc_string == f"of {name}"
        assert props(after[name]) == {"note": f"on {name}"}


def test_names_of_a_trained_models_nodes_survive() -> None:
    before, after = source("efficientnet_lite0"), emitted("efficientnet_lite0", "saliency")
    kept = {node.name for node in after.graph.node}
    assert {
        node.name for node in before.graph.node if node.op_type in ("Conv", "Clip", "Add", "Gemm")
    } <= kept
    assert props(before).items() <= props(after).items()


@every_method
@pytest.mark.parametrize(
    "name", ["resnet", "attention", "smooth_acts", "mnist_lenet", "style07_instancenorm"]
)
def test_same_input_same_bytes(name: str, method: str) -> None:
    again, _ = compile_model(FILES[name], find(method))
    assert again.SerializeToString() == emitted(name, method).SerializeToString()


def test_bytes_do_not_depend_on_the_process() -> None:
    """The hash seed of Python decides the order of sets, which must not reach the file."""
    script = (
        "import sys, hashlib; from onnxplain.rewriter.compile import compile_model;"
        "from onnxplain.rules.registry import find;"
        "print(*(hashlib.sha256(compile_model(f, find('guided-backprop'))[0].SerializeToString()).hexdigest()"
        " for f in sys.argv[1:]))"
    )
    files = [str(FILES[name]) for name in ("resnet", "attention", "concat", "mnist_lenet")]
    made = {
        subprocess.run(
            [sys.executable, "-c", script, *files],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(made) == 1
    assert len(made.pop().split()) == len(files)


def growth(before: onnx.ModelProto, after: onnx.ModelProto) -> float:
    return float(after.ByteSize() / before.ByteSize()) - 1


@every_method
def test_files_grow_by_at_most_three_percent(method: str) -> None:
    assert growth(source("efficientnet_lite0"), emitted("efficientnet_lite0", method)) < 0.03


@pytest.mark.slow
def test_resnet_50_grows_by_at_most_three_percent() -> None:
    model = resnet(50)
    made, _ = compile_model(model, find("saliency"))
    assert growth(model, made) < 0.03
    check_weights_once(model, made)


def check_weights_once(before: onnx.ModelProto, after: onnx.ModelProto) -> None:
    """The weights are those of the model, each once and under its name; what the explanation adds is small."""
    old = {entry.name: numpy_helper.to_array(entry) for entry in heavy(before)}
    stored = heavy(after)
    assert len({entry.name for entry in stored}) == len(stored)
    for entry in stored:
        assert np.array_equal(numpy_helper.to_array(entry), old[entry.name]), entry.name
    kept = sum(numpy_helper.to_array(entry).nbytes for entry in stored)
    constants = [
        attribute.t for node in nodes(after.graph) for attribute in node.attribute if attribute.HasField("t")
    ]
    assert all(np.prod(entry.dims) <= 256 for entry in constants)
    assert kept <= sum(array.nbytes for array in old.values())


@every_method
@every_model
def test_no_weight_is_stored_twice(name: str, method: str) -> None:
    check_weights_once(source(name), emitted(name, method))


def test_a_plain_onnxruntime_runs_the_file(tmp_path: Path) -> None:
    file = tmp_path / "lenet.guided.onnx"
    onnx.save(emitted("mnist_lenet", "guided-backprop"), file)
    script = """
import sys
import numpy as np, onnxruntime as ort
session = ort.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
x = np.random.default_rng(0).random((2, 1, 28, 28), np.float32)
feeds = {"image": x, "target": np.array([[3], [-1]], np.int64)}
heat = session.run(["attribution"], feeds)[0]
assert heat.shape == x.shape and np.isfinite(heat).all() and np.abs(heat).max() > 0
assert 'onnxplain' not in sys.modules and 'onnx' not in sys.modules
print("ran")
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(file)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, "ran"), done.stderr
