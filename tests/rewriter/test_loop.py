"""Files with a loop around the explanation: the model's own outputs, the class, batches, lanes, names.

A loop that gives every sample its own trip, single runs of the method that is sampled, and closed forms are what the
maps are compared with. Differences are those of float32 sums in another order: 1e-5 of the largest element.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from onnxplain.rewriter.compile import Request, compile_model
from onnxplain.rewriter.errors import OptionError, TargetError
from onnxplain.rewriter.graph import LOOP
from onnxplain.rules.registry import find

from .nets import floats, net, run

Array = NDArray[Any]
TOLERANCE = 1e-5
PATH, NOISE = "integrated-gradients", "smoothgrad"
METHODS = [PATH, NOISE, "smoothgrad-squared", "vargrad"]
SAMPLES = 5

WEIGHTS = "float[4,3] w = {1,-2,3,4,5,6,-7,8,9,10,11,-12}"
TANH = f"g (float[N,4] x) => (float[N,3] y) <{WEIGHTS}> {{ a = MatMul(x, w) y = Tanh(a) }}"
"""Smooth, of several classes, and its top class changes with x."""


def near(got: Array, want: Array, tolerance: float = TOLERANCE) -> None:
    assert got.shape == want.shape, f"{got.shape} instead of {want.shape}"
    size = float(np.abs(want).max())
    assert size > 0, "an expected map of zeros proves nothing"
    assert float(np.abs(got - want).max()) <= tolerance * size


def explained(
    model: onnx.ModelProto,
    feeds: Mapping[str, Array],
    method: str = NOISE,
    target: Any = "top",
    inputs: tuple[str, ...] | None = None,
    **options: Any,
) -> dict[str, Array]:
    """All outputs of the file; those of the model are the model's, to the bit."""
    request = Request(target=target, options=options, inputs=inputs)
    made, _ = compile_model(model, find(method), request)
    onnx.checker.check_model(made, full_check=True)
    own = {value.name for value in model.graph.input}
    before = run(model, {name: value for name, value in feeds.items() if name in own})
    after = run(made, feeds)
    for name, value in before.items():
        assert (after[name].dtype, after[name].shape) == (value.dtype, value.shape), name
        assert np.array_equal(after[name], value), name
    return after


def fed(method: str, x: Array, samples: int = SAMPLES, seed: int = 9, **more: Array) -> dict[str, Array]:
    """x, and noise where the method takes it."""
    eps = floats(samples, *x.shape[1:], seed=seed).astype(x.dtype)
    return {"x": x, **({} if method == PATH else {"noise": eps}), **more}


ODD_OUTPUTS = f"""g (float[N,4] x) => (float[N,3] y, int64[N] i, bool[N,3] b, float s, int32[2] sizes, float[N,1,1,3] q,
  float16[N,3] half, double[N,3] wide, string[N] text, float[2] made, float[2] k, float[3] whole, float[N,4] x)
<{WEIGHTS}, int64[2] axes = {{1,2}}, float[2] k = {{1,2}}> {{
  y = MatMul(x, w)
  i = ArgMax<axis=1, keepdims=0>(y)
  nought = Sub(y, y)
  b = Greater(y, nought)
  s = ReduceMax<keepdims=0>(y)
  shape = Shape(y)
  sizes = Cast<to=6>(shape)
  q = Unsqueeze(y, axes)
  half = Cast<to=10>(y)
  wide = Cast<to=11>(y)
  text = Cast<to=8>(i)
  made = Add(k, k)
  whole = Constant<value_floats=[1.0, 2.0, 3.0]>()
}}"""


@pytest.mark.parametrize("method", METHODS)
def test_outputs_of_every_type_and_rank(method: str) -> None:
    """Numbers, texts, scalars, folded constants, a parameter and the input itself, each handed out."""
    model = net(ODD_OUTPUTS)
    # The checker of `explained` compares every output; an input or parameter among them is one more.
    got = explained(model, fed(method, floats(2, 4)), method)
    assert list(got) == [value.name for value in model.graph.output] + ["attribution"]


def test_notes_on_the_graph_survive() -> None:
    model = net(TANH)
    model.graph.doc_string = "of the graph"
    entry = model.graph.metadata_props.add()
    entry.key, entry.value = "note", "on the graph"
    made, _ = compile_model(model, find(PATH))
    assert made.graph.doc_string == "of the graph"
    assert {entry.key: entry.value for entry in made.graph.metadata_props} == {"note": "on the graph"}
    assert made.graph.name == model.graph.name
    assert [value.name for value in made.graph.input] == ["x", "target"]


def body(made: onnx.ModelProto) -> onnx.GraphProto:
    (node,) = (node for node in made.graph.node if node.name == LOOP)
    return helper.get_node_attr_value(node, "body")


def test_weights_are_inside_and_stored_once() -> None:
    """Only there can they be laid out for the processor."""
    weight = floats(64, 40)
    model = net("g (float[N,64] x) => (float[N,40] y) { y = MatMul(x, w) }")
    model.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    for method in METHODS:
        made, _ = compile_model(model, find(method))
        assert [t.name for t in body(made).initializer if np.prod(t.dims) > 256] == ["w"]
        assert not [t.name for t in made.graph.initializer if np.prod(t.dims) > 256]
        assert made.ByteSize() < model.ByteSize() + 12_000


def named(name: str) -> onnx.ModelProto:
    """y = Relu(x w) with a name for what is in between."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], [name], "first"),
        helper.make_node("Relu", [name], ["y"], LOOP),
    ]
    graph = helper.make_graph(
        nodes,
        "named",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(floats(4, 3), "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


@pytest.mark.parametrize(
    "name",
    [
        "lane/trip",
        "lane/go",
        "lane/go_on",
        "lane/class",
        "lane/class/after",
        "lane/map_0",
        "lane/own_0/before",
        "lane/out/y",
        "lane/out/y/before",
        "lane/out/y/after/then_branch",
        "lane/sum_0_1/after",
        "lane/const_0",
        "lanes/sum_0_1",
        "lanes/class",
        "bwd/map_0",
        "bwd/class",
    ],
)
def test_names_that_the_model_has_already(name: str) -> None:
    x = floats(2, 4)
    for method in (PATH, "vargrad"):
        got = explained(named(name), fed(method, x), method)
        want = explained(named("plain"), fed(method, x), method)
        assert np.array_equal(got["attribution"], want["attribution"])


@pytest.mark.parametrize(
    ("name", "method", "options"), [("noise", NOISE, {}), ("baseline", PATH, {"baseline": "input"})]
)
def test_names_that_the_file_needs(name: str, method: str, options: dict[str, Any]) -> None:
    with pytest.raises(TargetError, match=f"already has a tensor named '{name}'"):
        compile_model(named(name), find(method), Request(options=options))
    # Where the file does not need the name, the model may have it.
    compile_model(named(name), find("saliency"))
    compile_model(named(name), find(PATH if name == "noise" else NOISE))


def turning() -> tuple[onnx.ModelProto, Array, Array]:
    """A model, an input of class 0 and noise whose samples are mostly of class 1."""
    model = net(
        """g (float[N,2] x) => (float[N,2] y) <float[2,2] w = {1,0,0,1}> { a = MatMul(x, w) y = Mul(a, a) }"""
    )
    x = np.array([[1.0, 0.9], [0.5, 1.0]], np.float32)
    eps = np.array([[-2.0, 3.0], [-1.0, 5.0], [0.0, 4.0], [3.0, -3.0], [-2.0, 2.0]], np.float32)
    return model, x, eps


@pytest.mark.parametrize("lanes", [1, 2, 4])
@pytest.mark.parametrize("target", ["top", "input", -1, [-1]])
def test_the_class_is_that_of_the_input_not_of_its_samples(target: Any, lanes: int) -> None:
    """y_c = x_c²: the map of class c is 2 (x_c + mean ε_c σ) at c and 0 elsewhere."""
    model, x, eps = turning()
    sigma = 2.0
    feeds = {"x": x, "noise": eps}
    if target == "input":
        feeds["target"] = np.array([[-1], [-1]], np.int64)
    got = explained(model, feeds, NOISE, target, sigma=sigma, lanes=lanes)["attribution"]
    spread = sigma * (x.max(axis=1) - x.min(axis=1))
    samples = x[None] + eps[:, None] * spread[None, :, None]
    tops = {tuple(row) for row in (samples**2).argmax(axis=2)}
    assert tops != {(0, 1)}, "the samples have classes of their own"
    want = np.zeros_like(x)
    for n, c in enumerate((0, 1)):
        want[n, c] = 2 * samples[:, n, c].mean()
    near(got, want)


@pytest.mark.parametrize("method", METHODS)
def test_every_way_to_name_a_class(method: str) -> None:
    model, x = net(TANH), floats(2, 4) * np.float32(0.1)
    maps = [explained(model, fed(method, x), method, c)["attribution"] for c in range(3)]
    for c in range(3):
        feeds = fed(method, x, target=np.full((2, 1), c, np.int64))
        near(explained(model, feeds, method, "input")["attribution"], maps[c])
    rows = explained(model, fed(method, x), method, [2, 0])["attribution"]
    near(rows, np.stack([maps[2], maps[0]], axis=1).reshape(4, 4))
    eye = np.eye(3, dtype=np.float32)
    # K rows of one sample, or a row a sample.
    k = explained(model, fed(method, x[:1], cotangent=eye), method, "cotangent")["attribution"]
    near(k, np.concatenate([m[:1] for m in maps]))
    n = explained(model, fed(method, x, cotangent=eye[[1, 2]]), method, "cotangent")["attribution"]
    near(n, np.stack([maps[1][0], maps[2][1]]))


def test_a_list_with_the_top_class_is_refused() -> None:
    with pytest.raises(TargetError, match="name the class"):
        compile_model(net(TANH), find(NOISE), Request(target=[0, -1]))


CONV = """g (float[N,2,H,W] x) => (float[N,3] y) <float[3,2,3,3] w, int64[2] axes = {2,3}> {
  a = Conv<pads=[1,1,1,1]>(x, w) b = Relu(a) y = ReduceMean<keepdims=0>(b, axes) }"""


def conv() -> onnx.ModelProto:
    model = net(CONV.replace("float[3,2,3,3] w, ", ""))
    model.graph.initializer.append(numpy_helper.from_array(floats(3, 2, 3, 3), "w"))
    return model


@pytest.mark.parametrize("lanes", range(1, 9))
@pytest.mark.parametrize("method", METHODS)
def test_lanes_change_nothing(method: str, lanes: int) -> None:
    """Of 5 samples, with sizes known only at run time; 5 is no multiple of 2, 3, 4, 6, 7 or 8."""
    x = floats(3, 2, 6, 5)
    options: dict[str, Any] = {"steps": SAMPLES} if method == PATH else {}
    one = explained(conv(), fed(method, x), method, lanes=1, **options)
    more = explained(conv(), fed(method, x), method, lanes=lanes, **options)
    near(more["attribution"], one["attribution"])


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_of_three_equals_three_single_runs(method: str) -> None:
    x, target = floats(3, 2, 6, 5), np.array([[0], [-1], [2]], np.int64)
    together = explained(conv(), fed(method, x, target=target), method, "input")["attribution"]
    for i in range(3):
        feeds = fed(method, x[i : i + 1], target=target[i : i + 1])
        near(together[i : i + 1], explained(conv(), feeds, method, "input")["attribution"])


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_that_cannot_grow_has_one_lane(method: str) -> None:
    """Softmax over the batch axis keeps the batch at 1."""
    x = floats(1, 4)
    free = net("g (float[N,4] x) => (float[N,4] y) { s = Softmax<axis=1>(x) y = Mul(s, x) }")
    fixed = net(
        """g (float[1,4] x) => (float[1,4] y) { t = Transpose<perm=[1,0]>(x) s = Softmax<axis=0>(t)
        u = Transpose<perm=[1,0]>(s) r = Softmax<axis=0>(x) z = Sub(r, r) v = Add(u, z) y = Mul(v, x) }"""
    )
    made = [compile_model(fixed, find(method), Request(options={"lanes": lanes})) for lanes in (1, 8)]
    assert made[0][0].graph == made[1][0].graph
    assert any("stays fixed" in note for note in made[0][1].approximations)
    near(
        explained(fixed, fed(method, x), method)["attribution"],
        explained(free, fed(method, x), method)["attribution"],
    )


def test_wider_and_narrower_numbers() -> None:
    wide = net(TANH.replace("float[", "double["))
    x = floats(2, 4).astype(np.float64) * 0.1
    for method in METHODS:
        got = explained(wide, fed(method, x), method)["attribution"]
        assert got.dtype == np.float64
        narrow = explained(net(TANH), {k: v.astype(np.float32) for k, v in fed(method, x).items()}, method)
        near(got, narrow["attribution"], 1e-4 if method == "vargrad" else TOLERANCE)


def test_half_precision() -> None:
    model = net("g (float16[N,4] x) => (float16[N,4] y) { y = Mul(x, x) }")
    x = floats(2, 4).astype(np.float16)
    got = explained(model, fed(PATH, x), PATH, 1)["attribution"]
    want = np.zeros((2, 4))
    want[:, 1] = x[:, 1].astype(np.float64) ** 2
    assert got.dtype == np.float16
    near(got, want, 1e-2)  # a float16 has 11 bits, and 50 terms are added up


BRANCH = f"""g (float[N,4] x, bool flag) => (float[N,3] y) <{WEIGHTS}, float[3] k = {{1,2,3}}> {{
  v = If(flag) <then_branch = t () => (float[3] o) {{ o = Add(k, k) }},
    else_branch = e () => (float[3] p) {{ p = Identity(k) }}>
  a = MatMul(x, w) y = Mul(a, v) }}"""
REPEAT = f"""g (float[N,4] x) => (float[N,3] y) <{WEIGHTS}, float[3] k = {{1,2,3}}, int64 n = {{3}}, bool c = {{1}}> {{
  v = Loop(n, c, k) <body = b (int64 i, bool ci, float[3] s) => (bool co, float[3] so)
    {{ co = Identity(ci) so = Add(s, k) }}>
  a = MatMul(x, w) y = Mul(a, v) }}"""
TWICE = '<domain: "own", opset_import: ["" : 18]> Twice (u) => (v) { v = Add(u, u) }'


def test_subgraphs_and_functions_beside_the_path_of_the_input() -> None:
    """They read parameters that now live in the body of a loop."""
    x = floats(2, 4)
    w = np.array([-2, 5, 8, 11], np.float32)  # of class 1
    for flag, factor in ((True, 4), (False, 2)):
        feeds = fed(NOISE, x, flag=np.array(flag))
        near(explained(net(BRANCH), feeds, NOISE, 1)["attribution"], np.tile(w * factor, (2, 1)))
    near(explained(net(REPEAT), fed(NOISE, x), NOISE, 1)["attribution"], np.tile(w * 8, (2, 1)))
    model = net(
        f"g (float[N,4] x) => (float[N,3] y) <{WEIGHTS}> {{ t = own.Twice(x) y = MatMul(t, w) }}",
        more='"own" : 1',
        functions=TWICE,
    )
    near(explained(model, fed(NOISE, x), NOISE, 1)["attribution"], np.tile(w * 2, (2, 1)))


def test_same_input_same_bytes() -> None:
    for method in METHODS:
        first, again = (compile_model(conv(), find(method))[0].SerializeToString() for _ in range(2))
        assert first == again


def test_options_of_the_method_inside() -> None:
    model = net(TANH.replace("Tanh", "Relu"))
    for options in ({"gat": "relu"}, {"gate": "every"}):
        with pytest.raises(
            OptionError, match=r"smoothgrad of guided-backprop.*its own options are inner, samples"
        ):
            compile_model(model, find(NOISE), Request(options={"inner": "guided-backprop", **options}))
    with pytest.raises(OptionError, match="smoothgrad of saliency has no option 'gate'"):
        compile_model(model, find(NOISE), Request(options={"gate": "relu"}))
    for inner in METHODS:
        with pytest.raises(OptionError, match="cannot be sampled again"):
            compile_model(model, find(NOISE), Request(options={"inner": inner}))
    with pytest.raises(OptionError, match="smothgrad"):
        compile_model(model, find(NOISE), Request(options={"inner": "smothgrad"}))
    _, card = compile_model(
        model, find(NOISE), Request(options={"inner": find("guided-backprop"), "gate": "relu"})
    )
    assert (card.options["inner"], card.options["gate"]) == ("guided-backprop", "relu")


PEAK = """
import resource, sys
import numpy as np, onnxruntime as ort
options = ort.SessionOptions()
options.intra_op_num_threads = 1
session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
x = np.ones((1, 2, 256, 256), np.float32)
session.run(["attribution"], {"x": x})
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss has other units elsewhere")
def test_memory_does_not_grow_with_the_number_of_steps(tmp_path: Path) -> None:
    """Samples and maps of 0.5 MB each: 240 more of them would be over 120 MB. Measured: 0.3 MB more, of 98."""
    peaks = []
    for steps in (16, 256):
        made, _ = compile_model(conv(), find(PATH), Request(target=0, options={"steps": steps}))
        file = tmp_path / f"{steps}.onnx"
        onnx.save(made, file)
        done = subprocess.run(
            [sys.executable, "-c", PEAK, str(file)], capture_output=True, text=True, check=True
        )
        peaks.append(int(done.stdout) / 1024)
    assert peaks[1] < peaks[0] + 40, f"{peaks} MB"
