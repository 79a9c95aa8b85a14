"""Optimised graphs on disk: hits, keys, damage, eviction. Whether an entry was used is seen from the files."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

import onnxplain
from onnxplain.rewriter.errors import ModelError, OptionError
from onnxplain.runtime import cache as module
from onnxplain.runtime.cache import ABOUT, GRAPH, VARIABLE, WEIGHTS, Cache, find_cache, key_of
from onnxplain.runtime.explainer import Explainer
from onnxplain.runtime.opening import serialize
from onnxplain.runtime.providers import create_session
from tests.runtime.small import model_of

RNG = np.random.default_rng(2)
X = RNG.normal(size=(2, 8, 12, 12)).astype(np.float32)


def network() -> onnx.ModelProto:
    """A convolution large enough that its weights are kept beside the graph."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("ReduceMean", ["b", "axes"], ["y"], keepdims=0),
    ]
    parameters = {"w": RNG.normal(size=(16, 8, 3, 3)).astype(np.float32), "axes": np.array([2, 3])}
    return model_of(nodes, {"x": ["N", 8, 12, 12]}, {"y": ["N", 16]}, parameters)


@pytest.fixture(scope="module")
def data() -> bytes:
    return serialize(onnxplain.compile(network(), "saliency").model)


def result(data: bytes, folder: Path | None, **options: object) -> np.ndarray:
    session = create_session(data, cache=folder, threads=1, **options)  # type: ignore[arg-type]  # pyright: ignore
    feeds = {"x": X, "target": np.zeros((2, 1), np.int64)}
    return np.asarray(session.run(["attribution"], feeds)[0])


def entries(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir())


def test_a_hit_gives_the_same_bits(data: bytes, tmp_path: Path) -> None:
    plain = result(data, None)
    made, found = result(data, tmp_path), result(data, tmp_path)
    (entry,) = entries(tmp_path)
    assert {path.name for path in entry.iterdir()} == {GRAPH, WEIGHTS, ABOUT}
    assert np.array_equal(made, plain) and np.array_equal(found, plain)


def test_an_entry_is_used(data: bytes, tmp_path: Path) -> None:
    """An entry whose graph is another one, with checksums that fit: its result shows."""
    result(data, tmp_path)
    (entry,) = entries(tmp_path)
    other = onnx.load(entry / GRAPH, load_external_data=False)
    last = next(node for node in other.graph.node if "attribution" in node.output)
    last.output[list(last.output).index("attribution")] = "before"
    other.graph.node.append(helper.make_node("Neg", ["before"], ["attribution"]))
    onnx.save(other, entry / GRAPH)
    about = json.loads((entry / ABOUT).read_text())
    about["crc32"][GRAPH] = module._crc(entry / GRAPH)
    (entry / ABOUT).write_text(json.dumps(about))
    assert np.array_equal(result(data, tmp_path), -result(data, None))


@pytest.mark.parametrize(
    "damage", ["graph", "weights", "one bit", "cut off", "no graph", "no sums", "text", "list"]
)
def test_a_damaged_entry_is_dropped_and_made_again(
    data: bytes, tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    want = result(data, tmp_path)
    (entry,) = entries(tmp_path)
    bits = bytearray((entry / WEIGHTS).read_bytes())
    bits[len(bits) // 2] ^= 1
    name, content = {
        "graph": (GRAPH, b"nonsense"),
        "weights": (WEIGHTS, b""),
        "one bit": (WEIGHTS, bytes(bits)),
        "cut off": (WEIGHTS, bytes(bits[:-1])),
        "no graph": (GRAPH, None),
        "no sums": (ABOUT, None),
        "text": (ABOUT, b"{"),
        "list": (ABOUT, b"[1]"),
    }[damage]
    (entry / name).unlink()
    if content is not None:
        (entry / name).write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert np.array_equal(result(data, tmp_path), want)
    assert "is dropped and made again" in caplog.text
    caplog.clear()
    assert entries(tmp_path) == [entry]
    assert np.array_equal(result(data, tmp_path), want)
    assert not caplog.records


def test_a_graph_that_onnxruntime_refuses_is_dropped(
    data: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    want = result(data, tmp_path)
    (entry,) = entries(tmp_path)
    (entry / GRAPH).write_bytes(b"nonsense")
    (entry / ABOUT).write_text(json.dumps({"crc32": {GRAPH: module._crc(entry / GRAPH)}}))
    with caplog.at_level(logging.WARNING):
        assert np.array_equal(result(data, tmp_path), want)
    assert "is dropped and made again" in caplog.text
    assert (entry / WEIGHTS).exists()


def test_what_decides_the_graph_is_in_the_key(data: bytes, tmp_path: Path) -> None:
    result(data, tmp_path)
    result(data, tmp_path, spinning=False, memory_pattern=False)  # decide nothing
    assert len(entries(tmp_path)) == 1
    result(data, tmp_path, optimization="basic")
    result(data, tmp_path, providers=[("cpu", {"enable_cpu_mem_arena": 0})])
    other = onnx.load_from_string(data)
    other.graph.doc_string = "another file"
    result(serialize(other), tmp_path)
    assert len(entries(tmp_path)) == 4
    result(data, tmp_path, optimization="disabled")  # nothing to keep
    assert len(entries(tmp_path)) == 4


def test_the_key_knows_the_processor(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    before = key_of(data, {})
    assert key_of(data, {}) == before and key_of(data, {"a": 1}) != before
    monkeypatch.setattr(module, "processor", lambda: "another one")
    assert key_of(data, {}) != before


def test_a_path_has_the_key_of_its_bytes(data: bytes, tmp_path: Path) -> None:
    file = tmp_path / "net.onnx"
    file.write_bytes(data)
    assert key_of(str(file), {}) == key_of(data, {})
    with pytest.raises(OptionError, match="cannot read"):
        key_of(str(tmp_path / "none.onnx"), {})


def test_the_entries_unused_for_longest_make_room(tmp_path: Path) -> None:
    store = Cache(tmp_path / "cache", limit=2500)

    def add(name: str, when: int, size: int = 1000) -> None:
        def make(folder: Path) -> None:
            (folder / GRAPH).write_bytes(bytes(size))

        store.build(name, make)
        if (store.folder / name).exists():
            os.utime(store.folder / name, (when, when))

    (tmp_path / "cache").mkdir()
    (store.folder / "mine.txt").write_text("not ours")
    add("a", 100)
    add("b", 200)
    assert store.find("a") is not None  # used: now the newest
    add("c", 2**31)
    assert [path.name for path in entries(store.folder)] == ["a", "c"]
    add("huge", 0, size=3000)
    assert [path.name for path in entries(store.folder)] == ["a", "c"]
    assert (store.folder / "mine.txt").exists()


def test_nothing_half_written_is_left(tmp_path: Path) -> None:
    store = Cache(tmp_path / "cache")

    def fail(folder: Path) -> None:
        (folder / GRAPH).write_bytes(b"half")
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        store.build("a", fail)
    assert not list(store.folder.iterdir()) and store.find("a") is None


def test_an_entry_of_another_process_stays(tmp_path: Path) -> None:
    store = Cache(tmp_path)

    def make(folder: Path) -> str:
        (folder / GRAPH).write_bytes(b"mine")
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / GRAPH).write_bytes(b"theirs")
        return "made"

    assert store.build("a", make) == "made"
    assert (tmp_path / "a" / GRAPH).read_bytes() == b"theirs"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_off_by_default_and_named_by_the_environment(
    data: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert find_cache(None) is None
    monkeypatch.setenv(VARIABLE, str(tmp_path / "env"))
    result(data, None)
    assert len(entries(tmp_path / "env")) == 1
    result(data, tmp_path / "given")
    assert len(entries(tmp_path / "given")) == len(entries(tmp_path / "env")) == 1


def test_a_folder_that_cannot_be_made(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OptionError, match="cache: cannot make the folder"):
        result(data, tmp_path / "file" / "cache")


def test_a_bad_model_is_no_fault_of_the_cache(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="onnxruntime cannot load"):
        create_session(b"nonsense", cache=tmp_path, log_severity=4)
    assert not list(tmp_path.iterdir())


def test_loops_and_explainers(tmp_path: Path) -> None:
    made = onnxplain.compile(network(), "integrated-gradients", steps=4)
    plain = made(X, target=1).attribution
    for _ in range(2):
        again = Explainer(made.model, made.card, cache=tmp_path / "cache")
        assert np.array_equal(again(X, target=1).attribution, plain)
    assert len(entries(tmp_path / "cache")) == 1
