"""A perturbation technique is data: its settings, how many forward passes it takes, and how it is run."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ...rewriter.errors import OptionError, TargetError, nearest
from ...rules.checks import both, say_sides
from ..lanes import Progress
from ..telling import look_at_maps, warn
from .probing import Array, Prober

Sides: TypeAlias = int | tuple[int, int]
"""Of a square window, or (rows, columns)."""


@dataclass(frozen=True)
class Knob:
    """A setting, a whole number, that makes a run shorter. now: settings -> its value. lightest: settings -> the last
    one that still makes sense (a stride beyond the window leaves pixels that nothing covers). On the way from now to
    lightest the forwards fall, or stay. taken: (settings, value) -> what the setting becomes, where that is more than
    the value itself."""

    name: str
    now: Callable[[Any], int]
    lightest: Callable[[Any], int]
    taken: Callable[[Any, int], Any] = lambda settings, value: value


def coarser(stride: Callable[[Any], Sides]) -> Knob:
    """The knob "stride" of settings with windows `k`: no finer than it is, no wider than the window, along each axis.
    stride: settings -> as it is."""

    def taken(s: Any, value: int) -> Sides:
        if isinstance(s.k, int) and isinstance(stride(s), int):
            return value
        rows, columns = (min(max(value, n), k) for n, k in zip(both(stride(s)), both(s.k), strict=True))
        return rows, columns

    return Knob("stride", lambda s: max(both(stride(s))), lambda s: max(both(s.k)), taken)


def vet_window(size: tuple[int, int], k: Sides) -> None:
    """OptionError for a window larger than the picture (height, width)."""
    if any(side > n for side, n in zip(both(k), size, strict=True)):
        most = str(min(size)) if isinstance(k, int) else f"{size[0]},{size[1]}"
        raise OptionError(
            f"k={say_sides(k)}: the window is larger than the image, {size[0]} x {size[1]}; give k up to {most}"
        )


@dataclass(frozen=True)
class Drawn:
    """maps (classes, height, width), and what the record says beside the settings, as JSON keeps it."""

    maps: Array
    notes: Mapping[str, Any]


@dataclass(frozen=True)
class Technique:
    """settings: a frozen dataclass whose fields all have defaults and `metadata={"help": ...}`; its `__post_init__`
    raises OptionError for values out of range. forwards: (prober, settings) -> how many copies will be evaluated,
    known before any is (raises OptionError where the settings do not fit the image). run: (prober, settings, classes,
    tell) -> maps (len(classes), height, width), positive where the pixel speaks for the class, or `Drawn`. display:
    readout of pictures (docs/methods/README.md). cost: forward passes, in words. lighter: what makes it fit a budget,
    the first preferred. per_class: forwards are those of one class, and every class takes them. trial: settings ->
    those whose forwards take as long as most of the work, for a trial; None: the same."""

    name: str
    title: str
    source: str
    settings: type[Any]
    forwards: Callable[[Prober, Any], int]
    run: Callable[[Prober, Any, Sequence[int], Progress | None], Array | Drawn]
    display: str = "sum,sym"
    cost: str = ""
    lighter: tuple[Knob, ...] = ()
    per_class: bool = False
    trial: Callable[[Any], Any] | None = None

    def count(self, prober: Prober, settings: Any, classes: int) -> int:
        """Copies that will be evaluated for so many classes."""
        return self.forwards(prober, settings) * (classes if self.per_class else 1)

    def settle(self, given: Mapping[str, Any]) -> Any:
        """The settings. OptionError for an unknown name."""
        known = self.names
        for name in given:
            if name not in known:
                raise OptionError(
                    f"{self.name} has no setting {name!r}{nearest(name, known)}; it has {', '.join(known)}"
                )
        return self.settings(**given)

    @property
    def names(self) -> list[str]:
        """Of the settings."""
        return [f.name for f in dataclasses.fields(self.settings)]


def setting(default: Any, help: str) -> Any:
    """A field of a settings dataclass."""
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class Found:
    """maps (classes, height, width), float32; classes: their indices; base: scores of the image itself (K,);
    forwards: copies that were evaluated; seconds: of the whole; record: what a JSON file beside a picture says."""

    maps: Array
    classes: tuple[int, ...]
    base: Array
    forwards: int
    seconds: float
    record: Mapping[str, Any]


def perform(
    prober: Prober,
    technique: Technique,
    classes: Sequence[int] | None = None,
    tell: Progress | None = None,
    **settings: Any,
) -> Found:
    """Run a technique. classes: None is the top class; -1 among them is it too. An ExplainWarning tells of maps that
    are zero everywhere or not finite; the record keeps it. Raises OptionError, TargetError."""
    chosen = technique.settle(settings)
    indices = tuple(class_of(c, prober) for c in (classes if classes is not None else [-1]))
    expected = technique.count(prober, chosen, len(indices))
    before, started = prober.forwards, time.perf_counter()
    made = technique.run(prober, chosen, indices, tell)
    drawn = made if isinstance(made, Drawn) else Drawn(made, {})
    record = {
        "method": technique.name,
        "source": technique.source,
        "score": prober.of.score,
        "classes": list(indices),
        "settings": {key: _plain(value) for key, value in vars(chosen).items()},
        "forwards": prober.forwards - before,
        "expected_forwards": expected,
        **({"found": dict(drawn.notes)} if drawn.notes else {}),
    }
    seconds, maps = time.perf_counter() - started, np.asarray(drawn.maps, np.float32)
    findings = look_at_maps(maps)
    if findings:
        record["warnings"] = [str(finding) for finding in findings]
        warn(technique.name, findings)
    return Found(maps, indices, prober.base, prober.forwards - before, seconds, record)


def class_of(index: int, prober: Prober) -> int:
    """-1 is the top class. TargetError for one that is not there."""
    count = len(prober.base)
    if not -1 <= index < count:
        raise TargetError(f"class {index} is out of range: there are {count} scores")
    return prober.top if index == -1 else int(index)


def _plain(value: Any) -> Any:
    """A setting as JSON keeps it."""
    if isinstance(value, np.ndarray):
        array: npt.NDArray[Any] = value
        return {"shape": list(array.shape), "dtype": array.dtype.name}
    if isinstance(value, tuple) and all(isinstance(part, (int, float)) for part in value):
        return list(value)
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


__all__ = [
    "Drawn",
    "Found",
    "Knob",
    "Sides",
    "Technique",
    "class_of",
    "coarser",
    "perform",
    "setting",
    "vet_window",
]
