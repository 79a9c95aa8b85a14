"""What an operator does to a change of some pixels: keeps it where it is, spreads it over a window, or over all."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..cost import POINTWISE
from ..graph import Graph, Node, Value
from .span import Window


@dataclass(frozen=True)
class Axes:
    """Where the rows, the columns and the channels of a picture-like value are; the batch is first."""

    rows: int
    columns: int
    channels: int

    @property
    def perm(self) -> list[int]:
        """To (batch, rows, columns, channels)."""
        return [0, self.rows, self.columns, self.channels]

    @property
    def back(self) -> list[int]:
        """From there."""
        return [int(i) for i in np.argsort(self.perm)]


FIRST = Axes(2, 3, 1)


@dataclass(frozen=True)
class Kind:
    """windows: along rows and columns. outside: what the node reads outside of the image. attrs: what takes the place
    of attributes, for a node that reads a canvas. op: of the node that takes the place, "" to pass the canvas on."""

    windows: tuple[Window, Window] = (Window(), Window())
    outside: float = 0.0
    attrs: Mapping[str, Any] | None = None
    op: str | None = None
    axes: Axes | None = None
    pooled: bool = False
    """A mean over all cells."""


def kind(node: Node, graph: Graph, local: Mapping[str, Axes]) -> Kind | None:
    """None: the node mixes everything, or is not known to do less. local: the values that change in some cells only,
    by name; one at least is read by the node."""
    if node.domain or node.name in graph.hidden or any(not _sized(y) for y in node.outputs if y.name):
        return None
    reads = [x for x in node.inputs if x.name in local]
    if any(not _sized(x) for x in reads):
        return None
    axes = local[reads[0].name]
    if any(local[x.name] != axes for x in reads):
        return None
    if node.op in _WINDOWS:
        return _WINDOWS[node.op](node, graph) if axes == FIRST and _only_first(node, reads) else None
    if node.op == "Transpose":
        return _transpose(node, axes)
    if node.op in ("GlobalAveragePool", "ReduceMean"):
        return _mean(node, graph, axes)
    if node.op == "Concat":
        whole = len(reads) == len(node.inputs) and _axis(node, 4) == axes.channels
        return Kind() if whole else None
    if node.op == "LRN":
        return Kind() if axes == FIRST else None
    if node.op in ("Softmax", "LogSoftmax"):
        return Kind() if _axis(node, 4, -1) == axes.channels else None
    if node.op == "Split":
        return Kind() if _axis(node, 4, 0) == axes.channels else None
    if node.op in POINTWISE | {"Identity", "Dropout"} and len([y for y in node.outputs if y.name]) == 1:
        return Kind() if _pointwise(node, reads, axes) else None
    return None


def _sized(value: Value) -> bool:
    return (
        value.shape is not None and len(value.shape) == 4 and all(isinstance(n, int) for n in value.shape[1:])
    )


def _axis(node: Node, rank: int, default: int = 1) -> int:
    return int(node.attrs.get("axis", default)) % rank


def _only_first(node: Node, reads: Sequence[Value]) -> bool:
    return len(reads) == 1 and node.inputs[0] is reads[0]


def _pointwise(node: Node, reads: Collection[Value], axes: Axes) -> bool:
    """Other operands must be the same for every cell."""
    names = {x.name for x in reads}
    y = node.outputs[0]
    if any(_cells(x, axes) != _cells(y, axes) for x in reads):
        return False
    if node.op == "BatchNormalization":
        return _only_first(node, list(reads)) and axes == FIRST
    for x in node.inputs:
        if not x.name or x.name in names:
            continue
        if x.shape is None or any(not isinstance(n, int) for n in x.shape):
            return False
        padded = [1] * (4 - len(x.shape)) + list(x.shape)
        if len(x.shape) > 4 or padded[0] != 1 or padded[axes.rows] != 1 or padded[axes.columns] != 1:
            return False
    return True


def _cells(value: Value, axes: Axes) -> tuple[int, int]:
    return value.shape[axes.rows], value.shape[axes.columns]


def _window(node: Node, pads: Sequence[int], kernel: Sequence[int]) -> tuple[Window, Window]:
    strides, dilations = node.attrs.get("strides", [1, 1]), node.attrs.get("dilations", [1, 1])
    rows, columns = (
        Window((int(kernel[i]) - 1) * int(dilations[i]), int(strides[i]), int(pads[i])) for i in (0, 1)
    )
    return rows, columns


def _sliding(node: Node, outside: float) -> Kind | None:
    if node.attrs.get("auto_pad", "NOTSET") not in ("NOTSET", b"NOTSET", "VALID") or not node.attrs.get(
        "kernel_shape"
    ):
        return None
    pads = node.attrs.get("pads", [0, 0, 0, 0])
    kept: dict[str, Any] = {"pads": [0, 0, 0, 0], "auto_pad": "NOTSET"}
    if "ceil_mode" in node.attrs:
        kept["ceil_mode"] = 0
    return Kind(_window(node, pads, node.attrs["kernel_shape"]), outside, kept)


def _conv(node: Node, graph: Graph) -> Kind | None:
    return _sliding(node, 0.0)


def _max_pool(node: Node, graph: Graph) -> Kind | None:
    if len([y for y in node.outputs if y.name]) > 1:
        return None
    return _sliding(node, -math.inf)


def _average_pool(node: Node, graph: Graph) -> Kind | None:
    """A window that counts only the cells inside the image has another divisor at the border."""
    padded = any(node.attrs.get("pads", [0])) and not node.attrs.get("count_include_pad", 0)
    return None if padded or node.attrs.get("ceil_mode", 0) else _sliding(node, 0.0)


def _lp_pool(node: Node, graph: Graph) -> Kind | None:
    return None if node.attrs.get("ceil_mode", 0) else _sliding(node, 0.0)


def _pad(node: Node, graph: Graph) -> Kind | None:
    """Constant padding of rows and columns: the cells of the canvas themselves."""
    mode = node.attrs.get("mode", "constant")
    pads = graph.constant(node.inputs[1]) if len(node.inputs) > 1 else None
    if mode not in ("constant", b"constant") or pads is None or len(pads) != 8:
        return None
    value: np.ndarray | None = np.zeros(1)
    if len(node.inputs) > 2 and node.inputs[2].name:
        value = graph.constant(node.inputs[2])
    if (
        value is None
        or (len(node.inputs) > 3 and node.inputs[3].name)
        or pads.min() < 0
        or any(pads[[0, 1, 4, 5]])
    ):
        return None
    windows = Window(0, 1, int(pads[2])), Window(0, 1, int(pads[3]))
    return Kind(windows, float(value.ravel()[0]), {}, op="")


_WINDOWS = {
    "Conv": _conv,
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "LpPool": _lp_pool,
    "Pad": _pad,
}


def _transpose(node: Node, axes: Axes) -> Kind | None:
    perm = [int(i) for i in node.attrs.get("perm", [3, 2, 1, 0])]
    if len(perm) != 4 or perm[0] != 0:
        return None
    return Kind(axes=Axes(perm.index(axes.rows), perm.index(axes.columns), perm.index(axes.channels)))


def _mean(node: Node, graph: Graph, axes: Axes) -> Kind | None:
    """A mean over all rows and columns, and nothing else."""
    if node.op == "GlobalAveragePool":
        return Kind(pooled=True) if axes == FIRST else None
    given = graph.constant(node.inputs[1]) if len(node.inputs) > 1 and node.inputs[1].name else None
    if given is None:
        return None
    found = {int(axis) % 4 for axis in given.ravel()}
    return Kind(pooled=True) if found == {axes.rows, axes.columns} else None


__all__ = ["FIRST", "Axes", "Kind", "kind"]
