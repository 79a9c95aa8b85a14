"""External data are read only from plain files inside the model's own folder, and only when asked for."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, numpy_helper

from onnxplain.rewriter.errors import ModelError
from onnxplain.rewriter.load import load

from .nets import net

ADD = "g (float[N,3] x) => (float[N,3] y) <float[3] w = {1, 2, 3}> { y = Add(x, w) }"


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A model in its own folder, its weight in a file beside it; one more file in the folder above."""
    folder = tmp_path / "inside"
    folder.mkdir()
    weights = np.asarray([1, 2, 3], np.float32).tobytes()
    (folder / "w.bin").write_bytes(weights)
    (tmp_path / "secret.bin").write_bytes(weights)
    _save(folder / "net.onnx", location="w.bin")
    return folder / "net.onnx"


def _save(path: Path, **where: str) -> None:
    model = net(ADD)
    tensor = model.graph.initializer[0]
    tensor.ClearField("float_data")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in where.items():
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    path.write_bytes(model.SerializeToString())


def test_external_data_are_read_when_asked_for(outside: Path) -> None:
    with pytest.raises(ModelError, match=r"1 tensors .*'w'.*external_data=True"):
        load(outside)
    found = load(outside, external_data=True).model.graph.initializer[0]
    assert numpy_helper.to_array(found).tolist() == [1, 2, 3]
    with pytest.raises(ModelError, match="give the path"):
        load(outside.read_bytes(), external_data=True)


def test_external_data_in_a_folder_below_and_in_part_of_a_file(outside: Path) -> None:
    (outside.parent / "deep").mkdir()
    (outside.parent / "deep" / "w.bin").write_bytes(np.arange(8, dtype=np.float32).tobytes())
    _save(outside, location="deep/w.bin", offset="8", length="12")
    found = load(outside, external_data=True).model.graph.initializer[0]
    assert numpy_helper.to_array(found).tolist() == [2, 3, 4]


def test_external_data_count_against_the_cap(outside: Path) -> None:
    size = outside.stat().st_size
    assert load(outside, external_data=True, max_bytes=size + 12).size == size
    with pytest.raises(ModelError, match=r"'w'.*cap"):
        load(outside, external_data=True, max_bytes=size + 11)


def _refused(path: Path, **where: str) -> None:
    _save(path, **where)
    with pytest.raises(ModelError, match="'w'"):
        load(path, external_data=True)


@pytest.mark.parametrize(
    "location",
    ["../secret.bin", "deep/../../secret.bin", "./../secret.bin", "", ".", "missing.bin", "w\0.bin", ".."],
)
def test_locations_that_are_no_plain_file_inside_the_folder(location: str, outside: Path) -> None:
    (outside.parent / "deep").mkdir()
    _refused(outside, location=location)


def test_an_absolute_location_is_refused_even_inside(outside: Path) -> None:
    _refused(outside, location=str(outside.parent / "w.bin"))
    _refused(outside, location="/etc/passwd")


def test_no_location_at_all(outside: Path) -> None:
    _refused(outside)


def test_links_are_refused(outside: Path) -> None:
    folder, secret = outside.parent, outside.parent.parent / "secret.bin"
    (folder / "soft.bin").symlink_to(secret)
    (folder / "near.bin").symlink_to(folder / "w.bin")
    (folder / "up").symlink_to(folder.parent, target_is_directory=True)
    os.link(secret, folder / "hard.bin")
    for location in ("soft.bin", "near.bin", "up/secret.bin", "hard.bin"):
        _refused(outside, location=location)


def test_devices_pipes_and_folders_are_refused(outside: Path) -> None:
    (outside.parent / "deep").mkdir()
    os.mkfifo(outside.parent / "pipe")
    for location in ("pipe", "deep"):
        _refused(outside, location=location)


@pytest.mark.parametrize(
    "where",
    [
        {"offset": "-4"},
        {"length": "-1"},
        {"offset": "4", "length": "12"},
        {"offset": "13"},
        {"length": "13"},
        {"length": str(2**62)},
        {"offset": "9" * 6000},
        {"offset": "four"},
        {"length": ""},
        {"length": "8"},
        {"offset": "4"},
    ],
)
def test_offsets_and_lengths_past_the_file_or_short_of_the_shape(
    where: dict[str, str], outside: Path
) -> None:
    _refused(outside, location="w.bin", **where)


def test_external_data_in_attributes_are_found_too(outside: Path) -> None:
    model = net(
        "g (float[N,3] x) => (float[N,3] y) { c = Constant<value = float[3] {1, 2, 3}>() y = Add(x, c) }"
    )
    tensor = model.graph.node[0].attribute[0].t
    tensor.ClearField("float_data")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../secret.bin"
    outside.write_bytes(model.SerializeToString())
    for wanted in (False, True):
        with pytest.raises(ModelError, match=r"outside|secret\.bin"):
            load(outside, external_data=wanted)
