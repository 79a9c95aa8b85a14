"""The addresses of the Open Inference Protocol, by a client that knows nothing of it."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import onnxplain
from tests.runtime.serve.conftest import Running, running, tensor

X = np.random.default_rng(3).standard_normal((2, 2, 3, 4)).astype(np.float32)
INFER = "/v2/models/small.saliency/infer"


def test_health(server: Running) -> None:
    for path in ("/v2/health/live", "/v2/health/ready", "/v2/models/small/ready"):
        assert server(path).status == 200
    assert server("/v2/models/small/versions/1/ready").status == 200


def test_what_the_server_says(server: Running) -> None:
    told = server("/v2").json
    assert told["name"] == "onnxplain" and told["version"] == onnxplain.__version__
    assert "binary_tensor_data" in told["extensions"]
    index = server("/v2/repository/index", b"").json
    assert [entry["name"] for entry in index] == [
        "lenet.saliency",
        "lenet.smooth",
        "slow",
        "small",
        "small.saliency",
        "types",
    ]
    assert {entry["state"] for entry in index} == {"READY"}


@pytest.mark.parametrize("prefix", ["/v2/models/small.saliency", "/v2/models/small.saliency/versions/1"])
def test_metadata(server: Running, prefix: str) -> None:
    told = server(prefix).json
    assert told["versions"] == ["1"] and told["parameters"]["method"] == "saliency"
    assert told["inputs"] == [
        {"name": "x", "datatype": "FP32", "shape": [-1, 2, 3, 4]},
        {"name": "target", "datatype": "INT64", "shape": [-1, 1]},
    ]
    assert [output["name"] for output in told["outputs"]] == ["scores", "attribution"]


def test_configuration(server: Running) -> None:
    told = server("/v2/models/small.saliency/config").json
    assert told["max_batch_size"] == 64
    assert told["input"][0] == {"name": "x", "data_type": "TYPE_FP32", "dims": [2, 3, 4], "optional": False}
    assert told["input"][1] == {"name": "target", "data_type": "TYPE_INT64", "dims": [1], "optional": True}
    # The first axis of noise counts samples and not rows: the model has no batch in the protocol's sense.
    smooth = server("/v2/models/lenet.smooth/config").json
    assert smooth["max_batch_size"] == 0 and smooth["input"][0]["dims"] == [-1, 1, 28, 28]


def test_json_equals_the_python_api(server: Running, folder: Path) -> None:
    expected = onnxplain.load(folder / "small.saliency.onnx", threads=1)(X, [3, 1])
    target = tensor("target", np.array([[3], [1]]), "INT64")
    answer = server(INFER, {"id": "mine", "inputs": [tensor("x", X), target]}).json
    assert (answer["id"], answer["model_name"], answer["model_version"]) == ("mine", "small.saliency", "1")
    scores, attribution = answer["outputs"]
    assert (scores["name"], scores["datatype"], scores["shape"]) == ("scores", "FP32", [2, 5])
    found = np.array(attribution["data"], np.float32).reshape(attribution["shape"])
    assert np.array_equal(found, expected.attribution)
    assert np.array_equal(np.array(scores["data"], np.float32).reshape(2, 5), expected.outputs["scores"])


def test_the_top_class_is_explained_where_none_is_given(server: Running, folder: Path) -> None:
    expected = onnxplain.load(folder / "small.saliency.onnx", threads=1)(X)
    wanted = {"outputs": [{"name": "attribution"}]}
    [found] = server.infer("small.saliency", X, **wanted).json["outputs"]
    assert np.array_equal(np.array(found["data"], np.float32).reshape(X.shape), expected.attribution)


@pytest.mark.parametrize("nested", [False, True])
def test_data_may_be_nested(server: Running, nested: bool) -> None:
    entry = tensor("x", X) | ({"data": X.tolist()} if nested else {})
    answer = server("/v2/models/small/infer", {"inputs": [entry]}).json
    flat = server.infer("small", X).json
    assert answer == flat


def binary(array: np.ndarray, flag: bool) -> tuple[bytes, dict[str, str]]:
    """A request with the values behind the JSON, all outputs as bytes or as JSON."""
    entry = tensor("x", array) | {"parameters": {"binary_data_size": array.nbytes}}
    del entry["data"]
    head = json.dumps({"inputs": [entry], "parameters": {"binary_data_output": flag}}).encode()
    return head + array.tobytes(), {"Inference-Header-Content-Length": str(len(head))}


def test_bytes_in_and_out(server: Running) -> None:
    body, headers = binary(X, True)
    answer = server(INFER, body, headers)
    length = int(answer.headers["inference-header-content-length"])
    assert answer.headers["content-type"] == "application/octet-stream"
    told, rest = json.loads(answer.body[:length]), answer.body[length:]
    sizes = [output["parameters"]["binary_data_size"] for output in told["outputs"]]
    assert sizes == [2 * 5 * 4, X.nbytes] and len(rest) == sum(sizes)
    [scores, attribution] = server(INFER, *binary(X, False)).json["outputs"]
    assert np.array_equal(np.frombuffer(rest[: sizes[0]], "<f4"), np.array(scores["data"], np.float32))
    assert np.array_equal(np.frombuffer(rest[sizes[0] :], "<f4"), np.array(attribution["data"], np.float32))


def test_one_output_as_bytes_and_one_as_json(server: Running) -> None:
    wanted = [{"name": "attribution", "parameters": {"binary_data": True}}, {"name": "scores"}]
    answer = server.infer("small.saliency", X, outputs=wanted)
    length = int(answer.headers["inference-header-content-length"])
    first, second = json.loads(answer.body[:length])["outputs"]
    assert first["parameters"]["binary_data_size"] == X.nbytes == len(answer.body) - length
    assert len(second["data"]) == 10


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_codings(server: Running, coding: str) -> None:
    body, headers = binary(np.tile(X, (8, 1, 1, 1)), True)
    plain = server(INFER, body, headers)
    pack: Callable[[bytes], bytes] = gzip.compress if coding == "gzip" else zlib.compress
    unpack: Callable[[bytes], bytes] = gzip.decompress if coding == "gzip" else zlib.decompress
    more = {**headers, "Content-Encoding": coding, "Accept-Encoding": coding}
    packed = server(INFER, pack(body), more)
    assert packed.headers["content-encoding"] == coding and unpack(packed.body) == plain.body
    refused = server(INFER, body, {**headers, "Accept-Encoding": f"{coding};q=0"})
    assert "content-encoding" not in refused.headers and refused.body == plain.body


VALUES: dict[str, list[Any]] = {
    "BOOL": [True, False],
    "FP16": [0.5, -2.0],
    "FP32": [0.1, 3],
    "FP64": [0.1, 1e300],
    "BYTES": ["grün", ""],
    **{
        f"{s}INT{n}": [0 if s else -(2 ** (n - 1)), 2 ** (n - (not s)) - 1]
        for s in ("", "U")
        for n in (8, 16, 32, 64)
    },
}


@pytest.mark.parametrize("as_bytes", [False, True])
def test_every_type_goes_through_unchanged(server: Running, as_bytes: bool) -> None:
    inputs: list[dict[str, Any]] = [
        {"name": f"{kind}_in", "datatype": kind, "shape": [1, 2], "data": value}
        for kind, value in VALUES.items()
    ]
    request = {"inputs": inputs, "parameters": {"binary_data_output": as_bytes}}
    answer = server("/v2/models/types/infer", request)
    assert answer.status == 200, answer.body
    if not as_bytes:
        for output in answer.json["outputs"]:
            kind = output["datatype"]
            wanted = [float(np.float32(v)) for v in VALUES[kind]] if kind == "FP32" else VALUES[kind]
            assert output["name"] == f"{kind}_out" and output["data"] == wanted
        return
    length = int(answer.headers["inference-header-content-length"])
    told, rest = json.loads(answer.body[:length]), answer.body[length:]
    again: list[dict[str, Any]] = []
    for output, entry in zip(told["outputs"], inputs, strict=True):
        size = output["parameters"]["binary_data_size"]
        again.append({**{key: entry[key] for key in ("name", "datatype", "shape")}})
        again[-1]["parameters"] = {"binary_data_size": size}
    head = json.dumps({"inputs": again}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))}
    back = server("/v2/models/types/infer", head + rest, headers)
    plain = server("/v2/models/types/infer", {"inputs": inputs})
    assert back.json == plain.json


def test_classification(server: Running) -> None:
    wanted = [{"name": "scores", "parameters": {"classification": 2}}]
    [found] = server.infer("small.saliency", X, outputs=wanted).json["outputs"]
    [scores] = server.infer("small.saliency", X, outputs=[{"name": "scores"}]).json["outputs"]
    values = np.array(scores["data"]).reshape(2, 5)
    assert (found["datatype"], found["shape"]) == ("BYTES", [2, 2])
    best = np.argsort(-values, axis=1)[:, :2]
    expected = [f"{values[i, j]:f}:{j}:{'abcde'[j]}" for i in range(2) for j in best[i]]
    assert found["data"] == expected


def test_noise_of_a_sampled_method_is_drawn_with_its_seed(server: Running, folder: Path) -> None:
    x = np.random.default_rng(0).random((1, 1, 28, 28), np.float32)
    explainer = onnxplain.load(folder / "lenet.smooth.onnx", threads=1)
    entry = tensor("image", x)
    wanted = [{"name": "attribution"}]
    drawn = server("/v2/models/lenet.smooth/infer", {"inputs": [entry], "outputs": wanted}).json
    assert np.array_equal(np.array(drawn["outputs"][0]["data"], np.float32), explainer(x).attribution.ravel())
    noise = np.zeros((70, 1, 28, 28), np.float32)  # more samples than a batch may have rows
    given = {"inputs": [entry, tensor("noise", noise)], "outputs": wanted}
    found = server("/v2/models/lenet.smooth/infer", given).json["outputs"][0]["data"]
    assert np.array_equal(np.array(found, np.float32), explainer(x, noise=noise).attribution.ravel())


def test_statistics_and_metrics_count(server: Running) -> None:
    def stats() -> dict[str, int]:
        [entry] = server("/v2/models/small/stats").json["model_stats"]
        told = entry["inference_stats"]
        return {
            "rows": entry["inference_count"],
            "good": told["success"]["count"],
            "bad": told["fail"]["count"],
        }

    before = stats()
    server.infer("small", X)
    server("/v2/models/small/infer", b"nonsense")
    assert stats() == {key: before[key] + more for key, more in (("rows", 2), ("good", 1), ("bad", 1))}
    names = {entry["name"] for entry in server("/v2/models/stats").json["model_stats"]}
    assert {"small", "lenet.smooth"} <= names
    text = server("/metrics").body.decode()
    assert 'onnxplain_requests_total{operation="infer",model="small",status="200"}' in text
    assert f'onnxplain_rows_total{{model="small"}} {before["rows"] + 2}' in text
    assert 'le="+Inf"' in text and "process_resident_memory_bytes" in text


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [
        ("/", "GET", 404),
        ("/v2/models/none", "GET", 404),
        ("/v2/models/none/infer", "POST", 404),
        ("/v2/models/none/explain", "POST", 404),
        ("/v2/models/small/versions/2", "GET", 404),
        ("/v2/models/small/versions/2/infer", "POST", 404),
        ("/v2/models/small/infer/", "POST", 404),
        ("/v2/models/../../etc/passwd", "GET", 404),
        ("/v2/models/..%2F..%2Fetc%2Fpasswd", "GET", 404),
        ("/v2/repository/models/small/load", "POST", 404),
        ("/v2/systemsharedmemory/status", "GET", 404),
        ("/v2/models/small/infer", "GET", 405),
        ("/v2/models/small", "DELETE", 405),
        ("/v2/repository/index", "GET", 405),
    ],
)
def test_addresses_that_are_not_there(server: Running, path: str, method: str, status: int) -> None:
    answer = server(path, b"{}" if method == "POST" else None, method=method)
    assert answer.status == status
    answer.error()


def test_the_document_lists_exactly_the_routes(server: Running) -> None:
    document = server("/openapi.json").json
    told = {
        (path, method.upper())
        for path, item in document["paths"].items()
        for method in item
        if method != "parameters"
    }
    routes = {
        (route.path, method)
        for route in server.serving.site.routes()
        for method in route.methods or ()
        if method != "HEAD"
    }
    assert told == routes
    names = document["paths"]["/v2/models/{name}"]["parameters"][0]["schema"]["enum"]
    assert names == sorted(server.serving.models)


def test_json_has_no_word_for_nan(server: Running) -> None:
    body, headers = binary(np.full((1, 2, 3, 4), np.nan, np.float32), False)
    answer = server("/v2/models/small/infer", body, headers)
    assert answer.status == 400 and "binary_data" in answer.error()
    body, headers = binary(np.full((1, 2, 3, 4), np.nan, np.float32), True)
    assert server("/v2/models/small/infer", body, headers).status == 200


def test_several_versions_of_one_request_at_once(server: Running) -> None:
    """Eight threads, each with rows of its own: nobody gets another's answer."""
    from concurrent.futures import ThreadPoolExecutor

    def ask(seed: int) -> bool:
        x = np.random.default_rng(seed).standard_normal((1, 2, 3, 4)).astype(np.float32)
        [scores, attribution] = server.infer("small.saliency", x).json["outputs"]
        local = onnxplain.load(server.serving.models["small.saliency"].path, threads=1)(x)
        return bool(
            np.array_equal(np.array(attribution["data"], np.float32), local.attribution.ravel())
            and np.array_equal(np.array(scores["data"], np.float32), local.outputs["scores"].ravel())
        )

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(32)))


def test_head_and_keep_alive(folder: Path) -> None:
    with running(folder / "small.onnx") as server:
        assert server("/v2", method="HEAD").body == b""
        line = b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\n\r\n"
        last = b"GET /v2 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
        assert server.talk(line + line + last).count(b"HTTP/1.1 200") == 3
