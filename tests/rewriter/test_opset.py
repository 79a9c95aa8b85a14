"""Raising the opset changes no result: every (operator, version) against onnxruntime at the model's own opset, and
below 7, which onnxruntime does not run, against what the specification says in numpy."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest

from onnxplain.rewriter.draft import draft
from onnxplain.rewriter.errors import ModelError
from onnxplain.rewriter.passes.opset import FLOOR, lift
from onnxplain.rewriter.passes.opset.table import SAME, STEPS, TABLE

from .nets import floats, net, run, sealed


def test_the_table_names_every_version_of_every_operator() -> None:
    history: dict[str, set[int]] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain == "":
            history.setdefault(schema.name, set()).add(schema.since_version)
    wanted = {(op, version) for op, known in history.items() for version in known - {min(known)}}
    assert not wanted - set(TABLE)
    assert not {key for key in set(TABLE) - wanted if key[1] <= onnx.defs.onnx_opset_version()}
    same = {key for key, step in TABLE.items() if key not in STEPS}
    assert len(same) + len(STEPS) == len(TABLE) and SAME


def lifted(model: onnx.ModelProto, rank: int = 4) -> onnx.ModelProto:
    """At the floor, and checked in full. rank: of the output, which the checker wants to be declared."""
    tensor = model.graph.output[0].type.tensor_type
    tensor.shape.CopyFrom(onnx.TensorShapeProto(dim=[{"dim_param": f"D{i}"} for i in range(rank)]))
    work = draft(model)
    lift(work)
    assert work.opset == FLOOR
    return sealed(work)


X = "float[2,3,4,4] x"
AT_OWN_OPSET: dict[str, tuple[tuple[int, ...], str]] = {
    "upsample nearest": ((7, 8), "y = Upsample <scales = [1.0, 1.0, 2.5, 1.0]> (x)"),
    "upsample linear": ((7, 8), 'y = Upsample <mode = "linear", scales = [1.0, 1.0, 2.0, 1.7]> (x)'),
    "upsample input": (
        (9,),
        's = Constant <value = float[4] {1, 1, 1.5, 3}> () y = Upsample <mode = "linear"> (x, s)',
    ),
    "upsample near": ((9,), "s = Constant <value = float[4] {1, 1, 1.5, 3}> () y = Upsample (x, s)"),
    "resize linear": (
        (10,),
        's = Constant <value = float[4] {1, 1, 0.6, 3}> () y = Resize <mode = "linear"> (x, s)',
    ),
    "resize down": ((10,), "s = Constant <value = float[4] {1, 1, 0.6, 0.5}> () y = Resize (x, s)"),
    "resize up": ((10,), "s = Constant <value = float[4] {1, 1, 1.6, 2.5}> () y = Resize (x, s)"),
    "resize both": ((10,), "s = Constant <value = float[4] {1, 1, 1.6, 0.6}> () y = Resize (x, s)"),
    "resize computed": (
        (10,),
        "s = Constant <value = float[4] {1, 1, 1.6, 0.6}> () t = Abs(s) y = Resize (x, t)",
    ),
    "resize sizes": (
        (11, 12),
        """r = Constant <value = float[0] {}> () n = Constant <value = int64[4] {2, 3, 7, 3}> ()
        y = Resize <mode = "linear", coordinate_transformation_mode = "align_corners"> (x, r, r, n)""",
    ),
    "resize nn": (
        (11, 12),
        """r = Constant <value = float[0] {}> () s = Constant <value = float[4] {1, 1, 1.6, 0.6}> ()
        y = Resize <coordinate_transformation_mode = "tf_half_pixel_for_nn", nearest_mode = "floor"> (x, r, s)""",
    ),
    "resize crop": (
        (11, 13),
        """r = Constant <value = float[8] {0, 0, 0.1, 0.2, 1, 1, 0.9, 1.2}> ()
        s = Constant <value = float[4] {1, 1, 1.6, 0.6}> () y = Resize
        <coordinate_transformation_mode = "tf_crop_and_resize", mode = "linear", extrapolation_value = 3.0>
        (x, r, s)""",
    ),
    "resize cubic": (
        (11, 13),
        """r = Constant <value = float[0] {}> () s = Constant <value = float[4] {1, 1, 1.6, 0.6}> ()
        y = Resize <mode = "cubic", exclude_outside = 1, cubic_coeff_a = -0.5> (x, r, s)""",
    ),
    **{
        f"{op} {axis}": ((7, 11, 12), f"y = {op} <axis = {axis}> (x)")
        for op in ("Softmax", "LogSoftmax", "Hardmax")
        for axis in (0, 1, 2, 3)
    },
    **{f"{op} default": ((7, 11, 12, 13), f"y = {op} (x)") for op in ("Softmax", "LogSoftmax", "Hardmax")},
    "Softmax -2": ((11, 12), "y = Softmax <axis = -2> (x)"),
    "clip": ((7, 10), "y = Clip <min = -0.5, max = 0.25> (x)"),
    "clip below": ((7,), "y = Clip <min = -0.5> (x)"),
    "clip open": ((7, 11), "y = Clip (x)"),
    "dropout": ((7, 10), "y = Dropout <ratio = 0.3> (x)"),
    "batchnorm": ((7, 9, 13), "y = BatchNormalization <epsilon = 0.01> (x, c, c, c, p)"),
    "batchnorm per element": ((7, 8), "y = BatchNormalization <spatial = 0, epsilon = 0.01> (x, e, e, e, q)"),
    "prelu": ((7, 8, 9), "y = PRelu (x, c3)"),
    "pad": ((7, 10), "y = Pad <pads = [0,0,1,2,0,0,0,1], value = 1.5> (x)"),
    "pad reflect": ((7, 10), 'y = Pad <mode = "reflect", pads = [0,0,1,2,0,0,0,1]> (x)'),
    "slice": ((7, 9), "y = Slice <starts = [1, -3], ends = [2, 9223372036854775807], axes = [1, 3]> (x)"),
    "slice all": ((7,), "y = Slice <starts = [0, 1], ends = [1, 3]> (x)"),
    "split": ((7, 11), "y, z = Split <axis = 3, split = [3, 1]> (x)"),
    "split equal": ((7, 13), "y, z = Split <axis = 2> (x)"),
    "squeeze": ((7, 11), "t, u, v = Split <axis = 1> (x) y = Squeeze <axes = [1]> (t)"),
    "unsqueeze": ((7, 11), "y = Unsqueeze <axes = [0, 3]> (x)"),
    "topk": ((7, 9), "y, i = TopK <axis = 2, k = 2> (x)"),
    "reduce sum": ((7, 11), "y = ReduceSum <axes = [1, 3], keepdims = 0> (x)"),
    "reduce sum all": ((7, 12), "y = ReduceSum (x)"),
    **{
        f"Reduce{kind}": ((7, 11, 13), f"a = Abs(x) y = Reduce{kind} <axes = [1, 3], keepdims = 0> (a)")
        for kind in "L1 L2 LogSum LogSumExp Max Mean Min Prod SumSquare".split()
    },
    "lppool": (
        (7, 11),
        "y = LpPool <kernel_shape = [2, 2], strides = [2, 1], pads = [1, 0, 0, 1], p = 1> (x)",
    ),
    "avgpool": (
        (7, 10, 11),
        "y = AveragePool <kernel_shape = [3, 2], strides = [2, 1], pads = [1, 0, 0, 1], count_include_pad = 1> (x)",
    ),
    "avgpool ceil": (
        (10, 11),
        "y = AveragePool <kernel_shape = [3, 3], strides = [2, 2], ceil_mode = 1> (x)",
    ),
    "avgpool same": (
        (7, 11),
        'y = AveragePool <kernel_shape = [3, 2], strides = [2, 3], auto_pad = "SAME_LOWER"> (x)',
    ),
    "maxpool": (
        (7, 8, 10),
        'y = MaxPool <kernel_shape = [3, 2], strides = [2, 3], auto_pad = "SAME_UPPER"> (x)',
    ),
    "roialign": (
        (10, 15),
        """r = Constant <value = float[2, 4] {0, 0, 3, 3, 0.5, 1, 2.5, 3.6}> ()
        b = Constant <value = int64[2] {0, 1}> ()
        y = RoiAlign <output_height = 2, output_width = 3, spatial_scale = 0.9> (x, r, b)""",
    ),
    "scatter": (
        (9, 10),
        """i = Constant <value = int64[2, 3, 1, 4] {0,1,2,3,0,1,2,3,0,1,2,3,0,1,2,3,0,1,2,3,0,1,2,3}> ()
        u, u2, u3, u4 = Split <axis = 2> (x) n = Neg(u) y = Scatter <axis = 2> (x, i, n)""",
    ),
    "gemm": ((7, 9), "f = Flatten <axis = 2> (x) y = Gemm <transB = 1> (f, f, six)"),
    "argmax": ((7, 11), "i = ArgMax <axis = 1> (x) y = Cast <to = 1> (i)"),
    "space": ((7,), "y = SpaceToDepth <blocksize = 2> (x)"),
    "depth": ((7, 11), "t = Concat <axis = 1> (x, x, x, x) y = DepthToSpace <blocksize = 2> (t)"),
    "onehot": (
        (9, 10),
        """j = Constant <value = int64[4] {0, 1, 2, 5}> () k = Constant <value = int64[4] {0, 2, 0, 0}> ()
        i = Sub(j, k) d = Constant <value = int64 {3}> ()
        v = Constant <value = float[2] {0.5, 2}> () o = OneHot (i, d, v)
        m = ReduceMax <keepdims = 0> (x) y = Mul(o, m)""",
    ),
    "where": ((9,), "k = Greater(x, c3) y = Where(k, x, c3)"),
    "pow": ((7, 12), "a = Abs(x) y = Pow(a, c3)"),
    "sum": ((7, 8), "y = Sum(x, x)"),
    "max": ((7, 8), "y = Max(x, x)"),
    "branch": (
        (11, 12),
        """r = ReduceSum <keepdims = 0> (x) k = Greater(r, zero) y = If (k)
        <then_branch = a () => (float[2,3,4,4] p1) { p1 = Softmax <axis = 1> (x) },
        else_branch = b () => (float[2,3,4,4] p1) { q1 = Hardmax <axis = 2> (x) p1 = Neg (q1) }>""",
    ),
    "Dropout mask": ((10, 11), "t, m = Dropout (x) n = Cast <to = 1> (m) y = Add(t, n)"),
    "Dropout float mask": ((7, 9), "t, m = Dropout (x) y = Add(t, m)"),
}
SHAPES: dict[str, tuple[int, ...]] = {
    "c": (3,),
    "p": (3,),
    "c3": (3, 1, 1),
    "e": (3, 4, 4),
    "q": (3, 4, 4),
    "six": (6,),
}


def model_of(text: str, opset: int) -> onnx.ModelProto:
    """The text as a graph from x to y, with the parameters that it reads; of p and q no element is below 0."""
    model = net(f"g ({X}) => (float y) {{ {text} }}", opset=opset)
    for i, (name, shape) in enumerate(SHAPES.items()):
        values = floats(*shape, seed=i + 3)
        values = np.abs(values) if name in "pq" else values
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(0, np.float32), "zero"))
    return model


@pytest.mark.parametrize(
    ("text", "opset"),
    [pytest.param(text, v, id=f"{name} {v}") for name, (many, text) in AT_OWN_OPSET.items() for v in many],
)
def test_the_lifted_graph_gives_what_onnxruntime_gives_at_the_own_opset(text: str, opset: int) -> None:
    model = model_of(text, opset)
    feeds = {"x": floats(2, 3, 4, 4)}
    want = run(model, feeds)["y"]
    got = run(lifted(model, want.ndim), feeds)["y"]
    assert want.shape == got.shape and want.dtype == got.dtype
    # Spelt out, a norm rounds once more than its kernel; everything else is the same kernel.
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-6 * np.abs(want).max())


A, C, B = floats(2, 3, 4, 4, seed=1), floats(3, seed=2), floats(3, 4, seed=3)
SPEC = {
    "Add axis": ("y = Add <broadcast = 1, axis = 1> (x, c)", A + C[:, None, None]),
    "Mul axis": ("y = Mul <broadcast = 1, axis = 1> (x, b)", A * B[..., None]),
    "Sub negative": ("y = Sub <broadcast = 1, axis = -3> (x, b)", A - B[..., None]),
    "Div suffix": ("y = Div <broadcast = 1> (x, d)", A / np.float32(2.5)),
    "Pow axis": ("k = Abs (x) y = Pow <broadcast = 1, axis = 1> (k, c)", np.abs(A) ** C[:, None, None]),
    "PRelu": ("y = PRelu (x, c)", np.where(A < 0, A * C[:, None, None], A)),
    "Clip": ("y = Clip <max = 0.5, consumed_inputs = [0]> (x)", np.minimum(A, np.float32(0.5))),
    "Relu": ("y = Relu <consumed_inputs = [0]> (x)", np.maximum(A, 0)),
    "Selu": ("y = Selu (x)", np.float32(1.0507) * np.where(A > 0, A, 1.6732 * (np.exp(A) - 1))),
    "Reshape, then an axis": (
        "r = Reshape <shape = [0, 3, -1, 4, 1]> (x) y = Add <broadcast = 1, axis = 1> (r, c)",
        A.reshape(2, 3, 4, 4, 1) + C[:, None, None, None],
    ),
    "Concat": ("y = Concat (x, x)", np.concatenate([A, A], 1)),
    "Pad": ("y = Pad <paddings = [0,0,1,0,0,0,0,2], value = 1.5> (x)",
            np.pad(A, [(0, 0), (0, 0), (1, 0), (0, 2)], constant_values=1.5)),
    "Tile": ("y = Tile (x, two, three)", np.tile(A, (1, 1, 1, 2))),
    "Cast": ('i = Cast <to = "INT32"> (x) y = Cast <to = "FLOAT"> (i)', A.astype(np.int32).astype(np.float32)),
    "GlobalLpPool": ("y = GlobalLpPool <p = 1.0> (x)", np.abs(A).sum((2, 3), keepdims=True)),
    "Dropout": ("y = Dropout <is_test = 1> (x)", A),
    "BatchNormalization": (
        "k = Abs(c) y = BatchNormalization <is_test = 1, epsilon = 0.1> (x, c, c, c, k)",
        (A - C[:, None, None]) / np.sqrt(np.abs(C) + 0.1)[:, None, None] * C[:, None, None] + C[:, None, None],
    ),
    "Upsample": (
        'y = Upsample <height_scale = 2.0, width_scale = 3.0, mode = "nearest"> (x)',
        A.repeat(2, 2).repeat(3, 3),
    ),
    "Greater": (
        """k = Greater <broadcast = 1, axis = 1> (x, c) n = Not(k) m = And(k, n) o = Or(m, k)
        y = Cast <to = "FLOAT"> (o)""",
        (A > C[:, None, None]).astype(np.float32),
    ),
    "Softmax": ("y = Softmax (x)", None),
}  # fmt: skip


@pytest.mark.parametrize("name", SPEC)
def test_the_first_versions_mean_what_the_specification_says(name: str) -> None:
    text, want = SPEC[name]
    model = net(f"g ({X}, float[3] c, float[3,4] b) => (float y) {{ {text} }}", opset=1, ir=3)
    for i, value in (("d", 2.5), ("two", 2.0), ("three", 3.0)):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value, np.float32), i))
    if want is None:
        flat = np.exp(A.reshape(2, -1).astype(np.float64))
        want = (flat / flat.sum(1, keepdims=True)).reshape(A.shape)
    got = run(lifted(model, want.ndim), {"x": A, "c": C, "b": B})["y"]
    np.testing.assert_allclose(got, want, rtol=0, atol=3e-6 * np.nanmax(np.abs(want)))


REFUSED = {
    "training": (6, "y = BatchNormalization (x, c, c, c, c)", "training mode"),
    "dropout": (6, "y = Dropout (x)", "training mode"),
    "statistics": (9, "y, m, v = BatchNormalization (x, c, c, c, c)", "statistics of the batch"),
    "p": (1, "y = LpPool <kernel_shape = [2, 2], p = 1.5> (x)", "whole number"),
    "nn": (
        11,
        """r = Constant <value = float[0] {}> () s = Constant <value = float[4] {1, 1, 2, 2}> ()
        y = Resize <coordinate_transformation_mode = "tf_half_pixel_for_nn"> (x, r, s)""",
        "no other name",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_later_version_can_say_is_refused(name: str) -> None:
    opset, text, reason = REFUSED[name]
    with pytest.raises(ModelError, match=rf"cannot be brought to opset \d+: .*{reason}.*; export the model"):
        lifted(model_of(text, opset))


def test_an_axis_without_a_known_rank_is_refused() -> None:
    model = net("g (float[2,3] x, float[3] c, int64[S] s) => (float[2,3] y) { r = Reshape(x, s) "
                "y = Add <broadcast = 1, axis = 0> (r, c) }", opset=6)  # fmt: skip
    with pytest.raises(ModelError, match="number of axes of 'r' is not known"):
        lift(draft(model))


def test_added_names_are_new() -> None:
    """The model may have any names, those of the added nodes too."""
    text = "y/Shape = Relu(x) y/Flatten = Neg(y/Shape) y = Softmax(y/Flatten)".replace("/", "_")
    model = net(f"g ({X}) => (float[2,3,4,4] y) {{ {text} }}", opset=7)
    for node in model.graph.node:
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                names[i] = name.replace("_", "/")
    made = lifted(model)
    names = [name for node in made.graph.node for name in node.output]
    assert len(names) == len(set(names))
    flat = np.exp(np.minimum(-A, 0).reshape(2, -1))
    want = (flat / flat.sum(1, keepdims=True)).reshape(A.shape)
    np.testing.assert_allclose(run(made, {"x": A})["y"], want, atol=1e-6)
    assert math.isclose(float(want.sum()), 2.0, rel_tol=1e-5)
