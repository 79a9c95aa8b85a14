"""Every check notices a file that was changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from onnxplain.rewriter.graph import LOOP
from onnxplain.runtime.verify import Outcome, verify
from onnxplain.runtime.verify.general import GENERAL
from onnxplain.runtime.verify.table import CHECKS
from tests.runtime.tampering import (
    Nodes,
    alone,
    bent,
    by,
    compiled,
    net,
    opened,
    over_input,
    spliced,
    spread,
    times,
)
from tests.runtime.test_verify_scope import CASES as SCOPE

Change = Callable[[onnx.ModelProto], onnx.ModelProto]
ORIGINAL: dict[str, Any] = {"model": net("cnn_bias")}


def with_target(op: str) -> Nodes:
    def nodes(before: str, after: str) -> list[onnx.NodeProto]:
        return [
            helper.make_node("Cast", ["target"], ["class"], to=onnx.TensorProto.FLOAT),
            helper.make_node("Mul", ["class", "factor"], ["step"]),
            helper.make_node("ReduceSum", ["step"], ["all"], keepdims=0),
            helper.make_node(op, [before, "all"], [after]),
        ]

    return nodes


def jittered(before: str, after: str) -> list[onnx.NodeProto]:
    return [
        helper.make_node("RandomNormalLike", [before], ["jitter"], scale=1e-3),
        helper.make_node("Add", [before, "jitter"], [after]),
    ]


def first_copy(before: str, after: str) -> list[onnx.NodeProto]:
    """The first noisy copy counts more."""
    return [
        helper.make_node("Gather", ["noise", "axes"], ["one"], axis=0),
        helper.make_node("Add", [before, "one"], [after]),
    ]


def at_attribution(nodes: Nodes, **constants: np.ndarray) -> Change:
    return lambda model: spliced(model, "attribution", nodes, **constants)


def bottom_class(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    node = next(node for node in copy.graph.node if node.op_type == "ArgMax")
    node.op_type = "ArgMin"
    return copy


def contributed(model: onnx.ModelProto) -> onnx.ModelProto:
    changed = spliced(model, "attribution", alone("Gelu", "com.microsoft"))
    changed.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return changed


def unnamed(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.name = ""
    return copy


def misdeclared(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    value = next(value for value in copy.graph.output if value.name == "attribution")
    value.type.tensor_type.shape.dim[0].dim_param = "rows"
    value.type.tensor_type.shape.dim[1].dim_value = 7
    return copy


def other_weight(model: onnx.ModelProto) -> onnx.ModelProto:
    """The backward pass of a convolution with weights of its own, a little different."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    node = next(n for n in copy.graph.node if n.op_type == "ConvTranspose" and n.name.startswith("bwd/"))
    weight = next(t for t in copy.graph.initializer if t.name == node.input[1])
    array = numpy_helper.to_array(weight).copy()
    array *= np.linspace(0.5, 2.0, array.size, dtype=np.float32).reshape(array.shape)
    copy.graph.initializer.append(numpy_helper.from_array(array, "tampered"))
    node.input[1] = "tampered"
    return copy


def scaled(factor: float) -> Change:
    return lambda model: times(model, factor)


AXES = np.asarray([0], np.int64)
RAMP = np.asarray([1.0, 2.0], np.float32).reshape(1, 2, 1, 1)
HALF = np.asarray([1.0, 0.0], np.float32).reshape(1, 2, 1, 1)
BIT, STEP = 1.0 + 2.0**-22, np.asarray(0.01, np.float32)
OUTPUT = "t07_Gemm"

CASES: list[tuple[str, str, dict[str, Any], Change, dict[str, Any]]] = [
    ("forward unchanged, to the bit", "saliency", {}, lambda m: times(m, BIT, OUTPUT), ORIGINAL),
    ("forward unchanged, optimised", "saliency", {}, lambda m: times(m, 1.0001, OUTPUT), ORIGINAL),
    ("forward unchanged, to the bit", "vargrad", {}, lambda m: times(m, BIT, OUTPUT), ORIGINAL),
    (
        "forward unchanged, to the bit",
        "saliency",
        {"target": "input"},
        lambda m: spliced(m, OUTPUT, with_target("Add"), factor=STEP),
        {},
    ),
    ("batch independence", "saliency", {}, at_attribution(spread, axes=AXES), {}),
    (
        "batch independence",
        "saliency",
        {"shapes": {"x": [3, 2, 8, 8]}},
        at_attribution(by("Mul", "rows"), rows=np.arange(1, 4, dtype=np.float32).reshape(3, 1, 1, 1)),
        {},
    ),
    ("no NaN or infinity", "saliency", {}, at_attribution(over_input), {}),
    ("class -1 is the top class", "saliency", {}, bottom_class, {}),
    ("standard operators only", "saliency", {}, contributed, {}),
    ("onnx.checker", "saliency", {}, unnamed, {}),
    ("declared shapes", "saliency", {}, misdeclared, {}),
    ("gradient = difference quotient", "saliency", {}, scaled(1.2), {}),
    ("gradient = difference quotient", "saliency", {}, scaled(0.0), {}),
    ("gradient = difference quotient", "saliency", {}, other_weight, {}),
    ("gradient = difference quotient", "saliency", {}, at_attribution(by("Mul", "half"), half=HALF), {}),
    ("input × gradient = difference quotient", "input-x-gradient", {}, scaled(0.8), {}),
    ("input × gradient = difference quotient", "input-x-gradient", {}, other_weight, {}),
    ("linear in the cotangent", "saliency", {"target": "cotangent"}, at_attribution(bent), {}),
    ("linear in the cotangent", "lrp.epsilon", {"target": "cotangent"}, at_attribution(bent), {}),
    ("A(2 c) = 2 A(c)", "guided-backprop", {"target": "cotangent"}, at_attribution(bent), {}),
    ("A(2 c) = 2 A(c)", "deconvnet", {"target": "cotangent"}, at_attribution(bent), {}),
    ("Σ A = z(x) - z(baseline)", "integrated-gradients", {}, scaled(1.05), {}),
    ("without noise, the gradient", "smoothgrad", {}, scaled(1.2), {}),
    ("noisy copies in any order", "smoothgrad", {}, at_attribution(first_copy, axes=AXES), {}),
    ("the same noise, the same map", "vargrad", {}, at_attribution(jittered), {}),
    ("not negative", "vargrad", {}, at_attribution(alone("Neg")), {}),
    ("not negative", "smoothgrad-squared", {}, at_attribution(alone("Neg")), {}),
    ("not negative", "grad-cam", {}, at_attribution(alone("Neg")), {}),
    ("not negative", "fem", {}, at_attribution(alone("Neg")), {}),
    ("the same in every channel", "cam", {}, at_attribution(by("Mul", "ramp"), ramp=RAMP), {}),
    ("the same in every channel", "grad-cam", {}, at_attribution(by("Mul", "ramp"), ramp=RAMP), {}),
    ("the same for every class", "fem", {}, at_attribution(with_target("Add"), factor=STEP), {}),
    ("Σ R = z_c", "lrp.epsilon", {}, scaled(1.01), {}),
    ("R >= 0", "deep-taylor", {}, at_attribution(alone("Neg")), {}),
    ("Σ R <= max(z_c, 0)", "deep-taylor", {}, scaled(1.01), {}),
    ("Σ A = z(x) - z(reference)", "deeplift.rescale", {}, scaled(1.01), {}),
    ("Σ A = z(x) - z(reference)", "deeplift.rescale", {"baseline": "input"}, scaled(1.01), {}),
]
NETS = {"cam": "resnet", "lrp.epsilon": "cnn_nobias"}


def failed(outcomes: tuple[Outcome, ...]) -> set[str]:
    return {outcome.check for outcome in outcomes if outcome.failed}


@pytest.mark.parametrize(
    ("name", "method", "options", "change", "more"),
    CASES,
    ids=[f"{method}: {name}" for name, method, *_ in CASES],
)
def test_a_changed_file_fails(
    name: str, method: str, options: dict[str, Any], change: Change, more: dict[str, Any]
) -> None:
    model = compiled(NETS.get(method, "cnn_bias"), method, **options)
    assert name not in failed(verify(opened(model), **more).outcomes)
    found = verify(opened(change(model)), **more)
    assert name in failed(found.outcomes) and not found.passed


def test_every_check_is_shown_to_fail() -> None:
    titles = {check.title for checks in (GENERAL, *CHECKS.values()) for check in checks}
    nodes = {title for title in titles if title.startswith("per node")}  # test_verify_nodes.py
    titles.remove("the maps say something")  # it promises no bound: test_telling.py
    assert titles - nodes == {name for name, *_ in (*CASES, *SCOPE)} and len(nodes) == 3


def test_a_loop_that_hands_on_another_output() -> None:
    """Trip 0 is right, a later one is not: only the whole loop shows it."""
    model = compiled("cnn_bias", "vargrad")
    loop = next(node for node in model.graph.node if node.name == LOOP)
    body = loop.attribute[0].g
    node = next(n for n in body.node if n.op_type == "If" and n.output[0] == f"lane/out/{OUTPUT}/after")
    branch = next(a.g for a in node.attribute if a.name == "else_branch")
    branch.node[0].op_type = "Neg"
    assert failed(verify(opened(model), **ORIGINAL).outcomes) >= {"forward unchanged, optimised"}


def test_a_file_that_does_not_run_fails() -> None:
    """onnxruntime's error is a failed check, not a crash."""
    model = compiled("cnn_bias", "saliency")
    broken = spliced(model, "attribution", by("Reshape", "to"), to=np.asarray([7, 11], np.int64))
    found = verify(opened(broken))
    assert "batch independence" in failed(found.outcomes)
    assert any("onnxruntime failed" in outcome.note for outcome in found.outcomes)
