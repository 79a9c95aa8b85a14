"""Comparison of results, targets and rounds; and one network through the script. Times are never judged."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.files import lowerings
from benchmarks.floor import byte_floor
from benchmarks.timing import fresh_within, interleave
from benchmarks.variants import FORWARD
from benchmarks.worker import Timed, compare, distance
from onnxplain.models.blocks import Net


def test_rounds_follow_the_budget_and_are_three_at_least() -> None:
    calls: list[str] = []
    runs = {name: (lambda name=name: calls.append(name)) for name in "ab"}
    assert interleave(runs, 7, 0.0)["a"].shape == (7,)
    assert interleave(runs, 7, 0.0, budget=0.0)["b"].shape == (3,)
    assert interleave(runs, 2, 0.0, budget=0.0)["b"].shape == (2,)
    assert set(calls) == {"a", "b"}


def test_a_process_that_fails_or_lasts_too_long_is_told_apart() -> None:
    assert fresh_within(60, int, "1") is True
    assert fresh_within(0, int, "1") is None


def test_a_wrong_result_is_a_fault_where_the_definitions_agree() -> None:
    good, bad = np.ones((1, 3), np.float32), np.zeros((1, 3), np.float32)
    results = {
        FORWARD: good,
        "onnxplain saliency": good,
        "onnxplain deeplift.rescale": good,
        "torch forward": good,
        "torch gradient": bad,
        "captum DeepLift": bad,
    }
    found = Timed()
    compare(results, ["torch forward", "torch gradient"], found)
    assert set(found.faults) == {"torch gradient"}
    assert found.distances == {"torch forward": 0.0, "torch gradient": 1.0, "captum DeepLift": 1.0}


def test_not_a_number_is_a_fault() -> None:
    found = Timed()
    nan, one = np.full((1, 3), np.nan, np.float32), np.ones((1, 3), np.float32)
    compare({"onnxplain saliency": one, "torch gradient": nan}, ["torch gradient"], found)
    assert set(found.faults) == {"torch gradient"}


def test_distance_of_outputs_and_of_maps() -> None:
    a, b = np.array([[3.0, 0.0]], np.float32), np.array([[0.0, 4.0]], np.float32)
    assert distance(a, b, largest=True) == pytest.approx(1.0)
    assert distance(a, b, largest=False) == pytest.approx(5 / 4)
    assert distance(a, b[0], largest=False) == float("inf")


def test_floor_by_bytes_by_hand() -> None:
    net = Net("net", (2, 4, 4))
    x = net.relu(net.conv(net.image, 3, 1))  # reads 32 + 6 + 3, writes 48
    model = net.model(net.conv(x, 1, 1))  # reads 48 + 3 + 1, writes 16
    forward = 32 + 6 + 3 + 48 + 48 + 3 + 1 + 16
    assert byte_floor(model) == pytest.approx(2 + 48 / forward)  # the mask of the Relu


@pytest.fixture
def one_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Without processes of their own, which load torch every time, and so without memory; torch as before."""
    torch = pytest.importorskip("torch")

    def fresh(call: Callable[..., Any], *args: Any) -> Any:
        """What a process of its own takes along when it ends: numbers near 0 that count as 0."""
        try:
            return call(*args)
        finally:
            torch.set_flush_denormal(False)

    monkeypatch.setattr("benchmarks.measure.fresh", fresh)
    monkeypatch.setattr("benchmarks.measure.memory", lambda *_: None)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.slow
@pytest.mark.usefixtures("one_process")
def test_the_script_measures_a_network(tmp_path: Path) -> None:
    """The page holds targets, ratios and reasons; all peers that are installed agree, or it would exit with a list."""
    pytest.importorskip("captum")
    pytest.importorskip("matplotlib")
    from benchmarks.peers import main

    out = tmp_path / "page.md"
    main(["--networks", "esrgan_slim_x4", "--quick", "--batch", "1", "--threads", "1", "--out", str(out)])
    page = out.read_text(encoding="utf-8")
    for text in ("## Targets", "onnxplain saliency", "captum Saliency / onnxplain saliency", "RISE"):
        assert text in page
    assert f"`{lowerings()[0]}`" in page and "Not measured" not in page
    assert out.with_suffix(".png").stat().st_size > 10_000
