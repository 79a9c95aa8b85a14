"""A photo in, the map out: what `onnxplain explain` draws."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from PIL import Image

import onnxplain
from onnxplain import models
from onnxplain.runtime.render import readout
from onnxplain.runtime.serve.picture import choose_media
from onnxplain.runtime.serve.refusal import Refusal
from tests.runtime.serve.conftest import Running, running
from tests.runtime.small import model_of, picture

EXPLAIN = "/v2/models/lenet.saliency/explain"


@pytest.fixture(scope="module")
def photo() -> bytes:
    digits, _ = models.digits()
    buffer = io.BytesIO()
    Image.fromarray(digits[0]).resize((56, 56)).save(buffer, "PNG")
    return buffer.getvalue()


def test_json(server: Running, folder: Path, photo: bytes) -> None:
    told = server(EXPLAIN, photo).json
    path = folder / "lenet.saliency.onnx"
    [item] = onnxplain.explain(path, Image.open(io.BytesIO(photo)), threads=1)
    assert told["method"] == "saliency" and told["readout"] == "maxabs"
    assert told["class"] == told["classes"][0]
    assert (told["class"]["index"], told["class"]["score"]) == (item_index(item), item.score)
    assert len(told["classes"]) == 5
    scores = [entry["score"] for entry in told["classes"]]
    assert scores == sorted(scores, reverse=True)
    plane = readout("maxabs", item.attribution)[0]
    assert told["map"]["shape"] == [28, 28]
    assert np.array_equal(np.array(told["map"]["data"], np.float32).reshape(28, 28), plane)


def item_index(item: onnxplain.runtime.pictures.Explained) -> int:  # type: ignore[name-defined]
    """The class that was explained: the label of a model without names is "class 7"."""
    return int(str(item.label).removeprefix("class "))


def test_png(server: Running, folder: Path, photo: bytes) -> None:
    answer = server(f"{EXPLAIN}?class=3", photo, {"Accept": "image/png"})
    assert answer.status == 200 and answer.headers["content-type"] == "image/png"
    found = Image.open(io.BytesIO(answer.body))
    path = folder / "lenet.saliency.onnx"
    [item] = onnxplain.explain(path, Image.open(io.BytesIO(photo)), target=3, threads=1)
    assert np.array_equal(np.asarray(found), np.asarray(item.picture))


def test_the_class(server: Running, photo: bytes) -> None:
    told = server(f"{EXPLAIN}?class=3", photo).json
    assert told["class"]["index"] == 3 and told["classes"][0]["index"] != 3
    for wrong in ("10", "-2", "cat", "", "3.5", "9" * 400):
        answer = server(f"{EXPLAIN}?class={wrong}", photo)
        assert answer.status == 400
        answer.error()
    assert "unknown parameter" in server(f"{EXPLAIN}?klass=3", photo).error()


def test_a_class_by_its_name(folder: Path) -> None:
    with running(folder / "lenet.saliency.onnx") as server:
        served = server.serving.models["lenet.saliency"]
        assert served.labels is None or len(served.labels) == 10
    path = folder.parent / "named"
    path.mkdir(exist_ok=True)
    labels = [f"digit {i}" for i in range(10)]
    onnxplain.compile(models.path("mnist_lenet"), "saliency", labels=labels).save(path / "named.onnx")
    buffer = io.BytesIO()
    Image.new("L", (28, 28), 90).save(buffer, "JPEG")
    with running(path) as server:
        told = server("/v2/models/named/explain?class=digit%204", buffer.getvalue()).json
        assert told["class"]["index"] == 4 and told["class"]["label"] == "digit 4"
        assert "did you mean" in server("/v2/models/named/explain?class=digit%20x", buffer.getvalue()).error()


def bomb(width: int, height: int) -> bytes:
    """A PNG that says it has so many pixels, and has none."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


def no_pictures() -> dict[str, bytes]:
    gif = io.BytesIO()
    Image.new("L", (28, 28)).save(gif, "GIF")
    jpeg = io.BytesIO()
    Image.new("RGB", (64, 64)).save(jpeg, "JPEG")
    return {
        "nothing": b"",
        "text": b"hello",
        "GIF": gif.getvalue(),
        "half a JPEG": jpeg.getvalue()[:200],
        "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        "33 million pixels": bomb(5745, 5745),
        "180 million pixels": bomb(13417, 13417),
        "2^62 pixels": bomb(2**31 - 1, 2**31 - 1),
        "no pixels": bomb(28, 28),
    }


@pytest.mark.parametrize("what", no_pictures())
def test_bodies_that_are_no_picture(server: Running, what: str) -> None:
    answer = server(EXPLAIN, no_pictures()[what])
    assert answer.status == 400
    assert "picture" in answer.error()


def test_models_that_explain_no_picture(server: Running, photo: bytes, folder: Path, tmp_path: Path) -> None:
    assert "plain model" in server("/v2/models/small/explain", photo).error()
    onnx.save(picture(), tmp_path / "plain.onnx")
    onnxplain.compile(picture(), "saliency").save(tmp_path / "two.onnx")  # of 2 channels: no picture
    lenet = models.path("mnist_lenet")
    onnxplain.compile(lenet, "saliency", target="cotangent").save(tmp_path / "cotangent.onnx")
    onnxplain.compile(lenet, "saliency", target=4).save(tmp_path / "four.onnx")
    with running(tmp_path) as own:
        for name in ("two", "cotangent"):
            answer = own(f"/v2/models/{name}/explain", photo)
            assert answer.status == 400 and "/infer" in answer.error()
        assert own("/v2/models/four/explain", photo).json["class"]["index"] == 4
        assert "fixed target" in own("/v2/models/four/explain?class=3", photo).error()


@pytest.mark.parametrize(
    ("accept", "media"),
    [
        (None, "application/json"),
        ("*/*", "application/json"),
        ("application/json", "application/json"),
        ("image/png", "image/png"),
        ("image/*", "image/png"),
        ("image/png, */*;q=0.8", "image/png"),
        ("image/png, */*", "image/png"),
        ("application/json, image/png;q=0.5", "application/json"),
        ("text/html, image/webp, */*;q=0.1", "application/json"),
    ],
)
def test_the_media_of_an_answer(accept: str | None, media: str) -> None:
    assert choose_media(accept) == media


def test_a_client_that_takes_neither(server: Running, photo: bytes) -> None:
    with pytest.raises(Refusal):
        choose_media("text/html")
    assert server(EXPLAIN, photo, {"Accept": "text/html"}).status == 406


@pytest.mark.parametrize("shape", [["N", 1], ["N"]])
def test_a_model_with_one_number(tmp_path: Path, shape: list[int | str]) -> None:
    """A regression: its number, and no softmax of it, which would always be 1."""
    weight = np.full((27, 1), -2.0, np.float32)
    nodes = [helper.make_node("Flatten", ["x"], ["f"]), helper.make_node("MatMul", ["f", "w"], ["z"])]
    nodes.append(helper.make_node("Reshape", ["z", "s"], ["y"]))
    sizes = np.array([-1, 1][: len(shape)])
    model = model_of(nodes, {"x": ["N", 3, 3, 3]}, {"y": shape}, {"w": weight, "s": sizes})
    onnxplain.compile(model, "saliency", preprocessing="unit").save(tmp_path / "one.onnx")
    buffer = io.BytesIO()
    Image.new("RGB", (3, 3), (255, 255, 255)).save(buffer, "PNG")
    with running(tmp_path) as server:
        told = server("/v2/models/one/explain", buffer.getvalue()).json
    assert told["class"]["index"] == 0
    assert told["class"]["score"] == pytest.approx(-54.0)
