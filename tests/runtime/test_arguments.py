"""Arguments that are empty or of another kind: one OptionError that names them, at every entry."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

import onnxplain
from onnxplain import models
from onnxplain.runtime.arguments import vet_arguments

LENET = models.path("mnist_lenet")
X = np.zeros((1, 1, 28, 28), np.float32)
PHOTO = Image.new("L", (28, 28))
PHOTOS = np.zeros((3, 28, 28), np.uint8)

ENTRIES: dict[str, Callable[..., object]] = {
    "compile": lambda **given: onnxplain.compile(LENET, "saliency", **given),
    "explain": lambda **given: onnxplain.explain(LENET, PHOTO, "saliency", **given),
    "perturb": lambda **given: onnxplain.perturb(LENET, PHOTO, "occlusion", **given),
    "fit_patterns": lambda **given: onnxplain.fit_patterns(LENET, PHOTOS, **given),
    "Interpreter": lambda **given: onnxplain.Interpreter(LENET, X, **given),
    "load": lambda **given: onnxplain.load(b"", **given),
}
EMPTY: tuple[Any, ...] = ([], (), "", {}, b"")
WRONG: dict[str, tuple[Any, ...]] = {
    "output": (*EMPTY, 0, 3.5),
    "head": (*EMPTY, 0, 3.5),
    "inputs": (*EMPTY, 0, [""], [0], "image"),
    "reduce": ([], (), {}, b"", 0, False, 1),
    "shapes": ([], (), "", b"", 0, {"image": 3}, {"": [1]}),
    "labels": ("", b"", 0, 3.5, [1]),
    "preprocessing": ([], (), "", b"", 0, 3.5),
    "providers": (*EMPTY, 0, -1),
    "threads": (*EMPTY, 0, -1, 1.5, True),
    "cache": (*EMPTY, 0, 3.5),
    "batch": (*EMPTY, 0, -1, 2.5),
}
TAKEN = {
    "compile": tuple(name for name in WRONG if name != "batch"),
    "explain": (
        "preprocessing",
        "labels",
        "output",
        "head",
        "inputs",
        "shapes",
        "providers",
        "threads",
        "cache",
    ),
    "perturb": ("output", "preprocessing", "labels", "providers", "threads", "cache", "batch"),
    "fit_patterns": ("output", "head", "preprocessing", "providers", "threads"),
    "Interpreter": ("output", "head", "inputs", "providers", "threads", "cache"),
    "load": ("providers", "threads", "cache"),
}


@pytest.mark.parametrize(("entry", "name"), [(entry, name) for entry in TAKEN for name in TAKEN[entry]])
def test_what_means_nothing_is_refused_by_name(entry: str, name: str) -> None:
    for value in WRONG[name]:
        with pytest.raises(onnxplain.OptionError, match=rf"\b{name} is "):
            ENTRIES[entry](**{name: value})


def test_what_means_something_passes() -> None:
    vet_arguments(
        inputs=("a",), shapes={}, providers=[("cuda", {"x": 1})], threads=np.int64(2), labels=[], batch=1
    )


CALLS: dict[str, Callable[[], object]] = {
    "images": lambda: onnxplain.explain(LENET, None, "saliency"),  # type: ignore[arg-type]
    "picture": lambda: onnxplain.explain(LENET, [], "saliency"),
    "method": lambda: onnxplain.explain(LENET, PHOTO, []),
    "target": lambda: onnxplain.explain(LENET, PHOTO, "saliency", target=[]),  # type: ignore[arg-type]
    "one technique": lambda: onnxplain.perturb(LENET, PHOTO, []),  # type: ignore[arg-type]
    "no pictures": lambda: onnxplain.fit_patterns(LENET, []),
    "holds no pictures": lambda: onnxplain.fit_patterns(LENET, PHOTOS[:0]),
    "images is None": lambda: onnxplain.fit_patterns(LENET, None),  # type: ignore[arg-type]
    "unknown argument 'limit'": lambda: onnxplain.fit_patterns(LENET, PHOTOS, limit=0),  # type: ignore[call-arg]
    "inputs is empty": lambda: onnxplain.verify(onnxplain.compile(LENET, "saliency"), []),
    "estimators": lambda: onnxplain.fit_patterns(LENET, PHOTOS, estimators=()),
}


@pytest.mark.parametrize("words", CALLS)
def test_empty_calls(words: str) -> None:
    with pytest.raises(onnxplain.OptionError, match=words):
        CALLS[words]()


def test_batches_without_a_row() -> None:
    explainer = onnxplain.compile(LENET, "saliency")
    given: tuple[Any, ...] = (X[:0], [], {}, "text", np.float32(3), np.array([None]))
    for x in given:
        with pytest.raises(onnxplain.ExplainError):
            explainer(x)
    none: tuple[Any, ...] = ([], np.zeros((0, 1), np.int64))
    for target in none:
        with pytest.raises(onnxplain.ExplainError):
            explainer(X, target=target)
    with pytest.raises(onnxplain.ExplainError):
        onnxplain.Interpreter(LENET, X[:0])
