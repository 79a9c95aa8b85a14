"""What is served, under which names, and what an operator may set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from onnxplain import ModelError, OptionError
from onnxplain.runtime.serve import Settings, open_models, parse_seconds
from onnxplain.runtime.serve.served import find_files
from onnxplain.runtime.serve.settings import read_keys
from tests.runtime.small import picture, product


def test_names(tmp_path: Path) -> None:
    (tmp_path / "flat").mkdir()
    (tmp_path / "repository" / "deep" / "1").mkdir(parents=True)
    for path in (tmp_path / "flat" / "a.b.onnx", tmp_path / "repository" / "deep" / "1" / "model.onnx"):
        onnx.save(picture(), path)
    (tmp_path / "flat" / "notes.txt").write_text("no model")
    found = find_files([tmp_path / "flat", tmp_path / "repository"])
    assert list(found) == ["a.b", "deep"]
    with pytest.raises(OptionError, match=r"two models are called 'a\.b'"):
        find_files([tmp_path / "flat", tmp_path / "flat" / "a.b.onnx"])


@pytest.mark.parametrize("name", ["with space.onnx", "ä.onnx", ".hidden.onnx", "a%2F.onnx", "-x.onnx"])
def test_names_that_have_no_place_in_an_address(tmp_path: Path, name: str) -> None:
    onnx.save(picture(), tmp_path / name)
    with pytest.raises(OptionError, match="rename it"):
        find_files([tmp_path / name])


def test_nothing_to_serve(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="holds no"):
        find_files([tmp_path])
    with pytest.raises(OptionError, match="nothing to serve"):
        find_files([])
    with pytest.raises(ModelError, match="no model file"):
        open_models([tmp_path / "missing.onnx"], Settings())
    (tmp_path / "broken.onnx").write_bytes(b"\xff" * 100)
    with pytest.raises(ModelError, match=r"broken\.onnx"):
        open_models([tmp_path], Settings())


def test_a_type_that_the_protocol_cannot_carry(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.BFLOAT16, ["N"])],
        [helper.make_tensor_value_info("y", TensorProto.BFLOAT16, ["N"])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, tmp_path / "half.onnx")
    with pytest.raises(ModelError, match="half"):
        open_models([tmp_path], Settings())


def test_the_outputs_of_several_explained_inputs_keep_their_names(tmp_path: Path) -> None:
    """A model's own output may be called heatmap, too."""
    import onnxplain

    onnx.save(product(), tmp_path / "plain.onnx")
    explainer = onnxplain.compile(product(), "saliency", inputs=["a", "b"], target="top")
    explainer.save(tmp_path / "both.onnx")
    served = open_models([tmp_path / "both.onnx"], Settings())["both"]
    a, b = (np.random.default_rng(i).random((2, 2, 3, 4), np.float32) for i in (1, 2))
    found = served.run({"a": a, "b": b})
    expected = explainer({"a": a, "b": b})
    assert sorted(found) == sorted(served.outputs)
    for name in ("a", "b"):
        assert np.array_equal(found[f"attribution/{name}"], expected.attributions[name])
    assert np.array_equal(found["heatmap"], a + b)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30s", 30.0), ("2ms", 0.002), ("500us", 0.0005), ("1m", 60.0), ("0.5", 0.5), (" 3 S ", 3.0)],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_seconds(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "s", "-1s", "1h", "1 2s", "nan", "inf"])
def test_no_durations(text: str) -> None:
    with pytest.raises(OptionError):
        parse_seconds(text)


@pytest.mark.parametrize(
    "wrong",
    [
        {"workers": 0},
        {"queue": -1},
        {"max_body": 0},
        {"max_batch": 0},
        {"deadline": 0.0},
        {"batching": 2.0},
        {"port": 70000},
        {"log": "xml"},
        {"keys": ("short",)},
        {"keys": ("with\nbreak-in-it",)},
    ],
)
def test_settings_out_of_range(wrong: dict[str, object]) -> None:
    with pytest.raises(OptionError):
        Settings(**wrong)  # type: ignore[arg-type]


def test_keys_are_not_printed() -> None:
    assert "battery" not in repr(Settings(keys=("battery-staple",)))


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("example", False),
    ],
)
def test_loopback(host: str, loopback: bool) -> None:
    assert Settings(host=host).loopback is loopback


def test_where_keys_come_from(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("first-key\n\n  second-key  \n")
    assert read_keys(file, {"ONNXPLAIN_API_KEY": "other-key"}) == ("first-key", "second-key")
    assert read_keys(None, {"ONNXPLAIN_API_KEY": "other-key"}) == ("other-key",)
    assert read_keys(None, {}) == ()
    file.write_text("\n")
    for wrong in (file, tmp_path / "missing", tmp_path):
        with pytest.raises(OptionError):
            read_keys(wrong, {})
    with pytest.raises(OptionError, match="empty"):
        read_keys(None, {"ONNXPLAIN_API_KEY": " "})
