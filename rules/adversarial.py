"""Fast gradient sign: one step from a picture towards another class.

Goodfellow et al. 2015, as Nie et al. 2018 section 4 and LinearScope use it; docs/methods/perturbed.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ..rewriter.errors import OptionError, TargetError
from ..rewriter.graph import Value
from ..rewriter.method import Option
from ..rewriter.results import Result
from ..rewriter.scene import Stage
from ..rewriter.tape import pull
from ..rewriter.target import Target, interleaved, leading, start, vet_leading
from .checks import number
from .probability import Ending, ending, of_cross_entropy

GRADIENT, ADVERSARIAL, EPS = "gradient", "adversarial", "eps"
GREYS = 255.0

Numbers: TypeAlias = npt.NDArray[np.float64]


def _size(name: str, value: Any) -> float | str:
    return "input" if isinstance(value, str) and value == "input" else number(0.0)(name, value)


def _bound(name: str, value: Any) -> float | None:
    return None if value is None else number()(name, value)


OPTIONS = MappingProxyType(
    {
        "eps": Option(
            1 / 255,
            None,
            "size of the step: of the pixels' range where the preprocessing is known (1/255 is one grey level), else "
            "in units of the input; `input`: fed, (N, 1)",
            _size,
        ),
        "lo": Option(
            None,
            None,
            "least value of the result, in the units of eps; 0 where the preprocessing is known, else none",
            _bound,
        ),
        "hi": Option(
            None,
            None,
            "largest value of the result, likewise; 1 where the preprocessing is known, else none",
            _bound,
        ),
    }
)


@dataclass(frozen=True)
class Pixels:
    """What eps, lo and hi are in the units of a model input: a number or one a channel, ready to broadcast. unit: what
    a step of 1 is. low, high: None where nothing is clipped."""

    unit: Numbers
    low: Numbers | None
    high: Numbers | None


def pixels(stage: Stage, x: Value) -> Pixels:
    """With value = (pixel - mean) / std and pixels in 0..255: unit 255 / std, low (255 lo - mean) / std, from 0 to 1 by
    default. Raises OptionError for bounds the wrong way round, or a preprocessing of other channels than x's."""
    lo, hi, about = stage.options["lo"], stage.options["hi"], stage.preprocessing
    if "mean" in about and "std" in about and len(x.shape) == 4:
        lo, hi = 0.0 if lo is None else lo, 1.0 if hi is None else hi
        mean, std = (_by_channel(stage, x, about[key]) for key in ("mean", "std"))
        _vet(lo, hi)
        ends = [(GREYS * end - mean) / std for end in (lo, hi)]
        return Pixels(GREYS / np.abs(std), np.minimum(*ends), np.maximum(*ends))
    _vet(lo, hi)
    return Pixels(np.asarray(1.0), *(None if end is None else np.asarray(end) for end in (lo, hi)))


def _vet(lo: float | None, hi: float | None) -> None:
    if lo is not None and hi is not None and lo >= hi:
        raise OptionError(f"fgsm: lo={lo:g} is not below hi={hi:g}")


def _by_channel(stage: Stage, x: Value, values: Sequence[float]) -> Numbers:
    axis, array = stage.channel_axis(x), np.asarray(values, np.float64)
    if isinstance(x.shape[axis], int) and array.size not in (1, x.shape[axis]):
        raise OptionError(
            f"fgsm: the preprocessing has {array.size} channels, the input {x.name!r} {x.shape[axis]}"
        )
    return array.reshape([-1 if i == axis else 1 for i in range(4)])


def fgsm(stage: Stage, target: Target) -> list[Result]:
    """`gradient` g = ∂CE(z, c)/∂x and `adversarial` clip(x + ε sign(g), lo, hi), both of the input's shape (N, ...); of
    several inputs each has its own. c: the label, -1 what the model predicts. sign(0) = 0. Several labels are rows.

    The cross-entropy is that of a softmax; of a model that ends in sigmoids the sum of those of all its outputs.
    Raises TargetError for a cotangent, OptionError where no class can be told.
    """
    if target == "cotangent":
        raise TargetError("fgsm takes a label, not a cotangent; compile it with target='input'")
    g, head = stage.g, stage.head
    vet_leading(stage.graph, head, "fgsm")
    with g.at("target"):
        begin = start(stage.graph, head, target, g, stage.wrt[0].shape[0])
    end = ending(stage.graph, head)
    _vet_classes(end, head)
    stage.inputs += begin.inputs
    g.lead = stage.wrt[0].shape[0]
    rows = [_step(stage, hot, end) for hot in begin.seeds]
    lead = leading(target, stage.wrt[0].shape[0])
    found: list[Result] = []
    for kind in (GRADIENT, ADVERSARIAL):
        for x in stage.wrt:
            name = kind if len(stage.wrt) == 1 else f"{kind}/{x.name}"
            tail = list(x.shape[1:])
            found.append((name, interleaved(g, [row[kind, x.name] for row in rows], tail), [lead, *tail]))
    return found


def _vet_classes(end: Ending, head: Value) -> None:
    if list(head.shape[1:]) == [1]:
        raise OptionError(
            f"fgsm: {head.name!r} is a single score, and a label one of two classes or more; explain a model that has "
            "an output for each class"
        )


def _step(stage: Stage, hot: Value, end: Ending) -> Mapping[tuple[str, str], Value]:
    """(what, input) -> gradient and adversarial picture of one label."""
    g = stage.g
    with g.at("cross-entropy"):
        seed, factor = of_cross_entropy(g, end, stage.head, hot)
    cotangents = pull(stage.tape(stage.rules, stage.wrt), {stage.head.name: seed}, g)
    found: dict[tuple[str, str], Value] = {}
    for x in stage.wrt:
        ct = cotangents.get(x.name)
        if ct is None:
            raise TargetError(
                f"{stage.head.name!r} does not depend on input {x.name!r}: there is no gradient"
            )
        with g.at("step"):
            size = factor if not factor.inputs else _as_rows(stage, factor, x)
            found[GRADIENT, x.name] = g.Mul(ct, size)
            found[ADVERSARIAL, x.name] = _moved(stage, x, g.Sign(ct))
    return found


def _as_rows(stage: Stage, values: Value, x: Value) -> Value:
    """(N, 1) -> (N, 1, ..., 1) of the rank of x, in its type."""
    made = stage.g.Reshape(values, stage.g.ints(-1, *[1] * (len(x.shape) - 1)))
    return made if values.dtype == x.dtype else stage.g.cast(made, x)


def _moved(stage: Stage, x: Value, sign: Value) -> Value:
    g, of, eps = stage.g, pixels(stage, x), stage.options["eps"]
    if eps == "input":
        fed = stage.add_input(EPS, x, [x.shape[0], 1])
        step = g.Mul(_as_rows(stage, fed, x), _constant(stage, of.unit, x))
    else:
        step = _constant(stage, eps * of.unit, x)
    value = g.Add(x, g.Mul(step, sign))
    if of.low is not None:
        value = g.Max(value, _constant(stage, of.low, x))
    return value if of.high is None else g.Min(value, _constant(stage, of.high, x))


def _constant(stage: Stage, array: Numbers, x: Value) -> Value:
    return stage.g.constant(np.ascontiguousarray(array, x.dtype))


__all__ = ["ADVERSARIAL", "EPS", "GRADIENT", "OPTIONS", "Pixels", "fgsm", "pixels"]
