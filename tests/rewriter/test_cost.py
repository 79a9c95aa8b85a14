"""FLOPs, bytes and floors against formulas worked out by hand, and against loops that count one multiply at a time."""

from __future__ import annotations

import itertools
import math

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from onnxplain.models.resnet import resnet
from onnxplain.rewriter.compile import Request, compile_model
from onnxplain.rewriter.cost import Cost, Kernel, NodeCost, count, floor, floor_of, roofline
from onnxplain.rewriter.errors import OptionError
from onnxplain.rules.registry import find
from tests.rewriter.nets import net

FLOAT = 4
"""Bytes of a float32."""


def weights(model: onnx.ModelProto, **shapes: tuple[int, ...]) -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    for name, shape in shapes.items():
        values = rng.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    return model


def cnn(batch: int | str = "N") -> onnx.ModelProto:
    """(N, 3, 8, 8) -> Conv 3x3 "same" to 4 -> Relu -> MaxPool 2 -> Flatten -> Gemm to 5."""
    body = f"""
    g (float[{batch},3,8,8] x) => (float[{batch},5] y) {{
      a = Conv<kernel_shape=[3,3], pads=[1,1,1,1]>(x, w1, b1)
      r = Relu(a)
      p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r)
      f = Flatten<axis=1>(p)
      y = Gemm<transB=1>(f, w2, b2)
    }}"""
    return weights(net(body), w1=(4, 3, 3, 3), b1=(4,), w2=(5, 64), b2=(5,))


def by_op(cost: Cost) -> dict[str, NodeCost]:
    return {node.op: node for node in cost.nodes}


def explained(model: onnx.ModelProto, method: str, **options: object) -> onnx.ModelProto:
    return compile_model(model, find(method), Request(target="top", options=options))[0]


def test_a_small_net_by_hand() -> None:
    found = by_op(count(cnn(), batch=2))
    a, p, y = 2 * 4 * 8 * 8, 2 * 4 * 4 * 4, 2 * 5
    assert found["Conv"] == NodeCost(
        "a", "Conv", 2 * a * 27, 2 * 3 * 64 * FLOAT, a * FLOAT, (4 * 27 + 4) * FLOAT, a * 27
    )
    assert found["Relu"] == NodeCost("r", "Relu", a, a * FLOAT, a * FLOAT)
    assert found["MaxPool"] == NodeCost("p", "MaxPool", p * 4, a * FLOAT, p * FLOAT)
    assert found["Flatten"] == NodeCost("f", "Flatten")
    assert found["Gemm"] == NodeCost(
        "y", "Gemm", 2 * y * 64, p * FLOAT, y * FLOAT, (5 * 64 + 5) * FLOAT, y * 64
    )


def test_totals_are_sums() -> None:
    cost = count(cnn(), batch=2)
    for key in ("flops", "read", "written", "weights"):
        assert getattr(cost, key) == sum(getattr(node, key) for node in cost.nodes)
    assert cost.weighted == 2 * (2 * 4 * 64 * 27 + 2 * 5 * 64) and cost.unknown == ()


def taps(size: int, kernel: int, stride: int, dilation: int, pads: tuple[int, int], transposed: bool) -> int:
    """Along one axis: how often an element meets an element of the kernel, zeros of the padding included."""
    if transposed:
        return sum(1 for _ in itertools.product(range(size), range(kernel)))
    last = size + sum(pads) - dilation * (kernel - 1)
    return sum(1 for start in range(0, last, stride) for _ in range(kernel))


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(
    ("stride", "dilation", "group", "pads"),
    [(1, 1, 1, (1, 1)), (2, 1, 2, (0, 1)), (1, 2, 1, (2, 2)), (3, 1, 4, (0, 0))],
)
def test_convolutions_multiply_by_multiply(
    stride: int, dilation: int, group: int, pads: tuple[int, int], transposed: bool
) -> None:
    """Every position × every tap × every pair of channels that are joined, counted in loops."""
    c, m, sizes, kernel, n = 4, 8, (7, 9), (3, 2), 2
    op = "ConvTranspose" if transposed else "Conv"
    body = f"""
    g (float[{n},{c},7,9] x) => (float[n,m,h,w] y) {{
      y = {op}<kernel_shape=[3,2], strides=[{stride},{stride}], dilations=[{dilation},{dilation}], group={group},
        pads=[{pads[0]},{pads[0]},{pads[1]},{pads[1]}]>(x, w)
    }}"""
    shape = (c, m // group, *kernel) if transposed else (m, c // group, *kernel)
    spots = [taps(size, k, stride, dilation, pads, transposed) for size, k in zip(sizes, kernel, strict=True)]
    pairs = sum(1 for i in range(c) for o in range(m) if i // (c // group) == o // (m // group))
    cost = count(weights(net(body), w=shape))
    assert cost.nodes[0].macs == n * pairs * math.prod(spots) and cost.weighted == 2 * cost.nodes[0].macs


@pytest.mark.parametrize(
    ("text", "inputs", "macs"),
    [
        ("MatMul(a, b)", "float[2,3,4] a, float[4,5] b", 2 * 3 * 5 * 4),
        ("MatMul(a, b)", "float[7,1,3,4] a, float[2,4,5] b", 7 * 2 * 3 * 5 * 4),
        ("MatMul(a, b)", "float[4] a, float[4,5] b", 5 * 4),
        ("Gemm<transA=1>(a, b)", "float[4,3] a, float[4,5] b", 3 * 5 * 4),
        ("Gemm<transB=1>(a, b)", "float[3,4] a, float[5,4] b", 3 * 5 * 4),
        ('Einsum<equation="bij,bjk->bik">(a, b)', "float[2,3,4] a, float[2,4,5] b", 2 * 3 * 4 * 5),
        ('Einsum<equation="bi, bi -> b">(a, b)', "float[2,3] a, float[2,3] b", 6),
    ],
)
def test_products(text: str, inputs: str, macs: int) -> None:
    (node,) = count(net(f"g ({inputs}) => (float[...] y) {{ y = {text} }}".replace("[...]", "[p,q,r]"))).nodes
    assert (node.macs, node.flops) == (macs, 2 * macs)


@pytest.mark.parametrize(
    ("text", "flops"),
    [
        ("Exp(x)", 120),
        ("Softmax(x)", 600),
        ("ReduceSum<keepdims=0>(x)", 120),
        ("GlobalAveragePool(x)", 120),
        ("AveragePool<kernel_shape=[2,3]>(x)", 2 * 3 * 3 * 3 * 6),
        ("Transpose(x)", 0),
        ("Cast<to=1>(x)", 0),
        ("BatchNormalization(x, s, s, s, s)", 240),
    ],
)
def test_elements(text: str, flops: int) -> None:
    model = net(f"g (float[2,3,4,5] x) => (float[p,q,r,s] y) {{ y = {text} }}")
    cost = count(weights(model, s=(3,)))
    assert cost.flops == flops and cost.weighted == 0 and cost.unknown == ()


def test_what_picks_reads_what_it_gives() -> None:
    body = """g (float[100,4] x) => (float[2,4] y) <int64[2] i = {3, 5}> { y = Gather(x, i) }"""
    cost = count(net(body))
    assert (cost.read, cost.written) == (2 * 4 * FLOAT, 2 * 4 * FLOAT)


def test_constants_cost_nothing() -> None:
    body = """
    g (float[N,4] x) => (float[N,6] y) {
      t = Transpose(w)
      n = Neg(t)
      y = MatMul(x, n)
    }"""
    cost = count(weights(net(body), w=(6, 4)), batch=3)
    assert [node.op for node in cost.nodes] == ["MatMul"]
    assert (cost.flops, cost.read, cost.weights) == (2 * 3 * 6 * 4, 3 * 4 * FLOAT, 24 * FLOAT)


def test_elementwise_runs_in_the_kernel_before() -> None:
    """conv, relu, conv, add of the first: r is written once, read by the second conv and its sum."""
    body = """
    g (float[1,4,8,8] x) => (float[1,4,8,8] y) {
      a = Conv<kernel_shape=[3,3], pads=[1,1,1,1]>(x, w)
      r = Relu(a)
      b = Conv<kernel_shape=[3,3], pads=[1,1,1,1]>(r, w)
      s = Add(b, r)
      y = Relu(s)
    }"""
    cost = count(weights(net(body), w=(4, 4, 3, 3)))
    tensor, w, macs = 256 * FLOAT, 144 * FLOAT, 256 * 36
    assert cost.kernels == (Kernel(macs, 2 * tensor + w), Kernel(macs, 2 * tensor + w))
    assert cost.traffic == 4 * tensor + 2 * w


def test_a_gradient_reads_what_its_masks_need() -> None:
    """Forward: x, w, a; a, v, y. Backward: the cotangent through v and the mask of a, then through w."""
    body = """
    g (float[N,8,6,6] x) => (float[N,8,6,6] y) {
      a = Conv<kernel_shape=[3,3], pads=[1,1,1,1]>(x, w)
      r = Relu(a)
      y = Conv<kernel_shape=[3,3], pads=[1,1,1,1]>(r, v)
    }"""
    model = weights(net(body), w=(8, 8, 3, 3), v=(8, 8, 3, 3))
    made = compile_model(model, find("saliency"), Request(target="cotangent"))[0]
    tensor, w = 8 * 36 * FLOAT, 8 * 8 * 9 * FLOAT
    assert count(model).traffic == 4 * tensor + 2 * w
    # again two kernels of one tensor in, one out, and the masked activation
    assert count(made, sizes={"K": 1}).traffic == 2 * (4 * tensor + 2 * w) + tensor
    assert floor(model, made, sizes={"K": 1}).arithmetic == 2.0


def test_a_gradient_has_twice_the_flops() -> None:
    model = resnet(18, size=32, width=0.125, fold_batch_norm=True)
    found = floor(model, explained(model, "saliency"))
    assert found.arithmetic == pytest.approx(2.0, abs=0.02)  # strided convolutions do not meet every row
    assert 2.0 < found.traffic < 3.5
    assert floor(model, model).arithmetic == floor(model, model).traffic == 1.0
    assert 1.0 < floor(model, explained(model, "grad-cam")).arithmetic < 1.5


@pytest.mark.parametrize("steps", [1, 4, 5, 11])
@pytest.mark.parametrize("batch", [1, 3])
def test_a_loop_is_its_trips(steps: int, batch: int) -> None:
    """The input itself on trip 0, then every sample once; the last trip may have fewer lanes."""
    model = cnn()
    one, many = explained(model, "saliency"), explained(model, "integrated-gradients", steps=steps)
    found = count(many, batch)
    assert found.weighted == (steps + 1) * count(one, batch).weighted
    assert found.unknown == ()


def test_the_samples_of_a_loop_may_be_fed() -> None:
    model = cnn()
    one, many = count(explained(model, "saliency")), explained(model, "smoothgrad", samples=6)
    for samples in (2, 6, 9):
        assert count(many, sizes={"samples": samples}).weighted == (samples + 1) * one.weighted


def test_free_sizes() -> None:
    """Also where the backward pass works out at run time along which axes a tensor was repeated."""
    body = """
    g (float[N,3,H,W] x) => (float[N,3,H,W] y) {
      a = Conv<kernel_shape=[3,3], pads=[1,1,1,1]>(x, w)
      y = Add(a, x)
    }"""
    model = weights(net(body), w=(3, 3, 3, 3))
    made = explained(model, "saliency")
    sizes = {"H": 6, "W": 4}
    assert count(model, 2, sizes).weighted == 2 * (2 * 3 * 24) * 27
    cost = count(made, 2, sizes)
    assert cost.weighted == 2 * count(model, 2, sizes).weighted and cost.unknown == ()
    with pytest.raises(OptionError, match="'H' of axis 2 is free"):
        count(model)


def test_the_costlier_branch_counts() -> None:
    body = """
    g (bool b, float[4,4] x) => (float[4,4] y) {
      y = If (b) <
        then_branch = t () => (float[4,4] u) { u = Exp(x) },
        else_branch = e () => (float[4,4] v) { v = MatMul(x, x) }
      >
    }"""
    assert count(net(body)).flops == 2 * 64


def test_trips_that_nobody_knows_are_said() -> None:
    body = """
    g (int64 n, float[4] x) => (float[4] y) <bool go = {1}> {
      y = Loop (n, go, x) <body = b (int64 i, bool c, float[4] s) => (bool d, float[4] t) {
        d = Identity(c)
        t = Exp(s)
      }>
    }"""
    cost = count(net(body))
    assert cost.flops == 4 and "the number of its trips is not known" in cost.unknown[0]


def test_what_is_not_counted_is_said() -> None:
    body = """
    g (float[5,2,3] x) => (float[5,1,2,4] y) { y = LSTM<hidden_size=4>(x, w, r) }"""
    cost = count(weights(net(body), w=(1, 16, 3), r=(1, 16, 4)))
    assert len(cost.unknown) == 1 and "LSTM" in cost.unknown[0] and cost.read == 30 * FLOAT


def test_functions_are_looked_into() -> None:
    body = """
    g (float[2,4] x) => (float[2,3] y) { y = own.twice(x, w) }"""
    function = '<opset_import: ["" : 18], domain: "own"> twice (a, b) => (c) { d = Relu(a) c = MatMul(d, b) }'
    model = weights(net(body, more='"own" : 1', functions=function), w=(4, 3))
    assert count(model).weighted == 2 * 2 * 3 * 4


def test_many_sizes_of_a_body_follow_its_trip() -> None:
    """Trip i works on i + 1 rows: the first, the last and those between (as the second) are told apart."""
    body = helper.make_graph(
        [
            helper.make_node("Add", ["i", "one"], ["k"]),
            helper.make_node("Reshape", ["k", "vector"], ["rows"]),
            helper.make_node("Concat", ["rows", "four"], ["shape"], axis=0),
            helper.make_node("Expand", ["x", "shape"], ["many"]),
            helper.make_node("MatMul", ["many", "w"], ["product"]),
            helper.make_node("ReduceSum", ["product"], ["z"], keepdims=0),
            helper.make_node("Identity", ["go"], ["on"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", onnx.TensorProto.INT64, []),
            helper.make_tensor_value_info("go", onnx.TensorProto.BOOL, []),
        ],
        [
            helper.make_tensor_value_info("on", onnx.TensorProto.BOOL, []),
            helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, []),
        ],
        [
            helper.make_tensor("one", onnx.TensorProto.INT64, [], [1]),
            helper.make_tensor("vector", onnx.TensorProto.INT64, [1], [1]),
            helper.make_tensor("four", onnx.TensorProto.INT64, [1], [4]),
        ],
    )
    graph = helper.make_graph(
        [helper.make_node("Loop", ["trips", ""], ["y"], body=body)],
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [5])],
        [helper.make_tensor("trips", onnx.TensorProto.INT64, [], [5])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    rows = [1, 2, 2, 2, 5]
    assert count(weights(model, w=(4, 6))).weighted == 2 * sum(rows) * 4 * 6


def test_a_roofline_is_the_slower_of_both_for_each_kernel() -> None:
    cost = Cost((), (Kernel(1000, 10), Kernel(1, 4000, times=3)))
    found = roofline(cost, peak=100.0, bandwidth=lambda size: 50.0 if size < 100 else 10.0)
    assert found == 2 * 1000 / 100 + 3 * 4000 / 10


def test_floors_of_nothing() -> None:
    nothing, something = Cost((), ()), count(cnn())
    assert floor_of(nothing, nothing).arithmetic == 1.0
    assert floor_of(nothing, something).arithmetic == math.inf
    assert floor_of(something, nothing).traffic == 0.0
