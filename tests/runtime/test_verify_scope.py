"""Files of LinearScope: as compiled they pass, and every check notices a changed one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import onnxplain
from onnxplain.runtime.explainer import Explainer
from onnxplain.runtime.verify import Outcome, Status, verify
from onnxplain.runtime.verify.slots import slots_of
from tests.runtime.cli.conftest import Cli
from tests.runtime.small import product
from tests.runtime.tampering import bent, by, compiled, net, opened, over_input, spliced, spread, times

PLAIN = "cnn_bias"
OUTPUT = "t07_Gemm"


def failures(outcomes: Sequence[Outcome]) -> list[str]:
    return [f"{o.check}: {o.measured} > {o.bound} ({o.note})" for o in outcomes if o.failed]


def named(outcomes: Sequence[Outcome], check: str) -> Outcome:
    return next(outcome for outcome in outcomes if outcome.check == check)


FILES: list[tuple[str, str, dict[str, Any]]] = [
    ("i2i", "rows", {"target": "cotangent"}),
    ("attention", "rows", {"target": "cotangent", "probes": 3}),
    ("cnn_odd", "rows", {"target": [0, 2]}),
    ("i2i", "columns", {"norm": "std"}),
    ("smooth_acts", "columns", {"freeze": "mask", "probes": 3}),
    ("sr", "columns", {"shapes": {"x": [2, 1, 5, 5]}}),
    ("attention", "residual", {"freeze": "taylor"}),
    ("attention", "contributions", {}),
    ("resnet", "contributions", {"target": [0, 1]}),
    ("concat", "contributions", {"target": "cotangent"}),
    (PLAIN, "dual", {}),
    (PLAIN, "pixel-discussion", {}),
    (PLAIN, "votes", {}),
    (PLAIN, "svd", {}),
]


@pytest.mark.parametrize(("name", "what", "options"), FILES)
def test_files_as_they_are_compiled(name: str, what: str, options: dict[str, Any]) -> None:
    explainer = onnxplain.compile(net(name), f"linearscope.{what}", threads=1, **options)
    found = verify(explainer, model=net(name), threads=1)
    assert failures(found.outcomes) == [] and found.passed
    assert found.count(Status.PASSED) >= 6
    for check in ("F x + r = z", "Σ contributions = z_c", "y([x; x]) = [y; y]"):
        for outcome in found.outcomes:
            assert outcome.check != check or outcome.status is Status.PASSED


def test_without_the_model_what_can_be_checked() -> None:
    columns = verify(opened(compiled(PLAIN, "linearscope.columns")))
    assert failures(columns.outcomes) == []
    assert "needs the original" in named(columns.outcomes, "F x + r = z").note
    for check in ("batch independence", "linear in the tangent", "F 0 = 0", "declared shapes"):
        assert named(columns.outcomes, check).status is Status.PASSED
    assert "not an input of this file" in named(columns.outcomes, "class -1 is the top class").note
    probes = verify(opened(compiled(PLAIN, "linearscope.columns", probes=2)))
    assert "2 probes" in named(probes.outcomes, "batch independence").note
    contributions = verify(opened(compiled(PLAIN, "linearscope.contributions")))
    for check in ("class -1 is the top class", "Σ contributions = z_c"):
        assert named(contributions.outcomes, check).status is Status.PASSED
    dual = verify(opened(compiled(PLAIN, "linearscope.dual")))
    assert failures(dual.outcomes) == []
    assert "nodes of the model are replaced" in named(dual.outcomes, "forward unchanged, to the bit").note


@pytest.mark.parametrize("inputs", [("a", "b"), ("b",)])
@pytest.mark.parametrize("what", ["rows", "columns", "residual", "contributions"])
def test_several_inputs(what: str, inputs: tuple[str, ...]) -> None:
    """Those that are explained are told by the names of attributions, or by the card."""
    if what == "rows" and len(inputs) == 1:
        return  # `attribution` fits both inputs, and is taken for the first one's, as with every method
    options: dict[str, Any] = {"target": "cotangent"} if what == "rows" else {}
    explainer = onnxplain.compile(product(), f"linearscope.{what}", inputs=inputs, **options)
    assert tuple(slot.name for slot in slots_of(explainer) if slot.explained) == inputs
    if what != "rows":
        assert explainer.card.options["explained"] == list(inputs)
    assert failures(verify(explainer, model=product(), threads=1).outcomes) == []


def at(tensor: str, nodes: Any, **constants: np.ndarray) -> Any:
    return lambda model: spliced(model, tensor, nodes, **constants)


def one_term_less(model: onnx.ModelProto) -> onnx.ModelProto:
    kept = np.asarray([[1.0, 1.0, 1.0, 0.0]], np.float32)
    return spliced(model, "contributions", by("Mul", "kept"), kept=kept)


def bottom_class(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    next(node for node in copy.graph.node if node.op_type == "ArgMax").op_type = "ArgMin"
    return copy


def misdeclared(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.output[-1].type.tensor_type.shape.dim[1].dim_value = 7
    return copy


AXES = np.asarray([0], np.int64)
SECOND = np.asarray([[1.0], [1.01]], np.float32)
LITTLE = np.asarray(1e-3, np.float32)
COTANGENT = {"target": "cotangent"}
ORIGINAL: dict[str, Any] = {"model": net(PLAIN)}

CASES: list[tuple[str, str, dict[str, Any], Any, dict[str, Any]]] = [
    ("F x + r = z", "rows", COTANGENT, lambda m: times(m, 1.01), ORIGINAL),
    ("F x + r = z", "rows", {}, lambda m: times(m, 1.01), ORIGINAL),
    ("F x + r = z", "columns", {}, lambda m: times(m, 1.01, "response"), ORIGINAL),
    ("F x + r = z", "residual", {}, lambda m: times(m, 1.01, "residual"), ORIGINAL),
    ("linear in the cotangent", "rows", COTANGENT, at("attribution", bent), {}),
    ("linear in the tangent", "columns", {}, at("response", bent), {}),
    ("F 0 = 0", "columns", {}, at("response", by("Add", "little"), little=LITTLE), {}),
    ("Σ contributions = z_c", "contributions", {}, lambda m: times(m, 1.01, "contributions"), {}),
    ("Σ contributions = z_c", "contributions", COTANGENT, one_term_less, {}),
    ("y([x; x]) = [y; y]", "dual", {}, at(OUTPUT, by("Mul", "second"), second=SECOND), {}),
    ("affine in x1", "dual", {}, at(OUTPUT, bent), {}),
    # General ones, of results that are no attributions
    ("forward unchanged, optimised", "dual", {}, lambda m: times(m, 1.0001, OUTPUT), ORIGINAL),
    ("forward unchanged, to the bit", "residual", {}, lambda m: times(m, 1.0001, OUTPUT), ORIGINAL),
    ("batch independence", "residual", {}, at("residual", spread, axes=AXES), {}),
    ("batch independence", "columns", {}, at("response", spread, axes=AXES), {}),
    ("no NaN or infinity", "columns", {}, at("response", over_input), {}),
    ("class -1 is the top class", "contributions", {}, bottom_class, {}),
    ("declared shapes", "columns", {}, misdeclared, {}),
]


@pytest.mark.parametrize(
    ("check", "what", "options", "change", "more"), CASES, ids=[f"{c[1]}: {c[0]}" for c in CASES]
)
def test_a_changed_file_fails(
    check: str, what: str, options: dict[str, Any], change: Any, more: dict[str, Any]
) -> None:
    model = compiled(PLAIN, f"linearscope.{what}", **options)
    before = verify(opened(model), threads=1, **more)
    assert failures(before.outcomes) == []
    found = verify(opened(change(model)), threads=1, **more)
    assert check in {outcome.check for outcome in found.outcomes if outcome.failed} and not found.passed


@pytest.fixture
def cli(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    monkeypatch.chdir(tmp_path)
    return Cli(tmp_path, capsys)


@pytest.mark.parametrize("what", ["rows", "columns", "residual", "contributions"])
def test_the_command(cli: Cli, what: str) -> None:
    file = onnxplain.compile(net(PLAIN), f"linearscope.{what}").save(cli.folder / "a.onnx")
    ran = cli.works("verify", file, "--model", net(PLAIN))
    assert f"linearscope.{what}" in ran.out and "certificate stored" in ran.out and "failed" not in ran.out
    changed = {"rows": "attribution", "columns": "response"}.get(what, what)
    Explainer(times(onnx.load(file), 1.01, changed), onnxplain.load(file).card).save(file)
    assert cli("verify", file, "--model", net(PLAIN)).code == 1
