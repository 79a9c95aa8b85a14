"""Chunks: budgets, plans, and results equal to those of one run."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

import onnxplain
from onnxplain.rewriter.errors import OptionError
from onnxplain.rewriter.memory import Memory, estimate
from onnxplain.runtime import lanes as module
from onnxplain.runtime.explainer import Explainer
from onnxplain.runtime.lanes import (
    MARGIN,
    SHARE,
    Plan,
    available_memory,
    choose,
    needed,
    parse_bytes,
    progress_bar,
    say_bytes,
)
from tests.runtime.small import model_of, picture, product

RNG = np.random.default_rng(11)
W, V = (RNG.normal(size=shape).astype(np.float32) for shape in ((6, 512), (512, 5)))
ROUNDING = 1e-5
"""Of the largest value: products of other widths add up in another order, 512 terms of float32."""


def mlp(batch: int | str = "N") -> onnx.ModelProto:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Tanh", ["a"], ["b"]),
        helper.make_node("MatMul", ["b", "v"], ["y"]),
    ]
    return model_of(nodes, {"x": [batch, 6]}, {"y": [batch, 5]}, {"w": W, "v": V})


def rows(count: int) -> np.ndarray:
    return RNG.normal(size=(count, 6)).astype(np.float32)


def budget_for(made: Explainer, count: int, sizes: dict[str, int] | None = None) -> int:
    """Bytes that just hold that many rows."""
    return needed(estimate(made.model, 8, sizes), count) + 2


def bounded(made: Explainer, count: int, sizes: dict[str, int] | None = None) -> Explainer:
    return Explainer(made.model, made.card, threads=1, memory=budget_for(made, count, sizes))


def near(got: np.ndarray, want: np.ndarray) -> None:
    assert got.shape == want.shape and got.dtype == want.dtype
    assert np.abs(got - want).max() <= ROUNDING * np.abs(want).max()


@pytest.mark.parametrize(
    ("memory", "size"),
    [
        (7, 7),
        ("7", 7),
        ("512MB", 512 * 10**6),
        ("2 GiB", 2**31),
        ("1.5k", 1500),
        ("0.5mb", 500_000),
        ("10 B", 10),
        ("3T", 3 * 10**12),
    ],
)
def test_sizes_in_words(memory: int | str, size: int) -> None:
    assert parse_bytes(memory) == size


@pytest.mark.parametrize("memory", ["", "MB", "-1", "1e3", "12 parsecs", "0", 0, -5, 1.5, True, None])
def test_what_is_no_size(memory: Any) -> None:
    with pytest.raises(OptionError, match=r"memory="):
        parse_bytes(memory)


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (999, "999 bytes"),
        (1500, "1.5 kB"),
        (12_340_000, "12.3 MB"),
        (512 * 10**6, "512 MB"),
        (2**31, "2.15 GB"),
    ],
)
def test_sizes_as_they_are_said(size: int, words: str) -> None:
    assert say_bytes(size) == words


def test_a_plan_in_words() -> None:
    assert str(Plan(1, 1)) == "1 row in one run"
    assert str(Plan(8, 8, 10**6)) == "8 rows in one run: about 1 MB"
    assert str(Plan(9, 3, 10**6, 2 * 10**6)) == "9 rows in 3 chunks of up to 3: about 1 MB, of 2 MB allowed"


ROW = Memory(weights=1000, per_row=100, fixed=50)


def test_the_largest_chunk_that_fits() -> None:
    for count in (1, 2, 5, 9):
        plan = choose(ROW, 10, needed(ROW, count) + 2)
        assert plan.chunk <= count and plan.chunks == -(-10 // count)
        assert plan.expected is not None and plan.budget is not None and plan.expected <= plan.budget
    assert choose(ROW, 10, 10**9) == Plan(10, 10, needed(ROW, 10), 10**9)


def test_chunks_are_about_equal() -> None:
    """10 rows of which 9 fit: 5 and 5, not 9 and 1."""
    assert choose(ROW, 10, needed(ROW, 9) + 2).chunk == 5


def test_a_budget_that_holds_not_one_row() -> None:
    with pytest.raises(
        OptionError, match=r"memory=1100: 1 row take.* 1 kB of them for the weights; give more"
    ):
        choose(ROW, 3, 1100)
    with pytest.raises(OptionError, match=r"3 rows take .*cannot be run apart: because"):
        choose(ROW, 3, 1400, whole="because")


def test_the_default_is_a_share_of_what_is_there(caplog: pytest.LogCaptureFixture) -> None:
    plan = choose(ROW, 10, available=10_000)
    assert plan.budget == int(10_000 * SHARE) and plan.chunk == 10
    assert choose(ROW, 10, available=0, opened=True).budget == 1000
    with caplog.at_level(logging.WARNING):
        assert choose(ROW, 10, available=100).chunk == 1
    assert "it may not fit" in caplog.text


def test_a_plan_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        plan = choose(ROW, 10, 10**9)
    assert str(plan) in caplog.text


def test_available_memory_of_this_machine() -> None:
    size = available_memory()
    assert size is not None and 2**20 < size < 2**50


def test_a_control_group_is_respected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_GROUP", tmp_path)
    free = module._system_memory()
    assert free is not None and list(module._group_memory()) == [None, None]
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("500\n")
    assert list(module._group_memory()) == [None, None]
    (tmp_path / "memory.max").write_text("2000\n")
    assert available_memory() == 1500
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text("900")
    (tmp_path / "memory" / "memory.usage_in_bytes").write_text("1000")
    assert available_memory() == 0


def test_an_unknown_machine_is_not_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "available_memory", lambda: None)
    assert choose(ROW, 10).chunk == 10


SAMPLED: dict[str, dict[str, Any]] = {
    "integrated-gradients": {"steps": 3},
    "smoothgrad": {"samples": 3},
    "vargrad": {"samples": 3},
}


@pytest.mark.parametrize("method", ["saliency", "lrp.epsilon", *SAMPLED])
@pytest.mark.parametrize("target", ["input", "top", [0, 3]])
def test_chunks_give_the_result_of_one_run(method: str, target: Any) -> None:
    options = SAMPLED.get(method, {})
    made = onnxplain.compile(mlp(), method, target=target, threads=1, **options)
    x = rows(7)
    classes = [0, 1, 2, 3, 4, 0, -1] if target == "input" else None
    whole = made(x, target=classes)
    made_small = bounded(made, 3, {"samples": 3})
    parts = made_small(x, target=classes)
    assert whole.plan is not None and whole.plan.chunks == 1
    assert parts.plan is made_small.plan and parts.plan is not None and parts.plan.chunks == 3
    near(parts.attribution, whole.attribution)
    near(parts.outputs["y"], whole.outputs["y"])


def test_heat_maps_are_joined() -> None:
    made = onnxplain.compile(picture(), "saliency", reduce="maxabs", threads=1)
    x = RNG.normal(size=(5, 2, 3, 4)).astype(np.float32)
    whole, parts = made(x, target=2), bounded(made, 2)(x, target=2)
    assert parts.plan is not None and parts.plan.chunks == 3
    assert whole.heatmap is not None and parts.heatmap is not None
    assert np.array_equal(parts.heatmap, whole.heatmap)


def test_cotangents_of_one_sample_are_cut_and_the_sample_is_not() -> None:
    made = onnxplain.compile(mlp(), "saliency", target="cotangent", threads=1)
    x, rows_of = rows(1), RNG.normal(size=(9, 5)).astype(np.float32)
    whole = made(x, cotangent=rows_of)
    parts = bounded(made, 4, {"N": 1})(x, cotangent=rows_of)
    assert parts.plan is not None and (parts.plan.rows, parts.plan.chunks) == (9, 3)
    near(parts.attribution, whole.attribution)
    assert parts.outputs["y"].shape == (1, 5)
    near(parts.outputs["y"], whole.outputs["y"])


def test_cotangents_one_a_sample_are_cut_with_the_samples() -> None:
    made = onnxplain.compile(mlp(), "saliency", target="cotangent", threads=1)
    x, rows_of = rows(6), RNG.normal(size=(6, 5)).astype(np.float32)
    whole = made(x, cotangent=rows_of)
    parts = bounded(made, 2)(x, cotangent=rows_of)
    assert parts.plan is not None and parts.plan.chunks >= 3
    near(parts.attribution, whole.attribution)
    near(parts.outputs["y"], whole.outputs["y"])


@pytest.mark.parametrize("given", [1, 5])
def test_baselines_of_one_row_or_one_a_sample(given: int) -> None:
    made = onnxplain.compile(mlp(), "integrated-gradients", baseline="input", steps=3, threads=1)
    x, base = rows(5), rows(given)
    whole = made(x, target=1, baseline=base)
    parts = bounded(made, 2, {"M": 1})(x, target=1, baseline=base)
    assert parts.plan is not None and parts.plan.chunks >= 2
    near(parts.attribution, whole.attribution)


def test_several_inputs_are_cut_together() -> None:
    made = onnxplain.compile(product(), "saliency", inputs=["a", "b"], threads=1)
    a, b = (RNG.normal(size=(5, 2, 3, 4)).astype(np.float32) for _ in range(2))
    whole, parts = made({"a": a, "b": b}, target=3), bounded(made, 2)({"a": a, "b": b}, target=3)
    assert parts.plan is not None and parts.plan.chunks == 3
    for name in ("a", "b"):
        assert np.array_equal(parts.attributions[name], whole.attributions[name])
    assert np.array_equal(parts.outputs["heatmap"], whole.outputs["heatmap"])


def test_an_input_of_no_batch_goes_into_every_chunk() -> None:
    nodes = [helper.make_node("Mul", ["a", "b"], ["y"])]
    net = model_of(nodes, {"a": ["N", 4], "b": [4]}, {"y": ["N", 4]})
    feeds = {"a": RNG.normal(size=(6, 4)).astype(np.float32), "b": np.arange(4, dtype=np.float32)}
    made = onnxplain.compile(net, "saliency", threads=1)
    whole, parts = made(feeds, target=2), bounded(made, 2)(feeds, target=2)
    assert parts.plan is not None and parts.plan.chunks == 3
    assert np.array_equal(parts.attribution, whole.attribution)


def about_the_batch() -> onnx.ModelProto:
    """A second output that is about all rows."""
    nodes = [
        helper.make_node("Tanh", ["x"], ["y"]),
        helper.make_node("ReduceMean", ["x"], ["mean"], keepdims=0),
    ]
    return model_of(nodes, {"x": ["N", 6]}, {"y": ["N", 6], "mean": []})


def test_an_output_about_the_whole_batch_is_never_cut() -> None:
    made = onnxplain.compile(about_the_batch(), "saliency", threads=1)
    with pytest.raises(OptionError, match="cannot be run apart: output 'mean' has no row for each of them"):
        bounded(made, 2)(rows(6), target=1)
    assert made(rows(6), target=1).plan is not None


def test_the_same_run_with_a_default_budget_warns(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made = onnxplain.compile(about_the_batch(), "saliency", threads=1)
    want = made(rows(1).repeat(6, 0), target=1)
    monkeypatch.setattr(module, "available_memory", lambda: 10)
    with caplog.at_level(logging.WARNING):
        got = made(rows(1).repeat(6, 0), target=1)
    assert "it may not fit" in caplog.text and got.plan is not None and got.plan.chunks == 1
    assert got.attribution.shape == want.attribution.shape


def test_the_default_budget_cuts_too(monkeypatch: pytest.MonkeyPatch) -> None:
    made = onnxplain.compile(mlp(), "saliency", threads=1)
    x = rows(8)
    whole = made(x, target=1)
    memory = estimate(made.model, 8)
    monkeypatch.setattr(module, "available_memory", lambda: int(memory.per_row * 3 * MARGIN / SHARE) + 10)
    parts = made(x, target=1)
    assert parts.plan is not None and parts.plan.chunks == 3
    near(parts.attribution, whole.attribution)


def test_too_small_a_budget_is_said_before_anything_runs() -> None:
    made = onnxplain.compile(mlp(), "saliency", threads=1)
    with pytest.raises(OptionError, match="memory=1000: 1 row take about"):
        Explainer(made.model, made.card, memory=1000)(rows(1))
    with pytest.raises(OptionError, match="is no number of bytes"):
        Explainer(made.model, made.card, memory="much")


def test_wrong_numbers_of_rows_are_refused_as_in_one_run() -> None:
    made = onnxplain.compile(product(), "saliency", threads=1)
    a = np.zeros((6, 2, 3, 4), np.float32)
    for explainer in (made, bounded(made, 2)):
        with pytest.raises(onnxplain.ImageError, match=r"axis 0 \(N\) is 3, but 6 in 'a'"):
            explainer({"a": a, "b": a[:3]}, target=0)


def test_progress_is_told_after_every_chunk() -> None:
    made = bounded(onnxplain.compile(mlp(), "saliency", threads=1), 2)
    told: list[tuple[int, int]] = []
    made.progress = lambda done, total: told.append((done, total))
    made(rows(5), target=0)
    assert told == [(2, 5), (4, 5), (5, 5)]
    made(rows(1), target=0)
    assert told[3:] == [(1, 1)]


def test_the_bar_is_quiet_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("saliency") as advance:
        advance(1, 2)
        advance(2, 2)
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err == ""


def test_load_takes_the_budget(tmp_path: Path) -> None:
    made = onnxplain.compile(mlp(), "saliency", threads=1)
    file = made.save(tmp_path / "net.onnx")
    loaded = onnxplain.load(file, memory=budget_for(made, 2), threads=1)
    assert loaded(rows(5), target=1).plan == Plan(
        5, 2, loaded.plan.expected if loaded.plan else 0, budget_for(made, 2)
    )
