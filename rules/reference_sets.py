"""Attributions averaged over a set of references. Shrikumar et al. 2017 section 3; docs/methods/deeplift.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..rewriter.emit import Emit
from ..rewriter.errors import OptionError
from ..rewriter.graph import Value, variable
from ..rewriter.loop import Opened, Sampling
from ..rewriter.method import Option, Options
from ..rewriter.scene import Stage
from .baselines import check as check_baseline
from .baselines import reference

INPUT = "references"


def check(name: str, value: Any) -> Any:
    """None, "input", or an array of at least one reference."""
    if value is None or (isinstance(value, str) and value == "input"):
        return value
    if isinstance(value, (str, int, float)):
        raise OptionError(f"{name}={value!r} is no set of references: give an array (K, ...), or input")
    array = np.asarray(check_baseline(name, value))
    if array.ndim < 2 or not array.size:
        raise OptionError(f"{name}: an array of shape {array.shape} is not (K, ...), K references")
    return array


REFERENCES = Option(
    None,
    None,
    "several references, whose attributions are averaged: an array (K, ...), or input; in place of baseline",
    check,
)
LANES = 2


def reference_or_set(stage: Stage, x: Value) -> Value:
    """The option `baseline`; with `references`, the one of the lane, which the loop puts in."""
    if stage.options["references"] is None:
        return reference(stage, x)
    return variable(_lane(x), dtype=x.dtype, shape=x.shape)


def _lane(x: Value) -> str:
    return f"lane/reference/{x.name}"


def over_references(options: Options) -> Sampling | None:
    """One sample a reference; the input stays what it is."""
    if options["references"] is None:
        return None

    def open_(stage: Stage, x: Value) -> Opened:
        return (_set(stage, x),)

    def point(g: Emit, x: Value, opened: Opened, k: Value) -> Value:
        lanes = g.Concat(g.Shape(k), g.ints(*[1] * len(x.shape)), axis=0)
        return g.Expand(g.Unsqueeze(x, g.ints(0)), lanes)

    def also(g: Emit, x: Value, opened: Opened, k: Value, first: Value) -> Mapping[str, Value]:
        # Trip 0 wants some reference too, though its map does not count.
        index = g.Concat(g.Slice(g.ints(0), g.ints(0), first, g.ints(0)), k, axis=0)
        chosen = g.Unsqueeze(g.Gather(opened[0], index), g.ints(1))
        rows = g.Concat(g.ints(1), g.rows(x), g.ints(*[1] * (len(x.shape) - 1)), axis=0)
        return {_lane(x): g.shaped(g.Expand(chosen, rows), x)}

    return Sampling(
        lambda stage: stage.g.rows(_set(stage, stage.wrt[0])), open_, point, lambda g, x, opened, means: means[0],
        lanes=LANES, also=also,
    )  # fmt: skip


def _set(stage: Stage, x: Value) -> Value:
    """(K, ...): a constant, or an input of the file."""
    stage.vet_batch("a set of references")
    given = stage.options["references"]
    if isinstance(given, str):
        return stage.add_input(INPUT if len(stage.wrt) == 1 else f"{INPUT}/{x.name}", x, ["M", *x.shape[1:]])
    fits = given.ndim == len(x.shape) and all(
        not isinstance(dim, int) or dim == size
        for dim, size in zip(x.shape[1:], given.shape[1:], strict=True)
    )
    if not fits:
        raise OptionError(
            f"references: an array of shape {given.shape} is no set of inputs {['K', *x.shape[1:]]}"
        )
    return stage.g.constant(np.ascontiguousarray(given, x.dtype))
