"""A technique whose maps and counts are known in closed form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnxplain.rewriter.errors import OptionError
from onnxplain.runtime.lanes import Progress
from onnxplain.runtime.perturb.probing import Array, Prober
from onnxplain.runtime.perturb.technique import Knob, Technique, setting


@dataclass(frozen=True)
class Settings:
    """Every pixel apart, `samples` times with the same value; every `stride`-th column of them."""

    value: float = setting(0.0, "what a pixel becomes")
    samples: int = setting(4, "copies of every pixel")
    stride: int = setting(1, "columns from one pixel to the next")
    table: npt.NDArray[np.float32] | None = setting(None, "not read")  # noqa: RUF009
    pair: tuple[int, int] | None = setting(None, "not read")
    flag: bool = setting(False, "not read")

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise OptionError(f"samples is {self.samples}")


def _places(prober: Prober, s: Settings) -> npt.NDArray[np.int64]:
    rows, columns = prober.size
    found = [(r, c) for r in range(rows) for c in range(0, columns, s.stride) for _ in range(s.samples)]
    return np.array(found, np.int64)


def run(prober: Prober, s: Settings, classes: Sequence[int], tell: Progress | None) -> Array:
    places = _places(prober, s)

    def fills(index: npt.NDArray[np.int64]) -> Array:
        return np.full((len(index), prober.channels, 1, 1), s.value, np.float32)

    scores = prober.windows(places, (1, 1), fills, classes, tell)
    maps = np.zeros((len(classes), *prober.size), np.float32)
    for (r, c), drop in zip(places, prober.base[list(classes)] - scores, strict=True):
        maps[:, r, c] += drop / s.samples
    return maps


SLABS = Technique(
    name="slabs",
    title="Pixels, one by one",
    source="these tests",
    settings=Settings,
    forwards=lambda prober, s: len(_places(prober, s)),
    run=run,
    cost="samples a pixel",
    lighter=(
        Knob("samples", lambda s: int(s.samples), lambda s: 1),
        Knob("stride", lambda s: int(s.stride), lambda s: max(2, int(s.stride))),
    ),
)
