"""A Triton repository says of every tensor what the file says, and appears whole or not at all."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from google.protobuf import text_format

import onnxplain
from onnxplain import models
from onnxplain.runtime.export.triton import TYPES, Serving, export_triton

Fields = dict[str, list[Any]]
TOKEN = re.compile(r'\s*("(?:[^"\\]|\\.)*"|[\w.+-]+|[{}\[\],:])')


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    explainer = onnxplain.compile(models.path("mnist_lenet"), "saliency", reduce="maxabs")
    return explainer.save(tmp_path_factory.mktemp("triton") / "lenet.saliency.onnx")


def parse(text: str) -> Fields:
    """Protobuf's text format, as far as a configuration uses it: field -> its values, in order."""
    tokens = TOKEN.findall(text)
    assert "".join(tokens) == re.sub(r'\s+(?=(?:[^"]*"[^"]*")*[^"]*$)', "", text), "something is no token"

    def scalar() -> Any:
        token = tokens.pop(0)
        return token[1:-1] if token[0] == '"' else int(token) if re.fullmatch(r"-?\d+", token) else token

    def message(end: str | None) -> Fields:
        found: Fields = {}
        while tokens and tokens[0] != end:
            key = tokens.pop(0)
            assert key.isidentifier(), key
            colon = tokens[0] == ":" and bool(tokens.pop(0))
            values = found.setdefault(key, [])
            if tokens[0] == "{":
                tokens.pop(0)
                values.append(message("}"))
                tokens.pop(0)
            elif tokens[0] == "[":
                assert colon
                tokens.pop(0)
                while tokens[0] != "]":
                    values.append(scalar())
                    if tokens[0] == ",":
                        tokens.pop(0)
                tokens.pop(0)
            else:
                assert colon, key
                values.append(scalar())
        return found

    found = message(None)
    assert not tokens
    return found


def protobuf() -> Any:
    """Triton's own definition of a configuration, from its client."""
    return pytest.importorskip("tritonclient.grpc", exc_type=ImportError).model_config_pb2


def test_the_configuration(file: Path, tmp_path: Path) -> None:
    (folder,) = export_triton([file], tmp_path / "repository")
    assert folder == tmp_path / "repository" / "lenet.saliency"
    made = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    assert made == ["1/model.onnx", "config.pbtxt", "labels.txt"]
    assert (folder / "1" / "model.onnx").read_bytes() == file.read_bytes()
    assert (folder / "labels.txt").read_text().split() == list("0123456789")
    assert [path.name for path in (tmp_path / "repository").iterdir()] == ["lenet.saliency"]
    image = {"name": ["image"], "data_type": ["TYPE_FP32"], "dims": [1, 28, 28]}
    logits = {"name": ["logits"], "data_type": ["TYPE_FP32"], "dims": [10], "label_filename": ["labels.txt"]}
    assert parse((folder / "config.pbtxt").read_text()) == {
        "name": ["lenet.saliency"],
        "backend": ["onnxruntime"],
        "max_batch_size": [16],
        "input": [image, {"name": ["target"], "data_type": ["TYPE_INT64"], "dims": [1]}],
        "output": [
            logits,
            image | {"name": ["attribution"]},
            {"name": ["heatmap"], "data_type": ["TYPE_FP32"], "dims": [28, 28]},
        ],
        "dynamic_batching": [{"max_queue_delay_microseconds": [2000]}],
        "instance_group": [{"count": [1], "kind": ["KIND_AUTO"]}],
    }


def test_it_parses_with_the_protobuf_of_triton(file: Path, tmp_path: Path) -> None:
    model_config_pb2 = protobuf()
    serving = Serving(max_batch=4, delay=100, warmup=True)
    (folder,) = export_triton([file], tmp_path, name="digits", serving=serving)
    found = text_format.Parse((folder / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())
    assert (found.name, found.max_batch_size, found.backend) == ("digits", 4, "onnxruntime")
    graph = onnx.load(folder / "1" / "model.onnx").graph
    for ports, values in ((found.input, graph.input), (found.output, graph.output)):
        assert [port.name for port in ports] == [value.name for value in values]
        for port, value in zip(ports, values, strict=True):
            tensor = value.type.tensor_type
            assert model_config_pb2.DataType.Name(port.data_type) == TYPES[tensor.elem_type]
            assert [-1, *port.dims] == [dim.dim_value or -1 for dim in tensor.shape.dim]
    (warm,) = found.model_warmup
    assert {name: list(one.dims) for name, one in warm.inputs.items()} == {
        "image": [1, 28, 28],
        "target": [1],
    }
    assert all(one.zero_data for one in warm.inputs.values())
    assert set(TYPES.values()) == set(model_config_pb2.DataType.keys()) - {"TYPE_INVALID"}


def test_names_are_quoted(file: Path, tmp_path: Path) -> None:
    model = onnx.load(file)
    odd = 'a "b"\\\n§'
    for value in model.graph.input:
        if value.name == "target":
            value.name = odd
    for node in model.graph.node:
        node.input[:] = [odd if name == "target" else name for name in node.input]
    onnx.save(model, tmp_path / "odd.onnx")
    (folder,) = export_triton([tmp_path / "odd.onnx"], tmp_path / "repository")
    text = (folder / "config.pbtxt").read_text()
    assert 'name: "a \\042b\\042\\134\\012§"' in text
    assert text_format.Parse(text, protobuf().ModelConfig()).input[1].name == odd


def test_a_batch_gives_what_single_rows_give(file: Path) -> None:
    """What dynamic batching rests on. Rounding may differ: kernels add in another order for other batches."""
    explainer = onnxplain.load(file, threads=1)
    x = np.random.default_rng(0).random((3, 1, 28, 28), np.float32)
    whole = explainer(x, target=[1, 2, 3])
    for i in range(3):
        one = explainer(x[i : i + 1], target=i + 1)
        np.testing.assert_allclose(one.attribution[0], whole.attribution[i], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("target", "said"), [("cotangent", "different first axes"), ([1, 2], "rows")])
def test_rows_that_are_no_batch(target: str | list[int], said: str, tmp_path: Path) -> None:
    path = onnxplain.compile(models.path("mnist_lenet"), "saliency", target=target).save(tmp_path / "k.onnx")
    with pytest.raises(onnxplain.ModelError, match=said):
        export_triton([path], tmp_path / "repository")
    assert not (tmp_path / "repository").exists()


def test_every_obstacle_is_named_at_once(file: Path, tmp_path: Path) -> None:
    model = onnx.load(file)
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 1
    del model.graph.output[2].type.tensor_type.shape.dim[1:]
    onnx.save(model, tmp_path / "odd.onnx")
    with pytest.raises(onnxplain.ModelError) as caught:
        export_triton([file, tmp_path / "odd.onnx"], tmp_path / "repository")
    assert "'logits' has a batch fixed at 1" in str(caught.value)
    assert "'heatmap' has 1 axes" in str(caught.value)
    assert not (tmp_path / "repository").exists()


def test_a_model_is_not_overwritten_by_accident(file: Path, tmp_path: Path) -> None:
    (folder,) = export_triton([file], tmp_path / "repository")
    (folder / "note").touch()
    with pytest.raises(onnxplain.OptionError, match="already"):
        export_triton([file], tmp_path / "repository")
    assert (folder / "note").exists()
    export_triton([file], tmp_path / "repository", replace=True)
    assert not (folder / "note").exists() and (folder / "config.pbtxt").is_file()
    assert len(list((tmp_path / "repository").iterdir())) == 1


@pytest.mark.parametrize(
    ("names", "options", "said"),
    [
        ([], {}, "no file"),
        (["a", "a"], {}, "two files"),
        (["a", "b"], {"name": "c"}, "for one file"),
        (["a"], {"name": "a/b"}, "no name for a model"),
        (["a"], {"name": ".a"}, "no name for a model"),
    ],
)
def test_refused(names: list[str], options: dict[str, str], said: str, file: Path, tmp_path: Path) -> None:
    files = [file.with_name(f"{name}.onnx") for name in names]
    with pytest.raises(onnxplain.OptionError, match=said):
        export_triton(files, tmp_path / "repository", **options)  # type: ignore[arg-type]
    assert not (tmp_path / "repository").exists()


def test_free_sizes(tmp_path: Path) -> None:
    """A model of any image size is served as such, without a warm-up."""
    explainer = onnxplain.compile(models.path("esrgan_slim_x4"), "saliency", target="top")
    path = explainer.save(tmp_path / "sr.onnx")
    (folder,) = export_triton([path], tmp_path / "repository")
    assert parse((folder / "config.pbtxt").read_text())["input"][0]["dims"] == [3, -1, -1]
    with pytest.raises(onnxplain.OptionError, match="no warm-up"):
        export_triton([path], tmp_path / "other", serving=Serving(warmup=True))
