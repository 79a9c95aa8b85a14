"""Answers tell of maps that say nothing."""

from __future__ import annotations

import io
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

import onnxplain
from onnxplain.runtime.serve.engine import Ticket
from onnxplain.runtime.serve.inferring import Inference
from onnxplain.runtime.serve.picture import explain_picture
from onnxplain.runtime.serve.served import Served
from onnxplain.runtime.serve.settings import Settings


def dark() -> onnx.ModelProto:
    """y = mean relu(x - 0.5) of each channel: a dark picture has no gradient."""
    nodes = [
        helper.make_node("Sub", ["x", "half"], ["d"]),
        helper.make_node("Relu", ["d"], ["r"]),
        helper.make_node("ReduceMean", ["r", "axes"], ["y"], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])],
        [
            numpy_helper.from_array(np.asarray(0.5, np.float32), "half"),
            numpy_helper.from_array(np.asarray([2, 3]), "axes"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.fixture
def served(tmp_path: Path) -> Served:
    path = onnxplain.compile(dark(), "saliency").save(tmp_path / "dark.onnx")
    return Served("dark", path, Settings())


def picture(value: int) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (4, 4), (value,) * 3).save(data, "PNG")
    return data.getvalue()


def infer(served: Served, rows: list[float]) -> dict[str, Any]:
    x = np.broadcast_to(np.asarray(rows)[:, None, None, None], (len(rows), 3, 4, 4))
    tensor = {"name": "x", "datatype": "FP32", "shape": list(x.shape), "data": x.ravel().tolist()}
    body = bytearray(json.dumps({"inputs": [tensor]}).encode())
    reply = Inference(served, Settings(), {}).whole(body, Ticket(0.0, 1e9))
    return {one["name"]: one for one in json.loads(reply.body)["outputs"]}


def test_infer(served: Served) -> None:
    """Of the output and the rows that it is about, and of no other; nothing is warned of in the server itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        outputs = infer(served, [0.9, 0.1, 0.2])
        assert outputs["attribution"]["parameters"] == {
            "warning": "attribution is zero everywhere in rows 1, 2 of 3"
        }
        assert "parameters" not in outputs["y"]
        assert "parameters" not in infer(served, [0.9])["attribution"]


@pytest.mark.parametrize("media", ["application/json", "image/png"])
def test_explain(served: Served, media: str) -> None:
    def told(value: int) -> str | None:
        reply = explain_picture(served, picture(value), "top", media)
        if media == "image/png":
            return reply.headers.get("Onnxplain-Warning")
        found: str | None = json.loads(reply.body).get("warning")
        return found

    assert told(250) is None
    assert told(10) == "attribution is zero everywhere"
