"""The range of the explained input: what the z-box rule and bounded deep Taylor need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from ..rewriter.emit import Emit
from ..rewriter.errors import OptionError
from ..rewriter.graph import Value
from ..rewriter.site import Refuse, Site, rank_of

Bound: TypeAlias = float | tuple[float, ...]
MOVES = frozenset(
    "Identity Dropout Cast Reshape Flatten Squeeze Unsqueeze Transpose Slice Split Gather Pad SpaceToDepth".split()
)


@dataclass(frozen=True)
class Box:
    """low <= x <= high, numbers or one a channel. measured: the bounds are those of the model's input, not of
    whatever the layer reads."""

    low: Bound | None = None
    high: Bound | None = None
    measured: bool = False

    def at(self, site: Site, x: Value, g: Emit) -> tuple[Value, Value]:
        """Both bounds, to broadcast against x. Refuses channels that do not fit x, and an input that was computed
        from the picture, whose range is another one."""
        if self.low is None or self.high is None:
            raise Refuse(MISSING)
        if self.measured and not _is_input(x):
            raise Refuse(
                "the range of what it reads is not that of the pixels; give low= and high= of that tensor"
            )
        return self._channels(site, x, g, self.low), self._channels(site, x, g, self.high)

    def _channels(self, site: Site, x: Value, g: Emit, bound: Bound) -> Value:
        if not isinstance(bound, tuple) or len(set(bound)) == 1:
            return g.number(bound[0] if isinstance(bound, tuple) else bound, x)
        rank = rank_of(x)
        axis = 1 if site.op in ("Conv", "ConvTranspose") else rank - 1
        if x.shape[axis] != len(bound):
            raise Refuse(
                f"low= and high= have {len(bound)} channels, and what it reads has {x.shape[axis]}; give numbers"
            )
        shape = [len(bound) if i == axis else 1 for i in range(rank)]
        return g.constant(np.reshape(bound, shape).astype(x.dtype or np.float32))


MISSING = "the z-box rule needs the range of its input: low= and high= (numbers, or one a channel), or preprocessing="


def _is_input(x: Value) -> bool:
    """Whether x is an input of the model, at most moved about."""
    while x.inputs:
        maker = x.inputs[0]
        if maker.op not in MOVES:
            return False
        x = maker.inputs[0]
    return True


def pixel_range(preprocessing: Mapping[str, Any] | None) -> tuple[Bound, Bound] | None:
    """What pixels from 0 to 255 become: (0 - mean) / std and (255 - mean) / std per channel, the lower one first.
    None without mean and std."""
    if not preprocessing or "mean" not in preprocessing or "std" not in preprocessing:
        return None
    mean, std = (np.ravel(np.asarray(preprocessing[key], np.float64)) for key in ("mean", "std"))
    ends = -mean / std, (255.0 - mean) / std
    low, high = np.minimum(*ends), np.maximum(*ends)
    return tuple(low.tolist()), tuple(high.tolist())


def box_of(options: Mapping[str, Any]) -> Box:
    """The box that the options low and high name, or the range of the pixels; empty where neither is known.

    Raises OptionError for one bound without the other, and for low > high.
    """
    low, high = options.get("low"), options.get("high")
    if low is None and high is None:
        known = pixel_range(options.get("preprocessing"))
        return Box() if known is None else Box(*known, measured=True)
    if low is None or high is None:
        raise OptionError("low= and high= belong together; give both")
    lows, highs = np.atleast_1d(low), np.atleast_1d(high)
    if 1 != lows.size != highs.size != 1:
        raise OptionError(f"low has {lows.size} channels and high has {highs.size}")
    if (lows > highs).any():
        raise OptionError(f"low={low} is above high={high}")
    return Box(low, high)


def needed(options: Mapping[str, Any]) -> Box:
    """As `box_of`; OptionError where no range is known."""
    box = box_of(options)
    if box.low is None:
        raise OptionError(MISSING)
    return box


def bound(name: str, value: Any) -> Bound | None:
    """The option low or high: None, a number, or a list with one number a channel."""
    if value is None:
        return None
    numbers: list[Any] = list(value) if isinstance(value, (list, tuple)) else [value]
    fits = all(isinstance(v, (int, float)) and not isinstance(v, bool) and np.isfinite(v) for v in numbers)
    if not fits or not numbers:
        raise OptionError(f"{name}={value!r} is neither a number nor a list of numbers, one a channel")
    return tuple(map(float, numbers)) if isinstance(value, (list, tuple)) else float(numbers[0])
