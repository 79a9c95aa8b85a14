"""The JSON record and the label file that lie beside a model file."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

TASKS = ("classification", "detection", "segmentation", "super-resolution", "style-transfer")
_CHOICES: dict[str, tuple[str, ...]] = {
    "layout": ("NCHW", "NHWC"),
    "color": ("RGB", "BGR", "GRAY"),
    "resize": ("shorter", "stretch", "letterbox", "none"),
    "resample": ("bilinear", "bicubic", "nearest", "lanczos"),
}


def record(model_path: str | Path) -> dict[str, object] | None:
    """The record `<stem>.json` beside a model file, or None where there is no such file.

    Keys: name, task, licence, source, preprocessing, labels (file name or null), and where the output is a
    picture or a mask, output = {"low", "high"}. In preprocessing, mean and std are per channel in pixel units
    0..255: value = (pixel - mean) / std.

    Raises ValueError, naming the file and the key, when the record is malformed.
    """
    file = Path(model_path).with_suffix(".json")
    if not file.is_file():
        return None
    try:
        loaded: object = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file}: not a JSON text in UTF-8 ({error}); correct or remove the file") from error
    entries = _table(loaded, "the record", file)
    for key in ("name", "licence", "source"):
        _check(isinstance(entries.get(key), str), file, key, "a text")
    _check(entries.get("task") in TASKS, file, "task", f"one of {', '.join(TASKS)}")
    names = entries.get("labels")
    plain = names is None or (isinstance(names, str) and names != "" and Path(names).name == names)
    _check(plain, file, "labels", "null or the name of a file in the same folder")
    _check_preprocessing(_table(entries.get("preprocessing"), "preprocessing", file), file)
    if "output" in entries:
        bounds = _table(entries["output"], "output", file)
        low, high = bounds.get("low"), bounds.get("high")
        _check(
            _number(low) and _number(high) and low != high,
            file,
            "output",
            "two different numbers low and high",
        )
    return entries


def labels(model_path: str | Path) -> list[str] | None:
    """Class names in index order from the file that the model's record names, or None where it names none.

    Raises ValueError when the record is malformed and FileNotFoundError when the file it names is missing.
    """
    entries = record(model_path)
    if entries is None or entries.get("labels") is None:
        return None
    file = Path(model_path).with_name(str(entries["labels"]))
    if not file.is_file():
        raise FileNotFoundError(
            f"{file}: named as labels in {Path(model_path).stem}.json, but there is no such file"
        )
    return [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]


def _check_preprocessing(entries: dict[str, object], file: Path) -> None:
    for key, choices in _CHOICES.items():
        _check(entries.get(key) in choices, file, f"preprocessing.{key}", f"one of {', '.join(choices)}")
    size, resize = entries.get("size"), entries["resize"]
    if resize == "none":
        _check(
            size is None or _list(size, 2, _positive), file, "preprocessing.size", "null or [height, width]"
        )
    else:
        _check(
            _list(size, 2, _positive), file, "preprocessing.size", f"[height, width] with resize {resize!r}"
        )
    if resize == "shorter":
        _check(_positive(entries.get("shorter")), file, "preprocessing.shorter", "a positive integer")
    _check(_positive(entries.get("multiple", 1)), file, "preprocessing.multiple", "a positive integer")
    channels = 1 if entries["color"] == "GRAY" else 3
    what = f"a list of {channels} finite number{'s' if channels > 1 else ''}"
    _check(_list(entries.get("mean"), channels, _number), file, "preprocessing.mean", what)
    std = entries.get("std")
    _check(
        _list(std, channels, lambda v: _number(v) and v != 0),
        file,
        "preprocessing.std",
        f"{what}, none of them 0",
    )


def _table(value: object, what: str, file: Path) -> dict[str, object]:
    if not isinstance(value, dict):
        raise ValueError(f"{file}: {what} must be a JSON object")
    return {str(key): entry for key, entry in value.items()}


def _check(fits: bool, file: Path, key: str, what: str) -> None:
    if not fits:
        raise ValueError(f"{file}: {key} must be {what}")


def _list(value: object, length: int, fits: Callable[[object], bool]) -> bool:
    return isinstance(value, list) and len(value) == length and all(fits(entry) for entry in value)


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _positive(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
