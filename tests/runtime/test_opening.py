"""A file is spelled for the provider that opens it, and for no other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import onnxplain
from onnxplain.models.resnet import resnet
from onnxplain.rewriter.errors import OptionError, ProviderError
from onnxplain.runtime import opening
from onnxplain.runtime.opening import open_session, table_for
from tests.rewriter.nets import floats


@pytest.fixture(scope="module")
def explainer() -> onnxplain.Explainer:
    return onnxplain.compile(resnet(18, size=32, width=0.25, fold_batch_norm=True), target="top")


@pytest.mark.parametrize(
    ("providers", "table"),
    [
        (None, "cpu"),
        ("cpu", "cpu"),
        ("CUDAExecutionProvider", "cuda"),
        (["cuda", "cpu"], "cuda"),
        ([("tensorrt", {"trt_fp16_enable": 1}), "cuda"], "tensorrt"),
        (["webgpu"], "web"),
        ("openvino", "portable"),
    ],
)
def test_the_first_provider_decides(providers: Any, table: str) -> None:
    assert table_for(providers) == table


def test_an_unknown_provider_is_named() -> None:
    with pytest.raises(OptionError, match="did you mean 'cuda'"):
        table_for("cudda")


class Asked:
    """Stands in for `create_session`: keeps what it was given, and refuses the providers named in `broken`."""

    def __init__(self, broken: Sequence[str] = ()) -> None:
        self.sources: dict[str, Any] = {}
        self.broken = broken

    def __call__(self, source: Any, providers: Any, **options: Any) -> str:
        name = providers if isinstance(providers, str) else str(providers)
        self.sources[name] = source
        if name in self.broken:
            raise ProviderError("no device")
        return name


def operators(source: Any) -> set[str]:
    return {node.op_type for node in onnx.load_model_from_string(source).graph.node}


@pytest.mark.parametrize("auto", ["auto", "AUTO", ["auto"]])
def test_auto_spells_for_each_provider_it_tries(
    explainer: onnxplain.Explainer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    auto: str | list[str],
) -> None:
    asked = Asked(broken=["cuda"])
    monkeypatch.setattr(opening, "create_session", asked)
    monkeypatch.setattr(opening, "compiled_in", lambda: ("cuda", "cpu"))
    with caplog.at_level("WARNING"):
        assert open_session(explainer.model, None, auto) == "cpu"
    assert "HardSigmoid" in operators(asked.sources["cpu"])
    assert "HardSigmoid" not in operators(asked.sources["cuda"])
    assert "cuda is compiled in but does not work here: no device" in caplog.text


def test_auto_does_not_hide_the_last_failure(
    explainer: onnxplain.Explainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "create_session", Asked(broken=["cuda", "cpu"]))
    monkeypatch.setattr(opening, "compiled_in", lambda: ("cuda", "cpu"))
    with pytest.raises(ProviderError, match="no device"):
        open_session(explainer.model, None, "auto")


def test_a_file_that_needs_no_change_is_opened_where_it_lies(
    explainer: onnxplain.Explainer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = Asked()
    monkeypatch.setattr(opening, "create_session", asked)
    file = explainer.save(tmp_path / "file.onnx")
    open_session(explainer.model, file, "openvino")
    assert asked.sources["openvino"] == file
    open_session(explainer.model, file, "cpu")
    assert isinstance(asked.sources["cpu"], bytes)


def test_the_saved_file_stays_portable(explainer: onnxplain.Explainer, tmp_path: Path) -> None:
    assert explainer.session is not None
    kept = onnx.load(explainer.save(tmp_path / "file.onnx"))
    assert "HardSigmoid" not in {node.op_type for node in kept.graph.node}


@pytest.mark.parametrize("lowering", ["portable", "cpu", "cuda", "tensorrt", "web"])
def test_every_lowering_gives_the_same_map(explainer: onnxplain.Explainer, lowering: str) -> None:
    model = resnet(18, size=32, width=0.25, fold_batch_norm=True)
    other = onnxplain.compile(model, target="top", lowering=lowering)
    x = floats(2, 3, 32, 32)
    want, got = explainer(x).attribution, other(x).attribution
    assert np.linalg.norm(want - got) <= 1e-5 * np.linalg.norm(want)
