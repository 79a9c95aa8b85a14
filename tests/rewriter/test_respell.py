"""An emitted file, spelled again for the provider that runs it."""

from __future__ import annotations

import json
from collections import Counter
from functools import cache

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from onnxplain.models.mobilenet import mobilenet_v2
from onnxplain.models.vgg import vgg
from onnxplain.rewriter.compile import Request, compile_model
from onnxplain.rewriter.errors import ModelError, OptionError
from onnxplain.rewriter.passes.lower import TABLES
from onnxplain.rewriter.respell import KEY, read_spelling, respell
from onnxplain.rules.registry import find

from .nets import floats, net
from .test_blocked import quiet

NETS = {
    "mobilenet": lambda: mobilenet_v2(size=32, width=0.25),
    "vgg": lambda: vgg(11, size=32, width=0.125),
}
METHODS = (
    "saliency",
    "guided-backprop",
    "lrp.epsilon-plus",
    "deeplift.rescale",
    "integrated-gradients",
    "smoothgrad",
)
OPTIONS = {"integrated-gradients": {"steps": 6}, "smoothgrad": {"samples": 6}}


@cache
def emitted(name: str, method: str, provider: str = "portable", target: str = "top") -> onnx.ModelProto:
    request = Request(target=target, provider=provider, options=OPTIONS.get(method, {}))
    return compile_model(NETS[name](), find(method), request)[0]


def kinds(graph: onnx.GraphProto) -> Counter[str]:
    found: Counter[str] = Counter()
    for node in graph.node:
        found[node.op_type] += 1
        for attribute in node.attribute:
            if attribute.HasField("g"):
                found += kinds(attribute.g)
    return found


def run(model: onnx.ModelProto) -> list[np.ndarray]:
    session = ort.InferenceSession(model.SerializeToString(), quiet())
    feeds = {}
    for i, value in enumerate(session.get_inputs()):
        feeds[value.name] = floats(
            *(dim if isinstance(dim, int) else 6 if i else 2 for dim in value.shape), seed=i
        )
    return [np.asarray(value) for value in session.run(None, feeds)]


@pytest.mark.parametrize("provider", sorted(set(TABLES) - {"portable"}))
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", NETS)
def test_same_outputs_in_other_words(name: str, method: str, provider: str) -> None:
    before = emitted(name, method)
    after = respell(before, provider)
    onnx.checker.check_model(after, full_check=True)
    for want, got in zip(run(before), run(after), strict=True):
        assert got.shape == want.shape
        assert np.linalg.norm(got - want) <= 1e-4 * np.linalg.norm(want)


@pytest.mark.parametrize("method", ["saliency", "lrp.epsilon-plus", "integrated-gradients"])
@pytest.mark.parametrize("name", NETS)
def test_it_is_what_the_compiler_would_have_written(name: str, method: str) -> None:
    direct, again = (
        kinds(m.graph) for m in (emitted(name, method, "cpu"), respell(emitted(name, method), "cpu"))
    )
    for op in ("HardSigmoid", "ConvTranspose", "ScatterElements", "Greater", "Resize", "MaxPool"):
        assert again[op] == direct[op], op
    assert kinds(emitted(name, method).graph) != direct


def test_the_forward_pass_and_its_weights_stay() -> None:
    before = emitted("mobilenet", "saliency")
    after = respell(before, "cpu")
    forward = [node for node in before.graph.node if not node.name.startswith("bwd/")]
    assert list(after.graph.node[: len(forward)]) == forward
    weights = {tensor.name: tensor for tensor in after.graph.initializer}
    for tensor in before.graph.initializer:
        if not tensor.name.startswith("bwd/"):
            assert weights[tensor.name] == tensor
    assert len(weights) == len(after.graph.initializer)


def test_other_metadata_stays_and_a_second_time_changes_nothing() -> None:
    before = emitted("vgg", "saliency")
    after = respell(before, "cpu")
    others = [[e for e in m.metadata_props if e.key != KEY] for m in (before, after)]
    assert others[0] == others[1]
    assert respell(after, "cpu") is after
    assert respell(before, "portable") is before


def test_a_model_without_primitives_is_left_alone() -> None:
    model = NETS["vgg"]()
    assert respell(model, "cpu") is model


def test_an_unknown_provider() -> None:
    with pytest.raises(OptionError, match="did you mean 'cuda'"):
        respell(emitted("vgg", "saliency"), "cudaa")


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"provider": "portable"}', '{"provider":"p","lead":"N","entries":[{}]}', "1"]
)
def test_damaged_metadata(text: str) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(emitted("vgg", "saliency"))
    next(entry for entry in model.metadata_props if entry.key == KEY).value = text
    with pytest.raises(ModelError, match="damaged"):
        respell(model, "cpu")


def test_a_primitive_that_lost_an_input_keeps_its_form() -> None:
    model = onnx.ModelProto()
    model.CopyFrom(emitted("vgg", "saliency"))
    entry = next(entry for entry in model.metadata_props if entry.key == KEY)
    found = json.loads(entry.value)
    steps = [item for item in found["entries"] if item["op"] == "StepMask"]
    steps[0]["inputs"][0] = "gone"
    entry.value = json.dumps(found)
    whole, made = kinds(respell(emitted("vgg", "saliency"), "cpu").graph), kinds(respell(model, "cpu").graph)
    assert made["HardSigmoid"] == whole["HardSigmoid"] - 1
    assert made["Greater"] == whole["Greater"] + 1


@pytest.mark.parametrize("method", ["saliency", "integrated-gradients"])
def test_a_changed_file_runs_as_it_lies(method: str, caplog: pytest.LogCaptureFixture) -> None:
    """Else a change inside of a primitive would be undone, and nobody would see it."""
    model = onnx.ModelProto()
    model.CopyFrom(emitted("mobilenet", method))
    graph = next((node.attribute[0].g for node in model.graph.node if node.op_type == "Loop"), model.graph)
    node = next(node for node in graph.node if node.op_type == "Greater")
    node.op_type = "GreaterOrEqual"
    assert respell(model, "cpu") is model
    assert "changed after it was compiled" in caplog.text


def test_every_primitive_is_noted() -> None:
    found = read_spelling(emitted("vgg", "saliency"))
    assert found is not None
    assert {entry["op"] for entry in found.entries} == {"StepMask", "DataGradient", "WinnerPut"}


STRIDED = {
    "pointwise": ("float[3,2,1,1]", "c = Conv <strides = [2, 2]> (x, w)"),
    "along one axis": ("float[3,2,1,1]", "c = Conv <strides = [2, 1]> (x, w)"),
    "depthwise": ("float[2,1,3,3]", "c = Conv <strides = [2, 2], group = 2, pads = [1, 1, 1, 1]> (x, w)"),
    "pools": (
        "float[3,2,1,1]",
        "a = Conv(x, w) b = AveragePool <kernel_shape = [2, 2], strides = [2, 2]> (a) c = GlobalAveragePool(b)",
    ),
}


@pytest.mark.parametrize("rows", [1, 2, 3])
@pytest.mark.parametrize("method", ["integrated-gradients", "smoothgrad", "smoothgrad-squared", "vargrad"])
@pytest.mark.parametrize("net_", STRIDED)
def test_a_trip_has_rows_of_its_own(net_: str, method: str, rows: int) -> None:
    """The blocked forms state the types of tensors. In a loop these have the rows of its lanes, not those of x: with
    the name of the latter onnxruntime wrote several lanes into the memory of one."""
    kind, nodes = STRIDED[net_]
    body = f"g (float[N,2,8,8] x) => (float[N,M] y) <{kind} w> {{ {nodes} t = Tanh(c) y = Flatten(t) }}"
    model = net(body.replace(f"<{kind} w>", f"<{kind} w = {{{_numbers(kind)}}}>"))
    options = {"integrated-gradients": {"steps": 7}}.get(method, {"samples": 7})
    before = compile_model(model, find(method), Request(target=1, options=options))[0]
    after = respell(before, "cpu")
    assert after is not before
    feeds = {"x": floats(rows, 2, 8, 8)}
    if "noise" in {value.name for value in before.graph.input}:
        feeds["noise"] = floats(7, 2, 8, 8, seed=1)
    for pattern in (True, False):
        settings = quiet()
        settings.enable_mem_pattern = pattern
        want, got = (
            np.asarray(ort.InferenceSession(m.SerializeToString(), settings).run(["attribution"], feeds)[0])
            for m in (before, after)
        )
        assert np.abs(want).max() > 0
        assert np.abs(got - want).max() <= 1e-5 * np.abs(want).max()


def _numbers(kind: str) -> str:
    """Weights of a type, as ONNX text has them."""
    sizes = [int(size) for size in kind[6:-1].split(",")]
    return ",".join(f"{v:.4f}" for v in floats(*sizes, seed=4).ravel())
