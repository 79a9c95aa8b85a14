"""The parts of `onnxplain bench`: that it measures what it says, of every file it should. No test looks at a time."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

import onnxplain
from benchmarks import provider
from onnxplain import models
from onnxplain.rewriter.cost import Floor, count, floor
from onnxplain.rewriter.errors import ImageError, ModelError, OptionError, TargetError, UnsupportedError
from onnxplain.rewriter.load import load
from onnxplain.runtime.bench import Machine, Report, Spread, bench, measure, plot, probe, weigh
from onnxplain.runtime.bench.inputs import completed, inputs_of
from onnxplain.runtime.bench.machine import CHAIN, _products, _sums
from onnxplain.runtime.bench.measure import Setup
from onnxplain.runtime.bench.timing import LEAST, interleave
from onnxplain.runtime.compiling import description
from tests.runtime.small import model_of, picture, product

LENET = models.path("mnist_lenet")
MACHINE = Machine(
    "Intel(R) Core(TM) i7-1 CPU @ 2.0GHz",
    "cpu",
    2,
    4,
    "Linux x86_64",
    "1.23",
    "float32",
    1e11,
    ((1000, 5e10), (4000, 8e10), (16000, 1e10)),
)
QUICK = Setup(repeats=2, quick=True, threads=1)


def test_spread() -> None:
    assert Spread.of(np.arange(11.0)) == Spread(5.0, 1.0, 9.0)


def counters(*names: str) -> tuple[dict[str, Callable[[], object]], dict[str, int]]:
    calls = dict.fromkeys(names, 0)

    def one(name: str) -> Callable[[], object]:
        def call() -> None:
            calls[name] += 1

        return call

    return {name: one(name) for name in names}, calls


def test_every_round_visits_every_call() -> None:
    runs, calls = counters("a", "b", "c")
    times = interleave(runs, repeats=4, budget=1e9, sample=0.0)
    assert {name: value.shape for name, value in times.items()} == dict.fromkeys("abc", (4,))
    assert calls == dict.fromkeys("abc", 2 + 4)  # two to see how long it takes
    assert all((value > 0).all() for value in times.values())


@pytest.mark.parametrize(("repeats", "rounds"), [(1, 1), (2, 2), (50, LEAST)])
def test_a_budget_leaves_the_least_rounds(repeats: int, rounds: int) -> None:
    runs, _ = counters("a")
    assert interleave(runs, repeats, budget=0.0, sample=0.0)["a"].shape == (rounds,)


def test_bandwidth_is_that_of_the_size_or_better() -> None:
    """The rate of a small tensor is that of starting an operator; larger ones show what the machine can do."""
    sizes = (1, 1000, 3999, 4000, 15999, 16000, 1e9)
    assert [MACHINE.bandwidth(size) for size in sizes] == [8e10, 8e10, 8e10, 8e10, 8e10, 1e10, 1e10]
    assert MACHINE.slug() == "intel-core-i7-1-cpu-cpu"
    assert "100 GFLOP/s" in str(MACHINE) and "2 threads" in str(MACHINE)


def test_the_probes_do_the_work_that_they_are_paid_for() -> None:
    kind = np.dtype(np.float32)
    assert count(_products(32, 3, kind)).weighted == 2 * 32**3 * 3
    adds = [node for node in count(_sums(1000, kind)).nodes if node.op == "Add"]
    assert len(adds) == CHAIN
    assert sum(node.read + node.weights + node.written for node in adds) == 3 * 4000 * CHAIN


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_probe(dtype: type) -> None:
    found = probe("cpu", 1, dtype, quick=True)
    assert found.peak > 0 and all(rate > 0 for _, rate in found.bandwidths)
    assert (found.provider, found.threads, found.dtype) == ("cpu", 1, np.dtype(dtype).name)
    assert found.processor and json.dumps(found.record())


def test_random_inputs() -> None:
    made = inputs_of(picture(), None, batch=3, seed=1)
    assert made.feeds["x"].shape == (3, 2, 3, 4) and made.feeds["x"].dtype == np.float32
    assert (made.explained, made.batch, made.source) == ("x", 3, "random numbers, seed 1")
    assert np.array_equal(inputs_of(picture(), None, batch=3, seed=1).feeds["x"], made.feeds["x"])
    assert not np.array_equal(inputs_of(picture(), None, batch=3, seed=2).feeds["x"], made.feeds["x"])
    assert inputs_of(picture(batch=4), None).batch == 4
    assert {name: x.shape[0] for name, x in inputs_of(product(), None, batch=2).feeds.items()} == {
        "a": 2,
        "b": 2,
    }


def free() -> onnx.ModelProto:
    return model_of(
        [helper.make_node("Relu", ["x"], ["y"])], {"x": ["N", 3, "H", "W"]}, {"y": ["N", 3, "H", "W"]}
    )


def test_free_sizes_come_from_shapes_or_are_32() -> None:
    assert inputs_of(free(), None).feeds["x"].shape == (1, 3, 32, 32)
    made = inputs_of(free(), None, batch=2, shapes={"x": ["N", 3, 8, "W"]})
    assert made.feeds["x"].shape == (2, 3, 8, 32)


def test_photos_fill_the_batch() -> None:
    source = load(LENET)
    about = description(LENET, source.model)
    photos = [models.photo("panda"), models.photo("rocket")]
    two = inputs_of(source.model, about, photos)
    assert two.feeds["image"].shape == (2, 1, 28, 28) and two.source == "panda.jpg, rocket.jpg"
    three = inputs_of(source.model, about, photos, batch=3).feeds["image"]
    assert np.array_equal(three[2], three[0]) and not np.array_equal(three[1], three[0])


def integers() -> onnx.ModelProto:
    model = model_of([helper.make_node("Identity", ["x"], ["y"])], {"x": [1, 2]}, {"y": [1, 2]})
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.INT64
    return model


@pytest.mark.parametrize(
    ("call", "kind", "text"),
    [
        (lambda: inputs_of(picture(batch=4), None, batch=3), OptionError, "takes 4 at a time"),
        (lambda: inputs_of(picture(), None, batch=0), OptionError, "at least 1"),
        (lambda: inputs_of(picture(), None, shapes={"z": [1]}), OptionError, "no input 'z'"),
        (lambda: inputs_of(picture(), None, shapes={"x": [1]}), OptionError, "1 sizes for 4 axes"),
        (lambda: inputs_of(picture(), None, [models.photo("panda")]), OptionError, "not a picture"),
        (lambda: inputs_of(integers(), None), TargetError, "nothing to explain"),
        (
            lambda: inputs_of(picture(), None, [models.photo("panda")] * 3, batch=2),
            OptionError,
            "3 photos are more than a batch of 2",
        ),
    ],
)
def test_inputs_that_cannot_be(call: Callable[[], object], kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        call()


def test_a_photo_that_is_not_there() -> None:
    model = onnx.load(LENET)
    with pytest.raises(ImageError, match="nowhere"):
        inputs_of(model, description(LENET, model), ["nowhere.jpg"])


def test_a_method_is_fed_what_it_takes() -> None:
    own = inputs_of(picture(), None, batch=2).feeds
    made = onnxplain.compile(picture(), "smoothgrad", target="top", samples=5)
    feeds = completed(made.model, own, made.card.options, seed=0)
    assert {name: x.shape for name, x in feeds.items()} == {"x": (2, 2, 3, 4), "noise": (5, 2, 3, 4)}
    assert feeds["x"] is own["x"] and feeds["noise"].dtype == np.float32
    assert made(own["x"], noise=feeds["noise"]).attribution.shape == (2, 2, 3, 4)


@pytest.fixture(scope="module")
def report() -> Report:
    """LeNet, one method of each kind: once for all tests that only look."""
    options = {"samples": 3}
    names = ["saliency", "smoothgrad", "pattern-net", "lrp.epsilon"]
    said: list[tuple[str, float]] = []
    setup = Setup(batch=2, repeats=2, quick=True, threads=1, options=options)
    found = bench(LENET, names, setup, progress=lambda text, done: said.append((text, done)))
    assert [done for _, done in said] == sorted(done for _, done in said)
    assert any("compiling and weighing smoothgrad" in text for text, _ in said)
    assert any("timing saliency, smoothgrad, lrp.epsilon" in text for text, _ in said)
    return found


def test_every_method_is_measured_or_left_out_with_a_reason(report: Report) -> None:
    assert [row.method for row in report.rows] == ["saliency", "smoothgrad", "lrp.epsilon"]
    assert list(report.refused) == ["pattern-net"] and "needs patterns=" in report.refused["pattern-net"]
    for row in (report.forward, *report.rows):
        assert 0 < row.seconds.low <= row.seconds.median <= row.seconds.high
        assert row.rounds == 2 and row.session > 0 and row.least > 0 and row.uncounted == ()
        assert row.memory is None or row.memory > 0
    assert report.row("smoothgrad").samples == 3 and report.row("saliency").samples == 1
    assert report.shapes == {"image": (2, 1, 28, 28)} and report.lowering == "cpu"


def test_the_figures_are_those_of_the_files(report: Report) -> None:
    """Sizes and counts, from files compiled apart."""
    forward = report.forward
    assert forward.bytes == LENET.stat().st_size and forward.nodes == len(onnx.load(LENET).graph.node)
    assert forward.floor == Floor(1.0, 1.0) and forward.ratio == Spread(1.0, 1.0, 1.0)
    made = onnxplain.compile(LENET, "saliency", target="top", lowering="cpu").model
    row = report.row("saliency")
    assert (row.bytes, row.nodes) == (made.ByteSize(), len(made.graph.node))
    assert row.flops == count(made, 2).weighted and row.floor == floor(onnx.load(LENET), made, 2)


def test_a_report_as_json(report: Report) -> None:
    known = json.loads(report.json())
    assert [row["method"] for row in known["rows"]] == ["forward", "saliency", "smoothgrad", "lrp.epsilon"]
    assert known["rows"][1]["seconds"]["median"] == report.row("saliency").seconds.median
    assert known["machine"]["provider"] == "cpu" and known["refused"] == dict(report.refused)


def test_a_report_as_markdown(report: Report) -> None:
    page = report.markdown()
    lines = page.splitlines()
    assert lines[0] == "# What explanations of mnist_lenet.onnx cost"
    rows = [line for line in lines if line.startswith("| `")]
    assert [line.split("`")[1] for line in rows] == ["forward", "saliency", "smoothgrad", "lrp.epsilon"]
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1
    assert "- `pattern-net`: estimator" in page and "image [2, 1, 28, 28] (random numbers, seed 0)" in page


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_a_plot(tmp_path: Path, report: Report, suffix: str) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / f"bars{suffix}"
    plot.plot(report, path)
    assert path.read_bytes().startswith({".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}[suffix])
    assert list(tmp_path.iterdir()) == [path]


def test_without_matplotlib(tmp_path: Path, report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plot, "find_spec", lambda name: None)
    with pytest.raises(OptionError, match="pip install matplotlib"):
        plot.plot(report, tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


def test_a_model_that_is_no_file() -> None:
    found = bench(picture(), ["saliency"], QUICK, machine=MACHINE)
    assert found.title == "small" and found.machine is MACHINE and found.row("saliency").rounds == 2
    assert found.forward.least == pytest.approx(found.forward.traffic / MACHINE.bandwidth(1), rel=1e-6)


def test_groups_and_the_order_of_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """More methods than are open at once: every one is timed beside a forward pass of its own group."""
    monkeypatch.setattr(measure, "GROUP", 2)
    monkeypatch.setattr(measure, "weigh", lambda *rest: weigh.Weight(None, 1.0))
    names = ["deconvnet", "saliency", "guided-backprop", "lrp.zero", "input-x-gradient"]
    found = bench(picture(), names, QUICK, machine=MACHINE)
    assert [row.method for row in found.rows] == names and found.forward.rounds == 3 * 2
    assert "| - |" in found.markdown()  # memory that nobody knows


def test_a_method_that_cannot_run_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(file: Path, *rest: object) -> weigh.Weight:
        if file.stem == "deconvnet":
            raise ModelError("it needs\n too much")
        return weigh.Weight(1.0, 1.0)

    monkeypatch.setattr(measure, "weigh", failing)
    found = bench(picture(), ["deconvnet", "saliency"], QUICK, machine=MACHINE)
    assert found.refused == {"deconvnet": "it needs too much"}
    assert [row.method for row in found.rows] == ["saliency"]


def test_a_model_that_nothing_explains() -> None:
    model = model_of(
        [helper.make_node("Det", ["x"], ["d"]), helper.make_node("Unsqueeze", ["d", "axis"], ["y"])],
        {"x": ["N", 3, 3]},
        {"y": ["N", 1]},
    )
    model.graph.initializer.append(helper.make_tensor("axis", onnx.TensorProto.INT64, [1], [1]))
    found = bench(model, ["saliency"], QUICK, machine=MACHINE)
    assert found.rows == () and found.forward.rounds == 2 and "Det at" in found.refused["saliency"]


@pytest.mark.parametrize(
    ("names", "setup", "kind", "text"),
    [
        (["salency"], QUICK, OptionError, "did you mean 'saliency'"),
        ([], QUICK, OptionError, "at least one method"),
        (["saliency"], Setup(repeats=0), OptionError, "at least one round"),
        (["saliency"], Setup(options={"steps": 3}), OptionError, "no method here has an option 'steps'"),
        (["saliency"], Setup(quick=True, head="nothing"), TargetError, "nothing"),
    ],
)
def test_a_wrong_setup(names: list[str], setup: Setup, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        bench(picture(), names, setup, machine=MACHINE)


def test_an_explanation_is_no_model() -> None:
    with pytest.raises(OptionError, match="an explanation already"):
        bench(onnxplain.compile(picture(), "saliency").model, ["saliency"], QUICK)


def test_weighing_keeps_no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions that open from a cache would open faster than a user's first."""
    cache, model = tmp_path / "cache", tmp_path / "m.onnx"
    cache.mkdir()
    monkeypatch.setenv("ONNXPLAIN_CACHE", str(cache))
    onnx.save(picture(), model)
    feeds = {"x": np.zeros((1, 2, 3, 4), np.float32)}
    found = weigh.weigh(model, feeds, ["cpu"], 1, memory_pattern=False)
    assert found.session > 0 and (found.memory is None or found.memory > 0)
    assert not list(cache.iterdir())


def test_weighing_what_cannot_be_opened(tmp_path: Path) -> None:
    broken = tmp_path / "m.onnx"
    broken.write_bytes(b"no model")
    with pytest.raises(ModelError, match=r"m.onnx failed in a process of its own .*cannot load"):
        weigh.weigh(broken, {"x": np.zeros(1)}, "cpu", 1, memory_pattern=True)


def test_inputs_of_any_name() -> None:
    """Also those that a function which stores arrays by name would take for its own arguments."""
    model = model_of(
        [helper.make_node("Add", ["file", "in/put"], ["y"])],
        {"file": ["N", 2, 3], "in/put": ["N", 2, 3]},
        {"y": ["N", 2, 3]},
    )
    assert bench(model, ["saliency"], QUICK, machine=MACHINE).refused == {}


def test_a_reason_is_one_line() -> None:
    from onnxplain.rewriter.errors import Obstacle

    error = UnsupportedError([Obstacle("Det", "a", "no rule"), Obstacle("Inv", "b", "no rule")])
    assert measure._reason(error) == "Det at 'a': no rule (and 1 more nodes)"


def test_the_script_for_the_provider_that_is_here(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--quick", "--networks", "mnist_lenet", "--methods", "saliency", "integrated-gradients"]
    path = provider.main([*words, "--batches", "2", "--provider", "cpu", "--out", str(tmp_path / "results")])
    assert capsys.readouterr().out == f"{path}\n" and path.parent == tmp_path / "results"
    assert path.name.endswith("-cpu-quick.md")
    page = path.read_text(encoding="utf-8")
    assert "## LeNet trained on MNIST digits, batch 2" in page and "not a result" in page
    rows = [
        line.split(" | ")[0].strip("| ")
        for line in page.splitlines()
        if line.startswith("| ") and "ms" in line
    ]
    assert rows == ["forward", "saliency", "integrated-gradients"]
