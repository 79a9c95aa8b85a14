"""What is done with a case of a number: the same number is the same case everywhere."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import onnx

import onnxplain
from onnxplain import ExplainError
from tests.fuzz.mutate import mutated
from tests.fuzz.seeds import sound_models

METHODS = (
    "saliency",
    "deeplift.rescale",
    "lrp.epsilon-plus",
    "integrated-gradients",
    "grad-cam",
    "guided-backprop",
    "linearscope.rows",
    "lrp.alpha-beta",
)


def bytes_of(kind: str, number: int) -> bytes:
    """The damaged file of a case."""
    draw = np.random.default_rng([number, len(kind)])
    seeds = _emitted() if kind == "emitted" else list(sound_models().values())
    return mutated(seeds[int(draw.integers(0, len(seeds)))], draw)


@cache
def _emitted() -> list[onnx.ModelProto]:
    """Explanations of the small nets, one method each."""
    made = []
    for i, model in enumerate(sound_models().values()):
        for method in (METHODS[i % len(METHODS)], "saliency"):
            try:
                made.append(onnxplain.compile(model.SerializeToString(), method).model)
                break
            except ExplainError:
                continue
    return made


def damaged_source(number: int) -> str:
    """Compile a damaged model with one of the methods."""
    method = METHODS[number % len(METHODS)]
    return _outcome(lambda: onnxplain.compile(bytes_of("source", number), method))


def opened_source(number: int) -> str:
    """The same, and onnxruntime opens what came out."""
    method = METHODS[number % len(METHODS)]
    return _outcome(lambda: onnxplain.compile(bytes_of("source", number), method).session)


def damaged_emitted(number: int) -> str:
    """Open a damaged explanation, and make a session of it."""
    return _outcome(lambda: onnxplain.load(bytes_of("emitted", number)).session)


def _outcome(act: Callable[[], Any]) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            act()
        except ExplainError as error:
            return f"refused {type(error).__name__}"
    return "taken"


KINDS: dict[str, Callable[[int], str]] = {
    "source": damaged_source,
    "session": opened_source,
    "emitted": damaged_emitted,
}
