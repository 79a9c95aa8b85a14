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
from tests.fuzz.graphs import explained
from tests.fuzz.mutate import mutated
from tests.fuzz.seeds import operator_models, sound_models

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
    draw = np.random.default_rng([number, *kind.encode()])
    if kind == "emitted":
        seeds = _emitted()
    else:
        seeds = operator_models() if kind.endswith("operator") else list(sound_models().values())
    seed = seeds[int(draw.integers(0, len(seeds)))]
    return mutated(_explained(seed) if kind == "emitted-operator" else seed, draw)


def _explained(model: onnx.ModelProto) -> onnx.ModelProto:
    """Its saliency; the model itself where there is none."""
    try:
        return onnxplain.compile(model, target="top").model
    except ExplainError:
        return model


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


def damaged_operator(number: int) -> str:
    """Compile one of onnx's node tests, damaged, and open what came out."""
    method = METHODS[number % len(METHODS)]
    return _outcome(lambda: onnxplain.compile(bytes_of("operator", number), method).session)


def opened_source(number: int) -> str:
    """The same, and onnxruntime opens what came out."""
    method = METHODS[number % len(METHODS)]
    return _outcome(lambda: onnxplain.compile(bytes_of("source", number), method).session)


def damaged_emitted(number: int) -> str:
    """Open a damaged explanation, and make a session of it."""
    return _outcome(lambda: onnxplain.load(bytes_of("emitted", number)).session)


def damaged_emitted_operator(number: int) -> str:
    """The same of an explanation of one of onnx's node tests."""
    return _outcome(lambda: onnxplain.load(bytes_of("emitted-operator", number)).session)


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
    "operator": damaged_operator,
    "emitted": damaged_emitted,
    "emitted-operator": damaged_emitted_operator,
    "graph": explained,
}
