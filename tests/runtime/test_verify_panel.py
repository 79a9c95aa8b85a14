"""No false alarm where a check is easily wrong: untouched files pass, and changed ones fail there too."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import onnxplain
from benchmarks.awkward import awkward
from onnxplain.runtime.verify import verify
from tests.runtime.tampering import opened, over_input, spliced, times

UNTOUCHED = [
    ("log", "saliency"),
    ("log", "deeplift.rescale"),
    ("square root", "saliency"),
    ("square root", "smoothgrad"),
    ("not a number anywhere", "lrp.epsilon"),
    ("reciprocal", "integrated-gradients"),
    ("reciprocal", "linearscope.residual"),
    ("pad of one", "lrp.epsilon"),
    ("constants beside", "lrp.zero"),
    ("large numbers", "deeplift.rescale"),
    ("kinks at zero", "saliency"),
    ("steps", "linearscope.residual"),
    ("half", "lrp.epsilon"),
]
CHANGED = [
    ("log", "saliency", "gradient = difference quotient"),
    ("square root", "saliency", "gradient = difference quotient"),
    ("square root", "integrated-gradients", "Σ A = z(x) - z(baseline)"),
    ("pad of one", "saliency", "gradient = difference quotient"),
    ("kinks at the probes", "saliency", "gradient = difference quotient"),
    ("many kinks", "saliency", "gradient = difference quotient"),
    ("half", "saliency", "gradient = difference quotient"),
]


def emitted(net: str, method: str) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """The model, and its explanation."""
    options: dict[str, Any] = {"samples": 2} if method == "smoothgrad" else {}
    model = awkward(net)
    return model, onnxplain.compile(model, method, threads=1, **options).model


@pytest.mark.filterwarnings("ignore::onnxplain.ExplainWarning")
@pytest.mark.parametrize(("net", "method"), UNTOUCHED)
def test_an_untouched_file_passes(net: str, method: str) -> None:
    model, file = emitted(net, method)
    found = verify(opened(file), model=model)
    assert found.passed, [outcome for outcome in found.outcomes if outcome.failed]


@pytest.mark.filterwarnings("ignore::onnxplain.ExplainWarning")
@pytest.mark.parametrize(("net", "method", "check"), CHANGED)
def test_a_map_a_fifth_too_large_fails_there_too(net: str, method: str, check: str) -> None:
    model, file = emitted(net, method)
    changed = (
        times(file, 1.2)
        if net != "half"
        else spliced(file, "attribution", _more, fifth=np.asarray(1.2, np.float16))
    )
    found = verify(opened(changed), model=model)
    assert check in {outcome.check for outcome in found.outcomes if outcome.failed}


def _more(before: str, after: str) -> list[onnx.NodeProto]:
    return [onnx.helper.make_node("Mul", [before, "fifth"], [after])]


@pytest.mark.filterwarnings("ignore::onnxplain.ExplainWarning")
def test_a_nan_of_the_explanation_alone_is_no_excuse() -> None:
    """The model has a value and a slope at zero, the map has none: only a model that is no number is left out."""
    model, file = emitted("pad of one", "saliency")
    found = verify(opened(spliced(file, "attribution", over_input)), model=model)
    assert "no NaN or infinity" in {outcome.check for outcome in found.outcomes if outcome.failed}


def test_a_check_that_is_not_made_says_why() -> None:
    model, file = emitted("not a number anywhere", "saliency")
    found = {outcome.check: outcome for outcome in verify(opened(file), model=model).outcomes}
    skipped = found["gradient = difference quotient"]
    assert skipped.status == "not applicable" and skipped.note == "the model itself is not finite"
    assert found["forward unchanged, to the bit"].status == "passed"


@pytest.mark.parametrize("method", ["integrated-gradients", "smoothgrad"])
def test_a_loop_is_not_called_changed(method: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The verifier looks into copies of the loop; the file itself was not touched."""
    path = tmp_path / "loop.onnx"
    onnx.save(emitted("residual", method)[1], path)
    with caplog.at_level(logging.WARNING):
        assert verify(path, threads=1).passed
    assert "changed" not in caplog.text
    file = onnx.load(path)
    loop = next(node for node in file.graph.node if node.op_type == "Loop")
    next(node for node in loop.attribute[0].g.node if node.op_type == "Relu").op_type = "Abs"
    with caplog.at_level(logging.WARNING):
        verify(opened(file), threads=1)
    assert "changed after it was compiled" in caplog.text
