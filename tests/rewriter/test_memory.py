"""The estimate against sums by hand, against what a fresh process takes, and the lanes chosen from it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper, parser

from onnxplain import models
from onnxplain.models.resnet import resnet
from onnxplain.rewriter.compile import Request, compile_model
from onnxplain.rewriter.errors import OptionError
from onnxplain.rewriter.memory import AUTO_LANES, Memory, choose_lanes, dimensions, estimate
from onnxplain.rules.registry import find

FLOAT = 4


def net(text: str, **weights: np.ndarray) -> onnx.ModelProto:
    model = parser.parse_model(f'<ir_version: 10, opset_import: ["": 18]>\n{text}')
    for name, value in weights.items():
        model.graph.initializer.append(numpy_helper.from_array(value, name))
    return model


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


def test_a_chain_holds_two_neighbours() -> None:
    """At each MatMul its input and its output live; the input x itself is the caller's."""
    model = net(
        "g (float[N,8] x) => (float[N,8] y) { a = MatMul(x, w) b = MatMul(a, v) y = MatMul(b, u) }",
        w=ones(8, 64),
        v=ones(64, 128),
        u=ones(128, 8),
    )
    memory = estimate(model)
    assert memory.weights == FLOAT * (8 * 64 + 64 * 128 + 128 * 8)
    assert (memory.per_row, memory.fixed, memory.unknown) == (FLOAT * (64 + 128), 0, ())
    assert memory.at(5) == memory.weights + 5 * FLOAT * (64 + 128)


def test_a_tensor_read_late_lives_until_then() -> None:
    model = net(
        "g (float[N,8] x) => (float[N,64] y) { a = MatMul(x, w) b = MatMul(a, v) c = MatMul(b, v) y = Add(a, c) }",
        w=ones(8, 64),
        v=ones(64, 64),
    )
    # a, b, c at the third product; v is packed for either of its two readers.
    memory = estimate(model)
    assert memory.per_row == FLOAT * 3 * 64
    assert memory.weights == FLOAT * (8 * 64 + 2 * 64 * 64)


def test_views_and_pointwise_operators_take_nothing() -> None:
    model = net(
        """g (float[N,8] x) => (float[N,64] y) <int64[3] s = {0,8,8}, int64[2] t = {0,64}> {
        a = MatMul(x, w) b = Reshape(a, s) c = Relu(b) d = Reshape(c, t) y = Sigmoid(d) }""",
        w=ones(8, 64),
    )
    assert estimate(model).per_row == FLOAT * 64


def test_pointwise_of_a_tensor_that_lives_on_takes_its_own() -> None:
    model = net(
        "g (float[N,8] x) => (float[N,64] y) { a = MatMul(x, w) b = Relu(a) c = Tanh(a) y = Add(b, c) }",
        w=ones(8, 64),
    )
    assert estimate(model).per_row == FLOAT * 2 * 64  # c is written over a


def test_what_follows_from_constants_is_folded_at_load() -> None:
    model = net(
        "g (float[N,8] x) => (float[N,64] y) { t = Transpose<perm=[1,0]>(w) y = MatMul(x, t) }", w=ones(64, 8)
    )
    memory = estimate(model)
    assert (memory.weights, memory.per_row) == (FLOAT * 64 * 8, FLOAT * 64)


def test_what_is_there_once_is_fixed() -> None:
    model = net(
        """g (float[N,8] x, float[64,64] z) => (float[N,8] y, float[64,64] s) {
        y = MatMul(x, w) s = MatMul(z, z) }""",
        w=ones(8, 8),
    )
    memory = estimate(model, batch=4)
    assert (memory.per_row, memory.fixed) == (FLOAT * 8, FLOAT * 64 * 64)


def test_rows_within_a_budget() -> None:
    memory = Memory(weights=100, per_row=10, fixed=5)
    assert [memory.rows(budget) for budget in (0, 104, 114, 115, 124, 125, 1105)] == [0, 0, 0, 1, 1, 2, 100]


def test_sizes_that_are_free() -> None:
    model = net("g (float[N,C] x) => (float[N,C] y) { a = Tanh(x) y = Mul(a, x) }")
    assert dimensions(model) == {"x": ("N", "C")}
    assert estimate(model, sizes={"C": 7}).per_row == FLOAT * 7
    with pytest.raises(OptionError, match=r"input 'x': the size 'C' of axis 1 is free"):
        estimate(model)
    with pytest.raises(OptionError, match="at least 1"):
        estimate(model, batch=0, sizes={"C": 7})


def test_unnamed_sizes_have_names_by_place() -> None:
    model = net("g (float[?,?] x) => (float[?,?] y) { a = Tanh(x) y = Mul(a, x) }")
    assert dimensions(model) == {"x": ("x[0]", "x[1]")}
    assert estimate(model, sizes={"x[1]": 3}).per_row == FLOAT * 3


def test_shapes_computed_in_the_graph_are_followed() -> None:
    model = net(
        """g (float[N,8] x) => (float[M,4] y) <int64[1] k = {4}, int64[1] m = {-1}> {
        s = Shape<start=0, end=1>(x) t = Concat<axis=0>(s, k) a = MatMul(x, w) y = Expand(a, t) }""",
        w=ones(8, 1),
    )
    assert estimate(model).per_row == FLOAT * 5


def test_sizes_that_nobody_knows_are_told() -> None:
    model = net("g (float[N,8] x) => (int64[2,M] y) { y = NonZero(x) }")
    assert estimate(model).unknown == ("y",)


@pytest.mark.parametrize("lanes", [1, 2, 8])
def test_the_body_of_a_loop_counts_once_with_its_lanes(lanes: int) -> None:
    """Compared with the plain gradient at as many rows; the loop adds its inputs and sums, which are small here."""
    model = net(
        """g (float[N,8] x) => (float[N,8] y) {
        a = MatMul(x, w) b = Tanh(a) c = MatMul(b, v) d = Tanh(c) y = MatMul(d, u) }""",
        w=ones(8, 512),
        v=ones(512, 512),
        u=ones(512, 8),
    )
    plain = estimate(compile_model(model, find("saliency"), Request(target=0))[0])
    for steps in (16, 256):
        made, _ = compile_model(
            model, find("integrated-gradients"), Request(target=0, options={"steps": steps, "lanes": lanes})
        )
        looped = estimate(made)
        assert plain.per_row * lanes <= looped.per_row < plain.per_row * lanes * 1.2
        # The body is kept as it was read, beside the packed weights.
        assert plain.weights < looped.weights < 2 * plain.weights


@pytest.mark.parametrize("method", ["smoothgrad", "vargrad", "integrated-gradients"])
def test_loops_over_inputs_of_the_method(method: str) -> None:
    """The rows of noise are no rows of the batch."""
    model = net("g (float[N,8] x) => (float[N,4] y) { a = MatMul(x, w) y = Tanh(a) }", w=ones(8, 4))
    made, _ = compile_model(model, find(method), Request(options={"lanes": 4}))
    assert estimate(made, 8).per_row > 0
    with_base, _ = compile_model(
        model, find("integrated-gradients"), Request(options={"baseline": "input", "lanes": 4})
    )
    assert estimate(with_base, 8).per_row > 0


def test_cotangents_of_one_sample() -> None:
    model = net("g (float[N,8] x) => (float[N,4] y) { a = MatMul(x, w) y = Tanh(a) }", w=ones(8, 4))
    made, _ = compile_model(model, find("saliency"), Request(target="cotangent"))
    rows, batch = estimate(made, 8, {"N": 1}), estimate(made, 8)
    assert 0 < rows.per_row <= batch.per_row


CONV = "g (float[N,3,H,W] x) => (float[N,16,H,W] y) { a = Conv<pads=[1,1,1,1]>(x, w) y = Relu(a) }"


def inner(size: int | None) -> tuple[onnx.ModelProto, dict[str, TensorProto]]:
    model = net(CONV if size is None else CONV.replace("H,W", f"{size},{size}"))
    return model, {"w": numpy_helper.from_array(ones(16, 3, 3, 3), "w")}


def test_lanes_by_size() -> None:
    """16 planes of 32² are 64 kB a row, of 256² 4 MB."""
    model, weights = inner(32)
    assert choose_lanes(model, weights) == max(AUTO_LANES)
    assert choose_lanes(model, weights, budget=10**9) == max(AUTO_LANES)
    assert choose_lanes(model, weights, budget=3 * 65536 + 4000) == 3
    model, weights = inner(256)
    assert choose_lanes(model, weights) == min(AUTO_LANES)
    assert choose_lanes(model, weights, budget=7 * 2**20) == 1
    with pytest.raises(OptionError, match=r"memory=1000000: one sample takes about 41\d{5} bytes"):
        choose_lanes(model, weights, budget=10**6)


def test_lanes_of_sizes_known_only_at_run_time() -> None:
    model, weights = inner(None)
    assert choose_lanes(model, weights) == min(AUTO_LANES)
    assert choose_lanes(model, weights, sizes={"H": 16, "W": 16}) == max(AUTO_LANES)
    with pytest.raises(OptionError, match="'H' of axis 2 is free"):
        choose_lanes(model, weights, budget=10**9)


PEAK = """
import sys
from pathlib import Path
import numpy as np
from onnxplain.runtime.providers import create_session
def status(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key + ":"))
batch = int(sys.argv[2])
x = np.ones((batch, 3, 224, 224), np.float32)
feeds = {"target": np.zeros((batch, 1), np.int64)}
before = status("VmRSS")
session = create_session(Path(sys.argv[1]), "cpu", threads=1, memory_pattern=False)
feeds[session.get_inputs()[0].name] = x
Path("/proc/self/clear_refs").write_text("5")
session.run(["attribution"], feeds)
session.run(["attribution"], feeds)
print(status("VmHWM") - before)
"""


def peak(file: Path, batch: int) -> int:
    words = [sys.executable, "-c", PEAK, str(file), str(batch)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is told by Linux only")
@pytest.mark.parametrize(
    ("name", "method", "batch"),
    [
        ("lite0", "saliency", 1),
        ("lite0", "saliency", 8),
        ("lite0", "lrp.epsilon", 4),
        ("resnet50", "saliency", 1),
    ],
)
def test_measured_memory(name: str, method: str, batch: int, tmp_path: Path) -> None:
    """Measured 1.01 to 1.28 times the estimate. The band is wide: allocators and kernels differ between machines, and
    a session takes some 15 MB whatever the graph."""
    source = (
        onnx.load(models.path("efficientnet_lite0")) if name == "lite0" else resnet(50, fold_batch_norm=True)
    )
    made, _ = compile_model(source, find(method))
    file = tmp_path / "explanation.onnx"
    onnx.save(made, file)
    measured, expected = peak(file, batch), estimate(made, batch).at(batch)
    assert 0.7 * expected < measured < 1.7 * expected + 30e6, (measured / 1e6, expected / 1e6)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is told by Linux only")
def test_memory_of_many_steps_is_that_of_few(tmp_path: Path) -> None:
    """EfficientNet-Lite0, integrated gradients: within 10 %."""
    peaks = []
    for steps in (8, 48):
        source = onnx.load(models.path("efficientnet_lite0"))
        made, _ = compile_model(
            source, find("integrated-gradients"), Request(options={"steps": steps, "lanes": 2})
        )
        file = tmp_path / f"{steps}.onnx"
        onnx.save(made, file)
        peaks.append(peak(file, 1))
    assert abs(peaks[1] / peaks[0] - 1) < 0.1, peaks
