"""Requests that do not fit are refused with 400 and a line that names the input; nothing is guessed."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from onnxplain.runtime.serve.asking import MAX_LISTS, read_request
from onnxplain.runtime.serve.datatypes import Tensor
from onnxplain.runtime.serve.refusal import Refusal

INPUTS = {
    "x": Tensor("x", "FP32", ("N", 2)),
    "i": Tensor("i", "INT8", ("N", 1), optional=True),
    "b": Tensor("b", "BOOL", ("N", 1), optional=True),
    "t": Tensor("t", "BYTES", ("N", 1), optional=True),
}
OUTPUTS = {"y": Tensor("y", "FP32", ("N", 2)), "s": Tensor("s", "BYTES", ("N", 1))}
X: Mapping[str, Any] = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1.0, 2.0]}


def ask(body: object, length: str | None = None, blob: bytes = b"") -> Any:
    head = body if isinstance(body, bytes) else json.dumps(body).encode()
    if blob:
        length = str(len(head))
    return read_request(head + blob, length, INPUTS, OUTPUTS, 4)


def refused(body: object, length: str | None = None, blob: bytes = b"") -> str:
    with pytest.raises(Refusal) as caught:
        ask(body, length, blob)
    assert caught.value.status == 400
    return caught.value.message


def x(**changes: Any) -> dict[str, Any]:
    return {"inputs": [{**X, **changes}]}


def one(name: str, datatype: str, value: object) -> dict[str, Any]:
    return {"inputs": [X, {"name": name, "datatype": datatype, "shape": [1, 1], "data": value}]}


NO_JSON = {
    "empty": b"",
    "no JSON": b"{",
    "not UTF-8": b'{"id": "\xff"}',
    "no object": b"[]",
    "a number of too many digits": b'{"inputs": [' + b"9" * 5000 + b"]}",
    "too deep": b"[" * 100_000,
    "NaN": b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [NaN, 1]}]}',
    "Infinity": b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [Infinity, 1]}]}',
}


@pytest.mark.parametrize("what", NO_JSON)
def test_no_json(what: str) -> None:
    assert "JSON" in refused(NO_JSON[what])


def test_lists_are_counted_before_they_are_made() -> None:
    assert str(MAX_LISTS) in refused(b'{"inputs":[' + b"[]," * MAX_LISTS + b"[]]}")


MISFITS: dict[str, tuple[object, str]] = {
    "no inputs": ({}, "inputs"),
    "inputs no list": ({"inputs": {}}, "inputs"),
    "an input no object": ({"inputs": [1]}, "inputs"),
    "no name": ({"inputs": [{"shape": [1]}]}, "name"),
    "a name that is a number": (x(name=1), "name"),
    "unknown": (x(name="z"), "'z'"),
    "missing": ({"inputs": []}, "'x'"),
    "twice": ({"inputs": [X, X]}, "twice"),
    "another datatype": (x(datatype="FP64"), "FP32"),
    "no datatype": (x(datatype=None), "FP32"),
    "no shape": (x(shape=None), "shape"),
    "shape of texts": (x(shape=["1", 2]), "shape"),
    "shape of booleans": (x(shape=[True, 2]), "shape"),
    "shape of fractions": (x(shape=[1.0, 2]), "shape"),
    "no rows": (x(shape=[0, 2], data=[]), "shape"),
    "negative": (x(shape=[-1, 2]), "shape"),
    "huge": (x(shape=[2**40, 2]), "shape"),
    "another rank": (x(shape=[2]), "[-1, 2]"),
    "another size": (x(shape=[1, 3], data=[1, 2, 3]), "[-1, 2]"),
    "too many rows": (x(shape=[5, 2], data=[0] * 10), "5 rows"),
    "too few values": (x(data=[1.0]), "1 values"),
    "too many values": (x(data=[1.0] * 3), "3 values"),
    "no data": ({"inputs": [{key: X[key] for key in ("name", "datatype", "shape")}]}, "data"),
    "data a number": (x(data=1.0), "data"),
    "data an object": (x(data={"0": 1}), "data"),
    "data a text": (x(data="ab"), "data"),
    "texts for numbers": (x(data=["1", "2"]), "FP32"),
    "null": (x(data=[None, 1]), "FP32"),
    "booleans for numbers": (x(data=[True, 1]), "FP32"),
    "ragged": (x(data=[[1.0], [2.0, 3.0]]), "differ"),
    "half nested": (x(data=[[1.0], 2.0]), "differ"),
    "over the range of FP32": (x(data=[1e300, 1]), "fit"),
    "over the range of a float": (x(data=[10**400, 1]), "fit"),
    "fractions for integers": (one("i", "INT8", [1.5]), "INT8"),
    "over INT8": (one("i", "INT8", [128]), "INT8"),
    "over INT64": (one("i", "INT8", [2**70]), "INT8"),
    "numbers for BOOL": (one("b", "BOOL", [1]), "BOOL"),
    "numbers for BYTES": (one("t", "BYTES", [1]), "BYTES"),
    "id a number": ({**x(), "id": 1}, "id"),
    "parameters a list": (x(parameters=[]), "parameters"),
    "shared memory": (x(parameters={"shared_memory_region": "r"}), "shared memory"),
    "outputs a text": ({**x(), "outputs": "y"}, "outputs"),
    "unknown output": ({**x(), "outputs": [{"name": "z"}]}, "'z'"),
    "an output twice": ({**x(), "outputs": [{"name": "y"}, {"name": "y"}]}, "twice"),
    "binary_data a number": (
        {**x(), "outputs": [{"name": "y", "parameters": {"binary_data": 1}}]},
        "binary_data",
    ),
    "negative classes": (
        {**x(), "outputs": [{"name": "y", "parameters": {"classification": -1}}]},
        "classification",
    ),
    "classes of texts": ({**x(), "outputs": [{"name": "s", "parameters": {"classification": 1}}]}, "BYTES"),
    "binary size without bytes": (x(data=None, parameters={"binary_data_size": 8}), "data"),
}


@pytest.mark.parametrize("what", MISFITS)
def test_misfits(what: str) -> None:
    body, word = MISFITS[what]
    assert word in refused(body)


def sized(
    size: object, name: str = "x", datatype: str = "FP32", shape: tuple[int, ...] = (1, 2)
) -> dict[str, Any]:
    entry = {
        "name": name,
        "datatype": datatype,
        "shape": list(shape),
        "parameters": {"binary_data_size": size},
    }
    return {"inputs": [entry] if name == "x" else [X, entry]}


@pytest.mark.parametrize(
    ("body", "blob", "word"),
    [
        (sized(8), b"1234567", "7 bytes"),
        (sized(4), b"1234", "2 values"),
        (sized(-8), b"12345678", "-8"),
        (sized(True), b"12345678", "True"),
        (sized("8"), b"12345678", "'x'"),
        (sized(8), b"123456789", "1 bytes follow"),
        (sized(1, "b", "BOOL", (1, 1)), b"\x02", "BOOL"),
        (sized(3, "t", "BYTES", (1, 1)), b"\x01\x00\x00", "text"),
        (sized(5, "t", "BYTES", (1, 1)), struct.pack("<I", 2**31) + b"a", "longer"),
        (sized(5, "t", "BYTES", (1, 1)), struct.pack("<I", 1) + b"\xff", "UTF-8"),
        (sized(10, "t", "BYTES", (1, 1)), (struct.pack("<I", 1) + b"a") * 2, "exactly 1"),
        (sized(4, "t", "BYTES", (2, 1)), struct.pack("<I", 0), "exactly 2"),
    ],
)
def test_bytes_that_do_not_fit(body: object, blob: bytes, word: str) -> None:
    assert word in refused(body, blob=blob)


@pytest.mark.parametrize("length", ["-1", "1e3", "", "99999", "9" * 30, "٣", "0x10"])
def test_header_lengths(length: str) -> None:
    assert "Inference-Header-Content-Length" in refused(x(), length)


def test_what_fits() -> None:
    asked = ask({**x(shape=[2, 2], data=[[1, 2], [3, 4]]), "id": "a"})
    assert asked.feeds["x"].dtype == np.float32 and asked.feeds["x"].tolist() == [[1, 2], [3, 4]]
    assert (asked.id, asked.rows, [wanted.name for wanted in asked.outputs]) == ("a", 2, ["y", "s"])
    blob = np.array([[5, 6]], "<f4").tobytes()
    assert ask(sized(8), blob=blob).feeds["x"].tolist() == [[5, 6]]
    assert ask(one("i", "INT8", [-128])).feeds["i"].tolist() == [[-128]]
    assert ask(one("t", "BYTES", ["ä" * 3])).feeds["t"].tolist() == [["äää"]]
