"""Every node test that onnx ships: its VJP is the derivative of the forward pass, or it is known why not."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from onnxplain.rewriter.linear import Local, Scale
from onnxplain.rules.gradient import GRADIENT
from tests.rules import coverage
from tests.rules.node_cases import LIMITS, REQUIRED, Case, Outcome, Status, load_cases, verdict

REFUSED = {
    "BatchNormalization": "training mode",
    "Concat": "along the batch axis",
    "Dropout": "training mode",
    "Einsum": "an ellipsis or a diagonal|scalar input|scalar output",
    "GatherElements": "across the samples",
    "LogSoftmax": "compares samples of the batch",
    "MatMul": "scalar output",
    "MeanVarianceNormalization": "across the samples",
    "ReduceMax": "compares samples of the batch|an empty axis",
    "ReduceMin": "compares samples of the batch|an empty axis",
    "Reshape": "an empty tensor",
    "Softmax": "compares samples of the batch",
    "Tile": "repeats the batch",
}
"""The only reasons for which an operator with a rule may be refused; more of them fail the test."""

UNCOVERED = {"Tile"}
"""Required operators whose node tests all repeat the batch; tested in test_operators."""


@pytest.fixture(scope="session")
def outcomes() -> list[Outcome]:
    return [verdict(case) for case in load_cases()]


@pytest.mark.slow
def test_no_case_is_wrong(outcomes: list[Outcome]) -> None:
    wrong = [f"{outcome.case}: {outcome.detail}" for outcome in outcomes if outcome.status is Status.WRONG]
    assert not wrong, "\n".join(wrong)


@pytest.mark.slow
def test_every_case_is_accounted_for(outcomes: list[Outcome]) -> None:
    counts = Counter(outcome.status for outcome in outcomes)
    assert sum(counts.values()) == len(outcomes) >= 1000
    assert counts[Status.AGREES] >= 0.35 * len(outcomes)
    limits = {outcome.case for outcome in outcomes if outcome.status is Status.LIMIT}
    assert limits <= set(LIMITS)


@pytest.mark.slow
def test_required_operators_agree(outcomes: list[Outcome]) -> None:
    agreeing = {outcome.op for outcome in outcomes if outcome.status is Status.AGREES}
    assert REQUIRED - agreeing <= UNCOVERED


@pytest.mark.slow
def test_refusals_are_the_known_ones(outcomes: list[Outcome]) -> None:
    for outcome in outcomes:
        if outcome.status is Status.REFUSED:
            allowed = REFUSED.get(outcome.op, "").split("|")
            assert any(reason and reason in outcome.detail for reason in allowed), outcome


@pytest.mark.slow
def test_the_page_is_current(outcomes: list[Outcome]) -> None:
    written = coverage.FILE.read_text(encoding="utf-8")
    if coverage.versions() not in written:
        pytest.skip("docs/coverage.md was written with other versions of onnx and onnxruntime")
    assert written == coverage.table(outcomes), "run: python tests/rules/coverage.py"


def test_a_wrong_rule_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The verdict is worth something: a derivative that is 1 % off does not pass."""
    node = helper.make_node("Tanh", ["x"], ["y"])
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [3, 4]) for name in "xy")
    graph = helper.make_graph([node], "g", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    case = Case("test_tanh_again", model, (np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4),), ())
    onnx.checker.check_model(model)
    assert verdict(case).status is Status.AGREES
    monkeypatch.setitem(
        GRADIENT._pairs, "Tanh", lambda site, g: Local(Scale(g.Mul(g.Sub(1.01, g.Mul(site.y, site.y)), 1.0)))
    )
    assert verdict(case).status is Status.WRONG
