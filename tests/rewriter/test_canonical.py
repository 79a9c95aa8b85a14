"""Windows written out, and Identity and Dropout removed: the function stays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxplain.rewriter.compile import compile_model
from onnxplain.rewriter.draft import Draft, draft
from onnxplain.rewriter.errors import ModelError, UnsupportedError
from onnxplain.rewriter.passes.canonical import drop_identities, explicit_windows
from onnxplain.rewriter.passes.shapes import infer
from onnxplain.rules.registry import find

from .nets import drafted, explained, floats, net, ops, sealed, unchanged

WINDOWS = {
    f"{op} {mode} {text}": (op, mode, attributes)
    for op in ("Conv", "MaxPool", "AveragePool", "LpPool")
    for mode in ("SAME_UPPER", "SAME_LOWER", "VALID", "NOTSET")
    for text, attributes in (
        ("3 stride 2", {"kernel_shape": [3, 3], "strides": [2, 2]}),
        ("2x5 stride 3x1", {"kernel_shape": [2, 5], "strides": [3, 1]}),
        ("1 stride 3", {"kernel_shape": [1, 1], "strides": [3, 3]}),
        ("3 dilated", {"kernel_shape": [3, 2], "dilations": [2, 3]}),
        ("4", {"kernel_shape": [4, 4]}),
    )
    if "dilations" not in attributes or not mode.startswith("SAME")
    if "dilations" not in attributes or op in ("Conv", "MaxPool")
    if not (text == "1 stride 3" and op != "Conv" and mode.startswith("SAME"))
}
"""Without what onnxruntime cannot run: dilations under SAME, and pools whose kernel is below the stride under SAME.
AveragePool and LpPool have no dilations at this opset."""


def window_model(
    op: str, attributes: Mapping[str, Any], size: int | str = 7, width: int | str = 8
) -> onnx.ModelProto:
    """One window node over (N, 2, size, width). Conv and ConvTranspose take w (2, 2, kernel)."""
    weighted = op in ("Conv", "ConvTranspose")
    node = helper.make_node(op, ["x", "w"] if weighted else ["x"], ["y"], **attributes)
    kernel = attributes.get("kernel_shape", [3, 3])
    assert isinstance(kernel, list)
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 2, size, width])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 2, "h", "w_"])],
        [numpy_helper.from_array(floats(2, 2, *kernel, seed=1), "w")] if weighted else [],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def explicit(work: Draft) -> dict[str, object]:
    explicit_windows(work, infer(work))
    return {a.name: helper.get_attribute_value(a) for a in work.graph.node[0].attribute}


@pytest.mark.parametrize("case", WINDOWS)
def test_windows_written_out_compute_the_same(case: str) -> None:
    op, mode, attributes = WINDOWS[case]
    model = window_model(op, {**attributes, "auto_pad": mode})
    work = draft(model)
    found = explicit(work)
    assert "auto_pad" not in found
    assert {"kernel_shape", "strides", "pads"} <= set(found)
    unchanged(work, model, {"x": floats(2, 2, 7, 8)})


@pytest.mark.parametrize("mode", ["SAME_UPPER", "SAME_LOWER"])
def test_average_pools_that_count_their_padding(mode: str) -> None:
    model = window_model(
        "AveragePool", {"kernel_shape": [3, 2], "strides": [2, 2], "auto_pad": mode, "count_include_pad": 1}
    )
    work = draft(model)
    explicit(work)
    unchanged(work, model, {"x": floats(2, 2, 7, 8)})


TRANSPOSED: dict[str, dict[str, Any]] = {
    "valid": {"auto_pad": "VALID", "strides": [2, 2]},
    "same upper": {"auto_pad": "SAME_UPPER", "strides": [2, 3]},
    "same lower": {"auto_pad": "SAME_LOWER", "strides": [2, 3]},
    "same upper dilated": {"auto_pad": "SAME_UPPER", "strides": [2, 2], "dilations": [2, 1]},
    "output_shape": {"output_shape": [14, 17], "strides": [2, 2]},
    "output_shape odd": {"output_shape": [14, 16], "strides": [2, 2]},
    "output_shape upper": {"output_shape": [14, 16], "strides": [2, 2], "auto_pad": "SAME_UPPER"},
    "output_shape lower": {"output_shape": [14, 16], "strides": [2, 2], "auto_pad": "SAME_LOWER"},
    "output_shape dilated": {"output_shape": [16, 17], "strides": [2, 2], "dilations": [2, 2]},
    "output_padding": {"output_padding": [1, 0], "strides": [2, 2], "pads": [1, 0, 0, 1]},
}


@pytest.mark.parametrize("case", TRANSPOSED)
def test_transposed_windows_written_out_compute_the_same(case: str) -> None:
    model = window_model("ConvTranspose", {"kernel_shape": [3, 3], **TRANSPOSED[case]})
    work = draft(model)
    found = explicit(work)
    assert not {"auto_pad", "output_shape"} & set(found)
    unchanged(work, model, {"x": floats(2, 2, 7, 8)})


def test_a_transposed_window_below_its_stride_stays_as_it_is() -> None:
    """Under SAME the specification asks for in * stride; onnxruntime gives less. Either reading would change the
    function for somebody."""
    model = window_model(
        "ConvTranspose", {"kernel_shape": [1, 1], "strides": [2, 2], "auto_pad": "SAME_UPPER"}
    )
    work = draft(model)
    assert explicit(work)["auto_pad"] == b"SAME_UPPER"
    unchanged(work, model, {"x": floats(2, 2, 7, 8)})
    with pytest.raises(UnsupportedError, match="padding"):
        compile_model(model, find("saliency"))


@pytest.mark.parametrize("mode", ["SAME_UPPER", "SAME_LOWER"])
def test_windows_over_dynamic_sizes(mode: str) -> None:
    """With stride 1 the padding does not depend on the size; with stride 2 it does, and auto_pad stays."""
    for stride, known in ((1, True), (2, False)):
        model = window_model(
            "Conv", {"kernel_shape": [3, 2], "strides": [stride] * 2, "auto_pad": mode}, "H", "W"
        )
        work = draft(model)
        assert ("auto_pad" not in explicit(work)) == known
        unchanged(work, model, {"x": floats(1, 2, 7, 8)})


def test_the_kernel_of_a_conv_comes_from_its_weight() -> None:
    model = window_model("Conv", {"strides": [2, 1]})
    work = draft(model)
    found = explicit(work)
    assert found["kernel_shape"] == [3, 3]
    assert (found["dilations"], found["group"], found["pads"]) == ([1, 1], 1, [0, 0, 0, 0])


@pytest.mark.parametrize(
    "wrong",
    [
        {"strides": [0, 1]},
        {"strides": [2]},
        {"dilations": [1, -1]},
        {"group": 0},
        {"group": 2**62},
        {"pads": [1, 1]},
    ],
)
def test_windows_that_are_none(wrong: dict[str, Any]) -> None:
    work = draft(window_model("Conv", {"kernel_shape": [3, 3], **wrong}, "H", "W"))
    with pytest.raises(ModelError, match="do not describe a window"):
        explicit_windows(work, infer(work))


# Identity and Dropout


def test_identities_go_and_their_readers_move() -> None:
    model = net(
        """g (float[N,3] x, bool c) => (float[N,3] y) <float r = {0.5}, bool t = {0}> {
          a = Identity(x) b = Identity(a) d = Dropout(b, r) e = Dropout(d, r, t)
          y = If (c) <then_branch = p () => (float[N,3] q) { q = Neg(e) },
                      else_branch = s () => (float[N,3] b2) { b2 = Identity(b) }> }"""
    )
    work = draft(model)
    drop_identities(work)
    assert ops(work) == ["If"]
    for c in (True, False):
        unchanged(work, model, {"x": floats(2, 3), "c": np.asarray(c)})


def test_identities_that_name_an_output_stay() -> None:
    model = net(
        "g (float[N,3] x) => (float[N,3] y, float[N,3] z) { a = Relu(x) y = Identity(a) b = Identity(y) z = Neg(b) }"
    )
    work = draft(model)
    drop_identities(work)
    assert ops(work) == ["Relu", "Identity", "Neg"]
    unchanged(work, model, {"x": floats(2, 3)})


def test_an_output_that_is_an_input() -> None:
    model = net("g (float[N,3] x) => (float[N,3] y) { y = Identity(x) }")
    got = explained(model, {"x": floats(2, 3)})
    assert np.array_equal(got["attribution"].sum(1), [1, 1])


@pytest.mark.parametrize(
    "body",
    [
        "<float r = {0.5}, bool t = {1}> { a = Relu(x) b = Dropout(a, r, t) y = Neg(b) }",
        "<float r = {0.5}> { a = Relu(x) b, m = Dropout(a, r) n = Cast <to = 1> (m) y = Add(b, n) }",
    ],
)
def test_dropout_that_drops_or_is_asked_for_its_mask_stays(body: str) -> None:
    work = drafted("g (float[N,3] x) => (float[N,3] y) " + body)
    drop_identities(work)
    assert "Dropout" in ops(work)
    sealed(work)


def test_dropout_switched_at_run_time_stays() -> None:
    work = drafted(
        "g (float[N,3] x, bool t) => (float[N,3] y) <float r = {0.5}> { a = Dropout(x, r, t) y = Neg(a) }"
    )
    drop_identities(work)
    assert ops(work) == ["Dropout", "Neg"]
