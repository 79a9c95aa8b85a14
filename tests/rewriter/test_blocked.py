"""The CPU's forms equal the portable ones, and keep the layout that they are for."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper

from onnxplain.models.mobilenet import mobilenet_v2
from onnxplain.models.resnet import resnet
from onnxplain.rewriter.compile import Request, compile_model
from onnxplain.rewriter.emit import Emit
from onnxplain.rewriter.graph import assemble, declared, prepare, variable
from onnxplain.rewriter.passes.lower import lower
from onnxplain.rules.registry import find

from .nets import floats, net

F = np.float32
SUMS = 2e-5
"""Of the largest value: float32 sums in another order."""


def both(text: str, feeds: dict[str, np.ndarray], **attrs: Any) -> tuple[list[np.ndarray], onnx.ModelProto]:
    """The primitive that `attrs` describe, in either form, over a model whose tensors are called x, w and ct."""
    results, last = [], onnx.ModelProto()
    for provider in ("portable", "cpu"):
        graph = prepare(net(text))
        g = Emit(graph)
        given = variable("ct", np.dtype(F), ["N", *feeds["ct"].shape[1:]])
        values = {**graph.values, "ct": given}
        names, op = attrs["names"], attrs["op"]
        made = g.primitive(op, *(values[name] for name in names), **attrs.get("attrs", {}))
        final = g.Identity(made)
        final.name, final.shape = "result", None
        g.nodes, _ = lower(g, [final], provider)
        last = assemble(graph, g.nodes, [helper.make_tensor_value_info("result", 1, None)], g.stated)
        last.graph.input.append(declared(given))
        last.graph.initializer.extend(graph.draft.weights.values())
        session = ort.InferenceSession(last.SerializeToString(), quiet())
        results.append(np.asarray(session.run(["result"], feeds)[0]))
    return results, last


def quiet() -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    return options


CELLS = [
    0.0,
    6.0,
    -1.0,
    7.0,
    1e-30,
    np.nextafter(F(6), F(0)),
    np.nextafter(F(6), F(7)),
    1e30,
    3e38,
    np.inf,
    -np.inf,
]


@pytest.mark.parametrize(("low", "high"), [(0.0, None), (0.0, 6.0), (None, 6.0), (-1.0, 1.0), (1.0, None)])
def test_steps_are_exact(low: float | None, high: float | None) -> None:
    x = np.asarray([*CELLS, 1.0, -0.0, 0.5, -2.0, 2.0], F).reshape(1, 4, 2, 2)
    bounds = "".join(f", float {n} = {{{v}}}" for n, v in (("low", low), ("high", high)) if v is not None)[2:]
    text = f"g (float[N,4,2,2] x) => (float[N,4,2,2] y) <{bounds}> {{ y = Abs(x) }}"
    graph = prepare(net(text))
    g = Emit(graph)
    step = g.primitive("StepMask", graph.values["x"], low, high)
    final = g.Identity(step)
    final.name = "result"
    g.nodes, _ = lower(g, [final], "cpu")
    assert {node.op for node in g.nodes} <= {"HardSigmoid", "Mul", "Identity"}
    made = assemble(graph, g.nodes, [helper.make_tensor_value_info("result", 1, None)])
    got = np.asarray(ort.InferenceSession(made.SerializeToString(), quiet()).run(["result"], {"x": x})[0])
    want = (x > (-np.inf if low is None else low)) & (x < (np.inf if high is None else high))
    if low is None:
        want |= x == -np.inf
    if high is None:
        want |= x == np.inf
    assert np.array_equal(got, want.astype(F))


GEOMETRIES = [
    (kernel, stride, pads, size, grouped)
    for kernel in (1, 2, 3, 5)
    for stride in (1, 2, 3)
    for pads in ((0, 0), (0, 1), (1, 1), (2, 1))
    for size in (7, 8, 12)
    for grouped in (True, False)
    if max(pads) < kernel
]


@pytest.mark.parametrize(("kernel", "stride", "pads", "size", "grouped"), GEOMETRIES)
def test_gradients_of_convolutions(
    kernel: int, stride: int, pads: tuple[int, int], size: int, grouped: bool
) -> None:
    out = (size + sum(pads) - kernel) // stride + 1
    w = floats(8, 1 if grouped else 8, kernel, kernel, seed=1)
    group = 8 if grouped else 1
    text = f"""g (float[N,8,{size},{size}] x, float[8,{w.shape[1]},{kernel},{kernel}] w) => (float[N,8,{out},{out}] y)
        {{ h = Relu(x) y = Conv<kernel_shape=[{kernel},{kernel}], strides=[{stride},{stride}],
        pads=[{pads[0]},{pads[0]},{pads[1]},{pads[1]}], group={group}>(h, w) }}"""
    geometry = {
        "kernel_shape": [kernel] * 2,
        "strides": [stride] * 2,
        "pads": [pads[0]] * 2 + [pads[1]] * 2,
        "dilations": [1, 1],
        "group": group,
    }
    feeds = {"x": floats(2, 8, size, size), "w": w, "ct": floats(2, 8, out, out, seed=2)}
    (a, b), made = both(text, feeds, op="DataGradient", names=("ct", "w", "h"), attrs=geometry)
    assert a.shape == b.shape == (2, 8, size, size)
    assert np.abs(a - b).max() <= SUMS * np.abs(a).max()
    if grouped and stride == 2 and pads == (1, 1) and kernel == 3:
        assert "ConvTranspose" not in {node.op_type for node in made.graph.node}


@pytest.mark.parametrize(("kernel", "stride", "pad"), [(2, 2, 0), (3, 3, 0), (3, 1, 1), (3, 2, 1)])
def test_spreads_of_average_pools(kernel: int, stride: int, pad: int) -> None:
    size = 12
    out = (size + 2 * pad - kernel) // stride + 1
    text = f"""g (float[N,8,{size},{size}] x) => (float[N,8,{out},{out}] y)
        {{ h = Relu(x) y = AveragePool<kernel_shape=[{kernel},{kernel}], strides=[{stride},{stride}],
        pads=[{pad},{pad},{pad},{pad}]>(h) }}"""
    window = {
        "kernel_shape": [kernel] * 2,
        "strides": [stride] * 2,
        "pads": [pad] * 4,
        "dilations": [1, 1],
        "ceil_mode": 0,
        "count_include_pad": 0,
    }
    feeds = {"x": floats(2, 8, size, size), "ct": floats(2, 8, out, out, seed=2)}
    (a, b), _ = both(text, feeds, op="WindowSpread", names=("ct", "h", "y"), attrs=window)
    assert np.abs(a - b).max() <= SUMS * np.abs(a).max()


# A tensor with fewer channels than a block has no blocked form. A block is 8 channels on AVX and 16 on AVX-512; both
# nets have 16 at least, the input and the classes aside, so that the counts do not depend on the processor.
NETS = {
    "mobilenet": lambda: mobilenet_v2(size=64, width=1.0),
    "resnet": lambda: resnet(50, size=64, width=0.25, fold_batch_norm=True),
}
METHODS = ("saliency", "guided-backprop", "lrp.zero", "lrp.epsilon", "lrp.epsilon-plus", "deeplift.rescale")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", NETS)
def test_whole_networks(name: str, method: str) -> None:
    model, maps = NETS[name](), []
    x = floats(2, *(dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim[1:]))
    for provider in ("portable", "cpu"):
        made, _ = compile_model(model, find(method), Request(target="top", provider=provider))
        session = ort.InferenceSession(made.SerializeToString(), quiet())
        maps.append(session.run(["attribution"], {session.get_inputs()[0].name: x})[0])
    # Where a convolution gets another algorithm, LRP divides by sums that nearly cancel; elsewhere 1e-6 is measured.
    assert np.linalg.norm(maps[0] - maps[1]) <= 1e-4 * np.linalg.norm(maps[0])


@pytest.mark.parametrize(("name", "most"), [("mobilenet", 8), ("resnet", 24)])
def test_the_blocked_layout_lives_through_the_backward_pass(name: str, most: int, tmp_path: Path) -> None:
    model = NETS[name]()
    reorders = {}
    for provider in ("portable", "cpu"):
        made, _ = compile_model(model, find("saliency"), Request(target="top", provider=provider))
        options = quiet()
        options.optimized_model_filepath = str(tmp_path / f"{provider}.onnx")
        ort.InferenceSession(made.SerializeToString(), options)
        nodes = onnx.load(tmp_path / f"{provider}.onnx").graph.node
        kinds = Counter(node.op_type for node in nodes)
        if not kinds["ReorderOutput"]:
            pytest.skip("this processor has no blocked layout")
        reorders[provider] = kinds["ReorderInput"] + kinds["ReorderOutput"]
    assert reorders["cpu"] <= most < reorders["portable"] / 2, reorders
