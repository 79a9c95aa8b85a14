"""Joined runs: the rows of several requests in one batch, each request with its own answer."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxplain
from onnxplain import models
from onnxplain.runtime.explainer import Explainer
from tests.runtime.serve.conftest import Answer, Running, running, tensor
from tests.runtime.small import picture

X = np.random.default_rng(2).random((6, 1, 28, 28), np.float32)
INFER = "/v2/models/lenet.saliency/infer"


def ask(server: Running, x: np.ndarray, target: object = None) -> Answer:
    inputs = [tensor("image", x)]
    if target is not None:
        inputs.append(tensor("target", np.array(target), "INT64"))
    return server(INFER, {"inputs": inputs, "outputs": [{"name": "attribution"}]})


def map_of(answer: Answer) -> np.ndarray:
    assert answer.status == 200, answer.body
    [output] = answer.json["outputs"]
    return np.array(output["data"], np.float32).reshape(output["shape"])


@pytest.fixture
def explainer(folder: Path) -> Explainer:
    return onnxplain.load(folder / "lenet.saliency.onnx", threads=1)


def test_rows_of_a_joined_run_equal_those_of_the_batch(
    folder: Path, explainer: Explainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit. A full batch starts at once; its rows stand in the order in which they came."""
    batches: list[dict[str, np.ndarray]] = []
    with running(folder / "lenet.saliency.onnx", batching=1.0, max_batch=6) as server:
        served = server.serving.models["lenet.saliency"]
        run = served.run

        def noted(feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            batches.append(feeds)
            return run(feeds)

        monkeypatch.setattr(served, "run", noted)
        with ThreadPoolExecutor(6) as pool:
            answers = list(pool.map(lambda x: map_of(ask(server, x[None])), X))
        joiner = server.serving.site.joiner
        assert (joiner.runs, joiner.joined) == (1, 6)
    [batch] = batches
    expected = explainer(batch["image"], batch["target"]).attribution
    for x, found in zip(X, answers, strict=True):
        [row] = [i for i, other in enumerate(batch["image"]) if np.array_equal(x, other)]
        assert np.array_equal(found[0], expected[row])


def test_rows_of_a_joined_run_equal_single_runs_to_rounding(explainer: Explainer) -> None:
    """What the option gives up. Sums of a batch are in another order: 1e-5 of the largest value."""
    batch = explainer(X).attribution
    single = np.concatenate([explainer(x[None]).attribution for x in X])
    assert np.abs(batch - single).max() <= 1e-5 * np.abs(single).max()


def test_without_the_option_every_run_is_alone(folder: Path, explainer: Explainer) -> None:
    with running(folder / "lenet.saliency.onnx") as server, ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda x: map_of(ask(server, x[None])), X))
        assert server.serving.site.joiner.runs == 0
    for x, found in zip(X, answers, strict=True):
        assert np.array_equal(found, explainer(x[None]).attribution)


def test_requests_of_several_rows_with_and_without_classes(folder: Path, explainer: Explainer) -> None:
    with running(folder / "lenet.saliency.onnx", batching=1.0, max_batch=6) as server:
        with ThreadPoolExecutor(3) as pool:
            first = pool.submit(ask, server, X[:2], [[3], [4]])
            second = pool.submit(ask, server, X[2:4])
            third = pool.submit(ask, server, X[4:], [[5]])  # one class for both rows
            found = [map_of(one.result()) for one in (first, second, third)]
        assert server.serving.site.joiner.runs == 1
    target = [3, 4, -1, -1, 5, 5]
    expected = explainer(X, target).attribution
    alone = [explainer(X[:2], [3, 4]), explainer(X[2:4]), explainer(X[4:], 5)]
    for rows, part, one in zip((slice(0, 2), slice(2, 4), slice(4, 6)), found, alone, strict=True):
        scale = np.abs(expected).max()
        assert np.abs(part - expected[rows]).max() <= 1e-5 * scale
        assert np.abs(part - one.attribution).max() <= 1e-5 * scale


def test_a_bad_request_spoils_only_its_own_answer(folder: Path, explainer: Explainer) -> None:
    with running(folder / "lenet.saliency.onnx", batching=0.3, max_batch=8) as server:
        with ThreadPoolExecutor(4) as pool:
            good = pool.submit(ask, server, X[:1], [[2]])
            bad = pool.submit(ask, server, X[1:2], [[99]])
            odd = pool.submit(ask, server, X[2:4], [[1], [1], [1]])
            fine = pool.submit(ask, server, X[4:5])
            assert bad.result().status == 400 and "99" in bad.result().error()
            assert odd.result().status == 400 and "3 targets for 2" in odd.result().error()
            assert np.array_equal(map_of(good.result()), explainer(X[:1], 2).attribution)
            assert np.array_equal(map_of(fine.result()), explainer(X[4:5]).attribution)


def test_the_batch_is_bounded(folder: Path) -> None:
    with running(folder / "lenet.saliency.onnx", batching=0.2, max_batch=3) as server:
        with ThreadPoolExecutor(6) as pool:
            assert all(answer.status == 200 for answer in pool.map(lambda _: ask(server, X[:2]), range(6)))
        assert server.serving.site.joiner.runs == 6  # no two of them fit
        assert ask(server, X[:4]).status == 400


def test_a_deadline_before_the_window_ends(folder: Path) -> None:
    with running(folder / "lenet.saliency.onnx", batching=1.0, deadline=0.3) as server:
        assert ask(server, X[:1]).status == 504


def test_models_whose_rows_cannot_be_put_together(folder: Path, tmp_path: Path) -> None:
    onnx.save(picture(batch=1), tmp_path / "fixed.onnx")
    onnxplain.compile(models.path("mnist_lenet"), "saliency", target="cotangent").save(tmp_path / "rows.onnx")
    with running(tmp_path, folder / "lenet.smooth.onnx", folder / "slow.onnx", batching=0.01) as server:
        joinable = {name: served.joinable for name, served in server.serving.models.items()}
        assert joinable == {"fixed": False, "rows": False, "lenet.smooth": False, "slow": True}
        x = np.zeros((1, 2, 3, 4), np.float32)
        assert server.infer("fixed", x).status == 200
        assert "dynamic_batching" in server("/v2/models/slow/config").json
        assert "dynamic_batching" not in server("/v2/models/lenet.smooth/config").json
        assert server("/v2/models/fixed/config").json["max_batch_size"] == 0
