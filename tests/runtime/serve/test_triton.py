"""The client that everybody has: Triton's, over HTTP."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import onnxplain
from tests.runtime.serve.conftest import Running, running

# Its compiled parts may warn on import; that is not ours to mend.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::RuntimeWarning")
triton = pytest.importorskip("tritonclient.http")
X = np.random.default_rng(5).random((3, 1, 28, 28), np.float32)
CLASSES = np.array([[7], [0], [-1]])


@pytest.fixture
def client(server: Running) -> Any:
    with triton.InferenceServerClient(f"127.0.0.1:{server.serving.port}", concurrency=4) as made:
        yield made


def inputs(binary: bool, x: np.ndarray = X, classes: np.ndarray | None = CLASSES) -> list[Any]:
    made = [triton.InferInput("image", list(x.shape), "FP32")]
    made[0].set_data_from_numpy(x, binary_data=binary)
    if classes is not None:
        made.append(triton.InferInput("target", list(classes.shape), "INT64"))
        made[1].set_data_from_numpy(classes, binary_data=binary)
    return made


@pytest.fixture(scope="module")
def expected(folder: Path) -> dict[str, np.ndarray]:
    found = onnxplain.load(folder / "lenet.saliency.onnx", threads=1)(X, CLASSES)
    assert found.heatmap is not None
    return {**found.outputs, "attribution": found.attribution, "heatmap": found.heatmap}


def test_what_it_asks_first(client: Any) -> None:
    assert (
        client.is_server_live() and client.is_server_ready() and client.is_model_ready("lenet.saliency", "1")
    )
    assert client.get_server_metadata()["name"] == "onnxplain"
    metadata = client.get_model_metadata("lenet.saliency")
    assert [tensor["name"] for tensor in metadata["outputs"]] == ["logits", "attribution", "heatmap"]
    assert client.get_model_config("lenet.saliency")["max_batch_size"] == 64
    assert "lenet.saliency" in [entry["name"] for entry in client.get_model_repository_index()]
    assert client.get_inference_statistics("lenet.saliency")["model_stats"][0]["name"] == "lenet.saliency"
    assert len(client.get_inference_statistics()["model_stats"]) == 6


@pytest.mark.parametrize("sent", [True, False])
@pytest.mark.parametrize("back", [True, False, None])
@pytest.mark.parametrize("coding", [None, "gzip", "deflate"])
def test_results_equal_the_python_api(
    client: Any, expected: dict[str, np.ndarray], sent: bool, back: bool | None, coding: str | None
) -> None:
    """Bit for bit, as JSON and as bytes; back None: no output is named, all come back."""
    names = list(expected)
    wanted = None if back is None else [triton.InferRequestedOutput(name, binary_data=back) for name in names]
    found = client.infer(
        "lenet.saliency",
        inputs(sent),
        outputs=wanted,
        request_id="seven",
        request_compression_algorithm=coding,
        response_compression_algorithm=coding,
    )
    assert found.get_response()["id"] == "seven"
    for name, value in expected.items():
        assert np.array_equal(found.as_numpy(name), value), name


def test_asynchronously(client: Any, folder: Path) -> None:
    explainer = onnxplain.load(folder / "lenet.saliency.onnx", threads=1)
    pictures = np.random.default_rng(1).random((16, 1, 1, 28, 28), np.float32)
    pending = [
        client.async_infer("lenet.saliency", inputs(True, x, None), request_id=str(i))
        for i, x in enumerate(pictures)
    ]
    for i, (one, x) in enumerate(zip(pending, pictures, strict=True)):
        found = one.get_result()
        assert found.get_response()["id"] == str(i)
        assert np.array_equal(found.as_numpy("attribution"), explainer(x).attribution)


@pytest.mark.parametrize("binary", [True, False])
def test_classification(client: Any, expected: dict[str, np.ndarray], binary: bool) -> None:
    wanted = [triton.InferRequestedOutput("logits", binary_data=binary, class_count=3)]
    found = client.infer("lenet.saliency", inputs(True), outputs=wanted).as_numpy("logits")
    assert found.shape == (3, 3)
    texts = [text.decode() if isinstance(text, bytes) else text for text in found[:, 0]]
    best = expected["logits"].argmax(axis=1)
    assert [int(text.split(":")[1]) for text in texts] == best.tolist()
    assert [float(text.split(":")[0]) for text in texts] == pytest.approx(
        expected["logits"].max(axis=1), abs=1e-6
    )


def test_texts(client: Any) -> None:
    """The client reads what it needs of the other types from the declaration: give all of them."""
    made = []
    for kind in ("BOOL", "FP16", "FP32", "FP64", *(f"{s}INT{n}" for s in ("", "U") for n in (8, 16, 32, 64))):
        array = np.ones((1, 2), np.dtype({"BOOL": "?"}.get(kind, kind.lower().replace("fp", "float"))))
        made.append(triton.InferInput(f"{kind}_in", [1, 2], kind))
        made[-1].set_data_from_numpy(array)
    words = np.array([["zwölf".encode(), b""]], object)
    made.append(triton.InferInput("BYTES_in", [1, 2], "BYTES"))
    made[-1].set_data_from_numpy(words)
    found = client.infer("types", made)
    assert found.as_numpy("BYTES_out").tolist() == words.tolist()
    assert found.as_numpy("FP16_out").dtype == np.float16 and found.as_numpy("UINT64_out").tolist() == [
        [1, 1]
    ]


def test_errors(client: Any) -> None:
    fault = pytest.importorskip("tritonclient.utils").InferenceServerException
    wrong = inputs(True, np.zeros((1, 1, 28, 27), np.float32), None)
    calls: list[tuple[Callable[[], object], str, str]] = [
        (lambda: client.infer("nothing", inputs(True)), "404", "nothing"),
        (lambda: client.infer("lenet.saliency", inputs(True), model_version="3"), "404", "version"),
        (lambda: client.infer("lenet.saliency", wrong), "400", "shape"),
        (lambda: client.infer("lenet.saliency", inputs(True)[1:]), "400", "'image'"),
        (lambda: client.load_model("lenet.saliency"), "404", "nothing at this address"),
    ]
    for call, status, word in calls:
        with pytest.raises(fault) as caught:
            call()
        assert word in caught.value.message() and caught.value.status() == status


def test_with_joined_runs(folder: Path) -> None:
    """The client sees no difference but in the last bits (1e-5 of the largest value: sums of 500 products)."""
    explainer = onnxplain.load(folder / "lenet.saliency.onnx", threads=1)
    with running(folder / "lenet.saliency.onnx", batching=0.05, max_batch=8) as server:
        with triton.InferenceServerClient(f"127.0.0.1:{server.serving.port}", concurrency=8) as client:
            pending = [client.async_infer("lenet.saliency", inputs(True, x[None], None)) for x in X]
            for one, x in zip(pending, X, strict=True):
                alone = explainer(x[None]).attribution
                found = one.get_result().as_numpy("attribution")
                assert np.abs(found - alone).max() <= 1e-5 * np.abs(alone).max()
